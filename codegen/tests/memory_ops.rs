//! Every load and store of the kernel IR, for every lane and byte count: the interpreter and all feature levels agree,
//! and no byte outside of an access is touched (buffers end at an inaccessible page).

mod common;

use std::collections::BTreeSet;

use bitnetc_codegen::kir::interp::{Arg, Memory};
use bitnetc_codegen::kir::{Access, I64, KernelBuilder, OPS, Scalar, Stmt, Vf, Vi};
use half::f16;

use common::{Case, Elements, FLOATS, INTS, Rng, check, check_case};

/// Loads with `load` from a buffer of exactly `bytes` bytes (at an odd offset in it too) and stores the vector.
fn check_load(
    name: &str,
    bytes: usize,
    how: Elements,
    load: impl Fn(&mut KernelBuilder, I64, i32) -> Vi,
) -> BTreeSet<&'static str> {
    let mut b = KernelBuilder::new(name);
    let (src, dst) = (b.ptr("src", Access::ReadOnly), b.ptr("dst", Access::ReadWrite));
    let whole = load(&mut b, src, 0);
    b.store_i32(dst, whole, 0, 16);
    let odd = b.ptr("odd", Access::ReadOnly);
    let shifted = load(&mut b, odd, -4);
    b.store_i32(dst, shifted, 64, 16);
    let kernel = b.finish().unwrap();
    let mut rng = Rng(bytes as u64);
    let mut memory = Memory::new();
    let src = memory.add(rng.bytes(bytes), Access::ReadOnly);
    let dst = memory.add(rng.bytes(128), Access::ReadWrite);
    let odd = memory.add(rng.bytes(bytes + 3), Access::ReadOnly);
    let args = vec![Arg::Ptr(src, 0), Arg::Ptr(dst, 0), Arg::Ptr(odd, 7.min(bytes + 3))];
    // The second load starts 4 bytes before its pointer: at byte 3, or earlier in a buffer too short for that.
    let elements = vec![(dst, how)];
    let found = mnemonics(&kernel.body.stmts);
    check_case(&Case { kernel, memory, args, elements });
    found
}

fn mnemonics(stmts: &[Stmt]) -> BTreeSet<&'static str> {
    let ops = stmts.iter().filter_map(|s| match s {
        Stmt::Op { op, .. } => Some(op.info().mnemonic),
        _ => None,
    });
    ops.collect()
}

/// Stores `v` with `store` into the end of a buffer, so that `bytes` are after the pointer.
fn check_store(
    name: &str,
    bytes: usize,
    how: Elements,
    input: &[u32; 16],
    store: impl Fn(&mut KernelBuilder, I64, Vi),
) -> BTreeSet<&'static str> {
    let mut b = KernelBuilder::new(name);
    let (src, dst) = (b.ptr("src", Access::ReadOnly), b.ptr("dst", Access::ReadWrite));
    let v = b.load_i32(src, 0, 16);
    store(&mut b, dst, v);
    let kernel = b.finish().unwrap();
    let mut memory = Memory::new();
    let src = memory.add(input.iter().flat_map(|w| w.to_le_bytes()).collect(), Access::ReadOnly);
    // An even length, so that f16 elements stay aligned with the buffer.
    let front = 64 + bytes % 2;
    let dst = memory.add(Rng(9).bytes(front + bytes), Access::ReadWrite);
    let args = vec![Arg::Ptr(src, 0), Arg::Ptr(dst, front)];
    let found = mnemonics(&kernel.body.stmts);
    check_case(&Case { kernel, memory, args, elements: vec![(dst, how)] });
    found
}

