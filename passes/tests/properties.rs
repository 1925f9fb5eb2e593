//! Properties of every pass and of pipelines, over random modules: the same bits, verified, idempotent.

mod common;

use std::collections::HashMap;

use bitnetc_ir::generate::{GenOptions, random_module};
use bitnetc_ir::random::SplitMix;
use bitnetc_ir::{Arch, Func, Module, NodeId, Operand, Stage, TargetDesc, TokenCount, text};
use bitnetc_passes::transforms::schedule::phases;
use bitnetc_passes::{ALL_PASSES, CostModel, PassContext, PassFailure, PassId, Pipeline, run};
use common::*;

/// Modules and what they compute: random ops, decoders that stray from the usual layer, nested splits.
fn subjects() -> Vec<(String, Module, Expected)> {
    let mut all = Vec::new();
    for seed in 0..32 {
        let options = GenOptions {
            stage: if seed % 2 == 0 { Stage::Imported } else { Stage::Fused },
            tokens: if seed % 4 < 2 { TokenCount::One } else { TokenCount::UpTo(5) },
            ..GenOptions::default()
        };
        let (module, weights) = random_module(seed, &options);
        let expected = Expected::of(&module, weights);
        all.push((format!("random {seed}"), module, expected));
    }
    for seed in 0..16 {
        let module = random_decoder(seed, 2, Straying(if seed == 0 { 0 } else { 5 + seed as usize % 20 }));
        let expected = Expected::of(&module, weights_for(&module));
        all.push((format!("decoder {seed}"), module, expected));
    }
    for seed in 0..12 {
        let module = nested_splits(seed);
        let expected = Expected::of(&module, weights_for(&module));
        all.push((format!("splits {seed}"), module, expected));
    }
    all
}

#[test]
fn every_pass_alone_keeps_the_bits_and_is_idempotent() {
    let mut patches = vec![0; ALL_PASSES.len()];
    for (name, module, expected) in subjects() {
        for (i, pass) in ALL_PASSES.iter().enumerate().filter(|(_, p)| p.id != PassId::PlanMemory) {
            let what = format!("{name}, {}", pass.id);
            let (once, report) =
                run_text(pass.name(), &module).unwrap_or_else(|e| panic!("{what}: {e}\n{}", e.reproducer));
            patches[i] += report.patches();
            expected.assert_same_bits(&once, &what);
            let (twice, report) =
                run_text(pass.name(), &once).unwrap_or_else(|e| panic!("{what} again: {e}"));
            assert_eq!((report.patches(), report.passes[0].changed), (0, false), "{what} again");
            assert_eq!(text::print(&once), text::print(&twice), "{what} again");
        }
    }
    for (pass, patches) in ALL_PASSES.iter().zip(patches) {
        use PassId::{AssignLayout, PackHead, PlanMemory, Schedule};
        let rewrites = !matches!(pass.id, AssignLayout | Schedule | PlanMemory | PackHead);
        assert!(!rewrites || patches > 20, "{} found only {patches} things to do", pass.id);
    }
}

/// Runs a lowering pipeline; `None` where a function cannot be planned because it returns a value that it
/// splits.
fn lowered(what: &str, pipeline: &Pipeline, module: &Module) -> Option<Module> {
    match run(pipeline, module.clone(), &PassContext::new(target())) {
        Ok((planned, _)) => Some(planned),
        Err(e) => match *e.failure {
            PassFailure::Unplannable { .. } if e.to_string().contains("which is split") => None,
            _ => panic!("{what}: {e}\n{}", e.reproducer),
        },
    }
}

#[test]
fn pipelines_keep_the_bits_whatever_is_left_out() {
    let mut planned = 0;
    let mut refused = 0;
    for (seed, (name, module, expected)) in subjects().into_iter().enumerate() {
        let mut pipelines = vec![Pipeline::default()];
        if seed % 4 == 0 {
            let optional = ALL_PASSES.iter().filter(|p| !p.required);
            pipelines.extend(optional.map(|p| Pipeline::default().without(p.id).unwrap()));
        }
        let mut rng = SplitMix::new(seed as u64);
        for _ in 0..2 {
            let all = rewrites(Stage::Fused);
            let mut passes: Vec<&str> = (0..rng.below(9)).map(|_| rng.pick(&all)).collect();
            passes.extend(["assign-layout", "cse", "schedule", "dce", "plan-memory"]);
            pipelines.push(pipeline(&passes.join(",")));
        }
        for pipeline in pipelines {
            let what = format!("{name}, {pipeline}");
            match lowered(&what, &pipeline, &module) {
                Some(after) => {
                    assert_eq!(after.stage, Stage::Planned);
                    expected.assert_same_bits(&after, &what);
                    planned += 1;
                }
                None => refused += 1,
            }
        }
    }
    assert!(planned > 5 * refused, "{planned} planned, {refused} refused");
}

