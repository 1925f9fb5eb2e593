//! Models of attention and recurrent layers with rotated weights: what is accepted and how it is lowered, and what a declaration
//! may not be.

use bitnetc_frontend_gguf::testing::{GgufWriter, TinyModel};
use bitnetc_frontend_gguf::write::MetaValue;
use bitnetc_frontend_gguf::{GgufError, GgufWeights, LayerRole, LowerOptions, Model};
use bitnetc_ir::interp::{Interpreter, Tensor};
use bitnetc_ir::{EntryPoint, KEY_BLOCK, Module, verify};

const OPTIONS: LowerOptions = LowerOptions { cache: bitnetc_ir::CacheType::F32, chunk: 8, activations: None };

fn lowered(model: &Model<'_>) -> Module {
    let module = model.lower(&OPTIONS).unwrap();
    verify::verify(&module).unwrap_or_else(|e| panic!("{}", e[0]));
    module
}

fn refusal(change: impl FnOnce(&mut GgufWriter)) -> GgufError {
    refusal_of(TinyModel::hybrid(), change)
}

fn refusal_of(model: TinyModel, change: impl FnOnce(&mut GgufWriter)) -> GgufError {
    let mut writer = model.writer();
    change(&mut writer);
    Model::open(&writer.build()).unwrap_err()
}

/// Logits of all tokens, and what the layers keep afterwards.
fn run(module: &Module, model: &Model<'_>, tokens: &[u32], chunk: usize) -> (Vec<f32>, Vec<Tensor>) {
    let weights = GgufWeights::new(model);
    let interpreter = Interpreter::new(module, &weights);
    let func = |entry| module.entry_point(entry).unwrap();
    let entry = if chunk == 1 { EntryPoint::Decode } else { EntryPoint::Prefill };
    let inputs = &module.funcs()[func(entry)].inputs()[2..];
    let types = inputs.iter().map(|&v| module.funcs()[func(entry)].ty(v));
    let mut kept: Vec<Tensor> = types.map(|ty| Tensor::empty_cache(ty, KEY_BLOCK).unwrap()).collect();
    let mut logits = Vec::new();
    for (number, part) in tokens.chunks(chunk).enumerate() {
        let mut inputs = vec![Tensor::Tokens(part.to_vec()), Tensor::Position((number * chunk) as u32)];
        inputs.append(&mut kept);
        let mut outputs = interpreter.run(func(entry), inputs).unwrap();
        kept = outputs.split_off(1);
        let rows = match entry {
            EntryPoint::Decode => outputs,
            _ => interpreter.run(func(EntryPoint::Head), outputs).unwrap(),
        };
        logits.extend(rows[0].as_f32().unwrap());
    }
    (logits, kept)
}

#[test]
fn a_layer_keeps_what_its_kind_keeps() {
    let file = TinyModel::hybrid().to_gguf();
    let model = Model::open(&file).unwrap();
    assert!(model.layer(0, LayerRole::DeltaConv).is_some() && model.layer(0, LayerRole::AttnK).is_none());
    assert!(model.layer(3, LayerRole::DeltaConv).is_none() && model.layer(3, LayerRole::AttnK).is_some());
    let module = lowered(&model);
    let decode = &module.funcs()[module.entry_point(EntryPoint::Decode).unwrap()];
    let inputs: Vec<String> = decode.inputs()[2..]
        .iter()
        .map(|&v| format!("{}: {}", decode.value(v).name.as_deref().unwrap(), decode.ty(v)))
        .collect();
    assert_eq!(inputs[..2], ["l0.conv: f32[1x3x256]", "l0.delta: f32[4x32x32]"]);
    assert_eq!(inputs[6..], ["l3.kc: f32[2xCx32]", "l3.vc: f32[2xCx32]"]);
    let printed = bitnetc_ir::text::print(&module);
    let decode = printed.split("func @prefill").next().unwrap();
    let count = |op: &str| decode.matches(&format!("= {op} ")).count();
    // Once for each input of rotated matrices (three a layer and the head's), and back after the embedding.
    assert_eq!((count("hadamard"), decode.matches("direction=inverse").count()), (4 * 4 + 2, 1));
    assert_eq!((count("delta_rule"), count("causal_conv"), count("attention")), (3, 3, 1));
    // Value heads in another order before three matrices, queries and gates apart in one layer.
    assert_eq!(count("transpose_heads"), 4);
    // Two gates of a state in each recurrent layer are products of floats, with the input as it is.
    assert_eq!(decode.lines().filter(|l| l.contains("= matmul") && l.contains(".alpha")).count(), 3);
}

