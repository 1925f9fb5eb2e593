//! A conversation of two turns; the second computes only what is new: `cargo run --release --example chat`.

use std::io::Write;

use bitnetc::{Model, Settings};

/// Asks two questions and says what came from the cache.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = Model::builtin()?;
    let mut chat = model.chat(256)?;
    chat.reset(Some("Speak in verse."));
    let settings = Settings { limit: Some(16), ..Settings::greedy() };
    for question in ["Who art thou?", "What news?"] {
        println!("> {question}");
        let reply = chat.ask(question, &settings, |text| {
            print!("{text}");
            std::io::stdout().flush().is_ok()
        })?;
        println!("\n({} of {} tokens from the cache)", reply.stats.reused_tokens, reply.stats.prompt_tokens);
    }
    Ok(())
}
