//! Structural comparison of two modules: which ops, weights and decisions are in one and not in the other.
//!
//! Values are matched by what makes them and what reads them, never by their printed names, so a renumbered module is
//! equal to the one it came from. Functions, weights and inputs, which have names of their own, are matched by these.
//!
//! Ops of a function are matched in four steps, each among what the ones before left: (1) same op on the same operands, all
//! the way up to the inputs; (2) same op read in the same way, all the way down to the outputs; (3) same op beside a
//! matched one; (4) same mnemonic beside a matched one, which is how an op with another attribute or weight is seen as
//! changed and not as removed and added. What is left was removed or added.
//!
//! Invariants: a module compared with itself, or with its parsed text, has no differences; modules without a difference
//! compute the same; the time is in proportion to the ops, operands and their logarithm.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::entity::{NodeId, ValueId};
use crate::graph::{Func, Operand, ValueDef};
use crate::module::{Module, ParamDef};
use crate::plan::Place;
use crate::text::{ValueNames, print_op, print_param};

/// What to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiffOptions {
    /// Program order, places and barriers too.
    pub plan: bool,
}

impl Default for DiffOptions {
    /// Everything.
    fn default() -> Self {
        Self { plan: true }
    }
}

/// How two modules differ in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Only the left module has it.
    Removed,
    /// Only the right module has it.
    Added,
    /// Both have it, in different forms.
    Changed,
    /// Both have it, at different points of the program.
    Moved,
}

impl Kind {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Removed => "removed",
            Kind::Added => "added",
            Kind::Changed => "changed",
            Kind::Moved => "moved",
        }
    }
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The function; none for what belongs to the module.
    pub func: Option<String>,
    /// How.
    pub kind: Kind,
    /// What differs: `stage`, `weight`, `op`, `operand 1`, …
    pub what: String,
    /// The left module's text.
    pub left: Option<String>,
    /// The right module's text.
    pub right: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, &self.left, &self.right) {
            (Kind::Changed | Kind::Moved, Some(left), Some(right)) => {
                writeln!(f, "~ {} {}:\n-   {left}", self.what, self.kind.name())?;
                write!(f, "+   {right}")
            }
            (_, Some(left), _) => write!(f, "- {left}"),
            (_, None, Some(right)) => write!(f, "+ {right}"),
            (_, None, None) => write!(f, "~ {} {}", self.what, self.kind.name()),
        }
    }
}

/// The differences between `left` and `right`: of the module, of its weights, and then function by function in the order of
/// the left module.
pub fn diff(left: &Module, right: &Module, options: DiffOptions) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut of_module = |what: &str, a: String, b: String| {
        if a != b {
            found.push(changed(None, what, a, b));
        }
    };
    of_module("stage", left.stage.to_string(), right.stage.to_string());
    let target = |m: &Module| m.target.as_ref().map_or("none".to_owned(), ToString::to_string);
    of_module("target", target(left), target(right));
    compare_params(left, right, &mut found);
    for func in left.funcs().values() {
        match right.func_named(func.name()) {
            Some(other) => {
                Comparison::new((left, func), (right, &right.funcs()[other]), options).report(&mut found);
            }
            None => found.push(one_sided(None, Kind::Removed, "function", format!("func @{}", func.name()))),
        }
    }
    for func in right.funcs().values().filter(|f| left.func_named(f.name()).is_none()) {
        found.push(one_sided(None, Kind::Added, "function", format!("func @{}", func.name())));
    }
    found
}

fn changed(func: Option<&str>, what: &str, left: String, right: String) -> Difference {
    let func = func.map(str::to_owned);
    Difference { func, kind: Kind::Changed, what: what.to_owned(), left: Some(left), right: Some(right) }
}

fn one_sided(func: Option<&str>, kind: Kind, what: &str, text: String) -> Difference {
    let (left, right) = if kind == Kind::Removed { (Some(text), None) } else { (None, Some(text)) };
    Difference { func: func.map(str::to_owned), kind, what: what.to_owned(), left, right }
}

