//! A layer as imported and as fused, over chunks of any size.

use bitnetc_ir::interp::{Interpreter, Tensor};
use bitnetc_ir::{CacheDims, DType, Epilogue, FuncId, Layout, Pairs, ParamDef, ParamId, Sizes, Type};

use crate::fixture::{Fixture, Random, assert_same, position, tokens};

const HIDDEN: u32 = 128;
const FFN: u32 = 256;
const HEADS: u32 = 4;
const DIMS: CacheDims = CacheDims { kv_heads: 2, head_dim: 32 };
const KV: u32 = 64;
const VOCAB: u32 = 50;
const CAPACITY: u32 = 128;
const SCALE: f32 = 0.176_776_7;

struct Weights {
    embd: ParamId,
    norms: [ParamId; 4],
    q: ParamId,
    k: ParamId,
    v: ParamId,
    o: ParamId,
    gate: ParamId,
    up: ParamId,
    down: ParamId,
    qkv: ParamId,
    gate_up: ParamId,
}

fn weights(m: &mut Fixture, random: &mut Random) -> Weights {
    let f16: Vec<u8> = (0..VOCAB * HIDDEN)
        .flat_map(|_| bitnetc_ir::interp::scalar::f16_bits(random.f32s(1, 1.0)[0]).to_le_bytes())
        .collect();
    let embd = m.dense("token_embd", DType::F16, VOCAB, HIDDEN, f16);
    let norm = |m: &mut Fixture, name: &str, n: u32, random: &mut Random| {
        let w: Vec<f32> = random.f32s(n as usize, 0.5).iter().map(|x| x + 1.0).collect();
        m.vector(name, &w)
    };
    let norms = [
        norm(m, "attn_norm", HIDDEN, random),
        norm(m, "attn_sub_norm", HIDDEN, random),
        norm(m, "ffn_norm", HIDDEN, random),
        norm(m, "ffn_sub_norm", FFN, random),
    ];
    let mut matrix = |m: &mut Fixture, name: &str, rows: u32, cols: u32| {
        let codes = random.ternary(rows * cols);
        let scale = 0.02 + random.f32s(1, 0.01)[0];
        m.ternary(name, Layout::I2s128, (rows, cols), &codes, &[scale])
    };
    let (q, k, v) = (matrix(m, "q", HIDDEN, HIDDEN), matrix(m, "k", KV, HIDDEN), matrix(m, "v", KV, HIDDEN));
    let o = matrix(m, "o", HIDDEN, HIDDEN);
    let (gate, up) = (matrix(m, "gate", FFN, HIDDEN), matrix(m, "up", FFN, HIDDEN));
    let down = matrix(m, "down", HIDDEN, FFN);
    let qkv = m.derived("qkv", Layout::Rows, (HIDDEN + 2 * KV, HIDDEN), ParamDef::Concat(vec![q, k, v]));
    let gate_up = m.derived("gate_up", Layout::Rows, (2 * FFN, HIDDEN), ParamDef::Interleave16(gate, up));
    Weights { embd, norms, q, k, v, o, gate, up, down, qkv, gate_up }
}

/// The layer as the front-end makes it. Results: logits, k cache, v cache.
fn imported(m: &mut Fixture, w: &Weights, cache: &Type) -> FuncId {
    m.func(|b| {
        let (tok, pos) = (b.input("tok", tokens()), b.input("pos", position()));
        let (kc, vc) = (b.input("kc", cache.clone()), b.input("vc", cache.clone()));
        let h = b.embed(tok, w.embd)?;
        let x = b.rms_norm(h, w.norms[0], 1e-5)?;
        let x = b.quant_absmax(x)?;
        let (q, k, v) = (b.ternary_matmul(x, w.q)?, b.ternary_matmul(x, w.k)?, b.ternary_matmul(x, w.v)?);
        let q = b.rope(q, pos, 1e4.into(), 32, 32, Pairs::Halves)?;
        let k = b.rope(k, pos, 1e4.into(), 32, 32, Pairs::Halves)?;
        let [kc, vc] = b.kv_append(kc, vc, k, v, pos)?;
        let y = b.attention(q, kc, vc, pos, HEADS, DIMS.kv_heads, SCALE)?;
        let y = b.rms_norm(y, w.norms[1], 1e-5)?;
        let y = b.quant_absmax(y)?;
        let y = b.ternary_matmul(y, w.o)?;
        let h = b.add(h, y)?;
        let x = b.rms_norm(h, w.norms[2], 1e-5)?;
        let x = b.quant_absmax(x)?;
        let (gate, up) = (b.ternary_matmul(x, w.gate)?, b.ternary_matmul(x, w.up)?);
        let gate = b.relu2(gate)?;
        let y = b.mul(gate, up)?;
        let y = b.rms_norm(y, w.norms[3], 1e-5)?;
        let y = b.quant_absmax(y)?;
        let y = b.ternary_matmul(y, w.down)?;
        let h = b.add(h, y)?;
        Ok(vec![b.matmul(h, w.embd)?, kc, vc])
    })
}

