//! A conversation in a struct beside its model; the second turn computes only what is new:
//! `cargo run --release --example conversation`.

use bitnetc::chat::Conversation;
use bitnetc::{Error, Model, Settings};

/// Somebody to talk to.
struct Actor {
    model: Model,
    conversation: Conversation,
    settings: Settings,
}

impl Actor {
    fn new(manner: &str) -> Result<Self, Error> {
        let model = Model::builtin()?;
        let mut conversation = model.chat(256)?;
        conversation.reset(Some(manner));
        let settings = Settings { limit: Some(16), ..Settings::greedy() };
        Ok(Self { model, conversation, settings })
    }

    fn ask(&mut self, question: &str) -> Result<String, Error> {
        println!("> {question}");
        let reply = self.conversation.ask(question, &self.settings, |piece| {
            print!("{piece}");
            true
        })?;
        println!("\n({} of {} tokens from the cache)", reply.stats.reused_tokens, reply.stats.prompt_tokens);
        Ok(reply.text)
    }
}

/// Asks two questions.
pub fn main() -> Result<(), Error> {
    let mut actor = Actor::new("Speak in verse.")?;
    actor.ask("Who art thou?")?;
    actor.ask("What news?")?;
    println!("({})", actor.model.loaded().name);
    Ok(())
}
