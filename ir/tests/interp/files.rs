//! Every `.bir` file under `tests/filetests/run`: modules with weights, calls and the results that they must give, by bits.
//!
//! In the comments of a file, in any place: `; param @NAME: elements` (row by row; for ternary ones `/ scales` after),
//! then calls, each `; call @FUNC` with one `; in VALUE` for each input and one `; out VALUE` for each output. A value is
//! `f32 1 2 | 3 4` (rows), `q8 2.0: 1 -2 | …` (factor: codes), `q8b 2 4: 1 -2 … | …` (scales: codes), `tok 1 2`, `pos 5`,
//! `cache 64: 1 2 | 3 4` (capacity: the rows of the first positions, heads one after the other; zeros after), or `state 1 2 | 3 4`
//! (rows, head after head). `x*n` is x, n times.

use std::path::PathBuf;
use std::str::FromStr;

use bitnetc_ir::interp::{Cache, CacheData, Interpreter, State, Tensor, scalar};
use bitnetc_ir::{DType, Layout, Module, Type, text, verify};

use crate::fixture::{Fixture, f32_bytes, pack};

fn numbers<T: FromStr + Copy>(text: &str) -> Vec<T> {
    let number = |t: &str| t.parse().unwrap_or_else(|_| panic!("`{t}` is no number of this kind"));
    let run = |t: &str| match t.split_once('*') {
        Some((value, n)) => vec![number(value); n.parse().unwrap_or_else(|_| panic!("`{t}`: no count"))],
        None => vec![number(t)],
    };
    text.split_whitespace().flat_map(run).collect()
}

fn value(text: &str, ty: &Type) -> Tensor {
    let (kind, rest) = text.split_once(' ').unwrap_or_else(|| panic!("`{text}` is no value"));
    match kind {
        "f32" => {
            let rows: Vec<Vec<f32>> = rest.split('|').map(numbers).collect();
            assert!(rows.iter().all(|r| r.len() == rows[0].len()), "rows of one width: `{text}`");
            Tensor::f32(rows[0].len(), rows.concat())
        }
        "q8" => {
            let (mut codes, mut a, mut sums, mut width) = (Vec::new(), Vec::new(), Vec::new(), 0);
            for row in rest.split('|') {
                let (factor, row) = row.split_once(':').expect("factor: codes");
                let row: Vec<i8> = numbers(row);
                width = row.len();
                a.extend(numbers::<f32>(factor));
                sums.push(row.iter().map(|&q| i32::from(q)).sum());
                codes.extend(row);
            }
            Tensor::Q8 { rows: a.len(), width, codes, a, sums }
        }
        "state" => {
            let dims = ty.as_state().expect("the value is a state");
            Tensor::State(State { dims, data: rest.split('|').flat_map(numbers).collect() })
        }
        "q8b" => {
            let (mut codes, mut scales, mut width, mut rows) = (Vec::new(), Vec::new(), 0, 0);
            for row in rest.split('|') {
                let (of_blocks, row) = row.split_once(':').expect("scales: codes");
                let row: Vec<i8> = numbers(row);
                (width, rows) = (row.len(), rows + 1);
                scales.extend(numbers::<f32>(of_blocks));
                codes.extend(row);
            }
            Tensor::Q8b { rows, width, block: ty.quant_block(), codes, scales }
        }
        "tok" => Tensor::Tokens(numbers(rest)),
        "pos" => Tensor::Position(numbers(rest)[0]),
        "cache" => {
            let (capacity, rows) = rest.split_once(':').expect("capacity: rows");
            let capacity: u32 = numbers(capacity)[0];
            let empty = Tensor::empty_cache(ty, capacity).expect("the value is a cache");
            let Tensor::Cache(Cache { dims, mut data, .. }) = empty else { panic!("{empty}") };
            for (position, row) in rows.split('|').map(numbers::<f32>).enumerate() {
                assert!(row.is_empty() || row.len() == (dims.kv_heads * dims.head_dim) as usize, "`{text}`");
                for (i, x) in row.into_iter().enumerate() {
                    let (head, j) = (i / dims.head_dim as usize, i % dims.head_dim as usize);
                    let at = (head * capacity as usize + position) * dims.head_dim as usize + j;
                    match &mut data {
                        CacheData::F16(data) => data[at] = scalar::f16_bits(x),
                        CacheData::F32(data) => data[at] = x,
                    }
                }
            }
            Tensor::Cache(Cache { dims, capacity, data })
        }
        other => panic!("`{other}` is no kind of value"),
    }
}

