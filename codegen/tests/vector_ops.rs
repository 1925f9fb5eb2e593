//! Every op of the kernel IR on vectors: the interpreter and all feature levels give the same bits.

mod common;

use std::collections::BTreeSet;

use bitnetc_codegen::kir::interp::{Arg, Memory};
use bitnetc_codegen::kir::{
    Access, FloatCond, IntCond, Kernel, KernelBuilder, LANES, OPS, Stmt, Table, Vb, Vf, Vi,
};

use common::{Case, Elements, FLOATS, INTS, Rng, check_case};

type Build = Box<dyn Fn(&mut KernelBuilder, [Vi; 3]) -> Vi>;

/// A kernel that applies `build` to vectors of three inputs and stores the result.
fn pointwise(name: &str, build: &Build) -> Kernel {
    let mut b = KernelBuilder::new(name);
    let inputs = ["a", "b", "c"].map(|n| b.ptr(n, Access::ReadOnly));
    let out = b.ptr("out", Access::ReadWrite);
    let bytes = b.int_param("bytes");
    b.for_loop(0, bytes, 64, (), |b, at, ()| {
        let vectors = inputs.map(|ptr| {
            let ptr = b.add(ptr, at);
            b.load_i32(ptr, 0, 16)
        });
        let result = build(b, vectors);
        let ptr = b.add(out, at);
        b.store_i32(ptr, result, 0, 16);
    });
    b.finish().unwrap()
}

/// Runs `build` over the rows of `inputs` (padded to whole vectors) and compares.
fn run(name: &str, build: &Build, inputs: &[[u32; 3]], how: Elements) -> Kernel {
    let kernel = pointwise(name, build);
    let rows = inputs.len().next_multiple_of(LANES);
    let mut memory = Memory::new();
    let mut args: Vec<_> = (0..3)
        .map(|column| {
            let words = (0..rows).map(|i| inputs[i % inputs.len()][column]);
            Arg::Ptr(memory.add(words.flat_map(u32::to_le_bytes).collect(), Access::ReadOnly), 0)
        })
        .collect();
    let out = memory.add(vec![0; 4 * rows], Access::ReadWrite);
    args.extend([Arg::Ptr(out, 0), Arg::Int(4 * rows as i64)]);
    check_case(&Case { kernel: kernel.clone(), memory, args, elements: vec![(out, how)] });
    kernel
}

fn float1(f: impl Fn(&mut KernelBuilder, Vf) -> Vf + 'static) -> Build {
    Box::new(move |b, [x, ..]| {
        let x = b.as_vf(x);
        let y = f(b, x);
        b.as_vi(y)
    })
}

fn float2(f: impl Fn(&mut KernelBuilder, Vf, Vf) -> Vf + 'static) -> Build {
    Box::new(move |b, [x, y, _]| {
        let (x, y) = (b.as_vf(x), b.as_vf(y));
        let z = f(b, x, y);
        b.as_vi(z)
    })
}

fn int1(f: impl Fn(&mut KernelBuilder, Vi) -> Vi + 'static) -> Build {
    Box::new(move |b, [x, ..]| f(b, x))
}

fn bytes2(f: impl Fn(&mut KernelBuilder, Vb, Vb) -> Vb + 'static) -> Build {
    int2(move |b, x, y| {
        let (x, y) = (b.as_vb(x), b.as_vb(y));
        let result = f(b, x, y);
        b.as_vi(result)
    })
}

fn int2(f: impl Fn(&mut KernelBuilder, Vi, Vi) -> Vi + 'static) -> Build {
    Box::new(move |b, [x, y, _]| f(b, x, y))
}

