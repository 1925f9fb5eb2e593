//! Synthetic models: complete GGUF files of any shape, with random weights that behave like trained ones.
//!
//! Speed depends on shapes and not on what the weights say, so benchmarks need no download: a [`SyntheticModel`] is a
//! [`ModelShape`] (often one of [`PRESETS`]) and a seed. It is written as a stream, because the largest presets are larger
//! than the memory of many machines. The tokenizer works (every byte has a token), the text that comes out is noise.
//!
//! Invariants: equal shapes and seeds give equal files, on every machine; the front-end accepts every file whose shape
//! passes [`ModelShape::tensors`]; nothing larger than a chunk ([`CHUNK_BYTES`]) and the vocabulary is held in memory.

mod model;
mod preset;
mod rng;
mod shape;
pub(crate) mod vocabulary;
pub(crate) mod weights;

pub use model::{CHUNK_BYTES, SyntheticModel};
pub use preset::{PRESETS, Preset, SMALL_VOCABULARY, preset};
pub use rng::Rng;
pub use shape::{HybridShape, LINEAR_TYPES, ModelShape, ShapeError, TensorSpec};
