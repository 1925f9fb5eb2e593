//! The CLIF that is made for aarch64 means what the interpreter says: it is compiled for x86-64 and run.
//!
//! CLIF has one meaning on all machines, so this checks everything of the aarch64 lowering but Cranelift's own choice of
//! aarch64 instructions.

use super::isa::{DotIsa, Features};
use super::translate;
use crate::host;
use crate::image::ImageBuilder;
use crate::kir::interp::{Arg, Memory, run};
use crate::kir::{Access, FloatCond, IntCond, Kernel, KernelBuilder};

/// A kernel of all ops whose lowering differs by machine: three vectors in, nine vectors out.
fn kernel() -> Kernel {
    let mut b = KernelBuilder::new("foreign");
    let (src, dst) = (b.ptr("src", Access::ReadOnly), b.ptr("dst", Access::ReadWrite));
    let [acc, x, y] = [0, 64, 128].map(|at| b.load_i32(src, at, 16));
    let s = b.as_vb(y);
    let mut results = Vec::new();
    for u_max in [2, 127, 128, 255] {
        let mask = b.splat_i32(i32::from_le_bytes([u_max; 4]));
        let u = b.band(x, mask);
        let u = b.as_vb(u);
        results.push(b.dot_u8i8(acc, u, s, u_max));
    }
    let bytes = b.as_vb(x);
    results.push(b.dot_i8i8(acc, bytes, s));
    let (p, q) = (b.as_vf(x), b.as_vf(y));
    results.push(b.cvt_f32_i32(p));
    let less = b.fcmp(p, q, FloatCond::Lt);
    let greater = b.icmp(x, y, IntCond::Gt);
    results.push(b.iselect(less, x, acc));
    results.push(b.iselect(greater, y, acc));
    let larger = b.fmax_gt(p, q);
    results.push(b.as_vi(larger));
    for (i, result) in (0..).zip(results) {
        b.store_i32(dst, result, 64 * i, 16);
    }
    b.finish().unwrap()
}

#[test]
fn aarch64_lowering_agrees_with_the_interpreter() {
    let host = host::probe().unwrap();
    let kernel = kernel();
    let inputs: Vec<[u8; 192]> = {
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let edges = [0x80u8, 0xff, 0x7f, 0x00];
        let floats = [2147483648f32, -2147483648.0, f32::NAN, f32::INFINITY, -2.5, 3.5, -0.0, 3e9];
        (0..200)
            .map(|round| {
                let mut bytes = [0; 192];
                bytes.iter_mut().for_each(|b| *b = next() as u8);
                match round % 4 {
                    0 => bytes.iter_mut().for_each(|b| *b = edges[next() as usize % 4]),
                    1 => bytes[64..128].as_chunks_mut::<4>().0.iter_mut().for_each(|word| {
                        *word = floats[next() as usize % floats.len()].to_le_bytes();
                    }),
                    _ => {}
                }
                bytes
            })
            .collect()
    };
    for dot in [DotIsa::I8mm, DotIsa::Dotprod, DotIsa::Neon] {
        let features = Features { x86: false, fma: false, dot };
        let (code, _) = translate(&kernel, &host, features, false).unwrap();
        let mut builder = ImageBuilder::new(&host).unwrap();
        builder.define("foreign", &code).unwrap();
        let entry = builder.finish().unwrap().entry(0);
        for input in &inputs {
            let mut memory = Memory::new();
            let src = memory.add(input.to_vec(), Access::ReadOnly);
            let dst = memory.add(vec![0; 576], Access::ReadWrite);
            run(&kernel, &mut memory, &[Arg::Ptr(src, 0), Arg::Ptr(dst, 0)]).unwrap();
            let mut found = [0u8; 576];
            let words = [input.as_ptr() as u64, found.as_mut_ptr() as u64];
            // The kernel reads 192 bytes through its first parameter and writes 576 through its second, as the interpreter
            // has just confirmed.
            crate::image::call_in_test(&entry, &words);
            assert_eq!(memory.bytes(dst), found, "{dot:?}");
        }
    }
}
