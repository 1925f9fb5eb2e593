//! Kernels that work on the rows of single tokens: embedding, norms, quantisation, RoPE, element-by-element functions.

use bitnetc_ir::interp::Tensor;
use bitnetc_ir::{DType, Dim, Op, Pairs, Rows, Type};

use super::random::Random;
use super::trial::{Input, Trial};

/// Around the lane count, around the 64 bytes of a q8 row, and beyond.
pub(crate) const WIDTHS: [u32; 12] = [1, 2, 7, 15, 16, 17, 31, 48, 63, 64, 65, 160];

/// Without a token dimension, and with some.
pub(crate) const TOKENS: [Option<u32>; 3] = [None, Some(1), Some(3)];

pub(crate) fn rows_type(dtype: DType, tokens: Option<u32>, width: u32) -> Type {
    Type::rows(dtype, Rows { per_token: tokens.is_some(), width })
}

pub(crate) fn act(tokens: Option<u32>, width: u32, data: Vec<f32>) -> Input {
    Input::Value(rows_type(DType::F32, tokens, width), Tensor::f32(width as usize, data))
}

pub(crate) fn random_act(random: &mut Random, tokens: Option<u32>, width: u32) -> Input {
    let data = random.numbers((tokens.unwrap_or(1) * width) as usize);
    act(tokens, width, data)
}

pub(crate) fn position(at: u32) -> Input {
    Input::Value(Type::scalar(DType::Idx), Tensor::Position(at))
}

pub(crate) fn vector(random: &mut Random, width: u32) -> Input {
    Input::Param(Type::vector(DType::F32, width), random.f32_bytes(width as usize), Vec::new())
}

fn run(op: Op, inputs: Vec<Input>, tokens: Option<u32>) {
    Trial { op, inputs, tokens, position: 0, capacity: 64 }.run();
}

#[test]
fn elementwise() {
    let mut random = Random(1);
    for width in WIDTHS {
        for tokens in TOKENS {
            let mut two =
                || vec![random_act(&mut random, tokens, width), random_act(&mut random, tokens, width)];
            run(Op::Add {}, two(), tokens);
            run(Op::Mul {}, two(), tokens);
            run(Op::Relu2 {}, vec![random_act(&mut random, tokens, width)], tokens);
            run(Op::Silu {}, vec![random_act(&mut random, tokens, width)], tokens);
        }
    }
}

#[test]
fn activations_of_special_numbers() {
    let data = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, -1e-45, 1e-30, 3e38, -87.5, -86.9];
    for op in [Op::Relu2 {}, Op::Silu {}] {
        run(op, vec![act(None, 10, data.clone())], None);
    }
}

#[test]
fn norms_of_heads() {
    let mut random = Random(24);
    for (heads, head) in [(1, 16), (3, 64), (4, 20), (5, 2), (2, 33)] {
        for tokens in TOKENS {
            let x = random_act(&mut random, tokens, heads * head);
            let w = vector(&mut random, head);
            run(Op::RmsNormHeads { eps: 1e-6, head }, vec![x, w], tokens);
        }
    }
}

#[test]
fn embed() {
    let mut random = Random(2);
    for width in [1, 15, 16, 17, 40] {
        for tokens in TOKENS {
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                let n = 11 * width as usize;
                let bytes = match dtype {
                    DType::F16 => random.f16_bytes(n),
                    DType::Bf16 => random.bf16_bytes(n),
                    _ => random.f32_bytes(n),
                };
                let ids = (0..tokens.unwrap_or(1)).map(|_| random.below(11) as u32).collect();
                let dim = tokens.map_or(Dim::N(1), |_| Dim::Tokens);
                let inputs = vec![
                    Input::Value(Type::new(DType::Idx, &[dim]), Tensor::Tokens(ids)),
                    Input::Param(Type::matrix(dtype, 11, width), bytes, Vec::new()),
                ];
                run(Op::Embed {}, inputs, tokens);
            }
        }
    }
}

#[test]
fn rms_norm_and_quantisation() {
    let mut random = Random(3);
    for width in WIDTHS {
        for tokens in TOKENS {
            let x = random_act(&mut random, tokens, width);
            let w = vector(&mut random, width);
            run(Op::RmsNorm { eps: 1e-5 }, vec![x.clone(), w.clone()], tokens);
            run(Op::RmsNormQuant { eps: 1e-6 }, vec![x.clone(), w], tokens);
            run(Op::QuantAbsmax {}, vec![x], tokens);
        }
    }
}

#[test]
fn norm_and_quantisation_of_special_rows() {
    let rows = [
        vec![0.0; 20],
        vec![-0.0; 20],
        vec![1e-6; 20],
        vec![1e-45; 20],
        vec![3e38; 20],
        (0..20).map(|i| if i == 17 { f32::NAN } else { i as f32 }).collect(),
        (0..20).map(|i| if i == 3 { f32::INFINITY } else { i as f32 }).collect(),
        (0..20).map(|i| if i == 3 { f32::NEG_INFINITY } else { 0.0 }).collect(),
        // Halves, to be rounded to even.
        (0..20).map(|i| (i as f32 - 9.5) * if i == 0 { 127.0 / 9.5 } else { 1.0 }).collect(),
    ];
    let mut random = Random(4);
    let w = vector(&mut random, 20);
    for row in rows {
        let x = act(None, 20, row);
        run(Op::QuantAbsmax {}, vec![x.clone()], None);
        run(Op::RmsNorm { eps: 1e-5 }, vec![x.clone(), w.clone()], None);
        run(Op::RmsNormQuant { eps: 1e-5 }, vec![x, w.clone()], None);
    }
}

#[test]
fn every_code_is_reached() {
    // a = 1: the codes are the numbers, rounded.
    let data = (0..=254).map(|i| i as f32 - 127.0).chain([0.5, 1.5, -0.5, -1.5, 126.5, -126.5]).collect();
    run(Op::QuantAbsmax {}, vec![act(None, 261, data)], None);
}

#[test]
fn rope() {
    let mut random = Random(5);
    for (head, rot) in [(2, 2), (6, 4), (16, 16), (34, 34), (40, 34), (64, 32), (128, 128)] {
        for pairs in [Pairs::Halves, Pairs::Interleaved] {
            for tokens in TOKENS {
                let at = random.below(300) as u32;
                let x = random_act(&mut random, tokens, 3 * head);
                let op = Op::Rope { theta: 500_000.0.into(), head, rot, pairs };
                Trial { op, inputs: vec![x, position(at)], tokens, position: at, capacity: 64 }.run();
            }
        }
    }
}
