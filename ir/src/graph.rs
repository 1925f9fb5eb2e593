//! A function: SSA values and the ops between them, in program order.
//!
//! Producers and consumers are the nodes and edges of a petgraph graph, which stays private: the rest of the project
//! sees typed entities and an order. The order is a topological order of the graph; passes keep it so by inserting new
//! nodes before the ones they replace.
//!
//! Questions about the order and about the readers of a value take time in proportion to their answer, up to a logarithm,
//! and not to the size of the function: nodes have *ranks* that grow along the order, and readers of inputs, which the graph
//! does not have, are kept beside it.
//!
//! Invariants: every edge runs from the producer of a value to a node that has it as an operand, one edge for each slot;
//! a node's results are values defined by it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::{EdgeRef, IntoEdgeReferences};

use crate::entity::{Entity, EntityVec, NodeId, ParamId, ValueId};
use crate::infer::TypeRule;
use crate::ops::Op;
use crate::plan::FuncPlan;
use crate::types::Type;

/// What an op reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operand {
    /// A value of the function.
    Value(ValueId),
    /// A weight of the module.
    Param(ParamId),
}

impl From<ValueId> for Operand {
    fn from(value: ValueId) -> Self {
        Operand::Value(value)
    }
}

impl From<ParamId> for Operand {
    fn from(param: ParamId) -> Self {
        Operand::Param(param)
    }
}

/// An op, what it reads and what it makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The op with its attributes.
    pub op: Op,
    /// Required operands, then optional ones.
    pub operands: Vec<Operand>,
    /// Results, in the order of the op table.
    pub results: Vec<ValueId>,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueDef {
    /// The input of this position.
    Input(u32),
    /// The result of this position of a node.
    Result(NodeId, u32),
}

/// Where a value lies that is a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The value in whose rows it lies.
    pub of: ValueId,
    /// Bytes from the start of such a row.
    pub offset: u64,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueData {
    /// Its type.
    pub ty: Type,
    /// Its origin.
    pub def: ValueDef,
    /// The name of an input, without the `%`; results have none.
    pub name: Option<String>,
}

/// How many tokens one call of a function handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenCount {
    /// One token: its types contain no `T`.
    One,
    /// At most this number of tokens.
    UpTo(u32),
}

impl TokenCount {
    /// The most tokens of a call.
    pub fn max(self) -> u32 {
        match self {
            TokenCount::One => 1,
            TokenCount::UpTo(n) => n,
        }
    }
}

/// An entry point.
#[derive(Clone, Debug)]
pub struct Func {
    name: String,
    tokens: TokenCount,
    graph: StableDiGraph<Node, u32>,
    values: EntityVec<ValueId, ValueData>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    /// The values among the outputs.
    returned: HashSet<ValueId>,
    order: Vec<NodeId>,
    /// By node: numbers that grow along the order. Those of removed nodes mean nothing.
    ranks: Vec<u64>,
    /// The nodes that read an input.
    input_readers: BTreeMap<ValueId, BTreeSet<NodeId>>,
    /// Memory and schedule; there in stage `planned`.
    pub plan: Option<FuncPlan>,
}

/// Between the ranks of two neighbours in the order, where nothing was inserted between them.
const RANK_STEP: u64 = 1 << 32;

/// Bytes of the elements of a row.
fn row_bytes(ty: &Type) -> u64 {
    let element = u64::from(ty.dtype.element_bytes().unwrap_or(0));
    ty.as_rows().map_or(0, |rows| u64::from(rows.width) * element)
}

fn raw(id: NodeId) -> NodeIndex<u32> {
    NodeIndex::new(id.index())
}

impl Func {
    /// A function without inputs and ops.
    pub fn new(name: impl Into<String>, tokens: TokenCount) -> Self {
        Self {
            name: name.into(),
            tokens,
            graph: StableDiGraph::new(),
            values: EntityVec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            returned: HashSet::new(),
            order: Vec::new(),
            ranks: Vec::new(),
            input_readers: BTreeMap::new(),
            plan: None,
        }
    }

    /// The name, without the `@`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tokens of one call.
    pub fn tokens(&self) -> TokenCount {
        self.tokens
    }

    /// Inputs, in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Outputs, in order.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// Nodes in program order, which is a topological order.
    pub fn order(&self) -> &[NodeId] {
        &self.order
    }