#[test]
fn loads_agree_for_every_count() {
    let mut found = BTreeSet::new();
    for lanes in 1..=16u8 {
        let n = usize::from(lanes);
        found.extend(check_load("load_i32", 4 * n, Elements::Bits, |b, p, at| b.load_i32(p, at, lanes)));
        found.extend(check_load("load_f32", 4 * n, Elements::Bits, |b, p, at| {
            let v = b.load_f32(p, at, lanes);
            b.as_vi(v)
        }));
        found.extend(check_load("load_f16", 2 * n, Elements::F32, |b, p, at| {
            let v = b.load_f16(p, at, lanes, false);
            b.as_vi(v)
        }));
        found.extend(check_load("load_bf16", 2 * n, Elements::F32, |b, p, at| {
            let v = b.load_bf16(p, at, lanes);
            b.as_vi(v)
        }));
        found.extend(check_load("load_i8", n, Elements::Bits, |b, p, at| b.load_i8(p, at, lanes)));
    }
    for bytes in 1..=64u8 {
        found.extend(check_load("load_bytes", bytes.into(), Elements::Bits, |b, p, at| {
            let v = b.load_bytes(p, at, bytes);
            b.as_vi(v)
        }));
    }
    found.extend(check_load("broadcast_i32", 4, Elements::Bits, |b, p, at| b.broadcast_i32(p, at)));
    found.extend(check_load("broadcast_f32", 4, Elements::Bits, |b, p, at| {
        let v = b.broadcast_f32(p, at);
        b.as_vi(v)
    }));
    found.extend(check_load("prefetch", 4, Elements::Bits, |b, p, at| {
        // Far outside of the buffer: a hint does not fault.
        b.prefetch(p, 1 << 20, 1);
        b.prefetch(p, 1 << 20, 2);
        b.broadcast_i32(p, at)
    }));

    let float = FLOATS.map_words();
    let int = INTS.map_words();
    for input in float.iter().chain(&int) {
        for lanes in 1..=16u8 {
            let n = usize::from(lanes);
            found.extend(check_store("store_i32", 4 * n, Elements::Bits, input, |b, p, v| {
                b.store_i32(p, v, 0, lanes)
            }));
            found.extend(check_store("store_i8", n, Elements::Bits, input, |b, p, v| {
                b.store_i8(p, v, 0, lanes)
            }));
            found.extend(check_store("store_f32", 4 * n, Elements::Bits, input, |b, p, v| {
                let v = b.as_vf(v);
                b.store_f32(p, v, 0, lanes);
            }));
            found.extend(check_store("store_f16", 2 * n, Elements::F16, input, |b, p, v| {
                let v = b.as_vf(v);
                b.store_f16(p, v, 0, lanes);
            }));
            for stride in [2, 6, 130] {
                let bytes = stride * (n - 1) + 2;
                found.extend(check_store("strided", bytes, Elements::F16, input, |b, p, v| {
                    let v = b.as_vf(v);
                    b.store_f16_strided(p, v, 0, stride as i32, lanes);
                }));
            }
        }
    }
    for bytes in 1..=64u8 {
        found.extend(check_store("store_bytes", bytes.into(), Elements::Bits, &float[0], |b, p, v| {
            let v = b.as_vb(v);
            b.store_bytes(p, v, 0, bytes);
        }));
    }

    found.extend(["load_scalar", "store_scalar"]); // `scalars_agree`
    found.extend(["tile_load", "tile_store"]); // `tile_ops.rs`
    for op in OPS.iter().filter(|op| op.operands.first().is_some_and(|(name, _)| *name == "ptr")) {
        assert!(found.contains(op.mnemonic), "{} is not tested", op.mnemonic);
    }
}

trait Words {
    fn map_words(&self) -> Vec<[u32; 16]>;
}

fn groups(words: Vec<u32>) -> Vec<[u32; 16]> {
    (0..words.len().div_ceil(16))
        .map(|g| std::array::from_fn(|i| words[(16 * g + i) % words.len()]))
        .collect()
}

impl Words for [f32] {
    fn map_words(&self) -> Vec<[u32; 16]> {
        groups(self.iter().map(|x| x.to_bits()).collect())
    }
}

impl Words for [i32] {
    fn map_words(&self) -> Vec<[u32; 16]> {
        groups(self.iter().map(|&x| x as u32).collect())
    }
}

#[test]
fn scalars_agree() {
    for &kind in Scalar::ALL {
        let mut b = KernelBuilder::new("scalars");
        let (src, dst) = (b.ptr("src", Access::ReadOnly), b.ptr("dst", Access::ReadWrite));
        let word = b.load_scalar(src, 0, kind);
        // The extension shows in all 64 bits; the store must touch its own bytes only.
        b.store_scalar(dst, word, 0, Scalar::I64);
        b.store_scalar(dst, word, 8, kind);
        let kernel = b.finish().unwrap();
        for fill in [0x00u8, 0x7f, 0x80, 0xff, 0x5a] {
            let mut memory = Memory::new();
            let src = memory.add(vec![fill; kind.bytes()], Access::ReadOnly);
            let dst = memory.add(vec![0x33; 8 + kind.bytes()], Access::ReadWrite);
            check(&kernel, &memory, &[Arg::Ptr(src, 0), Arg::Ptr(dst, 0)]);
        }
    }
}

