//! Looking into a run: levels, dumps that can be taken up again, the interpreter's check, bisection and reproducers.

mod common;

use std::cell::RefCell;

use bitnetc_ir::diff::{DiffOptions, diff};
use bitnetc_ir::generate::{GenOptions, random_module};
use bitnetc_ir::{DType, Func, Module, NodeId, Op, Stage, text};
use bitnetc_passes::{
    Culprit, DumpIr, HeadFormat, OptLevel, PassBody, PassContext, PassFailure, PassId, PassInfo, PassSet,
    Patch, Pipeline, PrintChoice, PrintIr, Reproducer, Rewrite, Statistics, VerifyEach, WeightPacking,
    bisect, run, run_with,
};
use common::*;

/// A rewrite that is wrong in one place: the second `mul` of a function becomes an `add`.
struct Miscompiles;

impl Rewrite for Miscompiles {
    fn matches(&self, _: &Module, func: &Func, node: NodeId) -> Option<Patch> {
        let n = func.node(node);
        let op = match n.op {
            // Harmless: the operands of a product change places.
            Op::Mul {} if n.operands[0] > n.operands[1] => Op::Mul {},
            Op::Mul {} => {
                let products = |&&id: &&NodeId| matches!(func.node(id).op, Op::Mul {});
                if func.order().iter().filter(products).nth(1) != Some(&node) {
                    return None;
                }
                Op::Add {}
            }
            _ => return None,
        };
        let mut patch = Patch::new(MISCOMPILES.id, node);
        let y = patch.op(op, n.operands.iter().rev().map(|&o| o.into()).collect());
        patch.replace(n.results[0], y);
        patch.remove(node);
        Some(patch)
    }
}

static MISCOMPILES: PassInfo = PassInfo::new(
    PassId::Custom("miscompiles"),
    "Turns a product into a sum.",
    (Stage::Imported, Stage::LaidOut),
    None,
    || PassBody::Rewrite(Box::new(Miscompiles)),
);

fn known() -> PassSet {
    PassSet::default().with(&MISCOMPILES)
}

/// Three layers without deviations, their gates `mul %up, %act`, so that the first patches are harmless.
fn subject() -> Module {
    let mut module = random_decoder(0, 3, Straying(0));
    for id in module.funcs().keys().collect::<Vec<_>>() {
        let func = module.func_mut(id);
        for node in func.order().to_vec() {
            if matches!(func.node(node).op, Op::Mul {}) {
                let mut operands = func.node(node).operands.clone();
                operands.sort();
                func.set_operand(node, 0, operands[1]);
                func.set_operand(node, 1, operands[0]);
            }
        }
    }
    module
}

#[test]
fn a_planted_miscompilation_is_caught_bisected_and_reproduced() {
    let module = subject();
    let pipeline = known().parse("cse,miscompiles,fuse-norm-quant,fuse-bitlinear").unwrap();
    // The rules of the IR hold, so that the verifier alone sees nothing.
    let lax = PassContext::new(target());
    let (broken, _) = run(&pipeline, module.clone(), &lax).unwrap();
    assert!(!diff(&module, &broken, DiffOptions { plan: false }).is_empty());

    let strict = PassContext { verify_each: VerifyEach::Bits { seed: 5 }, ..lax.clone() };
    let error = run(&pipeline, module.clone(), &strict).unwrap_err();
    assert_eq!(error.pass, Some(MISCOMPILES.id));
    let message = error.to_string();
    assert!(message.starts_with("miscompiles: changes what @decode computes, result "), "{message}");

    // Its reproducer fails in the same way, with the passes that were left.
    let reproducer = Reproducer::parse(&error.reproducer, &known()).unwrap();
    assert_eq!(reproducer.pipeline.to_string(), "miscompiles,fuse-norm-quant,fuse-bitlinear");
    assert_eq!(reproducer.to_string(), error.reproducer);
    let again = reproducer.clone().run().unwrap_err();
    assert_eq!((again.to_string(), again.reproducer), (message, error.reproducer.clone()));

    // The patch that does it is found, and no other.
    let culprit = bisect(&reproducer).unwrap();
    let Culprit { patch, pass, func, op } = &culprit;
    assert_eq!((*pass, func.as_str()), (MISCOMPILES.id, "decode"));
    assert!(op.ends_with("= mul"), "{op}");
    let stopped = |n: u64| {
        let context = PassContext { stop_after: Some(n), ..reproducer.context.clone() };
        Reproducer { context, ..reproducer.clone() }.run()
    };
    assert!(*patch > 1, "harmless patches come first");
    assert!(stopped(patch - 1).is_ok());
    let failure = stopped(*patch).unwrap_err();
    assert!(matches!(*failure.failure, PassFailure::Miscompile { .. }), "{failure}");

    // With only the patches that it takes, the reproducer is the smallest that fails.
    let smallest = PassContext { stop_after: Some(*patch), ..reproducer.context.clone() };
    let smallest = Reproducer { context: smallest, ..reproducer };
    let parsed = Reproducer::parse(&smallest.to_string(), &known()).unwrap();
    assert_eq!(bisect(&parsed), Some(culprit));
}

