//! What a model computes, as IR, and what it needs: `cargo run --release --example inspect_ir`.

use bitnetc::Model;
use bitnetc::ir::work::Accounts;

/// Counts the ops of each entry point and what a token costs.
pub fn main() -> Result<(), bitnetc::Error> {
    let model = Model::builtin()?;
    let module = &model.loaded().module;
    for func in module.funcs().values() {
        let mut counts = std::collections::BTreeMap::new();
        for &node in func.order() {
            *counts.entry(func.node(node).op.info().mnemonic).or_insert(0) += 1;
        }
        let ops: Vec<String> = counts.iter().map(|(op, n)| format!("{n} {op}")).collect();
        println!("@{}: {}", func.name(), ops.join(", "));
    }
    let step = Accounts::of(module).step(100);
    println!("a token at position 100 reads {} bytes and multiplies {} times", step.bytes(), step.macs());
    let text = bitnetc::ir::text::print(module);
    println!("the first ops of @decode:");
    for line in text.lines().skip_while(|line| !line.contains("func @decode")).skip(1).take(4) {
        println!("{line}");
    }
    Ok(())
}
