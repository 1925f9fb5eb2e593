//! Register allocation: linear scan over live ranges with holes, after copies have been coalesced.
//!
//! Registers that a copy connects and that are never live at once become one *bundle*; so accumulators of a loop stay
//! where they are. Bundles are assigned in the order of their starts. Where none is free, the cheapest one moves to the
//! frame for all of its life and everything is done again. What a loop yields may be kept apart from what it carries, so
//! that it can wait in the frame while another loop runs. A vector or mask that an innermost loop reads or writes is
//! never moved: such a kernel is refused, and [`Pressure`] says where.

use std::collections::BTreeMap;

use super::liveness::{Range, live_ranges};
use super::mach::{Class, Code, Inst, Slot, Use, VReg, loops};

/// Physical registers of a class, as numbers.
pub(super) type Assignment = Vec<u8>;

/// More registers are needed at once than there are, in a place where none can move to the frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    pub(super) needed: usize,
    pub(super) available: usize,
    /// The numbers of the innermost loops that the value without a register is live in.
    pub(super) in_loops: Vec<usize>,
}

/// General registers in the order in which they are taken: those that the caller saves first. `rsp` is not there.
pub(super) const GENERAL: [u8; 15] = [0, 1, 2, 6, 7, 8, 9, 10, 11, 3, 5, 12, 13, 14, 15];

/// k0 means "no mask", so it is never assigned.
const MASKS: [u8; 7] = [1, 2, 3, 4, 5, 6, 7];

/// Rounds of spilling after which something is wrong.
const ROUNDS: usize = 200;

struct Bundle {
    class: Class,
    ranges: Vec<Range>,
    members: Vec<VReg>,
    weight: f64,
}

/// Assigns a physical register to every virtual one, changing `code` where values move to the frame. `split` keeps the
/// results of loops apart from what the loops carry.
pub(super) fn allocate(code: &mut Code, wide: bool, split: bool) -> Result<Assignment, Pressure> {
    let vectors: Vec<u8> = (0..if wide { 32 } else { 16 }).collect();
    let original = code.classes.len();
    for _ in 0..ROUNDS {
        let bundles = bundles(code, original, split);
        let mut scan = Scan { registers: Default::default(), vectors: &vectors, bundles: &bundles };
        match scan.run() {
            Ok(of_bundle) => {
                let mut assignment = vec![0; code.classes.len()];
                for (bundle, reg) in bundles.iter().zip(of_bundle) {
                    for member in &bundle.members {
                        assignment[member.index()] = reg;
                    }
                }
                return Ok(assignment);
            }
            Err(Outcome::Spill(victims)) => {
                for victim in victims {
                    spill(code, &bundles[victim], wide);
                }
            }
            Err(Outcome::Full(bundle)) => {
                let Bundle { class, ref ranges, .. } = bundles[bundle];
                let at = ranges[0].0;
                let live = |b: &&Bundle| b.class == class && b.ranges.iter().any(|r| r.0 <= at && at < r.1);
                let (loop_ranges, _) = loops(&code.insts);
                let inside = loop_ranges.iter().enumerate().filter(|(_, l)| {
                    l.innermost && overlap(ranges, &[(2 * l.start as u32, 2 * l.end as u32 + 2)])
                });
                return Err(Pressure {
                    needed: bundles.iter().filter(live).count(),
                    available: registers_of(class, &vectors).len(),
                    in_loops: inside.map(|(number, _)| number).collect(),
                });
            }
        }
    }
    Err(Pressure::default())
}

fn registers_of(class: Class, vectors: &[u8]) -> &[u8] {
    match class {
        Class::General => &GENERAL,
        Class::Vector => vectors,
        Class::Mask => &MASKS,
    }
}

fn overlap(a: &[Range], b: &[Range]) -> bool {
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        if a[i].1 <= b[j].0 {
            i += 1;
        } else if b[j].1 <= a[i].0 {
            j += 1;
        } else {
            return true;
        }
    }
    false
}