fn float_builds() -> Vec<(String, Build)> {
    let mut all: Vec<(String, Build)> = Vec::new();
    let mut add = |name: &str, build: Build| all.push((name.to_owned(), build));
    add("fadd", float2(|b, x, y| b.fadd(x, y)));
    add("fsub", float2(|b, x, y| b.fsub(x, y)));
    add("fmul", float2(|b, x, y| b.fmul(x, y)));
    add("fdiv", float2(|b, x, y| b.fdiv(x, y)));
    add("fmax_gt", float2(|b, x, y| b.fmax_gt(x, y)));
    add("fmin_lt", float2(|b, x, y| b.fmin_lt(x, y)));
    add("sqrt", float1(|b, x| b.sqrt(x)));
    add("fround", float1(|b, x| b.fround(x)));
    add("swap_pairs_f32", float1(|b, x| b.swap_pairs_f32(x)));
    add("reduce_add_f32", float1(|b, x| b.reduce_add_f32(x)));
    add("reduce_max_f32", float1(|b, x| b.reduce_max_f32(x)));
    for lane in 0..LANES as u8 {
        add(&format!("splat_lane_f32.{lane}"), float1(move |b, x| b.splat_lane_f32(x, lane)));
    }
    add(
        "cvt_f32_i32",
        Box::new(|b, [x, ..]| {
            let x = b.as_vf(x);
            b.cvt_f32_i32(x)
        }),
    );
    for &cond in FloatCond::ALL {
        add(
            &format!("fcmp.{cond}"),
            Box::new(move |b, [x, y, _]| {
                let (x, y) = (b.as_vf(x), b.as_vf(y));
                b.fcmp(x, y, cond)
            }),
        );
    }
    add(
        "fselect",
        Box::new(|b, [x, y, z]| {
            let (x, y, z) = (b.as_vf(x), b.as_vf(y), b.as_vf(z));
            let mask = b.fcmp(x, y, FloatCond::Lt);
            let chosen = b.fselect(mask, z, y);
            b.as_vi(chosen)
        }),
    );
    add("exp", float1(exp));
    all
}

/// The project's exp, as a chain of many ops.
fn exp(b: &mut KernelBuilder, x: Vf) -> Vf {
    let log2e = b.splat_f32(std::f32::consts::LOG2_E);
    let scaled = b.fmul(x, log2e);
    let n = b.fround(scaled);
    let (hi, lo) = (b.splat_f32(-0.693_359_4), b.splat_f32(2.121_944_4e-4));
    let r = b.fma(n, hi, x);
    let r = b.fma(n, lo, r);
    let mut p = b.splat_f32(1.987_569_2e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        let c = b.splat_f32(c);
        p = b.fma(p, r, c);
    }
    let rr = b.fmul(r, r);
    let y = b.fma(p, rr, r);
    let one = b.splat_f32(1.0);
    let y = b.fadd(y, one);
    let n = b.cvt_f32_i32(n);
    let n = b.ishl(n, 23);
    let y = b.as_vi(y);
    let y = b.iadd(y, n);
    let y = b.as_vf(y);
    let (limit, zero) = (b.splat_f32(-87.0), b.splat_f32(0.0));
    let tiny = b.fcmp(x, limit, FloatCond::Lt);
    b.fselect(tiny, zero, y)
}

