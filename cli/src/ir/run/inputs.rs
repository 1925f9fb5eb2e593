//! The inputs of a call from `NAME=VALUE`: numbers, JSON lists, files, seeds.
//!
//! Invariants: every input of the function gets one value, made from the seed if none is given; a name that is none, a value
//! of another kind and a wrong number of elements are refused with what would be right.

use std::path::Path;

use bitnetc_frontend_gguf::text::text_without_mark;
use bitnetc_ir::interp::{Cache, CacheData, State, Tensor, scalar};
use bitnetc_ir::sample::{self, CallShape};
use bitnetc_ir::{DType, Dim, Func, KEY_BLOCK, Module, Type};
use bitnetc_runtime::npy::{self, NpyData};
use bitnetc_tools::run_ir::check_size;
use serde_json::Value;

use super::RunIrArgs;
use crate::exit;
use crate::failure::Failure;

/// A value as it was given.
enum Given {
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    /// Quantised rows: codes, and the factor of each row (`q8`) or the scale of each block (`q8b`).
    Codes {
        codes: Vec<i64>,
        factors: Vec<f32>,
        dtype: DType,
    },
    Seed(u64),
}

fn wrong(name: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(exit::USAGE, format!("--inputs {name}: {why}"))
}

/// The inputs of a call of `func`.
pub(super) fn inputs(args: &RunIrArgs, module: &Module, func: &Func) -> Result<Vec<Tensor>, Failure> {
    let names: Vec<&str> =
        func.inputs().iter().map(|&v| func.value(v).name.as_deref().unwrap_or_default()).collect();
    let mut given: Vec<Option<Given>> = names.iter().map(|_| None).collect();
    for word in &args.inputs {
        let (name, value) = word.split_once('=').ok_or_else(|| wrong(word, "expected NAME=VALUE"))?;
        let at = names.iter().position(|n| *n == name.trim_start_matches('%')).ok_or_else(|| {
            wrong(name, format!("@{} has no such input: its inputs are {}", func.name(), names.join(", ")))
        })?;
        given[at] = Some(parse(name, value)?);
    }
    let types: Vec<&Type> = func.inputs().iter().map(|&v| func.ty(v)).collect();
    let call = shape(args, func, &types, &given)?;
    check_size(module, func, call, args.model.is_none())?;
    let mut tensors = Vec::with_capacity(names.len());
    for ((name, ty), given) in names.iter().zip(&types).zip(given) {
        let made = |seed| sample::input(module, func, name, call, seed);
        tensors.push(match given {
            None => made(args.seed).ok_or_else(|| wrong(name, "cannot be made"))?,
            Some(Given::Seed(seed)) => made(seed).ok_or_else(|| wrong(name, "cannot be made"))?,
            Some(Given::Floats(data)) => floats(name, ty, data, call)?,
            Some(Given::Ints(data)) => ints(name, ty, data, call)?,
            Some(Given::Codes { codes, factors, dtype }) => {
                quantised(name, ty, (&codes, factors, dtype), call)?
            }
        });
    }
    Ok(tensors)
}

fn parse(name: &str, value: &str) -> Result<Given, Failure> {
    if let Some(seed) = value.strip_prefix("seed:") {
        return seed.parse().map(Given::Seed).map_err(|_| wrong(name, "seed: takes a number"));
    }
    let Some(file) = value.strip_prefix('@').map(Path::new) else { return parse_json(name, value) };
    let bytes = std::fs::read(file).map_err(|e| {
        Failure::new(exit::FAILURE, format!("--inputs {name}: cannot read {}: {e}", file.display()))
    })?;
    if bytes.starts_with(b"\x93NUMPY") {
        let array = npy::read(&bytes).map_err(|e| wrong(name, format!("{}: {e}", file.display())))?;
        return Ok(match array.data {
            NpyData::F32(data) => Given::Floats(data),
            NpyData::Int(data) => Given::Ints(data),
        });
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| wrong(name, format!("{} is neither .npy nor JSON", file.display())))?;
    parse_json(name, &text)
}

