//! Choose head, context, threads and sampling: `cargo run --release --example choose [MODEL] [PROMPT]`.

use bitnetc::{
    BuildOptions, Cpus, EngineOptions, Error, HeadFormat, LoadOptions, Model, SamplingParams, Settings,
};

/// Completes a prompt with a model file, or with the built-in model.
pub fn complete(model: Option<&str>, prompt: &str) -> Result<(), Error> {
    // The head in the format of the file instead of the packed one: slower, and what other programs compute.
    let build = BuildOptions { head: Some(HeadFormat::Stored), ..BuildOptions::default() };
    let options = LoadOptions { build, ..LoadOptions::default() };
    let model = match model {
        Some(path) => Model::load_with(path, &options)?,
        None => Model::builtin_with(&options)?,
    };
    let threads = Cpus::probe().threads().min(2);
    let mut session = model.session_with(EngineOptions::single(model.context().min(512), threads))?;
    let settings = Settings {
        limit: Some(24),
        stops: vec!["\n\n".to_owned()],
        sampling: SamplingParams { temperature: 0.7, top_p: 0.9, seed: 7, ..SamplingParams::default() },
        ..Settings::default()
    };
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
