//! Small BitNet b1.58 models with random weights, of any legal shape.

use half::{bf16, f16};

use super::rng::Rng;
use super::writer::{GgufWriter, MetaValue};
use crate::decode::FloatFormat;
use crate::tokenizer_meta::byte_level;

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
    /// Seed of the weights and of the merges.
    pub seed: u64,
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
            seed: 1,
        }
    }
}

impl TinyModel {
    /// The file.
    pub fn to_gguf(&self) -> Vec<u8> {
        self.writer().build()
    }

    /// The file before it is written, so that it can be changed.
    pub fn writer(&self) -> GgufWriter {
        let mut w = GgufWriter::default();
        self.write_hparams(&mut w);
        self.write_tokenizer(&mut w);
        self.write_tensors(&mut w);
        w
    }

    fn write_hparams(&self, w: &mut GgufWriter) {
        let key = |suffix: &str| format!("{}.{suffix}", self.arch);
        w.set("general.architecture", MetaValue::String(self.arch.into()));
        w.set("general.name", MetaValue::String("tiny".into()));
        let counts = [
            ("vocab_size", self.vocab),
            ("context_length", self.context),
            ("embedding_length", self.hidden),
            ("block_count", self.layers),
            ("feed_forward_length", self.ffn),
            ("rope.dimension_count", self.head_dim),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
        ];
        for (suffix, n) in counts {
            w.set(&key(suffix), MetaValue::U32(n as u32));
        }
        if self.heads * self.head_dim != self.hidden {
            w.set(&key("attention.key_length"), MetaValue::U32(self.head_dim as u32));
            w.set(&key("attention.value_length"), MetaValue::U32(self.head_dim as u32));
        }
        w.set(&key("attention.layer_norm_rms_epsilon"), MetaValue::F32(self.eps));
        w.set(&key("rope.freq_base"), MetaValue::F32(self.rope_theta));
        w.set("general.file_type", MetaValue::U32(40));
        w.set("general.quantization_version", MetaValue::U32(2));
    }

    fn write_tokenizer(&self, w: &mut GgufWriter) {
        const CONTROL: [&str; 3] = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"];
        let normal = self.vocab.saturating_sub(CONTROL.len());
        let alphabet = (0..=255).map(|b| byte_level::char_of_byte(b).to_string());
        let mut tokens: Vec<String> = alphabet.take(normal).collect();
        let merges = self.extend_by_merges(&mut tokens, normal);
        tokens.extend(CONTROL.map(String::from));
        let types = (0..tokens.len()).map(|id| if id < normal { 1 } else { 3 }).collect();
        w.set("tokenizer.ggml.model", MetaValue::String("gpt2".into()));
        w.set("tokenizer.ggml.pre", MetaValue::String("llama-bpe".into()));
        w.set("tokenizer.ggml.tokens", MetaValue::Strings(tokens));
        w.set("tokenizer.ggml.token_type", MetaValue::I32s(types));
        w.set("tokenizer.ggml.merges", MetaValue::Strings(merges));
        w.set("tokenizer.ggml.bos_token_id", MetaValue::U32(normal as u32));
        w.set("tokenizer.ggml.eos_token_id", MetaValue::U32(normal as u32 + 1));
        w.set("tokenizer.ggml.padding_token_id", MetaValue::U32(normal as u32 + 1));
        w.set("tokenizer.ggml.add_bos_token", MetaValue::Bool(true));
        let template = "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] | trim \
                        + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";
        w.set("tokenizer.chat_template", MetaValue::String(template.into()));
    }

