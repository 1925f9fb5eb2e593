//! A text as it is made, token by token: `cargo run --release --example stream`.

use std::io::Write;

use bitnetc::{Model, Settings};

/// Prints each piece of text as soon as it is certain.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = Model::builtin()?;
    let mut session = model.session(128)?;
    let mut settings = Settings { limit: Some(24), ..Settings::default() };
    settings.sampling.seed = 7;
    settings.sampling.temperature = 0.9;
    let mut tokens = session.generate("JULIET:", &settings)?;
    for token in tokens.by_ref() {
        print!("{}", token?.text);
        std::io::stdout().flush()?;
    }
    println!("\n{:?}", tokens.finish());
    Ok(())
}
