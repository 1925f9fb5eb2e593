//! Packed and screened heads: quantisation in blocks, block-quantised products, the choice of rows and what follows.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bitnetc_codegen::pack::pack_param;
use bitnetc_ir::blocks::BLOCK;
use bitnetc_ir::blocks::quantise::QuantisedRow;
use bitnetc_ir::interp::Tensor;
use bitnetc_ir::{
    BlockFormat, ContentHash, DType, Layout, Module, Op, ParamDecl, ParamDef, QuantBlock, Type, WeightBytes,
};

use super::random::Random;
use super::rows::{TOKENS, WIDTHS, act, random_act, rows_type};
use super::trial::{Input, Trial};

fn run(op: Op, inputs: Vec<Input>, tokens: Option<u32>) {
    Trial { op, inputs, tokens, position: 0, capacity: 64 }.run();
}

/// Random codes and finite scales, everywhere, also in the padding, where they must not matter.
fn blocks(random: &mut Random, format: BlockFormat, rows: u32, cols: u32) -> Input {
    let n = format.bytes(rows, cols).unwrap();
    let mut bytes: Vec<u8> = (0..n).map(|_| random.next() as u8).collect();
    if format != BlockFormat::W6 {
        for r in 0..rows.next_multiple_of(16) {
            for c in (0..cols.next_multiple_of(64)).step_by(32) {
                let at = format.scale_position(cols, r, c) as usize;
                bytes[at..at + 2].copy_from_slice(&random.f16_bytes(1));
            }
        }
    }
    let factors = (0..rows).map(|_| random.number()).collect();
    Input::Param(Type::matrix(format.dtype(), rows, cols).with_layout(Layout::Tile16), bytes, factors)
}

fn quantised(tokens: Option<u32>, width: u32, codes: Vec<i8>, scales: Vec<f32>) -> Input {
    let rows = tokens.unwrap_or(1) as usize;
    Input::Value(
        rows_type(DType::Q8b, tokens, width),
        Tensor::Q8b { rows, width: width as usize, block: BLOCK, codes, scales },
    )
}

fn random_quantised(random: &mut Random, tokens: Option<u32>, width: u32) -> Input {
    let rows = tokens.unwrap_or(1);
    let codes = (0..rows * width).map(|_| random.next() as i8).collect();
    let scales = (0..rows * width.div_ceil(32)).map(|_| random.number()).collect();
    quantised(tokens, width, codes, scales)
}

#[test]
fn quant_blocks() {
    let mut random = Random(31);
    for op in [QuantBlock::Cols32, QuantBlock::Cols128].map(|block| Op::QuantBlocks { block }) {
        for width in WIDTHS.into_iter().chain([32, 33, 47, 96, 127, 128, 129, 193, 256, 300]) {
            for tokens in TOKENS {
                run(op.clone(), vec![random_act(&mut random, tokens, width)], tokens);
            }
        }
        // Rows of zeros, of what is not finite, of the smallest and the greatest numbers, and ties.
        for special in [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-45, 3e-39, f32::MAX] {
            let mut data = vec![1e-3f32; 170];
            data[..32].fill(special);
            data[50] = special;
            data[160] = special;
            run(op.clone(), vec![act(None, 170, data)], None);
        }
        let data = (0..64).map(|i| (i as f32 - 31.5) * 2.0).chain([127.0; 6]).collect();
        run(op, vec![act(None, 70, data)], None);
    }
}

#[test]
fn block_matmul_of_every_shape() {
    let mut random = Random(32);
    for &format in BlockFormat::ALL {
        for rows in [1, 15, 16, 17, 80] {
            for cols in [1, 17, 32, 50, 64, 96, 130] {
                let tokens = TOKENS[random.below(3) as usize];
                let x = random_quantised(&mut random, tokens, cols);
                let w = blocks(&mut random, format, rows, cols);
                run(Op::BlockMatmul {}, vec![x, w], tokens);
            }
        }
    }
}

#[test]
fn block_matmul_of_every_token_count() {
    let mut random = Random(33);
    for &format in BlockFormat::ALL {
        for tokens in 1..=9 {
            let x = random_quantised(&mut random, Some(tokens), 72);
            let w = blocks(&mut random, format, 35, 72);
            run(Op::BlockMatmul {}, vec![x, w], Some(tokens));
        }
    }
}

#[test]
fn block_matmul_of_whole_tiles_of_tokens() {
    let mut random = Random(37);
    for &format in BlockFormat::ALL {
        for (tokens, rows, cols) in
            [(16, 33, 64), (17, 16, 96), (33, 20, 30), (24, 48, 200), (32, 33, 96), (51, 16, 200)]
        {
            let x = random_quantised(&mut random, Some(tokens), cols);
            let w = blocks(&mut random, format, rows, cols);
            run(Op::BlockMatmul {}, vec![x, w], Some(tokens));
        }
    }
}

