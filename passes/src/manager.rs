//! Runs a pipeline: stages, verification, timing, patch counts, dumps, bisection, reproducers.
//!
//! The module is verified before the first pass and after the last one, and with [`PassContext::verify_each`]
//! after every pass in between; where a plan is there, [`crate::check_plan()`] proves it. When something fails,
//! the error carries the module before the failing pass as text, with the rest of the pipeline.
//!
//! To find the rewrite that breaks something, [`PassContext::stop_after`] applies the first N patches of the
//! run only. The passes that lower the module still run, so the result can be executed for every N.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use bitnetc_ir::{FuncId, Module, Stage, TargetDesc, text, verify};

use crate::check_plan::check_plan;
use crate::cost::WeightPacking;
use crate::error::{PassError, PassFailure};
use crate::pack_head::HeadFormat;
use crate::pipeline::{PassBody, PassInfo, Pipeline, Rewrite};
use crate::reproducer::Reproducer;

/// Gets a file name and a text.
pub type Dump<'a> = &'a dyn Fn(&str, &str);

/// What a run depends on besides the module and the pipeline.
#[derive(Clone)]
pub struct PassContext<'a> {
    /// The machine that `assign-layout` lays out for.
    pub target: TargetDesc,
    /// The head that `pack-head` makes.
    pub head: HeadFormat,
    /// How `assign-layout` packs ternary weights.
    pub weights: WeightPacking,
    /// Whether to verify after every pass.
    pub verify_each: bool,
    /// How many patches to apply in the whole run; all if there is no number.
    pub stop_after: Option<u64>,
    /// Gets a file name (`003_fuse-bitlinear.bir`; the number is the position in the pipeline) and the text
    /// of the module for the input and after every pass that changed it.
    pub dump: Option<Dump<'a>>,
}

impl PassContext<'_> {
    /// Keeps the head as it is stored, packs weights in 2 bits, verifies after every pass, applies all patches, dumps
    /// nothing.
    pub fn new(target: TargetDesc) -> Self {
        let (head, weights) = (HeadFormat::Stored, WeightPacking::TwoBits);
        Self { target, head, weights, verify_each: true, stop_after: None, dump: None }
    }
}

