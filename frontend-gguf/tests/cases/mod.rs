//! The faults of a GGUF file, one at a time: what is changed in a good file, and how the result is refused. With
//! `truncation` in `faults.rs` these are all the classes of the corpus that `malformed_corpus.rs` reads.
#![allow(dead_code, reason = "each test uses a part")]

use bitnetc_frontend_gguf::testing::{GgufWriter, MetaValue};

/// The kinds of errors of files in one part.
pub(crate) const KINDS: &[&str] = &[
    "AmbiguousTensorType",
    "BadAlignment",
    "BadBlock",
    "BadBool",
    "BadDims",
    "BadHyperparam",
    "BadKey",
    "BadMagic",
    "BadTensorName",
    "BadTokenizer",
    "BadUtf8",
    "BadValueType",
    "BadVersion",
    "BadWeights",
    "CountTooLarge",
    "DuplicateKey",
    "DuplicateTensor",
    "MisalignedOffset",
    "MissingKey",
    "MissingTensor",
    "NestingTooDeep",
    "NoTensors",
    "OutOfRange",
    "Overlap",
    "ShapeOverflow",
    "StringTooLong",
    "Truncated",
    "UnknownTensorType",
    "UnsupportedArch",
    "UnsupportedTensor",
    "WrongEndian",
    "WrongKeyType",
    "WrongShape",
    "WrongTensorType",
];

/// All cases.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    [CONTAINER, MODEL, TOKENIZER, WEIGHTS].into_iter().flatten().copied()
}

/// Kind of error, what its message must hold, and the change that causes it.
pub(crate) type Case = (&'static str, &'static str, fn(&mut GgufWriter));

const ARCH: &str = "bitnet-b1.58";

fn key(suffix: &str) -> String {
    format!("{ARCH}.{suffix}")
}

fn set(w: &mut GgufWriter, suffix: &str, value: MetaValue) {
    w.set(&key(suffix), value);
}

fn array(elem: u32, count: u64, body: &[u8]) -> MetaValue {
    MetaValue::Raw(9, [&elem.to_le_bytes()[..], &count.to_le_bytes(), body].concat())
}

fn with_tokens(w: &mut GgufWriter, change: impl FnOnce(&mut Vec<String>)) {
    let entry = w.entries.iter_mut().find(|(k, _)| k == b"tokenizer.ggml.tokens").unwrap();
    let MetaValue::Strings(tokens) = &mut entry.1 else { panic!("tokens are strings") };
    change(tokens);
}

fn with_merges(w: &mut GgufWriter, change: impl FnOnce(&mut Vec<String>)) {
    let entry = w.entries.iter_mut().find(|(k, _)| k == b"tokenizer.ggml.merges").unwrap();
    let MetaValue::Strings(merges) = &mut entry.1 else { panic!("merges are strings") };
    change(merges);
}

fn with_types(w: &mut GgufWriter, change: impl FnOnce(&mut Vec<i32>)) {
    let entry = w.entries.iter_mut().find(|(k, _)| k == b"tokenizer.ggml.token_type").unwrap();
    let MetaValue::I32s(types) = &mut entry.1 else { panic!("types are i32") };
    change(types);
}

const Q: &str = "blk.0.attn_q.weight";
const NORM: &str = "output_norm.weight";
const EMBD: &str = "token_embd.weight";