/// Numbers, in lists of any depth, row after row. All are integers, or all are taken as f32.
fn parse_json(name: &str, text: &str) -> Result<Given, Failure> {
    let value: Value = serde_json::from_str(text_without_mark(text))
        .map_err(|e| wrong(name, format!("expected a number, a JSON list, @FILE or seed:N ({e})")))?;
    let numbers = |value: &Value| {
        let mut numbers = Vec::new();
        collect(value, &mut numbers).ok_or_else(|| wrong(name, "expected numbers and lists of them only"))?;
        let ints: Option<Vec<i64>> = numbers.iter().map(|n| n.as_i64()).collect();
        // An f32 is the nearest one to the decimal number; the way over f64 rounds twice, and only ties of that differ.
        let floats = || numbers.iter().map(|n| n.as_f64().unwrap_or(f64::NAN) as f32).collect();
        Ok::<_, Failure>(ints.map_or_else(|| Given::Floats(floats()), Given::Ints))
    };
    let Value::Object(fields) = &value else { return numbers(&value) };
    let (factors, dtype) = match (fields.get("codes"), fields.get("a"), fields.get("scales"), fields.len()) {
        (Some(_), Some(a), None, 2) => (a, DType::Q8),
        (Some(_), None, Some(scales), 2) => (scales, DType::Q8b),
        _ => return Err(wrong(name, "an object has `codes`, and `a` for q8 or `scales` for q8b")),
    };
    let Given::Ints(codes) = numbers(&fields["codes"])? else {
        return Err(wrong(name, "codes are integers"));
    };
    let factors = match numbers(factors)? {
        Given::Floats(factors) => factors,
        Given::Ints(factors) => factors.into_iter().map(|n| n as f32).collect(),
        _ => Vec::new(),
    };
    Ok(Given::Codes { codes, factors, dtype })
}

fn collect<'v>(value: &'v Value, numbers: &mut Vec<&'v serde_json::Number>) -> Option<()> {
    match value {
        Value::Number(n) => numbers.push(n),
        Value::Array(all) => {
            for value in all {
                collect(value, numbers)?;
            }
        }
        _ => return None,
    }
    Some(())
}

/// Tokens, position and capacity: from the inputs that say them, the options, or the least that does.
fn shape(
    args: &RunIrArgs,
    func: &Func,
    types: &[&Type],
    given: &[Option<Given>],
) -> Result<CallShape, Failure> {
    let count = |given: &Given| match given {
        Given::Floats(data) => Some(data.len()),
        Given::Ints(data) => Some(data.len()),
        Given::Codes { codes, .. } => Some(codes.len()),
        Given::Seed(_) => None,
    };
    let mut tokens = args.tokens;
    let mut position = None;
    let mut capacity = args.capacity;
    for (ty, given) in types.iter().zip(given) {
        let Some((given, count)) = given.as_ref().and_then(|g| Some((g, count(g)?))) else { continue };
        if let Some(dims) = ty.as_cache() {
            let one = dims.kv_heads as usize * dims.head_dim as usize;
            capacity = u32::try_from(count.checked_div(one).unwrap_or(0)).ok();
            continue;
        }
        let per_token = match (ty.dtype, &ty.shape.0[..]) {
            (DType::Idx, []) => {
                if let Given::Ints(data) = given {
                    position = data.first().and_then(|&p| u32::try_from(p).ok());
                }
                continue;
            }
            (DType::Idx, [Dim::Tokens]) => 1,
            _ => match ty.as_rows().filter(|rows| rows.per_token) {
                Some(rows) => rows.width as usize,
                None => continue,
            },
        };
        tokens = tokens.or(u32::try_from(count.checked_div(per_token).unwrap_or(0)).ok());
    }
    let tokens = tokens.unwrap_or(1);
    let most = func.tokens().max();
    if tokens == 0 || tokens > most {
        let why = format!("@{} takes 1 to {most} tokens, not {tokens}", func.name());
        return Err(Failure::new(exit::USAGE, why));
    }
    let least = CallShape { position: position.unwrap_or(5), ..CallShape::of(tokens) };
    if !types.iter().any(|ty| ty.as_cache().is_some()) {
        return Ok(least);
    }
    let room = least.position.saturating_add(tokens);
    let capacity = capacity.or(room.checked_next_multiple_of(KEY_BLOCK)).unwrap_or_default();
    if !capacity.is_multiple_of(KEY_BLOCK) || capacity < room {
        let why = format!(
            "caches of {capacity} positions: expected a multiple of {KEY_BLOCK}, at least the {room} of the call"
        );
        return Err(Failure::new(exit::USAGE, why));
    }
    Ok(CallShape { capacity, ..least })
}

fn wrong_count(name: &str, ty: &Type, got: usize, expected: usize) -> Failure {
    wrong(name, format!("{got} elements, {ty} needs {expected} in this call"))
}