#[test]
fn chunks_give_the_bits_of_single_tokens() {
    let file = TinyModel::hybrid().to_gguf();
    let model = Model::open(&file).unwrap();
    let module = lowered(&model);
    let tokens: Vec<u32> = (0..11).map(|i| i * 23 % 280).collect();
    let expected = run(&module, &model, &tokens, 1);
    assert!(expected.0.iter().all(|x| x.is_finite()));
    for chunk in [2, 3, 8] {
        assert_eq!(run(&module, &model, &tokens, chunk), expected, "chunks of {chunk}");
    }
}

/// The values of a key of integers, changed.
fn i32s(writer: &mut GgufWriter, key: &str, change: impl FnOnce(&mut Vec<i32>)) {
    let entry = writer.entries.iter_mut().find(|(name, _)| name == key.as_bytes()).unwrap();
    let MetaValue::I32s(values) = &mut entry.1 else { panic!("{key} holds no integers") };
    change(values);
}

/// The names of a key, changed.
fn names(writer: &mut GgufWriter, key: &str, change: impl FnOnce(&mut Vec<String>)) {
    let entry = writer.entries.iter_mut().find(|(name, _)| name == key.as_bytes()).unwrap();
    let MetaValue::Strings(values) = &mut entry.1 else { panic!("{key} holds no strings") };
    change(values);
}

const H: &str = "prism.hadamard.";

type Change = Box<dyn FnOnce(&mut GgufWriter)>;

fn set(key: &str, value: MetaValue) -> Change {
    let key = key.to_owned();
    Box::new(move |w| w.set(&key, value))
}

fn weight_names(change: impl FnOnce(&mut Vec<String>) + 'static) -> Change {
    Box::new(|w| names(w, "prism.hadamard.weight_names", change))
}

fn text(text: &str) -> MetaValue {
    MetaValue::String(text.to_owned())
}