pub(crate) const CONTAINER: &[Case] = &[
    ("BadVersion", "version 0 ", |w| w.version = 0),
    ("BadVersion", "version 4 ", |w| w.version = 4),
    ("WrongEndian", "big-endian", |w| w.version = 3u32.swap_bytes()),
    ("CountTooLarge", "tensor count", |w| w.tensor_count = Some(1 << 60)),
    ("CountTooLarge", "tensor count", |w| w.tensor_count = Some(65_537)),
    ("CountTooLarge", "tensor count", |w| w.tensor_count = Some(u64::MAX)),
    ("CountTooLarge", "tensor count", |w| w.tensor_count = Some(1 << 32)),
    ("CountTooLarge", "tensor count", |w| w.tensor_count = Some(1_000_000)),
    ("CountTooLarge", "key count", |w| w.key_count = Some(1 << 32)),
    ("CountTooLarge", "key count", |w| w.key_count = Some(u64::MAX)),
    ("CountTooLarge", "key count", |w| w.key_count = Some(4097)),
    ("BadValueType", "general.name", |w| {
        w.set("general.name", MetaValue::Raw(13, vec![0; 8]));
    }),
    ("BadValueType", "element type", |w| {
        w.set("x", array(99, 0, &[]));
    }),
    ("Truncated", "\"x\"", |w| {
        w.set("x", MetaValue::Raw(8, (900_000u64).to_le_bytes().to_vec()));
    }),
    ("StringTooLong", "\"x\"", |w| {
        w.set("x", MetaValue::Raw(8, (1u64 << 63).to_le_bytes().to_vec()));
    }),
    ("BadValueType", "type of", |w| {
        w.set("x", MetaValue::Raw(u32::MAX, vec![0; 8]));
    }),
    ("BadValueType", "element type", |w| {
        w.set("x", array(1 << 31, 1, &[0; 8]));
    }),
    ("StringTooLong", "\"x\"", |w| {
        w.set("x", MetaValue::Raw(8, u64::MAX.to_le_bytes().to_vec()));
    }),
    ("StringTooLong", "element 0", |w| {
        w.set("x", array(8, 1, &(1u64 << 32).to_le_bytes()));
    }),
    ("CountTooLarge", "number of elements", |w| {
        w.set("x", array(8, u64::MAX, &[]));
    }),
    ("CountTooLarge", "number of elements", |w| {
        w.set("x", array(12, 1 << 61, &[]));
    }),
    ("CountTooLarge", "number of elements", |w| {
        w.set("x", array(4, 1 << 62, &[]));
    }),
    ("CountTooLarge", "number of elements", |w| {
        w.set("x", array(8, 1 << 20, &[]));
    }),
    ("CountTooLarge", "16777216", |w| {
        w.set("x", array(0, (1 << 24) + 1, &[]));
    }),
    ("NestingTooDeep", "\"x\"", |w| {
        let level = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
        w.set("x", MetaValue::Raw(9, level.repeat(8)));
    }),
    ("NestingTooDeep", "\"x\"", |w| {
        let level = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
        w.set("x", MetaValue::Raw(9, level.repeat(80_000)));
    }),
    ("BadBool", "bool 2", |w| {
        w.set("x", MetaValue::Raw(7, vec![2]));
    }),
    ("BadBool", "element 1", |w| {
        w.set("x", array(7, 3, &[1, 255, 0]));
    }),
    ("BadUtf8", "\"x\"", |w| {
        w.set("x", MetaValue::Raw(8, [&2u64.to_le_bytes()[..], b"a\xff"].concat()));
    }),
    ("BadUtf8", "element 0", |w| {
        w.set("x", array(8, 1, &[&1u64.to_le_bytes()[..], b"\x80"].concat()));
    }),
    ("BadUtf8", "metadata key", |w| w.entries.push((vec![0xed, 0xa0, 0x80], MetaValue::U8(1)))),
    ("BadKey", "empty", |w| w.entries.push((vec![], MetaValue::U8(1)))),
    ("BadKey", "\\u{1b}[2J", |w| w.entries.push((b"a\x1b[2J".to_vec(), MetaValue::U8(1)))),
    ("BadKey", "control", |w| w.entries.push((b"a\0b".to_vec(), MetaValue::U8(1)))),
    ("BadKey", "65535", |w| w.entries.push((vec![b'k'; 65_536], MetaValue::U8(1)))),
    ("DuplicateKey", "general.name", |w| w.entries.push((b"general.name".to_vec(), MetaValue::U8(1)))),
    ("BadAlignment", "is 0;", |w| {
        w.set("general.alignment", MetaValue::U32(0));
    }),
    ("BadAlignment", "is 4;", |w| {
        w.set("general.alignment", MetaValue::U32(4));
    }),
    ("BadAlignment", "2147483648", |w| {
        w.set("general.alignment", MetaValue::U32(1 << 31));
    }),
    ("BadAlignment", "is 48;", |w| {
        w.set("general.alignment", MetaValue::U32(48));
    }),
    ("BadAlignment", "131072", |w| {
        w.set("general.alignment", MetaValue::U32(131_072));
    }),
    ("BadAlignment", "u64", |w| {
        w.set("general.alignment", MetaValue::U64(32));
    }),
    ("BadTensorName", "empty", |w| w.tensor_mut(Q).name.clear()),
    ("BadTensorName", "control", |w| w.tensor_mut(Q).name = b"a\0".to_vec()),
    ("BadTensorName", "64 bytes", |w| w.tensor_mut(Q).name = vec![b'n'; 65]),
    ("BadUtf8", "name of tensor", |w| w.tensor_mut(Q).name = vec![0xff]),
    ("DuplicateTensor", NORM, |w| w.tensor_mut(Q).name = NORM.into()),
    ("BadDims", "0 dimensions", |w| w.tensor_mut(Q).dims.clear()),
    ("BadDims", "5 dimensions", |w| w.tensor_mut(Q).dims = vec![1; 5]),
    ("BadDims", "9 dimensions", |w| w.tensor_mut(Q).dims = vec![1; 9]),
    ("BadDims", "[0]", |w| w.tensor_mut(NORM).dims = vec![0]),
    ("BadDims", "[128, 0]", |w| w.tensor_mut(Q).dims = vec![128, 0]),
    ("ShapeOverflow", Q, |w| w.tensor_mut(Q).dims = vec![1 << 32, 1 << 32]),
    ("ShapeOverflow", Q, |w| w.tensor_mut(Q).dims = vec![3, 2_305_843_009_213_693_954, 8]),
    ("ShapeOverflow", Q, |w| w.tensor_mut(Q).dims = vec![1 << 20, 1 << 20]),
    ("ShapeOverflow", Q, |w| w.tensor_mut(Q).dims = vec![u64::MAX, 1]),
    ("ShapeOverflow", Q, |w| w.tensor_mut(Q).dims = vec![1 << 63, 2]),
    ("ShapeOverflow", NORM, |w| w.tensor_mut(NORM).dims = vec![(1 << 62) + 6]),
    ("ShapeOverflow", NORM, |w| w.tensor_mut(NORM).dims = vec![4, (1 << 30) - 1, (1 << 30) + 1, 1]),
    ("UnknownTensorType", "type 200", |w| w.tensor_mut(Q).ty = 200),
    ("UnknownTensorType", "type 38 (TL1", |w| w.tensor_mut(Q).ty = 38),
    ("UnknownTensorType", "MXFP4", |w| w.tensor_mut(Q).ty = 39),
    ("UnknownTensorType", "type 41 (not of the size of Q1_0)", |w| w.tensor_mut(Q).ty = 41),
    ("UnknownTensorType", "type 42 (not of the size of Q2_0", |w| w.tensor_mut(Q).ty = 42),
    // The last tensor of a file may have any number of bytes after it, so both group sizes fit.
    ("AmbiguousTensorType", "type 42", |w| {
        let mut q = w.tensor_mut(Q).clone();
        w.remove_tensor(Q);
        (q.ty, q.data) = (42, vec![0; 128 * 128 / 64 * 18]);
        w.tensors.push(q);
    }),
    ("UnknownTensorType", "IQ4_NL_4_4", |w| {
        for t in w.tensors.iter_mut().filter(|t| t.ty == 36) {
            t.data = vec![0; (t.dims[0] * t.dims[1] * 18 / 32) as usize];
        }
    }),
    ("UnknownTensorType", "NVFP4, by its size", |w| {
        let q = w.tensor_mut(Q);
        (q.ty, q.data) = (40, vec![0; 128 * 128 / 64 * 36]);
    }),
    ("UnknownTensorType", "type 31", |w| w.tensor_mut(Q).ty = 31),
    ("UnknownTensorType", "4294967295", |w| w.tensor_mut(Q).ty = u32::MAX),
    ("BadBlock", "blocks of 128", |w| w.tensor_mut(Q).dims = vec![64, 128]),
    ("BadBlock", "blocks of 256", |w| w.tensor_mut(Q).ty = 35),
    ("MisalignedOffset", "alignment 32", |w| w.tensor_mut(NORM).offset = Some(33)),
    ("OutOfRange", NORM, |w| w.tensor_mut(NORM).offset = Some(1 << 40)),
    ("OutOfRange", NORM, |w| w.tensor_mut(NORM).offset = Some(u64::MAX - 31)),
    ("OutOfRange", NORM, |w| w.tensor_mut(NORM).offset = Some(1 << 63)),
    ("OutOfRange", "attn_norm", |w| {
        let end = w.tensors.iter().map(|t| t.data.len() as u64).sum();
        w.tensor_mut("blk.0.attn_norm.weight").offset = Some(u64::next_multiple_of(end, 32));
    }),
    ("MisalignedOffset", "alignment 32", |w| w.tensor_mut(NORM).offset = Some(4)),
    ("Overlap", NORM, |w| w.tensor_mut(NORM).offset = Some(32)),
];

