//! Random modules of every stage: a module that the verifier accepts runs, and always gives the same bits.

use bitnetc_ir::generate::{GenOptions, random_module};
use bitnetc_ir::interp::{Interpreter, Tensor};
use bitnetc_ir::random::SplitMix;
use bitnetc_ir::{DType, FuncId, Module, Stage, TokenCount, text};

use crate::fixture::{Random, assert_same};

const CAPACITY: u32 = 128;

/// Inputs for a call with `tokens` tokens; caches are full of numbers.
fn inputs(module: &Module, func: FuncId, tokens: usize, random: &mut Random) -> Vec<Tensor> {
    let func = &module.funcs()[func];
    let input = |id: &bitnetc_ir::ValueId| {
        let ty = func.ty(*id);
        match (ty.dtype, ty.as_rows(), ty.as_cache()) {
            (DType::Idx, _, _) if ty.shape.0.is_empty() => Tensor::Position(CAPACITY - tokens as u32 - 3),
            (DType::Idx, ..) => Tensor::Tokens((0..tokens).map(|_| random.bits() % 15).collect()),
            (DType::F32, Some(rows), _) => {
                let width = rows.width as usize;
                Tensor::f32(width, random.f32s(width * if rows.per_token { tokens } else { 1 }, 4.0))
            }
            (DType::Q8, Some(rows), _) => {
                let (width, rows) = (rows.width as usize, if rows.per_token { tokens } else { 1 });
                let codes: Vec<i8> = (0..width * rows).map(|_| random.bits() as i8).collect();
                let sums = codes.chunks(width).map(|r| r.iter().map(|&q| i32::from(q)).sum()).collect();
                Tensor::Q8 { rows, width, codes, a: random.f32s(rows, 50.0), sums }
            }
            _ => Tensor::empty_cache(ty, CAPACITY).unwrap_or_else(|| panic!("an input of type {ty}")),
        }
    };
    func.inputs().iter().map(input).collect()
}

#[test]
fn random_modules_run_and_give_the_same_bits_after_printing_and_parsing() {
    let mut seeds = SplitMix::new(61);
    let mut results = 0;
    for &stage in Stage::ALL {
        for (tokens, n) in [(TokenCount::One, 1), (TokenCount::UpTo(8), 5)] {
            for _ in 0..12 {
                let seed = seeds.next_u64();
                let options = GenOptions {
                    stage,
                    tokens,
                    stored_tiles: seed.is_multiple_of(2),
                    ..GenOptions::default()
                };
                let (module, weights) = random_module(seed, &options);
                let again = text::parse(&text::print(&module)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                for func in module.funcs().keys() {
                    let given = inputs(&module, func, n, &mut Random(seed));
                    let run = |module: &Module| {
                        Interpreter::new(module, &weights)
                            .run(func, given.clone())
                            .unwrap_or_else(|e| panic!("{stage}, seed {seed}: {e}"))
                    };
                    let (a, b) = (run(&module), run(&again));
                    results += a.len();
                    for (a, b) in a.iter().zip(&b) {
                        assert_same(a, b, &format!("{stage}, seed {seed}"));
                    }
                }
            }
        }
    }
    assert!(results > 100, "{results} results are too few to say anything");
}
