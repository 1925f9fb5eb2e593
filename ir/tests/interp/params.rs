//! Parameters: layouts, derived parameters, and what is refused.

use bitnetc_ir::interp::{InterpError, Interpreter, ParamRule, Tensor, Ternary};
use bitnetc_ir::{DType, Entity, Layout, ParamDef, ParamId};

use crate::fixture::{Fixture, Random, act, pack, tokens};

fn ternary(m: &Fixture, id: ParamId) -> Result<Ternary, InterpError> {
    Interpreter::new(&m.module, &m.weights).ternary(id).cloned()
}

#[test]
fn i2s128_holds_four_groups_of_32_from_the_high_bits_down() {
    let mut m = Fixture::new();
    let w = m.ternary("w", Layout::I2s128, (2, 128), &[0; 256], &[0.5]);
    let mut bytes = vec![0b01_01_01_01u8; 64];
    bytes[0] = 0b00_01_10_01; // Elements 0, 32, 64 and 96.
    bytes[33] = 0b01_01_01_10; // Elements 129, 161, 193 and 225.
    m.store("w", bytes, &[0.5]);
    let w = ternary(&m, w).expect("valid");
    let set: Vec<(usize, i8)> = w.codes.iter().copied().enumerate().filter(|(_, c)| *c != 0).collect();
    assert_eq!(set, [(0, -1), (64, 1), (225, 1)]);
    assert_eq!((w.rows, w.cols, w.scales), (2, 128, vec![0.5, 0.5]));
}

#[test]
fn tile16_holds_a_row_in_a_lane_and_four_columns_in_a_field() {
    let mut m = Fixture::new();
    let w = m.ternary("w", Layout::Tile16, (17, 17), &[0; 289], &[1.0; 17]);
    // Two tiles of two groups. Byte 4·(r%16) + c%4, field (c%16)/4.
    let mut bytes = vec![0b01_01_01_01u8; 256];
    bytes[4 * 3 + 2] = 0b01_10_01_00; // Row 3: field 0 is column 2, field 2 is column 10.
    bytes[64] = 0b01_01_01_10; // Row 0, column 16.
    bytes[128 + 1] = 0b00_01_01_01; // Row 16, column 13.
    bytes[192 + 63] = 0b11_11_11_11; // No element is there.
    m.store("w", bytes, &[1.0; 17]);
    let w = ternary(&m, w).expect("valid");
    let set: Vec<(usize, usize, i8)> =
        w.codes.iter().enumerate().filter(|(_, c)| **c != 0).map(|(i, &c)| (i / 17, i % 17, c)).collect();
    assert_eq!(set, [(0, 16, 1), (3, 2, -1), (3, 10, 1), (16, 13, -1)]);
}

#[test]
fn trits16_holds_a_row_in_a_lane_and_five_columns_in_a_byte() {
    let mut m = Fixture::new();
    let w = m.ternary("w", Layout::Trits16, (17, 21), &[0; 357], &[1.0; 17]);
    // Two tiles of two groups. Byte 4·(r%16) + c%4 is ⌈256·v/243⌉, the digits of v from the highest are (c%20)/4.
    let byte = |digits: [u32; 5]| digits.iter().fold(0, |v, d| 3 * v + d) * 256;
    let byte = |digits: [u32; 5]| byte(digits).div_ceil(243) as u8;
    let mut bytes = vec![byte([1; 5]); 256];
    bytes[4 * 3 + 2] = byte([0, 1, 2, 1, 1]); // Row 3, columns 2 and 10.
    bytes[64] = byte([2, 0, 0, 2, 2]); // Row 0, column 20; nothing else is there.
    bytes[128 + 1] = byte([1, 1, 1, 1, 0]); // Row 16, column 17.
    bytes[192 + 63] = 255; // No element is there.
    m.store("w", bytes.clone(), &[1.0; 17]);
    let w = ternary(&m, w).expect("valid");
    let set: Vec<(usize, usize, i8)> =
        w.codes.iter().enumerate().filter(|(_, c)| **c != 0).map(|(i, &c)| (i / 21, i % 21, c)).collect();
    assert_eq!(set, [(0, 20, 1), (3, 2, -1), (3, 10, 1), (16, 17, -1)]);
    // The other bytes that hold the same digits mean the same.
    let id = ParamId::from_index(0);
    let spare = (0..=255u8).find(|&b| !(0..243u32).any(|v| (256 * v).div_ceil(243) == u32::from(b)));
    let spare = spare.expect("256 bytes for 243 numbers");
    bytes[4 * 5] = spare;
    m.store("w", bytes.clone(), &[1.0; 17]);
    let found = ternary(&m, id).expect("every byte is valid");
    bytes[4 * 5] = spare - 1;
    m.store("w", bytes, &[1.0; 17]);
    assert_eq!(ternary(&m, id), Ok(found));
}