pub(crate) const MODEL: &[Case] = &[
    ("MissingKey", "general.architecture", |w| w.remove("general.architecture")),
    ("WrongKeyType", "a string", |w| w.set("general.architecture", MetaValue::U32(1))),
    ("NoTensors", "a vocabulary or metadata only", |w| w.tensors.clear()),
    // Converting the tensor would not make the model one that is supported.
    ("UnsupportedArch", "\"qwen35moe\" is not supported", |w| {
        w.set("general.architecture", MetaValue::String("qwen35moe".into()));
        w.tensor_mut(Q).ty = 240;
    }),
    ("UnsupportedArch", "bitnet-25", |w| {
        w.set("general.architecture", MetaValue::String("gemma3".into()));
    }),
    ("MissingKey", "block_count", |w| w.remove(&key("block_count"))),
    ("MissingKey", "embedding_length", |w| w.remove(&key("embedding_length"))),
    ("MissingKey", "epsilon", |w| w.remove(&key("attention.layer_norm_rms_epsilon"))),
    ("WrongKeyType", "an integer", |w| set(w, "embedding_length", MetaValue::F32(128.0))),
    ("BadHyperparam", "-128", |w| set(w, "embedding_length", MetaValue::I32(-128))),
    ("BadHyperparam", "block_count", |w| set(w, "block_count", MetaValue::U32(0))),
    ("BadHyperparam", "block_count", |w| set(w, "block_count", MetaValue::U64(1 << 31))),
    ("BadHyperparam", "embedding_length", |w| set(w, "embedding_length", MetaValue::U64(1 << 31))),
    ("BadHyperparam", "embedding_length", |w| set(w, "embedding_length", MetaValue::U32(0))),
    ("BadHyperparam", "divide", |w| set(w, "embedding_length", MetaValue::U32(127))),
    ("BadHyperparam", "feed_forward_length", |w| set(w, "feed_forward_length", MetaValue::U32(0))),
    ("BadHyperparam", "vocab_size", |w| set(w, "vocab_size", MetaValue::U32(0))),
    ("BadHyperparam", "evenly", |w| set(w, "attention.head_count_kv", MetaValue::U32(8))),
    ("BadHyperparam", "head_count_kv", |w| set(w, "attention.head_count_kv", MetaValue::U32(0))),
    ("BadHyperparam", "epsilon", |w| {
        set(w, "attention.layer_norm_rms_epsilon", MetaValue::F32(f32::INFINITY))
    }),
    ("WrongKeyType", "epsilon", |w| set(w, "attention.layer_norm_rms_epsilon", MetaValue::U32(1))),
    ("WrongKeyType", "block_count", |w| set(w, "block_count", MetaValue::String("1".into()))),
    ("MissingKey", "feed_forward_length", |w| w.remove(&key("feed_forward_length"))),
    ("MissingKey", "head_count", |w| w.remove(&key("attention.head_count"))),
    ("BadHyperparam", "512", |w| set(w, "block_count", MetaValue::U32(513))),
    ("BadHyperparam", "head_count", |w| set(w, "attention.head_count", MetaValue::U32(0))),
    ("BadHyperparam", "divide", |w| set(w, "attention.head_count", MetaValue::U32(6))),
    ("BadHyperparam", "evenly", |w| set(w, "attention.head_count_kv", MetaValue::U32(3))),
    ("BadHyperparam", "epsilon", |w| set(w, "attention.layer_norm_rms_epsilon", MetaValue::F32(0.0))),
    ("BadHyperparam", "epsilon", |w| set(w, "attention.layer_norm_rms_epsilon", MetaValue::F32(f32::NAN))),
    ("BadHyperparam", "even", |w| set(w, "rope.dimension_count", MetaValue::U32(31))),
    ("BadHyperparam", "at most the head", |w| set(w, "rope.dimension_count", MetaValue::U32(34))),
    ("BadHyperparam", "freq_base", |w| set(w, "rope.freq_base", MetaValue::F32(-1.0))),
    ("BadHyperparam", "context_length", |w| set(w, "context_length", MetaValue::U32(0))),
    ("BadHyperparam", "both must agree", |w| {
        set(w, "attention.key_length", MetaValue::U32(32));
        set(w, "attention.value_length", MetaValue::U32(64));
    }),
    ("BadHyperparam", "longrope", |w| set(w, "rope.scaling.type", MetaValue::String("longrope".into()))),
    ("MissingKey", "scaling.factor", |w| set(w, "rope.scaling.type", MetaValue::String("yarn".into()))),
    ("BadHyperparam", "scaling.factor\" is 0", |w| set(w, "rope.scaling.factor", MetaValue::F32(0.0))),
    ("BadHyperparam", "silu", |w| set(w, "hidden_activation", MetaValue::String("silu".into()))),
    ("BadHyperparam", "sliding_window", |w| set(w, "attention.sliding_window", MetaValue::U32(64))),
    ("WrongKeyType", "a bool", |w| set(w, "attention.causal", MetaValue::U32(1))),
    ("BadHyperparam", "scaling.factor means the same", |w| {
        set(w, "rope.scaling.factor", MetaValue::F32(2.0));
        set(w, "rope.scale_linear", MetaValue::F32(4.0));
    }),
    ("BadHyperparam", "layers that differ", |w| {
        set(w, "feed_forward_length", MetaValue::I32s(vec![256, 128]))
    }),
    ("BadHyperparam", "must hold a number", |w| set(w, "attention.head_count", MetaValue::I32s(vec![]))),
    ("BadHyperparam", "rotated weights", |w| w.set("prism.hadamard.rounds", MetaValue::U32(1))),
    ("MissingKey", "prism.hadamard.block_size", |w| w.set("prism.hadamard.version", MetaValue::U32(1))),
    ("MissingTensor", "blk.1.attn_norm.weight", |w| set(w, "block_count", MetaValue::U32(2))),
    ("MissingTensor", Q, |w| w.remove_tensor(Q)),
    ("MissingTensor", "attn_sub_norm", |w| w.remove_tensor("blk.0.attn_sub_norm.weight")),
    ("MissingTensor", EMBD, |w| w.remove_tensor(EMBD)),
    ("MissingTensor", NORM, |w| w.remove_tensor(NORM)),
    ("WrongShape", EMBD, |w| set(w, "vocab_size", MetaValue::U32(289))),
    ("WrongShape", "[128, 64]", |w| {
        w.remove_tensor(Q);
        w.i2s_tensor(Q, 128, 64, &[0; 128 * 64], 1.0);
    }),
    ("WrongShape", NORM, |w| w.tensor_mut(NORM).dims = vec![128, 1]),
    ("WrongShape", "attn_sub_norm", |w| {
        let t = w.tensor_mut("blk.0.attn_sub_norm.weight");
        (t.dims, t.data) = (vec![64], vec![0; 256]);
    }),
    ("WrongShape", "attn_k", |w| w.tensor_mut("blk.0.attn_k.weight").dims = vec![256, 32]),
    ("WrongTensorType", "I8", |w| {
        let q = w.tensor_mut(Q);
        (q.ty, q.data) = (24, vec![0; 128 * 128]);
    }),
    ("WrongTensorType", "Q8_0", |w| {
        let norm = w.tensor_mut(NORM);
        (norm.ty, norm.data) = (8, vec![0; 4 * 34]);
    }),
    ("WrongTensorType", "I2_S", |w| {
        let zeros = vec![0; 128 * 288];
        w.remove_tensor(EMBD);
        w.i2s_tensor(EMBD, 128, 288, &zeros, 1.0);
    }),
    ("UnsupportedTensor", "bias", |w| w.f32_tensor("blk.0.attn_q.bias", &[128], &[0.0; 128])),
    ("UnsupportedTensor", "LLaMA 3.1", |w| w.f32_tensor("rope_freqs.weight", &[16], &[2.0; 16])),
    ("UnsupportedTensor", "each pair", |w| w.f32_tensor("rope_freqs.weight", &[15], &[1.0; 15])),
    ("UnsupportedTensor", "scale", |w| w.f32_tensor("blk.0.attn_q.scale", &[1], &[1.0])),
];

