//! Runs a pipeline: stages, verification, timing, patch counts, dumps, bisection, reproducers.
//!
//! The module is verified before the first pass and after the last one, and with [`PassContext::verify_each`] after
//! every pass in between; where a plan is there, [`crate::check_plan`] proves it. When something fails, the error carries
//! the module before the failing pass as text, with the rest of the pipeline.
//!
//! To find the rewrite that breaks something, [`PassContext::stop_after`] applies the first N patches of the run only.
//! The passes that lower the module still run, so the result can be executed for every N.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use bitnetc_ir::{FuncId, Module, Stage, TargetDesc, text, verify};

use crate::check_plan::check_plan;
use crate::error::{PassError, PassFailure};
use crate::pipeline::{PassBody, PassInfo, Pipeline, Rewrite};
use crate::reproducer::Reproducer;

/// Gets a file name and a text.
pub type Dump<'a> = &'a dyn Fn(&str, &str);

/// What a run depends on besides the module and the pipeline.
#[derive(Clone)]
pub struct PassContext<'a> {
    /// The machine that `assign-layout` lays out for.
    pub target: TargetDesc,
    /// Whether to verify after every pass.
    pub verify_each: bool,
    /// How many patches to apply in the whole run; all if there is no number.
    pub stop_after: Option<u64>,
    /// Gets a file name (`003_fuse-bitlinear.bir`; the number is the position in the pipeline) and the text of the module
    /// for the input and after every pass that changed it.
    pub dump: Option<Dump<'a>>,
}

impl PassContext<'_> {
    /// Verifies after every pass, applies all patches, dumps nothing.
    pub fn new(target: TargetDesc) -> Self {
        Self { target, verify_each: true, stop_after: None, dump: None }
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
        Reproducer { pipeline: rest, target: context.target.clone(), stop_after, module: module.clone() }
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
        PassBody::Rewrite(rewrite) => {
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
