//! Kernels of hybrid models: rotations, gates, and layers with a recurrent state.

use bitnetc_ir::interp::{State, Tensor};
use bitnetc_ir::{DType, Direction, Op, StateDims, Type};

use super::random::Random;
use super::rows::{TOKENS, act, position, random_act, vector};
use super::trial::{Input, Trial};

fn run(op: Op, inputs: Vec<Input>, tokens: Option<u32>) {
    Trial { op, inputs, tokens, position: 0, capacity: 64 }.run();
}

/// A vector of 1 and −1.
fn signs(random: &mut Random, width: u32) -> Input {
    let bytes = (0..width).flat_map(|_| if random.below(2) == 0 { 1.0f32 } else { -1.0 }.to_le_bytes());
    Input::Param(Type::vector(DType::F32, width), bytes.collect(), Vec::new())
}

pub(crate) fn random_state(random: &mut Random, dims: StateDims) -> Input {
    let data = random.numbers(dims.elements().unwrap() as usize);
    Input::Value(Type::state(dims), Tensor::State(State { dims, data }))
}

#[test]
fn hadamard() {
    let mut random = Random(41);
    for (width, block) in [(3, 1), (10, 2), (40, 8), (4, 4), (48, 16), (64, 64), (192, 32), (512, 256)] {
        for tokens in TOKENS {
            for direction in [Direction::Forward, Direction::Inverse] {
                let x = random_act(&mut random, tokens, width);
                let signs = signs(&mut random, width);
                run(Op::Hadamard { block, direction }, vec![x.clone()], tokens);
                run(Op::Hadamard { block, direction }, vec![x, signs], tokens);
            }
        }
    }
}

#[test]
fn heads_in_another_order() {
    let mut random = Random(42);
    for (head, rows, columns) in [(1, 2, 3), (16, 2, 2), (20, 3, 1), (32, 1, 4), (64, 3, 2)] {
        for tokens in TOKENS {
            let x = random_act(&mut random, tokens, head * rows * columns);
            run(Op::TransposeHeads { head, rows }, vec![x], tokens);
        }
    }
}

#[test]
fn lengths_of_heads() {
    let mut random = Random(43);
    for (heads, head) in [(1, 16), (3, 64), (4, 20), (5, 2), (2, 33)] {
        for tokens in TOKENS {
            let x = random_act(&mut random, tokens, heads * head);
            run(Op::L2NormHeads { eps: 1e-6, head, scale: 0.125 }, vec![x], tokens);
        }
    }
}

#[test]
fn gates() {
    let mut random = Random(44);
    for width in [1, 16, 40] {
        for tokens in TOKENS {
            let mut row = || random_act(&mut random, tokens, width);
            let [x, y, z] = [row(), row(), row()];
            let mut vector = || vector(&mut random, width);
            let [bias, rate] = [vector(), vector()];
            run(Op::Sigmoid {}, vec![x], tokens);
            run(Op::AddBias {}, vec![y, bias.clone()], tokens);
            run(Op::SoftplusDecay {}, vec![z, bias, rate], tokens);
        }
    }
    let data = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, -1e-45, 1e-30, 3e38, -87.5, -86.9];
    run(Op::Sigmoid {}, vec![act(None, 10, data.clone())], None);
    let of = |x: f32| {
        let bytes = (0..10).flat_map(|_| x.to_le_bytes()).collect();
        Input::Param(Type::vector(DType::F32, 10), bytes, Vec::new())
    };
    for rate in [-1.0, -0.0, 0.5, f32::NEG_INFINITY, f32::NAN] {
        run(Op::SoftplusDecay {}, vec![act(None, 10, data.clone()), of(0.0), of(rate)], None);
    }
}

#[test]
fn causal_conv() {
    let mut random = Random(45);
    for (channels, taps) in [(16, 2), (48, 4), (80, 3)] {
        for tokens in [None, Some(1), Some(2), Some(7)] {
            for at in [0, 5] {
                let x = random_act(&mut random, tokens, channels);
                let w = random.f32_bytes((taps * channels) as usize);
                let w = Input::Param(Type::matrix(DType::F32, taps, channels), w, Vec::new());
                let state = random_state(&mut random, StateDims { heads: 1, rows: taps - 1, cols: channels });
                let inputs = vec![x, w, state, position(at)];
                Trial { op: Op::CausalConv {}, inputs, tokens, position: at, capacity: 64 }.run();
            }
        }
    }
}

#[test]
fn delta_rule() {
    let mut random = Random(46);
    for (key_heads, heads, d) in [(1, 1, 16), (2, 4, 16), (1, 3, 48), (1, 2, 64)] {
        for tokens in [None, Some(1), Some(3)] {
            for at in [0, 5] {
                let mut row = |width| random_act(&mut random, tokens, width);
                let [q, k, v] = [row(key_heads * d), row(key_heads * d), row(heads * d)];
                let [decay, beta] = [row(heads), row(heads)];
                let state = random_state(&mut random, StateDims { heads, rows: d, cols: d });
                let inputs = vec![q, k, v, decay, beta, state, position(at)];
                Trial { op: Op::DeltaRule {}, inputs, tokens, position: at, capacity: 64 }.run();
            }
        }
    }
}
