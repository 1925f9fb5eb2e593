//! A text as it is made, token by token, with the probabilities of its tokens: `cargo run --release --example stream`.

use bitnetc::{Error, Model, SamplingParams, Settings};

/// Prints each piece of text as soon as it is certain, with what else might have stood in its place.
pub fn main() -> Result<(), Error> {
    let model = Model::builtin()?;
    let mut session = model.session(128)?;
    let settings = Settings {
        limit: Some(12),
        sampling: SamplingParams { seed: 7, temperature: 0.9, ..SamplingParams::default() },
        logprobs: Some(2),
        ..Settings::default()
    };
    let mut tokens = session.generate("JULIET:", &settings)?;
    for token in tokens.by_ref() {
        let token = token?;
        print!("{:12}", format!("{:?}", token.text));
        for other in token.logprobs.iter().flat_map(|place| &place.top) {
            let text = model.tokenizer().decode_lossy(&[other.id], true);
            print!("  {:5.1} % {text:?}", other.logprob.exp() * 100.0);
        }
        println!();
    }
    println!("{:?}", tokens.finish());
    Ok(())
}
