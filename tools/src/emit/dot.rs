//! The planned module as a graph for Graphviz: a cluster for each function, a box for each op with its weights, kernels and
//! place in program order, a bold edge out of an op that a barrier stands after.
//!
//! Invariants: whatever the names in a model are, they stand escaped inside quoted strings.

use std::fmt::Write;

use bitnetc_ir::text::ValueNames;
use bitnetc_ir::{Entity, Operand, ValueDef};

use super::Lowered;

/// A quoted string.
fn quoted(text: &str) -> String {
    let mut all = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => all.extend(['\\', c]),
            '\n' => all.push_str("\\n"),
            c if c.is_control() => all.extend(c.escape_default()),
            c => all.push(c),
        }
    }
    all.push('"');
    all
}

/// The graph.
pub(super) fn dot(lowered: &Lowered) -> String {
    let module = &lowered.module;
    let kernels = lowered.kernels_of_ops();
    let mut text = String::from("digraph module {\n  node [shape=box, fontname=\"monospace\"];\n");
    // Writing to a String cannot fail.
    for (id, func) in module.funcs().iter() {
        let f = id.index();
        let names = ValueNames::new(func);
        let _ =
            writeln!(text, "  subgraph cluster_{f} {{\n    label={};", quoted(&format!("@{}", func.name())));
        for (i, &input) in func.inputs().iter().enumerate() {
            let label = format!("{}\n{}", names.value(input), func.ty(input));
            let _ = writeln!(text, "    f{f}_i{i} [shape=ellipse, label={}];", quoted(&label));
        }
        for &node in func.order() {
            let op = func.node(node);
            let mut label = names.node(node);
            for operand in &op.operands {
                if let Operand::Param(p) = operand {
                    let decl = &module.params()[*p];
                    let _ = write!(label, "\n@{}: {}", decl.name, decl.ty);
                }
            }
            for kernel in kernels.get(&(id, node)).into_iter().flatten() {
                let _ = write!(label, "\n{kernel}");
            }
            let _ = writeln!(text, "    f{f}_n{} [label={}];", node.index(), quoted(&label));
        }
        for (i, _) in func.outputs().iter().enumerate() {
            let _ =
                writeln!(text, "    f{f}_o{i} [shape=ellipse, label={}];", quoted(&format!("result {i}")));
        }
        let from = |value| match func.value(value).def {
            ValueDef::Input(i) => format!("f{f}_i{i}"),
            ValueDef::Result(node, _) => format!("f{f}_n{}", node.index()),
        };
        let barrier = |value| {
            let plan = func.plan.as_ref();
            func.producer(value).is_some_and(|node| plan.is_some_and(|plan| plan.barriers.contains(&node)))
        };
        let edge = |value, to: String| {
            let style = if barrier(value) { ", style=bold" } else { "" };
            let label = quoted(&func.ty(value).to_string());
            format!("    {} -> {to} [label={label}{style}];\n", from(value))
        };
        for &node in func.order() {
            for operand in &func.node(node).operands {
                if let Operand::Value(v) = operand {
                    text.push_str(&edge(*v, format!("f{f}_n{}", node.index())));
                }
            }
        }
        for (i, &output) in func.outputs().iter().enumerate() {
            text.push_str(&edge(output, format!("f{f}_o{i}")));
        }
        text.push_str("  }\n");
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_cannot_end_early() {
        assert_eq!(quoted("a\"b\\c\nd\u{1}"), "\"a\\\"b\\\\c\\nd\\u{1}\"");
    }
}
