//! Matrix products: ternary and dense.

use bitnetc_ir::blocks::TERNARY_BLOCK;
use bitnetc_ir::interp::Tensor;
use bitnetc_ir::weights::{TRITS_MAX_COLS, set_ternary_code, ternary_bytes};
use bitnetc_ir::{DType, Dim, Epilogue, Layout, Op, Type};

use super::random::Random;
use super::rows::{TOKENS, act, random_act, rows_type};
use super::trial::{Input, Trial};

/// The layouts that ternary kernels read.
const LAYOUTS: [Layout; 3] = [Layout::Tile16, Layout::Trits16, Layout::Lut16];

/// Those with five codes a byte.
const FIVE_A_BYTE: [Layout; 2] = [Layout::Trits16, Layout::Lut16];

/// Codes that `code` gives, as a parameter in `layout`. Padding holds arbitrary valid codes, because it must not matter,
/// except in the columns of layouts with five codes a byte.
pub(crate) fn ternary(
    random: &mut Random,
    layout: Layout,
    rows: u32,
    cols: u32,
    mut code: impl FnMut(&mut Random) -> u8,
) -> Input {
    let mut bytes = vec![0u8; ternary_bytes(layout, rows, cols).unwrap() as usize];
    let padded = if layout.has_five_a_byte() { cols } else { cols.next_multiple_of(16) };
    for r in 0..rows.next_multiple_of(16) {
        for c in 0..padded {
            let code = if r < rows && c < cols { code(random) } else { random.below(3) as u8 };
            assert!(set_ternary_code(layout, cols, &mut bytes, r, c, code));
        }
    }
    let scales = (0..rows).map(|_| random.number()).collect();
    Input::Param(Type::matrix(DType::Ter, rows, cols).with_layout(layout), bytes, scales)
}

fn quantised(tokens: Option<u32>, width: u32, codes: Vec<i8>, a: Vec<f32>) -> Input {
    let sums = codes.chunks(width as usize).map(|row| row.iter().map(|&c| i32::from(c)).sum()).collect();
    let rows = tokens.unwrap_or(1) as usize;
    Input::Value(
        rows_type(DType::Q8, tokens, width),
        Tensor::Q8 { rows, width: width as usize, codes, a, sums },
    )
}

