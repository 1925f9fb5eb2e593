//! Conversations: what is fed and what stays, what happens when the context is full, and where answers end.

mod common;

use bitnetc::Model;
use bitnetc::chat::{
    ChatEncoder, ChatError, ChatTemplate, Conversation, ConversationOptions, Message, Overflow, Role,
    TEMPLATES,
};
use bitnetc::engine::{Completion, EngineOptions, GenerateOptions, Request, Stop};
use bitnetc_runtime::sampling::{Sampler, SamplingParams};
use common::tokens_by_hand;

fn model() -> Model {
    Model::builtin().unwrap()
}

fn template(name: &str) -> ChatTemplate {
    let builtin = TEMPLATES.iter().find(|template| template.name == name).unwrap();
    ChatTemplate::new(name, builtin.source).unwrap()
}

fn conversation(model: &Model, context: u32, overflow: Overflow) -> Conversation {
    let options = ConversationOptions { overflow, ..ConversationOptions::default() };
    // Without the strings that end answers: this model knows no others, and these tests count tokens.
    let encoder = ChatEncoder::new(model.loaded().tokenizer.clone(), template("plain"), Vec::new());
    let session = model.session_with(EngineOptions::single(context, 2)).unwrap();
    Conversation::new(session, encoder, options)
}

fn limit(n: u64) -> GenerateOptions {
    GenerateOptions { limit: Some(n), ..GenerateOptions::default() }
}

fn greedy() -> Sampler {
    Sampler::new(SamplingParams::greedy()).unwrap()
}

/// The most likely text after a prompt.
fn run(model: &Model, prompt: &str, options: &GenerateOptions) -> Completion {
    let mut session = model.session_with(EngineOptions::single(256, 2)).unwrap();
    let prompt = model.tokenizer().encode(prompt, true, false).unwrap();
    let request = Request::new(prompt, SamplingParams::greedy(), options.clone()).unwrap();
    session.follow(request, || true, |_| true).unwrap()
}

fn say(text: &str) -> Message {
    Message::new(Role::user(), text)
}

#[test]
fn the_second_turn_feeds_only_what_is_new() {
    let model = model();
    let mut chat = conversation(&model, 512, Overflow::Refuse);
    chat.push(Message::new(Role::system(), "Speak in verse."));
    chat.push(say("Who is Romeo?"));
    let first = chat.answer(&mut greedy(), &limit(12), None, |_| true).unwrap();
    assert_eq!((first.stats.reused_tokens, first.stats.answer_tokens), (0, 12));
    assert_eq!(first.generated.computed_tokens(), first.stats.prompt_tokens);

    chat.push(say("And Juliet?"));
    let second = chat.answer(&mut greedy(), &limit(8), None, |_| true).unwrap();
    // All of the first turn but the last token, which was made and never fed.
    assert_eq!(second.stats.reused_tokens, first.stats.prompt_tokens + 11);
    let new = model.tokenizer().encode("\nUser: And Juliet?\nAssistant:", false, false).unwrap();
    assert_eq!(second.generated.computed_tokens(), new.len() + 1);

    // The same tokens in a fresh session give the same answer.
    let all = chat.tokens();
    let prompt = &all[..second.stats.prompt_tokens];
    let again = tokens_by_hand(model.loaded(), prompt, SamplingParams::greedy(), 8, false);
    assert_eq!(again, second.generated.tokens);
    assert_eq!(chat.messages().len(), 5);
    assert_eq!(chat.messages()[4].content.as_deref(), Some(second.text.as_str()));
}

#[test]
fn undo_and_retry_keep_what_is_the_same() {
    let model = model();
    let mut chat = conversation(&model, 512, Overflow::Refuse);
    chat.push(say("Good morrow"));
    let first = chat.answer(&mut greedy(), &limit(10), None, |_| true).unwrap();
    // Again: the whole prompt is there, its last token gives the logits.
    assert!(chat.take_back_answer());
    let again = chat.answer(&mut greedy(), &limit(10), None, |_| true).unwrap();
    assert_eq!(again.text, first.text);
    assert_eq!(again.generated.computed_tokens(), 1);
    chat.push(say("What news?"));
    chat.answer(&mut greedy(), &limit(10), None, |_| true).unwrap();
    assert_eq!(chat.undo().as_deref(), Some("What news?"));
    assert_eq!(chat.messages().len(), 2);
    chat.push(say("What else?"));
    let other = chat.answer(&mut greedy(), &limit(10), None, |_| true).unwrap();
    assert!(other.stats.reused_tokens > first.stats.prompt_tokens, "{:?}", other.stats);
    chat.reset(None);
    assert!(chat.messages().is_empty() && chat.undo().is_none() && !chat.take_back_answer());
    chat.push(say("Good morrow"));
    assert_eq!(chat.answer(&mut greedy(), &limit(10), None, |_| true).unwrap().text, first.text);
}

