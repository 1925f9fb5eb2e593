//! Many prompts at a time, each with settings of its own: `cargo run --release --example batch`.

use bitnetc::batch::{Generation, generate_many, prompt_tokens};
use bitnetc::generate::GenerateOptions;
use bitnetc::{Error, Model};
use bitnetc_runtime::machine::{Machine, MachineOptions, Record};
use bitnetc_runtime::sampling::SamplingParams;

/// Answers eight prompts, four together; each step reads the weights once for all four.
pub fn main() -> Result<(), Error> {
    let model = Model::builtin()?;
    let speakers = ["ROMEO", "JULIET", "MERCUTIO", "NURSE", "HAMLET", "OPHELIA", "MACBETH", "LEAR"];
    let mut generations = Vec::new();
    for (seed, speaker) in (0..).zip(speakers) {
        generations.push((
            speaker,
            Generation {
                prompt: prompt_tokens(model.tokenizer(), &format!("{speaker}:"))?,
                params: SamplingParams { seed, ..SamplingParams::default() },
                options: GenerateOptions {
                    limit: Some(12),
                    stop: vec!["\n\n".to_owned()],
                    ..GenerateOptions::default()
                },
                constraint: None,
            },
        ));
    }
    let options = MachineOptions { context: 64, threads: 2, segments: 4, record: Record::Nothing };
    let mut machine = Machine::new(model.loaded().model.clone(), options)?;
    let stats = generate_many(&mut machine, model.tokenizer(), generations, |speaker, completion| {
        println!("{speaker}:{}", completion.text);
        Ok::<(), Error>(())
    })?;
    println!("{} tokens in {} steps", stats.generated_tokens, stats.steps);
    Ok(())
}
