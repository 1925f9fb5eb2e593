//! A module: the weights by name, and the entry points over them.
//!
//! Invariants (checked by [`crate::verify`]): names are unique; a derived parameter refers to earlier ones only; all
//! functions are in the module's stage.

use std::collections::HashMap;

use crate::entity::{EntityVec, FuncId, ParamId};
use crate::entry_point::EntryPoint;
use crate::graph::Func;
use crate::stage::Stage;
use crate::target::TargetDesc;
use crate::types::Type;

/// First 128 bits of the BLAKE3 hash of a parameter's stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 16]);

/// How a parameter comes to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ParamDef {
    /// Stored in the model file.
    File {
        /// The tensor's name there.
        tensor: String,
        /// Of its bytes.
        hash: ContentHash,
    },
    /// The rows of these ternary parameters one after the other.
    Concat(Vec<ParamId>),
    /// Blocks of 16 rows of two ternary parameters of equal size in turn: 16 of the first, 16 of the second, …
    Interleave16(ParamId, ParamId),
    /// The same matrix in this parameter's layout.
    Relayout(ParamId),
    /// A dense matrix, its rows rounded to the block format of this parameter's element type
    /// ([`crate::blocks::quantise`]).
    Quantise(ParamId),
}

impl ParamDef {
    /// The parameters that this one is made of.
    pub fn sources(&self) -> Vec<ParamId> {
        match self {
            ParamDef::File { .. } => Vec::new(),
            ParamDef::Concat(all) => all.clone(),
            ParamDef::Interleave16(a, b) => vec![*a, *b],
            ParamDef::Relayout(a) | ParamDef::Quantise(a) => vec![*a],
        }
    }
}

/// A weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamDecl {
    /// Name without the `@`: letters, digits, `_`, `.`, `-`.
    pub name: String,
    /// Type with layout.
    pub ty: Type,
    /// Origin.
    pub def: ParamDef,
}

/// A whole model in one stage.
#[derive(Clone, Debug)]
pub struct Module {
    /// How far it has been lowered.
    pub stage: Stage,
    /// The machine it has been laid out for; none before stage `laid_out`.
    pub target: Option<TargetDesc>,
    params: EntityVec<ParamId, ParamDecl>,
    /// The first parameter of each name.
    by_name: HashMap<String, ParamId>,
    /// The parameters of each origin, in order.
    by_def: HashMap<ParamDef, Vec<ParamId>>,
    funcs: EntityVec<FuncId, Func>,
}

impl Module {
    /// An empty module in stage `imported`.
    pub fn new() -> Self {
        Self {
            stage: Stage::Imported,
            target: None,
            params: EntityVec::new(),
            by_name: HashMap::new(),
            by_def: HashMap::new(),
            funcs: EntityVec::new(),
        }
    }

    /// The weights.
    pub fn params(&self) -> &EntityVec<ParamId, ParamDecl> {
        &self.params
    }
    /// Adds a weight.
    pub fn add_param(&mut self, decl: ParamDecl) -> ParamId {
        let (name, def) = (decl.name.clone(), decl.def.clone());
        let id = self.params.push(decl);
        self.by_name.entry(name).or_insert(id);
        self.by_def.entry(def).or_default().push(id);
        id
    }
    /// The weight of this name.
    pub fn param_named(&self, name: &str) -> Option<ParamId> {
        self.by_name.get(name).copied()
    }
    /// The first weight of this type that is made in this way, whatever its name.
    pub fn param_made(&self, ty: &Type, def: &ParamDef) -> Option<ParamId> {
        self.by_def.get(def)?.iter().copied().find(|&id| self.params[id].ty == *ty)
    }
    /// The entry points.
    pub fn funcs(&self) -> &EntityVec<FuncId, Func> {
        &self.funcs
    }
    /// The entry point, to change it.
    pub fn func_mut(&mut self, id: FuncId) -> &mut Func {
        &mut self.funcs[id]
    }
    /// Adds an entry point.
    pub fn add_func(&mut self, func: Func) -> FuncId {
        self.funcs.push(func)
    }
    /// The function that a runtime calls for this entry point.
    pub fn entry_point(&self, entry: EntryPoint) -> Option<FuncId> {
        self.func_named(entry.name())
    }
    /// The function of this name (without the `@`).
    pub fn func_named(&self, name: &str) -> Option<FuncId> {
        self.funcs.iter().find(|(_, f)| f.name() == name).map(|(id, _)| id)
    }
    /// Removes the entry points for which `keep` is false, and then the weights that nothing refers to.
    pub fn retain_funcs(&mut self, keep: impl Fn(&Func) -> bool) {
        let all = std::mem::take(&mut self.funcs);
        for func in all.values().filter(|f| keep(f)) {
            self.funcs.push(func.clone());
        }
        self.remove_unused_params();
    }
    /// Removes the weights that neither an op nor another kept weight refers to, and returns their names. Entities of the
    /// rest are renumbered in all functions.
    pub fn remove_unused_params(&mut self) -> Vec<String> {
        let mut used = vec![false; self.params.len()];
        for func in self.funcs.values() {
            for id in func.params_used() {
                used[crate::entity::Entity::index(id)] = true;
            }
        }
        for (id, decl) in self.params.iter().rev() {
            if used[crate::entity::Entity::index(id)] {
                for source in decl.def.sources() {
                    used[crate::entity::Entity::index(source)] = true;
                }
            }
        }
        if used.iter().all(|&used| used) {
            return Vec::new();
        }
        let old = std::mem::take(&mut self.params);
        self.by_name.clear();
        self.by_def.clear();
        let mut new_ids = Vec::with_capacity(old.len());
        let mut removed = Vec::new();
        for (id, decl) in old.iter() {
            let keep = used[crate::entity::Entity::index(id)];
            new_ids.push(keep.then(|| {
                let map = |p: &ParamId| -> ParamId {
                    let new: Option<ParamId> =
                        new_ids.get(crate::entity::Entity::index(*p)).copied().flatten();
                    new.expect("a source is kept and stands before its user")
                };
                let def = match &decl.def {
                    ParamDef::File { .. } => decl.def.clone(),
                    ParamDef::Concat(all) => ParamDef::Concat(all.iter().map(map).collect()),
                    ParamDef::Interleave16(a, b) => ParamDef::Interleave16(map(a), map(b)),
                    ParamDef::Relayout(a) => ParamDef::Relayout(map(a)),
                    ParamDef::Quantise(a) => ParamDef::Quantise(map(a)),
                };
                self.add_param(ParamDecl { name: decl.name.clone(), ty: decl.ty.clone(), def })
            }));
            if !keep {
                removed.push(decl.name.clone());
            }
        }
        for id in self.funcs.keys() {
            self.funcs[id].renumber_params(&new_ids);
        }
        removed
    }
}

impl Default for Module {
    fn default() -> Self {
        Self::new()
    }
}