/// The bundles of all registers that are live anywhere, in the order of their starts. Registers from `original` on were
/// made by spilling and are never moved again.
fn bundles(code: &Code, original: usize, split: bool) -> Vec<Bundle> {
    let mut ranges = live_ranges(code);
    let (loop_ranges, depths) = loops(&code.insts);
    let mut pinned = vec![false; code.insts.len()];
    for range in loop_ranges.iter().filter(|r| r.innermost) {
        pinned[range.start..=range.end].fill(true);
    }
    let mut weights = vec![0.0; code.classes.len()];
    let mut copies = Vec::new();
    for (i, inst) in code.insts.iter().enumerate() {
        let cost = 8f64.powi(depths[i] as i32);
        inst.registers(|v, _| {
            let fixed = v.index() >= original || (pinned[i] && code.class(v) != Class::General);
            weights[v.index()] += if fixed { f64::INFINITY } else { cost };
        });
        if let Inst::Copy { dst, src } = *inst
            && !(split && code.loop_results.contains(&dst))
        {
            copies.push((std::cmp::Reverse(depths[i]), i, dst, src));
        }
    }
    // Union-find; a bundle's ranges are kept at its representative.
    let mut parent: Vec<usize> = (0..code.classes.len()).collect();
    fn find(parent: &mut [usize], mut v: usize) -> usize {
        while parent[v] != v {
            parent[v] = parent[parent[v]];
            v = parent[v];
        }
        v
    }
    copies.sort_by_key(|c| (c.0, c.1));
    for (_, _, dst, src) in copies {
        let (a, b) = (find(&mut parent, dst.index()), find(&mut parent, src.index()));
        if a != b && !overlap(&ranges[a], &ranges[b]) {
            parent[b] = a;
            let mut merged = std::mem::take(&mut ranges[a]);
            merged.append(&mut ranges[b]);
            merged.sort_unstable();
            ranges[a] = merged;
        }
    }
    let mut found: BTreeMap<usize, Bundle> = BTreeMap::new();
    for (v, &weight) in weights.iter().enumerate() {
        let root = find(&mut parent, v);
        if ranges[root].is_empty() {
            continue;
        }
        let bundle = found.entry(root).or_insert_with(|| Bundle {
            class: code.classes[root],
            ranges: std::mem::take(&mut ranges[root]),
            members: Vec::new(),
            weight: 0.0,
        });
        // The ranges of the representative have moved into the bundle; mark them as taken, not as dead.
        ranges[root] = vec![(0, 0)];
        bundle.members.push(VReg(v as u32));
        bundle.weight += weight;
    }
    let mut bundles: Vec<Bundle> = found.into_values().collect();
    for bundle in &mut bundles {
        let length: u32 = bundle.ranges.iter().map(|r| r.1 - r.0).sum();
        bundle.weight /= f64::from(length.max(1));
    }
    bundles.sort_by_key(|b| b.ranges[0].0);
    bundles
}

enum Outcome {
    /// These bundles move to the frame.
    Spill(Vec<usize>),
    /// There is no register for this bundle.
    Full(usize),
}

/// Registers of a class, at most.
const REGISTERS: usize = 32;

/// A range of a register that is occupied, from its start on to its end, and the bundle that is there.
type Occupied = (u32, u32, usize);

struct Scan<'a> {
    /// Of each class and physical register, in the order of their starts; none overlap.
    registers: [[Vec<Occupied>; REGISTERS]; 3],
    vectors: &'a [u8],
    bundles: &'a [Bundle],
}

