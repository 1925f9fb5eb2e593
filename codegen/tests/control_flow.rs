//! Loops, choices, carried values and 64-bit integers: the interpreter and all feature levels agree.

mod common;

use bitnetc_codegen::kir::interp::{Arg, Memory};
use bitnetc_codegen::kir::{Access, I64, IntCond, Kernel, KernelBuilder, Scalar};

use common::check;

/// Runs a kernel whose parameters are an output buffer of `words` i64 and numbers; returns the output.
fn numbers(kernel: &Kernel, words: usize, ints: &[i64]) -> Vec<i64> {
    let mut memory = Memory::new();
    let out = memory.add(vec![0xee; 8 * words], Access::ReadWrite);
    let args: Vec<_> = std::iter::once(Arg::Ptr(out, 0)).chain(ints.iter().map(|&n| Arg::Int(n))).collect();
    let after = check(kernel, &memory, &args);
    after.bytes(out).as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
}

#[test]
fn integer_ops_agree() {
    type Binary = fn(&mut KernelBuilder, I64, I64) -> I64;
    let ops: &[Binary] = &[
        |b, x, y| b.add(x, y),
        |b, x, y| b.sub(x, y),
        |b, x, y| b.mul(x, y),
        |b, x, y| b.and(x, y),
        |b, x, y| b.min(x, y),
        |b, x, y| b.max(x, y),
        |b, x, _| b.shl(x, 0),
        |b, x, _| b.shl(x, 63),
        |b, x, _| b.shr(x, 5),
        |b, x, _| b.shr(x, 63),
        |b, x, _| b.udiv(x, 1),
        |b, x, _| b.udiv(x, 5),
        |b, x, _| b.udiv(x, 64),
        |b, x, _| b.udiv(x, i64::MAX),
        |b, x, _| b.urem(x, 7),
        |b, x, _| b.urem(x, 16),
        |b, x, _| b.urem(x, 1),
        |b, x, _| b.add(x, -3),
        |b, x, _| b.mul(x, 1i64 << 40),
    ];
    let mut b = KernelBuilder::new("integers");
    let out = b.ptr("out", Access::ReadWrite);
    let (x, y) = (b.int_param("x"), b.int_param("y"));
    for (i, op) in ops.iter().enumerate() {
        let result = op(&mut b, x, y);
        b.store_scalar(out, result, 8 * i as i32, Scalar::I64);
    }
    let kernel = b.finish().unwrap();
    let edges =
        [0, 1, -1, 2, 63, 64, 1 << 31, -(1 << 31), 1 << 40, i64::MAX, i64::MIN, 0x0123_4567_89ab_cdef];
    for x in edges {
        for y in edges {
            let found = numbers(&kernel, ops.len(), &[x, y]);
            assert_eq!(found[0], x.wrapping_add(y));
            assert_eq!(found[11], (x as u64 / 5) as i64);
        }
    }
}

#[test]
fn conditions_agree() {
    let mut b = KernelBuilder::new("conditions");
    let out = b.ptr("out", Access::ReadWrite);
    let (x, y) = (b.int_param("x"), b.int_param("y"));
    for (i, &cond) in IntCond::ALL.iter().enumerate() {
        let which = b.if_else(x, cond, y, |b| b.int(1), |b| b.add(y, 100));
        b.store_scalar(out, which, 8 * i as i32, Scalar::I64);
        b.if_then(x, cond, 7, |b| b.store_scalar(out, which, 8 * (i + 6) as i32, Scalar::I64));
    }
    let kernel = b.finish().unwrap();
    for x in [i64::MIN, -1, 0, 7, 8, i64::MAX] {
        for y in [i64::MIN, -1, 0, 7, 8] {
            let found = numbers(&kernel, 12, &[x, y]);
            for (i, &cond) in IntCond::ALL.iter().enumerate() {
                assert_eq!(found[i], if cond.holds(x, y) { 1 } else { y + 100 });
            }
        }
    }
}

#[test]
fn loops_run_as_often_as_they_say() {
    let mut b = KernelBuilder::new("loops");
    let out = b.ptr("out", Access::ReadWrite);
    let (lo, hi) = (b.int_param("lo"), b.int_param("hi"));
    for (i, step) in [1, 2, 7].into_iter().enumerate() {
        let (count, sum) = {
            let zero = b.int(0);
            b.for_loop(lo, hi, step, (zero, zero), |b, i, (count, sum)| (b.add(count, 1), b.add(sum, i)))
        };
        b.store_scalar(out, count, 16 * i as i32, Scalar::I64);
        b.store_scalar(out, sum, 16 * i as i32 + 8, Scalar::I64);
    }
    let kernel = b.finish().unwrap();
    for (lo, hi) in
        [(0, 0), (0, 1), (5, 3), (-3, 4), (0, 100), (i64::MIN, i64::MIN + 5), (i64::MAX - 20, i64::MAX - 7)]
    {
        let found = numbers(&kernel, 6, &[lo, hi]);
        for (i, step) in [1usize, 2, 7].into_iter().enumerate() {
            let expected: Vec<i64> = (lo..hi).step_by(step).collect();
            assert_eq!(found[2 * i], expected.len() as i64);
            assert_eq!(found[2 * i + 1], expected.iter().fold(0i64, |a, &b| a.wrapping_add(b)));
        }
    }
}

