//! Matrix products: ternary and dense.

use bitnetc_ir::interp::Tensor;
use bitnetc_ir::weights::{ternary_bytes, ternary_position};
use bitnetc_ir::{DType, Epilogue, Layout, Op, Type};

use super::random::Random;
use super::rows::{TOKENS, act, random_act, rows_type};
use super::trial::{Input, Trial};

/// Codes that `code` gives, as a parameter in tile16. Padding holds arbitrary valid codes: it must not matter.
fn ternary(random: &mut Random, rows: u32, cols: u32, mut code: impl FnMut(&mut Random) -> u8) -> Input {
    let mut bytes = vec![0u8; ternary_bytes(Layout::Tile16, rows, cols).unwrap() as usize];
    let padded = cols.next_multiple_of(16);
    for r in 0..rows.next_multiple_of(16) {
        for c in 0..padded {
            let code = if r < rows && c < cols { code(random) } else { random.below(3) as u8 };
            let (at, shift) = ternary_position(Layout::Tile16, cols, r, c).unwrap();
            bytes[at as usize] |= code << shift;
        }
    }
    let scales = (0..rows).map(|_| random.number()).collect();
    Input::Param(Type::matrix(DType::Ter, rows, cols).with_layout(Layout::Tile16), bytes, scales)
}

fn quantised(tokens: Option<u32>, width: u32, codes: Vec<i8>, a: Vec<f32>) -> Input {
    let sums = codes.chunks(width as usize).map(|row| row.iter().map(|&c| i32::from(c)).sum()).collect();
    let rows = tokens.unwrap_or(1) as usize;
    Input::Value(
        rows_type(DType::Q8, tokens, width),
        Tensor::Q8 { rows, width: width as usize, codes, a, sums },
    )
}

fn random_quantised(random: &mut Random, tokens: Option<u32>, width: u32) -> Input {
    let rows = tokens.unwrap_or(1);
    let codes = (0..rows * width).map(|_| random.next() as i8).collect();
    let a = (0..rows).map(|_| random.unit().abs() * 40.0 + 0.1).collect();
    quantised(tokens, width, codes, a)
}

fn run(op: Op, inputs: Vec<Input>, tokens: Option<u32>) {
    Trial { op, inputs, tokens, position: 0, capacity: 64 }.run();
}

#[test]
fn bitlinear_of_every_shape() {
    let mut random = Random(11);
    for rows in [1, 15, 16, 17, 80] {
        for cols in [1, 15, 17, 64, 80, 112] {
            // One token, and sometimes many.
            let many = TOKENS[random.below(3) as usize];
            let x = random_quantised(&mut random, many, cols);
            let w = ternary(&mut random, rows, cols, |r| r.below(3) as u8);
            run(Op::TernaryMatmul {}, vec![x, w.clone()], many);
            let (x, residual) =
                (random_quantised(&mut random, None, cols), random_act(&mut random, None, rows));
            run(Op::Bitlinear { epilogue: Epilogue::Add }, vec![x, w, residual], None);
        }
    }
}

#[test]
fn bitlinear_of_every_token_count() {
    let mut random = Random(12);
    for tokens in 1..=17 {
        let tokens = Some(tokens);
        let x = random_quantised(&mut random, tokens, 40);
        let w = ternary(&mut random, 50, 40, |r| r.below(3) as u8);
        run(Op::Bitlinear { epilogue: Epilogue::None }, vec![x, w], tokens);
    }
}

#[test]
fn gated_bitlinear() {
    let mut random = Random(13);
    for rows in [32, 64, 96, 160] {
        for cols in [16, 50, 144] {
            for tokens in [None, Some(1), Some(2), Some(5), Some(11)] {
                let x = random_quantised(&mut random, tokens, cols);
                let w = ternary(&mut random, rows, cols, |r| r.below(3) as u8);
                run(Op::Bitlinear { epilogue: Epilogue::Relu2Mul }, vec![x, w], tokens);
            }
        }
    }
}

#[test]
fn bitlinear_at_the_extremes_of_its_integers() {
    // All products of one sign, with the codes that come nearest to the limits of 16-bit pair sums.
    let mut random = Random(14);
    for code in [0, 1, 2] {
        for x in [-128i8, 127] {
            for tokens in [None, Some(3)] {
                let rows = tokens.unwrap_or(1);
                let x = quantised(tokens, 336, vec![x; 336 * rows as usize], vec![1.0; rows as usize]);
                let w = ternary(&mut random, 34, 336, |_| code);
                run(Op::Bitlinear { epilogue: Epilogue::None }, vec![x, w], tokens);
            }
        }
    }
}

#[test]
fn bitlinear_of_special_scales() {
    let mut random = Random(15);
    for a in [f32::NAN, 0.0, f32::INFINITY, 1.27e7] {
        let codes = (0..20).map(|_| random.next() as i8).collect();
        let x = quantised(None, 20, codes, vec![a]);
        let w = ternary(&mut random, 32, 20, |r| r.below(3) as u8);
        let residual = random_act(&mut random, None, 32);
        run(Op::Bitlinear { epilogue: Epilogue::Add }, vec![x.clone(), w.clone(), residual], None);
        run(Op::Bitlinear { epilogue: Epilogue::Relu2Mul }, vec![x, w], None);
    }
}

fn dense(random: &mut Random, dtype: DType, rows: u32, cols: u32) -> Input {
    let n = (rows * cols) as usize;
    let bytes = match dtype {
        DType::F16 => random.f16_bytes(n),
        DType::Bf16 => random.bf16_bytes(n),
        _ => random.f32_bytes(n),
    };
    Input::Param(Type::matrix(dtype, rows, cols), bytes, Vec::new())
}

#[test]
fn matmul_of_every_shape() {
    let mut random = Random(16);
    for rows in [1, 7, 16, 17, 40] {
        for cols in [1, 15, 17, 63, 64, 100] {
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                let tokens = TOKENS[random.below(3) as usize];
                let x = random_act(&mut random, tokens, cols);
                let w = dense(&mut random, dtype, rows, cols);
                run(Op::Matmul {}, vec![x, w], tokens);
            }
        }
    }
}

#[test]
fn matmul_of_every_token_count() {
    let mut random = Random(17);
    for tokens in 1..=9 {
        let x = random_act(&mut random, Some(tokens), 70);
        let w = dense(&mut random, DType::F16, 21, 70);
        run(Op::Matmul {}, vec![x, w], Some(tokens));
    }
}

#[test]
fn matmul_keeps_nan_and_infinity_of_the_activation() {
    for special in [f32::NAN, f32::INFINITY] {
        let mut random = Random(18);
        let mut data = random.numbers(40);
        data[37] = special;
        let w = dense(&mut random, DType::F16, 18, 40);
        run(Op::Matmul {}, vec![act(None, 40, data), w], None);
    }
}
