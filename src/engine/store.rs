//! The store: beginnings of texts whose sequences were reassigned, in a bounded amount of memory.
//!
//! The prefixes of each salt are sorted by their tokens, like words in a dictionary. The prefix that shares the most tokens with a
//! prompt is adjacent to the position at which the prompt itself would be sorted in, so a look-up is a search in a sorted list.
//!
//! Invariants: `bytes` is the sum of the prefixes' sizes and at most `limit`; `ages` has each prefix once, under the number of its
//! latest use; no prefix is the beginning of another one of the same salt.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bitnetc_runtime::prefix::Prefix;

use super::prefix::common_prefix;
use super::request::Salt;

type Tokens = Arc<[u32]>;

#[derive(Debug)]
struct Entry {
    prefix: Arc<Prefix>,
    used: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    limit: u64,
    bytes: u64,
    uses: u64,
    salts: BTreeMap<Option<Salt>, BTreeMap<Tokens, Entry>>,
    ages: BTreeMap<u64, (Option<Salt>, Tokens)>,
}

impl Store {
    /// For at most so many bytes.
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, bytes: 0, uses: 0, salts: BTreeMap::new(), ages: BTreeMap::new() }
    }

    /// Bytes that it may hold.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Prefixes that it holds.
    pub(super) fn len(&self) -> usize {
        self.ages.len()
    }

    /// The prefix of `salt` that shares the longest beginning with `prompt`, and the length of that.
    fn nearest(&self, salt: Option<Salt>, prompt: &[u32]) -> Option<(usize, &Tokens)> {
        let entries = self.salts.get(&salt)?;
        let before = entries.range::<[u32], _>((Bound::Unbounded, Bound::Included(prompt))).next_back();
        let after = entries.range::<[u32], _>((Bound::Excluded(prompt), Bound::Unbounded)).next();
        let shared = [before, after].into_iter().flatten().map(|(key, _)| (common_prefix(key, prompt), key));
        shared.max_by_key(|&(shared, _)| shared)
    }

    /// Length of the longest beginning of `prompt` that is kept for `salt`.
    pub(super) fn longest(&self, salt: Option<Salt>, prompt: &[u32]) -> usize {
        self.nearest(salt, prompt).map_or(0, |(shared, _)| shared)
    }

    /// The prefix with this beginning, which counts as used.
    pub(super) fn take(&mut self, salt: Option<Salt>, prompt: &[u32]) -> Option<Arc<Prefix>> {
        let key = Arc::clone(self.nearest(salt, prompt)?.1);
        let entry = self.salts.get_mut(&salt)?.get_mut(&key)?;
        self.uses += 1;
        self.ages.remove(&std::mem::replace(&mut entry.used, self.uses));
        self.ages.insert(self.uses, (salt, key));
        Some(Arc::clone(&entry.prefix))
    }

    /// Keeps a prefix. What was not used for longest makes room; one that is larger than all the room is not kept, nor one that
    /// is the beginning of another.
    pub(super) fn insert(&mut self, salt: Option<Salt>, prefix: Prefix) {
        let tokens = Arc::clone(prefix.tokens());
        if prefix.size() > self.limit || self.longest(salt, &tokens) == tokens.len() {
            return;
        }
        self.make_room(salt, &tokens, prefix.size());
        self.uses += 1;
        self.bytes += prefix.size();
        self.ages.insert(self.uses, (salt, Arc::clone(&tokens)));
        let entry = Entry { prefix: Arc::new(prefix), used: self.uses };
        self.salts.entry(salt).or_default().insert(tokens, entry);
    }

    /// Removes what a prefix of so many bytes with these tokens takes the place of, so that it fits: its beginnings, and then
    /// what was not used for longest.
    pub(super) fn make_room(&mut self, salt: Option<Salt>, tokens: &[u32], size: u64) {
        self.remove_beginnings(salt, tokens);
        while self.bytes.saturating_add(size) > self.limit {
            let Some((_, (salt, oldest))) = self.ages.pop_first() else { return };
            self.remove_entry(salt, &oldest);
        }
    }

    /// Removes the prefixes that `tokens` begin with.
    fn remove_beginnings(&mut self, salt: Option<Salt>, tokens: &[u32]) {
        let mut end = tokens.len();
        loop {
            let Some(entries) = self.salts.get(&salt) else { return };
            let mut before = entries.range::<[u32], _>((Bound::Unbounded, Bound::Included(&tokens[..end])));
            let Some((key, entry)) = before.next_back() else { return };
            let (key, used) = (Arc::clone(key), entry.used);
            let shared = common_prefix(&key, tokens);
            if shared < key.len() {
                // A beginning of `tokens` that stands before this one is one of what they share.
                if shared == end || shared == 0 {
                    return;
                }
                end = shared;
                continue;
            }
            self.ages.remove(&used);
            self.remove_entry(salt, &key);
        }
    }

    /// Removes what is kept of a text: the prefixes that `tokens` begin with, and those that begin with `tokens`.
    pub(super) fn forget(&mut self, salt: Option<Salt>, tokens: &[u32]) {
        if tokens.is_empty() {
            return;
        }
        self.remove_beginnings(salt, tokens);
        let from = (Bound::Included(tokens), Bound::Unbounded);
        let entries = self.salts.get(&salt).into_iter().flat_map(|entries| entries.range::<[u32], _>(from));
        let longer = entries.take_while(|(key, _)| key.starts_with(tokens));
        let longer: Vec<_> = longer.map(|(key, entry)| (entry.used, Arc::clone(key))).collect();
        for (used, key) in longer {
            self.ages.remove(&used);
            self.remove_entry(salt, &key);
        }
    }

    fn remove_entry(&mut self, salt: Option<Salt>, key: &Tokens) {
        let Some(entries) = self.salts.get_mut(&salt) else { return };
        if let Some(entry) = entries.remove(key) {
            self.bytes -= entry.prefix.size();
        }
        if entries.is_empty() {
            self.salts.remove(&salt);
        }
    }
}

