//! The kernel IR: the one language in which every kernel is written.
//!
//! A kernel is structured SSA over 64-bit integers and *virtual vectors* of 512 bits ([`Type`]), with counted loops
//! and two-way choices and no other control flow. It is written through [`KernelBuilder`], checked by [`verify`],
//! printed by `Display`, run slowly and with every access checked by [`interp`], and compiled by the instruction
//! selectors, which must agree with the interpreter bit for bit.
//!
//! Why 512 bits everywhere: the lane count fixes the order of every f32 reduction, so all instruction sets give the
//! same bits. A selector with narrower registers splits a vector into parts.
//!
//! Invariants: [`verify`] lists them. The interpreter shares no code with any selector.
//!
//! ```
//! use bitnetc_codegen::kir::{Access, KernelBuilder};
//!
//! // y[i] = a[i] * b[i] for 0 <= i < n, n a multiple of 16.
//! let mut b = KernelBuilder::new("mul");
//! let (x, w) = (b.ptr("x", Access::ReadOnly), b.ptr("w", Access::ReadOnly));
//! let y = b.ptr("y", Access::ReadWrite);
//! let n = b.int_param("n");
//! let bytes = b.mul(n, 4);
//! b.for_loop(0, bytes, 64, (), |b, at, ()| {
//!     let (xi, wi, yi) = (b.add(x, at), b.add(w, at), b.add(y, at));
//!     let (xv, wv) = (b.load_f32(xi, 0, 16), b.load_f32(wi, 0, 16));
//!     let product = b.fmul(xv, wv);
//!     b.store_f32(yi, product, 0, 16);
//! });
//! let kernel = b.finish().unwrap();
//! assert!(kernel.to_string().contains("fmul"));
//! ```

mod build;
pub mod interp;
mod kernel;
mod ops;
mod print;
mod types;
mod verify;

pub use build::{KernelBuilder, MAX_STATEMENTS};
pub use kernel::{Access, Block, If, Kernel, Loop, LoopCarry, Param, ParamKind, Stmt};
pub use ops::{MemoryUse, OPS, Op, OpInfo, OperandType};
pub use types::{
    AnyVec, Carry, F32, FloatCond, Handle, I64, IntCond, IntoOperand, LANES, Scalar, TILE_ROWS, TILES, Table,
    Type, VECTOR_BYTES, Value, Vb, Vf, Vi,
};
pub use verify::{OFFSET_LIMIT, Rule, VerifyError, Violation, verify};
