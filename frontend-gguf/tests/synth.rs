//! Synthetic models: every preset's file is a model that the front-end accepts, equal for equal seeds.

use bitnetc_frontend_gguf::synth::{ModelShape, PRESETS, Preset, SyntheticModel, preset};
use bitnetc_frontend_gguf::{Gguf, Model, TensorType};

fn bytes(model: &SyntheticModel) -> Vec<u8> {
    let mut out = Vec::new();
    let mut take = |piece: &[u8]| -> Result<(), ()> {
        out.extend_from_slice(piece);
        Ok(())
    };
    let length = model.write(&mut take).unwrap();
    assert_eq!(length, out.len() as u64);
    out
}

/// A preset, with so few layers and tokens that a test can hold it.
fn small(name: &str) -> ModelShape {
    let shape = preset(name).unwrap().shape();
    ModelShape { layers: shape.hybrid.map_or(1, |hybrid| hybrid.interval), vocab: 300, ..shape }
}

#[test]
fn every_preset_is_a_model() {
    // Of the hybrid ones the smallest: they have four layers at least.
    let held = |p: &&Preset| p.shape().hybrid.is_none() || p.name == "bonsai2-2b";
    for p in PRESETS.iter().filter(held) {
        let model = SyntheticModel::new(small(p.name), 1).unwrap();
        let file = bytes(&model);
        let parsed = Model::open(&file).unwrap_or_else(|e| panic!("{}: {e}", p.name));
        parsed.check_weights().unwrap_or_else(|e| panic!("{}: {e}", p.name));
        assert!(parsed.notes().is_empty(), "{}: {:?}", p.name, parsed.notes());
        let (h, s) = (parsed.hparams(), model.shape());
        assert_eq!(
            (h.hidden, h.layers, h.heads, h.kv_heads, h.head_dim, h.ffn, h.vocab, h.context),
            (s.hidden, s.layers, s.heads, s.kv_heads, s.head_dim, s.ffn, s.vocab, s.context)
        );
        assert_eq!(parsed.output().is_some(), !s.tied);
        assert_eq!(parsed.tokenizer().tokens().len(), s.vocab);
    }
}

#[test]
fn sizes_are_those_of_the_published_models() {
    let full = |name: &str| SyntheticModel::new(preset(name).unwrap().shape(), 1).unwrap();
    let two = full("2b-4t");
    // 332 tensors; the 210 ternary ones hold 2,084,044,800 weights, the table 128,256 × 2,560 f16.
    assert_eq!(two.tensors().len(), 332);
    assert_eq!(two.parameters(), 2_412_820_480);
    let table = 128_256 * 2560 * 2;
    let norms = 4 * (30 * (3 * 2560 + 6912) + 2560);
    assert_eq!(two.data_bytes(), 2_084_044_800 / 4 + 210 * 32 + table + norms);
    // The published file is larger only by its longer vocabulary.
    assert!(two.data_bytes() < 1_187_801_280);
    assert!(full("8b").data_bytes() > 2 << 30);
    // As counted in the published file: 851 tensors, 402 of them ternary.
    let bonsai = full("bonsai2-27b");
    assert_eq!(bonsai.tensors().len(), 851);
    let ternary = bonsai.tensors().iter().filter(|t| t.ty == TensorType::Ptq1_0);
    assert_eq!(ternary.clone().count(), 402);
    assert_eq!(ternary.map(|t| t.row as u64 * t.rows as u64).sum::<u64>(), 26_869_760_000);
}

#[test]
fn equal_seeds_give_equal_files() {
    let make = |seed| bytes(&SyntheticModel::new(small("tiny"), seed).unwrap());
    assert_eq!(make(7), make(7));
    let (a, b) = (make(7), make(8));
    let data =
        |file: &[u8]| Gguf::parse(file).unwrap().tensors().iter().map(|t| t.range()).min_by_key(|r| r.start);
    assert_eq!(a.len() - data(&a).unwrap().start, b.len() - data(&b).unwrap().start);
    assert_ne!(a, b);
}

#[test]
fn zeros_are_as_many_as_in_trained_models() {
    let file = bytes(&SyntheticModel::new(small("700m"), 3).unwrap());
    let gguf = Gguf::parse(&file).unwrap();
    let tensor = gguf.tensors().iter().find(|t| t.name() == "blk.0.ffn_up.weight").unwrap();
    let codes = &gguf.data(tensor)[..1536 * 4096 / 4];
    let zeros: usize = codes.iter().map(|b| (0..4).filter(|g| b >> (2 * g) & 3 == 1).count()).sum();
    let share = zeros as f64 / (1536.0 * 4096.0);
    assert!((share - 0.42).abs() < 0.002, "{share}");
}

#[test]
fn impossible_shapes_are_named() {
    let refused = |change: &dyn Fn(&mut ModelShape)| {
        let mut shape = ModelShape::default();
        change(&mut shape);
        SyntheticModel::new(shape, 1).unwrap_err().to_string()
    };
    assert_eq!(refused(&|s| s.vocab = 3), "the vocabulary is 3: at least 4 tokens are needed");
    assert_eq!(refused(&|s| s.layers = 0), "the number of layers is 0: it must be from 1 to 512");
    assert_eq!(refused(&|s| s.arch = "mamba"), "the architecture is mamba: it is not known");
    assert_eq!(
        refused(&|s| s.ffn = 8640),
        "the row length of blk.0.ffn_down.weight is 8640: I2_S needs a multiple of 128"
    );
    assert_eq!(refused(&|s| s.kv_heads = 3), "the number of heads is 4: key/value heads must divide it");
}

#[test]
fn a_sink_that_fails_ends_the_stream() {
    let model = SyntheticModel::new(small("tiny"), 1).unwrap();
    let mut pieces = 0;
    let result = model.write(|_| {
        pieces += 1;
        if pieces == 3 { Err("full") } else { Ok(()) }
    });
    assert_eq!((result, pieces), (Err("full"), 3));
}