#[test]
fn a_full_context_is_refused_and_the_question_can_be_taken_back() {
    let model = model();
    let mut chat = conversation(&model, 64, Overflow::Refuse);
    chat.push(say("Good morrow"));
    chat.answer(&mut greedy(), &limit(5), None, |_| true).unwrap();
    chat.push(say(&"What news from the wars, my lord? ".repeat(20)));
    let error = chat.answer(&mut greedy(), &limit(5), None, |_| true).unwrap_err();
    assert!(matches!(error, bitnetc::Error::Chat(ChatError::ContextFull { context: 64, .. })), "{error}");
    chat.undo();
    chat.push(say("Speak"));
    let reply = chat.answer(&mut greedy(), &GenerateOptions::default(), None, |_| true).unwrap();
    assert_eq!(reply.generated.finish, Stop::ContextFull);
    assert_eq!(chat.session().position(), 64);
    assert_eq!(reply.stats.dropped_messages, 0);
}

#[test]
fn the_oldest_turns_go_where_that_was_asked_for() {
    let model = model();
    let mut chat = conversation(&model, 96, Overflow::DropOldest);
    chat.push(Message::new(Role::system(), "Speak in verse."));
    let mut dropped = 0;
    for turn in 0..8 {
        chat.push(say(&format!("Question {turn}: what news from the wars?")));
        let reply = chat.answer(&mut greedy(), &limit(14), None, |_| true).unwrap();
        assert_eq!(reply.generated.finish, Stop::Limit, "turn {turn}");
        assert_eq!(reply.stats.answer_tokens, 14);
        dropped += reply.stats.dropped_messages;
        let messages = chat.messages();
        assert_eq!(messages[0].role, Role::system());
        assert!(
            messages[messages.len() - 2].content.as_deref().unwrap().starts_with(&format!("Question {turn}"))
        );
        assert_eq!(messages.len() + dropped, 1 + 2 * (turn + 1), "nothing goes without being counted");
        assert!(chat.session().position() <= 96);
    }
    assert!(dropped >= 2);

    // An answer that fills the context alone goes on only as long as there is an older turn.
    chat.push(say("Tell me all"));
    let reply = chat.answer(&mut greedy(), &GenerateOptions::default(), None, |_| true).unwrap();
    assert_eq!(reply.generated.finish, Stop::ContextFull);
    assert!(reply.stats.dropped_messages > 0);
    assert!(reply.stats.answer_tokens > 40, "{:?}", reply.stats);
}

#[test]
fn a_session_of_several_sequences_tells_the_position_of_the_latest_text() {
    let model = model();
    let mut session = model.session_with(EngineOptions::of(128, 1, 3)).unwrap();
    for (length, tokens) in [(30, 5), (12, 9), (40, 1)] {
        let prompt = common::random_tokens(length, length as usize, 100);
        let options = GenerateOptions { ignore_end: true, ..limit(tokens) };
        let request = Request::new(prompt, SamplingParams::greedy(), options).unwrap();
        let end = session.follow(request, || true, |_| true).unwrap();
        assert_eq!(session.position(), end.prompt_tokens + end.tokens.len() - 1);
    }
}

#[test]
fn an_answer_that_is_stopped_stays_as_far_as_it_got() {
    let model = model();
    let mut chat = conversation(&model, 256, Overflow::Refuse);
    chat.push(say("Good morrow"));
    let mut pieces = 0;
    let reply = chat
        .answer(&mut greedy(), &limit(50), None, |_| {
            pieces += 1;
            pieces < 6
        })
        .unwrap();
    assert_eq!(reply.generated.finish, Stop::Interrupted);
    assert!(!reply.text.is_empty() && reply.stats.answer_tokens < 10);
    assert_eq!(chat.messages()[1].content.as_deref(), Some(reply.text.as_str()));

    // During the prompt: there is no answer, and the conversation can go on.
    chat.set_keep_going(|| false);
    chat.push(say("And now a longer question about nothing at all"));
    let reply = chat.answer(&mut greedy(), &limit(50), None, |_| true).unwrap();
    assert_eq!((reply.generated.finish, reply.text.as_str()), (Stop::Interrupted, ""));
    assert_eq!(chat.messages().len(), 3);
    chat.set_keep_going(|| true);
    let reply = chat.answer(&mut greedy(), &limit(5), None, |_| true).unwrap();
    assert_eq!(reply.stats.answer_tokens, 5);
}

