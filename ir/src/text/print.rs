//! Printing modules. Any module prints, also one that the verifier would refuse: what does not exist prints as `?`.

use std::collections::HashMap;
use std::fmt::Write;

use crate::entity::{FuncId, NodeId, ParamId, ValueId};
use crate::graph::{Func, Operand, TokenCount};
use crate::module::{Module, ParamDecl, ParamDef};
use crate::plan::Place;
use crate::text::lex::escape;

/// The names that values have in the printed text.
#[derive(Debug)]
pub struct ValueNames<'f> {
    func: &'f Func,
    numbers: HashMap<ValueId, usize>,
}

impl<'f> ValueNames<'f> {
    /// The names in `func`: inputs by their own, results by number in program order.
    pub fn new(func: &'f Func) -> Self {
        let results = func.order().iter().flat_map(|&n| &func.node(n).results);
        Self { func, numbers: results.enumerate().map(|(i, &v)| (v, i)).collect() }
    }
    /// `%3` for a result, `%tok` for an input, `%?` for what is neither.
    pub fn value(&self, value: ValueId) -> String {
        match (self.numbers.get(&value), self.func.get_value(value).and_then(|d| d.name.as_ref())) {
            (Some(number), _) => format!("%{number}"),
            (None, Some(name)) => format!("%{name}"),
            (None, None) => "%?".to_owned(),
        }
    }
    /// `%3, %4 = split`.
    pub fn node(&self, node: NodeId) -> String {
        match self.func.contains(node) {
            true => {
                let node = self.func.node(node);
                format!("{} = {}", self.list(&node.results), node.op.info().mnemonic)
            }
            false => "an op that was removed".to_owned(),
        }
    }
    fn list(&self, values: &[ValueId]) -> String {
        join(values.iter().map(|&v| self.value(v)))
    }
}

fn join(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// The text of a module.
pub fn print(module: &Module) -> String {
    print_annotated(module, &|_, _| None)
}

/// The text of a module with a comment after the ops for which `note` gives one; it parses to the same module.
pub fn print_annotated(module: &Module, note: &dyn Fn(FuncId, NodeId) -> Option<String>) -> String {
    let mut text = format!("bir 1 stage={}", module.stage);
    if let Some(target) = &module.target {
        let _ = write!(text, " target={target}");
    }
    text.push('\n');
    for decl in module.params().values() {
        text.push_str(&print_param(module, decl));
    }
    for (id, func) in module.funcs().iter() {
        text.push('\n');
        text.push_str(&func_text(module, func, &|node| note(id, node)));
    }
    text
}

fn param_name(module: &Module, id: ParamId) -> String {
    format!("@{}", module.params().get(id).map_or("?", |p| p.name.as_str()))
}

/// The line of one weight of `module`.
pub fn print_param(module: &Module, decl: &ParamDecl) -> String {
    let name = |id: &ParamId| param_name(module, *id);
    let def = match &decl.def {
        ParamDef::File { tensor, hash } => {
            let hex: String = hash.0.iter().map(|b| format!("{b:02x}")).collect();
            format!("file \"{}\" #{hex}", escape(tensor))
        }
        ParamDef::Concat(all) => format!("concat {}", join(all.iter().map(name))),
        ParamDef::Interleave16(a, b) => format!("interleave16 {}, {}", name(a), name(b)),
        ParamDef::Relayout(a) => format!("relayout {}", name(a)),
        ParamDef::Quantise(a) => format!("quantise {}", name(a)),
    };
    format!("param @{}: {} = {def}\n", decl.name, decl.ty)
}

/// The text of one function of `module`.
pub fn print_func(module: &Module, func: &Func) -> String {
    func_text(module, func, &|_| None)
}

fn func_text(module: &Module, func: &Func, note: &dyn Fn(NodeId) -> Option<String>) -> String {
    let names = ValueNames::new(func);
    let mut text = format!("func @{}(", func.name());
    let inputs = func.inputs().iter().map(|&v| format!("\n  {}: {}", names.value(v), func.ty(v)));
    text.push_str(&inputs.collect::<Vec<_>>().join(","));
    text.push_str(if func.inputs().is_empty() { "" } else { "\n" });
    let outputs =
        func.outputs().iter().map(|&v| func.get_value(v).map_or("?".to_owned(), |d| d.ty.to_string()));
    let _ = write!(text, ") -> ({})", join(outputs));
    let _ = match func.tokens() {
        TokenCount::One => write!(text, " tokens=1"),
        TokenCount::UpTo(n) => write!(text, " tokens<={n}"),
    };
    if let Some(plan) = &func.plan {
        let _ = write!(text, " arena={}", plan.arena_bytes);
        if plan.private_bytes > 0 {
            let _ = write!(text, " private={}", plan.private_bytes);
        }
    }
    text.push_str(" {\n");
    for &id in func.order() {
        text.push_str("  ");
        text.push_str(&print_op(module, func, &names, id));
        if let Some(note) = note(id) {
            let _ = write!(text, "  ; {}", note.escape_debug());
        }
        text.push('\n');
    }
    let outputs = names.list(func.outputs());
    let _ = writeln!(text, "  return{}{outputs}\n}}", if outputs.is_empty() { "" } else { " " });
    text
}

/// The text of one op of `func`, a function of `module`, without its line end; `names` are the names in `func`.
pub fn print_op(module: &Module, func: &Func, names: &ValueNames<'_>, id: NodeId) -> String {
    let node = func.node(id);
    let operands = join(node.operands.iter().map(|operand| match operand {
        Operand::Value(v) => names.value(*v),
        Operand::Param(p) => param_name(module, *p),
    }));
    let mut text = format!("{} {operands}", names.node(id));
    let attrs = node.op.print_attrs();
    if !attrs.is_empty() {
        let attrs = attrs.into_iter().map(|(name, value)| format!("{name}={value}"));
        let _ = write!(text, " {{{}}}", join(attrs));
    }
    let _ = write!(text, " : {}", join(node.results.iter().map(|&v| func.ty(v).to_string())));
    if let Some(plan) = &func.plan {
        let places = node.results.iter().map(|v| match plan.places.get(v) {
            Some(Place::Arena { offset, size }) => format!("at {offset}+{size}"),
            Some(Place::Private { offset, size }) => format!("private {offset}+{size}"),
            Some(Place::View { of, offset }) => format!("view {}+{offset}", names.value(*of)),
            Some(Place::Alias { of }) => format!("alias {}", names.value(*of)),
            Some(Place::Extern) => "extern".to_owned(),
            None => "unplaced".to_owned(),
        });
        let _ = write!(text, " {}", join(places));
        if plan.barriers.contains(&id) {
            text.push_str(" barrier");
        }
    }
    text
}
