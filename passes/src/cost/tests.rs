//! Tests of the cost model: sums, limits, sharing, and decisions that follow from predictions.

use bitnetc_ir::partition::Per;
use bitnetc_ir::text;
use bitnetc_ir::work::Accounts;

use super::*;

/// A step of one layer and a head, planned by hand as far as the model looks at the plan.
const STEP: &str = "bir 1 stage=fused
    param @embed: f16[64x256] = file \"e\" #00000000000000000000000000000000
    param @norm: f32[256] = file \"n\" #00000000000000000000000000000000
    param @q: ter[512x256]@tile16 = file \"q\" #00000000000000000000000000000000
    param @o: ter[256x256]@tile16 = file \"o\" #00000000000000000000000000000000
    param @head: f16[64x256] = file \"h\" #00000000000000000000000000000000
    func @decode(%tok: idx[1], %pos: idx, %kc: f16[2xCx64]@keys16, %vc: f16[2xCx64])
      -> (f32[64], f16[2xCx64]@keys16, f16[2xCx64]) tokens=1 {
      %0 = embed %tok, @embed : f32[256]
      %1 = rms_norm_quant %0, @norm {eps=1e-5} : q8[256]
      %2 = bitlinear %1, @q {epilogue=none} : f32[512]
      %3, %4, %5 = split %2 {sizes=[256,128,128]} : f32[256], f32[128], f32[128]
      %6, %7, %8 = rope_kv_append %3, %4, %5, %kc, %vc, %pos {theta=10000.0, head=64, rot=64, pairs=halves} : f32[256], f16[2xCx64]@keys16, f16[2xCx64]
      %9 = attention %6, %7, %8, %pos {heads=4, kv_heads=2, scale=0.125} : f32[256]
      %10 = quant_absmax %9 : q8[256]
      %11 = bitlinear %10, @o, %0 {epilogue=add} : f32[256]
      %12 = matmul %11, @head : f32[64]
      return %12, %7, %8
    }";

fn target(threads: u32) -> TargetDesc {
    let mut target: TargetDesc = "x86_64+sse4.1+avx+avx2+fma+f16c".parse().unwrap();
    target.threads = threads;
    target.l2_bytes = 1 << 10;
    target.measured = Some(Speeds {
        read_one_mb_s: 10_000,
        read_all_mb_s: 40_000,
        int8_core_mmac_s: 64_000,
        vector_bytes: 32,
    });
    target
}

fn step(module: &Module, target: &TargetDesc, position: u32) -> EntryCost {
    let func = &module.funcs()[module.func_named("decode").unwrap()];
    CostModel::new(target).entry(module, func, Extent { position, tokens: 1 })
}

#[test]
fn the_ops_of_a_step_need_what_the_step_needs() {
    let module = text::parse(STEP).unwrap();
    let accounts = Accounts::of(&module);
    for position in [0, 1, 63, 64, 1000] {
        let cost = step(&module, &target(2), position);
        assert_eq!(cost.work.work, accounts.step(position));
        // Both caches get one position of two heads of 64 halves.
        assert_eq!(cost.work.kv_written_bytes, 2 * 2 * 64 * 2);
        assert!((cost.seconds - cost.ops.iter().map(OpCost::seconds).sum::<f64>()).abs() < 1e-12);
    }
    let cost = step(&module, &target(2), 7);
    let by_op = |i: usize| cost.ops[i].work;
    // The projection: 2 bits a weight and a scale for each row; a row of codes in, 512 sums out.
    assert_eq!(by_op(2).work.weight_bytes, 512 * 256 / 4 + 512 * 4);
    assert_eq!((by_op(2).read_bytes, by_op(2).written_bytes), (256 + 64, 512 * 4));
    assert_eq!(by_op(2).work.ternary_macs, 512 * 256);
    // A view does nothing.
    assert_eq!((by_op(3), cost.ops[3].seconds(), cost.ops[3].units), (OpWork::default(), 0.0, None));
    // Attention reads eight positions of both caches, for two multiply-adds an element and query head.
    assert_eq!(by_op(5).work.kv_bytes, 8 * 2 * 2 * 64 * 2);
    assert_eq!(by_op(5).work.attention_macs, 2 * 4 * 64 * 8);
}