#[test]
fn patches_can_be_bisected() {
    let module = random_decoder(3, 1, Straying(10));
    let expected = Expected::of(&module, weights_for(&module));
    let full = run_text(&Pipeline::default().to_string(), &module).unwrap();
    let patches = full.1.patches();
    assert!(patches > 10);
    for n in 0..=patches {
        let context = PassContext { stop_after: Some(n), ..PassContext::new(target()) };
        let (after, report) = run(&Pipeline::default(), module.clone(), &context).unwrap();
        assert_eq!(report.patches(), n);
        assert_eq!(after.stage, Stage::Planned);
        expected.assert_same_bits(&after, &format!("first {n} patches"));
        if n == patches {
            assert_eq!(text::print(&after), text::print(&full.0));
        }
    }
}

#[test]
fn the_usual_layer_becomes_the_least_ops_and_phases() {
    let module = random_decoder(0, 2, Straying(0));
    let (after, _) = run_text(&Pipeline::default().to_string(), &module).unwrap();
    for func in after.funcs().values() {
        let layer = [
            "rms_norm_quant",
            "bitlinear",
            "split",
            "rope_kv_append",
            "attention",
            "rms_norm_quant",
            "bitlinear",
            "rms_norm_quant",
            "bitlinear",
            "rms_norm_quant",
            "bitlinear",
        ];
        let expected = [&["embed"][..], &layer, &layer, &["rms_norm", "matmul"]].concat();
        let got: Vec<&str> = ops(func).iter().map(|op| op.info().mnemonic).collect();
        assert_eq!(got, expected);
        // Over a chunk, every op that does work waits for the one before it. For one token the ops over a row do not.
        let plan = func.plan.as_ref().unwrap();
        let barriers = if func.tokens() == TokenCount::One { 2 * 6 } else { 1 + 2 * 10 + 1 };
        assert_eq!(plan.barriers.len(), barriers);
    }
    let decode = after.funcs().values().next().unwrap();
    // While attention runs, the residual stream, q, k and v, and its result are alive; no phase has more.
    let (residual, qkv, attention) = (128 * 4, 256 * 4, 128 * 4);
    let plan = decode.plan.as_ref().unwrap();
    assert_eq!(plan.arena_bytes, residual + qkv + attention);
    // Each thread has the embedded token, until the first residual is added, and its quantised norm.
    assert_eq!(plan.private_bytes, 128 * 4 + (128 + 64));
}

fn is_replicated(func: &Func, node: NodeId) -> bool {
    let node = func.node(node);
    let inside = !node.results.iter().any(|&v| func.is_output(v));
    node.op.info().can_replicate() && inside && func.tokens() == TokenCount::One
}

/// The phases that dependences ask for: the ops that threads share on the longest chain, and one more where a replicated op stands at
/// its end and reads what they made. An append depends on the readers of the cache that it changes.
fn longest_chain(func: &Func) -> usize {
    fn depth(func: &Func, node: NodeId, known: &mut HashMap<NodeId, usize>) -> usize {
        if let Some(&d) = known.get(&node) {
            return d;
        }
        let n = func.node(node);
        let info = n.op.info();
        let work = usize::from(!info.is_view() && !is_replicated(func, node));
        let mut before: Vec<NodeId> = Vec::new();
        for &operand in &n.operands {
            if let Operand::Value(v) = operand {
                before.extend(func.producer(v));
                let changes = (0..n.results.len()).any(|result| info.updated(result).is_some());
                if changes && func.ty(v).is_persistent() {
                    before.extend(func.users(v).into_iter().filter(|&u| u != node));
                }
            }
        }
        let d = work + before.into_iter().map(|b| depth(func, b, known)).max().unwrap_or(0);
        known.insert(node, d);
        d
    }
    let mut known = HashMap::new();
    let needs = |&node: &NodeId| depth(func, node, &mut known) + usize::from(is_replicated(func, node));
    func.order().iter().map(needs).max().unwrap_or(0).max(1)
}

#[test]
fn a_schedule_has_as_many_phases_as_the_longest_chain_has_ops() {
    let mut fewer = 0;
    let target = TargetDesc::baseline(Arch::X86_64);
    let costs = CostModel::new(&target);
    for (name, module, _) in subjects() {
        let (scheduled, _) = run_text("schedule", &module).unwrap();
        for (before, after) in module.funcs().values().zip(scheduled.funcs().values()) {
            let (old, new) = (phases(before, &costs).barriers.len(), phases(after, &costs).barriers.len());
            assert_eq!(new + 1, longest_chain(after), "{name}");
            fewer += usize::from(new < old);
        }
    }
    assert!(fewer > 20, "only {fewer} functions gained");
}
