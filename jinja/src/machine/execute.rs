//! Statements.

use std::sync::Arc;

use super::{Machine, Object, ROOT};
use crate::ast::{self, Expr, For, Stmt, StmtKind, Target};
use crate::error::{Error, Result};
use crate::text::Text;
use crate::value::{List, MacroValue, ObjectId, ObjectKind, Value};
use crate::write::to_text;

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

impl Machine<'_> {
    pub(super) fn execute(&mut self, body: &[Stmt]) -> Result<Flow> {
        self.budget.deeper()?;
        for statement in body {
            self.budget.steps(1)?;
            let flow = self.statement(statement).map_err(|error| error.at(statement.line))?;
            if flow != Flow::Next {
                self.budget.shallower();
                return Ok(flow);
            }
        }
        self.budget.shallower();
        Ok(Flow::Next)
    }

    fn statement(&mut self, statement: &Stmt) -> Result<Flow> {
        match &statement.kind {
            StmtKind::Data(text) => self.write(text)?,
            StmtKind::Print(values) => {
                for value in values {
                    let value = self.evaluate(value)?;
                    let text = to_text(self, &value)?;
                    self.write(&text)?;
                }
            }
            StmtKind::Set(target, value) => {
                let value = self.evaluate(value)?;
                self.assign_target(target, value)?;
            }
            StmtKind::SetBlock(target, filters, body) => {
                let mut value = Value::Text(self.body_text(body)?);
                if let Some(filters) = filters {
                    value = self.block_filters(filters, value)?;
                }
                self.assign_target(target, value)?;
            }
            StmtKind::If(branches, otherwise) => {
                for (test, body) in branches {
                    if self.evaluate(test)?.is_true() {
                        return self.execute(body);
                    }
                }
                return self.execute(otherwise);
            }
            StmtKind::For(tree) => {
                let iterable = self.evaluate(&tree.iterable)?;
                self.run_for(tree, &iterable, 0)?;
            }
            StmtKind::With(values, body) => {
                let evaluated =
                    values.iter().map(|(_, value)| self.evaluate(value)).collect::<Result<Vec<_>>>()?;
                return self.scoped(self.scope, |machine| {
                    for ((target, _), value) in values.iter().zip(evaluated) {
                        machine.assign_target(target, value)?;
                    }
                    machine.execute(body)
                });
            }
            StmtKind::Macro(tree) => {
                let value = self.macro_value(tree)?;
                if let Some(name) = tree.name {
                    self.assign(name, value)?;
                }
            }
            StmtKind::CallBlock(tree, call) => {
                let caller = self.macro_value(tree)?;
                let value = self.call_with_caller(call, caller)?;
                let text = to_text(self, &value)?;
                self.write(&text)?;
            }
            StmtKind::FilterBlock(filters, body) => {
                let text = self.body_text(body)?;
                match self.block_filters(filters, Value::Text(text))? {
                    Value::Text(text) => self.write(&text)?,
                    other => {
                        let kind = other.type_name();
                        return Err(Error::operation(format!("expected str instance, {kind} found")));
                    }
                }
            }
            StmtKind::Scope(body) => return self.scoped(self.scope, |machine| machine.execute(body)),
            StmtKind::Block(body) => return self.scoped(ROOT, |machine| machine.execute(body)),
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    /// What a body writes, in a scope of its own.
    fn body_text(&mut self, body: &[Stmt]) -> Result<Text> {
        self.captured(|machine| machine.scoped(machine.scope, |machine| machine.execute(body).map(|_| ())))
    }

    fn block_filters(&mut self, filters: &Expr, value: Value) -> Result<Value> {
        self.evaluate_on(filters, value)
    }

    fn macro_value(&mut self, tree: &Arc<ast::Macro>) -> Result<Value> {
        self.budget.bytes(64)?;
        let scope = self.capture(self.scope)?;
        Ok(Value::Macro(Arc::new(MacroValue { tree: Arc::clone(tree), scope })))
    }

    pub(super) fn assign_target(&mut self, target: &Target, value: Value) -> Result<()> {
        match target {
            Target::Name(symbol) => self.assign(*symbol, value),
            Target::Attribute(symbol, name) => match self.lookup(*symbol)? {
                Value::Object(ObjectKind::Namespace, id) => self.set_in_namespace(id, name, value),
                _ => Err(Error::operation("cannot assign attribute on non-namespace object")),
            },
            Target::Tuple(targets) => {
                let items = self.iterate(&value)?;
                let (wanted, given) = (targets.len(), items.items().len());
                if wanted != given {
                    return Err(Error::operation(format!("{wanted} values are wanted, there are {given}")));
                }
                for (target, item) in targets.iter().zip(items.items()) {
                    self.assign_target(target, item.clone())?;
                }
                Ok(())
            }
        }
    }

    /// Runs a loop, writing what its body writes.
    pub(super) fn run_for(&mut self, tree: &Arc<For>, iterable: &Value, depth0: usize) -> Result<()> {
        let outer = self.scope;
        let mut items = self.iterate(iterable)?;
        let mut test = tree.test.as_ref();
        if tree.uses_loop {
            // `loop.length` and `loop.last` are about what passes the test.
            if let Some(test) = test.take() {
                let mut passed = Vec::new();
                for item in items.items() {
                    if self.passes(tree, test, item)? {
                        passed.push(item.clone());
                    }
                }
                items = List::new(self.budget, passed)?;
            }
        }
        let r#loop = if tree.uses_loop { Some(self.new_loop(tree, &items, depth0)?) } else { None };
        let mut ran = false;
        for (index, item) in items.items().iter().enumerate() {
            self.budget.steps(1)?;
            if let Some(test) = test
                && !self.passes(tree, test, item)?
            {
                continue;
            }
            ran = true;
            let flow = self.scoped(outer, |machine| {
                if let Some(id) = r#loop {
                    machine.step_loop(id, index)?;
                    machine.assign(machine.tree.known.r#loop, Value::Object(ObjectKind::Loop, id))?;
                }
                machine.assign_target(&tree.target, item.clone())?;
                machine.execute(&tree.body)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        if !ran {
            self.scoped(outer, |machine| machine.execute(&tree.otherwise))?;
        }
        Ok(())
    }

    fn passes(&mut self, tree: &For, test: &Expr, item: &Value) -> Result<bool> {
        self.budget.steps(1)?;
        self.scoped(self.scope, |machine| {
            machine.assign_target(&tree.target, item.clone())?;
            Ok(machine.evaluate(test)?.is_true())
        })
    }

    fn new_loop(&mut self, tree: &Arc<For>, items: &List, depth0: usize) -> Result<ObjectId> {
        // A recursive loop runs its body again within this scope.
        let scope = if tree.recursive { self.capture(self.scope)? } else { self.scope };
        let (_, id) = self.store(Object::Loop(super::objects::Loop {
            tree: Arc::clone(tree),
            scope,
            items: items.clone(),
            index: 0,
            depth0,
            last_changed: None,
        }))?;
        Ok(id)
    }
}