    /// A value's data.
    pub fn value(&self, id: ValueId) -> &ValueData {
        &self.values[id]
    }

    /// A value's data, if the value is one of this function.
    pub fn get_value(&self, id: ValueId) -> Option<&ValueData> {
        self.values.get(id)
    }

    /// A value's type.
    pub fn ty(&self, id: ValueId) -> &Type {
        &self.values[id].ty
    }

    /// The live values: inputs, then results in program order.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        let results = self.order.iter().flat_map(|&n| self.node(n).results.iter().copied());
        self.inputs.iter().copied().chain(results)
    }

    /// Whether the node exists.
    pub fn contains(&self, id: NodeId) -> bool {
        self.graph.contains_node(raw(id))
    }

    /// A node.
    ///
    /// # Panics
    /// If the node was removed.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.graph[raw(id)]
    }

    /// Adds an input.
    pub fn add_input(&mut self, name: impl Into<String>, ty: Type) -> ValueId {
        let def = ValueDef::Input(self.inputs.len() as u32);
        let id = self.values.push(ValueData { ty, def, name: Some(name.into()) });
        self.inputs.push(id);
        id
    }

    /// Sets the outputs.
    pub fn set_outputs(&mut self, outputs: Vec<ValueId>) {
        self.returned = outputs.iter().copied().collect();
        self.outputs = outputs;
    }

    /// Changes the type of an input, as a layout choice for a cache does; [`Func::retype`] then carries it on.
    pub fn set_input_type(&mut self, position: usize, ty: Type) {
        let id = self.inputs[position];
        self.values[id].ty = ty;
    }

    /// Adds a node before `anchor`, or last; results get the types given.
    pub fn insert(
        &mut self,
        anchor: Option<NodeId>,
        op: Op,
        operands: Vec<Operand>,
        types: Vec<Type>,
    ) -> NodeId {
        let index = self.graph.add_node(Node { op, operands: operands.clone(), results: Vec::new() });
        let id = NodeId::from_index(index.index());
        let results = types.into_iter().enumerate().map(|(i, ty)| {
            self.values.push(ValueData { ty, def: ValueDef::Result(id, i as u32), name: None })
        });
        self.graph[index].results = results.collect();
        for (slot, operand) in operands.iter().enumerate() {
            self.link(*operand, id, slot as u32);
        }
        let at = anchor.and_then(|a| self.place(a)).unwrap_or(self.order.len());
        self.order.insert(at, id);
        if self.ranks.len() <= index.index() {
            self.ranks.resize(index.index() + 1, 0);
        }
        let rank_at = |i: usize| self.order.get(i).map(|n| self.ranks[n.index()]);
        let (before, after) = (at.checked_sub(1).and_then(rank_at).unwrap_or(0), rank_at(at + 1));
        let rank = match after {
            Some(after) => before + (after - before) / 2,
            None => before.saturating_add(RANK_STEP),
        };
        self.ranks[index.index()] = rank;
        if rank == before {
            self.rank();
        }
        id
    }

    /// Gives all nodes ranks with room between them.
    fn rank(&mut self) {
        for (n, i) in self.order.iter().zip(1..) {
            self.ranks[n.index()] = i * RANK_STEP;
        }
    }

    /// Where the node stands in the order.
    fn place(&self, node: NodeId) -> Option<usize> {
        let rank = *self.ranks.get(node.index())?;
        let at = self.order.binary_search_by_key(&rank, |n| self.ranks[n.index()]).ok()?;
        (self.order[at] == node).then_some(at)
    }

    /// Whether node `a` stands before node `b`, both of this function.
    pub fn is_before(&self, a: NodeId, b: NodeId) -> bool {
        self.ranks[a.index()] < self.ranks[b.index()]
    }

    fn link(&mut self, operand: Operand, to: NodeId, slot: u32) {
        let Operand::Value(v) = operand else { return };
        match self.values[v].def {
            ValueDef::Result(from, _) => {
                self.graph.add_edge(raw(from), raw(to), slot);
            }
            ValueDef::Input(_) => {
                self.input_readers.entry(v).or_default().insert(to);
            }
        }
    }

    /// The nodes that read `value`, in no order, perhaps several times.
    fn readers(&self, value: ValueId) -> impl Iterator<Item = NodeId> + '_ {
        let of_input = self.input_readers.get(&value).into_iter().flatten().copied();
        let of_result = self.producer(value).into_iter().flat_map(move |node| {
            let all = self.graph.neighbors_directed(raw(node), Direction::Outgoing);
            let all = all.map(|n| NodeId::from_index(n.index()));
            all.filter(move |&n| self.node(n).operands.contains(&Operand::Value(value)))
        });
        of_input.chain(of_result)
    }

    /// The nodes that read `value`, each once, in program order; outputs are not among them.
    pub fn users(&self, value: ValueId) -> Vec<NodeId> {
        let mut users: Vec<NodeId> = self.readers(value).collect();
        users.sort_unstable_by_key(|n| self.ranks[n.index()]);
        users.dedup();
        users
    }

    /// As [`Func::users`], unless they are more than `most`; then as soon as this is known.
    pub fn users_up_to(&self, value: ValueId, most: usize) -> Option<Vec<NodeId>> {
        let mut users: BTreeMap<u64, NodeId> = BTreeMap::new();
        for user in self.readers(value) {
            users.insert(self.ranks[user.index()], user);
            if users.len() > most {
                return None;
            }
        }
        Some(users.into_values().collect())
    }

    /// Whether a node reads `value`.
    pub fn is_read(&self, value: ValueId) -> bool {
        self.readers(value).next().is_some()
    }

    /// Whether the function returns `value`.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.returned.contains(&value)
    }

    /// The only node that reads `value`, where there is exactly one and the function does not return the value.
    pub fn sole_user(&self, value: ValueId) -> Option<NodeId> {
        let mut readers = self.readers(value);
        let first = readers.next().filter(|_| !self.is_output(value))?;
        readers.all(|other| other == first).then_some(first)
    }

    /// The node that makes `value`, unless it is an input.
    pub fn producer(&self, value: ValueId) -> Option<NodeId> {
        match self.values[value].def {
            ValueDef::Result(node, _) => Some(node),
            ValueDef::Input(_) => None,
        }
    }

    /// What `value` is a part of, if a view makes it.
    pub fn part(&self, value: ValueId) -> Option<Part> {
        let ValueDef::Result(node, result) = self.values[value].def else { return None };
        let node = self.node(node);
        let &Operand::Value(of) = node.operands.first().filter(|_| node.op.info().is_view())? else {
            return None;
        };
        let before = node.results.iter().take(result as usize);
        Some(Part { of, offset: before.map(|&v| row_bytes(self.ty(v))).sum() })
    }

    /// The value whose bytes `value` is part of: what the view is a part of that makes it, and so on.
    pub fn whole(&self, mut value: ValueId) -> ValueId {
        while let Some(Part { of, .. }) = self.part(value) {
            value = of;
        }
        value
    }

    /// Makes every reader of `old`, and the outputs, read `new`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        for user in self.users(old) {
            for slot in 0..self.node(user).operands.len() {
                if self.node(user).operands[slot] == Operand::Value(old) {
                    self.set_operand(user, slot, Operand::Value(new));
                }
            }
        }
        if self.is_output(old) {
            let renamed = self.outputs.iter().map(|&v| if v == old { new } else { v }).collect();
            self.set_outputs(renamed);
        }
    }

    /// Sets one operand of a node.
    pub fn set_operand(&mut self, node: NodeId, slot: usize, operand: Operand) {
        let stale: Vec<_> = self
            .graph
            .edges_directed(raw(node), Direction::Incoming)
            .filter(|e| *e.weight() == slot as u32)
            .map(|e| e.id())
            .collect();
        for edge in stale {
            self.graph.remove_edge(edge);
        }
        let old = std::mem::replace(&mut self.graph[raw(node)].operands[slot], operand);
        self.forget_reader(old, node);
        self.link(operand, node, slot as u32);
    }

    /// Notes that `node` reads `operand` no more, unless another of its slots does.
    fn forget_reader(&mut self, operand: Operand, node: NodeId) {
        if let Operand::Value(v) = operand
            && !self.graph.node_weight(raw(node)).is_some_and(|n| n.operands.contains(&operand))
            && let Some(readers) = self.input_readers.get_mut(&v)
        {
            readers.remove(&node);
        }
    }

    /// Removes a node whose results nobody reads; returns whether it did.
    pub fn remove(&mut self, node: NodeId) -> bool {
        let unread = self.node(node).results.iter().all(|&r| !self.is_read(r) && !self.is_output(r));
        if unread {
            if let Some(at) = self.place(node) {
                self.order.remove(at);
            }
            let gone = self.graph.remove_node(raw(node));
            for operand in gone.into_iter().flat_map(|n| n.operands) {
                self.forget_reader(operand, node);
            }
        }
        unread
    }

    /// Infers all result types again, in program order, after a parameter or input has changed its type.
    ///
    /// # Errors
    /// The first node whose rule the new types break.
    pub fn retype(&mut self, param_type: &dyn Fn(ParamId) -> Type) -> Result<(), (NodeId, TypeRule)> {
        for id in self.order.clone() {
            let types: Vec<Type> =
                self.node(id).operands.iter().map(|&o| self.operand_type(o, param_type)).collect();
            let refs: Vec<&Type> = types.iter().collect();
            let results = self.node(id).op.infer(&refs).map_err(|rule| (id, rule))?;
            for (value, ty) in self.node(id).results.clone().into_iter().zip(results) {
                self.values[value].ty = ty;
            }
        }
        Ok(())
    }

    /// The type of an operand.
    pub fn operand_type(&self, operand: Operand, param_type: &dyn Fn(ParamId) -> Type) -> Type {
        match operand {
            Operand::Value(v) => self.values[v].ty.clone(),
            Operand::Param(p) => param_type(p),
        }
    }

    /// Whether all threads reach a barrier inside an op, which a program runs as two steps.
    pub fn has_inner_barrier(&self, node: NodeId) -> bool {
        let op = self.node(node);
        let results: Vec<&Type> = op.results.iter().map(|&v| self.ty(v)).collect();
        op.op.info().units(&[], &results).is_some_and(|units| units.per.in_two_steps())
    }

    /// Barriers of a call: those that the plan has after ops, and those inside ops. `None` without a plan.
    pub fn barriers(&self) -> Option<usize> {
        let inner = self.order.iter().filter(|&&node| self.has_inner_barrier(node)).count();
        Some(self.plan.as_ref()?.barriers.len() + inner)
    }

    /// The weights that its ops read, each once.
    pub fn params_used(&self) -> Vec<ParamId> {
        let mut all: Vec<ParamId> = self
            .order
            .iter()
            .flat_map(|&n| &self.node(n).operands)
            .filter_map(|o| match o {
                Operand::Param(p) => Some(*p),
                Operand::Value(_) => None,
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    pub(crate) fn renumber_params(&mut self, new_ids: &[Option<ParamId>]) {
        for id in self.order.clone() {
            for operand in &mut self.graph[raw(id)].operands {
                if let Operand::Param(p) = operand {
                    *p = new_ids[p.index()].expect("a used parameter is kept");
                }
            }
        }
    }

    /// Puts the nodes in another order.
    ///
    /// # Errors
    /// The order given back if it is no topological order of all nodes.
    pub fn set_order(&mut self, order: Vec<NodeId>) -> Result<(), Vec<NodeId>> {
        let mut place = BTreeMap::new();
        for (i, n) in order.iter().enumerate() {
            place.insert(*n, i);
        }
        let complete = place.len() == order.len() && order.len() == self.order.len();
        let sorted = complete
            && self.graph.edge_indices().all(|e| {
                let (a, b) = self.graph.edge_endpoints(e).expect("edge of this graph");
                let at = |n: NodeIndex<u32>| place.get(&NodeId::from_index(n.index()));
                matches!((at(a), at(b)), (Some(a), Some(b)) if a < b)
            });
        match sorted {
            true => {
                self.order = order;
                self.rank();
                Ok(())
            }
            false => Err(order),
        }
    }

    /// Whether the dependences have a cycle; only a graph that was built around the builder can. Takes no stack in
    /// proportion to the graph, which may be one long chain.
    pub fn is_cyclic(&self) -> bool {
        petgraph::algo::toposort(&self.graph, None).is_err()
    }

    /// The dependences as the graph holds them: producer, reader, and the reader's operand slot.
    pub fn edges(&self) -> impl Iterator<Item = (NodeId, NodeId, u32)> + '_ {
        let id = |n: NodeIndex<u32>| NodeId::from_index(n.index());
        self.graph.edge_references().map(move |e| (id(e.source()), id(e.target()), *e.weight()))
    }

    /// Takes all edges away, which nothing but a mistake in this file could do.
    #[cfg(test)]
    pub(crate) fn forget_edges(&mut self) {
        self.graph.clear_edges();
    }
}
