//! The kernels that measure limits do the work that they are timed for: the interpreter and all feature levels agree, and
//! the sums are those of the whole range.

mod common;

use bitnetc_codegen::error::CodegenError;
use bitnetc_codegen::kernels::Registers;
use bitnetc_codegen::kernels::roofline::{READ_UNIT_BYTES, RooflineKind};
use bitnetc_codegen::kir::Access;
use bitnetc_codegen::kir::interp::{Arg, Memory};

use common::Case;

const REGISTERS: [Registers; 5] = [
    Registers::new(128, 16),
    Registers::new(256, 16),
    Registers::new(512, 32),
    Registers::new(256, 16).without_whole_byte_dot(),
    Registers::new(512, 32).without_whole_byte_dot(),
];

/// Runs the units `range` of a kernel over `data`, by all backends that have these registers or can do with their own; the
/// 16 lanes that it leaves.
fn lanes(kind: RooflineKind, registers: Registers, data: &[u8], range: [i64; 2]) -> Vec<i32> {
    let kernel = kind.build(registers).unwrap();
    let mut memory = Memory::new();
    let data = memory.add(data.to_vec(), Access::ReadOnly);
    let sink = memory.add(vec![0xee; 64], Access::ReadWrite);
    let args = [Arg::Ptr(data, 0), Arg::Ptr(sink, 0), Arg::Int(range[0]), Arg::Int(range[1])];
    let fits = |b: &common::Backend| {
        b.registers() == registers || !matches!(b.compile(&kernel), Err(CodegenError::Registers { .. }))
    };
    let backends: Vec<_> = common::backends().into_iter().filter(fits).collect();
    let case = Case { kernel: kernel.clone(), memory, args: args.to_vec(), elements: Vec::new() };
    let after = common::check_on(&case, &backends);
    after.bytes(sink).as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

#[test]
fn every_byte_of_the_range_is_read_once() {
    let unit = READ_UNIT_BYTES as usize;
    let data: Vec<u8> = (0..3 * unit).map(|i| (i * 7 + i / 251) as u8).collect();
    let sum = |range: std::ops::Range<usize>| {
        let mut sums = [0i32; 16];
        for vector in data[range.start * unit..range.end * unit].as_chunks::<64>().0 {
            for (sum, word) in sums.iter_mut().zip(vector.as_chunks::<4>().0) {
                *sum = sum.wrapping_add(i32::from_le_bytes(*word));
            }
        }
        sums.to_vec()
    };
    for registers in REGISTERS {
        for (sequences, prefetch) in [(1, 0), (2, 0), (4, 2048), (8, 64)] {
            let kind = RooflineKind::Read { sequences, prefetch, level: 1 + (prefetch > 0) as u8 };
            assert_eq!(lanes(kind, registers, &data, [0, 3]), sum(0..3), "{kind:?}");
            assert_eq!(lanes(kind, registers, &data, [1, 2]), sum(1..2), "{kind:?}");
            assert_eq!(lanes(kind, registers, &data, [2, 2]), [0; 16], "{kind:?}");
        }
    }
}

#[test]
fn every_multiply_add_of_a_unit_is_done() {
    for registers in REGISTERS {
        for units in [1i64, 3] {
            let per_lane = |kind: RooflineKind| kind.work_per_unit(registers) as i64 * units / 16;
            // One times one, summed: each lane holds how many there were.
            let int8 = lanes(RooflineKind::Int8, registers, &[], [5, 5 + units]);
            assert_eq!(int8, [per_lane(RooflineKind::Int8) as i32; 16]);
        }
        // The sums of f32 are added as bits: all are the same number of additions of 1.
        let kind = RooflineKind::Fma;
        let found = lanes(kind, registers, &[], [0, 1]);
        let rounds = 256;
        let sums = kind.work_per_unit(registers) as i32 / 16 / rounds;
        assert_eq!(found, [(rounds as f32).to_bits().wrapping_mul(sums as u32) as i32; 16]);
    }
}
