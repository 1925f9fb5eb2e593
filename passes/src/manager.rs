//! Runs a pipeline: stages, verification, timing, patch counts, instruments, bisection, reproducers.
//!
//! The module is verified before the first pass and after the last one, and as [`PassContext::verify_each`] says after
//! every pass in between; where a plan is there, [`crate::check_plan()`] proves it. When something fails, the error carries
//! the module before the failing pass as text, with the rest of the pipeline.
//!
//! To find the rewrite that breaks something, [`PassContext::stop_after`] applies the first N patches of the
//! run only. The passes that lower the module still run, so the result can be executed for every N.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use bitnetc_ir::{FuncId, Module, Stage, verify};

use crate::check_plan::check_plan;
use crate::choices::VerifyEach;
use crate::context::PassContext;
use crate::error::{PassError, PassFailure};
use crate::instruments::same_bits::SameBits;
use crate::instruments::{Done, Instrument, Progress};
use crate::pass::{PassBody, Rewrite};
use crate::pass_id::PassId;
use crate::pipeline::{PassUse, Pipeline};
use crate::report::{PassReport, RunReport};
use crate::reproducer::Reproducer;

/// Runs `pipeline` over `module`.
///
/// # Errors
/// The pass that failed and why, with a reproducer.
pub fn run(
    pipeline: &Pipeline,
    module: Module,
    context: &PassContext,
) -> Result<(Module, RunReport), PassError> {
    run_with(pipeline, module, context, &mut [])
}

/// As [`run`], watched by `instruments`, each of which is called in turn.
///
/// # Errors
/// As [`run`], and what an instrument refuses.
pub fn run_with(
    pipeline: &Pipeline,
    mut module: Module,
    context: &PassContext,
    instruments: &mut [&mut dyn Instrument],
) -> Result<(Module, RunReport), PassError> {
    let mut budget = context.stop_after.unwrap_or(u64::MAX);
    let progress = |done: usize, budget: u64| {
        let patches_left = context.stop_after.map(|_| budget);
        Progress { pipeline, context, done, patches_left }
    };
    let failed = |pass: Option<PassId>, failure: PassFailure, at: Progress<'_>, module: &Module| {
        let reproducer = at.rest(module).to_string();
        PassError { pass, failure: failure.into(), reproducer }
    };
    if let Err(failure) = check(&module) {
        return Err(failed(None, failure, progress(0, budget), &module));
    }
    // After the instruments of the caller, so that they see what it refuses.
    let mut same_bits = match context.verify_each {
        VerifyEach::Bits { seed } => Some(SameBits::new(seed)),
        VerifyEach::Off | VerifyEach::Rules => None,
    };
    let mut all: Vec<&mut dyn Instrument> = Vec::new();
    for instrument in instruments {
        all.push(&mut **instrument);
    }
    all.extend(same_bits.as_mut().map(|check| check as &mut dyn Instrument));
    for instrument in &mut all {
        instrument.begin(&progress(0, budget), &module);
    }

    let mut report = RunReport::default();
    for (i, pass) in pipeline.passes().iter().enumerate() {
        let before = module.clone();
        let nodes_before = nodes(&module);
        let budget_before = budget;
        for instrument in &mut all {
            instrument.before_pass(&progress(i, budget), pass, &module);
        }
        let started = Instant::now();
        let outcome =
            catch_unwind(AssertUnwindSafe(|| run_pass(pass, &mut module, context, &mut budget, &mut all)))
                .unwrap_or_else(|panic| Err(PassFailure::Panic(panic_text(panic.as_ref()))));
        let seconds = started.elapsed().as_secs_f64();
        let verifying = Instant::now();
        let last = i + 1 == pipeline.passes().len();
        let outcome = outcome.and_then(|changed| {
            if context.verify_each != VerifyEach::Off || last {
                check(&module)?;
            }
            Ok(changed)
        });
        let outcome = outcome.and_then(|changed| {
            let done = PassReport {
                pass: pass.id,
                seconds,
                verify_seconds: verifying.elapsed().as_secs_f64(),
                patches: budget_before - budget,
                changed,
                nodes_before,
                nodes_after: nodes(&module),
            };
            for instrument in &mut all {
                let done = Done { pass, report: &done, before: &before, after: &module };
                instrument.after_pass(&progress(i + 1, budget), &done)?;
            }
            Ok(done)
        });
        match outcome {
            Ok(done) => report.passes.push(done),
            Err(failure) => {
                return Err(failed(Some(pass.id), failure, progress(i, budget_before), &before));
            }
        }
    }
    Ok((module, report))
}

