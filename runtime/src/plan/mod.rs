//! The plan file: a compiled model on disk.
//!
//! A plan holds the planned module, the packed weights, the tokenizer, the chat template and a description. It
//! holds no machine code; code is generated when the plan is loaded, so an untrusted plan can do no more than an
//! untrusted GGUF.
//!
//! # Layout
//!
//! All numbers are little endian. Every part starts at a multiple of 64; the gaps are zero. In this order and with
//! nothing between, before or after:
//!
//! | part | bytes |
//! |---|---|
//! | prelude | magic `BNPLAN\0\x01` (8), version (4), length of the settings (4), zeros (48) |
//! | settings | [`PlanSettings`] in postcard |
//! | sections | each as long as the table says, in the order of the table |
//! | table | per section 64 bytes: kind (4), zeros (4), offset (8), length (8), zeros (8), BLAKE3 of its bytes (32) |
//! | trailer | magic `BNPLEND\x01` (8), offset of the table (8), number of sections (4), zeros (4), length of the file (8), BLAKE3 of prelude, settings, table and the trailer so far (32) |
//!
//! Sections, by [`SectionKind`]: the module as IR text; the weights as one blob with each weight at a multiple of 64;
//! the index of the weights (`Vec<WeightEntry>` in postcard); the tokenizer (postcard); the chat template (UTF-8);
//! and [`PlanMeta`] (postcard). The tokenizer and the template may be absent.
//!
//! # Invariants
//!
//! - Every byte of the file is covered by a hash, or must be zero. The hash of the weights is checked on request,
//!   all others always.
//! - Every offset goes through one bounds function, and sizes are compared with limits before anything is allocated.
//! - A plan appears under its name only when it is complete and on the disk; until then an older plan of that name
//!   stays as it is.

mod error;
mod layout;
mod meta;
mod read;
mod write;

pub use error::PlanError;
pub use layout::{MAGIC, SectionKind};
pub use meta::{PlanMeta, PlanSettings, SourceFile, WeightEntry};
pub use read::{LoadOptions, Plan, PlanIndex};
pub use write::{PlanEncoder, WeightSink, write_plan};

#[cfg(test)]
mod tests;
