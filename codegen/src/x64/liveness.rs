//! Where virtual registers are live, as ranges of positions.
//!
//! Instruction i reads at position 2i and writes at 2i + 1, so a register that is read for the last time by the
//! instruction that writes another one can be the same physical register.

use super::mach::{Code, Inst, Use};

/// A half-open range of positions.
pub(super) type Range = (u32, u32);

/// For each virtual register the ranges in which it is live, rising and disjoint.
pub(super) fn live_ranges(code: &Code) -> Vec<Vec<Range>> {
    let blocks = Blocks::of(code);
    let live_out = blocks.live_out(code);
    let mut ranges: Vec<Vec<Range>> = vec![Vec::new(); code.classes.len()];
    let mut open: Vec<Option<u32>> = vec![None; code.classes.len()];
    for (block, out) in blocks.bounds.iter().zip(&live_out).rev() {
        let (start, end) = (2 * block.0 as u32, 2 * block.1 as u32);
        for v in out.iter() {
            open[v] = Some(end);
        }
        let mut live: Vec<usize> = out.iter().collect();
        for i in (block.0..block.1).rev() {
            let at = 2 * i as u32;
            // Reads are visited first but come before the writes in time, so the writes are closed first.
            let mut reads = Vec::new();
            code.insts[i].registers(|v, how| match how {
                Use::Write => {
                    let end = open[v.index()].take().unwrap_or(at + 2);
                    ranges[v.index()].push((at + 1, end));
                }
                Use::Read => reads.push((v.index(), at + 1)),
                Use::ReadWrite => reads.push((v.index(), at + 2)),
            });
            for (v, end) in reads {
                if open[v].is_none() {
                    open[v] = Some(end);
                    live.push(v);
                }
            }
        }
        for v in live {
            if let Some(end) = open[v].take() {
                ranges[v].push((start, end));
            }
        }
    }
    for list in &mut ranges {
        list.reverse();
        list.dedup_by(|next, last| {
            let touches = next.0 <= last.1;
            if touches {
                last.1 = last.1.max(next.1);
            }
            touches
        });
    }
    ranges
}

/// A set of small numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(n: usize) -> Self {
        Self(vec![0; n.div_ceil(64)])
    }
    fn insert(&mut self, i: usize) {
        self.0[i / 64] |= 1 << (i % 64);
    }
    fn contains(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 == 1
    }
    /// Adds `other` without `except`; whether anything is new.
    fn add(&mut self, other: &Bits, except: &Bits) -> bool {
        let mut changed = false;
        for ((own, new), not) in self.0.iter_mut().zip(&other.0).zip(&except.0) {
            let sum = *own | (new & !not);
            changed |= sum != *own;
            *own = sum;
        }
        changed
    }
    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(word, &bits)| {
            std::iter::successors(Some(bits), |b| Some(b & b.wrapping_sub(1)))
                .take_while(|&b| b != 0)
                .map(move |b| 64 * word + b.trailing_zeros() as usize)
        })
    }
}

/// The basic blocks.
struct Blocks {
    /// First instruction, and the one after the last.
    bounds: Vec<(usize, usize)>,
    successors: Vec<Vec<usize>>,
}

impl Blocks {
    fn of(code: &Code) -> Self {
        let n = code.insts.len();
        let mut leader = vec![false; n + 1];
        leader[0] = true;
        leader[n] = true;
        for (i, inst) in code.insts.iter().enumerate() {
            match inst {
                Inst::Label(_) | Inst::LoopStart { .. } => leader[i] = true,
                Inst::Jump { .. } => leader[i + 1] = true,
                _ => {}
            }
        }
        let starts: Vec<usize> = (0..=n).filter(|&i| leader[i]).collect();
        let bounds: Vec<(usize, usize)> = starts.windows(2).map(|w| (w[0], w[1])).collect();
        let mut block_of = vec![0; code.labels as usize];
        for (b, &(start, _)) in bounds.iter().enumerate() {
            if let Inst::Label(label) | Inst::LoopStart { label } = code.insts[start] {
                block_of[label.0 as usize] = b;
            }
        }
        let successors = bounds
            .iter()
            .enumerate()
            .map(|(b, &(_, end))| {
                let mut next = Vec::new();
                let mut falls = true;
                if let Some(Inst::Jump { opcode, target }) = end.checked_sub(1).map(|i| &code.insts[i]) {
                    next.push(block_of[target.0 as usize]);
                    falls = *opcode != iced_x86::Code::Jmp_rel32_64;
                }
                if falls && b + 1 < bounds.len() {
                    next.push(b + 1);
                }
                next
            })
            .collect();
        Self { bounds, successors }
    }

    fn live_out(&self, code: &Code) -> Vec<Bits> {
        let n = code.classes.len();
        let mut reads = vec![Bits::new(n); self.bounds.len()];
        let mut writes = reads.clone();
        for (b, &(start, end)) in self.bounds.iter().enumerate() {
            for inst in &code.insts[start..end] {
                inst.registers(|v, how| {
                    if how != Use::Write && !writes[b].contains(v.index()) {
                        reads[b].insert(v.index());
                    }
                    if how != Use::Read {
                        writes[b].insert(v.index());
                    }
                });
            }
        }
        let none = Bits::new(n);
        let mut live_in = reads;
        let mut live_out = vec![none.clone(); self.bounds.len()];
        let mut changed = true;
        while changed {
            changed = false;
            for b in (0..self.bounds.len()).rev() {
                for &next in &self.successors[b] {
                    changed |= live_out[b].add(&live_in[next], &none);
                }
                changed |= live_in[b].add(&live_out[b], &writes[b]);
            }
        }
        live_out
    }
}
