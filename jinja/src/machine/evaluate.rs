//! Expressions.

use super::Machine;
use crate::arguments::Arguments;
use crate::ast::{Args, Comparison, Expr, ExprKind};
use crate::compare;
use crate::error::{Error, Result};
use crate::operators;
use crate::text::TextBuilder;
use crate::value::{DictBuilder, List, Value};
use crate::write::write_str;
use crate::{filters, tests};

/// Whether Jinja2 takes a slice of a number, truth or none while it compiles, which gives nothing instead of an error.
fn is_folded(value: &Expr, bounds: &[Option<Expr>; 3]) -> bool {
    let is_const = |expr: &Expr| matches!(expr.kind, ExprKind::Const(_));
    let has_items = matches!(&value.kind, ExprKind::Const(Value::Text(_)));
    is_const(value) && !has_items && bounds.iter().flatten().all(is_const)
}

impl Machine<'_> {
    pub(super) fn evaluate(&mut self, expr: &Expr) -> Result<Value> {
        self.budget.steps(1)?;
        self.budget.deeper()?;
        let value = self.kind(expr, None).map_err(|error| error.at(expr.line))?;
        self.budget.shallower();
        Ok(value)
    }

    /// Filters on what a block made.
    pub(super) fn evaluate_on(&mut self, filters: &Expr, value: Value) -> Result<Value> {
        self.budget.deeper()?;
        let value = self.kind(filters, Some(value)).map_err(|error| error.at(filters.line))?;
        self.budget.shallower();
        Ok(value)
    }

    fn all(&mut self, exprs: &[Expr]) -> Result<List> {
        let values = exprs.iter().map(|expr| self.evaluate(expr)).collect::<Result<Vec<_>>>()?;
        List::new(self.budget, values)
    }

    fn kind(&mut self, expr: &Expr, block: Option<Value>) -> Result<Value> {
        match &expr.kind {
            ExprKind::Const(value) => Ok(value.clone()),
            ExprKind::Name(symbol) => self.lookup(*symbol),
            ExprKind::Tuple(items) => Ok(Value::Tuple(self.all(items)?)),
            ExprKind::List(items) => Ok(Value::List(self.all(items)?)),
            ExprKind::Dict(items) => self.dict(items),
            ExprKind::Attribute(value, name) => {
                let value = self.evaluate(value)?;
                self.attribute(&value, name)
            }
            ExprKind::Item(value, index) => {
                let value = self.evaluate(value)?;
                let index = self.evaluate(index)?;
                self.item(&value, &index)
            }
            ExprKind::Slice(value, bounds) if is_folded(value, bounds) => {
                Ok(Value::undefined("a constant cannot be sliced"))
            }
            ExprKind::Slice(value, bounds) => {
                let value = self.evaluate(value)?;
                let mut evaluated = [None, None, None];
                for (place, bound) in evaluated.iter_mut().zip(bounds.iter()) {
                    *place = bound.as_ref().map(|bound| self.evaluate(bound)).transpose()?;
                }
                self.slice(&value, evaluated)
            }
            ExprKind::Call(callee, args) => {
                let callee = self.evaluate(callee)?;
                let arguments = self.arguments(args)?;
                self.call(&callee, arguments)
            }
            ExprKind::Filter(value, name, args) => {
                let value = match (value, block) {
                    (None, Some(block)) => block,
                    (None, None) => Value::None,
                    // The first filter on a block is the innermost of the expression.
                    (Some(inner), Some(block)) => self.evaluate_on(inner, block)?,
                    (Some(value), None) => self.evaluate(value)?,
                };
                let arguments = self.arguments(args)?;
                filters::apply(self, name, value, arguments)
            }
            ExprKind::Test(value, name, args) => {
                let value = self.evaluate(value)?;
                let arguments = self.arguments(args)?;
                Ok(Value::Bool(tests::apply(self, name, &value, arguments)?))
            }
            ExprKind::Not(value) => Ok(Value::Bool(!self.evaluate(value)?.is_true())),
            ExprKind::Negative(value) => operators::negative(&self.evaluate(value)?),
            ExprKind::Positive(value) => operators::positive(&self.evaluate(value)?),
            ExprKind::Binary(operator, left, right) => {
                let left = self.evaluate(left)?;
                let right = self.evaluate(right)?;
                operators::binary(self, *operator, &left, &right)
            }
            ExprKind::Concat(items) => self.concat(items),
            ExprKind::Compare(first, others) => self.compare(first, others),
            ExprKind::And(items) => self.until(items, false),
            ExprKind::Or(items) => self.until(items, true),
            ExprKind::Condition(test, value, otherwise) => {
                if self.evaluate(test)?.is_true() {
                    return self.evaluate(value);
                }
                match otherwise {
                    Some(otherwise) => self.evaluate(otherwise),
                    None => Ok(Value::undefined(
                        "the inline if-expression evaluated to false and no else section was defined.",
                    )),
                }
            }
        }
    }

    fn dict(&mut self, items: &[(Expr, Expr)]) -> Result<Value> {
        let mut dict = DictBuilder::default();
        for (key, value) in items {
            let key = self.evaluate(key)?;
            let value = self.evaluate(value)?;
            dict.insert(self.budget, key, value)?;
        }
        Ok(Value::Dict(dict.finish()?))
    }

    fn concat(&mut self, items: &[Expr]) -> Result<Value> {
        let mut text = TextBuilder::new(self.budget);
        for item in items {
            let value = self.evaluate(item)?;
            write_str(self, &value, &mut text)?;
        }
        Ok(Value::Text(text.finish()))
    }

    fn compare(&mut self, first: &Expr, others: &[(Comparison, Expr)]) -> Result<Value> {
        let mut left = self.evaluate(first)?;
        for (comparison, right) in others {
            let right = self.evaluate(right)?;
            if !self.holds(*comparison, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn holds(&mut self, comparison: Comparison, left: &Value, right: &Value) -> Result<bool> {
        match comparison {
            Comparison::Eq => compare::equal(self.budget, left, right),
            Comparison::Ne => Ok(!compare::equal(self.budget, left, right)?),
            Comparison::In => self.contains(right, left),
            Comparison::NotIn => Ok(!self.contains(right, left)?),
            Comparison::Lt | Comparison::Le | Comparison::Gt | Comparison::Ge => {
                compare::ordered(self.budget, comparison, left, right)
            }
        }
    }

    /// The first value that has this truth, or the last.
    fn until(&mut self, items: &[Expr], truth: bool) -> Result<Value> {
        let mut value = Value::None;
        for item in items {
            value = self.evaluate(item)?;
            if value.is_true() == truth {
                break;
            }
        }
        Ok(value)
    }

    pub(super) fn arguments(&mut self, args: &Args) -> Result<Arguments> {
        let mut arguments = Arguments::default();
        for value in &args.positional {
            arguments.positional.push(self.evaluate(value)?);
        }
        if let Some(spread) = &args.spread {
            let value = self.evaluate(spread)?;
            let items = self.iterate(&value)?;
            self.budget.bytes(items.items().len() * crate::value::VALUE_BYTES)?;
            arguments.positional.extend_from_slice(items.items());
        }
        for (name, value) in &args.named {
            let value = self.evaluate(value)?;
            arguments.named.push((name.clone(), value));
        }
        if let Some(spread) = &args.spread_named {
            let Value::Dict(dict) = self.evaluate(spread)? else {
                return Err(Error::operation("argument after ** must be a mapping"));
            };
            self.budget.bytes(dict.entries().len() * 2 * crate::value::VALUE_BYTES)?;
            for (key, value) in dict.entries() {
                let Value::Text(name) = key else { return Err(Error::operation("keywords must be strings")) };
                self.budget.steps(1 + args.named.len())?;
                if args.named.iter().any(|(known, _)| known == name) {
                    return Err(Error::operation(format!(
                        "multiple values for keyword argument '{}'",
                        name.as_str()
                    )));
                }
                arguments.named.push((name.clone(), value.clone()));
            }
        }
        Ok(arguments)
    }
}