#[test]
fn constant_bounds_and_empty_loops() {
    let mut b = KernelBuilder::new("constant");
    let out = b.ptr("out", Access::ReadWrite);
    for (i, (lo, hi)) in [(0, 10), (10, 0), (3, 3), (-2, 2)].into_iter().enumerate() {
        let zero = b.int(0);
        let count = b.for_loop(lo, hi, 3, zero, |b, _, n| b.add(n, 1));
        b.store_scalar(out, count, 8 * i as i32, Scalar::I64);
    }
    let kernel = b.finish().unwrap();
    assert_eq!(numbers(&kernel, 4, &[]), [4, 0, 0, 2]);
}

#[test]
fn vectors_of_all_types_are_carried() {
    // A blocked product with a runtime number of accumulators, a choice inside of the loop, swapped carries and a
    // pointer as carried value.
    let mut b = KernelBuilder::new("carries");
    let (x, out) = (b.ptr("x", Access::ReadOnly), b.ptr("out", Access::ReadWrite));
    let n = b.int_param("n");
    let accumulators = 3;
    let zero = b.splat_i32(0);
    let bytes = b.as_vb(zero);
    let start = (vec![zero; accumulators], (b.splat_f32(1.0), b.splat_f32(2.0)), bytes, x);
    let (sums, (p, q), last, end) = b.for_loop(0, n, 1, start, |b, i, (sums, (p, q), _, at)| {
        let row = b.load_bytes(at, 0, 64);
        let mask = b.splat_i32(0x0303_0303);
        let codes = b.as_vi(row);
        let codes = b.band(codes, mask);
        let codes = b.as_vb(codes);
        let sums: Vec<_> = sums.iter().map(|&sum| b.dot_u8i8(sum, codes, row, 3)).collect();
        let half = b.splat_f32(0.5);
        let parity = b.urem(i, 2);
        let p = b.if_else(parity, IntCond::Eq, 0, |b| b.fadd(p, half), |_| p);
        let at = b.add(at, 64);
        // p and q change places in every iteration.
        (sums, (q, p), row, at)
    });
    for (i, &sum) in sums.iter().enumerate() {
        b.store_i32(out, sum, 64 * i as i32, 16);
    }
    b.store_f32(out, p, 192, 16);
    b.store_f32(out, q, 256, 16);
    b.store_bytes(out, last, 320, 64);
    let distance = b.sub(end, x);
    b.store_scalar(out, distance, 384, Scalar::I64);
    let kernel = b.finish().unwrap();
    for n in [0, 1, 2, 7] {
        let mut memory = Memory::new();
        let x = memory.add(common::Rng(n).bytes(64 * n as usize), Access::ReadOnly);
        let out = memory.add(vec![0; 392], Access::ReadWrite);
        let after = check(&kernel, &memory, &[Arg::Ptr(x, 0), Arg::Ptr(out, 0), Arg::Int(n as i64)]);
        assert_eq!(after.bytes(out)[384..], (64 * n).to_le_bytes());
    }
}

#[test]
fn nested_loops_with_dynamic_bounds() {
    // out[r] = sum over c < r of r * c, for r in lo..hi.
    let mut b = KernelBuilder::new("nested");
    let out = b.ptr("out", Access::ReadWrite);
    let (lo, hi) = (b.int_param("lo"), b.int_param("hi"));
    b.for_loop(lo, hi, 1, (), |b, r, ()| {
        let zero = b.int(0);
        let sum = b.for_loop(0, r, 1, zero, |b, c, sum| {
            let product = b.mul(r, c);
            b.add(sum, product)
        });
        let at = b.shl(r, 3);
        let at = b.add(out, at);
        b.store_scalar(at, sum, 0, Scalar::I64);
    });
    let kernel = b.finish().unwrap();
    let found = numbers(&kernel, 10, &[2, 9]);
    for r in 2..9i64 {
        assert_eq!(found[r as usize], (0..r).map(|c| r * c).sum::<i64>());
    }
    assert_eq!(found[1], i64::from_le_bytes([0xee; 8]));
    assert_eq!(found[9], i64::from_le_bytes([0xee; 8]));
}
