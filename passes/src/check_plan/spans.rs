//! The extents of values, found by the bytes that they cover, in time that does not grow with how many there are.
//!
//! Extents are kept by region and by length, in classes of lengths that differ by less than a factor of two, each sorted by
//! start. Those of a class that reach into some bytes start at most the class' greatest length before them, so all but two
//! that are looked at do reach into them. What reaches into them and has no byte in common (parts of the same rows) is
//! bounded by [`bitnetc_ir::limits::MAX_PARTS`].

use std::collections::BTreeMap;

use bitnetc_ir::{Entity, ValueId};

use super::{Extent, Region};

/// A set of values with their extents.
#[derive(Debug, Default)]
pub(super) struct Spans {
    /// By region and class of length; then by start and value.
    classes: BTreeMap<(Region, u32), BTreeMap<(u64, ValueId), Extent>>,
}

/// The base-2 logarithm of the length, rounded down.
fn class(extent: &Extent) -> u32 {
    (extent.end() - extent.start).max(1).ilog2()
}

impl Spans {
    /// Adds a value; once more changes nothing.
    pub(super) fn insert(&mut self, value: ValueId, extent: Extent) {
        let of_class = self.classes.entry((extent.region, class(&extent))).or_default();
        of_class.insert((extent.start, value), extent);
    }

    /// Removes a value that was added with this extent.
    pub(super) fn remove(&mut self, value: ValueId, extent: &Extent) {
        let key = (extent.region, class(extent));
        if let Some(of_class) = self.classes.get_mut(&key) {
            of_class.remove(&(extent.start, value));
            if of_class.is_empty() {
                self.classes.remove(&key);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.classes.clear();
    }

    /// The values whose extents meet `extent`.
    pub(super) fn meeting<'a>(&'a self, extent: &'a Extent) -> impl Iterator<Item = ValueId> + 'a {
        let classes = self.classes.range((extent.region, 0)..=(extent.region, u64::BITS));
        classes.flat_map(move |(&(_, class), of_class)| {
            let longest = 2u64.checked_pow(class + 1).unwrap_or(u64::MAX);
            let first = (extent.start.saturating_sub(longest), ValueId::from_index(0));
            let near = of_class.range(first..).take_while(|((start, _), _)| *start < extent.end());
            near.filter(|(_, other)| other.meets(extent)).map(|(&(_, value), _)| value)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bitnetc_ir::random::SplitMix;

    use super::*;

    #[test]
    fn the_same_is_found_as_by_looking_at_all() {
        let mut rng = SplitMix::new(7);
        let mut found = 0;
        for _ in 0..200 {
            let mut spans = Spans::default();
            let mut all: BTreeMap<ValueId, Extent> = BTreeMap::new();
            let extent = |rng: &mut SplitMix| {
                let most = 1 << rng.below(12);
                let stride = 1 + rng.below(most) as u64;
                let region = if rng.below(4) == 0 { Region::Private } else { Region::Arena };
                let row = 1 + rng.below(stride as usize) as u64;
                Extent { region, start: rng.below(4096) as u64, row, stride, rows: 1 + rng.below(5) as u64 }
            };
            for i in 0..100 {
                let value = ValueId::from_index(i);
                let added = extent(&mut rng);
                spans.insert(value, added);
                all.insert(value, added);
                if rng.below(3) == 0 {
                    let gone = ValueId::from_index(rng.below(i + 1));
                    if let Some(extent) = all.remove(&gone) {
                        spans.remove(gone, &extent);
                    }
                }
                let asked = extent(&mut rng);
                let got: BTreeSet<ValueId> = spans.meeting(&asked).collect();
                let expected = all.iter().filter(|(_, e)| e.meets(&asked)).map(|(&v, _)| v);
                assert_eq!(got, expected.collect(), "{asked:?} in {all:?}");
                found += got.len();
            }
        }
        assert!(found > 10_000, "{found}");
    }
}
