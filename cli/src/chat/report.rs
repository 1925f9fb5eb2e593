//! What a chat tells about itself: the object of a turn, the figures of `/stats`, and the line that greets.

use std::time::Duration;

use bitnetc::chat::{Conversation, Reply};
use bitnetc_runtime::memory::in_units;
use serde_json::{Value, json};

use crate::output;
use crate::timings::Timings;

/// `1 message`, `2 messages`.
pub(super) fn messages(n: usize) -> String {
    output::count(n as u64, "message")
}

/// The line that greets at a terminal.
pub(super) fn greeting(model: &str) -> String {
    let about = if model == bitnetc::builtin::NAME {
        ", a tiny model that imitates Shakespeare (for a real one: /model 2b-4t)"
    } else {
        ""
    };
    format!("{model}{about}: type a message; /help lists the commands, /exit or Ctrl-D leaves")
}

/// The object that `--json` prints for a turn.
pub(super) fn turn(reply: &Reply, timings: &Timings<'_>, seed: u64) -> Value {
    let stats = &reply.stats;
    json!({
        "schema": "bitnetc.chat-turn/2",
        "model": timings.session.model().loaded().name,
        "text": reply.text.trim_start(),
        "stop": reply.generated.finish.name(),
        "seed": seed,
        "threads": timings.session.machine().threads(),
        "prompt_tokens": stats.prompt_tokens,
        "reused_tokens": stats.reused_tokens,
        "generated_tokens": stats.answer_tokens,
        "dropped_messages": stats.dropped_messages,
        "timings": timings.json(),
        "memory": timings.memory_json(),
    })
}

/// Figures of the last turn, for people.
pub(super) fn stats(conversation: &Conversation) -> String {
    let stats = conversation.last_turn();
    let rate = |tokens: usize, time: Duration| {
        if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
    };
    let new = stats.prompt_tokens - stats.reused_tokens;
    let session = conversation.session();
    format!(
        "context: {} of {}, {}\n\
         last prompt: {}, {} of them from the cache, {new} computed ({:.1} tokens per second)\n\
         last answer: {} ({:.1} tokens per second)\n\
         memory: {} planned{}",
        session.position(),
        output::count(u64::from(session.context()), "token"),
        messages(conversation.messages().len()),
        output::count(stats.prompt_tokens as u64, "token"),
        stats.reused_tokens,
        rate(new, stats.prompt_time),
        output::count(stats.answer_tokens as u64, "token"),
        rate(stats.answer_tokens, stats.answer_time),
        in_units(session.memory().total()),
        output::peak_rss().map_or(String::new(), |rss| format!(", peak RSS {}", in_units(rss))),
    )
}