fn int_builds() -> Vec<(String, Build)> {
    let mut all: Vec<(String, Build)> = Vec::new();
    let mut add = |name: &str, build: Build| all.push((name.to_owned(), build));
    add("iadd", int2(|b, x, y| b.iadd(x, y)));
    add("isub", int2(|b, x, y| b.isub(x, y)));
    add("imul", int2(|b, x, y| b.imul(x, y)));
    add("band", int2(|b, x, y| b.band(x, y)));
    add("bor", int2(|b, x, y| b.bor(x, y)));
    add("bxor", int2(|b, x, y| b.bxor(x, y)));
    add("bandn", int2(|b, x, y| b.bandn(x, y)));
    add("umax", int2(|b, x, y| b.umax(x, y)));
    add("smax", int2(|b, x, y| b.smax(x, y)));
    add("smin", int2(|b, x, y| b.smin(x, y)));
    for &cond in IntCond::ALL {
        add(&format!("icmp.{cond}"), int2(move |b, x, y| b.icmp(x, y, cond)));
    }
    add(
        "iselect",
        Box::new(|b, [x, y, z]| {
            let (p, q) = (b.icmp(x, y, IntCond::Lt), b.icmp(y, z, IntCond::Ne));
            let mask = b.band(p, q);
            b.iselect(mask, z, x)
        }),
    );
    for bits in [0, 1, 7, 16, 31] {
        add(&format!("ishl.{bits}"), int1(move |b, x| b.ishl(x, bits)));
        add(&format!("ushr.{bits}"), int1(move |b, x| b.ushr(x, bits)));
        add(&format!("sshr.{bits}"), int1(move |b, x| b.sshr(x, bits)));
    }
    for lane in 0..LANES as u8 {
        add(&format!("splat_lane_i32.{lane}"), int1(move |b, x| b.splat_lane_i32(x, lane)));
        add(
            &format!("extract_i32.{lane}"),
            int1(move |b, x| {
                let lane = b.extract_i32(x, lane);
                let shifted = b.shr(lane, 3);
                b.splat_i64(shifted)
            }),
        );
    }
    add("reduce_add_i32", int1(|b, x| b.reduce_add_i32(x)));
    add("reduce_umax_i32", int1(|b, x| b.reduce_umax_i32(x)));
    add(
        "iota",
        int1(|b, x| {
            let iota = b.iota();
            b.iadd(x, iota)
        }),
    );
    add(
        "splat_i32",
        int1(|b, x| {
            let splat = b.splat_i32(-0x1234_5678);
            b.bxor(x, splat)
        }),
    );
    add(
        "cvt_i32_f32",
        int1(|b, x| {
            let f = b.cvt_i32_f32(x);
            b.as_vi(f)
        }),
    );
    add(
        "dot_i8i8",
        Box::new(|b, [acc, x, y]| {
            let (x, y) = (b.as_vb(x), b.as_vb(y));
            b.dot_i8i8(acc, x, y)
        }),
    );
    add("badd", bytes2(|b, x, y| b.badd(x, y)));
    add("bsubs", bytes2(|b, x, y| b.bsubs(x, y)));
    add("bxor_masked", Box::new(|b, [x, y, z]| b.bxor_masked(x, y, z)));
    add(
        "bxor_masked.constants",
        Box::new(|b, [x, y, _]| {
            let (word, mask) = (b.splat_i32(0x1234_5678), b.splat_i32(0x00ff_f00f));
            let first = b.bxor_masked(x, word, mask);
            let second = b.bxor_masked(word, first, y);
            let third = b.bxor_masked(second, second, mask);
            let fourth = b.bxor_masked(first, second, x);
            let all = b.bxor(third, fourth);
            b.iadd(all, second)
        }),
    );
    add("bavg", bytes2(|b, x, y| b.bavg(x, y)));
    for table in [&SCRAMBLED, &COUNTED] {
        let table = Table(table);
        add(
            &format!("blookup.{}", table.0[0]),
            int1(move |b, x| {
                let x = b.as_vb(x);
                let found = b.blookup(x, table);
                b.as_vi(found)
            }),
        );
    }
    // As kernels use them: an index for several look-ups, results that are read again, constants as operands.
    add(
        "blookup.chain",
        Box::new(|b, [x, y, z]| {
            let (index, other) = (b.as_vb(x), b.as_vb(y));
            let first = b.blookup(index, Table(&SCRAMBLED));
            let distance = b.bsubs(index, other);
            let second = b.blookup(distance, Table(&COUNTED));
            let third = b.blookup(first, Table(&COUNTED));
            let splat = b.splat_i32(0x00c3_ff3f);
            let splat = b.as_vb(splat);
            let fourth = b.bsubs(splat, index);
            let fifth = b.blookup(splat, Table(&SCRAMBLED));
            let all = [first, second, third, fourth, fifth].map(|v| b.as_vi(v));
            all.into_iter().fold(z, |sum, v| b.iadd(sum, v))
        }),
    );
    for u_max in [2, 8, 32, 127, 128, 192, 255] {
        add(
            &format!("dot_u8i8.{u_max}"),
            Box::new(move |b, [acc, x, y]| {
                let (u, s) = (bytes_up_to(b, x, u_max), b.as_vb(y));
                b.dot_u8i8(acc, u, s, u_max)
            }),
        );
    }
    all
}