/// A kernel over `n` (a multiple of 16) elements of `step` bytes in and `out_step` bytes out.
fn convert(
    step: i64,
    out_step: i64,
    body: impl Fn(&mut KernelBuilder, I64, I64),
) -> bitnetc_codegen::kir::Kernel {
    let mut b = KernelBuilder::new("convert");
    let (src, dst) = (b.ptr("src", Access::ReadOnly), b.ptr("dst", Access::ReadWrite));
    let n = b.int_param("n");
    b.for_loop(0, n, 16, (), |b, i, ()| {
        let (from, to) = (b.mul(i, step), b.mul(i, out_step));
        let (from, to) = (b.add(src, from), b.add(dst, to));
        body(b, from, to);
    });
    b.finish().unwrap()
}

fn check_conversion(
    kernel: &bitnetc_codegen::kir::Kernel,
    src: Vec<u8>,
    out_bytes: usize,
    n: usize,
    how: Elements,
) {
    let mut memory = Memory::new();
    let src = memory.add(src, Access::ReadOnly);
    let dst = memory.add(vec![0; out_bytes], Access::ReadWrite);
    let args = vec![Arg::Ptr(src, 0), Arg::Ptr(dst, 0), Arg::Int(n as i64)];
    check_case(&Case { kernel: kernel.clone(), memory, args, elements: vec![(dst, how)] });
}

#[test]
fn all_f16_and_bf16_load_exactly() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let f16_kernel = convert(2, 4, |b, from, to| {
        let v = b.load_f16(from, 0, 16, false);
        b.store_f32(to, v, 0, 16);
    });
    check_conversion(&f16_kernel, all.clone(), 4 << 16, 1 << 16, Elements::F32);
    let bf16_kernel = convert(2, 4, |b, from, to| {
        let v = b.load_bf16(from, 0, 16);
        b.store_f32(to, v, 0, 16);
    });
    check_conversion(&bf16_kernel, all, 4 << 16, 1 << 16, Elements::F32);
}

#[test]
fn all_finite_f16_load_exactly_when_promised() {
    let finite: Vec<u16> = (0..=u16::MAX).filter(|&h| f16::from_bits(h).is_finite()).collect();
    assert_eq!(finite.len() % 16, 0);
    let kernel = convert(2, 4, |b, from, to| {
        let v = b.load_f16(from, 0, 16, true);
        b.store_f32(to, v, 0, 16);
    });
    let bytes = finite.iter().flat_map(|h| h.to_le_bytes()).collect();
    check_conversion(&kernel, bytes, 4 * finite.len(), finite.len(), Elements::Bits);
}

#[test]
fn f32_round_to_f16() {
    // Every f16, the midpoints to its neighbours, and the f32 next to all of them.
    let mut words: Vec<u32> = Vec::new();
    for h in 0..=0x7c00u16 {
        let (here, next) = (f16::from_bits(h).to_f32(), f16::from_bits((h + 1).min(0x7c00)).to_f32());
        let middle = if next.is_infinite() { 65520.0 } else { (here + next) / 2.0 };
        for center in [here, middle] {
            let bits = center.to_bits();
            for bits in [bits.wrapping_sub(1), bits, bits + 1] {
                words.extend([bits, bits ^ 0x8000_0000]);
            }
        }
    }
    let mut rng = Rng(4);
    words.extend((0..100_000).map(|_| rng.next() as u32));
    words.extend(FLOATS.iter().map(|x| x.to_bits()));
    words.resize(words.len().next_multiple_of(16), 0);
    let kernel = convert(4, 2, |b, from, to| {
        let v: Vf = b.load_f32(from, 0, 16);
        b.store_f16(to, v, 0, 16);
    });
    let bytes = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    check_conversion(&kernel, bytes, 2 * words.len(), words.len(), Elements::F16);
}