#[test]
fn whoever_stops_an_answer_is_given_no_more_of_it() {
    let model = model();
    let answer = |context: u32, stop: &str, most: usize| {
        let mut chat = conversation(&model, context, Overflow::Refuse);
        chat.push(say("Good morrow"));
        let options = GenerateOptions {
            stop: vec![stop.to_owned()].into(),
            ignore_end: true,
            ..GenerateOptions::default()
        };
        let mut pieces = 0;
        let emit = |_: &str| {
            pieces += 1;
            pieces < most
        };
        let reply = chat.answer(&mut greedy(), &options, None, emit).unwrap();
        (pieces, reply)
    };
    let (_, free) = answer(64, "", usize::MAX);
    // A stop string that never comes holds the text back; it is handed out when the context is full.
    let held_back = format!("{}!", free.text);
    let (pieces, reply) = answer(64, &held_back, usize::MAX);
    assert_eq!((pieces, reply.generated.finish), (reply.stats.answer_tokens + 1, Stop::ContextFull));
    // At the token that fills the context, and before it.
    for most in [pieces - 1, pieces - 2, 4] {
        let (given, stopped) = answer(64, &held_back, most);
        assert_eq!((given, stopped.generated.finish), (most, Stop::Interrupted));
        assert!(!stopped.text.is_empty() && free.text.starts_with(&stopped.text));
    }
}

#[test]
fn messages_stay_where_leaving_them_out_makes_no_room() {
    let model = model();
    // The model sees the last message alone.
    let template = ChatTemplate::new("last", "{{ messages[-1].content }}\nAssistant:").unwrap();
    let encoder = ChatEncoder::new(model.loaded().tokenizer.clone(), template, Vec::new());
    let session = model.session_with(EngineOptions::single(48, 2)).unwrap();
    let options = ConversationOptions { overflow: Overflow::DropOldest, ..ConversationOptions::default() };
    let mut chat = Conversation::new(session, encoder, options);
    chat.push(say("Good morrow"));
    chat.answer(&mut greedy(), &limit(4), None, |_| true).unwrap();
    chat.push(say("Tell me all"));
    let endless = GenerateOptions { ignore_end: true, ..GenerateOptions::default() };
    let reply = chat.answer(&mut greedy(), &endless, None, |_| true).unwrap();
    assert_eq!((reply.generated.finish, reply.stats.dropped_messages), (Stop::ContextFull, 0));
    let said: Vec<_> = chat.messages().iter().filter_map(|message| message.content.as_deref()).collect();
    assert_eq!((said.len(), said[0], said[2]), (4, "Good morrow", "Tell me all"));
}

#[test]
fn stop_strings_end_answers_wherever_tokens_cut_them() {
    let model = model();
    let free = run(&model, "ROMEO:\n", &limit(40)).text;
    let chars: Vec<(usize, char)> = free.char_indices().collect();
    let mut cut_short = 0;
    for at in (1..chars.len().saturating_sub(5)).step_by(3) {
        let stop = &free[chars[at].0..chars[at + 4].0];
        let first = free.find(stop).unwrap();
        let options =
            GenerateOptions { stop: vec![stop.to_owned(), "never there".into()].into(), ..limit(40) };
        let result = run(&model, "ROMEO:\n", &options);
        assert_eq!(result.text, free[..first], "{stop:?}");
        assert_eq!(result.finish, Stop::StopString(0), "{stop:?}");
        cut_short += usize::from(result.tokens.len() < 40);
    }
    assert!(cut_short > 5);
}

#[test]
fn probabilities_are_those_of_the_logits() {
    let options = GenerateOptions { logprobs: Some(3), ..limit(6) };
    let result = run(&model(), "ROMEO:\n", &options);
    assert_eq!(result.logprobs.len(), 6);
    for (id, logprobs) in result.tokens.iter().zip(&result.logprobs) {
        assert_eq!(logprobs.token.id, *id);
        // Greedy: the token is the likeliest.
        assert_eq!(logprobs.top[0], logprobs.token);
        assert!(logprobs.top.len() == 3 && logprobs.top[0].logprob >= logprobs.top[2].logprob);
        assert!(logprobs.top.iter().map(|token| token.logprob.exp()).sum::<f64>() <= 1.0 + 1e-9);
    }
}

#[test]
fn users_who_spell_control_tokens_get_text() {
    let model = model();
    let controls: Vec<u32> = (0..model.tokenizer().vocab_size() as u32)
        .filter(|&id| model.tokenizer().piece(id, false).is_empty())
        .collect();
    assert!(!controls.is_empty());
    let mut chat = conversation(&model, 256, Overflow::Refuse);
    let spelled: Vec<u8> =
        controls.iter().flat_map(|&id| model.tokenizer().token_bytes(id)).copied().collect();
    chat.push(say(&String::from_utf8(spelled).unwrap()));
    let reply = chat.answer(&mut greedy(), &limit(4), None, |_| true).unwrap();
    let prompt = &chat.tokens()[..reply.stats.prompt_tokens];
    let at_start = usize::from(prompt.first().copied() == model.tokenizer().bos());
    assert!(prompt[at_start..].iter().all(|id| !controls.contains(id)), "{prompt:?}");
}
