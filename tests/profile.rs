//! A session that records computes the same bits, and what it records is about the steps that it ran.

mod common;

use bitnetc_ir::{DType, EntryPoint};
use bitnetc_runtime::session::{Session, SessionOptions};
use common::*;

/// Tokens that are fed one by one.
const STEPS: usize = 20;

#[test]
fn profiles_are_of_the_steps_that_ran() {
    let model = &shapes()[4];
    let file = write_model(model);
    let loaded = open(file.path(), &options(DType::F16));
    let tokens = random_tokens(6, STEPS, model.vocab as u32);
    for threads in [1, 2, 3] {
        let options = SessionOptions { context: STEPS as u32, threads };
        let mut silent = Session::new(loaded.model.clone(), options).unwrap();
        let mut session = Session::profiled(loaded.model.clone(), options).unwrap();
        assert_eq!(silent.profile(), None);
        for &token in &tokens {
            let expected = silent.feed(&[token]).unwrap().to_vec();
            assert_same("profiled", &[expected], &[session.feed(&[token]).unwrap().to_vec()]);
        }
        let profile = session.profile().unwrap();
        let decode = profile.entry_point(EntryPoint::Decode).unwrap();
        let (_, program) = loaded.model.programs().entry_point(EntryPoint::Decode).unwrap();
        assert_eq!((decode.calls, decode.steps.len()), (STEPS as u64, program.steps.len()));
        let mut busy = vec![0; threads as usize];
        for (step, planned) in decode.steps.iter().zip(&program.steps) {
            assert_eq!((step.op, step.barrier), (planned.mnemonic, planned.barrier));
            assert!(step.busy_ns.iter().any(|&ns| ns > 0), "{step:?}");
            assert!(!step.replicated || step.busy_ns.iter().all(|&ns| ns > 0), "{step:?}");
            for (thread, ns) in step.busy_ns.iter().enumerate() {
                busy[thread] += ns + step.wait_ns[thread];
            }
        }
        // The leader is inside of the call while it works and waits.
        assert!(busy[0] <= decode.wall_ns, "{} of {}", busy[0], decode.wall_ns);
        let totals = decode.by_op();
        assert_eq!(totals.iter().map(|t| t.steps).sum::<usize>(), decode.steps.len());
        assert!(
            ["attention", "attention_merge", "bitlinear"].iter().all(|op| totals.iter().any(|t| t.op == *op))
        );
        let overhead = decode.overhead().unwrap();
        assert!(overhead.barrier >= 0.0 && overhead.dispatch < 1.0);
        assert_eq!(profile.entry_point(EntryPoint::Prefill).unwrap().overhead(), None);
        session.reset_profile();
        assert_eq!(session.profile().unwrap().programs[0].calls, 0);
    }
}

#[test]
fn a_layer_has_seven_phases() {
    let model = &shapes()[4];
    let file = write_model(model);
    let loaded = open(file.path(), &options(DType::F16));
    let (_, program) = loaded.model.programs().entry_point(EntryPoint::Decode).unwrap();
    let barriers: Vec<&str> = program.steps.iter().filter(|s| s.barrier).map(|s| s.mnemonic).collect();
    let layer = [
        "bitlinear",
        "rope_kv_append",
        "attention",
        "attention_merge",
        "bitlinear",
        "bitlinear",
        "bitlinear",
    ];
    let layers = vec![&layer[..]; model.layers].concat();
    assert_eq!(barriers[..layers.len()], layers);
    // Behind them is only the head.
    assert!(program.steps.iter().filter(|s| s.replicated).count() >= 4 * model.layers);
}
