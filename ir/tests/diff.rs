//! Comparing modules by structure.

use bitnetc_ir::diff::{DiffOptions, Difference, Kind, diff};
use bitnetc_ir::generate::{GenOptions, random_module};
use bitnetc_ir::{Module, Stage, TokenCount, text};

const BASE: &str = "bir 1 stage=imported
param @w: f32[32] = file \"w\" #00112233445566778899aabbccddeeff
func @f(%x: f32[32], %y: f32[32]) -> (f32[32]) tokens=1 {
  %n = rms_norm %x, @w {eps=1e-5} : f32[32]
  %a = relu2 %n : f32[32]
  %b = silu %y : f32[32]
  %s = add %a, %b : f32[32]
  return %s
}";

fn module(text: &str) -> Module {
    text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn compare(left: &str, right: &str) -> Vec<Difference> {
    diff(&module(left), &module(right), DiffOptions::default())
}

fn summary(found: &[Difference]) -> Vec<String> {
    found.iter().map(|d| format!("{} {}", d.kind.name(), d.what)).collect()
}

#[test]
fn names_do_not_count() {
    let renamed = BASE.replace("%n", "%first").replace("%a", "%second").replace("%s", "%sum");
    assert_eq!(compare(BASE, &renamed), []);
}

#[test]
fn a_module_equals_its_text_in_every_stage() {
    for seed in 0..60 {
        let stage = Stage::ALL[seed as usize % Stage::ALL.len()];
        let tokens = if seed % 3 == 0 { TokenCount::One } else { TokenCount::UpTo(3) };
        let (module, _) = random_module(seed, &GenOptions { stage, tokens, ..GenOptions::default() });
        let again = text::parse(&text::print(&module)).unwrap();
        assert_eq!(diff(&module, &again, DiffOptions::default()), [], "{seed}");
    }
}

#[test]
fn an_attribute_an_operand_and_an_op_are_told_apart() {
    let attr = compare(BASE, &BASE.replace("1e-5", "1e-6"));
    assert_eq!(summary(&attr), ["changed attributes"]);
    assert_eq!(attr[0].left.as_deref(), Some("%0 = rms_norm %x, @w {eps=1e-5} : f32[32]"));
    assert_eq!(attr[0].right.as_deref(), Some("%0 = rms_norm %x, @w {eps=1e-6} : f32[32]"));

    let operand = compare(BASE, &BASE.replace("silu %y", "silu %x"));
    assert_eq!(summary(&operand), ["changed operand 0"]);

    let op = compare(BASE, &BASE.replace("silu", "relu2"));
    assert_eq!(summary(&op), ["removed op", "changed operand 1", "added op"]);

    let longer = BASE.replace("return %s", "%t = relu2 %s : f32[32] return %t");
    assert_eq!(summary(&compare(BASE, &longer)), ["changed outputs", "added op"]);
    assert_eq!(summary(&compare(&longer, BASE)), ["changed outputs", "removed op"]);
}

#[test]
fn commuted_operands_and_moved_ops_are_differences() {
    let commuted = compare(BASE, &BASE.replace("add %a, %b", "add %b, %a"));
    assert_eq!(summary(&commuted), ["changed operand 0, operand 1"]);
    let lines: Vec<&str> = BASE.lines().collect();
    let moved = [&lines[..3], &[lines[5], lines[3], lines[4]], &lines[6..]].concat().join("\n");
    let found = compare(BASE, &moved);
    assert_eq!(summary(&found), ["moved op"]);
    assert!(found[0].to_string().contains("silu"), "{}", found[0]);
    let without = DiffOptions { plan: false };
    assert_eq!(diff(&module(BASE), &module(&moved), without), []);
}

#[test]
fn weights_signatures_and_functions_have_names() {
    let weight = compare(BASE, &BASE.replace("#00", "#01"));
    assert_eq!(summary(&weight), ["changed weight"]);
    let renamed = compare(BASE, &BASE.replace("@w", "@v"));
    assert_eq!(summary(&renamed), ["removed weight", "added weight", "changed operand 1"]);
    let func = compare(BASE, &BASE.replace("@f", "@g"));
    assert_eq!(summary(&func), ["removed function", "added function"]);
    let input = compare(BASE, &BASE.replace("%y", "%z"));
    assert_eq!(summary(&input), ["changed inputs", "changed operand 0"]);
}

#[test]
fn places_and_barriers_count_unless_they_are_left_out() {
    let planned = |place: &str| {
        format!(
            "bir 1 stage=planned target=x86_64+sse4.1
            func @f(%x: f32[32]) -> (f32[32]) tokens=1 arena=256 {{
              %a = relu2 %x : f32[32] {place}
              %b = relu2 %a : f32[32] extern
              return %b
            }}"
        )
    };
    let (a, b) = (planned("at 0+128 barrier"), planned("at 128+128 barrier"));
    assert_eq!(summary(&compare(&a, &b)), ["changed place"]);
    assert_eq!(summary(&compare(&a, &planned("at 0+128"))), ["changed barrier"]);
    assert_eq!(diff(&module(&a), &module(&b), DiffOptions { plan: false }), []);
}

#[test]
fn different_modules_differ_in_both_directions() {
    for seed in 0..30 {
        let options = GenOptions { ops: 30, ..GenOptions::default() };
        let (a, _) = random_module(seed, &options);
        let (b, _) = random_module(seed + 1, &options);
        let there = diff(&a, &b, DiffOptions::default());
        let back = diff(&b, &a, DiffOptions::default());
        // Every op is somewhere: paired, removed or added.
        let ops = |module: &Module| module.funcs().values().map(|f| f.order().len()).sum::<usize>();
        let count =
            |all: &[Difference], kind: Kind| all.iter().filter(|d| d.kind == kind && d.what == "op").count();
        for (found, left, right) in [(&there, &a, &b), (&back, &b, &a)] {
            let pairs = ops(left) - count(found, Kind::Removed);
            assert_eq!(pairs, ops(right) - count(found, Kind::Added), "{seed}");
            assert!(!found.is_empty());
        }
    }
}