impl Scan<'_> {
    fn run(&mut self) -> Result<Vec<u8>, Outcome> {
        let mut assigned = vec![0; self.bundles.len()];
        let mut spilled = Vec::new();
        for (number, bundle) in self.bundles.iter().enumerate() {
            let class = bundle.class;
            let candidates = registers_of(class, self.vectors).to_vec();
            let free = candidates.iter().copied().find(|&reg| self.is_free(class, reg, number));
            if let Some(reg) = free {
                self.occupy(class, reg, number);
                assigned[number] = reg;
                continue;
            }
            let own = bundle.weight;
            let cheapest = candidates
                .iter()
                .map(|&reg| {
                    let losers = self.conflicts(class, reg, number);
                    (losers.iter().map(|&b| self.bundles[b].weight).sum::<f64>(), reg, losers)
                })
                .min_by(|a, b| a.0.total_cmp(&b.0));
            match cheapest {
                Some((cost, reg, losers)) if cost < own && cost.is_finite() => {
                    for &loser in &losers {
                        self.vacate(class, reg, loser);
                    }
                    spilled.extend(losers);
                    self.occupy(class, reg, number);
                    assigned[number] = reg;
                }
                _ if own.is_finite() => spilled.push(number),
                _ if !spilled.is_empty() => return Err(Outcome::Spill(spilled)),
                _ => return Err(Outcome::Full(number)),
            }
        }
        if spilled.is_empty() { Ok(assigned) } else { Err(Outcome::Spill(spilled)) }
    }

    fn occupied(&self, class: Class, reg: u8) -> &[Occupied] {
        &self.registers[class as usize][usize::from(reg)]
    }

    /// What of `occupied` overlaps the range.
    fn overlapping(occupied: &[Occupied], (start, end): Range) -> &[Occupied] {
        let later = occupied.partition_point(|o| o.0 < start);
        let first = later - usize::from(later > 0 && occupied[later - 1].1 > start);
        let length = occupied[first..].iter().take_while(|o| o.0 < end).count();
        &occupied[first..first + length]
    }

    /// Whether no bundle in `reg` is live where `number` is.
    fn is_free(&self, class: Class, reg: u8, number: usize) -> bool {
        let occupied = self.occupied(class, reg);
        self.bundles[number].ranges.iter().all(|&range| Self::overlapping(occupied, range).is_empty())
    }

    /// The bundles in `reg` that are live where `number` is.
    fn conflicts(&self, class: Class, reg: u8, number: usize) -> Vec<usize> {
        let occupied = self.occupied(class, reg);
        let mut found = Vec::new();
        for &range in &self.bundles[number].ranges {
            for &(_, _, bundle) in Self::overlapping(occupied, range) {
                if !found.contains(&bundle) {
                    found.push(bundle);
                }
            }
        }
        found
    }

    fn occupy(&mut self, class: Class, reg: u8, number: usize) {
        let occupied = &mut self.registers[class as usize][usize::from(reg)];
        for &(start, end) in &self.bundles[number].ranges {
            let at = occupied.partition_point(|o| o.0 < start);
            occupied.insert(at, (start, end, number));
        }
    }

    fn vacate(&mut self, class: Class, reg: u8, number: usize) {
        self.registers[class as usize][usize::from(reg)].retain(|o| o.2 != number);
    }
}

/// Moves a bundle to the frame: every instruction that uses it gets a register of its own for the length of the use.
fn spill(code: &mut Code, bundle: &Bundle, wide: bool) {
    let slot: Slot = code.new_slot(match bundle.class {
        Class::Vector if wide => 64,
        Class::Vector => 32,
        _ => 8,
    });
    let member = |v: VReg| bundle.members.contains(&v);
    let mut spilled = Vec::with_capacity(code.insts.len());
    for mut inst in std::mem::take(&mut code.insts) {
        if let Inst::Copy { dst, src } = inst
            && (member(dst) || member(src))
        {
            match (member(dst), member(src)) {
                (true, true) => {}
                (true, false) => spilled.push(Inst::Spill { src, slot }),
                _ => spilled.push(Inst::Reload { dst, slot }),
            }
            continue;
        }
        let (mut read, mut written) = (false, false);
        inst.registers(|v, how| {
            if member(v) {
                read |= how != Use::Write;
                written |= how != Use::Read;
            }
        });
        if !read && !written {
            spilled.push(inst);
            continue;
        }
        let own = code.new_reg(bundle.class);
        inst.rename(|v| if member(v) { own } else { v });
        if read {
            spilled.push(Inst::Reload { dst: own, slot });
        }
        spilled.push(inst);
        if written {
            spilled.push(Inst::Spill { src: own, slot });
        }
    }
    code.insts = spilled;
}
