//! Where vector constants live: in a register for the length of an innermost loop, otherwise in memory after the code.
//!
//! A constant that an innermost loop uses is loaded in front of the loop. Where that asks for more registers than there
//! are, register allocation names the loop, and the constant that it uses least becomes a memory operand (embedded
//! broadcast for 512 bits) of the instructions that can have one.

use std::collections::{BTreeMap, BTreeSet};

use super::mach::{Class, Code, Constant, Inst, Memory, MemoryForm, Operand, Place, PoolEntry, Width, loops};

/// A constant in an innermost loop, by the loop's number.
pub(super) type Hoist = (usize, Constant);

/// What the constants of a loop need: for each, how often it is read, and whether always where memory may stand.
pub(super) type Demand = BTreeMap<Hoist, (u32, bool)>;

/// Gives every constant operand its place, in `demoted` loops memory. Returns what is in registers.
pub(super) fn place(code: &mut Code, wide: bool, demoted: &BTreeSet<Hoist>) -> Demand {
    let (ranges, _) = loops(&code.insts);
    let mut loop_of = vec![None; code.insts.len()];
    for (number, range) in ranges.iter().enumerate().filter(|(_, r)| r.innermost) {
        loop_of[range.start..=range.end].fill(Some(number));
    }
    let mut demand = Demand::new();
    for (inst, number) in code.insts.iter().zip(&loop_of) {
        if let (Inst::Op(op), Some(number)) = (inst, number) {
            for (i, operand) in op.operands.iter().enumerate() {
                if let Operand::Constant(constant) = *operand
                    && !demoted.contains(&(*number, constant))
                {
                    let (reads, foldable) = demand.entry((*number, constant)).or_insert((0, true));
                    *reads += 1;
                    *foldable &= op.memory.is_some_and(|(at, _)| at == i);
                }
            }
        }
    }
    let registers: BTreeMap<Hoist, _> =
        demand.keys().map(|&hoist| (hoist, code.new_reg(Class::Vector))).collect();
    let width = if wide { Width::Zmm } else { Width::Ymm };
    let mut placed = Vec::with_capacity(code.insts.len() + registers.len());
    for (at, mut inst) in std::mem::take(&mut code.insts).into_iter().enumerate() {
        let number = loop_of[at];
        if let (Inst::LoopStart { .. }, Some(number)) = (&inst, number) {
            for (&(_, constant), &dst) in
                registers.range((number, Constant::Splat(0))..).take_while(|(h, _)| h.0 == number)
            {
                placed.push(Inst::Constant { dst, constant });
            }
        }
        if let Inst::Op(op) = &mut inst {
            for i in 0..op.operands.len() {
                let Operand::Constant(constant) = op.operands[i] else { continue };
                if let Some(&reg) = number.and_then(|n| registers.get(&(n, constant))) {
                    op.operands[i] = Operand::Reg(reg, width);
                } else if let Some((_, form)) = op.memory.filter(|(at, _)| *at == i) {
                    op.operands[i] = Operand::Memory(in_memory(constant, form, wide));
                } else {
                    let dst = code.new_reg(Class::Vector);
                    placed.push(Inst::Constant { dst, constant });
                    op.operands[i] = Operand::Reg(dst, width);
                }
            }
        }
        placed.push(inst);
    }
    code.insts = placed;
    demand
}

fn in_memory(constant: Constant, form: MemoryForm, wide: bool) -> Memory {
    match (constant, form) {
        (Constant::Splat(word), MemoryForm::Broadcast) => {
            Memory { place: Place::Pool(PoolEntry::Dword(word)), broadcast: true }
        }
        _ => Memory {
            place: Place::Pool(PoolEntry::Vector(constant, if wide { 16 } else { 8 })),
            broadcast: false,
        },
    }
}