#[test]
fn declarations_of_rotations_that_are_refused() {
    let key = |suffix: &str| format!("{H}{suffix}");
    let signs = |change: fn(&mut Vec<i32>)| -> Change {
        Box::new(move |w| i32s(w, "prism.hadamard.sign_values", change))
    };
    let widths = |change: fn(&mut Vec<i32>)| -> Change {
        Box::new(move |w| i32s(w, "prism.hadamard.sign_widths", change))
    };
    // A change, the key that the refusal names, and a word of it.
    let cases: Vec<(Change, &str, &str)> = vec![
        (Box::new(|w| w.remove("prism.hadamard.version")), "version", "missing"),
        (set(&key("version"), MetaValue::U32(3)), "version", "1 and 2"),
        (set(&key("version"), MetaValue::U32(2)), "version", "tied_output"),
        (set(&key("tied_output"), MetaValue::Bool(true)), "tied_output", "version 2"),
        (Box::new(|w| w.remove("prism.hadamard.block_size")), "block_size", "missing"),
        (set(&key("block_size"), MetaValue::U32(48)), "block_size", "power of two"),
        (set(&key("block_size"), MetaValue::U32(1 << 20)), "block_size", "power of two"),
        (set(&key("block_size"), MetaValue::U32(256)), "sign_widths", "256"),
        (set(&key("transform"), text("haar")), "transform", "sylvester"),
        (Box::new(|w| w.remove("prism.hadamard.axis")), "axis", "missing"),
        (set(&key("axis"), text("output-last-dimension")), "axis", "input-last-dimension"),
        (set(&key("sign_mode"), text("random")), "sign_mode", "explicit"),
        (set(&key("sign_mode"), text("identity")), "sign_mode", "sign_widths"),
        (signs(|s| s[5] = 0), "sign_values", "1 and -1"),
        (signs(|s| s.truncate(s.len() - 1)), "sign_values", "needs 256"),
        (signs(|s| s.push(1)), "sign_values", "left after all"),
        (widths(Vec::clear), "sign_widths", "empty"),
        (widths(|w| w[1] = 128), "sign_widths", "twice"),
        (widths(|w| w[1] = 255), "sign_widths", "multiples"),
        (
            Box::new(|w| {
                i32s(w, "prism.hadamard.sign_widths", |widths| widths.truncate(1));
                i32s(w, "prism.hadamard.sign_values", |signs| signs.truncate(128));
            }),
            "sign_widths",
            "blk.0.ffn_down.weight",
        ),
        (weight_names(Vec::clear), "weight_names", "empty"),
        (weight_names(|n| n.push(n[0].clone())), "weight_names", "twice"),
        (weight_names(|n| n.push("blk.0.attn_q.weight".into())), "weight_names", "blk.0.attn_q.weight"),
        (weight_names(|n| n.push("blk.0.attn_norm.weight".into())), "weight_names", "attn_norm"),
        (weight_names(|n| n.push("token_embd.weight".into())), "weight_names", "token_embd"),
        (weight_names(|n| n.retain(|n| n != "blk.2.ssm_out.weight")), "weight_names", "blk.2.ssm_out.weight"),
        (weight_names(|n| n.retain(|n| n != "output.weight")), "weight_names", "output.weight"),
        (
            set(&key("inverse_weight_names"), MetaValue::Strings(vec!["output.weight".into()])),
            "inverse_weight_names",
            "token_embd",
        ),
        (set(&key("gdn_v_grouped"), MetaValue::U32(1)), "gdn_v_grouped", "bool"),
        (set(&key("rotation"), MetaValue::U32(1)), "rotation", "not supported"),
    ];
    for (change, key, word) in cases {
        let error = refusal(change).to_string();
        assert!(error.contains(&format!("{H}{key}\"")) && error.contains(word), "{key}, {word}: {error}");
    }
    let tied = || TinyModel { tied: true, ..TinyModel::hybrid() };
    assert!(Model::open(&tied().to_gguf()).is_ok());
    let tied: Vec<(Change, &str)> = vec![
        (Box::new(|w| w.remove("prism.hadamard.inverse_weight_names")), "tied_output"),
        (
            Box::new(|w| {
                w.remove("prism.hadamard.tied_output");
                w.set("prism.hadamard.version", MetaValue::U32(1));
            }),
            "inverse_weight_names",
        ),
    ];
    for (change, key) in tied {
        let error = refusal_of(TinyModel { tied: true, ..TinyModel::hybrid() }, change).to_string();
        assert!(
            error.contains(&format!("{H}{key}\"")) && error.contains("token_embd.weight"),
            "{key}: {error}"
        );
    }
    // BitNet's models have norms that a rotation would have to go through.
    let error = refusal_of(TinyModel::default(), |w| {
        for (key, value) in TinyModel::hybrid().writer().entries {
            if key.starts_with(H.as_bytes()) {
                w.entries.push((key, value));
            }
        }
    });
    assert!(error.to_string().contains("are not rotated"), "{error}");
}

