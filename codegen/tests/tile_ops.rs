//! Tile ops against the interpreter, and the refusal of kernels with them where there are no tile registers.

mod common;

use bitnetc_codegen::error::CodegenError;
use bitnetc_codegen::kir::interp::{self, Arg, InterpError, Memory};
use bitnetc_codegen::kir::{Access, Kernel, KernelBuilder, Rule, VerifyError};
use bitnetc_codegen::{clif, x64};
use bitnetc_ir::TargetDesc;

use common::{Backend, Case, Rng, TILES, check_on, wide_backends};

/// Every tile, every pair of operands: loads, zeros, `steps` products, stores; `rows` rows, `stride` bytes apart.
fn every_tile(rows: u8, stride: i64, steps: i64) -> Kernel {
    let mut b = KernelBuilder::new("tiles");
    let (x, w) = (b.ptr("x", Access::ReadOnly), b.ptr("w", Access::ReadOnly));
    let out = b.ptr("out", Access::ReadWrite);
    b.tile_begin(rows);
    for acc in 0..4 {
        b.tile_zero(acc);
    }
    b.for_loop(0, steps * 64, 64, (), |b, at, ()| {
        let x = b.add(x, at);
        b.tile_load(x, stride, 0, 4);
        b.tile_load(x, stride, 7, 5);
        let at = b.shl(at, 4);
        let w = b.add(w, at);
        b.tile_load(w, 64, 0, 6);
        b.tile_load(w, 64, 64, 7);
        for (acc, s, u) in [(0, 4, 6), (1, 4, 7), (2, 5, 6), (3, 5, 7), (3, 4, 6)] {
            b.tile_dot(acc, s, u);
        }
    });
    for acc in 0..4 {
        b.tile_store(out, 64, i32::from(acc) * 1024, acc);
    }
    // A tile that was loaded comes out as it went in.
    b.tile_load(w, 64, 0, 2);
    b.tile_store(out, stride, 4096, 2);
    b.tile_end();
    b.finish().unwrap()
}

fn tile_backends() -> Vec<Backend> {
    wide_backends().into_iter().filter(|b| b.registers().tiles()).collect()
}

#[test]
fn tiles_of_every_height_agree() {
    let backends = tile_backends();
    if backends.is_empty() {
        println!("this machine has no tile registers: only the interpreter runs");
    }
    let mut rng = Rng(77);
    for rows in 1..=16u8 {
        for (stride, steps) in [(64, 1), (80, 1), (328, 4)] {
            let mut memory = Memory::new();
            let extreme = |rng: &mut Rng| match rng.next() % 4 {
                0 => 0x80,
                1 => 0x7f,
                2 => 0xff,
                _ => rng.next() as u8,
            };
            let x_bytes = (i64::from(rows) - 1) * stride + steps * 64 + 7;
            let x: Vec<u8> = (0..x_bytes).map(|_| extreme(&mut rng)).collect();
            let w: Vec<u8> = (0..1024 * steps + 64).map(|_| extreme(&mut rng)).collect();
            let x = memory.add(x, Access::ReadOnly);
            let w = memory.add(w, Access::ReadOnly);
            let out_bytes = 4096 + (i64::from(rows) - 1) * stride + 64;
            let out = memory.add(vec![0x11; out_bytes as usize], Access::ReadWrite);
            let args = vec![Arg::Ptr(x, 0), Arg::Ptr(w, 0), Arg::Ptr(out, 0)];
            let case = Case { kernel: every_tile(rows, stride, steps), memory, args, elements: Vec::new() };
            let after = check_on(&case, &backends);
            // Rows that the tiles do not have are not stored.
            let row = 64 * usize::from(rows);
            if rows < 16 {
                assert!(after.bytes(out)[row..1024].iter().all(|&b| b == 0x11), "{rows} rows");
            }
            assert!(after.bytes(out)[..row].iter().any(|&b| b != 0x11));
        }
    }
}

#[test]
fn targets_without_tile_registers_refuse() {
    let kernel = every_tile(16, 64, 1);
    let target: TargetDesc = TILES.parse().unwrap();
    let narrower = target.clone().without(bitnetc_ir::Feature::AmxInt8);
    assert!(x64::compile(&kernel, &target).is_ok());
    assert!(matches!(x64::compile(&kernel, &narrower), Err(CodegenError::Tiles { .. })));
    assert!(matches!(clif::compile(&kernel, &target), Err(CodegenError::Tiles { .. })));
}

#[test]
fn tile_ops_want_a_configuration_and_their_own_registers() {
    let mut b = KernelBuilder::new("unconfigured");
    b.tile_zero(0);
    let kernel = b.finish().unwrap();
    let fault = interp::run(&kernel, &mut Memory::new(), &[]).unwrap_err();
    assert!(matches!(fault, InterpError::Fault { .. }), "{fault}");
    type Wrong = fn(&mut KernelBuilder);
    let wrong: [Wrong; 5] = [
        |b| b.tile_begin(0),
        |b| b.tile_begin(17),
        |b| b.tile_zero(8),
        |b| b.tile_dot(4, 4, 6),
        |b| b.tile_dot(0, 6, 4),
    ];
    for build in wrong {
        let mut b = KernelBuilder::new("wrong");
        build(&mut b);
        let VerifyError { violations, .. } = b.finish().unwrap_err();
        assert!(violations.iter().any(|v| v.rule == Rule::Attribute));
    }
}
