//! Calls: inputs, outputs, ownership of caches, observation.

use bitnetc_ir::interp::{Cache, CacheData, InterpError, Interpreter, Tensor};
use bitnetc_ir::{CacheDims, DType, Entity, FuncBuilder, FuncId, TokenCount, Type};

use crate::fixture::{Fixture, act, position, quant, tokens};

const DIMS: CacheDims = CacheDims { kv_heads: 1, head_dim: 2 };

fn cache_ty() -> Type {
    Type::cache(DType::F32, DIMS)
}

fn empty(capacity: u32) -> Tensor {
    Tensor::empty_cache(&cache_ty(), capacity).expect("a cache type")
}

fn address(tensor: &Tensor) -> *const f32 {
    match tensor {
        Tensor::Cache(Cache { data: CacheData::F32(data), .. }) => data.as_ptr(),
        other => panic!("{other}"),
    }
}

fn add_func(m: &mut Fixture) -> FuncId {
    m.func(|b| {
        let (x, y) = (b.input("x", act(2)), b.input("y", act(2)));
        Ok(vec![b.add(x, y)?])
    })
}

fn rejected(m: &Fixture, f: FuncId, inputs: Vec<Tensor>) -> String {
    m.try_run(f, inputs).expect_err("these inputs are wrong").to_string()
}

#[test]
fn inputs_are_checked() {
    let mut m = Fixture::new();
    let f = add_func(&mut m);
    let x = |rows: usize, width: usize| Tensor::f32(width, vec![0.0; rows * width]);
    assert!(m.try_run(f, vec![x(3, 2), x(3, 2)]).is_ok());
    assert!(rejected(&m, f, vec![x(3, 2)]).contains("takes 2 inputs, got 1"));
    assert!(
        rejected(&m, f, vec![x(3, 2), x(2, 2)])
            .contains("%y is f32, 2 rows of 2, expected f32[Tx2] with T=3")
    );
    assert!(rejected(&m, f, vec![x(3, 1), x(3, 2)]).contains("%x is f32, 3 rows of 1"));
    assert!(rejected(&m, f, vec![x(0, 2), x(0, 2)]).contains("1 to 512 tokens in a call, got 0"));
    assert!(rejected(&m, f, vec![x(513, 2), x(513, 2)]).contains("got 513"));
    assert!(rejected(&m, f, vec![Tensor::Tokens(vec![1]), x(1, 2)]).contains("%x is 1 token ids"));
    let broken = Tensor::F32 { rows: 3, width: 2, data: vec![0.0; 5] };
    assert!(rejected(&m, f, vec![broken, x(3, 2)]).contains("%x is f32"));
    let unknown = FuncId::from_index(7);
    assert_eq!(m.try_run(unknown, vec![]), Err(InterpError::UnknownFunc));
}

#[test]
fn quantised_inputs_are_checked() {
    let mut m = Fixture::new();
    let f = m.func(|b| Ok(vec![b.input("q", quant(2))]));
    let q = |a: usize, sums: usize| Tensor::Q8 {
        rows: 1,
        width: 2,
        codes: vec![1, 2],
        a: vec![1.0; a],
        sums: vec![3; sums],
    };
    assert_eq!(m.run(f, vec![q(1, 1)]), [q(1, 1)]);
    assert!(m.try_run(f, vec![q(0, 1)]).is_err());
    assert!(m.try_run(f, vec![q(1, 2)]).is_err());
}

#[test]
fn a_function_of_one_token_takes_one_token() {
    let mut m = Fixture::new();
    let table = m.dense("table", DType::F32, 2, 1, vec![0; 8]);
    let mut builder = FuncBuilder::new(&m.module, "decode", TokenCount::One);
    let ids = builder.input("tok", Type::new(DType::Idx, &[bitnetc_ir::Dim::N(1)]));
    let y = builder.embed(ids, table).expect("well typed");
    let func = builder.finish(vec![y]);
    let f = m.module.add_func(func);
    assert_eq!(m.run(f, vec![Tensor::Tokens(vec![1])]), [Tensor::f32(1, vec![0.0])]);
    assert!(
        rejected(&m, f, vec![Tensor::Tokens(vec![1, 1])]).contains("%tok is 2 token ids, expected idx[1]")
    );
}

fn append_func(m: &mut Fixture, keep_old: bool) -> FuncId {
    m.func(|b| {
        let (kc, vc) = (b.input("kc", cache_ty()), b.input("vc", cache_ty()));
        let (k, pos) = (b.input("k", act(2)), b.input("pos", position()));
        let [kc2, vc2] = b.kv_append(kc, vc, k, k, pos)?;
        Ok(if keep_old { vec![kc2, vc2, kc] } else { vec![kc2, vc2] })
    })
}