/// The same layer in fused ops.
fn fused(m: &mut Fixture, w: &Weights, cache: &Type) -> FuncId {
    m.func(|b| {
        let (tok, pos) = (b.input("tok", tokens()), b.input("pos", position()));
        let (kc, vc) = (b.input("kc", cache.clone()), b.input("vc", cache.clone()));
        let h = b.embed(tok, w.embd)?;
        let x = b.rms_norm_quant(h, w.norms[0], 1e-5)?;
        let x = b.bitlinear(x, w.qkv, None, Epilogue::None)?;
        let parts = b.split(x, Sizes(vec![HIDDEN, KV, KV]))?;
        let [q, kc, vc] =
            b.rope_kv_append(parts[0], parts[1], parts[2], kc, vc, pos, 1e4.into(), 32, 32, Pairs::Halves)?;
        let y = b.attention(q, kc, vc, pos, HEADS, DIMS.kv_heads, SCALE)?;
        let y = b.rms_norm_quant(y, w.norms[1], 1e-5)?;
        let h = b.bitlinear(y, w.o, Some(h.into()), Epilogue::Add)?;
        let x = b.rms_norm_quant(h, w.norms[2], 1e-5)?;
        let y = b.bitlinear(x, w.gate_up, None, Epilogue::Relu2Mul)?;
        let y = b.rms_norm_quant(y, w.norms[3], 1e-5)?;
        let h = b.bitlinear(y, w.down, Some(h.into()), Epilogue::Add)?;
        Ok(vec![b.matmul(h, w.embd)?, kc, vc])
    })
}

/// Runs the tokens in chunks of these sizes, and joins the rows of logits.
fn in_chunks(
    interp: &Interpreter<'_>,
    f: FuncId,
    cache: &Type,
    ids: &[u32],
    chunks: &[usize],
) -> Vec<Tensor> {
    let empty = || Tensor::empty_cache(cache, CAPACITY).expect("a cache type");
    let (mut kc, mut vc, mut logits, mut done) = (empty(), empty(), Vec::new(), 0);
    for &n in chunks {
        let inputs =
            vec![Tensor::Tokens(ids[done..done + n].to_vec()), Tensor::Position(done as u32), kc, vc];
        let mut out = interp.run(f, inputs).expect("runs").into_iter();
        let mut next = || out.next().expect("three results");
        logits.extend_from_slice(next().as_f32().expect("logits"));
        (kc, vc) = (next(), next());
        done += n;
    }
    assert_eq!(done, ids.len());
    vec![Tensor::f32(VOCAB as usize, logits), kc, vc]
}

#[test]
fn a_layer_gives_the_same_bits_fused_or_not_and_in_chunks_of_any_size() {
    for dtype in [DType::F16, DType::F32] {
        let cache = Type::cache(dtype, DIMS);
        let mut random = Random(51);
        let mut m = Fixture::new();
        let w = weights(&mut m, &mut random);
        let (a, b) = (imported(&mut m, &w, &cache), fused(&mut m, &w, &cache));
        let ids: Vec<u32> = (0..70).map(|_| random.bits() % VOCAB).collect();
        let interp = Interpreter::new(&m.module, &m.weights);
        let whole = in_chunks(&interp, a, &cache, &ids, &[70]);
        let logits = whole[0].as_f32().expect("logits");
        assert!(logits.iter().all(|x| x.is_finite()) && logits.iter().any(|x| x.abs() > 1.0));
        let ones = [1; 70];
        let ragged = [1, 7, 30, 31, 1];
        for (f, chunks) in [(a, &ones[..]), (a, &ragged), (b, &[70]), (b, &ones), (b, &ragged)] {
            let out = in_chunks(&interp, f, &cache, &ids, chunks);
            for (x, y) in whole.iter().zip(&out) {
                assert_same(x, y, &format!("{} in {} chunks", dtype.name(), chunks.len()));
            }
        }
    }
}
