//! BitNet under llama.cpp's name `bitnet`: 1bitLLM/bitnet_b1_58-large and -3B, and whatever else its converter has
//! called so.
//!
//! The layer is that of [`super::bitnet_b158`], with SiLU in the gate unless the file says relu² in
//! `hidden_activation`; since llama.cpp ignored the activation for a long time, files of either kind exist without the
//! key. A matrix may be stored as −1, 0 and +1 with its scale in a tensor of its own. Sources: `src/models/bitnet.cpp` of
//! llama.cpp, `modeling_bitnet.py` of 1bitLLM.

use bitnetc_ir::Pairs;

use super::{Activation, Defaults, Family, bitnet_b158};
use crate::activations::ActivationFormat;

pub(super) static FAMILY: Family = Family {
    name: "BitNet",
    architectures: &["bitnet"],
    activations: &[Activation::Silu, Activation::Relu2],
    activation_varies: true,
    rope: Pairs::Halves,
    defaults: Defaults { context: 2048, rope_theta: 10_000.0 },
    layer_tensors: bitnet_b158::LAYER,
    scale_tensors: true,
    rotations: false,
    hybrid: None,
    quantisation: ActivationFormat::Int8Token,
    ternary_tables: false,
};