/// A table without order, so that every index has an answer of its own.
static SCRAMBLED: [u8; 64] = {
    let mut table = [0; 64];
    let mut i = 0;
    while i < 64 {
        table[i] = (i * 37 + 11) as u8 ^ 0xa5;
        i += 1;
    }
    table
};

/// Each index itself.
static COUNTED: [u8; 64] = {
    let mut table = [0; 64];
    let mut i = 0;
    while i < 64 {
        table[i] = i as u8;
        i += 1;
    }
    table
};

/// Any bytes, made into bytes of at most `u_max` by a mask.
fn bytes_up_to(b: &mut KernelBuilder, x: Vi, u_max: u8) -> Vb {
    let mask = b.splat_i32(i32::from_le_bytes([u_max; 4]));
    let masked = b.band(x, mask);
    b.as_vb(masked)
}

fn float_inputs() -> Vec<[u32; 3]> {
    let mut rng = Rng(1);
    let mut rows = Vec::new();
    for x in FLOATS {
        for y in FLOATS {
            rows.push([x.to_bits(), y.to_bits(), rng.next() as u32]);
        }
    }
    for _ in 0..2000 {
        rows.push([rng.next() as u32, rng.next() as u32, rng.next() as u32]);
        rows.push([rng.float().to_bits(), rng.float().to_bits(), rng.float().to_bits()]);
    }
    rows
}

fn int_inputs() -> Vec<[u32; 3]> {
    let mut rng = Rng(2);
    let mut rows = Vec::new();
    for &x in INTS {
        for &y in INTS {
            rows.push([x as u32, y as u32, INTS[rng.below(INTS.len() as u64) as usize] as u32]);
        }
    }
    // Every byte, as index and as what an index is not.
    for x in 0..=255u8 {
        let bytes = [x, x.wrapping_mul(3), x.wrapping_add(64), !x];
        rows.push([u32::from_le_bytes(bytes), u32::from_le_bytes([!x, x, 0xc0, 0xbf]), 5]);
    }
    // Bytes at the ends of their ranges.
    for _ in 0..500 {
        let mut ends =
            |values: [u8; 4]| u32::from_le_bytes(std::array::from_fn(|_| values[rng.below(4) as usize]));
        rows.push([7, ends([128, 255, 0, 127]), ends([128, 127, 129, 255])]);
    }
    rows.push([0, 0x8080_8080, 0x8080_8080]);
    rows.push([0, 0x8080_8080, 0x7f7f_7f7f]);
    for _ in 0..1000 {
        rows.push([rng.next() as u32, rng.next() as u32, rng.next() as u32]);
    }
    rows
}

#[test]
fn float_ops_agree() {
    let inputs = float_inputs();
    for (name, build) in float_builds() {
        run(&name, &build, &inputs, Elements::F32);
    }
}

#[test]
fn int_ops_agree() {
    let inputs = int_inputs();
    for (name, build) in int_builds() {
        run(&name, &build, &inputs, Elements::Bits);
    }
}

