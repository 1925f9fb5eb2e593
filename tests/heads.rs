//! What packed and screened heads cost in quality: how often their likeliest token is another than the stored head's, and
//! what they do to the perplexity. The figures of `docs/adr/0007-packed-heads.md` come from the ignored tests here:
//! `cargo test --release --test heads -- --ignored --nocapture`.

mod common;

use std::borrow::Cow;
use std::collections::BTreeMap;

use bitnetc::perplexity::negative_log_likelihood;
use bitnetc_ir::interp::Tensor;
use bitnetc_ir::random::SplitMix;
use bitnetc_ir::{
    BlockFormat, ContentHash, DType, FuncBuilder, Module, Op, Operand, ParamDecl, ParamDef, QuantBlock, Rows,
    Stage, TokenCount, Type, ValueId, WeightBytes,
};
use bitnetc_passes::{HeadFormat, PassContext, run};
use bitnetc_runtime::single::execute;
use common::{open, options_with, root, session};

/// The index of the greatest logit; of equal ones the first.
fn greedy(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best }) as u32
}

struct Quality {
    nll: f64,
    choices: Vec<u32>,
}

impl Quality {
    /// Of the built-in model with this head, over the first `count` validation ids in windows of 512.
    fn of(head: HeadFormat, count: usize) -> Self {
        let folder = root().join("models/shakespeare");
        let ids = std::fs::read(folder.join("validation_ids.json")).unwrap();
        let ids: Vec<u32> = serde_json::from_slice(&ids).unwrap();
        let loaded = open(
            &folder.join("shakespeare-5m-i2_s.gguf"),
            &options_with(DType::F16, |c| c.head = Some(head)),
        );
        let mut session = session(&loaded, 512, 2);
        let (mut nll, mut choices) = (0.0, Vec::new());
        for part in ids[..count.min(ids.len())].chunks(512) {
            session.truncate(0);
            session
                .score(part, |i, logits| {
                    if let Some(&next) = part.get(i + 1) {
                        nll += negative_log_likelihood(logits, next);
                        choices.push(greedy(logits));
                    }
                    true
                })
                .unwrap();
        }
        Self { nll: nll / choices.len() as f64, choices }
    }

    fn differs_from(&self, other: &Quality) -> usize {
        self.choices.iter().zip(&other.choices).filter(|(a, b)| a != b).count()
    }
}

/// Packed heads, the most of 1,000 steps in which each may choose another token of the built-in model, and the most that it
/// may add to the mean negative log-likelihood.
const HEADS: [(HeadFormat, f64, f64); 5] = [
    (HeadFormat::Q8, 12.0, 0.002),
    (HeadFormat::Q6, 30.0, 0.004),
    (HeadFormat::Q4, 120.0, 0.03),
    (HeadFormat::Screened { rows: 64 }, 0.0, 0.05),
    (HeadFormat::Screened { rows: HeadFormat::SCREENED_ROWS }, 0.0, 0.01),
];

fn compare(count: usize) {
    let stored = Quality::of(HeadFormat::Stored, count);
    println!("f16: perplexity {:.4} over {} steps", stored.nll.exp(), stored.choices.len());
    for (head, most, worse) in HEADS {
        let quality = Quality::of(head, count);
        let different = quality.differs_from(&stored);
        let per_thousand = 1e3 * different as f64 / stored.choices.len() as f64;
        println!(
            "{head}: perplexity {:.4}, {different} other choices in {} steps ({per_thousand:.2} in 1,000)",
            quality.nll.exp(),
            stored.choices.len()
        );
        assert!(per_thousand <= most, "{head}: {per_thousand} in 1,000");
        assert!((quality.nll - stored.nll).abs() <= worse, "{head}: {} and {}", quality.nll, stored.nll);
    }
}

#[test]
fn packed_heads_of_the_built_in_model_choose_as_the_stored_one() {
    compare(4096);
}

#[test]
#[ignore = "a minute of work: .ci/soak has it"]
fn packed_heads_of_the_built_in_model_over_the_whole_validation_text() {
    compare(usize::MAX);
}

/// Nearly a normal deviate.
fn gaussian(rng: &mut SplitMix) -> f32 {
    let bits = rng.next_u64();
    (0..8).map(|i| (bits >> (8 * i) & 0xff) as f32).sum::<f32>() / 209.0 - 4.88
}

/// A table like that of a large model: normal deviates, rows of different norms.
fn table(rows: u32, cols: u32) -> Vec<u8> {
    let mut rng = SplitMix::new(77);
    let mut bytes = Vec::with_capacity(rows as usize * cols as usize * 2);
    for _ in 0..rows {
        let norm = 0.02 * (0.25 * gaussian(&mut rng)).exp();
        for _ in 0..cols {
            bytes.extend(bitnetc_ir::interp::scalar::f16_bits(norm * gaussian(&mut rng)).to_le_bytes());
        }
    }
    bytes
}

