//! The examples run.
#![allow(unreachable_pub, missing_docs, dead_code)]

#[path = "../examples/batch.rs"]
mod batch;
#[path = "../examples/chat.rs"]
mod chat;
#[path = "../examples/generate.rs"]
mod generate;
#[path = "../examples/inspect_ir.rs"]
mod inspect_ir;
#[path = "../examples/stream.rs"]
mod stream;
#[path = "../examples/write_a_kernel.rs"]
mod write_a_kernel;
#[path = "../examples/write_a_pass.rs"]
mod write_a_pass;

#[test]
fn batch_runs() {
    batch::main().unwrap();
}

#[test]
fn chat_runs() {
    chat::main().unwrap();
}

#[test]
fn inspect_ir_runs() {
    inspect_ir::main().unwrap();
}

#[test]
fn stream_runs() {
    stream::main().unwrap();
}

#[test]
fn write_a_pass_runs() {
    write_a_pass::main().unwrap();
}

#[test]
fn generate_runs() {
    generate::complete(None, "ROMEO:").unwrap();
    assert!(generate::complete(Some("absent.gguf"), "").is_err());
}

#[test]
fn write_a_kernel_runs() {
    write_a_kernel::main().unwrap();
}
