//! A pass of one's own, run and checked: `cargo run --release --example write_a_pass`.

use bitnetc_ir::{Arch, Func, Module, NodeId, Op, Operand, Stage, TargetDesc, text};
use bitnetc_passes::{
    PassBody, PassContext, PassId, PassInfo, PassSet, Patch, Rewrite, Statistics, VerifyEach, run_with,
};

/// A `split` into one part gives what it is given.
struct DropSingleSplit;

impl Rewrite for DropSingleSplit {
    fn matches(&self, _: &Module, func: &Func, node: NodeId) -> Option<Patch> {
        let split = func.node(node);
        let (Op::Split { sizes }, &[Operand::Value(whole)]) = (&split.op, &split.operands[..]) else {
            return None;
        };
        if sizes.0.len() != 1 {
            return None;
        }
        let mut patch = Patch::new(DROP_SINGLE_SPLIT.id, node);
        patch.replace(split.results[0], whole);
        patch.remove(node);
        Some(patch)
    }
}

static DROP_SINGLE_SPLIT: PassInfo = PassInfo::new(
    PassId::Custom("drop-single-split"),
    "A `split` into one part gives what it is given.",
    (Stage::Imported, Stage::LaidOut),
    None,
    || PassBody::Rewrite(Box::new(DropSingleSplit)),
);

const BEFORE: &str = "bir 1 stage=fused
func @f(%x: f32[64]) -> (f32[64]) tokens=1 {
  %a = relu2 %x : f32[64]
  %b = split %a {sizes=[64]} : f32[64]
  %c = silu %b : f32[64]
  return %c
}";

/// Runs the pass over a module, with the interpreter's word that it changes no bit.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let passes = PassSet::default().with(&DROP_SINGLE_SPLIT);
    let pipeline = passes.parse("drop-single-split,cse,dce")?;
    let target = TargetDesc::baseline(Arch::X86_64);
    let context = PassContext { verify_each: VerifyEach::Bits { seed: 1 }, ..PassContext::new(target) };
    let mut statistics = Statistics::default();
    let (after, report) = run_with(&pipeline, text::parse(BEFORE)?, &context, &mut [&mut statistics])?;
    print!("{}", text::print(&after));
    print!("{}", statistics.table());
    assert_eq!(report.patches(), 1);
    assert!(!text::print(&after).contains("split"));
    Ok(())
}
