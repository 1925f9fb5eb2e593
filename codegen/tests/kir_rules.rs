//! The verifier refuses a kernel for each of its rules, the interpreter faults where it says, the text form is stable.

use std::collections::BTreeSet;

use bitnetc_codegen::kir::interp::{Arg, Fault, InterpError, Memory, run};
use bitnetc_codegen::kir::{
    Access, Block, Handle, IntCond, Kernel, KernelBuilder, MAX_STATEMENTS, Op, Rule, Scalar, Stmt, Type,
    Value, verify,
};

/// A kernel with a loop and a choice, to be spoiled.
fn sound() -> Kernel {
    let mut b = KernelBuilder::new("sound");
    let (x, y) = (b.ptr("x", Access::ReadOnly), b.ptr("y", Access::ReadWrite));
    let n = b.int_param("n");
    let zero = b.splat_f32(0.0);
    let (sum, _) = b.for_loop(0, n, 1, (zero, x), |b, _, (sum, at)| {
        let v = b.load_f32(at, 0, 16);
        let sum = b.fadd(sum, v);
        let at = b.add(at, 64);
        (sum, at)
    });
    let sum = b.if_else(n, IntCond::Gt, 1, |b| b.reduce_add_f32(sum), |_| sum);
    b.store_f32(y, sum, 0, 1);
    b.finish().unwrap()
}

/// The rules that a spoiled kernel breaks.
fn broken(spoil: impl FnOnce(&mut Kernel)) -> BTreeSet<&'static str> {
    let mut kernel = sound();
    spoil(&mut kernel);
    match verify(&kernel) {
        Ok(()) => panic!("nobody noticed:\n{kernel}"),
        Err(e) => {
            assert!(e.to_string().contains(&e.kernel));
            e.violations.iter().map(|v| v.rule.name()).collect()
        }
    }
}

fn loop_of(kernel: &mut Kernel) -> &mut bitnetc_codegen::kir::Loop {
    kernel.body.stmts.iter_mut().find_map(|s| if let Stmt::Loop(l) = s { Some(l) } else { None }).unwrap()
}

fn if_of(kernel: &mut Kernel) -> &mut bitnetc_codegen::kir::If {
    kernel.body.stmts.iter_mut().find_map(|s| if let Stmt::If(i) = s { Some(i) } else { None }).unwrap()
}

/// Adds a value to the type table.
fn fresh(kernel: &mut Kernel, ty: Type) -> Value {
    kernel.types.push(ty);
    Value(kernel.types.len() as u32 - 1)
}

fn append(kernel: &mut Kernel, op: Op, result: Option<Type>) {
    let result = result.map(|ty| fresh(kernel, ty));
    kernel.body.stmts.push(Stmt::Op { result, op });
}

const X: Value = Value(0);
const Y: Value = Value(1);
const N: Value = Value(2);
const ZERO: Value = Value(3);