#[cfg(test)]
mod tests {
    use bitnetc_runtime::prefix::PrefixFormat;
    use proptest::prelude::*;

    use super::*;

    fn prefix(tokens: &[u32]) -> Prefix {
        Prefix::new(PrefixFormat::new([0; 32], 1, 0), tokens, vec![0; tokens.len()]).unwrap()
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let mut store = Store::new(5 * 30);
        let of = |n: u32| vec![n; 10];
        for n in 0..3 {
            store.insert(None, prefix(&of(n)));
        }
        assert_eq!((store.len(), store.bytes()), (3, 150));
        assert!(store.take(None, &of(0)).is_some());
        store.insert(None, prefix(&of(3)));
        assert_eq!([0, 1, 2, 3].map(|n| store.longest(None, &of(n))), [10, 0, 10, 10]);
        // Larger than all the room.
        store.insert(None, prefix(&[7; 31]));
        assert_eq!((store.len(), store.longest(None, &[7; 31])), (3, 0));
        // Another tenant has its own.
        let salt = Some(Salt::of("a"));
        assert_eq!(store.longest(salt, &of(0)), 0);
        store.insert(salt, prefix(&of(0)));
        assert_eq!((store.longest(salt, &of(0)), store.len()), (10, 3));
        // What is forgotten: the beginnings of a text and what goes on from it, of its salt only.
        store.forget(None, &[]);
        store.forget(None, &[3; 4]);
        assert_eq!([0, 2, 3].map(|n| store.longest(None, &of(n))), [10, 0, 0]);
        store.forget(None, &[&of(0)[..], &[9]].concat());
        assert_eq!(store.longest(None, &of(0)), 0);
        assert_eq!((store.len(), store.bytes(), store.longest(salt, &of(0))), (1, 50, 10));
        let mut none = Store::new(0);
        none.insert(None, prefix(&[1]));
        assert_eq!((none.len(), none.bytes()), (0, 0));
    }

    proptest! {
        #[test]
        fn look_ups_find_what_a_search_of_all_finds(
            inserts in proptest::collection::vec((any::<bool>(), proptest::collection::vec(0..3u32, 1..8)), 1..60),
            prompts in proptest::collection::vec(proptest::collection::vec(0..3u32, 0..9), 1..20),
            limit in 40..2000u64,
        ) {
            let mut store = Store::new(limit);
            for (salted, tokens) in &inserts {
                let salt = salted.then(|| Salt::of("x"));
                store.insert(salt, prefix(tokens));
                prop_assert!(store.longest(salt, tokens) == tokens.len() || tokens.len() as u64 * 5 > limit);
                prop_assert!(store.bytes() <= limit);
            }
            let all: Vec<(Option<Salt>, Tokens)> = store.ages.values().cloned().collect();
            let bytes: u64 = all.iter().map(|(_, tokens)| 5 * tokens.len() as u64).sum();
            prop_assert_eq!(bytes, store.bytes());
            let kept: usize = store.salts.values().map(BTreeMap::len).sum();
            prop_assert_eq!(kept, store.len());
            for (index, (salt, tokens)) in all.iter().enumerate() {
                let others = all.iter().enumerate().filter(|&(other, of)| other != index && of.0 == *salt);
                prop_assert!(others.into_iter().all(|(_, of)| !of.1.starts_with(tokens)), "{:?}", tokens);
            }
            for prompt in &prompts {
                for salt in [None, Some(Salt::of("x"))] {
                    let of_salt = all.iter().filter(|of| of.0 == salt);
                    let expected = of_salt.map(|(_, tokens)| common_prefix(tokens, prompt)).max().unwrap_or(0);
                    prop_assert_eq!(store.longest(salt, prompt), expected);
                }
            }
        }
    }
}