#[test]
fn all_layouts_of_a_matrix_are_the_same_matrix() {
    let (rows, cols) = (40u32, 256u32);
    let mut random = Random(41);
    let codes = random.ternary(rows * cols);
    let mut m = Fixture::new();
    let file = m.ternary("file", Layout::I2s128, (rows, cols), &codes, &[0.25]);
    let tiles = m.ternary("tiles", Layout::Tile16, (rows, cols), &codes, &[0.25; 40]);
    let trits = m.ternary("trits", Layout::Trits16, (rows, cols), &codes, &[0.25; 40]);
    let lut = m.ternary("lut", Layout::Lut16, (rows, cols), &codes, &[0.25; 40]);
    let from_lut = m.derived("from_lut", Layout::Trits16, (rows, cols), ParamDef::Relayout(lut));
    let to_lut = m.derived("to_lut", Layout::Lut16, (rows, cols), ParamDef::Relayout(file));
    let woven = m.derived("woven", Layout::Trits16, (rows, cols), ParamDef::Relayout(tiles));
    let plain = m.derived("plain", Layout::Rows, (rows, cols), ParamDef::Relayout(file));
    let again = m.derived("again", Layout::Tile16, (rows, cols), ParamDef::Relayout(plain));
    let expected = Ternary { rows, cols, codes, group: 0, scales: vec![0.25; 40] };
    for id in [file, tiles, trits, lut, from_lut, to_lut, woven, plain, again] {
        assert_eq!(ternary(&m, id).as_ref(), Ok(&expected));
    }
    let f = m.func(|b| {
        let x = b.input("x", act(cols));
        let q = b.quant_absmax(x)?;
        [file, tiles, trits, woven, plain, again].map(|w| b.ternary_matmul(q, w)).into_iter().collect()
    });
    let out = m.run(f, vec![Tensor::f32(256, random.f32s(512, 1.0))]);
    assert!(out.iter().all(|y| *y == out[0]));
}

#[test]
fn concat_and_interleave_keep_the_scales_with_their_rows() {
    let mut m = Fixture::new();
    let mut random = Random(42);
    let (a, b) = (random.ternary(32 * 3), random.ternary(32 * 3));
    let scales = |from: u32| -> Vec<f32> { (from..from + 32).map(|s| s as f32).collect() };
    let pa = m.ternary("a", Layout::Tile16, (32, 3), &a, &scales(0));
    let pb = m.ternary("b", Layout::Tile16, (32, 3), &b, &scales(100));
    let concat = m.derived("c", Layout::Rows, (64, 3), ParamDef::Concat(vec![pa, pb]));
    let woven = m.derived("i", Layout::Rows, (64, 3), ParamDef::Interleave16(pa, pb));
    let concat = ternary(&m, concat).expect("valid");
    assert_eq!(concat.codes, [&a[..], &b].concat());
    assert_eq!(concat.scales, [scales(0), scales(100)].concat());
    let woven = ternary(&m, woven).expect("valid");
    assert_eq!(woven.codes, [&a[..48], &b[..48], &a[48..], &b[48..]].concat());
    assert_eq!(woven.scales[14..18], [14.0, 15.0, 100.0, 101.0]);
    assert_eq!(woven.scales[31..33], [115.0, 16.0]);
}

#[test]
fn packed_bytes_come_before_the_definition() {
    let mut m = Fixture::new();
    let a = m.ternary("a", Layout::Tile16, (1, 2), &[1, 1], &[1.0]);
    let b = m.derived("b", Layout::Tile16, (1, 2), ParamDef::Relayout(a));
    assert_eq!(ternary(&m, b).expect("made of a").codes, [1, 1]);
    m.store("b", pack(Layout::Tile16, 1, 2, &[-1, 0]), &[2.0]);
    m.weights.remove("a");
    let w = ternary(&m, b).expect("its own bytes suffice");
    assert_eq!((w.codes, w.scales), (vec![-1, 0], vec![2.0]));
}