#[test]
fn what_does_not_fail_has_no_culprit() {
    let context = PassContext { verify_each: VerifyEach::Bits { seed: 0 }, ..PassContext::new(target()) };
    let fine = Reproducer { pipeline: Pipeline::default(), context, command: None, module: subject() };
    assert_eq!(bisect(&fine), None);
    // A failure without any patch is none of a patch.
    let early = Reproducer { pipeline: pipeline("plan-memory"), ..fine };
    assert!(early.clone().run().is_err());
    assert_eq!(bisect(&early), None);
}

#[test]
fn every_pass_of_every_level_keeps_the_bits() {
    for seed in 0..12 {
        let module = match seed % 2 {
            0 => random_decoder(seed, 1, Straying(8)),
            _ => random_module(seed, &GenOptions::default()).0,
        };
        for &level in OptLevel::ALL {
            for head in [HeadFormat::Stored, HeadFormat::Q8] {
                let verify_each = VerifyEach::Bits { seed };
                let context = PassContext { verify_each, head, ..PassContext::new(target()) };
                match run(&level.pipeline(), module.clone(), &context) {
                    Ok((after, _)) => assert_eq!(after.stage, Stage::Planned),
                    // Not every random function can be planned.
                    Err(e) => {
                        assert!(matches!(*e.failure, PassFailure::Unplannable { .. }), "-O{level}: {e}")
                    }
                }
            }
        }
    }
}

#[test]
fn higher_levels_leave_fewer_ops() {
    let ops = |text: &str, level: OptLevel| {
        let module = text::parse(text).unwrap_or_else(|e| panic!("{e}"));
        let (after, _) = run(&level.pipeline(), module, &PassContext::new(target())).unwrap();
        after.funcs().values().map(|f| f.order().len()).sum::<usize>()
    };
    // Two equal values are one after the first `cse`; only then is it seen that two sums have the same operands.
    let twice = "bir 1 stage=imported
        func @f(%x: f32[32], %y: f32[32]) -> (f32[32]) tokens=1 {
          %a = relu2 %x : f32[32]
          %s = add %y, %a : f32[32]
          %b = relu2 %x : f32[32]
          %t = add %b, %y : f32[32]
          %p = mul %s, %t : f32[32]
          %dead = silu %p : f32[32]
          return %p
        }";
    let counts = OptLevel::ALL.iter().map(|&level| ops(twice, level)).collect::<Vec<_>>();
    assert_eq!(counts[0], 6, "{counts:?}");
    assert!(counts.windows(2).all(|w| w[0] >= w[1]) && counts[1] < counts[0], "{counts:?}");
    let decoder = text::print(&subject());
    let counts = OptLevel::ALL.iter().map(|&level| ops(&decoder, level)).collect::<Vec<_>>();
    assert!(counts[2] < counts[1] && counts[3] <= counts[2], "{counts:?}");
}

#[test]
fn a_run_can_be_taken_up_from_every_dump() {
    let mut taken_up = 0;
    for (seed, weights) in [(0, WeightPacking::TwoBits), (1, WeightPacking::Trits), (7, WeightPacking::Auto)]
    {
        let module = random_decoder(seed, 2, Straying(6 * seed as usize % 20));
        let head = if seed == 0 { HeadFormat::Q8 } else { HeadFormat::Stored };
        let mut context = PassContext { head, weights, ..PassContext::new(target()) };
        context.target.threads = 3;
        context.target.l2_bytes = 4096;
        let dumps = RefCell::new(Vec::new());
        let mut dump =
            DumpIr::new(|name: &str, text: &str| dumps.borrow_mut().push((name.to_owned(), text.to_owned())));
        let (whole, _) =
            run_with(&OptLevel::O3.pipeline(), module.clone(), &context, &mut [&mut dump]).unwrap();
        let dumps = dumps.into_inner();
        assert!(dumps.len() > 6);
        assert_eq!(text::parse(&dumps[0].1).map(|m| text::print(&m)), Ok(text::print(&module)));
        for (name, text) in &dumps {
            let rest: Reproducer = text.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(rest.to_string(), *text, "{name}");
            let (end, _) = rest.run().unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(text::print(&end), text::print(&whole), "{name}");
            taken_up += 1;
        }
        let last = text::parse(&dumps.last().unwrap().1).unwrap();
        assert_eq!(text::print(&last), text::print(&whole));
    }
    assert!(taken_up > 20, "{taken_up}");
}

