//! Rules about plans: where values live, one by one. What lives where at the same time is the checker's in `passes`.

use std::collections::{HashMap, HashSet};

use super::func::cache_slots;
use super::{Rule, Scope};
use crate::entity::{NodeId, ValueId};
use crate::graph::TokenCount;
use crate::graph::{Node, Operand};
use crate::plan::{FuncPlan, Place};
use crate::storage::{ALIGN, activation_bytes, row_stride};
use crate::types::Type;

/// Most bytes of an arena, and of the private memory of a thread.
pub(crate) const MAX_ARENA: u64 = 1 << 40;

/// The bytes that a place leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bytes {
    /// The value that lives in the arena or with the caller.
    root: ValueId,
    /// From the start of its row.
    offset: u64,
    /// Whether there is a view on the way.
    viewed: bool,
}

struct Places<'p> {
    plan: &'p FuncPlan,
    bytes: HashMap<ValueId, Bytes>,
}

/// Checks the plan of a function that is sound without it.
pub(super) fn check(plan: &FuncPlan, scope: &mut Scope<'_, '_>) {
    if plan.arena_bytes > MAX_ARENA {
        scope.func(
            Rule::PlanArena,
            format!("an arena of {} bytes, the most is {MAX_ARENA}", plan.arena_bytes),
        );
    }
    if plan.private_bytes > MAX_ARENA {
        scope.func(
            Rule::PlanArena,
            format!("a private memory of {} bytes, the most is {MAX_ARENA}", plan.private_bytes),
        );
    }
    let func = scope.func;
    let mut places = Places { plan, bytes: HashMap::new() };
    for &input in func.inputs() {
        match plan.places.get(&input) {
            Some(Place::Extern) => {}
            Some(_) => {
                scope.value(Rule::PlanInput, input, "an input lives with the caller, its place is extern")
            }
            None => scope.value(Rule::PlanComplete, input, "the plan has no place for this input"),
        }
        places.bytes.insert(input, Bytes { root: input, offset: 0, viewed: false });
    }
    let outputs: HashSet<ValueId> = func.outputs().iter().copied().collect();
    for &id in func.order() {
        if scope.errors.full() {
            return;
        }
        places.visit(scope, func.node(id), &outputs);
        places.replicated(scope, id);
    }
    let live: HashSet<ValueId> = func.values().collect();
    for value in plan.places.keys().filter(|v| !live.contains(v)) {
        scope.value(Rule::PlanComplete, *value, "the plan has a place for a value that the function has not");
    }
    let ops: HashSet<NodeId> = func.order().iter().copied().collect();
    for node in plan.barriers.iter().filter(|n| !ops.contains(n)) {
        scope.node(Rule::PlanComplete, *node, "the plan has a barrier at an op that the function has not");
    }
}

