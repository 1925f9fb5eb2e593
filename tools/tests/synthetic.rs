//! Synthetic models behave like trained ones, as far as a benchmark needs: their activations neither vanish nor explode
//! over a whole context, and what they say depends on what they have read.

#[path = "../../tests/common/mod.rs"]
mod common;

use bitnetc_frontend_gguf::synth::{SyntheticModel, preset};
use bitnetc_ir::DType;
use common::{open, options, random_tokens, session};

#[test]
fn logits_stay_finite_and_spread_over_4096_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let model = SyntheticModel::new(preset("tiny").unwrap().shape(), 1).unwrap();
    bitnetc_tools::synth::write_synthetic(&path, &model, |_| true).unwrap();
    let loaded = open(&path, &options(DType::F16));
    let tokens = random_tokens(3, 4096, loaded.model.vocab());
    let mut session = session(&loaded, 4096, 2);
    let (mut rows, mut best) = (0, std::collections::BTreeSet::new());
    session
        .score(&tokens, |position, logits| {
            let n = logits.len() as f64;
            let mean = logits.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let variance = logits.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
            let spread = variance.sqrt();
            assert!((1.0..6.0).contains(&spread), "position {position}: spread {spread}");
            let top = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            best.extend(top);
            rows += 1;
            true
        })
        .unwrap();
    assert_eq!(rows, 4096);
    assert!(best.len() > 100, "{} different likeliest tokens", best.len());
}

#[test]
fn an_interrupted_file_does_not_appear() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let model = SyntheticModel::new(preset("tiny").unwrap().shape(), 1).unwrap();
    let result = bitnetc_tools::synth::write_synthetic(&path, &model, |done| done < 100_000);
    assert!(result.is_err_and(|error| error.is_interruption()));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