fn floats(name: &str, ty: &Type, data: Vec<f32>, call: CallShape) -> Result<Tensor, Failure> {
    if let Some(dims) = ty.as_cache() {
        let expected = dims.kv_heads as usize * call.capacity as usize * dims.head_dim as usize;
        if data.len() != expected {
            return Err(wrong_count(name, ty, data.len(), expected));
        }
        let data = match ty.dtype {
            DType::F16 => CacheData::F16(data.iter().map(|&x| scalar::f16_bits(x)).collect()),
            _ => CacheData::F32(data),
        };
        return Ok(Tensor::Cache(Cache { dims, capacity: call.capacity, data }));
    }
    if let Some(dims) = ty.as_state() {
        let expected = [dims.heads, dims.rows, dims.cols].iter().map(|&n| n as usize).product();
        return match data.len() == expected {
            true => Ok(Tensor::State(State { dims, data })),
            false => Err(wrong_count(name, ty, data.len(), expected)),
        };
    }
    let Some((count, width)) = rows(ty, call) else {
        return Err(wrong(name, format!("{ty} takes only integers or seed:N")));
    };
    if data.len() != count * width {
        return Err(wrong_count(name, ty, data.len(), count * width));
    }
    if ty.dtype == DType::F32 {
        return Ok(Tensor::F32 { rows: count, width, data });
    }
    // As the op would make them that the value comes from.
    let made = Tensor::quantised(ty, &data).map_err(|e| wrong(name, e))?;
    made.ok_or_else(|| wrong(name, format!("{ty} takes only integers or seed:N")))
}

/// Rows and their width in this call.
fn rows(ty: &Type, call: CallShape) -> Option<(usize, usize)> {
    let rows = ty.as_rows()?;
    Some((if rows.per_token { call.tokens as usize } else { 1 }, rows.width as usize))
}

fn quantised(
    name: &str,
    ty: &Type,
    (codes, factors, dtype): (&[i64], Vec<f32>, DType),
    call: CallShape,
) -> Result<Tensor, Failure> {
    let (count, width) = rows(ty, call).filter(|_| ty.dtype == dtype).ok_or_else(|| {
        wrong(name, format!("{ty} is not {}: codes and factors cannot be given for it", dtype.name()))
    })?;
    if codes.len() != count * width {
        return Err(wrong_count(name, ty, codes.len(), count * width));
    }
    let a_row = if dtype == DType::Q8 { 1 } else { width.div_ceil(ty.quant_block() as usize) };
    if factors.len() != count * a_row {
        let why = format!("{} factors, {ty} needs {} in this call", factors.len(), count * a_row);
        return Err(wrong(name, why));
    }
    let codes: Result<Vec<i8>, _> = codes.iter().map(|&n| i8::try_from(n)).collect();
    let codes = codes.map_err(|_| wrong(name, "codes are from -128 to 127"))?;
    Ok(match dtype {
        DType::Q8 => {
            let sum = |row: &[i8]| row.iter().map(|&q| i32::from(q)).sum();
            let sums = codes.chunks(width.max(1)).map(sum).collect();
            Tensor::Q8 { rows: count, width, codes, a: factors, sums }
        }
        _ => Tensor::Q8b { rows: count, width, block: ty.quant_block(), codes, scales: factors },
    })
}

fn ints(name: &str, ty: &Type, data: Vec<i64>, call: CallShape) -> Result<Tensor, Failure> {
    let ids = || -> Result<Vec<u32>, Failure> {
        let all = data.iter().map(|&n| u32::try_from(n));
        all.collect::<Result<_, _>>().map_err(|_| wrong(name, "a number is below 0 or too large"))
    };
    match (ty.dtype, &ty.shape.0[..]) {
        (DType::Idx, []) => match ids()?[..] {
            [position] => Ok(Tensor::Position(position)),
            _ => Err(wrong_count(name, ty, data.len(), 1)),
        },
        (DType::Idx, [dim]) => {
            let expected = match dim {
                Dim::N(n) => *n as usize,
                _ => call.tokens as usize,
            };
            match data.len() == expected {
                true => Ok(Tensor::Tokens(ids()?)),
                false => Err(wrong_count(name, ty, data.len(), expected)),
            }
        }
        (DType::I32, _) => {
            let rows = ty.as_rows().ok_or_else(|| wrong(name, format!("{ty} cannot be given")))?;
            let (count, width) = (if rows.per_token { call.tokens as usize } else { 1 }, rows.width as usize);
            let numbers: Result<Vec<i32>, _> = data.iter().map(|&n| i32::try_from(n)).collect();
            let numbers = numbers.map_err(|_| wrong(name, "a number does not fit 32 bits"))?;
            match numbers.len() == count * width {
                true => Ok(Tensor::I32 { rows: count, width, data: numbers }),
                false => Err(wrong_count(name, ty, numbers.len(), count * width)),
            }
        }
        _ => floats(name, ty, data.iter().map(|&n| n as f32).collect(), call),
    }
}
