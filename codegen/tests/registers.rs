//! Register pressure, and kernels that nobody would write: the wide selector refuses or is right.

mod common;

use bitnetc_codegen::error::CodegenError;
use bitnetc_codegen::kir::interp::{Arg, Memory};
use bitnetc_codegen::kir::{Access, FloatCond, I64, IntCond, Kernel, KernelBuilder, Vf, Vi};
use proptest::prelude::*;

use common::{Case, Elements, Rng, check_case, check_on, wide_backends};

/// `accumulators` sums of products in one innermost loop.
fn sums(accumulators: usize) -> Kernel {
    let mut b = KernelBuilder::new("sums");
    let (x, out) = (b.ptr("x", Access::ReadOnly), b.ptr("out", Access::ReadWrite));
    let n = b.int_param("n");
    let zero = b.splat_f32(0.0);
    let sums = b.for_loop(0, n, 64, vec![zero; accumulators], |b, at, sums| {
        let at = b.add(x, at);
        let v = b.load_f32(at, 0, 16);
        let scale = b.splat_f32(1.5);
        let w = b.fmul(v, scale);
        (0..)
            .zip(sums)
            .map(|(i, sum): (i32, Vf)| {
                let factor = b.broadcast_f32(at, 4 * (i % 16));
                b.fma(if i % 2 == 0 { v } else { w }, factor, sum)
            })
            .collect()
    });
    for (i, &sum) in (0..).zip(&sums) {
        b.store_f32(out, sum, 64 * i, 16);
    }
    b.finish().unwrap()
}

fn floats(n: usize) -> Vec<u8> {
    let mut rng = Rng(5);
    (0..n).flat_map(|_| rng.float().to_le_bytes()).collect()
}

#[test]
fn too_many_accumulators_are_refused_and_fewer_are_right() {
    for backend in wide_backends() {
        let vectors = backend.registers().vectors();
        for accumulators in 1..=40 {
            let kernel = sums(accumulators);
            match backend.compile(&kernel) {
                Ok(_) => assert!(accumulators <= vectors, "{backend}: {accumulators} cannot fit"),
                Err(CodegenError::Registers { needed, available, .. }) => {
                    assert!(accumulators + 3 > vectors, "{backend}: {accumulators} fit");
                    assert!(needed > available, "{needed} of {available}");
                    continue;
                }
                Err(other) => panic!("{other}"),
            }
            let mut memory = Memory::new();
            let x = memory.add(floats(64), Access::ReadOnly);
            let out = memory.add(vec![0; 64 * accumulators], Access::ReadWrite);
            let args = vec![Arg::Ptr(x, 0), Arg::Ptr(out, 0), Arg::Int(256)];
            let elements = vec![(out, Elements::F32)];
            check_on(&Case { kernel, memory, args, elements }, std::slice::from_ref(&backend));
        }
    }
}

#[test]
fn values_wait_in_the_frame_while_loops_run() {
    // 24 vectors and 20 numbers that are needed after two loops, the first of which yields sums that wait too.
    let mut b = KernelBuilder::new("waiting");
    let (x, out) = (b.ptr("x", Access::ReadOnly), b.ptr("out", Access::ReadWrite));
    let n = b.int_param("n");
    let vectors: Vec<Vf> = (0..24).map(|i| b.load_f32(x, 64 * (i % 4), 16)).collect();
    let numbers: Vec<I64> = (0..20).map(|i| b.mul(n, 3 + i)).collect();
    let mut all = Vec::new();
    for start in [0, 4] {
        let zero = b.splat_f32(0.0);
        all.extend(b.for_loop(0, n, 64, vec![zero; 5], |b, at, sums| {
            let at = b.add(x, at);
            let v = b.load_f32(at, 0, 16);
            (start..)
                .zip(sums)
                .map(|(i, sum): (i32, Vf)| {
                    let factor = b.broadcast_f32(at, 4 * i);
                    b.fma(v, factor, sum)
                })
                .collect()
        }));
    }
    for (i, v) in (0..).zip(vectors.into_iter().chain(all)) {
        let doubled = b.fadd(v, v);
        b.store_f32(out, doubled, 64 * i, 16);
    }
    for (i, number) in (0..).zip(numbers) {
        b.store_scalar(out, number, 64 * 34 + 8 * i, bitnetc_codegen::kir::Scalar::I64);
    }
    let kernel = b.finish().unwrap();
    let mut memory = Memory::new();
    let x = memory.add(floats(64), Access::ReadOnly);
    let out = memory.add(vec![0; 64 * 34 + 160], Access::ReadWrite);
    let args = vec![Arg::Ptr(x, 0), Arg::Ptr(out, 0), Arg::Int(256)];
    check_case(&Case { kernel, memory, args, elements: vec![] });
}

