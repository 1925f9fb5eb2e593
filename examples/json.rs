//! Texts that follow a JSON schema, made by an engine for clients on several threads: `cargo run --release --example json`.

use std::thread;

use bitnetc::{EngineOptions, Error, GenerateOptions, GrammarSource, Model, Request, SamplingParams};

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": { "name": { "enum": ["Romeo", "Juliet"] }, "age": { "type": "integer", "minimum": 10, "maximum": 99 } },
    "required": ["name", "age"],
    "additionalProperties": false
}"#;

/// Asks for three texts at a time, from a thread each, and returns them.
pub fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let model = Model::builtin()?;
    let engine = model.engine(EngineOptions::of(256, 2, 3))?;
    let ask = |seed: u64| {
        let (engine, model) = (engine.clone(), model.clone());
        move || -> Result<String, Error> {
            let options = GenerateOptions { limit: Some(100), ..GenerateOptions::default() };
            let sampling = SamplingParams { seed, ..SamplingParams::default() };
            let schema = model.constraint(&GrammarSource::JsonSchema(SCHEMA.to_owned()))?;
            let request = Request::new(model.prompt("Who art thou?")?, sampling, options)?;
            // The text of one thread's request does not depend on what the others ask.
            Ok(engine.submit(request.with_constraint(schema)).complete()?.text)
        }
    };
    let threads: Vec<_> = (0..3).map(|seed| thread::spawn(ask(seed))).collect();
    for client in threads {
        let text = client.join().map_err(|_| "a client panicked")??;
        println!("{}", text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    Ok(())
}
