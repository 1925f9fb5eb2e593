//! Small models of every architecture (`tests/data/architectures`, with the script that made them), run by the IR
//! interpreter, against the logits of an implementation in numpy; and what they are lowered to.

use std::path::Path;

use bitnetc_frontend_gguf::{
    Activation, Form, GgufWeights, LayerRole, LowerOptions, Model, ModelOptions, PreTokenizer, TensorType,
};
use bitnetc_ir::interp::{Interpreter, Tensor};
use bitnetc_ir::{CacheType, DType, KEY_BLOCK, Layout, Pairs};
use serde_json::Value;

/// Largest difference of a logit. The standard deviation of logits is 12 to 17; f32 sums of a few hundred terms differ
/// from f64 ones by 1e-6 of it, and no activation is close enough to a half to fall to another code.
const TOLERANCE: f32 = 1e-3;

fn data(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/architectures").join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Opens the model, compares all its logits and returns it to `inspect`.
fn check(name: &str, options: &ModelOptions, inspect: impl FnOnce(&Model<'_>)) {
    let bytes = data(&format!("{name}.gguf"));
    let record: Value = serde_json::from_slice(&data(&format!("{name}.json"))).unwrap();
    let model = Model::open_parts(&[&bytes], options).unwrap();
    model.check_weights().unwrap();
    let module =
        model.lower(&LowerOptions { cache: CacheType::F32, chunk: 16, ..LowerOptions::default() }).unwrap();
    let weights = GgufWeights::new(&model);
    let interpreter = Interpreter::new(&module, &weights);
    let ids: Vec<u32> =
        record["ids"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as u32).collect();
    let prefill = module.func_named("prefill").unwrap();
    let func = &module.funcs()[prefill];
    let caches = func.inputs()[2..].iter().map(|&v| Tensor::empty_cache(func.ty(v), KEY_BLOCK).unwrap());
    let inputs = [Tensor::Tokens(ids.clone()), Tensor::Position(0)].into_iter().chain(caches);
    let mut results = interpreter.run(prefill, inputs.collect()).unwrap();
    results.truncate(1);
    let found = interpreter.run(module.func_named("head").unwrap(), results).unwrap();
    let expected = record["logits"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
    let expected: Vec<f32> = expected.map(|x| x.as_f64().unwrap() as f32).collect();
    let found = found[0].as_f32().unwrap();
    assert_eq!(found.len(), expected.len());
    let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("{name}: {worst:e}");
    assert!(worst <= TOLERANCE, "{name}: {worst}");
    inspect(&model);
}

fn linear<'m, 'a>(model: &'m Model<'a>, role: LayerRole) -> (TensorType, Form) {
    let tensor = model.layer(1, role).unwrap();
    (tensor.ty(), model.form(tensor).unwrap())
}

#[test]
fn bitnet_with_silu_and_scales_in_tensors_of_their_own() {
    check("bitnet_silu", &ModelOptions::default(), |model| {
        assert_eq!(model.gguf().version(), 1);
        assert_eq!(model.hparams().activation, Activation::Silu);
        let whole_rows = Form::Ternary { group: None };
        assert_eq!(linear(model, LayerRole::FfnDown), (TensorType::F16, whole_rows));
        let scale = model.separate_scale(model.layer(0, LayerRole::AttnQ).unwrap());
        assert!(scale > 0.0 && scale < 0.5);
        // The file does not say the activation, and models with either are in circulation.
        let notes: Vec<String> = model.notes().iter().map(ToString::to_string).collect();
        assert!(
            notes.iter().any(|n| n.contains("bitnet.hidden_activation is absent; silu is used")),
            "{notes:?}"
        );
    });
}

#[test]
fn bitnet_with_relu2_by_its_key() {
    check("bitnet_relu2", &ModelOptions::default(), |model| {
        assert_eq!(model.hparams().activation, Activation::Relu2);
        assert_eq!(linear(model, LayerRole::AttnV), (TensorType::Tq1_0, Form::Ternary { group: None }));
        assert_eq!(model.notes(), []);
    });
}

#[test]
fn llama() {
    check("llama", &ModelOptions::default(), |model| {
        assert_eq!(model.hparams().family.rope, Pairs::Interleaved);
        assert_eq!(linear(model, LayerRole::AttnQ), (TensorType::Tq1_0, Form::Ternary { group: None }));
        assert!(model.layer(0, LayerRole::AttnSubNorm).is_none());
        assert_eq!(model.token_embd().ty(), TensorType::Q8_0);
        assert!(matches!(model.form(model.token_embd()), Some(Form::Dense(_))));
    });
}

#[test]
fn qwen3() {
    check("qwen3", &ModelOptions::default(), |model| {
        let groups = Form::Ternary { group: Some(128) };
        assert_eq!(linear(model, LayerRole::AttnOutput), (TensorType::Q2_0G128, groups));
        assert!(model.layer(0, LayerRole::AttnQNorm).is_some());
        assert_eq!(model.tokenizer().pre(), Some(PreTokenizer::Qwen2));
        // Rows of 128 columns are one group, and one scale.
        assert_eq!(linear(model, LayerRole::AttnQ).1, Form::Ternary { group: None });
        let module = model.lower(&LowerOptions::default()).unwrap();
        let ty = |name: &str| module.params()[module.param_named(name).unwrap()].ty.clone();
        assert_eq!(ty("l0.o").to_string(), "ter[128x256]@row16_g128");
        assert_eq!((ty("l0.q").dtype, ty("l0.q").layout), (DType::Ter, Layout::Row16));
        let notes: Vec<String> = model.notes().iter().map(ToString::to_string).collect();
        assert!(
            notes.iter().any(|n| n.contains("tensor type 42 is taken as Q2_0 (groups of 128)")),
            "{notes:?}"
        );
    });
}

#[test]
fn the_users_word_stands_above_the_files() {
    let bytes = data("bitnet_relu2.gguf");
    let options = ModelOptions { activation: Some(Activation::Silu), ..ModelOptions::default() };
    let model = Model::open_parts(&[&bytes], &options).unwrap();
    assert_eq!(model.hparams().activation, Activation::Silu);
    assert!(model.notes()[0].to_string().contains("is relu2; silu is used, as asked for"));
}