    /// Adds merged tokens until there are `target`: first some of English, then random ones; returns the merges.
    fn extend_by_merges(&self, tokens: &mut Vec<String>, target: usize) -> Vec<String> {
        const ENGLISH: [(&str, &str); 12] = [
            ("Ġ", "t"),
            ("h", "e"),
            ("Ġ", "a"),
            ("i", "n"),
            ("Ġt", "he"),
            ("r", "e"),
            ("o", "n"),
            ("e", "r"),
            ("Ġ", "s"),
            ("Ġ", "Ġ"),
            ("in", "g"),
            ("Ċ", "Ċ"),
        ];
        let mut rng = Rng::new(self.seed ^ 0x6d65_7267);
        let mut known: std::collections::HashSet<String> = tokens.iter().cloned().collect();
        let mut merges = Vec::new();
        let mut english = ENGLISH.into_iter();
        while tokens.len() < target {
            let (left, right) = match english.next() {
                Some((left, right)) => (left.to_owned(), right.to_owned()),
                None => {
                    let pick = |rng: &mut Rng| match rng.below(4) {
                        0 if tokens.len() > 256 => tokens[256 + rng.below(tokens.len() - 256)].clone(),
                        _ => char::from(b'a' + rng.below(26) as u8).to_string(),
                    };
                    (pick(&mut rng), pick(&mut rng))
                }
            };
            let joined = format!("{left}{right}");
            if joined.chars().count() <= 16 && known.insert(joined.clone()) {
                merges.push(format!("{left} {right}"));
                tokens.push(joined);
            }
        }
        merges
    }

    fn write_tensors(&self, w: &mut GgufWriter) {
        let mut rng = Rng::new(self.seed);
        let attention = self.heads * self.head_dim;
        let kv = self.kv_heads * self.head_dim;
        self.write_table(w, "token_embd.weight", &mut rng);
        for layer in 0..self.layers {
            let name = |stem: &str| crate::model::layer_tensor_name(layer, stem);
            write_norm(w, &name("attn_norm"), self.hidden, &mut rng);
            write_linear(w, &name("attn_q"), self.hidden, attention, &mut rng);
            write_linear(w, &name("attn_k"), self.hidden, kv, &mut rng);
            write_linear(w, &name("attn_v"), self.hidden, kv, &mut rng);
            write_norm(w, &name("attn_sub_norm"), attention, &mut rng);
            write_linear(w, &name("attn_output"), attention, self.hidden, &mut rng);
            write_norm(w, &name("ffn_norm"), self.hidden, &mut rng);
            write_linear(w, &name("ffn_gate"), self.hidden, self.ffn, &mut rng);
            write_linear(w, &name("ffn_up"), self.hidden, self.ffn, &mut rng);
            write_norm(w, &name("ffn_sub_norm"), self.ffn, &mut rng);
            write_linear(w, &name("ffn_down"), self.ffn, self.hidden, &mut rng);
        }
        write_norm(w, "output_norm.weight", self.hidden, &mut rng);
        if !self.tied {
            self.write_table(w, "output.weight", &mut rng);
        }
    }

    fn write_table(&self, w: &mut GgufWriter, name: &str, rng: &mut Rng) {
        let values = (0..self.vocab * self.hidden).map(|_| rng.normal());
        let data = match self.table {
            FloatFormat::F32 => values.flat_map(f32::to_le_bytes).collect(),
            FloatFormat::F16 => values.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
            FloatFormat::Bf16 => values.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
        };
        w.tensor(name, &[self.hidden as u64, self.vocab as u64], self.table.tensor_type(), data);
    }
}

/// Norm weights near 1, some of them negative.
fn write_norm(w: &mut GgufWriter, name: &str, n: usize, rng: &mut Rng) {
    let values: Vec<f32> =
        (0..n).map(|_| (1.0 + 0.2 * rng.normal()) * if rng.below(16) == 0 { -1.0 } else { 1.0 }).collect();
    w.f32_tensor(name, &[n as u64], &values);
}

/// A third each of −1, 0 and +1, with a scale that keeps the spread of the activations.
fn write_linear(w: &mut GgufWriter, name: &str, inputs: usize, outputs: usize, rng: &mut Rng) {
    let weights: Vec<i8> = (0..inputs * outputs).map(|_| rng.below(3) as i8 - 1).collect();
    let scale = (0.75 + 0.5 * rng.unit()) / (inputs as f32 * 2.0 / 3.0).sqrt();
    w.i2s_tensor(name, inputs, outputs, &weights, scale);
}