fn compare_params(left: &Module, right: &Module, found: &mut Vec<Difference>) {
    let texts = |m: &Module| -> BTreeMap<String, String> {
        let all = m.params().values();
        all.map(|d| (d.name.clone(), print_param(m, d).trim_end().to_owned())).collect()
    };
    let (a, b) = (texts(left), texts(right));
    for decl in left.params().values() {
        let text = a[&decl.name].clone();
        match b.get(&decl.name) {
            None => found.push(one_sided(None, Kind::Removed, "weight", text)),
            Some(other) if *other != text => found.push(changed(None, "weight", text, other.clone())),
            Some(_) => {}
        }
    }
    for decl in right.params().values().filter(|d| !a.contains_key(&d.name)) {
        found.push(one_sided(None, Kind::Added, "weight", b[&decl.name].clone()));
    }
}

/// One of the two functions, with what matching needs.
struct Side<'m> {
    module: &'m Module,
    func: &'m Func,
    names: ValueNames<'m>,
    labels: HashMap<NodeId, String>,
    users: HashMap<ValueId, Vec<(NodeId, usize)>>,
}

impl<'m> Side<'m> {
    fn new(module: &'m Module, func: &'m Func) -> Self {
        let mut labels = HashMap::new();
        let mut users: HashMap<ValueId, Vec<(NodeId, usize)>> = HashMap::new();
        for &id in func.order() {
            let node = func.node(id);
            for (slot, operand) in node.operands.iter().enumerate() {
                if let Operand::Value(v) = operand {
                    users.entry(*v).or_default().push((id, slot));
                }
            }
            let params = node.operands.iter().map(|&o| param_label(module, o));
            let types = node.results.iter().map(|&v| func.ty(v).to_string());
            let parts: Vec<String> = [node.op.info().mnemonic.to_owned()]
                .into_iter()
                .chain(attrs(func, id))
                .chain(params)
                .chain(types)
                .collect();
            labels.insert(id, parts.join(" "));
        }
        Self { module, func, names: ValueNames::new(func), labels, users }
    }

    fn text(&self, id: NodeId) -> String {
        print_op(self.module, self.func, &self.names, id)
    }

    fn mnemonic(&self, id: NodeId) -> &'static str {
        self.func.node(id).op.info().mnemonic
    }

    /// What `value` is, given what its producers are: see step 1.
    fn value_key(&self, value: ValueId, keys: &HashMap<NodeId, u64>) -> u64 {
        let data = self.func.value(value);
        match data.def {
            ValueDef::Input(_) => hash_of(&(0, &data.name, data.ty.to_string())),
            ValueDef::Result(node, i) => hash_of(&(1, keys.get(&node), i)),
        }
    }
}

fn attrs(func: &Func, id: NodeId) -> impl Iterator<Item = String> {
    func.node(id).op.print_attrs().into_iter().map(|(name, value)| format!("{name}={value}"))
}