#[test]
fn every_rule_is_enforced() {
    let mut seen = BTreeSet::new();
    let mut expect = |rule: Rule, spoil: &dyn Fn(&mut Kernel)| {
        let found = broken(spoil);
        assert_eq!(found, BTreeSet::from([rule.name()]));
        seen.extend(found);
    };

    expect(Rule::Name, &|k| k.name = "two words".to_owned());
    expect(Rule::Name, &|k| k.params[1].name = "x".to_owned());
    expect(Rule::Name, &|k| k.params[1].name = String::new());

    expect(Rule::SingleDefinition, &|k| {
        fresh(k, Type::I64);
    });
    expect(Rule::SingleDefinition, &|k| {
        k.body.stmts.insert(0, Stmt::Op { result: Some(N), op: Op::Int { value: 1 } });
    });
    expect(Rule::SingleDefinition, &|k| {
        let beyond = Value(k.types.len() as u32);
        k.body.stmts.push(Stmt::Op { result: Some(beyond), op: Op::Int { value: 1 } });
    });

    expect(Rule::DefinitionBeforeUse, &|k| {
        let first = k.body.stmts.remove(0);
        k.body.stmts.push(first);
    });
    expect(Rule::DefinitionBeforeUse, &|k| {
        // A value of the loop's body, used after it.
        let inside = loop_of(k).index;
        append(k, Op::Add { a: inside, b: inside }, Some(Type::I64));
    });
    expect(Rule::DefinitionBeforeUse, &|k| append(k, Op::Add { a: Value(9999), b: N }, Some(Type::I64)));

    expect(Rule::OperandType, &|k| append(k, Op::Add { a: ZERO, b: N }, Some(Type::I64)));
    expect(Rule::OperandType, &|k| append(k, Op::Fadd { a: ZERO, b: N }, Some(Type::Vf)));
    expect(Rule::OperandType, &|k| append(k, Op::AsVi { v: N }, Some(Type::Vi)));
    expect(Rule::OperandType, &|k| loop_of(k).hi = ZERO);
    expect(Rule::OperandType, &|k| if_of(k).a = ZERO);

    expect(Rule::ResultType, &|k| append(k, Op::Fadd { a: ZERO, b: ZERO }, Some(Type::Vi)));
    expect(Rule::ResultType, &|k| append(k, Op::Fadd { a: ZERO, b: ZERO }, None));
    expect(Rule::ResultType, &|k| append(k, Op::Prefetch { ptr: X, offset: 0, level: 1 }, Some(Type::Vf)));
    expect(Rule::ResultType, &|k| {
        let index = loop_of(k).index;
        k.types[index.index()] = Type::Vf;
    });

    expect(Rule::LoopStep, &|k| loop_of(k).step = 0);
    expect(Rule::LoopStep, &|k| loop_of(k).step = -1);

    expect(Rule::LoopCarry, &|k| {
        loop_of(k).body.yields.pop();
    });
    expect(Rule::LoopCarry, &|k| loop_of(k).carries[0].init = N);
    expect(Rule::LoopCarry, &|k| {
        let index = loop_of(k).index;
        loop_of(k).body.yields[0] = index;
    });
    expect(Rule::LoopCarry, &|k| {
        let result = loop_of(k).carries[1].result;
        k.types[result.index()] = Type::Vi;
    });

    expect(Rule::IfResults, &|k| if_of(k).otherwise.yields[0] = N);
    expect(Rule::IfResults, &|k| if_of(k).otherwise = Block::default());
    expect(Rule::IfResults, &|k| {
        if_of(k).then.yields.push(N);
    });

    expect(Rule::BodyYield, &|k| k.body.yields.push(N));

    let attributes: &[(Op, Option<Type>)] = &[
        (Op::LoadF32 { ptr: X, offset: 0, lanes: 0 }, Some(Type::Vf)),
        (Op::LoadI32 { ptr: X, offset: 0, lanes: 17 }, Some(Type::Vi)),
        (Op::LoadF16 { ptr: X, offset: 0, lanes: 17, finite: true }, Some(Type::Vf)),
        (Op::LoadBf16 { ptr: X, offset: 0, lanes: 0 }, Some(Type::Vf)),
        (Op::LoadI8 { ptr: X, offset: 0, lanes: 17 }, Some(Type::Vi)),
        (Op::LoadBytes { ptr: X, offset: 0, bytes: 65 }, Some(Type::Vb)),
        (Op::LoadF32 { ptr: X, offset: i32::MAX, lanes: 1 }, Some(Type::Vf)),
        (Op::Prefetch { ptr: X, offset: i32::MIN, level: 1 }, None),
        (Op::Prefetch { ptr: X, offset: 0, level: 0 }, None),
        (Op::Prefetch { ptr: X, offset: 0, level: 3 }, None),
        (Op::StoreF32 { ptr: Y, v: ZERO, offset: 0, lanes: 0 }, None),
        (Op::StoreF16 { ptr: Y, v: ZERO, offset: 0, lanes: 17 }, None),
        (Op::StoreF16Strided { ptr: Y, v: ZERO, offset: 0, stride: 1, lanes: 2 }, None),
        (Op::StoreF16Strided { ptr: Y, v: ZERO, offset: 0, stride: 2, lanes: 0 }, None),
        (Op::SplatLaneF32 { v: ZERO, lane: 16 }, Some(Type::Vf)),
        (Op::Shl { a: N, bits: 64 }, Some(Type::I64)),
        (Op::Shr { a: N, bits: 64 }, Some(Type::I64)),
        (Op::Udiv { a: N, divisor: 0 }, Some(Type::I64)),
        (Op::Urem { a: N, divisor: -5 }, Some(Type::I64)),
    ];
    for (op, result) in attributes {
        expect(Rule::Attribute, &|k| append(k, op.clone(), *result));
    }
    type OnVi = fn(Value) -> (Op, Type);
    let with_bits: &[OnVi] = &[
        |v| (Op::Ishl { a: v, bits: 32 }, Type::Vi),
        |v| (Op::Ushr { a: v, bits: 32 }, Type::Vi),
        |v| (Op::Sshr { a: v, bits: 32 }, Type::Vi),
        |v| (Op::SplatLaneI32 { v, lane: 16 }, Type::Vi),
        |v| (Op::ExtractI32 { v, lane: 16 }, Type::I64),
    ];
    for make in with_bits {
        expect(Rule::Attribute, &|k| {
            append(k, Op::Iota {}, Some(Type::Vi));
            let v = Value(k.types.len() as u32 - 1);
            let (op, ty) = make(v);
            append(k, op, Some(ty));
        });
    }

    expect(Rule::Address, &|k| append(k, Op::LoadF32 { ptr: N, offset: 0, lanes: 1 }, Some(Type::Vf)));
    expect(Rule::Address, &|k| {
        // A loaded number is no address.
        append(k, Op::LoadScalar { ptr: X, offset: 0, kind: Scalar::I64 }, Some(Type::I64));
        let loaded = Value(k.types.len() as u32 - 1);
        append(k, Op::LoadF32 { ptr: loaded, offset: 0, lanes: 1 }, Some(Type::Vf));
    });
    expect(Rule::Address, &|k| {
        // The sum of two addresses is none, and neither is a product.
        append(k, Op::Add { a: X, b: Y }, Some(Type::I64));
        let mixed = Value(k.types.len() as u32 - 1);
        append(k, Op::LoadF32 { ptr: mixed, offset: 0, lanes: 1 }, Some(Type::Vf));
        append(k, Op::Mul { a: X, b: N }, Some(Type::I64));
        let product = Value(k.types.len() as u32 - 1);
        append(k, Op::LoadF32 { ptr: product, offset: 0, lanes: 1 }, Some(Type::Vf));
    });
    expect(Rule::Address, &|k| {
        // A carried pointer changes its buffer.
        loop_of(k).body.yields[1] = Y;
    });
    expect(Rule::Address, &|k| {
        // A pointer into one of two buffers.
        append(k, Op::Int { value: 0 }, Some(Type::I64));
        let (result, zero) = (fresh(k, Type::I64), Value(k.types.len() as u32 - 2));
        let arm = |v| Block { stmts: Vec::new(), yields: vec![v] };
        k.body.stmts.push(Stmt::If(bitnetc_codegen::kir::If {
            cond: IntCond::Eq,
            a: N,
            b: zero,
            then: arm(X),
            otherwise: arm(Y),
            results: vec![result],
        }));
        append(k, Op::LoadF32 { ptr: result, offset: 0, lanes: 1 }, Some(Type::Vf));
    });

    expect(Rule::Bounds, &|k| k.params[1].bytes = Some(3));
    expect(Rule::Bounds, &|k| {
        // Wherever in a buffer of 2^17 bytes the address is, 16 elements that far after it are not.
        k.params[0].bytes = Some(1 << 17);
        let at = loop_of(k).carries[1].param;
        let sum = fresh(k, Type::Vf);
        let load = Stmt::Op { result: Some(sum), op: Op::LoadF32 { ptr: at, offset: 1 << 17, lanes: 16 } };
        loop_of(k).body.stmts.push(load);
    });

    expect(Rule::ReadOnly, &|k| append(k, Op::StoreF32 { ptr: X, v: ZERO, offset: 0, lanes: 1 }, None));

    let all: BTreeSet<_> = Rule::ALL.iter().map(|r| r.name()).collect();
    assert_eq!(seen, all);
}