#[test]
fn block_matmul_at_the_extremes_of_its_integers() {
    for &format in BlockFormat::ALL {
        for (stored, code) in [(0u8, -128i8), (0xff, -128), (0, 127), (0xff, 127)] {
            let mut random = Random(34);
            let Input::Param(ty, mut bytes, factors) = blocks(&mut random, format, 16, 128) else { continue };
            let scales: std::collections::HashSet<u64> = (0..16)
                .flat_map(|r| (0..128).step_by(16).map(move |c| (r, c)))
                .flat_map(|(r, c)| [0, 1].map(|i| format.scale_position(128, r, c) + i))
                .collect();
            for (at, byte) in (0u64..).zip(&mut bytes) {
                match (format, scales.contains(&at)) {
                    (BlockFormat::W6, true) => *byte = 0x80,
                    (_, true) => {}
                    (_, false) => *byte = stored,
                }
            }
            for tokens in [None, Some(16)] {
                let rows = tokens.unwrap_or(1) as usize;
                let x = quantised(tokens, 128, vec![code; 128 * rows], vec![0.75; 4 * rows]);
                let w = Input::Param(ty.clone(), bytes.clone(), factors.clone());
                run(Op::BlockMatmul {}, vec![x, w], tokens);
            }
        }
    }
}

#[test]
fn block_matmul_passes_nan_and_infinity_on() {
    let mut random = Random(35);
    for &format in BlockFormat::ALL {
        for special in [f32::NAN, f32::INFINITY, 0.0] {
            let codes = (0..96).map(|_| random.next() as i8).collect();
            let x = quantised(None, 96, codes, vec![1.0, special, 0.5]);
            let w = blocks(&mut random, format, 18, 96);
            run(Op::BlockMatmul {}, vec![x, w], None);
        }
    }
}

#[test]
fn packing_puts_every_code_and_scale_in_its_place() {
    let mut random = Random(36);
    for &format in BlockFormat::ALL {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            for (rows, cols) in [(1, 1), (16, 64), (33, 50), (47, 160)] {
                let n = (rows * cols) as usize;
                let (bytes, numbers): (Vec<u8>, Vec<f32>) = match dtype {
                    DType::F16 => {
                        let bytes = random.f16_bytes(n);
                        let numbers =
                            bytes.chunks(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32());
                        (bytes.clone(), numbers.collect())
                    }
                    DType::Bf16 => {
                        let bytes = random.bf16_bytes(n);
                        let numbers =
                            bytes.chunks(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32());
                        (bytes.clone(), numbers.collect())
                    }
                    _ => {
                        let bytes = random.f32_bytes(n);
                        let numbers = bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b));
                        (bytes.clone(), numbers.collect())
                    }
                };
                let mut module = Module::new();
                let def = ParamDef::File { tensor: "t".to_owned(), hash: ContentHash([0; 16]) };
                let table = module.add_param(ParamDecl {
                    name: "t".to_owned(),
                    ty: Type::matrix(dtype, rows, cols),
                    def,
                });
                let ty = Type::matrix(format.dtype(), rows, cols);
                let logical = module.add_param(ParamDecl {
                    name: "q".to_owned(),
                    ty: ty.clone(),
                    def: ParamDef::Quantise(table),
                });
                let packed = module.add_param(ParamDecl {
                    name: "p".to_owned(),
                    ty: ty.with_layout(Layout::Tile16),
                    def: ParamDef::Relayout(logical),
                });
                let weight = WeightBytes { bytes: Cow::Owned(bytes), scales: Cow::Owned(Vec::new()) };
                let source = BTreeMap::from([("t".to_owned(), weight)]);
                let found = pack_param(&module, packed, &source).unwrap();
                assert!(pack_param(&module, logical, &source).is_err());
                assert_eq!(found.scales.len(), rows.next_multiple_of(16) as usize);
                let mut expected = QuantisedRow::default();
                let mut written = vec![0u8; found.bytes.len()];
                for (r, row) in (0..rows).zip(numbers.chunks(cols as usize)) {
                    expected.quantise(format, row);
                    assert_eq!(found.scales[r as usize].to_bits(), expected.factor.to_bits());
                    for c in 0..cols.next_multiple_of(32) {
                        let code = format.code(&found.bytes, cols, r, c);
                        assert_eq!(
                            code,
                            Some(i32::from(expected.codes[c as usize])),
                            "{format:?} ({r}, {c})"
                        );
                        for piece in format.code_pieces(cols, r, c) {
                            written[piece.byte as usize] |= (0xff >> (8 - piece.bits)) << piece.shift;
                        }
                        let at = format.scale_position(cols, r, c) as usize;
                        if format == BlockFormat::W6 {
                            let step = expected.steps[c as usize / 16];
                            assert_eq!(found.bytes[at] as i8, step, "{format:?} ({r}, {c})");
                            written[at] = 0xff;
                        } else {
                            let half = expected.halves[c as usize / 32].to_le_bytes();
                            assert_eq!(found.bytes[at..at + 2], half, "{format:?} ({r}, {c})");
                            written[at..at + 2].fill(0xff);
                        }
                    }
                }
                for (at, (&byte, &mask)) in found.bytes.iter().zip(&written).enumerate() {
                    assert_eq!(byte & !mask, 0, "{format:?}: padding at {at}");
                }
            }
        }
    }
}