/// What one pass did.
#[derive(Clone, Debug, PartialEq)]
pub struct PassReport {
    /// The pass.
    pub name: &'static str,
    /// Time that it took, without verification.
    pub seconds: f64,
    /// Patches applied.
    pub patches: u64,
    /// Whether the module changed, its stage included.
    pub changed: bool,
    /// Nodes of all functions before.
    pub nodes_before: usize,
    /// Nodes of all functions afterwards.
    pub nodes_after: usize,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunReport {
    /// One for each pass of the pipeline.
    pub passes: Vec<PassReport>,
}

impl RunReport {
    /// Patches of all passes.
    pub fn patches(&self) -> u64 {
        self.passes.iter().map(|p| p.patches).sum()
    }
}

/// Runs `pipeline` over `module`.
///
/// # Errors
/// The pass that failed and why, with a reproducer.
pub fn run(
    pipeline: &Pipeline,
    mut module: Module,
    context: &PassContext<'_>,
) -> Result<(Module, RunReport), PassError> {
    let mut budget = context.stop_after.unwrap_or(u64::MAX);
    let reproducer = |module: &Module, from: usize, budget: u64| {
        let rest = Pipeline::new(pipeline.passes()[from..].to_vec());
        let stop_after = context.stop_after.map(|_| budget);
        Reproducer {
            pipeline: rest,
            target: context.target.clone(),
            head: context.head,
            weights: context.weights,
            stop_after,
            module: module.clone(),
        }
        .to_string()
    };
    if let Err(failure) = check(&module) {
        return Err(PassError {
            pass: "input",
            failure: failure.into(),
            reproducer: reproducer(&module, 0, budget),
        });
    }
    let dump = |name: String, module: &Module| {
        if let Some(dump) = context.dump {
            dump(&name, &text::print(module));
        }
    };
    dump("000_input.bir".to_owned(), &module);

    let mut report = RunReport::default();
    for (i, &pass) in pipeline.passes().iter().enumerate() {
        let before = module.clone();
        let nodes_before = nodes(&module);
        let budget_before = budget;
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| run_pass(pass, &mut module, context, &mut budget)))
            .unwrap_or_else(|panic| Err(PassFailure::Panic(panic_text(panic.as_ref()))));
        let seconds = started.elapsed().as_secs_f64();
        let last = i + 1 == pipeline.passes().len();
        let outcome = outcome.and_then(|changed| {
            if context.verify_each || last {
                check(&module)?;
            }
            Ok(changed)
        });
        let changed = match outcome {
            Ok(changed) => changed,
            Err(failure) => {
                let reproducer = reproducer(&before, i, budget_before);
                return Err(PassError { pass: pass.name, failure: failure.into(), reproducer });
            }
        };
        let patches = budget_before - budget;
        let nodes_after = nodes(&module);
        report.passes.push(PassReport {
            name: pass.name,
            seconds,
            patches,
            changed,
            nodes_before,
            nodes_after,
        });
        if changed {
            dump(format!("{:03}_{}.bir", i + 1, pass.name), &module);
        }
    }
    Ok((module, report))
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
    pass: &PassInfo,
    module: &mut Module,
    context: &PassContext<'_>,
    budget: &mut u64,
) -> Result<bool, PassFailure> {
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
                sweep(rewrite.as_ref(), module, func, budget)?;
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
    rewrite: &dyn Rewrite,
    module: &mut Module,
    func: FuncId,
    budget: &mut u64,
) -> Result<(), PassFailure> {
    // Every rewrite removes, joins or sorts nodes, each of which a node can undergo a few times at most.
    let most_sweeps = module.funcs()[func].order().len() + 8;
    for _ in 0..most_sweeps {
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

    use bitnetc_ir::{Arch, Func, NodeId, Op, ValueDef};

    use super::*;
    use crate::patch::{Patch, PatchError};
    use crate::pipeline::{Transform, pass_named};

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
                let mut patch = Patch::new("restless", node);
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
            let mut patch = Patch::new("careless", node);
            patch.remove(node);
            Some(patch)
        }
    }

    /// Returns an input, which the verifier forbids.
    struct Invalid;
    impl Transform for Invalid {
        fn run(&self, module: &mut Module, _: &PassContext<'_>) -> Result<bool, PassFailure> {
            for func in module.funcs().keys().collect::<Vec<_>>() {
                let inputs = module.funcs()[func].inputs().to_vec();
                module.func_mut(func).set_outputs(inputs);
            }
            Ok(true)
        }
    }

    struct Panics;
    impl Transform for Panics {
        fn run(&self, _: &mut Module, _: &PassContext<'_>) -> Result<bool, PassFailure> {
            panic!("on purpose")
        }
    }

    const fn info(name: &'static str, make: fn() -> PassBody) -> PassInfo {
        let stages = (Stage::Imported, Stage::Planned);
        PassInfo { name, description: "fails", required: false, stages, raises_to: None, make }
    }
    static RESTLESS: PassInfo = info("restless", || PassBody::Rewrite(Box::new(Restless)));
    static CARELESS: PassInfo = info("careless", || PassBody::Rewrite(Box::new(Careless)));
    static INVALID: PassInfo = info("invalid", || PassBody::Transform(Box::new(Invalid)));
    static PANICS: PassInfo = info("panics", || PassBody::Transform(Box::new(Panics)));

    fn context<'a>() -> PassContext<'a> {
        PassContext::new(TargetDesc::baseline(Arch::X86_64))
    }

    fn fail(passes: &[&'static PassInfo]) -> PassError {
        let pipeline = Pipeline::new(passes.to_vec());
        run(&pipeline, text::parse(TEXT).unwrap(), &context()).unwrap_err()
    }

    #[test]
    fn failures_say_which_pass_and_reproduce() {
        let cse = pass_named("cse").unwrap();
        let dce = pass_named("dce").unwrap();
        let mut after_cse = text::parse(TEXT).unwrap();
        (after_cse, _) = run(&Pipeline::new(vec![cse]), after_cse, &context()).unwrap();
        for (pass, expected) in [
            (&RESTLESS, "restless: @f: still patching after"),
            (&CARELESS, "careless: patch of careless: the `relu2` to remove is still read"),
            (&INVALID, "invalid: the module breaks 1 rules, first [output-result]"),
            (&PANICS, "panics: panicked: on purpose"),
        ] {
            let e = fail(&[cse, pass, dce]);
            assert_eq!(e.pass, pass.name);
            assert!(e.to_string().starts_with(expected), "{e}");
            let head = format!("; pipeline: {},dce\n; target: x86_64+sse4.1\n", pass.name);
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
        assert_eq!((reproducer.stop_after, reproducer.to_string()), (Some(5), e.reproducer.clone()));
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
                "`; stop-after: x` is no number",
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
        assert_eq!(e.pass, "input");
        assert!(e.reproducer.starts_with("; pipeline: canonicalise,cse,"), "{}", e.reproducer);
    }

    #[test]
    fn dumps_come_for_passes_that_change_something() {
        let names = RefCell::new(Vec::new());
        let dump =
            |name: &str, text: &str| names.borrow_mut().push(format!("{name} {}", text.lines().count()));
        let context = PassContext { dump: Some(&dump), ..context() };
        let pipeline = "dce,cse,canonicalise,fuse-bitlinear".parse().unwrap();
        let (module, report) = run(&pipeline, text::parse(TEXT).unwrap(), &context).unwrap();
        // The last pass finds nothing and raises the stage.
        assert_eq!(names.into_inner(), ["000_input.bir 10", "002_cse.bir 9", "004_fuse-bitlinear.bir 9"]);
        assert_eq!(module.stage, Stage::Fused);
        let counts: Vec<_> = report.passes.iter().map(|p| (p.patches, p.changed, p.nodes_after)).collect();
        assert_eq!(counts, [(0, false, 3), (1, true, 2), (0, false, 2), (0, true, 2)]);
        assert_eq!((report.patches(), report.passes[1].nodes_before), (1, 3));
    }

    #[test]
    fn without_verification_in_between_the_result_is_verified() {
        let lax = PassContext { verify_each: false, ..context() };
        let passes = Pipeline::new(vec![&INVALID, pass_named("dce").unwrap()]);
        let e = run(&passes, text::parse(TEXT).unwrap(), &lax).unwrap_err();
        assert_eq!((e.pass, matches!(*e.failure, PassFailure::Verify(_))), ("dce", true));
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
            let mut patch = Patch::new("test", anchor);
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
        assert_eq!(gone, PatchError::NoNode { pass: "test" });
    }
}
