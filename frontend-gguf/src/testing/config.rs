//! Random configurations of models of every architecture: what lowering does with whatever sizes, keys and options it
//! is given. The property behind the fuzz target `lower`.
//!
//! Everything is drawn from the input, small numbers first: most configurations are models that can be lowered, and
//! each draw can go wrong on its own. The weights are zeros, so that an input costs no more than its tensors.

use bitnetc_ir::weights::ternary_bytes;
use bitnetc_ir::{CacheType, DType, Layout, ParamDef, Type, WeightSource, text, verify};

use super::check::Outcome;
use super::writer::GgufWriter;
use crate::arch::{Activation, FAMILIES, TensorClass};
use crate::decode::I2sLayout;
use crate::lower::{LowerError, LowerOptions};
use crate::model::{self, Model, ModelOptions};
use crate::source::GgufWeights;
use crate::synth::vocabulary;
use crate::tensor_type::TensorType;
use crate::tensors::Dims;
use crate::write::MetaValue;

/// Bytes of a file that is built; larger configurations are left out.
const MOST_BYTES: u64 = 1 << 18;

/// Numbers drawn from bytes; zeros when there are none left.
struct Draw<'a>(&'a [u8]);

impl Draw<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }

    fn chance(&mut self, in_256: u8) -> bool {
        self.byte() > u8::MAX - in_256
    }
}

/// The width of a model that its linear weights have rows of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Hidden,
    Heads,
    Ffn,
}

/// Keys of recurrent layers.
fn recurrent_keys(draw: &mut Draw<'_>, w: &mut GgufWriter, key: &dyn Fn(&str) -> String, layers: usize) {
    let head = draw.of(&[16usize, 16, 32, 8, 0]);
    let key_heads = draw.of(&[1usize, 2, 3]);
    let value_heads = key_heads * draw.of(&[1usize, 2]);
    for (suffix, n) in [
        ("ssm.conv_kernel", draw.of(&[4, 4, 4, 3])),
        ("ssm.state_size", head),
        ("ssm.group_count", key_heads),
        ("ssm.time_step_rank", value_heads),
        ("ssm.inner_size", draw.of(&[value_heads * head, value_heads * head, 16])),
        ("full_attention_interval", draw.of(&[1, 2, 1, 2, 0, 1 << 20])),
        ("nextn_predict_layers", draw.of(&[0, 0, 0, 1])),
    ] {
        if !draw.chance(2) {
            w.set(&key(suffix), MetaValue::U32(n as u32));
        }
    }
    if draw.chance(40) {
        let flags = (0..layers).map(|_| i32::from(draw.chance(100))).collect();
        w.set(&key("attention.recurrent_layers"), MetaValue::I32s(flags));
    }
}

/// Keys of a rotation of all matrices, or of some.
fn rotation_keys(draw: &mut Draw<'_>, w: &mut GgufWriter, widths: [usize; 3], layers: usize) {
    let key = |suffix: &str| format!("prism.hadamard.{suffix}");
    let text = |text: &str| MetaValue::String(text.to_owned());
    w.set(&key("version"), MetaValue::U32(draw.of(&[1, 1, 1, 2, 0])));
    w.set(&key("block_size"), MetaValue::U32(draw.of(&[2, 4, 8, 1, 16, 3, 1 << 20])));
    w.set(&key("transform"), text("normalized-sylvester-walsh-hadamard"));
    w.set(&key("axis"), text("input-last-dimension"));
    w.set(&key("sign_mode"), text(draw.of(&["identity", "explicit", "explicit", "other"])));
    if draw.chance(160) {
        let mut widths = widths.to_vec();
        widths.sort_unstable();
        widths.dedup();
        let count = widths.iter().sum::<usize>() - usize::from(draw.chance(10));
        let signs = (0..count).map(|i| if i % 3 == 0 { -1 } else { 1 }).collect();
        w.set(&key("sign_widths"), MetaValue::I32s(widths.iter().map(|&n| n as i32).collect()));
        w.set(&key("sign_values"), MetaValue::I32s(signs));
    }
    const STEMS: [&str; 10] = [
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
        "attn_qkv",
        "attn_gate",
        "ssm_out",
    ];
    let stems = if draw.chance(128) { &STEMS[..7] } else { &STEMS[..] };
    let name = |layer| move |stem| format!("blk.{layer}.{stem}.weight");
    let mut names: Vec<String> = (0..layers).flat_map(|layer| stems.iter().map(name(layer))).collect();
    if draw.chance(128) {
        names.push(model::OUTPUT.to_owned());
    }
    w.set(&key("weight_names"), MetaValue::Strings(names));
    if draw.chance(128) {
        w.set(&key("inverse_weight_names"), MetaValue::Strings(vec![model::TOKEN_EMBD.to_owned()]));
    }
    w.set(&key("gdn_v_grouped"), MetaValue::Bool(draw.chance(128)));
    if draw.chance(60) {
        w.set(&key("tied_output"), MetaValue::Bool(draw.chance(128)));
    }
}