impl Places<'_> {
    fn visit(&mut self, scope: &mut Scope<'_, '_>, node: &Node, outputs: &HashSet<ValueId>) {
        let mut part_offset = 0;
        for (i, &result) in node.results.iter().enumerate() {
            let ty = scope.func.ty(result);
            let place = self.plan.places.get(&result).copied();
            let Some(place) = place else {
                scope.value(Rule::PlanComplete, result, "the plan has no place for this value");
                self.bytes.insert(result, Bytes { root: result, offset: 0, viewed: false });
                continue;
            };
            let updated = cache_slots(node.op.info())
                .find(|(.., r)| *r == Some(i))
                .map(|(slot, ..)| node.operands[slot]);
            let checked = match updated {
                Some(cache) => self.cache(place, cache),
                None if node.op.info().is_view() => self.part(place, node.operands[0], part_offset),
                None => self.stored(scope, place, ty, outputs.contains(&result)),
            };
            if let Err((rule, message)) = checked {
                scope.value(rule, result, message);
            }
            if let (Some(rows), Some(element)) = (ty.as_rows(), ty.dtype.element_bytes()) {
                part_offset += u64::from(rows.width) * u64::from(element);
            }
            let own = Bytes { root: result, offset: 0, viewed: false };
            let bytes = self.follow(place).unwrap_or(own);
            self.bytes.insert(result, bytes);
        }
    }

    /// All results of a replicated op are private, and it is an op that may be replicated, for one token.
    fn replicated(&self, scope: &mut Scope<'_, '_>, id: NodeId) {
        let node = scope.func.node(id);
        let private = |v: &&ValueId| {
            let root = self.bytes.get(v).and_then(|b| self.plan.places.get(&b.root));
            matches!(root, Some(Place::Private { .. }))
        };
        let count = node.results.iter().filter(private).count();
        if count == 0 || node.op.info().is_view() {
            return;
        }
        if !node.op.info().can_replicate() || count < node.results.len() {
            let message = "this op cannot be replicated, so its results cannot be private";
            scope.node(Rule::PlanPrivate, id, message);
        } else if scope.func.tokens() != TokenCount::One {
            let message = "ops are replicated only where a call has one token";
            scope.node(Rule::PlanPrivate, id, message);
        }
    }

    /// The bytes of a view or alias of a value that came before.
    fn follow(&self, place: Place) -> Option<Bytes> {
        match place {
            Place::Arena { .. } | Place::Private { .. } | Place::Extern => None,
            Place::Alias { of } => self.bytes.get(&of).copied(),
            Place::View { of, offset } => {
                let bytes = self.bytes.get(&of)?;
                Some(Bytes { offset: bytes.offset.checked_add(offset)?, viewed: true, ..*bytes })
            }
        }
    }

    fn cache(&self, place: Place, operand: Operand) -> Result<(), (Rule, String)> {
        let Operand::Value(cache) = operand else { return Ok(()) };
        match place {
            Place::Alias { .. } if self.follow(place) == self.bytes.get(&cache).copied() => Ok(()),
            _ => Err((Rule::PlanCache, "an updated cache is an alias of the cache operand".to_owned())),
        }
    }

    fn part(&self, place: Place, operand: Operand, offset: u64) -> Result<(), (Rule, String)> {
        let Operand::Value(whole) = operand else { return Ok(()) };
        let expected = self.follow(Place::View { of: whole, offset });
        match place {
            Place::View { .. } if expected.is_some() && self.follow(place) == expected => Ok(()),
            _ => {
                let message = format!("a part of a split is a view of the split operand, here at +{offset}");
                Err((Rule::PlanView, message))
            }
        }
    }

    /// The place of an activation that its op stores.
    fn stored(
        &self,
        scope: &mut Scope<'_, '_>,
        place: Place,
        ty: &Type,
        output: bool,
    ) -> Result<(), (Rule, String)> {
        let most = scope.func.tokens().max();
        if output != (place == Place::Extern) {
            let message = match output {
                true => "an output that is no cache lives with the caller, its place is extern",
                false => "a value that is not returned cannot live with the caller",
            };
            return Err((Rule::PlanOutput, message.to_owned()));
        }
        match place {
            Place::Extern => Ok(()),
            Place::Arena { offset, size } | Place::Private { offset, size } => {
                let (room, memory) = match place {
                    Place::Private { .. } => (self.plan.private_bytes, "the private memory"),
                    _ => (self.plan.arena_bytes, "the arena"),
                };
                let needed = activation_bytes(ty, most);
                let within = offset.checked_add(size).is_some_and(|end| end <= room);
                let message = if !offset.is_multiple_of(ALIGN) {
                    format!("offset {offset} is no multiple of {ALIGN}")
                } else if needed.is_none_or(|n| size < n) {
                    format!(
                        "{size} bytes for {ty}, which takes {} for {most} tokens",
                        needed.unwrap_or_default()
                    )
                } else if !within {
                    format!("{offset}+{size} does not lie in {memory} of {room} bytes")
                } else {
                    return Ok(());
                };
                Err((Rule::PlanArena, message))
            }
            Place::View { .. } => Err((Rule::PlanView, "only parts of a split are views".to_owned())),
            Place::Alias { of } => {
                let bytes = self.bytes.get(&of);
                let root = bytes.and_then(|b| self.plan.places.get(&b.root));
                let Some((bytes, Place::Arena { .. } | Place::Private { .. })) = bytes.zip(root) else {
                    return Err((Rule::PlanAlias, "an alias is of an earlier value in the arena".to_owned()));
                };
                let other = scope.func.ty(of);
                let equal =
                    row_stride(ty).is_some() && activation_bytes(ty, most) == activation_bytes(other, most);
                match (equal, bytes.viewed) {
                    (true, false) => Ok(()),
                    (true, true) if ty == other => Ok(()),
                    (true, true) => Err((
                        Rule::PlanAlias,
                        format!("an alias of a part of a row, {other}, must have its type, not {ty}"),
                    )),
                    (false, _) => {
                        Err((Rule::PlanAlias, format!("{ty} does not take as many bytes as {other}")))
                    }
                }
            }
        }
    }
}
