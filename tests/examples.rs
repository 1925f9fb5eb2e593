//! The examples run.
#![allow(unreachable_pub, missing_docs, dead_code)]

#[path = "../examples/choose.rs"]
mod choose;
#[path = "../examples/conversation.rs"]
mod conversation;
#[path = "../examples/inspect_ir.rs"]
mod inspect_ir;
#[path = "../examples/json.rs"]
mod json;
#[path = "../examples/stream.rs"]
mod stream;
#[path = "../examples/write_a_kernel.rs"]
mod write_a_kernel;
#[path = "../examples/write_a_pass.rs"]
mod write_a_pass;

#[test]
fn choose_runs() {
    choose::complete(None, "ROMEO:").unwrap();
    assert!(choose::complete(Some("absent.gguf"), "").is_err());
}

#[test]
fn conversation_runs() {
    conversation::main().unwrap();
}

#[test]
fn json_runs() {
    json::main().unwrap();
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
fn write_a_kernel_runs() {
    write_a_kernel::main().unwrap();
}

/// Programs that make texts need one crate.
#[test]
fn examples_of_texts_name_bitnetc_alone() {
    for name in ["choose", "conversation", "json", "stream"] {
        let path = format!("{}/examples/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let other = text.lines().find(|line| line.contains("bitnetc_") || line.contains("extern crate"));
        assert_eq!(other, None, "{name}");
    }
}