#[test]
fn memory_counts_where_the_caches_do_not_suffice() {
    let module = text::parse(STEP).unwrap();
    let mut small = target(1);
    let cost = step(&module, &small, 0);
    assert!(!cost.resident);
    let (memory, bytes) = (cost.ops[2].memory, cost.ops[2].work.work.bytes() as f64);
    assert!((memory - bytes / 10e9).abs() < 1e-15);
    small.l2_bytes = 1 << 20;
    let cost = step(&module, &small, 0);
    assert!(cost.resident && cost.ops.iter().all(|op| op.memory == 0.0));
    assert!(cost.ops.iter().filter(|op| op.units.is_some()).all(|op| op.compute > 0.0));
}

#[test]
fn no_op_is_predicted_below_the_roofline() {
    let module = text::parse(STEP).unwrap();
    for threads in [1, 2, 3, 8, 64] {
        for position in [0, 500] {
            let cost = step(&module, &target(threads), position);
            for op in &cost.ops {
                assert!(op.seconds() >= op.least, "{op:?}");
                assert!((0.0..=1.0).contains(&op.busiest) && op.seconds().is_finite());
            }
            assert!(cost.seconds >= cost.least && cost.least > 0.0);
        }
    }
}

#[test]
fn shares_are_those_of_the_threads() {
    let module = text::parse(STEP).unwrap();
    // 256 rows are 16 tiles: three threads have 5, 5 and 6.
    let cost = step(&module, &target(3), 0);
    assert_eq!(cost.ops[7].units, Some(Units { count: 16, per: Per::Call }));
    assert_eq!(cost.ops[7].busiest, 6.0 / 16.0);
    // Of the units of one key block of two heads a third thread has none.
    assert_eq!(cost.ops[5].busiest, 0.5);
    // The norm is done by every thread.
    assert!(cost.ops[1].replicated && cost.ops[1].busiest == 1.0);
    let (one, two) = (step(&module, &target(1), 0), step(&module, &target(2), 0));
    assert!((one.ops[2].compute / two.ops[2].compute - 2.0).abs() < 1e-9);
    assert_eq!(one.ops[1].compute, two.ops[1].compute);
}

#[test]
fn an_op_is_replicated_where_sharing_it_saves_less_than_a_barrier() {
    let costs = target(4);
    let costs = CostModel::new(&costs);
    let call = Extent { position: 0, tokens: 1 };
    // 2·10^9 dots a second in three instructions each: what the threads save is three quarters of the time.
    let barrier = costs.barrier_seconds() * 6e9;
    let units = Units { count: 4, per: Per::Token };
    assert!(costs.replicates(units, barrier, call));
    assert!(costs.replicates(units, barrier * 1.3, call));
    assert!(!costs.replicates(units, barrier * 1.4, call));
    // One unit is nothing to share.
    assert!(costs.replicates(Units { count: 1, per: Per::Token }, barrier * 1e6, call));
    let alone = target(1);
    let alone = CostModel::new(&alone);
    assert!(alone.replicates(units, 1e12, call));
}

#[test]
fn many_tokens_cost_less_each_than_one() {
    let avx2 = target(1);
    let costs = CostModel::new(&avx2);
    for layout in [Layout::Tile16, Layout::Trits16, Layout::Lut16] {
        let each =
            |tokens: u32| costs.ternary_instructions(layout, 64, 640, tokens).unwrap() / f64::from(tokens);
        // A block of 12 tokens unpacks once; more tokens are more blocks.
        assert!(each(1) > each(2) && each(2) > each(12) && (each(12) - each(120)).abs() < 1e-9);
    }
    let vnni: TargetDesc = "x86_64+sse4.1+avx+avx2+fma+f16c+avx512f+avx512vnni".parse().unwrap();
    let amx = vnni.clone().with(Feature::AmxInt8);
    let many =
        |target: &TargetDesc, n| CostModel::new(target).ternary_instructions(Layout::Tile16, 64, 640, n);
    assert!(many(&amx, 128) < many(&vnni, 128));
    assert_eq!(many(&amx, 8), many(&vnni, 8));
    assert_eq!(many(&amx, 8).and(CostModel::new(&amx).ternary_instructions(Layout::Rows, 64, 640, 8)), None);
}

#[test]
fn silly_speeds_give_finite_times() {
    let module = text::parse(STEP).unwrap();
    let mut silly = target(0);
    silly.measured =
        Some(Speeds { read_one_mb_s: 0, read_all_mb_s: 0, int8_core_mmac_s: 0, vector_bytes: 0 });
    assert!(step(&module, &silly, u32::MAX - 1).seconds.is_finite());
}
