//! GGUF files: from bytes to a checked view, to hyper-parameters and weights, to an imported IR module.
//!
//! [`Gguf::parse`] checks the container, [`Model::open`] also that it holds a complete model of a supported
//! architecture with a usable tokenizer, [`Model::check_weights`] also the weights themselves. [`Model::lower`] makes the IR module and [`GgufWeights`] serves
//! the bytes of its parameters.
//!
//! The feature `testing` adds `testing`, which makes files for the tests of this crate and of others; no product enables it.
//!
//! Invariants: no file IO and no `unsafe`; the input is not trusted, so no byte sequence makes these functions panic,
//! hang, or allocate more than a small multiple of the header; nothing is copied from the file that can be borrowed;
//! every default that takes the place of an absent value is reported as a [`Note`].
#![forbid(unsafe_code)]

mod activations;
pub mod arch;
mod cursor;
pub mod decode;
pub mod encode;
pub mod error;
pub mod form;
pub mod hadamard;
pub mod hparams;
pub mod keys;
pub mod limits;
pub mod lower;
pub mod model;
pub mod note;
pub mod outline;
mod plausible;
pub mod reader;
pub mod source;
pub mod split;
pub mod stats;
pub mod synth;
pub mod tensor_type;
pub mod tensors;
#[cfg(feature = "testing")]
pub mod testing;
pub mod text;
pub mod tokenizer_meta;
mod type_ids;
pub mod value;
mod weights;
pub mod write;

pub use activations::{ActivationFormat, UnknownActivations};
pub use arch::{Activation, Family, LayerRole, TensorClass};
pub use decode::I2sLayout;
pub use error::{GgufError, printable};
pub use form::{Form, Weights};
pub use hparams::HyperParams;
pub use lower::{LowerError, LowerOptions};
pub use model::{Model, ModelOptions};
pub use note::{Note, NoteLevel};
pub use outline::{ListedTensor, Outline};
pub use reader::{Entry, Gguf};
pub use source::GgufWeights;
pub use tensor_type::TensorType;
pub use tensors::{Dims, TensorId, TensorInfo};
pub use tokenizer_meta::{PreTokenizer, TokenType, TokenizerMeta, TokenizerModel};
pub use value::{Array, Value, ValueType};
