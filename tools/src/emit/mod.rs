//! What a compilation goes through, as text: `bitnetc compile --emit`.
//!
//! The module in its four stages, then for every distinct kernel of the planned module its kernel IR, its CLIF and its
//! machine code, for any target on any machine; the graph for Graphviz, the module as JSON, and the page of
//! [`crate::explain`], which has all of it.
//!
//! The texts refer to each other by the kernels' names: after every op of the planned module stands a comment with the
//! kernels that compute it, and in front of every kernel stand the ops that use it. Machine code is what the compiler
//! would run; where the wide x86-64 selector makes it there is no CLIF, so the CLIF text shows what Cranelift would be given
//! instead, and says so.
//!
//! Invariants: nothing here runs code, so a target needs nothing of this machine; same model, options and target, same text.

mod dot;
mod json;
mod kernels;

use std::collections::BTreeMap;

use bitnetc_codegen::program::{self, Programs};
use bitnetc_ir::text::{ValueNames, print, print_annotated, print_op};
use bitnetc_ir::{Entity, FuncId, Module, NodeId, Stage};

use crate::error::Error;
use crate::explain::{ExplainOptions, explain, page};
use bitnetc::BuildOptions;
use bitnetc::load::{Source, dump_module};

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Emit {
    /// The module in a stage.
    Stage(Stage),
    /// Kernel IR.
    Kernels,
    /// Cranelift's IR.
    Clif,
    /// Machine code.
    Asm,
    /// The graph of the planned module, for Graphviz.
    Dot,
    /// The planned module.
    Json,
    /// The page that explains the compiled model.
    Html,
}

impl Emit {
    /// All of them, in the order of the compilation.
    pub const ALL: &[Emit] = &[
        Emit::Stage(Stage::Imported),
        Emit::Stage(Stage::Fused),
        Emit::Stage(Stage::LaidOut),
        Emit::Stage(Stage::Planned),
        Emit::Kernels,
        Emit::Clif,
        Emit::Asm,
        Emit::Dot,
        Emit::Json,
        Emit::Html,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Emit::Stage(stage) => stage.name(),
            Emit::Kernels => "kernels",
            Emit::Clif => "clif",
            Emit::Asm => "asm",
            Emit::Dot => "dot",
            Emit::Json => "json",
            Emit::Html => "html",
        }
    }

    /// The name of the file in a directory of all.
    pub fn file_name(self) -> String {
        match self {
            Emit::Stage(stage) => format!("{stage}.bir"),
            Emit::Kernels => "kernels.kir".to_owned(),
            Emit::Clif => "kernels.clif".to_owned(),
            Emit::Asm => "kernels.asm".to_owned(),
            Emit::Dot => "graph.dot".to_owned(),
            Emit::Json => "module.json".to_owned(),
            Emit::Html => "explain.html".to_owned(),
        }
    }
}

/// The planned module with its kernels.
pub(crate) struct Lowered {
    /// In stage `planned`.
    pub(crate) module: Module,
    /// Its steps.
    pub(crate) programs: Programs,
}

impl Lowered {
    /// Flattens a planned module.
    ///
    /// # Errors
    /// A module without plan, or with an op that has no kernel.
    pub(crate) fn of(module: Module) -> Result<Self, Error> {
        let programs = program::lower(&module).map_err(bitnetc_codegen::compile::CompileError::from)?;
        Ok(Self { module, programs })
    }

    /// For each kernel, in their order, the ops that use it, as the planned module prints them with their function.
    pub(crate) fn users(&self) -> Vec<Vec<String>> {
        let mut users = vec![Vec::new(); self.programs.kernels.len()];
        for (func, program) in self.module.funcs().values().zip(&self.programs.programs) {
            let names = ValueNames::new(func);
            for step in &program.steps {
                if let Some(node) = step.node {
                    let op = print_op(&self.module, func, &names, node);
                    users[step.kernel.index()].push(format!("@{} {op}", func.name()));
                }
            }
        }
        users
    }

    /// For each op, the names of the kernels that compute it.
    pub(crate) fn kernels_of_ops(&self) -> BTreeMap<(FuncId, NodeId), Vec<String>> {
        let mut kernels: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for (id, program) in self.module.funcs().keys().zip(&self.programs.programs) {
            for step in &program.steps {
                if let Some(node) = step.node {
                    kernels.entry((id, node)).or_default().push(self.programs.kernels[step.kernel].name());
                }
            }
        }
        kernels
    }
}

/// Gives `sink` the text of each of `kinds`.
///
/// # Errors
/// A model that cannot be compiled; of a plan, a stage before `planned`; what `sink` refuses.
pub fn emit(
    source: &Source,
    options: &BuildOptions,
    kinds: &[Emit],
    mut sink: impl FnMut(Emit, &str) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut lowered = None;
    for &kind in kinds {
        if let Emit::Stage(stage) = kind
            && stage != Stage::Planned
        {
            sink(kind, &print(&dump_module(source, stage, options)?))?;
            continue;
        }
        let lowered = match &mut lowered {
            Some(lowered) => lowered,
            none => none.insert(Lowered::of(dump_module(source, Stage::Planned, options)?)?),
        };
        sink(kind, &text_of(kind, lowered, source, options)?)?;
    }
    Ok(())
}

/// The page about a compilation, with the target's assumed speeds.
fn explained(source: &Source, options: &BuildOptions) -> Result<String, Error> {
    let all = ExplainOptions { position: 0, texts: true, timings: None };
    Ok(page::page(&explain(source, options, &options.target()?, &all)?)?)
}

fn text_of(kind: Emit, lowered: &Lowered, source: &Source, options: &BuildOptions) -> Result<String, Error> {
    let target = &options.target()?;
    Ok(match kind {
        Emit::Stage(_) => {
            let kernels = lowered.kernels_of_ops();
            let note = |func, node| Some(format!("kernel {}", kernels.get(&(func, node))?.join(", ")));
            print_annotated(&lowered.module, &note)
        }
        Emit::Kernels => kernels::kernels(lowered, target, options.codegen)?,
        Emit::Clif => kernels::clif(lowered, target, options.codegen)?,
        Emit::Asm => kernels::asm(lowered, target, options.codegen)?,
        Emit::Dot => dot::dot(lowered),
        Emit::Json => format!("{:#}\n", json::json(lowered, target)),
        Emit::Html => explained(source, options)?,
    })
}
