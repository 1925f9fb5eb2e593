//! A kernel of one's own, run by its definition and turned into machine code: `cargo run --release --example write_a_kernel`.

use bitnetc_codegen::kir::interp::{Arg, Memory, run};
use bitnetc_codegen::kir::{Access, Kernel, KernelBuilder, VerifyError};
use bitnetc_codegen::{clif, host, x64};
use bitnetc_ir::{Arch, TargetDesc};

/// y = a·x + y over `width` numbers: vectors of 16, and what is left over.
fn axpy(width: i64) -> Result<Kernel, VerifyError> {
    let mut b = KernelBuilder::new(format!("axpy_{width}"));
    let a = b.ptr("a", Access::ReadOnly);
    let x = b.ptr("x", Access::ReadOnly);
    let y = b.ptr("y", Access::ReadWrite);
    let factor = b.broadcast_f32(a, 0);
    b.for_loop(0, width / 16 * 64, 64, (), |b, at, ()| {
        let (x, y) = (b.add(x, at), b.add(y, at));
        let (xv, yv) = (b.load_f32(x, 0, 16), b.load_f32(y, 0, 16));
        let sum = b.fma(factor, xv, yv);
        b.store_f32(y, sum, 0, 16);
    });
    let (left, at) = ((width % 16) as u8, (width / 16 * 64) as i32);
    if left > 0 {
        let (xv, yv) = (b.load_f32(x, at, left), b.load_f32(y, at, left));
        let sum = b.fma(factor, xv, yv);
        b.store_f32(y, sum, at, left);
    }
    b.finish()
}

/// Builds the kernel, runs it in the interpreter, and compiles it for two machines.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let width = 21;
    let kernel = axpy(width)?;
    println!("{kernel}");

    let xs: Vec<f32> = (0..width).map(|i| i as f32 * 0.1).collect();
    let ys: Vec<f32> = (0..width).map(|i| 1.0 - i as f32).collect();
    let mut memory = Memory::new();
    let a = memory.add_f32(&[0.3], Access::ReadOnly);
    let x = memory.add_f32(&xs, Access::ReadOnly);
    let y = memory.add_f32(&ys, Access::ReadWrite);
    run(&kernel, &mut memory, &[Arg::Ptr(a, 0), Arg::Ptr(x, 0), Arg::Ptr(y, 0)])?;
    let expected: Vec<f32> = xs.iter().zip(&ys).map(|(x, y)| 0.3f32.mul_add(*x, *y)).collect();
    assert_eq!(memory.f32s(y), expected);

    // 128 bits by Cranelift, for any target; the widest registers of this machine, if it has wide ones.
    let narrow = clif::compile(&kernel, &TargetDesc::baseline(Arch::X86_64))?;
    println!("{}", narrow.disassemble());
    let here = host::probe()?;
    if x64::Level::of(&here).is_some() {
        println!("{}", x64::compile(&kernel, &here)?.disassemble());
    }
    Ok(())
}