/// A container that claims to be a model. Nothing keeps its parts consistent but that most draws are.
fn build(draw: &mut Draw<'_>) -> Option<GgufWriter> {
    let family = draw.of(FAMILIES);
    let arch = draw.of(family.architectures);
    // Most are so small that only rows of floats fit; in the others one of the widths has whole blocks of every type.
    let wide = if draw.chance(16) { Some(draw.of(&[Width::Hidden, Width::Heads, Width::Ffn])) } else { None };
    let of = |draw: &mut Draw<'_>, width: Width, few: &[usize], many: &[usize]| {
        draw.of(if wide == Some(width) { many } else { few })
    };
    let head_dim = of(draw, Width::Heads, &[8, 4, 16, 2, 6, 12, 1], &[64, 128, 32, 48]);
    let kv_heads = draw.of(&[1usize, 2, 4, 3]);
    let heads = kv_heads * draw.of(&[1usize, 2, 4, 3]);
    let hidden = of(draw, Width::Hidden, &[16, 32, 8, heads * head_dim, 50, 1], &[128, 256, 64]);
    let ffn = of(draw, Width::Ffn, &[16, 32, 8, 17], &[128, 256, 64]);
    let vocab = of(draw, Width::Hidden, &[8, 16, 4], &[8, 16, 64]);
    let layers = draw.of(&[1, 1, 2, 1]);
    let mut w = GgufWriter::default();
    let key = |suffix: &str| format!("{arch}.{suffix}");
    w.set("general.architecture", MetaValue::String(arch.to_owned()));
    for (suffix, n) in [
        ("vocab_size", vocab),
        ("context_length", draw.of(&[64, 2048, 1 << 20, usize::MAX])),
        ("embedding_length", hidden),
        ("block_count", layers),
        ("feed_forward_length", ffn),
        ("attention.head_count", heads),
        ("attention.head_count_kv", kv_heads),
        ("attention.key_length", head_dim),
        ("attention.value_length", head_dim),
        ("rope.dimension_count", draw.of(&[head_dim, head_dim, head_dim / 2, 2])),
    ] {
        let value = if draw.chance(2) {
            MetaValue::U64(u64::from(draw.byte()) << draw.of(&[0, 7, 31, 56]))
        } else {
            MetaValue::U64(n as u64)
        };
        if !draw.chance(1) {
            w.set(&key(suffix), value);
        }
    }
    w.set(
        &key("attention.layer_norm_rms_epsilon"),
        MetaValue::F32(draw.of(&[1e-5, 1e-6, 1.0, f32::MIN_POSITIVE])),
    );
    w.set(&key("rope.freq_base"), MetaValue::F32(draw.of(&[10_000.0, 500_000.0, 1.0, f32::MAX])));
    if draw.chance(60) {
        let kind = draw.of(&["linear", "yarn", "none", "longrope"]);
        w.set(&key("rope.scaling.type"), MetaValue::String(kind.to_owned()));
        w.set(&key("rope.scaling.factor"), MetaValue::F32(draw.of(&[4.0, 1.0, 1e-30, f32::MAX])));
        w.set(&key("rope.scaling.original_context_length"), MetaValue::U32(draw.of(&[2048, 1, 1 << 20])));
    }
    if draw.chance(60) {
        let name = draw.of(&[family.activations[0].name(), "relu2", "silu", "gelu"]);
        w.set(&key("hidden_activation"), MetaValue::String(name.to_owned()));
    }
    if family.hybrid.is_some() {
        recurrent_keys(draw, &mut w, &key, layers);
    }
    if draw.chance(40) {
        rotation_keys(draw, &mut w, [hidden, heads * head_dim, ffn], layers);
    }
    vocabulary::metadata(vocab, u64::from(draw.byte()))
        .into_iter()
        .for_each(|(key, value)| w.set(key, value));

    let hparams_of = |w: &GgufWriter| {
        let file = w.build();
        let gguf = crate::reader::Gguf::parse(&file).ok()?;
        crate::hparams::HyperParams::read(&gguf, None).ok().map(|(hparams, _)| hparams)
    };
    // Without hyper-parameters there are no shapes: the file is refused without any tensor.
    let Some(hparams) = hparams_of(&w) else { return Some(w) };
    let mut bytes = 0;
    let mut add = |w: &mut GgufWriter, draw: &mut Draw<'_>, name: &str, class: TensorClass, dims: Dims| {
        const LINEAR: [TensorType; 16] = [
            TensorType::I2S,
            TensorType::Tq2_0,
            TensorType::Tq1_0,
            TensorType::F16,
            TensorType::Iq2Bn,
            TensorType::Iq1Bn,
            TensorType::Q2_0,
            TensorType::Q8_0,
            TensorType::Q4K,
            TensorType::F32,
            TensorType::Bf16,
            TensorType::Iq2BnR4,
            TensorType::Q1_0,
            TensorType::Q6K,
            TensorType::Ptq1_0,
            TensorType::Pq2_0,
        ];
        let wanted = match class {
            TensorClass::Norm | TensorClass::Conv => {
                draw.of(&[TensorType::F32, TensorType::F16, TensorType::Bf16])
            }
            TensorClass::Table | TensorClass::Gate => {
                draw.of(&[TensorType::F16, TensorType::F32, TensorType::Q8_0, TensorType::Q6K])
            }
            TensorClass::Linear => draw.of(&LINEAR),
        };
        let (row, rows) = (dims.row(), dims.rows());
        let fitting =
            [wanted, TensorType::F16].into_iter().find_map(|ty| Some((ty, ty.tensor_bytes(row, rows)?)));
        let (ty, size) = fitting?;
        bytes += size;
        if bytes > MOST_BYTES {
            return None;
        }
        if !draw.chance(1) {
            let mut data = vec![0; size as usize];
            // Ones among the zeros, for types that are not ternary then.
            if let Some(byte) = data.get_mut(usize::from(draw.byte()) * 7) {
                *byte = draw.byte();
            }
            w.tensor(name, dims.as_slice(), ty, data);
        }
        Some(())
    };
    let table = Dims::matrix(hparams.hidden as u64, hparams.vocab as u64);
    add(&mut w, draw, model::TOKEN_EMBD, TensorClass::Table, table)?;
    for layer in 0..hparams.layers.min(8) {
        for t in hparams.layer_tensors(layer) {
            add(&mut w, draw, &model::layer_tensor_name(layer, t), t.class, (t.dims)(&hparams))?;
            if t.class == TensorClass::Linear && draw.chance(10) {
                add(
                    &mut w,
                    draw,
                    &format!("blk.{layer}.{}.scale", t.stem),
                    TensorClass::Norm,
                    Dims::vector(1),
                )?;
            }
        }
    }
    add(&mut w, draw, model::OUTPUT_NORM, TensorClass::Norm, Dims::vector(hparams.hidden as u64))?;
    if draw.chance(80) {
        add(&mut w, draw, model::OUTPUT, TensorClass::Table, table)?;
    }
    Some(w)
}