#[test]
fn caches_are_changed_in_place_where_the_old_value_is_dead() {
    let mut m = Fixture::new();
    let f = append_func(&mut m, false);
    let (kc, vc) = (empty(64), empty(64));
    let (ka, va) = (address(&kc), address(&vc));
    let inputs = vec![kc, vc, Tensor::f32(2, vec![1.0, 2.0]), Tensor::Position(0)];
    let out = m.run(f, inputs);
    assert_eq!((address(&out[0]), address(&out[1])), (ka, va));
}

#[test]
fn a_cache_that_is_read_again_keeps_its_value() {
    let mut m = Fixture::new();
    let f = append_func(&mut m, true);
    let inputs = vec![empty(64), empty(64), Tensor::f32(2, vec![1.0, 2.0]), Tensor::Position(0)];
    let out = m.run(f, inputs);
    assert_eq!(out[2], empty(64));
    assert_ne!(out[0], empty(64));
}

#[test]
fn caches_have_one_capacity_in_whole_blocks() {
    let mut m = Fixture::new();
    let f = append_func(&mut m, false);
    let inputs = |a, b, pos| vec![empty(a), empty(b), Tensor::f32(2, vec![1.0, 2.0]), Tensor::Position(pos)];
    assert!(rejected(&m, f, inputs(64, 128, 0)).contains("one capacity for all caches"));
    assert!(rejected(&m, f, inputs(65, 65, 0)).contains("a multiple of 64"));
    assert!(rejected(&m, f, inputs(64, 64, u32::MAX)).contains("below 2^32"));
    let full = m.try_run(f, inputs(64, 64, 64));
    assert_eq!(full, Err(InterpError::Capacity { pos: 64, tokens: 1, capacity: 64 }));
}

#[test]
fn every_value_is_shown_once_in_program_order() {
    let mut m = Fixture::new();
    let f = m.func(|b| {
        let x = b.input("x", act(2));
        let unread = b.relu2(x)?;
        assert_eq!(b.ty(unread), &act(2));
        let y = b.add(x, x)?;
        Ok(vec![y, y, x])
    });
    let mut seen = Vec::new();
    let x = Tensor::f32(2, vec![3.0, -1.0]);
    let out = Interpreter::new(&m.module, &m.weights)
        .run_observed(f, vec![x.clone()], &mut |id, tensor| seen.push((id, tensor.clone())))
        .expect("runs");
    let sum = Tensor::f32(2, vec![6.0, -2.0]);
    assert_eq!(out, [sum.clone(), sum.clone(), x.clone()]);
    let ids: Vec<_> = seen.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, m.module.funcs()[f].values().collect::<Vec<_>>());
    assert_eq!(seen[1].1, Tensor::f32(2, vec![9.0, 0.0]));
    assert_eq!(seen[2].1, sum);
}

#[test]
fn a_module_that_breaks_the_rules_gives_an_error() {
    // The input gets another type after the ops were built on it.
    let mut m = Fixture::new();
    let f = add_func(&mut m);
    m.module.func_mut(f).set_input_type(1, act(3));
    let inputs = vec![Tensor::f32(2, vec![0.0; 2]), Tensor::f32(3, vec![0.0; 3])];
    assert!(matches!(m.try_run(f, inputs), Err(InterpError::Op { .. })));
    // An output that nothing makes before the end: a value of a removed node.
    let g = m.func(|b| Ok(vec![b.input("tok", tokens())]));
    let inner = m.module.func_mut(g);
    let input = inner.inputs()[0];
    inner.set_outputs(vec![input, bitnetc_ir::ValueId::from_index(9)]);
    let error = InterpError::Undefined { func: "f1".into(), op: "return" };
    assert_eq!(m.try_run(g, vec![Tensor::Tokens(vec![0])]), Err(error));
}

#[test]
fn equality_is_by_bits_with_one_nan() {
    let one = |x: f32| Tensor::f32(1, vec![x]);
    assert_eq!(one(f32::NAN), one(f32::from_bits(0xffc0_0001)));
    assert_ne!(one(0.0), one(-0.0));
    assert_ne!(one(1.0), Tensor::f32(1, vec![1.0, 1.0]));
    let difference =
        Tensor::f32(3, vec![1.0, 2.0, 3.0]).first_difference(&Tensor::f32(3, vec![1.0, 5.0, 4.0]));
    assert_eq!(difference.as_deref(), Some("f32[1]: 2.0 against 5.0 (2 of 3 differ)"));
}