/// Values that a random kernel has at hand. Floats are never read as integers: NaN payloads are nobody's contract.
#[derive(Clone)]
struct Pool {
    floats: Vec<Vf>,
    ints: Vec<Vi>,
    numbers: Vec<I64>,
}

struct Random<'a> {
    choices: &'a [u16],
    at: usize,
    x: I64,
    floats: I64,
    ints: I64,
    stored: i32,
}

/// Vectors that a random kernel may store.
const STORES: i32 = 40;

impl Random<'_> {
    fn below(&mut self, n: usize) -> usize {
        self.at += 1;
        usize::from(self.choices[self.at % self.choices.len()].wrapping_add(self.at as u16 / 7)) % n
    }

    fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn lanes(&mut self) -> u8 {
        [16, 16, 16, 1, 3, 8, 11][self.below(7)]
    }

    /// A few statements that use and extend `pool`.
    fn block(&mut self, b: &mut KernelBuilder, pool: &mut Pool, depth: usize) {
        for _ in 0..6 + self.below(10) {
            self.statement(b, pool, depth);
        }
    }

    fn statement(&mut self, b: &mut KernelBuilder, pool: &mut Pool, depth: usize) {
        let (f, g, h) = (self.of(&pool.floats), self.of(&pool.floats), self.of(&pool.floats));
        let (i, j) = (self.of(&pool.ints), self.of(&pool.ints));
        let number = self.of(&pool.numbers);
        let (offset, lanes) = (4 * self.below(64) as i32, self.lanes());
        let index = b.and(number, 0x3c);
        let at = b.add(self.x, index);
        match self.below(if depth > 0 { 27 } else { 25 }) {
            0 => pool.floats.push(b.load_f32(at, offset, lanes)),
            1 => pool.ints.push(b.load_i32(at, offset, lanes)),
            2 => pool.floats.push(b.broadcast_f32(at, offset)),
            3 => pool.ints.push(b.broadcast_i32(at, offset)),
            4 => pool.floats.push(b.load_f16(at, offset, lanes, false)),
            5 => pool.ints.push(b.load_i8(at, offset + 3, lanes)),
            6 => pool.floats.push(b.fadd(f, g)),
            7 => pool.floats.push(b.fsub(f, g)),
            8 => pool.floats.push(b.fmul(f, g)),
            9 => pool.floats.push(b.fma(f, g, h)),
            10 => pool.floats.push(b.fmax_gt(f, g)),
            11 => pool.floats.push(b.splat_f32(offset as f32 - 77.5)),
            12 => pool.ints.push(b.splat_i32(offset << 20 ^ 0x0301)),
            13 => pool.ints.push(b.iadd(i, j)),
            14 => pool.ints.push(b.bandn(i, j)),
            15 => pool.ints.push(b.sshr(i, (offset / 8) as u8)),
            16 => pool.ints.push(b.cvt_f32_i32(f)),
            17 => pool.floats.push(b.cvt_i32_f32(i)),
            18 => {
                let (x, y) = (b.as_vb(i), b.as_vb(j));
                let acc = self.of(&pool.ints);
                pool.ints.push(b.dot_i8i8(acc, x, y));
            }
            19 => {
                let mask = b.splat_i32(0x7f7f_7f7f);
                let u = b.band(i, mask);
                let (u, s) = (b.as_vb(u), b.as_vb(j));
                let acc = self.of(&pool.ints);
                pool.ints.push(b.dot_u8i8(acc, u, s, 127));
            }
            20 => {
                let mask = b.fcmp(f, g, [FloatCond::Lt, FloatCond::Uno, FloatCond::Ge][offset as usize % 3]);
                pool.floats.push(b.fselect(mask, h, f));
                pool.ints.push(if offset % 8 == 0 { b.iselect(mask, i, j) } else { mask });
            }
            21 => {
                let mask = b.icmp(i, j, [IntCond::Le, IntCond::Ne, IntCond::Gt][offset as usize % 3]);
                pool.ints.push(b.iselect(mask, j, i));
            }
            22 => pool.floats.push(b.reduce_add_f32(f)),
            23 => {
                let lane = b.extract_i32(i, lanes - 1);
                let scaled = b.mul(lane, 5);
                let sum = b.add(scaled, number);
                pool.numbers.push(b.urem(sum, 1 + i64::from(offset)));
                pool.ints.push(b.splat_i64(lane));
            }
            24 => self.store(b, f, i, lanes),
            25 => {
                let (count, carried) = (self.below(4) as i64, (f, g, i, number));
                let mut inner = pool.clone();
                let mut this = Random { ..*self };
                let results = b.for_loop(0, count, 1, carried, |b, index, (f, g, i, number)| {
                    inner.floats.extend([f, g]);
                    inner.ints.push(i);
                    inner.numbers.extend([index, number]);
                    this.block(b, &mut inner, depth - 1);
                    // Swapped, so that copies at the end of the loop depend on each other.
                    let next = b.add(number, 7);
                    (g, inner.floats[inner.floats.len() - 1], inner.ints[inner.ints.len() - 1], next)
                });
                (self.at, self.stored) = (this.at, this.stored);
                pool.floats.extend([results.0, results.1]);
                pool.ints.push(results.2);
                pool.numbers.push(results.3);
            }
            _ => {
                let other = self.of(&pool.numbers);
                let (mut then, mut otherwise) = (pool.clone(), pool.clone());
                let start = Random { ..*self };
                let (mut one, mut two) = (Random { ..start }, Random { at: start.at + 5, ..start });
                let taken = |r: &mut Random<'_>, b: &mut KernelBuilder, pool: &mut Pool| {
                    r.block(b, pool, depth - 1);
                    (pool.floats[pool.floats.len() - 1], pool.ints[pool.ints.len() - 1])
                };
                let results = b.if_else(
                    number,
                    [IntCond::Lt, IntCond::Eq, IntCond::Ge][offset as usize % 3],
                    other,
                    |b| taken(&mut one, b, &mut then),
                    |b| taken(&mut two, b, &mut otherwise),
                );
                (self.at, self.stored) = (one.at.max(two.at), one.stored.max(two.stored));
                pool.floats.push(results.0);
                pool.ints.push(results.1);
            }
        }
    }

    fn store(&mut self, b: &mut KernelBuilder, f: Vf, i: Vi, lanes: u8) {
        if self.stored < STORES {
            b.store_f32(self.floats, f, 64 * self.stored, lanes);
            b.store_i32(self.ints, i, 64 * self.stored, lanes);
            self.stored += 1;
        }
    }
}