/// Bytes of the elements and number of scales that a parameter of the imported module has.
fn expected_bytes(ty: &Type) -> Option<(u64, u64)> {
    match (ty.dtype, ty.as_matrix()) {
        (DType::Ter, Some((rows, cols))) => {
            let scales =
                if ty.layout == Layout::I2s128 { 1 } else { u64::from(rows) * u64::from(ty.scale_groups()) };
            Some((ternary_bytes(ty.layout, rows, cols)?, scales))
        }
        (dtype, _) => Some((ty.elements()?.checked_mul(u64::from(dtype.element_bytes()?))?, 0)),
    }
}

/// Lowers the model that `input` describes. A module that comes out is accepted by the verifier, reads back from its
/// text, and every stored parameter has as many bytes and scales as its type says.
///
/// # Panics
/// If one of these properties does not hold.
pub fn check_lower(input: &[u8]) -> Outcome {
    let mut draw = Draw(input);
    let options = ModelOptions {
        i2s_layout: draw.of(&[
            I2sLayout::Blocks128,
            I2sLayout::Blocks128,
            I2sLayout::Blocks64,
            I2sLayout::Rows4,
        ]),
        activation: draw.of(&[None, None, None, Some(Activation::Relu2), Some(Activation::Silu)]),
    };
    let cache = draw.of(&[CacheType::F16, CacheType::F32]);
    let chunk = draw.of(&[256u32, 1, 16, 17, 4096, 0, u32::MAX]);
    let Some(w) = build(&mut draw) else { return Outcome::Refused("TooLarge") };
    let file = w.build();
    let model = match Model::open_parts(&[&file], &options) {
        Ok(model) => model,
        Err(e) => return Outcome::Container(e.kind()),
    };
    let module = match model.lower(&LowerOptions { cache, chunk, ..LowerOptions::default() }) {
        Ok(module) => module,
        Err(LowerError::Chunk { .. }) => return Outcome::Container("Chunk"),
        Err(e) => panic!("an accepted model is not lowered: {e}"),
    };
    let verified = verify::verify(&module);
    assert!(verified.is_ok(), "the verifier refuses the imported module: {verified:?}");
    let printed = text::print(&module);
    match text::parse(&printed) {
        Ok(again) => assert!(text::print(&again) == printed, "printing and parsing are not inverse"),
        Err(e) => panic!("the text of the imported module does not parse: {e}"),
    }
    let weights = GgufWeights::new(&model);
    for param in module.params().values().filter(|p| matches!(p.def, ParamDef::File { .. })) {
        let Some(stored) = weights.weight(&param.name) else { panic!("no bytes for {}", param.name) };
        let found = (stored.bytes.len() as u64, stored.scales.len() as u64);
        assert_eq!(Some(found), expected_bytes(&param.ty), "{}: {}", param.name, param.ty);
    }
    match model.check_weights() {
        Ok(()) => Outcome::Complete,
        Err(e) => Outcome::Model(e.kind()),
    }
}