#[test]
fn options_of_a_pass_count_before_those_of_the_run() {
    let module = random_decoder(2, 1, Straying(0));
    let context = PassContext { head: HeadFormat::Q4, ..PassContext::new(target()) };
    let dtypes = |pipeline: &str| -> Vec<DType> {
        let (after, _) = run(&pipeline.parse().unwrap(), module.clone(), &context).unwrap();
        after.params().values().map(|decl| decl.ty.dtype).collect()
    };
    assert!(dtypes("pack-head").contains(&DType::W4));
    let own = dtypes("pack-head{head=q8}");
    assert!(own.contains(&DType::W8) && !own.contains(&DType::W4));
    let layouts = |pipeline: &str| {
        let (after, _) = run(&pipeline.parse().unwrap(), module.clone(), &context).unwrap();
        text::print(&after)
    };
    assert!(layouts("assign-layout{weights=1.6bit}").contains("@trits16"));
    assert!(!layouts("assign-layout").contains("@trits16"));
}

#[test]
fn printing_follows_the_choice_and_parses() {
    let module = random_decoder(0, 1, Straying(0));
    let printed = |choice: PrintChoice| {
        let mut texts: Vec<String> = Vec::new();
        let mut print = PrintIr::new(choice, |text: &str| texts.push(text.to_owned()));
        let context = PassContext::new(target());
        run_with(&pipeline("cse,dce,fuse-norm-quant"), module.clone(), &context, &mut [&mut print]).unwrap();
        for text in &texts {
            text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        }
        texts.iter().map(|text| text.lines().next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = PrintChoice { before: vec![PassId::Dce], ..PrintChoice::default() };
    assert_eq!(printed(before), ["; ----- IR before dce (2 of 3) -----"]);
    let after = PrintChoice { after: vec![PassId::Cse], ..PrintChoice::default() };
    assert_eq!(printed(after), ["; ----- IR after cse (1 of 3), which changed nothing -----"]);
    let all = PrintChoice { after_all: true, ..PrintChoice::default() };
    assert_eq!(printed(all).len(), 3);
    let change = PrintChoice { after_change: true, ..PrintChoice::default() };
    assert_eq!(printed(change), ["; ----- IR after fuse-norm-quant (3 of 3) -----"]);
    assert_eq!(printed(PrintChoice::default()).len(), 0);
}

#[test]
fn statistics_count_what_changed() {
    let module = random_decoder(0, 1, Straying(0));
    let mut statistics = Statistics::default();
    let context = PassContext::new(target());
    let (after, report) =
        run_with(&Pipeline::default(), module.clone(), &context, &mut [&mut statistics]).unwrap();
    assert_eq!(statistics.passes.len(), report.passes.len());
    let fuse = statistics.passes.iter().find(|p| p.pass.id == PassId::FuseNormQuant).unwrap();
    // Four norms in a layer, in two functions.
    assert_eq!(fuse.op_changes(), [("quant_absmax", -8), ("rms_norm", -8), ("rms_norm_quant", 8)]);
    assert_eq!(fuse.patches, 8);
    let last = statistics.passes.last().unwrap();
    let barriers: usize = after.funcs().values().filter_map(Func::barriers).sum();
    assert_eq!(last.after.barriers, barriers as u64);
    assert!(last.before.arena_bytes == 0 && last.after.arena_bytes > 0);
    let table = statistics.table();
    assert_eq!(table.lines().count(), 1 + report.passes.len());
    assert!(table.contains("rms_norm_quant +8"), "{table}");
    let times = report.timing_table();
    assert_eq!(times.lines().count(), 2 + report.passes.len(), "{times}");
}
