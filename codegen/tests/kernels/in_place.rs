//! Whatever the op table lets a kernel write over an operand is written over it in a trial: a row that allows another
//! operand fails here until there is a trial that shows that the kernel bears it.

use std::collections::BTreeSet;

use bitnetc_ir::{ALL_OPS, CacheDims, DType, Direction, Epilogue, Layout, Op, Pairs, StateDims, Type};

use super::attention::caches;
use super::linear::{random_quantised, ternary};
use super::random::Random;
use super::recurrent::random_state;
use super::rows::{TOKENS, position, random_act, vector};
use super::trial::{Input, Trial};

/// Columns of a row: two vectors and a part of one.
const WIDTH: u32 = 40;

/// One trial of each op with a result that may lie in the bytes of an operand, apart from caches.
fn trials(random: &mut Random, tokens: Option<u32>) -> Vec<(Op, Vec<Input>)> {
    let mut row = || random_act(random, tokens, WIDTH);
    let mut all = vec![
        (Op::Add {}, vec![row(), row()]),
        (Op::Mul {}, vec![row(), row()]),
        (Op::Relu2 {}, vec![row()]),
        (Op::Silu {}, vec![row()]),
        (Op::Sigmoid {}, vec![row()]),
        (Op::Hadamard { block: 8, direction: Direction::Forward }, vec![row()]),
    ];
    let [bias, rate] = [vector(random, WIDTH), vector(random, WIDTH)];
    all.push((Op::AddBias {}, vec![random_act(random, tokens, WIDTH), bias.clone()]));
    all.push((Op::SoftplusDecay {}, vec![random_act(random, tokens, WIDTH), bias, rate]));
    all.extend(recurrent(random, tokens));
    let mut row = || random_act(random, tokens, WIDTH);
    for pairs in [Pairs::Halves, Pairs::Interleaved] {
        let theta = 10_000.0.into();
        let rope = Op::Rope { theta, head: WIDTH / 2, rot: WIDTH / 2 - 2, pairs };
        all.push((rope, vec![row(), position(AT)]));
    }
    let [q, k, v, residual] = [row(), row(), row(), row()];
    let dims = CacheDims { kv_heads: 2, head_dim: WIDTH / 2 };
    let [kc, vc] = caches(random, dims, CAPACITY, DType::F16);
    let append =
        Op::RopeKvAppend { theta: 10_000.0.into(), head: WIDTH / 2, rot: WIDTH / 2, pairs: Pairs::Halves };
    all.push((append, vec![q, k, v, kc, vc, position(AT)]));
    let x = random_quantised(random, tokens, 48);
    let w = ternary(random, Layout::Tile16, WIDTH, 48, |r| r.below(3) as u8);
    all.push((Op::Bitlinear { epilogue: Epilogue::Add }, vec![x, w, residual]));
    all
}

/// The layers with a recurrent state.
fn recurrent(random: &mut Random, tokens: Option<u32>) -> Vec<(Op, Vec<Input>)> {
    let mut row = |width| random_act(random, tokens, width);
    let [x, q, k, v] = [row(32), row(16), row(16), row(32)];
    let [decay, beta] = [row(2), row(2)];
    let w = random.f32_bytes(4 * 32);
    let w = Input::Param(Type::matrix(DType::F32, 4, 32), w, Vec::new());
    let conv = random_state(random, StateDims { heads: 1, rows: 3, cols: 32 });
    let delta = random_state(random, StateDims { heads: 2, rows: 16, cols: 16 });
    vec![
        (Op::CausalConv {}, vec![x, w, conv, position(AT)]),
        (Op::DeltaRule {}, vec![q, k, v, decay, beta, delta, position(AT)]),
    ]
}

/// Where the first token stands, and positions in the caches.
const AT: u32 = 9;
const CAPACITY: u32 = 64;

#[test]
fn every_operand_that_may_be_written_over_is() {
    let mut allowed = BTreeSet::new();
    for info in ALL_OPS {
        let updated = |result| info.updated(result).is_some();
        let pairs = info.in_place.iter().filter(|over| !updated(over.result));
        allowed.extend(pairs.map(|over| (info.mnemonic, over.result, over.operand)));
    }
    for tokens in TOKENS {
        let mut shown = BTreeSet::new();
        for (op, inputs) in trials(&mut Random(31), tokens) {
            let mnemonic = op.info().mnemonic;
            let done = Trial { op, inputs, tokens, position: AT, capacity: CAPACITY }.run();
            shown.extend(done.into_iter().map(|over| (mnemonic, over.result, over.operand)));
        }
        let missing: Vec<_> = allowed.difference(&shown).collect();
        assert!(
            missing.is_empty(),
            "no trial shows that kernels bear these (op, result, operand): {missing:?}"
        );
    }
}