#[test]
fn other_families_may_be_rotated() {
    for arch in ["llama", "qwen3"] {
        let model = TinyModel { arch, tied: false, ..TinyModel::default() };
        let mut writer = model.writer();
        let matrices = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
        let names = matrices.iter().map(|stem| format!("blk.0.{stem}.weight"));
        writer.set(&format!("{H}version"), MetaValue::U32(1));
        writer.set(&format!("{H}block_size"), MetaValue::U32(128));
        writer.set(&format!("{H}transform"), text("normalized-sylvester-walsh-hadamard"));
        writer.set(&format!("{H}axis"), text("input-last-dimension"));
        writer.set(&format!("{H}sign_mode"), text("identity"));
        let names = names.chain(["output.weight".to_owned()]).collect();
        writer.set(&format!("{H}weight_names"), MetaValue::Strings(names));
        let file = writer.build();
        let model = Model::open(&file).unwrap();
        let module = lowered(&model);
        let printed = bitnetc_ir::text::print(&module);
        let decode = printed.split("func @prefill").next().unwrap();
        assert_eq!(decode.matches("= hadamard ").count(), 5, "{arch}");
    }
}

#[test]
fn sizes_of_recurrent_layers_that_are_refused() {
    let key = |suffix: &str| format!("qwen35.{suffix}");
    let number = |suffix: &str, n: u32| set(&key(suffix), MetaValue::U32(n));
    let cases: Vec<(Change, &str)> = vec![
        (number("ssm.conv_kernel", 3), "ssm.conv_kernel"),
        (number("ssm.state_size", 33), "ssm.state_size"),
        (number("ssm.group_count", 3), "ssm.time_step_rank"),
        (number("ssm.inner_size", 64), "ssm.inner_size"),
        (number("full_attention_interval", 0), "full_attention_interval"),
        (number("full_attention_interval", 9), "full_attention_interval"),
        (number("nextn_predict_layers", 4), "nextn_predict_layers"),
        (set(&key("attention.recurrent_layers"), MetaValue::I32s(vec![1, 1])), "attention.recurrent_layers"),
        (
            set(&key("attention.recurrent_layers"), MetaValue::I32s(vec![1, 2, 1, 0])),
            "attention.recurrent_layers",
        ),
        (
            set(&key("rope.dimension_sections"), MetaValue::I32s(vec![11, 11, 10, 0])),
            "rope.dimension_sections",
        ),
        (Box::new(|w| w.remove("qwen35.ssm.inner_size")), "ssm.inner_size"),
    ];
    for (change, suffix) in cases {
        let error = refusal(change).to_string();
        assert!(error.contains(&format!("\"{}\"", key(suffix))), "{suffix}: {error}");
    }
    // A list of layers stands above the interval; sections that add up say nothing about text.
    let mut writer = TinyModel::hybrid().writer();
    writer.set(&key("attention.recurrent_layers"), MetaValue::I32s(vec![1, 1, 1, 0]));
    writer.set(&key("full_attention_interval"), MetaValue::U32(2));
    writer.set(&key("rope.dimension_sections"), MetaValue::I32s(vec![3, 3, 2, 0]));
    assert!(Model::open(&writer.build()).is_ok());
}

#[test]
fn blocks_that_predict_further_tokens_are_skipped() {
    let mut writer = TinyModel::hybrid().writer();
    writer.set("qwen35.block_count", MetaValue::U32(5));
    writer.set("qwen35.nextn_predict_layers", MetaValue::U32(1));
    writer.f32_tensor("blk.4.nextn.eh_proj.weight", &[256, 128], &vec![0.5; 256 * 128]);
    writer.f32_tensor("blk.4.attn_q.bias", &[128], &[1.0; 128]);
    let file = writer.build();
    let model = Model::open(&file).unwrap();
    assert_eq!((model.hparams().layers, model.hparams().skipped_blocks), (4, 1));
    assert_eq!(model.notes().iter().filter(|note| note.to_string().contains("skipped")).count(), 1);
    // Nothing but such a block.
    writer.tensors.retain(|t| !(0..4).any(|n| t.name.starts_with(format!("blk.{n}.").as_bytes())));
    let error = Model::open(&writer.build()).unwrap_err().to_string();
    assert!(
        error.contains("nextn_predict_layers") && error.contains("give the file of the model"),
        "{error}"
    );
}

#[test]
fn the_part_that_reads_images_is_refused_by_name() {
    let error = refusal(|w| w.set("general.architecture", text("clip"))).to_string();
    assert!(error.contains("mmproj") && error.contains("text model"), "{error}");
}
