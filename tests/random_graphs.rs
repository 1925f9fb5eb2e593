//! Whole random graphs through the compiler: passes, layouts, memory plan, kernels and threads give the interpreter's bits.

use bitnetc_ir::generate::{GenOptions, MIN_VOCAB, random_module};
use bitnetc_ir::interp::{CacheData, Interpreter, Tensor};
use bitnetc_ir::random::SplitMix;
use bitnetc_ir::{DType, FuncId, Module, Stage, TokenCount};
use bitnetc_passes::{PassContext, Pipeline, WeightPacking, run};
use bitnetc_runtime::single::execute;

const CAPACITY: u32 = 128;

fn number(random: &mut SplitMix) -> f32 {
    (random.next_u64() >> 40) as f32 / (1u64 << 22) as f32 - 2.0
}

/// Inputs of every type, with `tokens` tokens from `position` on; the caches are full of numbers.
fn inputs(module: &Module, func: FuncId, random: &mut SplitMix, tokens: u32, position: u32) -> Vec<Tensor> {
    let func = &module.funcs()[func];
    let mut all = Vec::new();
    for &value in func.inputs() {
        let ty = func.ty(value);
        all.push(if let Some(mut cache) = Tensor::empty_cache(ty, CAPACITY) {
            if let Tensor::State(state) = &mut cache {
                state.data.iter_mut().for_each(|x| *x = number(random));
            } else if let Tensor::Cache(cache) = &mut cache {
                match &mut cache.data {
                    CacheData::F16(data) => {
                        data.iter_mut().for_each(|x| *x = 0x3000 | (random.next_u64() as u16 & 0x8fff))
                    }
                    CacheData::F32(data) => data.iter_mut().for_each(|x| *x = number(random)),
                }
            }
            cache
        } else if ty.dtype == DType::Idx {
            match ty.shape.0.is_empty() {
                true => Tensor::Position(position),
                false => Tensor::Tokens(
                    (0..tokens).map(|_| (random.next_u64() % u64::from(MIN_VOCAB)) as u32).collect(),
                ),
            }
        } else {
            let shape = ty.as_rows().unwrap();
            let rows = if shape.per_token { tokens } else { 1 };
            let width = shape.width as usize;
            match ty.dtype {
                DType::Q8 => {
                    let codes: Vec<i8> =
                        (0..rows as usize * width).map(|_| random.next_u64() as i8).collect();
                    let sums =
                        codes.chunks(width).map(|row| row.iter().map(|&q| i32::from(q)).sum()).collect();
                    let a = (0..rows).map(|_| number(random).abs() + 0.5).collect();
                    Tensor::Q8 { rows: rows as usize, width, codes, a, sums }
                }
                _ => Tensor::f32(width, (0..rows as usize * width).map(|_| number(random)).collect()),
            }
        });
    }
    all
}

fn check(seed: u64, stage: Stage, tokens_mode: TokenCount, pipeline: &Pipeline) -> usize {
    let options = GenOptions { stage, tokens: tokens_mode, ..GenOptions::default() };
    let (module, weights) = random_module(seed, &options);
    let target = bitnetc_codegen::host::probe().unwrap();
    let weights_of = [WeightPacking::TwoBits, WeightPacking::Trits];
    let packing = weights_of[seed as usize % weights_of.len()];
    let context = PassContext { weights: packing, ..PassContext::new(target.clone()) };
    let Ok((planned, _)) = run(pipeline, module.clone(), &context) else { return 0 };
    let mut random = SplitMix::new(seed);
    let mut done = 0;
    for func in module.funcs().keys() {
        let tokens = match tokens_mode {
            TokenCount::One => 1,
            TokenCount::UpTo(n) => 1 + (random.next_u64() % u64::from(n)) as u32,
        };
        let position = (random.next_u64() % u64::from(CAPACITY - tokens)) as u32;
        let inputs = inputs(&module, func, &mut random, tokens, position);
        let expected = Interpreter::new(&module, &weights).run(func, inputs.clone()).unwrap();
        for threads in [1, 3] {
            let found = match execute(&planned, func, &target, &weights, inputs.clone(), threads) {
                Ok(found) => found,
                // A random function over a chunk may have values with one row for all tokens, which kernels do not have.
                Err(e) if e.to_string().contains("without a row for each") => return done,
                Err(e) => panic!("seed {seed}: {e}"),
            };
            assert_eq!(found.len(), expected.len());
            for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
                if let Some(difference) = a.first_difference(b) {
                    let text = bitnetc_ir::text::print(&planned);
                    panic!("seed {seed}, {threads} threads, output {i}: {difference}\n{text}");
                }
            }
        }
        done += 1;
    }
    done
}

#[test]
fn single_token_graphs() {
    let pipeline = Pipeline::default();
    let done: usize = (0..60).map(|seed| check(seed, Stage::Imported, TokenCount::One, &pipeline)).sum();
    println!("{done} functions");
    assert!(done >= 30, "only {done} functions could be run");
}

#[test]
fn chunk_graphs() {
    let pipeline = Pipeline::default();
    let done: usize =
        (100..160).map(|seed| check(seed, Stage::Imported, TokenCount::UpTo(7), &pipeline)).sum();
    println!("{done} functions");
    assert!(done >= 30, "only {done} functions could be run");
}

#[test]
fn unfused_graphs() {
    let bare: Pipeline = "assign-layout,plan-memory".parse().unwrap();
    let done: usize = (200..230).map(|seed| check(seed, Stage::Imported, TokenCount::One, &bare)).sum();
    println!("{done} functions");
    assert!(done >= 15, "only {done} functions could be run");
}

/// Ops that only passes make: packed and screened heads among them.
#[test]
fn fused_graphs() {
    let pipeline = Pipeline::default();
    for tokens in [TokenCount::One, TokenCount::UpTo(7)] {
        let done: usize = (300..350).map(|seed| check(seed, Stage::Fused, tokens, &pipeline)).sum();
        println!("{done} functions");
        assert!(done >= 20, "only {done} functions could be run");
    }
}