#[test]
fn screen_of_every_width() {
    let mut random = Random(37);
    for width in [1, 2, 15, 16, 17, 63, 64, 65, 128, 130, 700, 1024] {
        for n in [1, 2, 3, 16, width / 2, width - 1, width] {
            if (1..=width).contains(&n) {
                let tokens = TOKENS[random.below(3) as usize];
                run(Op::Screen { n }, vec![random_act(&mut random, tokens, width)], tokens);
            }
        }
    }
}

#[test]
fn screen_of_equal_and_special_numbers() {
    let mut random = Random(38);
    let specials = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0, -1.0, 1e-45, -f32::MAX];
    for n in [1, 5, 64, 199, 200] {
        for value in [0.5, f32::NEG_INFINITY, f32::NAN] {
            run(Op::Screen { n }, vec![act(None, 200, vec![value; 200])], None);
        }
        for kinds in [2, 4, 9] {
            let data = (0..200).map(|_| specials[random.below(kinds) as usize]).collect();
            run(Op::Screen { n }, vec![act(None, 200, data)], None);
        }
    }
}

/// Row numbers, each from 0 to below `rows`, rising where there are enough.
fn numbers(random: &mut Random, tokens: Option<u32>, n: u32, rows: u32) -> Input {
    let count = tokens.unwrap_or(1);
    let mut data: Vec<i32> = Vec::new();
    for _ in 0..count {
        let mut row: Vec<i32> = (0..rows as i32).collect();
        for i in 0..row.len() {
            let other = random.below(rows.into()) as usize;
            row.swap(i, other);
        }
        row.truncate(n as usize);
        row.sort_unstable();
        data.extend(row);
    }
    Input::Value(
        rows_type(DType::I32, tokens, n),
        Tensor::I32 { rows: count as usize, width: n as usize, data },
    )
}

#[test]
fn matmul_rows_and_merge_screened() {
    let mut random = Random(39);
    for (rows, n) in [(1, 1), (17, 5), (64, 16), (70, 33), (300, 40)] {
        for dtype in [DType::F16, DType::Bf16, DType::F32] {
            let tokens = TOKENS[random.below(3) as usize];
            for cols in [1, 16, 50, 96] {
                let size = (rows * cols) as usize;
                let bytes = match dtype {
                    DType::F16 => random.f16_bytes(size),
                    DType::Bf16 => random.bf16_bytes(size),
                    _ => random.f32_bytes(size),
                };
                let w = Input::Param(Type::matrix(dtype, rows, cols), bytes, Vec::new());
                let chosen = numbers(&mut random, tokens, n, rows);
                run(Op::MatmulRows {}, vec![random_act(&mut random, tokens, cols), chosen, w], tokens);
            }
            let chosen = numbers(&mut random, tokens, n, rows);
            let (y, exact) = (random_act(&mut random, tokens, rows), random_act(&mut random, tokens, n));
            run(Op::MergeScreened {}, vec![y, chosen, exact], tokens);
        }
    }
}

#[test]
fn merge_screened_of_long_rows_and_special_numbers() {
    let mut random = Random(40);
    for width in [4096, 4097, 9000] {
        let y = random_act(&mut random, None, width);
        let chosen = numbers(&mut random, None, 100, width);
        let exact = random_act(&mut random, None, 100);
        run(Op::MergeScreened {}, vec![y, chosen, exact], None);
    }
    for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0] {
        let mut y = random.numbers(50);
        y[3] = special;
        for exact in [vec![special; 4], vec![1.0, special, -2.0, 0.0], vec![0.0, 5.0, 5.0, 0.0]] {
            let chosen = numbers(&mut random, None, 4, 50);
            run(Op::MergeScreened {}, vec![act(None, 50, y.clone()), chosen, act(None, 4, exact)], None);
        }
    }
}

#[test]
fn row_numbers_beyond_the_matrix_stay_in_it() {
    let mut random = Random(41);
    let beyond = |data: Vec<i32>| {
        let width = data.len();
        Input::Value(rows_type(DType::I32, None, width as u32), Tensor::I32 { rows: 1, width, data })
    };
    let wild = vec![i32::MIN, -1, 0, 7, 8, 1000, i32::MAX];
    let w = Input::Param(Type::matrix(DType::F16, 8, 20), random.f16_bytes(160), Vec::new());
    run(Op::MatmulRows {}, vec![random_act(&mut random, None, 20), beyond(wild.clone()), w], None);
    let (y, exact) = (random_act(&mut random, None, 8), random_act(&mut random, None, 7));
    run(Op::MergeScreened {}, vec![y, beyond(wild), exact], None);
}
