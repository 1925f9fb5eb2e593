//! The decoders, bit for bit, against values from other implementations (`tests/data`): `quant_vectors` were made by the
//! quantisers and dequantisers of ggml and its forks, `quant_vectors_gguf_py` by the `gguf` package from random blocks
//! (see `make_quant_vectors.py`), `quant_vectors_prism` by a packer of its own, which gives the bytes of a block that PrismML's
//! fork wrote, and from all bytes in all places of a block.

use std::path::Path;

use bitnetc_frontend_gguf::decode::{FloatFormat, Floats, I2s, I2sLayout, Quantised};
use bitnetc_frontend_gguf::tensor_type::candidates;
use bitnetc_frontend_gguf::{TensorType, Weights};
use serde_json::Value;

fn data(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Compares all vectors of a file and returns how many types there were.
fn check(file: &str) -> usize {
    let index: Value = serde_json::from_slice(&data(&format!("{file}.json"))).unwrap();
    let blob = data(&format!("{file}.bin"));
    let mut checked = 0;
    for entry in index.as_array().or(index["blocks"].as_array()).unwrap() {
        let number = |key: &str| entry[key].as_u64().unwrap() as usize;
        let name = entry["name"].as_str().unwrap();
        let (cols, rows) = (entry["ne"][0].as_u64().unwrap(), entry["ne"][1].as_u64().unwrap());
        let raw = &blob[number("raw_off")..][..number("raw_len")];
        let expected = blob[number("f32_off")..][..4 * number("n")].as_chunks::<4>().0;
        let [ty] = candidates(number("ggml_type") as u32) else { panic!("{name}") };
        assert_eq!(ty.tensor_bytes(cols, rows), Some(raw.len() as u64), "{name}");
        let (rows, cols) = (rows as usize, cols as usize);
        let weights = if let Some(format) = FloatFormat::of(*ty) {
            Floats::new(format, rows, cols, raw).map(Weights::Floats)
        } else if *ty == TensorType::I2S {
            let layout = if name.contains("arm64") { I2sLayout::Blocks64 } else { I2sLayout::Blocks128 };
            I2s::with_layout(rows, cols, raw, layout).map(Weights::Ternary)
        } else if matches!(ty, TensorType::Q2K | TensorType::Q3K) {
            // Not read: models keep neither their embedding nor their head in these.
            continue;
        } else {
            Quantised::new(*ty, rows, cols, raw).map(Weights::Quantised)
        };
        let weights = weights.unwrap_or_else(|| panic!("no decoder for {name}"));
        let mut row_values = vec![0.0; cols];
        for (row, expected) in expected.chunks(cols).enumerate() {
            weights.decode_row(row, &mut row_values);
            for (col, (found, expected)) in row_values.iter().zip(expected).enumerate() {
                let expected = f32::from_le_bytes(*expected);
                // The sign of a zero depends on the order of a subtraction and a product, and never matters.
                let same = found.to_bits() == expected.to_bits() || (*found == 0.0 && expected == 0.0);
                assert!(same, "{name}, row {row}, column {col}: {found}, expected {expected}");
            }
        }
        checked += 1;
    }
    checked
}

#[test]
fn vectors_of_ggml_and_its_forks() {
    assert_eq!(check("quant_vectors"), 18);
}

#[test]
fn vectors_of_prismml() {
    assert_eq!(check("quant_vectors_prism"), 6);
}

#[test]
fn vectors_of_the_gguf_package() {
    assert_eq!(check("quant_vectors_gguf_py"), 12);
}