fn random_kernel(choices: &[u16]) -> Kernel {
    let mut b = KernelBuilder::new("random");
    let x = b.ptr("x", Access::ReadOnly);
    let (to_floats, to_ints) = (b.ptr("floats", Access::ReadWrite), b.ptr("ints", Access::ReadWrite));
    let n = b.int_param("n");
    let floats = (0..3).map(|i| b.load_f32(x, 64 * i, 16)).collect();
    let ints = (3..6).map(|i| b.load_i32(x, 64 * i, 16)).collect();
    let zero = b.int(0);
    let mut pool = Pool { floats, ints, numbers: vec![n, zero] };
    let mut random = Random { choices, at: 0, x, floats: to_floats, ints: to_ints, stored: 0 };
    random.block(&mut b, &mut pool, 3);
    let (f, i) = (pool.floats[pool.floats.len() - 1], pool.ints[pool.ints.len() - 1]);
    b.store_f32(to_floats, f, 64 * STORES, 16);
    b.store_i32(to_ints, i, 64 * STORES, 16);
    b.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_kernels_are_right_or_refused(
        choices in proptest::collection::vec(any::<u16>(), 40..200),
        n in -3i64..100,
    ) {
        let kernel = random_kernel(&choices);
        let mut rng = Rng(n as u64);
        let mut memory = Memory::new();
        // Small numbers as f32, which as bytes, words and f16 are of all kinds.
        let bytes = (0..160).flat_map(|_| ((rng.below(4001) as f32 - 2000.0) / 16.0).to_le_bytes()).collect();
        let x = memory.add(bytes, Access::ReadOnly);
        let [floats, ints] = [(); 2].map(|()| memory.add(vec![0; 64 * (STORES as usize + 1)], Access::ReadWrite));
        let args = vec![Arg::Ptr(x, 0), Arg::Ptr(floats, 0), Arg::Ptr(ints, 0), Arg::Int(n)];
        let fits = |b: &common::Backend| !matches!(b.compile(&kernel), Err(CodegenError::Registers { .. } | CodegenError::Frame { .. }));
        let backends: Vec<_> = wide_backends().into_iter().filter(fits).collect();
        let case = Case { kernel: kernel.clone(), memory, args, elements: vec![(floats, Elements::F32)] };
        check_on(&case, &backends);
    }
}