impl Reproducer {
    /// Runs it.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(self) -> Result<(Module, RunReport), PassError> {
        self.run_with(&mut [])
    }

    /// Runs it, watched by `instruments`.
    ///
    /// # Errors
    /// As [`run_with`].
    pub fn run_with(self, instruments: &mut [&mut dyn Instrument]) -> Result<(Module, RunReport), PassError> {
        run_with(&self.pipeline, self.module, &self.context, instruments)
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message").to_owned()
}

fn nodes(module: &Module) -> usize {
    module.funcs().values().map(|f| f.order().len()).sum()
}

fn check(module: &Module) -> Result<(), PassFailure> {
    verify::verify(module).map_err(PassFailure::Verify)?;
    if module.stage == Stage::Planned {
        for func in module.funcs().values() {
            check_plan(func).map_err(|source| PassFailure::Plan { func: func.name().to_owned(), source })?;
        }
    }
    Ok(())
}

fn run_pass(
    pass: &PassUse,
    module: &mut Module,
    context: &PassContext,
    budget: &mut u64,
    instruments: &mut [&mut dyn Instrument],
) -> Result<bool, PassFailure> {
    let context = &context.with(&pass.options);
    let (first, last) = pass.stages;
    if module.stage < first || module.stage > last {
        return Err(PassFailure::Stage { stage: module.stage, first, last });
    }
    let mut changed = match (pass.make)() {
        PassBody::Rewrite(mut rewrite) => {
            rewrite.configure(context);
            let before = *budget;
            let funcs: Vec<FuncId> = module.funcs().keys().collect();
            for func in funcs {
                sweep(rewrite.as_mut(), module, func, budget, instruments)?;
            }
            let finished = rewrite.finish(module);
            *budget != before || finished
        }
        PassBody::Transform(transform) => transform.run(module, context)?,
    };
    if let Some(stage) = pass.raises_to
        && module.stage < stage
    {
        module.stage = stage;
        changed = true;
    }
    Ok(changed)
}

