//! Which bytes of a memory are taken at which times, for the planner: ranges are added with the time for which they live, and
//! asked for by time.
//!
//! Of the ranges that live at some time of a life, each is alive at its start or is born later. Those that are born at a time
//! are found by it; those that are alive at a time by a segment tree over times, which has each range at a logarithm of nodes
//! as many as the times that it lives through. Ranges that touch are one, so that any number of values that live alike cost
//! as much as one.

use std::collections::BTreeMap;

/// The first and the last time at which something is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) born: u32,
    pub(super) died: u32,
}

/// Ranges of bytes that neither overlap nor touch, by start.
#[derive(Clone, Debug, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn add(&mut self, mut start: u64, mut end: u64) {
        while let Some((&s, &e)) = self.0.range(..=end).next_back().filter(|&(_, &e)| e >= start) {
            (start, end) = (start.min(s), end.max(e));
            self.0.remove(&s);
        }
        self.0.insert(start, end);
    }
    fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(&start, &end)| (start, end))
    }
}

/// The ranges that are taken.
#[derive(Debug)]
pub(super) struct Occupied {
    /// A power of two, at least the times that there are.
    times: usize,
    by_birth: BTreeMap<u32, Ranges>,
    /// Nodes of the tree, the root at 1, the children of `i` at `2i` and `2i + 1`.
    alive: Vec<Ranges>,
}

impl Occupied {
    /// Nothing is taken at any of `times` times.
    pub(super) fn new(times: usize) -> Self {
        let times = times.max(1).next_power_of_two();
        Self { times, by_birth: BTreeMap::new(), alive: vec![Ranges::default(); 2 * times] }
    }

    /// Takes the bytes from `start` to `end` for `life`.
    pub(super) fn add(&mut self, start: u64, end: u64, life: Life) {
        self.by_birth.entry(life.born).or_default().add(start, end);
        let (mut low, mut high) = (self.times + life.born as usize, self.times + life.died as usize + 1);
        while low < high {
            if low % 2 == 1 {
                self.alive[low].add(start, end);
                low += 1;
            }
            if high % 2 == 1 {
                high -= 1;
                self.alive[high].add(start, end);
            }
            (low, high) = (low / 2, high / 2);
        }
    }

    /// All bytes that are taken at some time of `life`, in no order, perhaps several times.
    pub(super) fn during(&self, life: Life) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        let mut node = self.times + life.born as usize;
        while node > 0 {
            found.extend(self.alive[node].iter());
            node /= 2;
        }
        if life.born < life.died {
            found
                .extend(self.by_birth.range(life.born + 1..=life.died).flat_map(|(_, ranges)| ranges.iter()));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use bitnetc_ir::random::SplitMix;

    use super::*;

    #[test]
    fn the_same_bytes_are_found_as_by_looking_at_all() {
        let mut rng = SplitMix::new(5);
        for times in [1, 2, 3, 17, 64] {
            let life = |rng: &mut SplitMix| {
                let (a, b) = (rng.below(times) as u32, rng.below(times) as u32);
                Life { born: a.min(b), died: a.max(b) }
            };
            let mut occupied = Occupied::new(times);
            let mut all: Vec<(u64, u64, Life)> = Vec::new();
            for _ in 0..200 {
                let start = rng.below(500) as u64;
                let (end, of) = (start + 1 + rng.below(20) as u64, life(&mut rng));
                occupied.add(start, end, of);
                all.push((start, end, of));
                let asked = life(&mut rng);
                let found = occupied.during(asked);
                for byte in 0..520 {
                    let taken = all.iter().any(|&(start, end, other)| {
                        (start..end).contains(&byte) && other.born <= asked.died && asked.born <= other.died
                    });
                    assert_eq!(found.iter().any(|&(s, e)| (s..e).contains(&byte)), taken, "{byte} {asked:?}");
                }
            }
        }
    }

    #[test]
    fn values_that_live_alike_are_one_range() {
        let mut occupied = Occupied::new(8);
        for i in (0..1000).rev() {
            occupied.add(64 * i, 64 * (i + 1), Life { born: 2, died: 5 });
        }
        assert_eq!(occupied.during(Life { born: 4, died: 7 }), [(0, 64_000)]);
    }
}