pub(crate) fn random_quantised(random: &mut Random, tokens: Option<u32>, width: u32) -> Input {
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
    let sizes = [1, 15, 16, 17, 80].map(|rows| [1, 15, 17, 64, 80, 112].map(|cols| (rows, cols)));
    for (rows, cols) in sizes.into_iter().flatten() {
        for layout in LAYOUTS {
            // One token, and sometimes many.
            let many = TOKENS[random.below(3) as usize];
            let x = random_quantised(&mut random, many, cols);
            let w = ternary(&mut random, layout, rows, cols, |r| r.below(3) as u8);
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
    for tokens in 1..=34 {
        let (tokens, layout) = (Some(tokens / 2 + 1), LAYOUTS[tokens as usize % 2]);
        let x = random_quantised(&mut random, tokens, 40);
        let w = ternary(&mut random, layout, 50, 40, |r| r.below(3) as u8);
        run(Op::Bitlinear { epilogue: Epilogue::None }, vec![x, w], tokens);
    }
}

#[test]
fn gated_bitlinear() {
    let mut random = Random(13);
    for rows in [32, 64, 96, 160] {
        for cols in [16, 50, 144] {
            for tokens in [None, Some(1), Some(2), Some(5), Some(11)] {
                for layout in LAYOUTS {
                    let x = random_quantised(&mut random, tokens, cols);
                    let w = ternary(&mut random, layout, rows, cols, |r| r.below(3) as u8);
                    run(Op::Bitlinear { epilogue: Epilogue::Relu2Mul }, vec![x, w], tokens);
                }
            }
        }
    }
}

#[test]
fn bitlinear_of_whole_tiles_of_tokens_and_what_is_left_of_them() {
    let mut random = Random(23);
    for tokens in [8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 47, 64] {
        for (rows, cols) in [(16, 15), (33, 64), (48, 80), (96, 130), (64, 192)] {
            let layout = LAYOUTS[random.below(2) as usize];
            let x = random_quantised(&mut random, Some(tokens), cols);
            let w = ternary(&mut random, layout, rows, cols, |r| r.below(3) as u8);
            let residual = random_act(&mut random, Some(tokens), rows);
            let operands = vec![x.clone(), w.clone(), residual];
            run(Op::Bitlinear { epilogue: Epilogue::Add }, operands, Some(tokens));
            if rows % 32 == 0 {
                run(Op::Bitlinear { epilogue: Epilogue::Relu2Mul }, vec![x, w], Some(tokens));
            }
        }
    }
}

/// The matrix with a scale for each `group` columns of a row.
fn with_groups(random: &mut Random, input: Input, group: u32) -> Input {
    let Input::Param(ty, bytes, scales) = input else { panic!("a matrix") };
    let ty = ty.with_group(group);
    let scales = (0..scales.len() * ty.scale_groups() as usize).map(|_| random.number()).collect();
    Input::Param(ty, bytes, scales)
}

#[test]
fn grouped_scales_of_every_shape() {
    let mut random = Random(21);
    for (cols, group) in [(64, 64), (192, 64), (256, 128), (512, 256), (320, 64), (384, 128)] {
        for (rows, layout) in [1, 17, 48].into_iter().zip(LAYOUTS) {
            for tokens in [None, [Some(1), Some(3), Some(7)][random.below(3) as usize]] {
                let w = ternary(&mut random, layout, rows, cols, |r| r.below(3) as u8);
                let w = with_groups(&mut random, w, group);
                let x = random_quantised(&mut random, tokens, cols);
                run(Op::TernaryMatmul {}, vec![x.clone(), w.clone()], tokens);
                let residual = random_act(&mut random, tokens, rows);
                run(Op::Bitlinear { epilogue: Epilogue::Add }, vec![x, w, residual], tokens);
            }
        }
        for (epilogue, layout) in [(Epilogue::Relu2Mul, Layout::Lut16), (Epilogue::SiluMul, Layout::Tile16)] {
            let w = ternary(&mut random, layout, 96, cols, |r| r.below(3) as u8);
            let w = with_groups(&mut random, w, group);
            for tokens in [None, Some(5)] {
                let x = random_quantised(&mut random, tokens, cols);
                run(Op::Bitlinear { epilogue }, vec![x, w.clone()], tokens);
            }
        }
    }
}

/// Codes with a scale for each block of 128.
fn random_blocks(random: &mut Random, tokens: Option<u32>, width: u32) -> Input {
    let rows = tokens.unwrap_or(1);
    let codes = (0..rows * width).map(|_| random.next() as i8).collect();
    let scales = (0..rows * width.div_ceil(TERNARY_BLOCK)).map(|_| random.unit().abs() * 0.1).collect();
    blocks(tokens, width, codes, scales)
}

fn blocks(tokens: Option<u32>, width: u32, codes: Vec<i8>, scales: Vec<f32>) -> Input {
    let rows = tokens.unwrap_or(1) as usize;
    Input::Value(
        rows_type(DType::Q8b, tokens, width).with_group(TERNARY_BLOCK),
        Tensor::Q8b { rows, width: width as usize, block: TERNARY_BLOCK, codes, scales },
    )
}

/// Columns, and columns of a group (0: one scale for a row), whose steps and vectors end in many ways.
const STEPS: [(u32, u32); 10] = [
    (7, 0),
    (128, 128),
    (150, 0),
    (256, 256),
    (320, 64),
    (384, 128),
    (640, 128),
    (700, 0),
    (1280, 256),
    (1408, 128),
];

#[test]
fn activations_in_blocks_of_every_shape() {
    let mut random = Random(24);
    for (cols, group) in STEPS {
        for layout in LAYOUTS {
            let rows = [3, 16, 33, 64][random.below(4) as usize];
            let tokens = [None, None, Some(1), Some(5)][random.below(4) as usize];
            let w = ternary(&mut random, layout, rows, cols, |r| r.below(3) as u8);
            let w = if group > 0 { with_groups(&mut random, w, group) } else { w };
            let x = random_blocks(&mut random, tokens, cols);
            match rows {
                64 => run(Op::Bitlinear { epilogue: Epilogue::SiluMul }, vec![x, w], tokens),
                33 => {
                    let residual = random_act(&mut random, tokens, rows);
                    run(Op::Bitlinear { epilogue: Epilogue::Add }, vec![x, w, residual], tokens);
                }
                _ => run(Op::TernaryMatmul {}, vec![x, w], tokens),
            }
        }
    }
}

#[test]
fn scaled_steps_of_whole_tiles_of_tokens_and_what_is_left_of_them() {
    let mut random = Random(25);
    for tokens in [15, 16, 33].map(Some) {
        for (i, (cols, group)) in [(150, 0), (256, 128), (320, 64), (512, 256)].into_iter().enumerate() {
            let layout = LAYOUTS[i % 3];
            let rows = [18, 32][i % 2];
            let w = ternary(&mut random, layout, rows, cols, |r| r.below(3) as u8);
            let w = if group > 0 { with_groups(&mut random, w, group) } else { w };
            let residual = random_act(&mut random, tokens, rows);
            let x = random_blocks(&mut random, tokens, cols);
            let add = Op::Bitlinear { epilogue: Epilogue::Add };
            run(add.clone(), vec![x.clone(), w.clone(), residual.clone()], tokens);
            if rows == 32 {
                run(Op::Bitlinear { epilogue: Epilogue::SiluMul }, vec![x, w.clone()], tokens);
            }
            if group > 0 {
                let x = random_quantised(&mut random, tokens, cols);
                run(add, vec![x, w, residual], tokens);
            }
        }
    }
}

#[test]
fn activations_in_blocks_at_the_extremes() {
    let mut random = Random(26);
    for layout in LAYOUTS {
        for (code, x) in [(0, -128i8), (2, -128), (2, 127)] {
            let x = blocks(None, 768, vec![x; 768], vec![1e-2; 6]);
            let w = ternary(&mut random, layout, 18, 768, |_| code);
            let w = with_groups(&mut random, w, 128);
            run(Op::TernaryMatmul {}, vec![x, w], None);
        }
        for special in [f32::NAN, f32::INFINITY, 0.0, 1e-38, 3e38] {
            let codes = (0..300).map(|_| random.next() as i8).collect();
            let x = blocks(None, 300, codes, vec![1.0, special, 0.5]);
            let w = ternary(&mut random, layout, 17, 300, |r| r.below(3) as u8);
            run(Op::TernaryMatmul {}, vec![x, w], None);
        }
    }
}

#[test]
fn activations_that_are_not_quantised() {
    let mut random = Random(27);
    for (cols, group) in STEPS {
        for (rows, layout) in [5, 32, 49].into_iter().zip(LAYOUTS) {
            for tokens in [None, [Some(1), Some(11)][random.below(2) as usize]] {
                let w = ternary(&mut random, layout, rows, cols, |r| r.below(3) as u8);
                let w = if group > 0 { with_groups(&mut random, w, group) } else { w };
                let x = random_act(&mut random, tokens, cols);
                match rows {
                    32 => run(Op::Bitlinear { epilogue: Epilogue::Relu2Mul }, vec![x, w], tokens),
                    _ => {
                        let residual = random_act(&mut random, tokens, rows);
                        run(Op::Bitlinear { epilogue: Epilogue::Add }, vec![x, w, residual], tokens);
                    }
                }
            }
        }
    }
    // Weights of 0 keep what is no number.
    for special in [f32::NAN, f32::INFINITY, -0.0] {
        let mut data = random.numbers(150);
        data[140] = special;
        let w = ternary(&mut random, Layout::Tile16, 17, 150, |r| r.below(3) as u8);
        run(Op::TernaryMatmul {}, vec![act(None, 150, data), w], None);
    }
}

#[test]
fn rows_of_ternary_tables() {
    let mut random = Random(28);
    for (cols, group) in STEPS {
        for (rows, layout) in [3, 32, 50].into_iter().zip(LAYOUTS) {
            for tokens in TOKENS {
                let w = ternary(&mut random, layout, rows, cols, |r| r.below(3) as u8);
                let w = if group > 0 { with_groups(&mut random, w, group) } else { w };
                let ids: Vec<u32> =
                    (0..tokens.unwrap_or(1)).map(|_| random.below(rows.into()) as u32).collect();
                let dim = if tokens.is_some() { Dim::Tokens } else { Dim::N(1) };
                let ids = Input::Value(Type::new(DType::Idx, &[dim]), Tensor::Tokens(ids));
                run(Op::Embed {}, vec![ids, w], tokens);
            }
        }
    }
}

#[test]
fn bitlinear_gated_by_silu() {
    let mut random = Random(22);
    for (tokens, layout) in [None, Some(3)].into_iter().flat_map(|t| LAYOUTS.map(|l| (t, l))) {
        let x = random_quantised(&mut random, tokens, 50);
        let w = ternary(&mut random, layout, 64, 50, |r| r.below(3) as u8);
        run(Op::Bitlinear { epilogue: Epilogue::SiluMul }, vec![x, w], tokens);
    }
}

#[test]
fn bitlinear_at_the_extremes_of_its_integers() {
    // All products of one sign, with the codes that come nearest to the limits of 16-bit pair sums.
    let mut random = Random(14);
    for code in [0, 1, 2] {
        for x in [-128i8, 127] {
            for (tokens, layout) in [None, Some(3)].into_iter().flat_map(|t| LAYOUTS.map(|l| (t, l))) {
                let rows = tokens.unwrap_or(1);
                let x = quantised(tokens, 336, vec![x; 336 * rows as usize], vec![1.0; rows as usize]);
                let w = ternary(&mut random, layout, 34, 336, |_| code);
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
        for layout in LAYOUTS {
            let w = ternary(&mut random, layout, 32, 20, |r| r.below(3) as u8);
            let residual = random_act(&mut random, None, 32);
            run(Op::Bitlinear { epilogue: Epilogue::Add }, vec![x.clone(), w.clone(), residual], None);
            run(Op::Bitlinear { epilogue: Epilogue::Relu2Mul }, vec![x.clone(), w], None);
        }
    }
}

#[test]
fn trits_of_every_remainder() {
    // All lengths of the last group, and of the last block of four groups.
    let mut random = Random(19);
    for cols in (60..=164).step_by(8).chain(80..=100) {
        for (tokens, layout) in [None, Some(2)].into_iter().flat_map(|n| FIVE_A_BYTE.map(|l| (n, l))) {
            let x = random_quantised(&mut random, tokens, cols);
            let w = ternary(&mut random, layout, 20, cols, |r| r.below(3) as u8);
            run(Op::Bitlinear { epilogue: Epilogue::None }, vec![x, w], tokens);
        }
    }
}

#[test]
fn trits_of_every_byte() {
    // Also of bytes that no weights are stored as, but for the one of lut16 that has the code 3.
    let mut random = Random(21);
    for (tokens, layout) in [None, Some(3)].into_iter().flat_map(|n| FIVE_A_BYTE.map(|l| (n, l))) {
        let (rows, cols) = (32, 160);
        let mut bytes: Vec<u8> = (0..ternary_bytes(layout, rows, cols).unwrap()).map(|i| i as u8).collect();
        bytes[512..].fill_with(|| random.next() as u8);
        if layout == Layout::Lut16 {
            bytes.iter_mut().for_each(|byte| *byte = (*byte).min(254));
        }
        let scales = (0..rows).map(|_| random.number()).collect();
        let w = Input::Param(Type::matrix(DType::Ter, rows, cols).with_layout(layout), bytes, scales);
        let x = random_quantised(&mut random, tokens, cols);
        run(Op::Bitlinear { epilogue: Epilogue::None }, vec![x, w], tokens);
    }
}

#[test]
fn trits_of_the_widest_matrix() {
    // 256 times the sum is -2^31 with these activations.
    let mut random = Random(20);
    let cols = TRITS_MAX_COLS;
    for (tokens, x) in [(None, -128i8), (None, 127), (Some(1), -128)] {
        for layout in FIVE_A_BYTE {
            let x = quantised(tokens, cols, vec![x; cols as usize], vec![1.0]);
            let w = ternary(&mut random, layout, 1, cols, |_| 2);
            run(Op::Bitlinear { epilogue: Epilogue::None }, vec![x, w], tokens);
        }
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
