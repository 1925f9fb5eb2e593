//! The descriptive data of a plan.

use serde::{Deserialize, Serialize};

/// The settings that a plan was made with. They stand at the start of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSettings {
    /// Options of the compilation as pairs of name and value.
    pub options: Vec<(String, String)>,
}

/// The file that a plan was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// BLAKE3 of the length and the bytes of what stands before the tensor data, for each part of the file, and then of the
    /// hashes of the tensors that the model uses.
    pub hash: [u8; 32],
    /// Its length.
    pub bytes: u64,
}

/// Description of the model and of how the plan was made.
///
/// No kernel depends on it, but loading does: the longest context comes from [`hyper_parameters`](Self::hyper_parameters), the
/// head that a caller demands is compared with [`creation_options`](Self::creation_options), the chat template of a model
/// without one follows from the architecture, and the defaults are shown as notes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanMeta {
    /// Name of the model, as its file gives it.
    pub model_name: String,
    /// Architecture, as the model file gives it (`bitnet-b1.58`).
    pub architecture: String,
    /// Hyper-parameters as pairs of name and value.
    pub hyper_parameters: Vec<(String, String)>,
    /// Where the plan comes from.
    pub source: SourceFile,
    /// What the model file left out and what was taken instead, one sentence each.
    pub defaults_used: Vec<String>,
    /// Options of the compilation as pairs of name and value.
    pub creation_options: Vec<(String, String)>,
    /// Name and version of the program that wrote the plan.
    pub producer: String,
}

/// A range of the weights section: the elements of a weight, its scales, or the padding after the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightEntry {
    /// Name of the weight in the module; for scales and padding a name derived by whoever writes the plan.
    pub name: String,
    /// What the bytes are, as a word for people who list the entries (`elements`, `scales`, `padding`). How they are read
    /// follows from the type of the weight in the module; nothing is decided by this text.
    pub kind: String,
    /// Distance from the start of the weights section, a multiple of 64.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}