fn store(m: &mut Fixture, name: &str, text: &str) {
    let id = m.module.param_named(name).unwrap_or_else(|| panic!("no parameter @{name}"));
    let ty = m.module.params()[id].ty.clone();
    let (elements, scales) = text.split_once('/').unwrap_or((text, ""));
    let half = |f: fn(f32) -> u16| numbers(elements).into_iter().flat_map(|x| f(x).to_le_bytes()).collect();
    let bytes = match (ty.dtype, ty.as_matrix()) {
        (DType::Ter, Some((rows, cols))) => {
            let codes: Vec<i8> = numbers(elements);
            assert_eq!(codes.len(), rows as usize * cols as usize, "elements of @{name}");
            assert_ne!(ty.layout, Layout::Rows, "@{name} has no bytes of its own");
            pack(ty.layout, rows, cols, &codes)
        }
        (DType::F16, _) => half(scalar::f16_bits),
        // Only what is exact in bf16 may stand in these files.
        (DType::Bf16, _) => half(|x| (x.to_bits() >> 16) as u16),
        _ => f32_bytes(&numbers(elements)),
    };
    m.store(name, bytes, &numbers(scales));
}

/// The types of the inputs or outputs of a function.
fn types(module: &Module, func: &str) -> (Vec<Type>, Vec<Type>) {
    let func = &module.funcs()[module.func_named(func).unwrap_or_else(|| panic!("no function @{func}"))];
    let all = |ids: &[bitnetc_ir::ValueId]| ids.iter().map(|&id| func.ty(id).clone()).collect();
    (all(func.inputs()), all(func.outputs()))
}

struct Call<'t> {
    func: &'t str,
    inputs: Vec<&'t str>,
    outputs: Vec<&'t str>,
}

fn run_file(file: &str, source: &str) -> usize {
    let mut m = Fixture::new();
    m.module = text::parse(source).unwrap_or_else(|e| panic!("{file}: {e}"));
    verify::verify(&m.module).unwrap_or_else(|e| panic!("{file}: {e:?}"));
    let mut calls: Vec<Call<'_>> = Vec::new();
    for line in source.lines().filter_map(|line| line.strip_prefix("; ")) {
        match (line.split_once(' '), calls.last_mut()) {
            (Some(("param", rest)), _) => {
                let (name, elements) = rest.split_once(':').expect("`@name: elements`");
                store(&mut m, name.trim_start_matches('@'), elements);
            }
            (Some(("call", func)), _) => {
                let func = func.trim_start_matches('@');
                calls.push(Call { func, inputs: Vec::new(), outputs: Vec::new() });
            }
            (Some(("in", text)), Some(call)) => call.inputs.push(text),
            (Some(("out", text)), Some(call)) => call.outputs.push(text),
            _ => {}
        }
    }
    let interp = Interpreter::new(&m.module, &m.weights);
    for call in &calls {
        let (inputs, outputs) = types(&m.module, call.func);
        assert_eq!(
            (call.inputs.len(), call.outputs.len()),
            (inputs.len(), outputs.len()),
            "{file}: @{}",
            call.func
        );
        let given = call.inputs.iter().zip(&inputs).map(|(text, ty)| value(text, ty)).collect();
        let func = m.module.func_named(call.func).expect("checked");
        let results = interp.run(func, given).unwrap_or_else(|e| panic!("{file}: {e}"));
        for (i, (got, (text, ty))) in results.iter().zip(call.outputs.iter().zip(&outputs)).enumerate() {
            if let Some(difference) = got.first_difference(&value(text, ty)) {
                panic!("{file}: @{}, output {i}: {difference}", call.func);
            }
        }
    }
    calls.len()
}

#[test]
fn run_files_give_the_results_that_they_state() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/filetests/run");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap_or_else(|e| panic!("{}: {e}", root.display()))
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "bir"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no files in {}", root.display());
    for path in paths {
        let file = path.file_name().expect("a file").to_string_lossy();
        let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(run_file(&file, &source) > 0, "{file} calls nothing");
    }
}
