//! Modules at the bounds of `bitnetc_ir::limits`, or shaped so that something of them is as many as there are ops. Everything
//! that is done with them takes time `n log n`; if anything compared each op with each other, these tests would take minutes.

use std::fmt::Write;

use bitnetc_ir::limits::{MAX_OPS, MAX_PARTS};
use bitnetc_ir::{Arch, Module, TargetDesc, text, verify};
use bitnetc_passes::{PassContext, Pipeline, PlanViolation, check_plan, run};

fn parsed(text: &str) -> Module {
    let module = text::parse(text).unwrap();
    verify::verify(&module).unwrap();
    module
}

fn planned(ops: usize, body: impl Fn(usize) -> String, last: &str) -> Module {
    let mut text = format!(
        "bir 1 stage=planned target=x86_64+sse4.1\n\
         func @f(%x: f32[16]) -> (f32[16]) tokens=1 arena={} {{\n",
        64 * ops
    );
    for i in 0..ops - 1 {
        text += &body(i);
    }
    write!(text, "%last = add {last} : f32[16] extern\nreturn %last\n}}").unwrap();
    parsed(&text)
}

#[test]
fn a_phase_with_all_ops_is_proved() {
    let module = planned(MAX_OPS, |i| format!("%{i} = add %x, %x : f32[16] at {}+64\n", 64 * i), "%x, %x");
    check_plan(&module.funcs()[module.func_named("f").unwrap()]).unwrap();
}

#[test]
fn a_race_of_the_first_op_with_the_last_is_found() {
    let at = |i: usize| 64 * (i % (MAX_OPS - 2));
    let module = planned(MAX_OPS, |i| format!("%{i} = add %x, %x : f32[16] at {}+64\n", at(i)), "%x, %x");
    let found = check_plan(&module.funcs()[module.func_named("f").unwrap()]);
    assert!(matches!(found, Err(PlanViolation::Race { .. })), "{found:?}");
}

#[test]
fn a_phase_for_each_op_and_a_chain_of_aliases_are_proved() {
    let body = |i: usize| match i {
        0 => "%0 = relu2 %x : f32[16] at 0+64 barrier\n".to_owned(),
        _ => format!("%{i} = relu2 %{} : f32[16] alias %{} barrier\n", i - 1, i - 1),
    };
    let last = format!("%{}, %x", MAX_OPS - 2);
    let module = planned(MAX_OPS, body, &last);
    check_plan(&module.funcs()[module.func_named("f").unwrap()]).unwrap();
}

/// A function in stage `imported` with `ops` ops, of which `body` gives all but the last.
fn compiles(ops: usize, body: impl Fn(usize) -> String, last: &str) {
    let mut text = "bir 1 stage=imported\nfunc @f(%x: f32[16]) -> (f32[16]) tokens=1 {\n".to_owned();
    for i in 0..ops - 1 {
        text += &body(i);
    }
    write!(text, "%last = {last} : f32[16]\nreturn %last\n}}").unwrap();
    let context = PassContext::new(TargetDesc::baseline(Arch::X86_64));
    let (module, _) = run(&Pipeline::default(), parsed(&text), &context).unwrap();
    assert!(!module.funcs().is_empty());
}

#[test]
fn equal_ops_and_ops_that_nothing_reads_compile() {
    compiles(20_000, |i| format!("%{i} = add %x, %x : f32[16]\n"), "add %x, %x");
    compiles(
        20_000,
        |i| {
            format!("%{i} = relu2 %{} : f32[16]\n", if i == 0 { "x".to_owned() } else { (i - 1).to_string() })
        },
        "add %x, %x",
    );
}

#[test]
fn a_value_with_as_many_readers_as_ops_compiles() {
    // The readers are all different, and each is read by the next.
    let body = |i: usize| match i {
        0 => "%0 = relu2 %x : f32[16]\n".to_owned(),
        1 => "%1 = add %0, %0 : f32[16]\n".to_owned(),
        _ => format!("%{i} = add %0, %{} : f32[16]\n", i - 1),
    };
    compiles(20_000, body, "relu2 %19998");
}

#[test]
fn more_parts_than_a_value_may_have_are_refused() {
    let parts = |n: usize| {
        let names: Vec<String> = (0..n).map(|i| format!("%p{i}")).collect();
        let (ones, types) = (vec!["1"; n].join(","), vec!["f32[1]"; n].join(", "));
        format!(
            "bir 1 stage=fused\nfunc @f(%x: f32[{n}]) -> (f32[1]) tokens=1 {{\n{} = split %x {{sizes=[{ones}]}} : {types}\n\
             %y = relu2 %p0 : f32[1]\nreturn %y\n}}",
            names.join(", ")
        )
    };
    parsed(&parts(MAX_PARTS));
    let error = text::parse(&parts(MAX_PARTS + 1)).unwrap_err().to_string();
    assert!(error.contains("more than 64 results of an op"), "{error}");
    assert!(text::parse(&parts(300_000)).is_err());

    // The same number, part by part.
    let mut text = "bir 1 stage=fused\nfunc @f(%x: f32[100]) -> (f32[1]) tokens=1 {\n".to_owned();
    for i in 0..40 {
        let (of, rest) = (if i == 0 { "x".to_owned() } else { format!("r{}", i - 1) }, 99 - i);
        writeln!(text, "%p{i}, %r{i} = split %{of} {{sizes=[1,{rest}]}} : f32[1], f32[{rest}]").unwrap();
    }
    text += "%y = relu2 %p0 : f32[1]\nreturn %y\n}";
    let errors = verify::verify(&text::parse(&text).unwrap()).unwrap_err();
    assert!(errors.iter().all(|e| e.rule.code() == "split-parts"), "{errors:?}");
}

#[test]
fn more_ops_or_functions_than_a_module_may_have_are_refused() {
    let func = |name: usize, ops: usize| {
        let body: String = (0..ops).map(|i| format!("%{i} = add %x, %x : f32[16]\n")).collect();
        format!("func @f{name}(%x: f32[16]) -> (f32[16]) tokens=1 {{\n{body}return %0\n}}\n")
    };
    let module = |funcs: usize, ops: usize| {
        let all: String = (0..funcs).map(|name| func(name, ops)).collect();
        text::parse(&format!("bir 1 stage=imported\n{all}"))
    };
    module(4, MAX_OPS / 4).unwrap();
    let error = module(4, MAX_OPS / 4 + 1).unwrap_err().to_string();
    assert!(error.contains("more than 65536 ops"), "{error}");
    let error = module(257, 1).unwrap_err().to_string();
    assert!(error.contains("more than 256 functions"), "{error}");
}
