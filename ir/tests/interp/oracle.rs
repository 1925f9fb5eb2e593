//! Ops on the stored intermediates of an outside reference (transformers' `BitNetForCausalLM` in f32 with exact int8
//! quantisation of activations), in `tests/data` of the repository: each op is fed with the stored inputs, so an error
//! shows in the op that makes it.

use std::path::Path;

use bitnetc_ir::interp::Tensor;
use bitnetc_ir::{BuildError, CacheDims, DType, FuncBuilder, Layout, Pairs, ParamId, Type, ValueId};

use crate::fixture::{Fixture, act, data, position, tokens};
use crate::gguf;

const I2_S: u32 = 36;

fn read(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// One model with its weights, and the intermediates of its first prompt.
struct Oracle {
    fixture: Fixture,
    index: serde_json::Value,
    acts: Vec<u8>,
}

impl Oracle {
    fn open(model: &str) -> Self {
        let file = read(&format!("model_{model}_i2_s.gguf"));
        let mut fixture = Fixture::new();
        for (name, t) in gguf::tensors(&file) {
            let (cols, rows) = (t.dims[0] as u32, t.dims.get(1).copied().unwrap_or(1) as u32);
            let n = rows as usize * cols as usize;
            let (dtype, layout, bytes) = match t.type_id {
                0 => (DType::F32, Layout::Rows, 4 * n),
                1 => (DType::F16, Layout::Rows, 2 * n),
                I2_S => (DType::Ter, Layout::I2s128, n / 4),
                other => panic!("tensor type {other}"),
            };
            let ty = match t.dims.len() {
                1 => Type::vector(dtype, cols),
                _ => Type::matrix(dtype, rows, cols).with_layout(layout),
            };
            let scales = if dtype == DType::Ter { f32s(&t.data[bytes..bytes + 4]) } else { Vec::new() };
            let name = name.trim_end_matches(".weight");
            fixture.file(name, ty);
            fixture.store(name, t.data[..bytes].to_vec(), &scales);
        }
        let index = serde_json::from_slice(&read(&format!("logits_{model}.json"))).expect("json");
        Self { fixture, index, acts: read(&format!("acts_{model}_prompt0.bin")) }
    }

    fn number(&self, key: &str) -> u32 {
        self.index["config"][key].as_u64().expect("a number") as u32
    }

    fn param(&self, name: &str) -> ParamId {
        self.fixture.module.param_named(name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// A stored intermediate.
    fn stored(&self, name: &str) -> Tensor {
        let entry = &self.index["acts_prompt0"]["arrays"][name];
        let field = |v: &serde_json::Value| v.as_u64().unwrap_or_else(|| panic!("no array {name}")) as usize;
        let (offset, rows, width) =
            (field(&entry["offset"]), field(&entry["shape"][0]), field(&entry["shape"][1]));
        Tensor::f32(width, f32s(&self.acts[offset..offset + 4 * rows * width]))
    }

    /// Runs ops on stored intermediates.
    fn run(
        &mut self,
        inputs: &[&str],
        build: impl FnOnce(&mut FuncBuilder<'_>, &[ValueId]) -> Result<ValueId, BuildError>,
    ) -> Tensor {
        let tensors: Vec<Tensor> = inputs.iter().map(|name| self.stored(name)).collect();
        let f = self.fixture.func(|b| {
            let mut values = Vec::new();
            for (name, tensor) in inputs.iter().zip(&tensors) {
                let width = match tensor {
                    Tensor::F32 { width, .. } => *width as u32,
                    other => panic!("{other}"),
                };
                values.push(b.input(*name, act(width)));
            }
            Ok(vec![build(b, &values)?])
        });
        self.fixture.run(f, tensors).remove(0)
    }
}

/// The greatest difference as a share of the greatest magnitude.
fn relative(got: &Tensor, expected: &Tensor) -> f32 {
    let (got, expected) = (data(got), data(expected));
    assert_eq!(got.len(), expected.len());
    let most = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    got.iter().zip(expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / most
}

fn check(got: &Tensor, expected: &Tensor, tolerance: f32, what: &str) {
    let error = relative(got, expected);
    assert!(error <= tolerance, "{what}: relative difference {error:e}, allowed {tolerance:e}");
}

const NORM: f32 = 1e-5;
const LINEAR: f32 = 1e-6;

fn check_model(model: &str) {
    let mut o = Oracle::open(model);
    let (heads, kv_heads) = (o.number("heads"), o.number("kv"));
    let head_dim = o.number("hidden") / heads;
    let eps = o.index["rms_eps"].as_f64().expect("eps") as f32;
    let theta = o.index["rope_theta"].as_f64().expect("theta") as f32;
    let ids: Vec<u32> = o.index["prompts"][0]["ids"]
        .as_array()
        .expect("ids")
        .iter()
        .map(|id| id.as_u64().expect("an id") as u32)
        .collect();

    let table = o.param("token_embd");
    let embed = o.fixture.func(|b| {
        let tok = b.input("tok", tokens());
        Ok(vec![b.embed(tok, table)?])
    });
    let embedded = o.fixture.run(embed, vec![Tensor::Tokens(ids.clone())]).remove(0);
    check(&embedded, &o.stored("embed"), 0.0, "embed");

    let mut residual = "embed".to_owned();
    for layer in 0..o.number("layers") {
        let l = |name: &str| format!("l{layer}.{name}");
        let norm = |o: &mut Oracle, from: &[&str], weight: &str, to: &str| {
            let w = o.param(&format!("blk.{layer}.{weight}"));
            let y = o.run(from, |b, x| {
                let x = if x.len() == 2 { b.add(x[0], x[1])? } else { x[0] };
                b.rms_norm(x, w, eps)
            });
            check(&y, &o.stored(to), NORM, to);
        };
        let linear = |o: &mut Oracle, from: &str, weight: &str, to: &str| {
            let w = o.param(&format!("blk.{layer}.{weight}"));
            let y = o.run(&[from], |b, x| {
                let q = b.quant_absmax(x[0])?;
                b.ternary_matmul(q, w)
            });
            check(&y, &o.stored(to), LINEAR, to);
        };
        norm(&mut o, &[&residual], "attn_norm", &l("attn_norm"));
        for part in ["q", "k", "v"] {
            linear(&mut o, &l("attn_norm"), &format!("attn_{part}"), &l(part));
        }

        let cache = Type::cache(DType::F32, CacheDims { kv_heads, head_dim });
        let inputs = [l("q"), l("k"), l("v")].map(|name| o.stored(&name));
        let attend = o.fixture.func(|b| {
            let (q, kv) = (heads * head_dim, kv_heads * head_dim);
            let (q, k, v) = (b.input("q", act(q)), b.input("k", act(kv)), b.input("v", act(kv)));
            let (kc, vc) = (b.input("kc", cache.clone()), b.input("vc", cache.clone()));
            let pos = b.input("pos", position());
            let q = b.rope(q, pos, theta.into(), head_dim, head_dim, Pairs::Halves)?;
            let k = b.rope(k, pos, theta.into(), head_dim, head_dim, Pairs::Halves)?;
            let [kc, vc] = b.kv_append(kc, vc, k, v, pos)?;
            Ok(vec![b.attention(q, kc, vc, pos, heads, kv_heads, 1.0 / (head_dim as f32).sqrt())?])
        });
        let empty = || Tensor::empty_cache(&cache, 64).expect("a cache type");
        let inputs = inputs.into_iter().chain([empty(), empty(), Tensor::Position(0)]).collect();
        let y = o.fixture.run(attend, inputs).remove(0);
        check(&y, &o.stored(&l("attn_heads_out")), NORM, &l("attn_heads_out"));

        norm(&mut o, &[&l("attn_heads_out")], "attn_sub_norm", &l("attn_sub_norm"));
        linear(&mut o, &l("attn_sub_norm"), "attn_output", &l("attn_output"));
        norm(&mut o, &[&residual, &l("attn_output")], "ffn_norm", &l("ffn_norm"));
        for part in ["gate", "up"] {
            linear(&mut o, &l("ffn_norm"), &format!("ffn_{part}"), &l(part));
        }
        let w = o.param(&format!("blk.{layer}.ffn_sub_norm"));
        let y = o.run(&[&l("gate"), &l("up")], |b, x| {
            let gate = b.relu2(x[0])?;
            let y = b.mul(gate, x[1])?;
            b.rms_norm(y, w, eps)
        });
        check(&y, &o.stored(&l("ffn_sub_norm")), NORM, &l("ffn_sub_norm"));
        linear(&mut o, &l("ffn_sub_norm"), "ffn_down", &l("ffn_down"));
        let y = o.run(&[&residual, &l("attn_output"), &l("ffn_down")], |b, x| {
            let h = b.add(x[0], x[1])?;
            b.add(h, x[2])
        });
        check(&y, &o.stored(&l("out")), NORM, &l("out"));
        residual = l("out");
    }

    let w = o.param("output_norm");
    let y = o.run(&[&residual], |b, x| b.rms_norm(x[0], w, eps));
    check(&y, &o.stored("output_norm"), NORM, "output_norm");
    let tied = o.index["config"]["tied"].as_bool().expect("tied");
    let head = if tied { table } else { o.param("output") };
    let y = o.run(&["output_norm"], |b, x| b.matmul(x[0], head));
    let prompt = &o.index["prompts"][0];
    let at = prompt["logits_bin_offset"].as_u64().expect("offset") as usize;
    let logits = f32s(&read(&format!("logits_{model}.bin"))[at..at + 4 * data(&y).len()]);
    check(&y, &Tensor::f32(o.number("vocab") as usize, logits), NORM, "logits");
}

#[test]
fn every_op_agrees_with_the_reference_tied_head() {
    check_model("A");
}

#[test]
fn every_op_agrees_with_the_reference_separate_head() {
    check_model("C");
}