/// Triples whose exact sum lies next to a tie of f32, where rounding twice gives another result than rounding once.
fn fma_inputs() -> Vec<[u32; 3]> {
    let mut rng = Rng(3);
    let mut rows = Vec::new();
    let ends =
        [0.0f32, -0.0, 1.0, -3.0, 1e-45, -f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NAN, 1e-20, 3e19];
    for x in ends {
        for y in ends {
            for z in ends {
                rows.push([x.to_bits(), y.to_bits(), z.to_bits()]);
            }
        }
    }
    for i in 0..20_000 {
        // A product of 25 significant bits with its last bit set is a tie of f32 ...
        let mut odd = |bits: u32| (1u32 << (bits - 1)) | (rng.next() as u32 & ((1 << (bits - 1)) - 1)) | 1;
        let (x, y) = (odd(12), odd(13 + i % 3));
        let scale = |rng: &mut Rng, spread: u64| 2f32.powi(rng.below(2 * spread) as i32 - spread as i32);
        let (x, y) = (x as f32 * scale(&mut rng, 60), y as f32 * scale(&mut rng, 60));
        // ... that a far smaller addend of either sign decides.
        let tiny = x * y * 2f32.powi(-30 - rng.below(60) as i32);
        let z = if rng.below(2) == 0 { tiny } else { -tiny };
        rows.push([x.to_bits(), y.to_bits(), z.to_bits()]);
        // Cancellation, and results that are subnormal.
        rows.push([x.to_bits(), y.to_bits(), (-(x * y)).to_bits()]);
        let (x, y) = (rng.float() * 2f32.powi(-70), rng.float() * 2f32.powi(-70));
        rows.push([x.to_bits(), y.to_bits(), (rng.next() as u32) & 0x807f_ffff]);
    }
    for _ in 0..20_000 {
        rows.push([rng.next() as u32, rng.next() as u32, rng.next() as u32]);
        rows.push([rng.float().to_bits(), rng.float().to_bits(), rng.float().to_bits()]);
    }
    rows
}

fn fma_build() -> Build {
    Box::new(|b, [x, y, z]| {
        let (x, y, z) = (b.as_vf(x), b.as_vf(y), b.as_vf(z));
        let r = b.fma(x, y, z);
        b.as_vi(r)
    })
}

#[test]
fn fma_rounds_once() {
    let inputs = fma_inputs();
    // The inputs must be such that an f64 emulation without further care is caught.
    let caught = inputs.iter().filter(|row| {
        let [x, y, z] = row.map(f32::from_bits);
        let naive = (f64::from(x) * f64::from(y) + f64::from(z)) as f32;
        let once = x.mul_add(y, z);
        naive.to_bits() != once.to_bits() && !once.is_nan()
    });
    assert!(caught.count() > 1000, "the cases do not tell one rounding from two");
    run("fma", &fma_build(), &inputs, Elements::F32);
}

fn mnemonics(stmts: &[Stmt], found: &mut BTreeSet<&'static str>) {
    for stmt in stmts {
        match stmt {
            Stmt::Op { op, .. } => {
                found.insert(op.info().mnemonic);
            }
            Stmt::Loop(l) => mnemonics(&l.body.stmts, found),
            Stmt::If(i) => {
                mnemonics(&i.then.stmts, found);
                mnemonics(&i.otherwise.stmts, found);
            }
        }
    }
}

#[test]
fn every_op_without_a_pointer_is_covered() {
    let mut found = BTreeSet::new();
    let builds = float_builds().into_iter().chain(int_builds()).chain([("fma".to_owned(), fma_build())]);
    for (name, build) in builds {
        mnemonics(&pointwise(&name, &build).body.stmts, &mut found);
    }
    // Covered by `memory_ops.rs`, `control_flow.rs` and `tile_ops.rs`.
    let mut elsewhere = vec!["sub", "mul", "and", "min", "max", "shl", "udiv", "urem"];
    elsewhere.extend(["tile_begin", "tile_end", "tile_zero", "tile_dot"]);
    for op in OPS {
        let pointer = op.operands.first().is_some_and(|(name, _)| *name == "ptr");
        assert!(
            pointer || elsewhere.contains(&op.mnemonic) || found.contains(op.mnemonic),
            "{} is not tested",
            op.mnemonic
        );
    }
}
