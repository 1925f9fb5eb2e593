//! Shapes of published models.
//!
//! Sources: the models' `config.json`: microsoft/bitnet-b1.58-2B-4T, 1bitLLM/bitnet_b1_58-large and -3B,
//! HF1BitLLM/Llama3-8B-1.58-100B-tokens. These presets have the architecture `bitnet-b1.58`, whatever the published
//! model's is: the sizes are what a benchmark needs. Ternary Bonsai 2 has its own, `qwen35` (sizes of Qwen 3.5 and 3.8).

use super::shape::{HybridShape, ModelShape};
use crate::tensor_type::TensorType;

/// Tokens of a vocabulary that is small on purpose: the head then weighs little.
pub const SMALL_VOCABULARY: usize = 4096;

/// A shape with a name.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
    shape: fn() -> ModelShape,
}

impl Preset {
    /// The shape.
    pub fn shape(&self) -> ModelShape {
        ModelShape { name: format!("synthetic {}", self.name), ..(self.shape)() }
    }
}

/// All presets.
pub const PRESETS: &[Preset] = &[
    Preset { name: "2b-4t", about: "BitNet b1.58 2B-4T", shape: two_billion },
    Preset { name: "700m", about: "bitnet_b1_58-large", shape: large },
    Preset {
        name: "3b",
        about: "bitnet_b1_58-3B (feed-forward 8704 for 8640, which I2_S cannot hold)",
        shape: three,
    },
    Preset { name: "8b", about: "Llama3-8B-1.58 (separate head)", shape: eight_billion },
    Preset { name: "bonsai2-2b", about: "Ternary Bonsai 2 2B (PTQ1_0, as the next three)", shape: bonsai_2b },
    Preset { name: "bonsai2-4b", about: "Ternary Bonsai 2 4B", shape: bonsai_4b },
    Preset { name: "bonsai2-9b", about: "Ternary Bonsai 2 9B", shape: bonsai_9b },
    Preset { name: "bonsai2-27b", about: "Ternary Bonsai 2 27B", shape: bonsai_27b },
    Preset { name: "tiny", about: "for tests", shape: tiny },
];

/// The preset of this name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|p| p.name == name)
}

fn two_billion() -> ModelShape {
    ModelShape {
        hidden: 2560,
        layers: 30,
        heads: 20,
        kv_heads: 5,
        head_dim: 128,
        ffn: 6912,
        vocab: 128_256,
        context: 4096,
        rope_theta: 500_000.0,
        ..ModelShape::default()
    }
}

fn large() -> ModelShape {
    ModelShape {
        hidden: 1536,
        layers: 24,
        heads: 16,
        kv_heads: 16,
        head_dim: 96,
        ffn: 4096,
        vocab: 32_002,
        context: 2048,
        ..ModelShape::default()
    }
}

fn three() -> ModelShape {
    ModelShape {
        hidden: 3200,
        layers: 26,
        heads: 32,
        kv_heads: 32,
        head_dim: 100,
        ffn: 8704,
        vocab: 32_002,
        context: 2048,
        ..ModelShape::default()
    }
}

fn eight_billion() -> ModelShape {
    ModelShape {
        hidden: 4096,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        ffn: 14_336,
        vocab: 128_256,
        tied: false,
        context: 8192,
        rope_theta: 500_000.0,
        ..ModelShape::default()
    }
}

/// What the sizes of Ternary Bonsai 2 have in common.
fn bonsai(key_heads: usize, value_heads: usize, block: u32) -> ModelShape {
    let hybrid = HybridShape { interval: 4, key_heads, value_heads, head_dim: 128, rope_dim: 64, block };
    ModelShape {
        arch: "qwen35",
        head_dim: 256,
        vocab: 248_320,
        context: 262_144,
        rope_theta: 10_000_000.0,
        eps: 1e-6,
        linear: TensorType::Ptq1_0,
        hybrid: Some(hybrid),
        ..ModelShape::default()
    }
}

fn bonsai_2b() -> ModelShape {
    ModelShape { hidden: 2048, layers: 24, heads: 8, kv_heads: 2, ffn: 6144, ..bonsai(16, 16, 2048) }
}

fn bonsai_4b() -> ModelShape {
    ModelShape { hidden: 2560, layers: 32, heads: 16, kv_heads: 4, ffn: 9216, ..bonsai(16, 32, 512) }
}

fn bonsai_9b() -> ModelShape {
    ModelShape {
        hidden: 4096,
        layers: 32,
        heads: 16,
        kv_heads: 4,
        ffn: 12_288,
        tied: false,
        ..bonsai(16, 32, 4096)
    }
}

fn bonsai_27b() -> ModelShape {
    ModelShape {
        hidden: 5120,
        layers: 64,
        heads: 24,
        kv_heads: 4,
        ffn: 17_408,
        tied: false,
        ..bonsai(16, 48, 1024)
    }
}

fn tiny() -> ModelShape {
    ModelShape {
        hidden: 256,
        layers: 4,
        heads: 8,
        kv_heads: 2,
        head_dim: 32,
        ffn: 640,
        vocab: 1024,
        context: 4096,
        rope_theta: 500_000.0,
        ..ModelShape::default()
    }
}
