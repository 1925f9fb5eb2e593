//! Templates that can be run.

use std::ops::Range;
use std::sync::Arc;

use crate::ast::Tree;
use crate::budget::{Budget, Limits};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::parser::parse;
use crate::variables::{FormatTime, Variables};

/// Stack of the thread that a template runs on. The limits of depth bound what is needed; untouched pages of a stack take
/// no memory.
const STACK_BYTES: usize = 64 << 20;

/// A template that is valid.
#[derive(Debug, Clone)]
pub struct Template {
    tree: Arc<Tree>,
}

/// What a template made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Rising ranges of its bytes that a user wrote.
    pub user: Vec<Range<usize>>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// A template that is not valid Jinja, or nests too deep.
    pub fn new(source: &str) -> Result<Self> {
        let tree = on_own_stack(|| parse(source))?;
        Ok(Self { tree: Arc::new(tree) })
    }

    /// Runs the template.
    ///
    /// # Errors
    /// What the template does that cannot be done, what it raises, and the limits.
    pub fn render(&self, variables: &Variables, limits: &Limits, time: FormatTime<'_>) -> Result<Rendered> {
        on_own_stack(|| {
            let budget = Budget::new(limits);
            let values = variables.values(&budget)?;
            let machine = Machine::new(&self.tree, &budget, limits.output, values, time);
            let text = machine.run()?;
            Ok(Rendered { text: text.as_str().to_owned(), user: text.user_ranges().collect() })
        })
    }
}

/// Runs something on a thread of its own, whose stack does not depend on the caller's.
fn on_own_stack<T: Send>(run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("chat-template".to_owned()).stack_size(STACK_BYTES);
        let thread = builder.spawn_scoped(scope, run);
        let thread =
            thread.map_err(|error| Error::limit(format!("cannot start a thread to run the template on: {error}; raise the limit of processes and threads (ulimit -u, pids.max)")))?;
        thread.join().unwrap_or_else(|_| Err(Error::limit("the template ended its thread")))
    })
}