/// Applies patches to one function until there are none, or the budget is used up.
fn sweep(
    rewrite: &mut dyn Rewrite,
    module: &mut Module,
    func: FuncId,
    budget: &mut u64,
    instruments: &mut [&mut dyn Instrument],
) -> Result<(), PassFailure> {
    // Every rewrite removes, joins or sorts nodes, each of which a node can undergo a few times at most.
    let most_sweeps = module.funcs()[func].order().len() + 8;
    for _ in 0..most_sweeps {
        rewrite.start_sweep(&module.funcs()[func]);
        let mut nodes = module.funcs()[func].order().to_vec();
        if rewrite.backwards() {
            nodes.reverse();
        }
        let mut found = false;
        for node in nodes {
            if *budget == 0 {
                return Ok(());
            }
            let body = &module.funcs()[func];
            if !body.contains(node) {
                continue;
            }
            if let Some(patch) = rewrite.matches(module, body, node) {
                for instrument in instruments.iter_mut() {
                    instrument.before_patch(module, body, &patch);
                }
                patch.apply(module, func)?;
                *budget -= 1;
                found = true;
            }
        }
        if !found {
            return Ok(());
        }
    }
    let func = module.funcs()[func].name().to_owned();
    Err(PassFailure::Diverges { func, sweeps: most_sweeps })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use bitnetc_ir::{Arch, Func, NodeId, Op, TargetDesc, ValueDef, text};

    use super::*;
    use crate::instruments::dump_ir::DumpIr;
    use crate::list;
    use crate::pass::{PassInfo, Transform};
    use crate::patch::{Patch, PatchError};

    const TEXT: &str = "bir 1 stage=imported
        func @f(%x: f32[32]) -> (f32[32]) tokens=1 {
          %a = relu2 %x : f32[32]
          %b = relu2 %x : f32[32]
          %s = add %a, %b : f32[32]
          return %s
        }";

    /// Replaces every `relu2` by an equal one.
    struct Restless;
    impl Rewrite for Restless {
        fn matches(&self, _: &Module, func: &Func, node: NodeId) -> Option<Patch> {
            let n = func.node(node);
            matches!(n.op, Op::Relu2 {}).then(|| {
                let mut patch = Patch::new(RESTLESS.id, node);
                let y = patch.op(Op::Relu2 {}, n.operands.iter().map(|&o| o.into()).collect());
                patch.replace(n.results[0], y);
                patch.remove(node);
                patch
            })
        }
    }

    /// Removes ops that are read.
    struct Careless;
    impl Rewrite for Careless {
        fn matches(&self, _: &Module, _: &Func, node: NodeId) -> Option<Patch> {
            let mut patch = Patch::new(CARELESS.id, node);
            patch.remove(node);
            Some(patch)
        }
    }

    /// Returns an input, which the verifier forbids.
    struct Invalid;
    impl Transform for Invalid {
        fn run(&self, module: &mut Module, _: &PassContext) -> Result<bool, PassFailure> {
            for func in module.funcs().keys().collect::<Vec<_>>() {
                let inputs = module.funcs()[func].inputs().to_vec();
                module.func_mut(func).set_outputs(inputs);
            }
            Ok(true)
        }
    }

    struct Panics;
    impl Transform for Panics {
        fn run(&self, _: &mut Module, _: &PassContext) -> Result<bool, PassFailure> {
            panic!("on purpose")
        }
    }

    const fn info(name: &'static str, make: fn() -> PassBody) -> PassInfo {
        PassInfo::new(PassId::Custom(name), "fails", (Stage::Imported, Stage::Planned), None, make)
    }
    static RESTLESS: PassInfo = info("restless", || PassBody::Rewrite(Box::new(Restless)));
    static CARELESS: PassInfo = info("careless", || PassBody::Rewrite(Box::new(Careless)));
    static INVALID: PassInfo = info("invalid", || PassBody::Transform(Box::new(Invalid)));
    static PANICS: PassInfo = info("panics", || PassBody::Transform(Box::new(Panics)));

    fn context() -> PassContext {
        PassContext::new(TargetDesc::baseline(Arch::X86_64))
    }

    fn fail(passes: &[&'static PassInfo]) -> PassError {
        let pipeline = Pipeline::new(passes.to_vec());
        run(&pipeline, text::parse(TEXT).unwrap(), &context()).unwrap_err()
    }

    #[test]
    fn failures_say_which_pass_and_reproduce() {
        let cse = list::info(PassId::Cse).unwrap();
        let dce = list::info(PassId::Dce).unwrap();
        let mut after_cse = text::parse(TEXT).unwrap();
        (after_cse, _) = run(&Pipeline::new([cse]), after_cse, &context()).unwrap();
        for (pass, expected) in [
            (&RESTLESS, "restless: @f: still patching after"),
            (&CARELESS, "careless: patch of careless: the `relu2` to remove is still read"),
            (&INVALID, "invalid: the module breaks 1 rules, first [output-result]"),
            (&PANICS, "panics: panicked: on purpose"),
        ] {
            let e = fail(&[cse, pass, dce]);
            assert_eq!(e.pass, Some(pass.id));
            assert!(e.to_string().starts_with(expected), "{e}");
            let head = format!("; pipeline: {},dce\n; target: x86_64+sse4.1\n", pass.id);
            assert_eq!(e.reproducer, format!("{head}{}", text::print(&after_cse)));
        }
    }

    #[test]
    fn a_reproducer_fails_in_the_same_way() {
        let fails = "plan-memory,dce".parse().unwrap();
        let counted = PassContext { stop_after: Some(5), ..context() };
        let e = run(&fails, text::parse(TEXT).unwrap(), &counted).unwrap_err();
        assert!(matches!(*e.failure, PassFailure::Stage { stage: Stage::Imported, .. }), "{e}");
        let reproducer: Reproducer = e.reproducer.parse().unwrap();
        assert_eq!(reproducer.pipeline.to_string(), "plan-memory,dce");
        assert_eq!((reproducer.context.stop_after, reproducer.to_string()), (Some(5), e.reproducer.clone()));
        let again = reproducer.run().unwrap_err();
        assert_eq!((again.to_string(), again.reproducer), (e.to_string(), e.reproducer));
    }

    #[test]
    fn texts_that_are_no_reproducer_are_refused() {
        for (text, expected) in [
            (TEXT.to_owned(), "no line `; pipeline: …`"),
            (format!("; pipeline: dce\n{TEXT}"), "no line `; target: …`"),
            (format!("; pipeline: x\n; target: aarch64\n{TEXT}"), "unknown pass `x`"),
            (format!("; pipeline: dce\n; target: z80\n{TEXT}"), "unknown architecture"),
            (
                format!("; pipeline: dce\n; target: aarch64\n; stop-after: x\n{TEXT}"),
                "`; stop-after: x`: wrong number of values",
            ),
            ("; pipeline: dce\n; target: aarch64\nbir 2".to_owned(), "line 3"),
        ] {
            let message = text.parse::<Reproducer>().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn bad_input_is_refused_before_the_first_pass() {
        let mut module = text::parse(TEXT).unwrap();
        module.stage = Stage::Planned;
        let e = run(&Pipeline::default(), module, &context()).unwrap_err();
        assert_eq!((e.pass, e.place()), (None, "input"));
        assert!(e.reproducer.starts_with("; pipeline: canonicalise,cse,"), "{}", e.reproducer);
    }

    #[test]
    fn dumps_come_for_passes_that_change_something() {
        let names = RefCell::new(Vec::new());
        let mut dump = DumpIr::new(|name: &str, text: &str| {
            let (pipeline, module) = text.split_once('\n').unwrap();
            names.borrow_mut().push(format!("{name} {pipeline} {}", module.lines().count()));
        });
        let pipeline = "dce,cse,canonicalise,fuse-bitlinear".parse().unwrap();
        let (module, report) =
            run_with(&pipeline, text::parse(TEXT).unwrap(), &context(), &mut [&mut dump]).unwrap();
        // The last pass finds nothing and raises the stage.
        assert_eq!(
            names.into_inner(),
            [
                "00-imported.bir ; pipeline: dce,cse,canonicalise,fuse-bitlinear 11",
                "02-cse.bir ; pipeline: canonicalise,fuse-bitlinear 10",
                "04-fuse-bitlinear.bir ; pipeline:  10"
            ]
        );
        assert_eq!(module.stage, Stage::Fused);
        let counts: Vec<_> = report.passes.iter().map(|p| (p.patches, p.changed, p.nodes_after)).collect();
        assert_eq!(counts, [(0, false, 3), (1, true, 2), (0, false, 2), (0, true, 2)]);
        assert_eq!((report.patches(), report.passes[1].nodes_before), (1, 3));
    }

    #[test]
    fn without_verification_in_between_the_result_is_verified() {
        let lax = PassContext { verify_each: VerifyEach::Off, ..context() };
        let passes = Pipeline::new(vec![&INVALID, list::info(PassId::Dce).unwrap()]);
        let e = run(&passes, text::parse(TEXT).unwrap(), &lax).unwrap_err();
        assert_eq!((e.pass, matches!(*e.failure, PassFailure::Verify(_))), (Some(PassId::Dce), true));
    }

    #[test]
    fn patches_are_checked() {
        let module = text::parse(TEXT).unwrap();
        let id = module.func_named("f").unwrap();
        let func = &module.funcs()[id];
        let (first, last) = (func.order()[0], func.order()[2]);
        let (a, s) = (func.node(first).results[0], func.node(last).results[0]);
        assert_eq!(func.value(s).def, ValueDef::Result(last, 0));
        let apply = |build: &dyn Fn(&mut Patch), anchor| {
            let mut patch = Patch::new(PassId::Custom("test"), anchor);
            build(&mut patch);
            patch.apply(&mut module.clone(), id).unwrap_err()
        };
        let early = apply(
            &|p| {
                let y = p.op(Op::Relu2 {}, vec![s.into()]);
                p.replace(a, y);
            },
            first,
        );
        assert!(matches!(early, PatchError::Order { .. }), "{early}");
        let typed = apply(
            &|p| {
                let y = p.op(Op::QuantAbsmax {}, vec![a.into()]);
                p.replace(s, y);
            },
            last,
        );
        assert!(matches!(typed, PatchError::TypeChanged { .. }), "{typed}");
        let kinds = apply(
            &|p| {
                p.op(Op::TernaryMatmul {}, vec![a.into()]);
            },
            last,
        );
        assert!(matches!(kinds, PatchError::Op { .. }), "{kinds}");
        let missing = apply(&|p| p.replace(s, crate::patch::PatchRef::New { op: 3, result: 0 }), last);
        assert!(matches!(missing, PatchError::NoRef { .. }), "{missing}");
        let gone = apply(&|_| {}, bitnetc_ir::Entity::from_index(99));
        assert_eq!(gone, PatchError::NoNode { pass: PassId::Custom("test") });
    }
}