#[test]
fn wrong_bytes_are_named() {
    let mut m = Fixture::new();
    let w = m.ternary("w", Layout::Tile16, (2, 17), &[0; 34], &[1.0; 2]);
    let ty = "ter[2x17]@tile16".to_owned();
    let good = pack(Layout::Tile16, 2, 17, &[0; 34]);

    m.store("w", good[1..].to_vec(), &[1.0; 2]);
    let error = InterpError::WeightLength { param: "w".into(), ty: ty.clone(), expected: 128, got: 127 };
    assert_eq!(ternary(&m, w), Err(error));

    m.store("w", good.clone(), &[1.0]);
    assert_eq!(ternary(&m, w), Err(InterpError::ScaleCount { param: "w".into(), ty, expected: 2, got: 1 }));

    let mut bad = good;
    bad[64 + 4] |= 3; // Row 1, column 16.
    m.store("w", bad, &[1.0; 2]);
    assert_eq!(ternary(&m, w), Err(InterpError::TernaryCode { param: "w".into(), row: 1, col: 16 }));

    m.weights.remove("w");
    assert_eq!(ternary(&m, w), Err(InterpError::WeightMissing { param: "w".into() }));

    // The byte of lut16 that holds no weights.
    let w = m.ternary("lut", Layout::Lut16, (2, 21), &[0; 42], &[1.0; 2]);
    let mut bad = vec![0; 128];
    bad[5] = 255; // Row 1, columns 1, 5, 9, 13 and 17.
    m.store("lut", bad, &[1.0; 2]);
    assert_eq!(ternary(&m, w), Err(InterpError::TernaryCode { param: "lut".into(), row: 1, col: 17 }));

    let w = m.ternary("t", Layout::Trits16, (2, 21), &[0; 42], &[1.0; 2]);
    m.store("t", vec![0; 64], &[1.0; 2]);
    let ty = "ter[2x21]@trits16".to_owned();
    let error = InterpError::WeightLength { param: "t".into(), ty, expected: 128, got: 64 };
    assert_eq!(ternary(&m, w), Err(error));
}

#[test]
fn wrong_lengths_of_dense_parameters_are_named() {
    let mut m = Fixture::new();
    let w = m.vector("w", &[1.0, 2.0]);
    let table = m.dense("table", DType::F16, 3, 2, vec![0; 12]);
    let f = m.func(|b| {
        let ids = b.input("tok", tokens());
        let x = b.embed(ids, table)?;
        Ok(vec![b.rms_norm(x, w, 1e-5)?])
    });
    assert!(m.try_run(f, vec![Tensor::Tokens(vec![2])]).is_ok());
    m.store("w", vec![0; 12], &[]);
    let error = InterpError::WeightLength { param: "w".into(), ty: "f32[2]".into(), expected: 8, got: 12 };
    assert_eq!(m.try_run(f, vec![Tensor::Tokens(vec![2])]), Err(error));
    m.weights.remove("table");
    let error = InterpError::WeightMissing { param: "table".into() };
    assert_eq!(m.try_run(f, vec![Tensor::Tokens(vec![2])]), Err(error));
}

#[test]
fn definitions_that_break_the_rules_are_errors() {
    let mut m = Fixture::new();
    let a = m.ternary("a", Layout::Tile16, (16, 2), &[0; 32], &[1.0; 16]);
    let b = m.ternary("b", Layout::Tile16, (8, 2), &[0; 16], &[1.0; 8]);
    let norm = m.vector("norm", &[1.0]);
    let cases = [
        (ParamDef::Concat(vec![a, a, a]), ParamRule::Sizes),
        (ParamDef::Concat(vec![a]), ParamRule::Sizes),
        (ParamDef::Relayout(b), ParamRule::Sizes),
        (ParamDef::Interleave16(a, b), ParamRule::Interleave),
        (ParamDef::Interleave16(b, b), ParamRule::Interleave),
        (ParamDef::Concat(vec![norm]), ParamRule::Type),
    ];
    for (i, (def, rule)) in cases.into_iter().enumerate() {
        let name = format!("case{i}");
        let id = m.derived(&name, Layout::Rows, (32, 2), def);
        match ternary(&m, id) {
            Err(InterpError::ParamRule { rule: got, .. }) => assert_eq!(got, rule, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    // A parameter made of itself.
    let id = ParamId::from_index(m.module.params().len());
    m.derived("loop", Layout::Rows, (16, 2), ParamDef::Relayout(id));
    let error = InterpError::ParamRule { param: "loop".into(), rule: ParamRule::Order };
    assert_eq!(ternary(&m, id), Err(error));
    // A file parameter without a layout that has bytes.
    let id = m.ternary_without_bytes("bare", (16, 2));
    let error = InterpError::ParamRule { param: "bare".into(), rule: ParamRule::Layout };
    assert_eq!(ternary(&m, id), Err(error));
    // A chain of 100000 parameters must not exhaust the stack.
    let mut last = a;
    for i in 0..100_000 {
        let next = m.derived(&format!("chain{i}"), Layout::Rows, (16, 2), ParamDef::Relayout(last));
        if i == 2 {
            assert!(ternary(&m, next).is_ok());
        }
        last = next;
    }
    assert!(matches!(ternary(&m, last), Err(InterpError::ParamRule { rule: ParamRule::Chain, .. })));
}