#[test]
fn the_documented_rules_are_the_enforced_ones() {
    let source = include_str!("../src/kir/verify.rs");
    for rule in Rule::ALL {
        assert!(source.contains(&format!("//! - `{}`: ", rule.name())), "{} is not documented", rule.name());
    }
    let documented = source.lines().filter(|l| l.starts_with("//! - `")).count();
    assert_eq!(documented, Rule::ALL.len());
}

#[test]
fn pointers_may_be_compared_and_subtracted() {
    let mut b = KernelBuilder::new("pointers");
    let (x, y) = (b.ptr("x", Access::ReadOnly), b.ptr("y", Access::ReadWrite));
    let end = b.add(x, 64);
    let length = b.sub(end, x);
    let at = b.add(y, length);
    b.store_scalar(at, length, -64, Scalar::I64);
    b.if_then(x, IntCond::Ne, end, |b| b.store_scalar(y, length, 8, Scalar::I64));
    b.finish().unwrap();
}

fn fault(kernel: &Kernel, memory: &mut Memory, args: &[Arg]) -> Fault {
    match run(kernel, memory, args) {
        Err(InterpError::Fault { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_interpreter_stops_at_every_wrong_access() {
    let mut b = KernelBuilder::new("copy");
    let (x, y) = (b.ptr("x", Access::ReadOnly), b.ptr("y", Access::ReadWrite));
    let at = b.int_param("at");
    let from = b.add(x, at);
    let v = b.load_i32(from, 0, 4);
    b.store_i32(y, v, 0, 4);
    let kernel = b.finish().unwrap();
    let mut memory = Memory::new();
    let x = memory.add(vec![7; 32], Access::ReadOnly);
    let y = memory.add(vec![0; 16], Access::ReadWrite);
    let go = |from: Arg, to: Arg, at: i64| run(&kernel, &mut memory.clone(), &[from, to, Arg::Int(at)]);
    go(Arg::Ptr(x, 0), Arg::Ptr(y, 0), 16).unwrap();
    go(Arg::Ptr(x, 32), Arg::Ptr(y, 0), -16).unwrap();
    for (offset, at) in [(0, 17), (0, -1), (17, 0), (32, 0), (0, i64::MIN), (0, i64::MAX), (0, 1 << 39)] {
        match go(Arg::Ptr(x, offset), Arg::Ptr(y, 0), at) {
            Err(InterpError::Fault { fault: Fault::OutOfBounds { len: 16, .. }, .. }) => {}
            other => panic!("{offset} {at}: {other:?}"),
        }
    }
    let error = go(Arg::Ptr(x, 0), Arg::Ptr(y, 0), 20).unwrap_err().to_string();
    assert!(error.contains("buffer 0 (of 32 bytes) at offset 20") && error.contains("load_i32"), "{error}");
    let wrong =
        |r: Result<(), InterpError>| assert!(matches!(r, Err(InterpError::Arguments { .. })), "{r:?}");
    wrong(go(Arg::Ptr(x, 0), Arg::Ptr(x, 0), 0));
    wrong(go(Arg::Ptr(x, 33), Arg::Ptr(y, 0), 0));
    wrong(go(Arg::Int(0), Arg::Ptr(y, 0), 0));
    wrong(run(&kernel, &mut memory.clone(), &[]));
}

#[test]
fn the_interpreter_checks_contracts() {
    let build = |f: &dyn Fn(&mut KernelBuilder, bitnetc_codegen::kir::I64)| {
        let mut b = KernelBuilder::new("contract");
        let p = b.ptr("p", Access::ReadWrite);
        f(&mut b, p);
        b.finish().unwrap()
    };
    let check = |kernel: Kernel| {
        let mut memory = Memory::new();
        let p = memory.add(vec![0x81; 64], Access::ReadWrite);
        let found = fault(&kernel, &mut memory, &[Arg::Ptr(p, 0)]);
        assert!(matches!(found, Fault::Contract(_)), "{found:?}");
    };
    check(build(&|b, p| {
        let v = b.load_bytes(p, 0, 64);
        let acc = b.splat_i32(0);
        b.dot_u8i8(acc, v, v, 128);
    }));
    check(build(&|b, p| {
        let mask = b.load_i32(p, 0, 16);
        b.iselect(mask, mask, mask);
    }));
    check(build(&|b, p| {
        let nan = b.splat_f32(f32::NAN);
        b.store_f16(p, nan, 0, 16);
        b.load_f16(p, 0, 16, true);
    }));
    check(build(&|b, p| {
        b.for_loop(i64::MAX - 1, i64::MAX, 2, (), |b, _, ()| b.prefetch(p, 0, 1));
    }));
}

#[test]
fn handles_of_another_builder_are_caught() {
    let mut other = KernelBuilder::new("other");
    let mut foreign = other.ptr("p", Access::ReadOnly);
    for _ in 0..10 {
        foreign = other.add(foreign, 1);
    }
    let mut b = KernelBuilder::new("mine");
    let n = b.int_param("n");
    b.add(n, foreign);
    assert!(b.finish().is_err());
    assert_eq!(n.value(), Value(0));
}

#[test]
fn text_form() {
    let expected = "\
kernel @sound(%0 x: ptr(readonly), %1 y: ptr(readwrite), %2 n: int) {
  %3: vf = splat_f32 {value=0.0}
  %4: i64 = int_const {value=0}
  %7: vf, %9: i64 = loop %5 in %4..%2 step 1 carry (%6 = %3, %8 = %0) {
    %10: vf = load_f32 %8 {offset=0, lanes=16}
    %11: vf = fadd %6, %10
    %12: i64 = int_const {value=64}
    %13: i64 = add %8, %12
    yield %11, %13
  }
  %14: i64 = int_const {value=1}
  %16: vf = if %2 gt %14 {
    %15: vf = reduce_add_f32 %7
    yield %15
  } else {
    yield %7
  }
  store_f32 %1, %16 {offset=0, lanes=1}
}
";
    assert_eq!(sound().to_string(), expected);
}

#[test]
fn accesses_at_known_places_lie_in_their_buffer() {
    let build = |bytes: u64, start: i64, offset: i32| {
        let mut b = KernelBuilder::new("reads");
        let p = b.buffer("p", Access::ReadOnly, bytes);
        let twice = b.int(start);
        let distance = b.mul(twice, 2);
        let at = b.add(p, distance);
        b.load_f32(at, offset, 4);
        b.prefetch(at, 1 << 20, 1);
        b.finish()
    };
    build(64, 24, 0).unwrap();
    build(64, 0, 48).unwrap();
    build(64, 32, -16).unwrap();
    for (bytes, start, offset) in [(64, 0, 49), (64, 25, 0), (64, 0, -1), (63, 24, 0), (64, i64::MAX / 2, 0)]
    {
        let error = build(bytes, start, offset).unwrap_err();
        assert!(error.violations.iter().all(|v| v.rule == Rule::Bounds), "{error}");
    }
}

#[test]
fn distances_that_are_no_offsets_make_no_kernel() {
    let build = |bytes: i64| {
        let mut b = KernelBuilder::new("far");
        let p = b.ptr("p", Access::ReadOnly);
        let offset = b.offset(bytes);
        b.load_f32(p, offset, 4);
        b.finish()
    };
    build(1 << 29).unwrap();
    for bytes in [1 << 31, -(1 << 31) - 1, 1 << 32, i64::MAX] {
        let error = build(bytes).unwrap_err();
        assert_eq!(error.violations[0].rule, Rule::Bounds);
        assert!(error.to_string().contains(&bytes.to_string()), "{error}");
    }
}

#[test]
fn a_kernel_that_never_ends_is_not_kept() {
    let mut b = KernelBuilder::new("endless");
    let p = b.ptr("p", Access::ReadOnly);
    for i in 0..MAX_STATEMENTS {
        assert!(!b.is_too_long(), "{i}");
        b.prefetch(p, 0, 1);
    }
    b.prefetch(p, 0, 1);
    assert!(b.is_too_long());
}
