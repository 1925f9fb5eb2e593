//! A text from a prompt: `cargo run --release --example generate [MODEL] [PROMPT]`.

use bitnetc::{Error, Model, Settings};

/// Completes a prompt with a model file, or with the built-in model.
pub fn complete(model: Option<&str>, prompt: &str) -> Result<(), Error> {
    let model = match model {
        Some(path) => Model::load(path)?,
        None => Model::builtin()?,
    };
    let mut session = model.session(256)?;
    let settings = Settings { limit: Some(24), stops: vec!["\n\n".to_owned()], ..Settings::greedy() };
    let completion = session.complete(prompt, &settings)?;
    println!("{prompt}{}", completion.text);
    println!("({} tokens, ended by {:?})", completion.tokens.len(), completion.finish);
    Ok(())
}

/// See [`complete`].
pub fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let model = args.next();
    complete(model.as_deref(), &args.next().unwrap_or_else(|| "ROMEO:".to_owned()))
}
