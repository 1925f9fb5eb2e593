//! The entry points of a model's module: the functions that a runtime calls, and the one place where their names stand.
//!
//! A module may hold functions of any other name; those are for tests and tools.

use std::fmt;

/// A function that a runtime calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryPoint {
    /// One token → its logits and the grown caches.
    Decode,
    /// A chunk of tokens → the residual stream after the last layer, and the grown caches.
    Prefill,
    /// Rows of that stream → logits.
    Head,
}

impl EntryPoint {
    /// All of them, in the order in which a module has them.
    pub const ALL: &[EntryPoint] = &[EntryPoint::Decode, EntryPoint::Prefill, EntryPoint::Head];

    /// The name of the function, without the `@`.
    pub fn name(self) -> &'static str {
        match self {
            EntryPoint::Decode => "decode",
            EntryPoint::Prefill => "prefill",
            EntryPoint::Head => "head",
        }
    }

    /// The entry point that a function of this name is.
    pub fn of_name(name: &str) -> Option<Self> {
        EntryPoint::ALL.iter().copied().find(|entry| entry.name() == name)
    }
}

impl fmt::Display for EntryPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_one_entry_point_each() {
        for &entry in EntryPoint::ALL {
            assert_eq!(EntryPoint::of_name(entry.name()), Some(entry));
            assert_eq!(entry.to_string(), entry.name());
        }
        assert_eq!(EntryPoint::of_name("Decode"), None);
    }
}