fn param_label(module: &Module, operand: Operand) -> String {
    match operand {
        Operand::Param(p) => module.params().get(p).map_or("@?".to_owned(), |d| {
            let origin = match &d.def {
                ParamDef::File { tensor, .. } => tensor.as_str(),
                _ => "",
            };
            format!("@{}: {} {origin}", d.name, d.ty)
        }),
        Operand::Value(_) => "%".to_owned(),
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

struct Comparison<'m> {
    a: Side<'m>,
    b: Side<'m>,
    options: DiffOptions,
    to_b: HashMap<NodeId, NodeId>,
    to_a: HashMap<NodeId, NodeId>,
}

impl<'m> Comparison<'m> {
    fn new(left: (&'m Module, &'m Func), right: (&'m Module, &'m Func), options: DiffOptions) -> Self {
        let (a, b) = (Side::new(left.0, left.1), Side::new(right.0, right.1));
        let mut this = Self { a, b, options, to_b: HashMap::new(), to_a: HashMap::new() };
        this.match_downwards();
        this.match_upwards();
        this.match_neighbours(|a, b, m, n| a.labels[&m] == b.labels[&n]);
        this.match_neighbours(|a, b, m, n| a.mnemonic(m) == b.mnemonic(n));
        this
    }

    fn pair(&mut self, a: NodeId, b: NodeId) {
        self.to_b.insert(a, b);
        self.to_a.insert(b, a);
    }

    /// Pairs unmatched nodes of equal key, the first of a key with the first.
    fn pair_equal(&mut self, keys_a: &HashMap<NodeId, u64>, keys_b: &HashMap<NodeId, u64>) {
        let mut waiting: HashMap<u64, Vec<NodeId>> = HashMap::new();
        for id in self.b.func.order().iter().rev().filter(|id| !self.to_a.contains_key(id)) {
            waiting.entry(keys_b[id]).or_default().push(*id);
        }
        for &id in self.a.func.order() {
            if !self.to_b.contains_key(&id)
                && let Some(other) = waiting.get_mut(&keys_a[&id]).and_then(Vec::pop)
            {
                self.pair(id, other);
            }
        }
    }

    fn match_downwards(&mut self) {
        let keys = |side: &Side<'_>| {
            let mut keys = HashMap::new();
            for &id in side.func.order() {
                let operands = side.func.node(id).operands.iter().map(|&o| match o {
                    Operand::Value(v) => side.value_key(v, &keys),
                    Operand::Param(_) => 0,
                });
                let operands: Vec<u64> = operands.collect();
                let key = hash_of(&(&side.labels[&id], operands));
                keys.insert(id, key);
            }
            keys
        };
        let (a, b) = (keys(&self.a), keys(&self.b));
        self.pair_equal(&a, &b);
    }

    fn match_upwards(&mut self) {
        let keys = |side: &Side<'_>, matched: &dyn Fn(NodeId) -> Option<NodeId>| {
            let mut keys: HashMap<NodeId, u64> = HashMap::new();
            for &id in side.func.order().iter().rev() {
                let mut reads: Vec<u64> = Vec::new();
                for (i, value) in side.func.node(id).results.iter().enumerate() {
                    for (user, slot) in side.users.get(value).into_iter().flatten() {
                        // A matched reader is told by its partner on the left.
                        let reader = (matched(*user), keys.get(user).filter(|_| matched(*user).is_none()));
                        reads.push(hash_of(&(i, slot, reader)));
                    }
                    let outputs = side.func.outputs().iter().enumerate().filter(|&(_, v)| v == value);
                    reads.extend(outputs.map(|(at, _)| hash_of(&("output", i, at))));
                }
                reads.sort_unstable();
                keys.insert(id, hash_of(&(&side.labels[&id], reads)));
            }
            keys
        };
        let a = keys(&self.a, &|id| self.to_b.contains_key(&id).then_some(id));
        let b = keys(&self.b, &|id| self.to_a.get(&id).copied());
        self.pair_equal(&a, &b);
    }

    /// Pairs unmatched nodes that stand in the same place beside a matched pair, until there are none.
    fn match_neighbours(&mut self, same: impl Fn(&Side<'_>, &Side<'_>, NodeId, NodeId) -> bool) {
        let mut work: Vec<(NodeId, NodeId)> =
            self.a.func.order().iter().rev().filter_map(|&a| Some((a, *self.to_b.get(&a)?))).collect();
        // Inputs of the same name are a matched pair too.
        let mut found: Vec<(NodeId, NodeId)> = Vec::new();
        for &input in self.a.func.inputs() {
            if let Some(other) = self.value_in_b(input) {
                found.extend(self.unmatched_users(input, other, &same));
            }
        }
        loop {
            for (a, b) in found.drain(..) {
                if !self.to_b.contains_key(&a) && !self.to_a.contains_key(&b) {
                    self.pair(a, b);
                    work.push((a, b));
                }
            }
            let Some((a, b)) = work.pop() else { return };
            let (na, nb) = (self.a.func.node(a), self.b.func.node(b));
            for (&x, &y) in na.operands.iter().zip(&nb.operands) {
                if let (Operand::Value(x), Operand::Value(y)) = (x, y)
                    && let (Some(p), Some(q)) = (self.a.func.producer(x), self.b.func.producer(y))
                    && same(&self.a, &self.b, p, q)
                {
                    found.push((p, q));
                }
            }
            for (&x, &y) in na.results.iter().zip(&nb.results) {
                found.extend(self.unmatched_users(x, y, &same));
            }
        }
    }

    /// Pairs of unmatched readers of two values, each with the first one of the other side that is the same.
    fn unmatched_users(
        &self,
        x: ValueId,
        y: ValueId,
        same: &impl Fn(&Side<'_>, &Side<'_>, NodeId, NodeId) -> bool,
    ) -> Vec<(NodeId, NodeId)> {
        let none = Vec::new();
        let mut taken: HashSet<NodeId> = HashSet::new();
        let mut pairs = Vec::new();
        for &(p, slot) in self.a.users.get(&x).unwrap_or(&none) {
            let free = |&&(q, other): &&(NodeId, usize)| {
                slot == other
                    && !self.to_a.contains_key(&q)
                    && !taken.contains(&q)
                    && same(&self.a, &self.b, p, q)
            };
            if !self.to_b.contains_key(&p)
                && let Some(&(q, _)) = self.b.users.get(&y).unwrap_or(&none).iter().find(free)
            {
                taken.insert(q);
                pairs.push((p, q));
            }
        }
        pairs
    }

    /// The right function's value that `value` of the left one is.
    fn value_in_b(&self, value: ValueId) -> Option<ValueId> {
        let data = self.a.func.value(value);
        match data.def {
            ValueDef::Input(_) => {
                let named = |&&v: &&ValueId| self.b.func.value(v).name == data.name;
                self.b.func.inputs().iter().find(named).copied()
            }
            ValueDef::Result(node, i) => {
                let other = self.to_b.get(&node)?;
                self.b.func.node(*other).results.get(i as usize).copied()
            }
        }
    }

    fn report(&self, found: &mut Vec<Difference>) {
        let func = Some(self.a.func.name());
        self.report_signature(found);
        for &id in self.a.func.order() {
            match self.to_b.get(&id) {
                None => found.push(one_sided(func, Kind::Removed, "op", self.a.text(id))),
                Some(&other) => {
                    let what = self.differences_of(id, other);
                    if !what.is_empty() {
                        found.push(changed(func, &what.join(", "), self.a.text(id), self.b.text(other)));
                    }
                }
            }
        }
        for &id in self.b.func.order().iter().filter(|id| !self.to_a.contains_key(id)) {
            found.push(one_sided(func, Kind::Added, "op", self.b.text(id)));
        }
        if self.options.plan {
            self.report_moves(found);
        }
    }

    fn report_signature(&self, found: &mut Vec<Difference>) {
        let func = Some(self.a.func.name());
        let compare = |found: &mut Vec<Difference>, what: &str, a: String, b: String| {
            if a != b {
                found.push(changed(func, what, a, b));
            }
        };
        let inputs = |side: &Side<'_>| {
            let all = side.func.inputs().iter();
            all.map(|&v| format!("{}: {}", side.names.value(v), side.func.ty(v)))
                .collect::<Vec<_>>()
                .join(", ")
        };
        compare(found, "inputs", inputs(&self.a), inputs(&self.b));
        compare(
            found,
            "tokens",
            format!("{:?}", self.a.func.tokens()),
            format!("{:?}", self.b.func.tokens()),
        );
        let (a, b) = (self.a.func.outputs(), self.b.func.outputs());
        let same = a.len() == b.len() && a.iter().zip(b).all(|(&x, &y)| self.value_in_b(x) == Some(y));
        if !same {
            let list = |side: &Side<'_>, values: &[ValueId]| {
                let all: Vec<String> = values.iter().map(|&v| side.names.value(v)).collect();
                format!("return {}", all.join(", "))
            };
            found.push(changed(func, "outputs", list(&self.a, a), list(&self.b, b)));
        }
        if self.options.plan {
            let memory = |side: &Side<'_>| {
                side.func.plan.as_ref().map_or("no plan".to_owned(), |plan| {
                    format!("arena={} private={}", plan.arena_bytes, plan.private_bytes)
                })
            };
            compare(found, "memory", memory(&self.a), memory(&self.b));
        }
    }

    /// What differs between two ops that are a pair.
    fn differences_of(&self, a: NodeId, b: NodeId) -> Vec<String> {
        let (na, nb) = (self.a.func.node(a), self.b.func.node(b));
        let mut what = Vec::new();
        if na.op != nb.op {
            what.push("attributes".to_owned());
        }
        if na.operands.len() != nb.operands.len() {
            what.push("operands".to_owned());
        }
        for (i, (&x, &y)) in na.operands.iter().zip(&nb.operands).enumerate() {
            let same = match (x, y) {
                (Operand::Value(x), Operand::Value(y)) => self.value_in_b(x) == Some(y),
                (x, y) => param_label(self.a.module, x) == param_label(self.b.module, y),
            };
            if !same {
                what.push(format!("operand {i}"));
            }
        }
        let types = |func: &Func, results: &[ValueId]| -> Vec<String> {
            results.iter().map(|&v| func.ty(v).to_string()).collect()
        };
        if types(self.a.func, &na.results) != types(self.b.func, &nb.results) {
            what.push("type".to_owned());
        }
        if self.options.plan
            && let (Some(p), Some(q)) = (&self.a.func.plan, &self.b.func.plan)
        {
            let same = |(&x, &y): (&ValueId, &ValueId)| match (p.places.get(&x), q.places.get(&y)) {
                (Some(Place::View { of: s, offset: i }), Some(Place::View { of: t, offset: j })) => {
                    i == j && self.value_in_b(*s) == Some(*t)
                }
                (Some(Place::Alias { of: s }), Some(Place::Alias { of: t })) => {
                    self.value_in_b(*s) == Some(*t)
                }
                (s, t) => s == t,
            };
            if !na.results.iter().zip(&nb.results).all(same) {
                what.push("place".to_owned());
            }
            if p.barriers.contains(&a) != q.barriers.contains(&b) {
                what.push("barrier".to_owned());
            }
        }
        what
    }

    /// Pairs that are not in the longest run of pairs whose order is the same on both sides.
    fn report_moves(&self, found: &mut Vec<Difference>) {
        let at: HashMap<NodeId, usize> =
            self.b.func.order().iter().enumerate().map(|(i, &n)| (n, i)).collect();
        let pairs: Vec<(NodeId, NodeId)> =
            self.a.func.order().iter().filter_map(|&a| Some((a, *self.to_b.get(&a)?))).collect();
        let stay = longest_rising(&pairs.iter().map(|(_, b)| at[b]).collect::<Vec<_>>());
        for (i, &(a, b)) in pairs.iter().enumerate() {
            if !stay.contains(&i) {
                found.push(Difference {
                    func: Some(self.a.func.name().to_owned()),
                    kind: Kind::Moved,
                    what: "op".to_owned(),
                    left: Some(self.a.text(a)),
                    right: Some(self.b.text(b)),
                });
            }
        }
    }
}

/// Positions of a longest strictly rising subsequence, by patience sorting.
fn longest_rising(numbers: &[usize]) -> HashSet<usize> {
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(numbers.len());
    for (i, &n) in numbers.iter().enumerate() {
        let at = ends.partition_point(|&e| numbers[e] < n);
        before.push(at.checked_sub(1).map(|p| ends[p]));
        match ends.get_mut(at) {
            Some(end) => *end = i,
            None => ends.push(i),
        }
    }
    let mut found = HashSet::new();
    let mut next = ends.last().copied();
    while let Some(i) = next {
        found.insert(i);
        next = before[i];
    }
    found
}