pub(crate) const TOKENIZER: &[Case] = &[
    ("MissingKey", "tokenizer.ggml.model", |w| w.remove("tokenizer.ggml.model")),
    ("MissingKey", "tokenizer.ggml.tokens", |w| w.remove("tokenizer.ggml.tokens")),
    ("MissingKey", "tokenizer.ggml.merges", |w| w.remove("tokenizer.ggml.merges")),
    ("BadTokenizer", "llama-bpe", |w| w.set("tokenizer.ggml.pre", MetaValue::String("gpt-4o".into()))),
    ("BadTokenizer", "gpt2", |w| w.set("tokenizer.ggml.model", MetaValue::String("bert".into()))),
    ("MissingKey", "tokenizer.ggml.scores", |w| {
        w.set("tokenizer.ggml.model", MetaValue::String("llama".into()));
    }),
    ("BadTokenizer", "score of token 9 is not a number", |w| {
        let mut scores = vec![0.0; 288];
        scores[9] = f32::NAN;
        w.set("tokenizer.ggml.scores", MetaValue::F32s(scores));
    }),
    ("WrongKeyType", "array of u8", |w| w.set("tokenizer.ggml.tokens", array(0, 288, &[1; 288]))),
    ("WrongKeyType", "array of u8", |w| w.set("tokenizer.ggml.token_type", array(0, 288, &[1; 288]))),
    ("WrongKeyType", "array of u8", |w| w.set("tokenizer.ggml.scores", array(0, 288, &[1; 288]))),
    ("WrongKeyType", "merges", |w| w.set("tokenizer.ggml.merges", MetaValue::I32s(vec![1]))),
    ("BadTokenizer", "scores", |w| w.set("tokenizer.ggml.scores", MetaValue::F32s(vec![0.0; 3]))),
    ("BadTokenizer", "0 tokens", |w| with_tokens(w, Vec::clear)),
    ("BadTokenizer", "287 tokens", |w| {
        with_tokens(w, |t| drop(t.remove(270)));
        with_types(w, |t| t.truncate(287));
        with_merges(w, Vec::clear);
        for id in ["bos", "eos", "padding"] {
            w.set(&format!("tokenizer.ggml.{id}_token_id"), MetaValue::U32(3));
        }
    }),
    ("BadTokenizer", "are both", |w| with_tokens(w, |t| t[7] = t[8].clone())),
    ("BadTokenizer", "287 types", |w| with_types(w, |t| t.truncate(287))),
    ("BadTokenizer", "token 5 has the type -7", |w| with_types(w, |t| t[5] = -7)),
    ("BadTokenizer", "merge 1", |w| with_merges(w, |m| m[1].clear())),
    ("BadTokenizer", "one space", |w| with_merges(w, |m| m[1] = "he".into())),
    ("BadTokenizer", "one space", |w| with_merges(w, |m| m[1] = "h e r".into())),
    ("BadTokenizer", "joins", |w| with_merges(w, |m| m[1] = "zqzq h".into())),
    ("BadTokenizer", "gives", |w| with_merges(w, |m| m[1] = "ÿ ÿ".into())),
    ("BadTokenizer", "is 288", |w| w.set("tokenizer.ggml.bos_token_id", MetaValue::U32(288))),
    ("BadTokenizer", "is -2", |w| w.set("tokenizer.ggml.eos_token_id", MetaValue::I32(-2))),
    ("BadTokenizer", "names no token", |w| w.set("tokenizer.ggml.bos_token_id", MetaValue::U32(u32::MAX))),
    ("BadTokenizer", "is 288", |w| w.set("tokenizer.ggml.eos_token_ids", MetaValue::I32s(vec![1, 288]))),
    ("WrongKeyType", "eog_token_ids", |w| {
        w.set("tokenizer.ggml.eog_token_ids", MetaValue::Strings(vec!["x".into()]))
    }),
    ("WrongKeyType", "tokenizer.ggml.model", |w| w.set("tokenizer.ggml.model", MetaValue::U32(1))),
    ("WrongKeyType", "tokens", |w| w.set("tokenizer.ggml.tokens", MetaValue::String("a".into()))),
    ("BadTokenizer", "one space", |w| with_merges(w, |m| m[0] = "h  e".into())),
    ("BadTokenizer", "padding", |w| w.set("tokenizer.ggml.padding_token_id", MetaValue::U32(u32::MAX - 1))),
    ("BadTokenizer", "add_bos_token", |w| w.remove("tokenizer.ggml.bos_token_id")),
    ("WrongKeyType", "add_bos_token", |w| w.set("tokenizer.ggml.add_bos_token", MetaValue::U32(1))),
    ("WrongKeyType", "chat_template", |w| w.set("tokenizer.chat_template", MetaValue::U32(1))),
];

