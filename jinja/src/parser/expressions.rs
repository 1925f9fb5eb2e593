//! Expressions, loosest binding first.

use std::sync::Arc;

use super::{Parser, deepest};
use crate::ast::{Args, Comparison, Expr, ExprKind, Operator};
use crate::error::Result;
use crate::lexer::Token;
use crate::text::{Origin, Text};
use crate::value::Value;

/// Where a tuple without parentheses ends besides the end of a tag.
pub(super) type EndNames<'n> = &'n [&'n str];

impl Parser {
    /// An expression, or several with commas: a tuple.
    pub(super) fn tuple(&mut self, condition: bool, ends: EndNames<'_>) -> Result<Expr> {
        self.tuple_within(condition, ends, false)
    }

    fn tuple_within(&mut self, condition: bool, ends: EndNames<'_>, parentheses: bool) -> Result<Expr> {
        let line = self.line();
        let mut items = Vec::new();
        let mut is_tuple = false;
        while !self.is_tuple_end(ends) {
            items.push(if condition { self.expression()? } else { self.or()? });
            if !self.skip_operator(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            Some(only) if !is_tuple => Ok(only),
            None if !parentheses => self.unexpected("an expression"),
            last => {
                items.extend(last);
                let depth = deepest(&items);
                self.expr(ExprKind::Tuple(items), line, depth)
            }
        }
    }

    fn is_tuple_end(&self, ends: EndNames<'_>) -> bool {
        match self.peek() {
            None | Some(Token::VariableEnd | Token::BlockEnd | Token::Operator(")")) => true,
            Some(Token::Name(name)) => ends.contains(&name.as_str()),
            _ => false,
        }
    }

    /// Any expression but a tuple without parentheses.
    pub(super) fn expression(&mut self) -> Result<Expr> {
        self.nested(|parser| {
            let line = parser.line();
            let mut value = parser.or()?;
            while parser.skip_name("if") {
                let test = parser.or()?;
                let otherwise =
                    if parser.skip_name("else") { Some(Box::new(parser.expression()?)) } else { None };
                let depth = deepest([&value, &test].into_iter().chain(otherwise.as_deref()));
                let kind = ExprKind::Condition(Box::new(test), Box::new(value), otherwise);
                value = parser.expr(kind, line, depth)?;
            }
            Ok(value)
        })
    }

    /// Operands with the same word between.
    fn chain(
        &mut self,
        word: &str,
        operand: fn(&mut Self) -> Result<Expr>,
        kind: fn(Vec<Expr>) -> ExprKind,
    ) -> Result<Expr> {
        let line = self.line();
        let mut items = vec![operand(self)?];
        while self.skip_name(word) {
            items.push(operand(self)?);
        }
        match items.pop() {
            Some(only) if items.is_empty() => Ok(only),
            last => {
                items.extend(last);
                let depth = deepest(&items);
                self.expr(kind(items), line, depth)
            }
        }
    }

    pub(super) fn or(&mut self) -> Result<Expr> {
        self.chain("or", Self::and, ExprKind::Or)
    }

    fn and(&mut self) -> Result<Expr> {
        self.chain("and", Self::not, ExprKind::And)
    }

    fn not(&mut self) -> Result<Expr> {
        let line = self.line();
        if !self.skip_name("not") {
            return self.compare();
        }
        let operand = self.nested(Self::not)?;
        let depth = operand.depth;
        self.expr(ExprKind::Not(Box::new(operand)), line, depth)
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let (comparison, tokens) = match self.peek()? {
            Token::Operator("==") => (Comparison::Eq, 1),
            Token::Operator("!=") => (Comparison::Ne, 1),
            Token::Operator("<") => (Comparison::Lt, 1),
            Token::Operator("<=") => (Comparison::Le, 1),
            Token::Operator(">") => (Comparison::Gt, 1),
            Token::Operator(">=") => (Comparison::Ge, 1),
            Token::Name(name) if name == "in" => (Comparison::In, 1),
            Token::Name(name)
                if name == "not" && matches!(self.peek_second(), Some(Token::Name(name)) if name == "in") =>
            {
                (Comparison::NotIn, 2)
            }
            _ => return None,
        };
        self.at += tokens;
        Some(comparison)
    }

    fn compare(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.sum()?;
        let mut others = Vec::new();
        while let Some(comparison) = self.comparison() {
            others.push((comparison, self.sum()?));
        }
        if others.is_empty() {
            return Ok(first);
        }
        let depth = deepest([&first].into_iter().chain(others.iter().map(|(_, operand)| operand)));
        self.expr(ExprKind::Compare(Box::new(first), others), line, depth)
    }

    /// Operands with operators of the same rank between, from the left.
    fn binary(
        &mut self,
        operand: fn(&mut Self) -> Result<Expr>,
        operators: &[(&str, Operator)],
    ) -> Result<Expr> {
        let line = self.line();
        let mut left = operand(self)?;
        loop {
            let found = operators.iter().find(|(sign, _)| self.is_operator(sign));
            let Some(&(_, operator)) = found else { return Ok(left) };
            self.at += 1;
            let right = operand(self)?;
            let depth = deepest([&left, &right]);
            left = self.expr(ExprKind::Binary(operator, Box::new(left), Box::new(right)), line, depth)?;
        }
    }

    fn sum(&mut self) -> Result<Expr> {
        self.binary(Self::concat, &[("+", Operator::Add), ("-", Operator::Sub)])
    }

    fn concat(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.product()?;
        if !self.is_operator("~") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.skip_operator("~") {
            items.push(self.product()?);
        }
        let depth = deepest(&items);
        self.expr(ExprKind::Concat(items), line, depth)
    }

    fn product(&mut self) -> Result<Expr> {
        let operators =
            [("*", Operator::Mul), ("/", Operator::Div), ("//", Operator::FloorDiv), ("%", Operator::Rem)];
        self.binary(Self::power, &operators)
    }

    fn power(&mut self) -> Result<Expr> {
        self.binary(|parser| parser.unary(true), &[("**", Operator::Pow)])
    }

    fn unary(&mut self, filters: bool) -> Result<Expr> {
        let line = self.line();
        let signed = if self.skip_operator("-") {
            Some(ExprKind::Negative as fn(Box<Expr>) -> ExprKind)
        } else if self.skip_operator("+") {
            Some(ExprKind::Positive as fn(Box<Expr>) -> ExprKind)
        } else {
            None
        };
        let mut value = match signed {
            Some(kind) => {
                let operand = self.nested(|parser| parser.unary(false))?;
                let depth = operand.depth;
                self.expr(kind(Box::new(operand)), line, depth)?
            }
            None => self.primary()?,
        };
        value = self.postfix(value)?;
        if filters { self.filters_and_tests(value) } else { Ok(value) }
    }

    fn primary(&mut self) -> Result<Expr> {
        let line = self.line();
        let Some(token) = self.peek().cloned() else { return self.unexpected("an expression") };
        let kind = match token {
            Token::Name(name) => match name.as_str() {
                "true" | "True" => ExprKind::Const(Value::Bool(true)),
                "false" | "False" => ExprKind::Const(Value::Bool(false)),
                "none" | "None" => ExprKind::Const(Value::None),
                name => {
                    let symbol = self.symbol(name);
                    self.read.push(symbol);
                    ExprKind::Name(symbol)
                }
            },
            Token::String(mut text) => {
                while let Some(Token::String(more)) = self.peek_second() {
                    text.push_str(more);
                    self.at += 1;
                }
                ExprKind::Const(Value::Text(Text::new(text, Origin::Program)))
            }
            Token::Integer(number) => ExprKind::Const(Value::Int(number, Origin::Program)),
            Token::Float(number) => ExprKind::Const(Value::Float(number, Origin::Program)),
            Token::Operator("(") => {
                self.at += 1;
                let inside = self.nested(|parser| parser.tuple_within(true, &[], true))?;
                self.expect_operator(")")?;
                return Ok(inside);
            }
            Token::Operator("[") => return self.list(),
            Token::Operator("{") => return self.dict(),
            _ => return self.unexpected("an expression"),
        };
        self.at += 1;
        self.expr(kind, line, 0)
    }

    fn list(&mut self) -> Result<Expr> {
        let line = self.line();
        self.at += 1;
        let mut items = Vec::new();
        while !self.is_operator("]") {
            items.push(self.expression()?);
            if !self.skip_operator(",") {
                break;
            }
        }
        self.expect_operator("]")?;
        let depth = deepest(&items);
        self.expr(ExprKind::List(items), line, depth)
    }

    fn dict(&mut self) -> Result<Expr> {
        let line = self.line();
        self.at += 1;
        let mut items = Vec::new();
        while !self.is_operator("}") {
            let key = self.expression()?;
            self.expect_operator(":")?;
            items.push((key, self.expression()?));
            if !self.skip_operator(",") {
                break;
            }
        }
        self.expect_operator("}")?;
        let depth = deepest(items.iter().flat_map(|(key, value)| [key, value]));
        self.expr(ExprKind::Dict(items), line, depth)
    }

    fn postfix(&mut self, mut value: Expr) -> Result<Expr> {
        loop {
            value = match self.peek() {
                Some(Token::Operator(".")) => self.attribute(value)?,
                Some(Token::Operator("[")) => self.item(value)?,
                Some(Token::Operator("(")) => self.call(value)?,
                _ => return Ok(value),
            };
        }
    }

    fn attribute(&mut self, value: Expr) -> Result<Expr> {
        let line = self.line();
        self.at += 1;
        let depth = value.depth;
        match self.peek() {
            Some(&Token::Integer(number)) => {
                self.at += 1;
                let index =
                    Expr { kind: ExprKind::Const(Value::Int(number, Origin::Program)), line, depth: 1 };
                self.expr(ExprKind::Item(Box::new(value), Box::new(index)), line, depth)
            }
            _ => {
                let name = Text::new(self.expect_name()?, Origin::Program);
                self.expr(ExprKind::Attribute(Box::new(value), name), line, depth)
            }
        }
    }

    fn item(&mut self, value: Expr) -> Result<Expr> {
        let line = self.line();
        self.at += 1;
        // Nothing in brackets is an empty tuple.
        let first = match self.peek() {
            Some(Token::Operator(":")) => None,
            Some(Token::Operator("]")) => Some(self.expr(ExprKind::Tuple(Vec::new()), line, 0)?),
            _ => Some(self.expression()?),
        };
        if !self.is_operator(":") {
            let Some(mut index) = first else { return self.unexpected("an expression") };
            if self.is_operator(",") {
                let mut items = vec![index];
                while self.skip_operator(",") {
                    items.push(self.expression()?);
                }
                let depth = deepest(&items);
                index = self.expr(ExprKind::Tuple(items), line, depth)?;
            }
            self.expect_operator("]")?;
            let depth = deepest([&value, &index]);
            return self.expr(ExprKind::Item(Box::new(value), Box::new(index)), line, depth);
        }
        let mut bounds = [first, None, None];
        for bound in &mut bounds[1..] {
            if !self.skip_operator(":") {
                break;
            }
            if !self.is_operator(":") && !self.is_operator("]") {
                *bound = Some(self.expression()?);
            }
        }
        self.expect_operator("]")?;
        let depth = deepest([&value].into_iter().chain(bounds.iter().flatten()));
        self.expr(ExprKind::Slice(Box::new(value), Box::new(bounds)), line, depth)
    }

    fn call(&mut self, value: Expr) -> Result<Expr> {
        let line = self.line();
        let args = self.arguments()?;
        let depth = value.depth.max(args.depth());
        self.expr(ExprKind::Call(Box::new(value), args), line, depth)
    }

    fn arguments(&mut self) -> Result<Args> {
        self.expect_operator("(")?;
        let mut args = Args::default();
        while !self.is_operator(")") {
            let plain = args.spread.is_none() && args.spread_named.is_none();
            let is_named = matches!(self.peek(), Some(Token::Name(_)))
                && self.peek_second() == Some(&Token::Operator("="));
            let fits = if self.skip_operator("*") {
                args.spread = Some(Box::new(self.expression()?));
                plain
            } else if self.skip_operator("**") {
                let first = args.spread_named.is_none();
                args.spread_named = Some(Box::new(self.expression()?));
                first
            } else if is_named {
                let name = Text::new(self.expect_name()?, Origin::Program);
                self.at += 1;
                if args.named.iter().any(|(known, _)| *known == name) {
                    return self.fail(format!("the argument '{}' is given twice", name.as_str()));
                }
                args.named.push((name, self.expression()?));
                args.spread_named.is_none()
            } else {
                args.positional.push(self.expression()?);
                plain && args.named.is_empty()
            };
            if !fits {
                return self.fail("invalid syntax for function call expression");
            }
            if !self.skip_operator(",") {
                break;
            }
        }
        self.expect_operator(")")?;
        Ok(args)
    }

    fn dotted_name(&mut self) -> Result<Arc<str>> {
        let mut name = self.expect_name()?;
        while self.skip_operator(".") {
            name = format!("{name}.{}", self.expect_name()?);
        }
        Ok(name.into())
    }

    fn filters_and_tests(&mut self, mut value: Expr) -> Result<Expr> {
        loop {
            value = if self.is_operator("|") {
                self.at += 1;
                self.filter(Some(value))?
            } else if self.is_name("is") {
                self.test(value)?
            } else if self.is_operator("(") {
                self.call(value)?
            } else {
                return Ok(value);
            };
        }
    }

    /// A filter after its `|`.
    fn filter(&mut self, value: Option<Expr>) -> Result<Expr> {
        let line = self.line();
        let name = self.dotted_name()?;
        let args = if self.is_operator("(") { self.arguments()? } else { Args::default() };
        let depth = value.as_ref().map_or(0, |value| value.depth).max(args.depth());
        self.expr(ExprKind::Filter(value.map(Box::new), name, args), line, depth)
    }

    /// Filters on what a block makes; the first one's `|` was read.
    pub(super) fn block_filters(&mut self) -> Result<Expr> {
        let mut filters = self.filter(None)?;
        while self.skip_operator("|") {
            filters = self.filter(Some(filters))?;
        }
        Ok(filters)
    }

    fn test(&mut self, value: Expr) -> Result<Expr> {
        let line = self.line();
        self.at += 1;
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let mut args = Args::default();
        match self.peek() {
            Some(Token::Operator("(")) => args = self.arguments()?,
            Some(Token::Name(name)) if matches!(name.as_str(), "else" | "or" | "and") => {}
            Some(Token::Name(name)) if name == "is" => {
                return self.fail("You cannot chain multiple tests with is");
            }
            Some(
                Token::Name(_)
                | Token::String(_)
                | Token::Integer(_)
                | Token::Float(_)
                | Token::Operator("[" | "{"),
            ) => {
                let argument = self.primary()?;
                args.positional.push(self.postfix(argument)?);
            }
            _ => {}
        }
        let depth = value.depth.max(args.depth());
        let test = self.expr(ExprKind::Test(Box::new(value), name, args), line, depth)?;
        if !negated {
            return Ok(test);
        }
        let depth = test.depth;
        self.expr(ExprKind::Not(Box::new(test)), line, depth)
    }
}

impl Args {
    fn depth(&self) -> u32 {
        let named = self.named.iter().map(|(_, value)| value);
        let spread = self.spread.as_deref().into_iter().chain(self.spread_named.as_deref());
        deepest(self.positional.iter().chain(named).chain(spread))
    }
}
