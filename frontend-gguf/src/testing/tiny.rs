//! Small BitNet b1.58 models with random weights, of any legal shape.

use half::{bf16, f16};

use super::Rng;
use super::writer::GgufWriter;
use crate::arch::TensorClass;
use crate::decode::{FloatFormat, i2s};
use crate::synth::{HybridShape, ModelShape, TensorSpec, vocabulary, weights};
use crate::tensor_type::TensorType;

/// A model to be made. Equal fields give equal files.
///
/// `hidden`, `heads · head_dim` and `ffn` are multiples of 128. The vocabulary is a token for each byte, merges, then
/// `<|begin_of_text|>`, `<|end_of_text|>` and `<|eot_id|>`; with `vocab` below 259 the last bytes have no token.
#[derive(Debug, Clone, PartialEq)]
pub struct TinyModel {
    /// Elements of the residual stream.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a head; `key_length` is written if `heads · head_dim` is not `hidden`.
    pub head_dim: usize,
    /// Elements of the feed-forward activation.
    pub ffn: usize,
    /// Tokens.
    pub vocab: usize,
    /// Whether the head is the embedding; if not, `output.weight` is written.
    pub tied: bool,
    /// `general.architecture`.
    pub arch: &'static str,
    /// Context length.
    pub context: usize,
    /// Base of the rotary embedding.
    pub rope_theta: f32,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Storage of embedding and head.
    pub table: FloatFormat,
    /// What a model of attention and recurrent layers has beside this.
    pub hybrid: Option<HybridShape>,
    /// Seed of the weights and of the merges.
    pub seed: u64,
    /// Values of a tensor that are drawn, a multiple of 128; after them they start again. Drawing takes most of the time that
    /// it takes to make a model.
    pub drawn: usize,
}

impl Default for TinyModel {
    fn default() -> Self {
        Self {
            hidden: 128,
            layers: 1,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            ffn: 256,
            vocab: 288,
            tied: true,
            arch: "bitnet-b1.58",
            context: 256,
            rope_theta: 500_000.0,
            eps: 1e-5,
            table: FloatFormat::F16,
            hybrid: None,
            seed: 1,
            drawn: usize::MAX,
        }
    }
}

impl TinyModel {
    /// 4096 key/value heads of two elements and a context of a million: 32 GiB of cache from a file of one megabyte.
    pub fn many_heads() -> Self {
        Self {
            heads: 4096,
            kv_heads: 4096,
            head_dim: 2,
            ffn: 128,
            context: 1 << 20,
            drawn: 128,
            ..Self::default()
        }
    }

    /// Four layers of which the last has attention, all matrices rotated, and two value heads for each key head.
    pub fn hybrid() -> Self {
        let hybrid =
            HybridShape { interval: 4, key_heads: 2, value_heads: 4, head_dim: 32, rope_dim: 16, block: 64 };
        Self { arch: "qwen35", layers: 4, tied: false, eps: 1e-6, hybrid: Some(hybrid), ..Self::default() }
    }

    /// The file.
    ///
    /// # Panics
    /// If no model can have these sizes.
    pub fn to_gguf(&self) -> Vec<u8> {
        self.writer().build()
    }

    /// The file before it is written, so that it can be changed.
    ///
    /// # Panics
    /// If no model can have these sizes.
    pub fn writer(&self) -> GgufWriter {
        let mut w = GgufWriter::default();
        let shape = self.shape();
        shape.metadata().into_iter().for_each(|(key, value)| w.set(&key, value));
        vocabulary::metadata(self.vocab, self.seed).into_iter().for_each(|(key, value)| w.set(key, value));
        let tensors = shape.tensors();
        self.write_tensors(&mut w, &tensors.expect("a test asks for a legal shape"));
        w
    }

    /// The same sizes as the shape of a synthetic model.
    fn shape(&self) -> ModelShape {
        ModelShape {
            name: "tiny".into(),
            arch: self.arch,
            hidden: self.hidden,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            ffn: self.ffn,
            vocab: self.vocab,
            tied: self.tied,
            context: self.context,
            rope_theta: self.rope_theta,
            eps: self.eps,
            table: self.table,
            hybrid: self.hybrid,
            linear: TensorType::I2S,
        }
    }

    /// Tensor by tensor, from one stream of numbers.
    fn write_tensors(&self, w: &mut GgufWriter, tensors: &[TensorSpec]) {
        let mut rng = Rng::new(self.seed);
        for t in tensors {
            match t.class {
                TensorClass::Table => self.write_table(w, &t.name, &mut rng),
                TensorClass::Norm if t.name.ends_with(".ssm_a") => {
                    let rates = weights::decay_rates(rng.below(1 << 30) as u64, t.row);
                    w.tensor(&t.name, &t.dims(), t.ty, rates);
                }
                TensorClass::Norm => self.write_norm(w, &t.name, t.row, &mut rng),
                TensorClass::Conv => {
                    let taps = weights::convolution(rng.below(1 << 30) as u64, t.row * t.rows);
                    w.tensor(&t.name, &t.dims(), t.ty, taps);
                }
                TensorClass::Gate => {
                    let gate = weights::gate(rng.below(1 << 30) as u64, t.row, t.rows);
                    w.tensor(&t.name, &t.dims(), t.ty, gate);
                }
                TensorClass::Linear => self.write_linear(w, &t.name, t.row, t.rows, &mut rng),
            }
        }
    }

    fn write_table(&self, w: &mut GgufWriter, name: &str, rng: &mut Rng) {
        let count = self.vocab * self.hidden;
        let values = (0..count.min(self.drawn)).map(|_| rng.normal());
        let data: Vec<u8> = match self.table {
            FloatFormat::F32 => values.flat_map(f32::to_le_bytes).collect(),
            FloatFormat::F16 => values.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
            FloatFormat::Bf16 => values.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
        };
        let data = repeated(&data, count * self.table.bytes());
        w.tensor(name, &[self.hidden as u64, self.vocab as u64], self.table.tensor_type(), data);
    }

    /// Norm weights near 1, some of them negative.
    fn write_norm(&self, w: &mut GgufWriter, name: &str, n: usize, rng: &mut Rng) {
        let mut draw = || (1.0 + 0.2 * rng.normal()) * if rng.below(16) == 0 { -1.0 } else { 1.0 };
        let values: Vec<f32> = (0..n.min(self.drawn)).map(|_| draw()).collect();
        w.f32_tensor(name, &[n as u64], &repeated(&values, n));
    }

    /// A third each of −1, 0 and +1, with a scale that keeps the spread of the activations.
    fn write_linear(&self, w: &mut GgufWriter, name: &str, inputs: usize, outputs: usize, rng: &mut Rng) {
        let count = inputs * outputs;
        let weights: Vec<i8> = (0..count.min(self.drawn)).map(|_| rng.below(3) as i8 - 1).collect();
        let scale = (0.75 + 0.5 * rng.unit()) / (inputs as f32 * 2.0 / 3.0).sqrt();
        // What is drawn is whole blocks, so what repeats are the bytes before the scale.
        let packed = i2s::pack(&weights, scale);
        let (codes, tail) = packed.split_at(weights.len() / 4);
        let mut data = repeated(codes, count / 4);
        data.extend_from_slice(tail);
        w.tensor(name, &[inputs as u64, outputs as u64], TensorType::I2S, data);
    }
}

/// `count` values: these, again and again.
fn repeated<T: Copy>(values: &[T], count: usize) -> Vec<T> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        all.extend_from_slice(&values[..values.len().min(count - all.len())]);
    }
    all
}