/// `(hidden rows) -> the likeliest token with each head`, in the order stored, q8, q6, q4, screened; then the likeliest 40
/// of the stored and of the screened head.
fn choices(rows: u32, cols: u32, chunk: u32, exact: u32) -> Module {
    let mut module = Module::new();
    module.stage = Stage::Fused;
    let def = ParamDef::File { tensor: "table".to_owned(), hash: ContentHash([0; 16]) };
    let ty = Type::matrix(DType::F16, rows, cols);
    let stored = module.add_param(ParamDecl { name: "table".to_owned(), ty, def });
    let packed: Vec<_> = BlockFormat::ALL
        .iter()
        .map(|format| {
            let ty = Type::matrix(format.dtype(), rows, cols);
            let name = format.dtype().name().to_owned();
            module.add_param(ParamDecl { name, ty, def: ParamDef::Quantise(stored) })
        })
        .collect();
    let mut b = FuncBuilder::new(&module, "f", TokenCount::UpTo(chunk));
    let x = b.input("x", Type::rows(DType::F32, Rows { per_token: true, width: cols }));
    let one = |b: &mut FuncBuilder<'_>, op: Op, operands: Vec<Operand>| b.push(op, operands).unwrap()[0];
    let q = one(&mut b, Op::QuantBlocks { block: QuantBlock::Cols32 }, vec![x.into()]);
    let exact_logits = one(&mut b, Op::Matmul {}, vec![x.into(), stored.into()]);
    let mut outputs: Vec<ValueId> = vec![one(&mut b, Op::Screen { n: 1 }, vec![exact_logits.into()])];
    let mut last = None;
    for &w in &packed {
        let y = one(&mut b, Op::BlockMatmul {}, vec![q.into(), w.into()]);
        outputs.push(one(&mut b, Op::Screen { n: 1 }, vec![y.into()]));
        last = Some(y);
    }
    let y = last.unwrap();
    let chosen = one(&mut b, Op::Screen { n: exact }, vec![y.into()]);
    let again = one(&mut b, Op::MatmulRows {}, vec![x.into(), chosen.into(), stored.into()]);
    let z = one(&mut b, Op::MergeScreened {}, vec![y.into(), chosen.into(), again.into()]);
    outputs.push(one(&mut b, Op::Screen { n: 1 }, vec![z.into()]));
    for of in [exact_logits, z] {
        outputs.push(one(&mut b, Op::Screen { n: 40 }, vec![of.into()]));
    }
    let func = b.finish(outputs);
    module.add_func(func);
    module
}

/// Steps in which each packed head chooses another token, and in which the screened head has other 40 likeliest ones.
fn synthetic(rows: u32, cols: u32, chunk: u32, calls: u32) -> (Vec<usize>, usize, usize) {
    let module = choices(rows, cols, chunk, HeadFormat::SCREENED_ROWS);
    let target = bitnetc_codegen::host::probe().unwrap();
    let pipeline = "assign-layout,schedule,plan-memory".parse().unwrap();
    let (planned, _) = run(&pipeline, module, &PassContext::new(target.clone())).unwrap();
    let weight = WeightBytes { bytes: Cow::Owned(table(rows, cols)), scales: Cow::Owned(Vec::new()) };
    let source = BTreeMap::from([("table".to_owned(), weight)]);
    let func = planned.func_named("f").unwrap();
    let mut rng = SplitMix::new(78);
    let (mut others, mut others_of_40) = (vec![0; 4], 0);
    for _ in 0..calls {
        let x = (0..chunk * cols).map(|_| gaussian(&mut rng)).collect();
        let inputs = vec![Tensor::f32(cols as usize, x)];
        let outputs = execute(&planned, func, &target, &source, inputs, 2).unwrap();
        let numbers: Vec<&Vec<i32>> = outputs
            .iter()
            .map(|t| match t {
                Tensor::I32 { data, .. } => data,
                other => panic!("{other}"),
            })
            .collect();
        for (i, others) in others.iter_mut().enumerate() {
            *others += numbers[0].iter().zip(numbers[i + 1]).filter(|(a, b)| a != b).count();
        }
        others_of_40 += numbers[5].chunks(40).zip(numbers[6].chunks(40)).filter(|(a, b)| a != b).count();
    }
    (others, others_of_40, (chunk * calls) as usize)
}

#[test]
fn a_screened_head_of_random_rows_chooses_as_the_stored_one() {
    let (others, others_of_40, steps) = synthetic(8192, 128, 128, 2);
    println!(
        "q8, q6, q4, screened: {others:?} other choices, {others_of_40} other lists of 40 in {steps} steps"
    );
    assert!(others[3] == 0 && others_of_40 <= steps / 50, "{others:?} {others_of_40}");
    assert!(others[0] <= steps / 20 && others[2] > 0, "{others:?}");
}

/// The vocabulary of BitNet b1.58 2B-4T, at a quarter of its width: logits of random rows spread alike at every width.
#[test]
#[ignore = "minutes of work, four gigabytes of memory: .ci/soak has it"]
fn heads_of_the_vocabulary_of_a_large_model() {
    let (others, others_of_40, steps) = synthetic(128_256, 640, 5120, 2);
    println!(
        "q8, q6, q4, screened: {others:?} other choices, {others_of_40} other lists of 40 in {steps} steps"
    );
    assert!(steps >= 10_000 && others[3] * 1000 <= steps, "{others:?}");
}