pub(crate) const WEIGHTS: &[Case] = &[
    ("BadWeights", "element 0", |w| w.tensor_mut(Q).data[0] |= 0xc0),
    ("BadWeights", "code 3", |w| {
        let q = &mut w.tensor_mut(Q).data;
        let last = q.len() - 33;
        q[last] |= 3;
    }),
    ("BadWeights", "element 0", |w| {
        let q = &mut w.tensor_mut(Q).data;
        let codes = q.len() - 32;
        q[..codes].fill(0xff);
    }),
    ("BadWeights", "element 0", |w| {
        w.tensor_mut(EMBD).data[..2].copy_from_slice(&0x7e00u16.to_le_bytes());
    }),
    ("BadWeights", "scale NaN", |w| set_scale(w, f32::NAN)),
    ("BadWeights", "scale inf", |w| set_scale(w, f32::INFINITY)),
    ("BadWeights", "scale -inf", |w| set_scale(w, f32::NEG_INFINITY)),
    ("BadWeights", "element 127", |w| {
        w.tensor_mut(NORM).data[508..].copy_from_slice(&f32::NAN.to_le_bytes());
    }),
    ("BadWeights", "element 1000", |w| {
        w.tensor_mut(EMBD).data[2000..2002].copy_from_slice(&0xfc00u16.to_le_bytes());
    }),
];

fn set_scale(w: &mut GgufWriter, scale: f32) {
    let q = &mut w.tensor_mut(Q).data;
    let at = q.len() - 32;
    q[at..at + 4].copy_from_slice(&scale.to_le_bytes());
}
