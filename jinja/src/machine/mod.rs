//! Runs a tree.
//!
//! The machine owns everything that changes while a template runs: scopes, the store of objects, and the texts that are
//! being written. Values refer to scopes and objects by number, so that dropping a machine is flat whatever the template
//! tied together.

mod access;
mod call;
mod evaluate;
mod execute;
mod iterate;
mod objects;

use std::collections::HashMap;
use std::sync::Arc;

pub(crate) use access::indices;
pub(crate) use objects::Object;

use crate::ast::{Symbol, Tree};
use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::text::{Text, TextBuilder};
use crate::value::{Function, ScopeId, Value};
use crate::variables::FormatTime;

/// Variables of a part of the template.
#[derive(Debug)]
struct Scope {
    parent: Option<ScopeId>,
    variables: Vec<(Symbol, Value)>,
    /// Whether a macro or loop refers to it, so that it has to stay.
    captured: bool,
}

pub(crate) struct Machine<'t> {
    pub(crate) budget: &'t Budget,
    tree: &'t Tree,
    format_time: FormatTime<'t>,
    /// By symbol; what the program gave.
    context: HashMap<Symbol, Value>,
    scopes: Vec<Scope>,
    scope: ScopeId,
    objects: Vec<Object>,
    /// Texts being written, the innermost last; the first is the result.
    out: Vec<TextBuilder<'t>>,
    output_limit: usize,
}

/// The scope of the template itself.
const ROOT: ScopeId = ScopeId(0);
/// What a scope takes that stays.
const SCOPE_BYTES: usize = 64;

impl<'t> Machine<'t> {
    pub(crate) fn new(
        tree: &'t Tree,
        budget: &'t Budget,
        output_limit: usize,
        variables: Vec<(String, Value)>,
        format_time: FormatTime<'t>,
    ) -> Self {
        let mut given: HashMap<String, Value> = variables.into_iter().collect();
        let known = |(number, name): (usize, &Arc<str>)| {
            let value = given.remove(&**name).or_else(|| global(name))?;
            Some((Symbol(number as u32), value))
        };
        let context = tree.names.iter().enumerate().filter_map(known).collect();
        Self {
            budget,
            tree,
            format_time,
            context,
            scopes: vec![Scope { parent: None, variables: Vec::new(), captured: true }],
            scope: ROOT,
            objects: Vec::new(),
            out: vec![TextBuilder::new(budget)],
            output_limit,
        }
    }

    /// Runs the template: its text.
    pub(crate) fn run(mut self) -> Result<Text> {
        self.execute(&self.tree.body)?;
        Ok(self.out.remove(0).finish())
    }

    pub(crate) fn name(&self, symbol: Symbol) -> &'t str {
        self.tree.names.get(symbol.0 as usize).map_or("", |name| name)
    }

    /// Writes to the innermost text.
    fn write(&mut self, text: &Text) -> Result<()> {
        let is_result = self.out.len() == 1;
        let Some(out) = self.out.last_mut() else { return Ok(()) };
        out.push_text(text)?;
        if is_result && out.len() > self.output_limit {
            return Err(Error::limit("the template makes too much text"));
        }
        Ok(())
    }

    /// The text that something writes.
    fn captured(&mut self, write: impl FnOnce(&mut Self) -> Result<()>) -> Result<Text> {
        self.out.push(TextBuilder::new(self.budget));
        write(self)?;
        let written = self.out.pop().unwrap_or_else(|| TextBuilder::new(self.budget));
        Ok(written.finish())
    }

    fn scope_mut(&mut self, id: ScopeId) -> Result<&mut Scope> {
        self.scopes.get_mut(id.0 as usize).ok_or_else(|| Error::operation("a scope is gone"))
    }

    /// Runs something in a new scope within `parent`.
    fn scoped<T>(&mut self, parent: ScopeId, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let (outer, id) = (self.scope, ScopeId(self.scopes.len() as u32));
        self.scopes.push(Scope { parent: Some(parent), variables: Vec::new(), captured: false });
        self.scope = id;
        let result = run(self)?;
        self.scope = outer;
        let last = self.scopes.len() == id.0 as usize + 1;
        let scope = self.scope_mut(id)?;
        if !scope.captured {
            scope.variables = Vec::new();
        }
        if last && !scope.captured {
            self.scopes.pop();
        } else {
            self.budget.bytes(SCOPE_BYTES)?;
        }
        Ok(result)
    }

    /// Makes the scope and those around it stay.
    fn capture(&mut self, id: ScopeId) -> Result<ScopeId> {
        let mut next = Some(id);
        while let Some(id) = next {
            self.budget.steps(1)?;
            let scope = self.scope_mut(id)?;
            let known = std::mem::replace(&mut scope.captured, true);
            next = scope.parent.filter(|_| !known);
        }
        Ok(id)
    }

    fn lookup(&self, symbol: Symbol) -> Result<Value> {
        let mut next = Some(self.scope);
        while let Some(scope) = next.and_then(|id| self.scopes.get(id.0 as usize)) {
            self.budget.steps(1 + scope.variables.len() / 16)?;
            if let Some((_, value)) = scope.variables.iter().find(|(known, _)| *known == symbol) {
                return Ok(value.clone());
            }
            next = scope.parent;
        }
        Ok(match self.context.get(&symbol) {
            Some(value) => value.clone(),
            None => Value::undefined(format!("'{}' is undefined", self.name(symbol))),
        })
    }

    /// Gives a variable of the present scope a value.
    fn assign(&mut self, symbol: Symbol, value: Value) -> Result<()> {
        let id = self.scope;
        let budget = self.budget;
        let variables = &mut self.scope_mut(id)?.variables;
        budget.steps(1 + variables.len() / 16)?;
        match variables.iter_mut().find(|(known, _)| *known == symbol) {
            Some((_, old)) => *old = value,
            None => variables.push((symbol, value)),
        }
        Ok(())
    }

    /// The time in a format of `strftime`.
    pub(crate) fn time(&self, format: &str) -> Result<String> {
        (self.format_time)(format).map_err(|why| Error::operation(format!("strftime_now: {why}")))
    }
}

/// Functions that every template has.
fn global(name: &str) -> Option<Value> {
    Some(Value::Function(match name {
        "range" => Function::Range,
        "dict" => Function::Dict,
        "namespace" => Function::Namespace,
        "cycler" => Function::Cycler,
        "joiner" => Function::Joiner,
        "raise_exception" => Function::RaiseException,
        "strftime_now" => Function::StrftimeNow,
        _ => return None,
    }))
}
