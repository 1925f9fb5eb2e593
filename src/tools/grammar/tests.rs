//! Grammars of calls: what follows them is what the parser finds.

use std::sync::Arc;

use bitnetc_runtime::sampling::TokenMask;
use bitnetc_runtime::tokenizer::{Algorithm, Tokenizer, TokenizerSpec};
use serde_json::json;

use super::*;
use crate::constraint::Vocabulary;
use crate::tools::{CallEvent, CallIds, CallParser, IdStyle, ToolChoice};

/// A tokenizer of single characters, with these control tokens.
fn tokenizer(controls: &[&str]) -> Tokenizer {
    let mut tokens: Vec<String> = (0x21..0x7f_u8).map(|byte| char::from(byte).to_string()).collect();
    tokens.extend(["Ġ", "Ċ", "<|end|>"].map(String::from));
    let mut types = vec![TokenType::Normal; tokens.len()];
    let end = tokens.len() as u32 - 1;
    types[end as usize] = TokenType::Control;
    tokens.extend(controls.iter().map(|&control| control.to_owned()));
    types.resize(tokens.len(), TokenType::Control);
    Tokenizer::new(&TokenizerSpec {
        tokens,
        types,
        merges: vec![],
        algorithm: Algorithm::Qwen2,
        bos: None,
        eos: Some(end),
        eog: vec![end],
        add_bos: false,
        add_eos: false,
    })
    .unwrap()
}

fn tools(choice: ToolChoice) -> Arc<Tools> {
    let schema = json!({ "type": "object", "properties": {
        "unit": { "enum": ["C", "F"] }, "days": { "type": "integer", "minimum": 1, "maximum": 3 }, "ok": { "type": "boolean" },
    }, "required": ["unit", "days"] });
    let list =
        vec![Tool::new("weather", None, Some(&schema)).unwrap(), Tool::new("now", None, None).unwrap()];
    Arc::new(Tools::new(list, choice, true).unwrap())
}

/// A text that follows the grammar; `choose` takes one of the allowed tokens.
fn follow(source: &GrammarSource, tokenizer: &Tokenizer, markers: &Markers, seed: u64) -> String {
    let vocab = tokenizer.vocab_size() as u32;
    let mut grammar = Vocabulary::new(tokenizer, vocab).unwrap().grammar(source).unwrap();
    let mut mask = TokenMask::none(vocab as usize);
    let (mut ids, mut state) = (Vec::new(), seed);
    while !crate::constraint::Constraint::is_complete(&grammar) && ids.len() < 2000 {
        crate::constraint::Constraint::allowed(&mut grammar, &mut mask).unwrap();
        let allowed: Vec<u32> = (0..vocab).filter(|&id| mask.allows(id)).collect();
        if allowed.iter().any(|&id| tokenizer.is_end(id)) {
            break;
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // White space is chosen last, so that texts are short.
        let visible: Vec<u32> = allowed.iter().copied().filter(|&id| !matches!(id, 94 | 95)).collect();
        let pool = if visible.is_empty() { &allowed } else { &visible };
        let id = pool[(state >> 33) as usize % pool.len()];
        crate::constraint::Constraint::accept(&mut grammar, id).unwrap();
        ids.push(id);
    }
    let visible = markers.ids();
    ids.iter()
        .map(|&id| String::from_utf8_lossy(tokenizer.piece(id, visible.contains(&id))).into_owned())
        .collect()
}

fn calls(form: &'static CallForm, tools: &Arc<Tools>, text: &str) -> (String, Vec<(String, Value)>) {
    let mut parser =
        CallParser::new(form, Arc::clone(tools), CallIds { prompt: 0, seed: 0, style: IdStyle::Call });
    let mut events = Vec::new();
    parser.push(text, &mut events);
    parser.finish(&mut events);
    let (mut outside, mut calls) = (String::new(), Vec::<(String, String)>::new());
    for event in events {
        match event {
            CallEvent::Text(text) => outside.push_str(&text),
            CallEvent::Begin { name, .. } => calls.push((name, String::new())),
            CallEvent::Arguments(piece) => calls.last_mut().unwrap().1.push_str(&piece),
            CallEvent::End => {}
        }
    }
    let read = |(name, arguments): (String, String)| (name, serde_json::from_str(&arguments).unwrap());
    (outside, calls.into_iter().map(read).collect())
}

fn check(form: &'static CallForm, controls: &[&str], choice: &ToolChoice) {
    let tokenizer = tokenizer(controls);
    let markers = Markers::of(&tokenizer, &form.literals());
    let tools = tools(choice.clone());
    let source = grammar(form, &tools, &markers, None).unwrap();
    for seed in 0..6 {
        let text = follow(&source, &tokenizer, &markers, seed);
        let (outside, calls) = calls(form, &tools, &text);
        assert!(outside.is_empty() && !calls.is_empty(), "{}: {text:?} {outside:?}", form.name);
        for (name, arguments) in calls {
            match name.as_str() {
                "weather" => {
                    assert!(["C", "F"].contains(&arguments["unit"].as_str().unwrap()), "{text}");
                    assert!((1..=3).contains(&arguments["days"].as_i64().unwrap()), "{text}");
                }
                "now" => assert!(*choice == ToolChoice::Required && arguments == json!({}), "{text}"),
                other => panic!("{other}: {text}"),
            }
        }
    }
}

#[test]
fn forced_calls_are_calls_that_follow_the_schema() {
    for form in CallForm::all() {
        // Marks that the tokenizer of this test can spell.
        if form.literals().iter().any(|literal| !literal.is_ascii()) {
            continue;
        }
        check(form, &[], &ToolChoice::Required);
        check(form, &[], &ToolChoice::Named("weather".to_owned()));
    }
}

#[test]
fn marks_that_are_control_tokens_are_tokens() {
    let form = |name: &str| CallForm::all().iter().find(|form| form.name == name).unwrap();
    check(form("mistral-nemo"), &["[TOOL_CALLS]"], &ToolChoice::Required);
    check(form("mistral"), &["[TOOL_CALLS]", "[ARGS]"], &ToolChoice::Required);
    check(form("hermes"), &["<tool_call>", "</tool_call>"], &ToolChoice::Required);
    check(form("deepseek"), &form("deepseek").literals(), &ToolChoice::Required);
    let tokenizer = tokenizer(&["[TOOL_CALLS]", "[INST]"]);
    let markers = Markers::of(&tokenizer, &form("mistral").literals());
    assert_eq!(markers.ids().len(), 1, "a control token of something else stays hidden");
}

#[test]
fn thoughts_come_before_a_forced_call() {
    let form = CallForm::all().iter().find(|form| form.name == "hermes").unwrap();
    let tokenizer = tokenizer(&[]);
    let (tools, markers) = (tools(ToolChoice::Required), Markers::default());
    let think = ThinkForm { open: "<think>", close: "</think>" };
    let accepts = |source: &GrammarSource, text: &str| {
        let mut grammar =
            Vocabulary::new(&tokenizer, tokenizer.vocab_size() as u32).unwrap().grammar(source).unwrap();
        let mut mask = TokenMask::none(tokenizer.vocab_size());
        tokenizer.encode(text, false, false).unwrap().iter().all(|&id| {
            crate::constraint::Constraint::allowed(&mut grammar, &mut mask).is_ok()
                && mask.allows(id)
                && crate::constraint::Constraint::accept(&mut grammar, id).is_ok()
        })
    };
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let opened = grammar(form, &tools, &markers, Some((&think, true))).unwrap();
    assert!(accepts(&opened, &format!("Why? <b>\n</think>\n\n{call}")));
    assert!(!accepts(&opened, &format!("Why?</think>So {call}")));
    let closed = grammar(form, &tools, &markers, Some((&think, false))).unwrap();
    assert!(accepts(&closed, call));
    assert!(accepts(&closed, &format!("<think>\nWhy?\n</think>\n\n{call}")));
    assert!(!accepts(&closed, &format!("Why?{call}")));
    let schema = GrammarSource::JsonSchema(
        r#"{"type":"object","properties":{"a":{"const":1}},"required":["a"]}"#.to_owned(),
    );
    let schema = schema_after_thinking(schema, &markers, &think, true).unwrap();
    assert!(accepts(&schema, "Why?\n</think>\n\n{\"a\": 1}"));
    assert!(!accepts(&schema, "Why?\n</think>\n\n{\"a\": 2}"));
}

/// Whether a text may follow a grammar, to its end.
fn accepts(source: &GrammarSource, text: &str) -> bool {
    let tokenizer = tokenizer(&[]);
    let vocab = tokenizer.vocab_size();
    let mut grammar = Vocabulary::new(&tokenizer, vocab as u32).unwrap().grammar(source).unwrap();
    let mut mask = TokenMask::none(vocab);
    let whole = tokenizer.encode(text, false, false).unwrap().iter().all(|&id| {
        crate::constraint::Constraint::allowed(&mut grammar, &mut mask).is_ok()
            && mask.allows(id)
            && crate::constraint::Constraint::accept(&mut grammar, id).is_ok()
    });
    whole
        && (crate::constraint::Constraint::is_complete(&grammar)
            || crate::constraint::Constraint::allowed(&mut grammar, &mut mask).is_ok()
                && (0..vocab as u32).any(|id| tokenizer.is_end(id) && mask.allows(id)))
}

#[test]
fn forced_calls_come_to_an_end() {
    let form = CallForm::all().iter().find(|form| form.name == "hermes").unwrap();
    let one = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let of = |count: usize| vec![one; count].join("\n");
    let list = || vec![Tool::new("now", None, None).unwrap(), Tool::new("weather", None, None).unwrap()];
    let source = |choice, parallel| {
        let tools = Tools::new(list(), choice, parallel).unwrap();
        grammar(form, &tools, &Markers::default(), None).unwrap()
    };
    let several = source(ToolChoice::Required, true);
    assert!([1, 2, MAX_CALLS].iter().all(|&count| accepts(&several, &of(count))));
    assert!(!accepts(&several, &of(MAX_CALLS + 1)));
    let named = source(ToolChoice::Named("now".to_owned()), true);
    assert!(accepts(&named, &of(1)) && !accepts(&named, &of(2)));
    let alone = source(ToolChoice::Required, false);
    assert!(accepts(&alone, &of(1)) && !accepts(&alone, &of(2)));
    // White space lays arguments out, and does not go on for ever.
    let blanks = |space: &str| one.replace("{}", &format!("{{{space}}}"));
    assert!(accepts(&several, &blanks(" ")) && accepts(&several, &blanks("\n    ")));
    for endless in ["  ", "\n\n", &format!("\n{}", " ".repeat(30))] {
        assert!(!accepts(&several, &blanks(endless)), "{endless:?}");
    }
}

/// A model that writes white space wherever it may.
#[test]
fn white_space_of_forced_calls_is_bounded() {
    for form in CallForm::all().iter().filter(|form| form.literals().iter().all(|literal| literal.is_ascii()))
    {
        let tokenizer = tokenizer(&[]);
        let source = grammar(form, &tools(ToolChoice::Required), &Markers::default(), None).unwrap();
        let vocab = tokenizer.vocab_size() as u32;
        let mut grammar = Vocabulary::new(&tokenizer, vocab).unwrap().grammar(&source).unwrap();
        let mut mask = TokenMask::none(vocab as usize);
        let (mut run, mut count) = (0, 0);
        while !crate::constraint::Constraint::is_complete(&grammar) && count < 2000 {
            crate::constraint::Constraint::allowed(&mut grammar, &mut mask).unwrap();
            if (0..vocab).any(|id| tokenizer.is_end(id) && mask.allows(id)) {
                break;
            }
            let space = [94, 95].into_iter().find(|&id| mask.allows(id));
            run = if space.is_some() { run + 1 } else { 0 };
            assert!(run <= 22, "{}", form.name);
            let id = space.or_else(|| (0..vocab).find(|&id| mask.allows(id))).unwrap();
            crate::constraint::Constraint::accept(&mut grammar, id).unwrap();
            count += 1;
        }
        assert!(count < 2000, "{} does not end", form.name);
    }
}

#[test]
fn texts_with_tags_follow_patterns_and_formats() {
    let form = CallForm::all().iter().find(|form| form.name == "qwen3.5").unwrap();
    let call = |value: &str| {
        format!("<tool_call>\n<function=f>\n<parameter=x>\n{value}\n</parameter>\n</function>\n</tool_call>")
    };
    for (schema, right, wrong) in [
        (json!({ "pattern": "^a/[0-9]+$" }), &["a/1", "a/23"][..], &["a/", "xa/1", "a/1x"][..]),
        (json!({ "pattern": "b" }), &["b", "abc", "a\nb"], &["a", ""]),
        (json!({ "pattern": "^b|c" , "maxLength": 2 }), &[], &[]),
        (json!({ "pattern": "(^b)|c" }), &[], &[]),
        (json!({ "pattern": "^(b|c)", "maxLength": 2 }), &["b", "cx"], &["x", "cxx"]),
        (json!({ "pattern": "^.*$" }), &["", "<p>"], &["a</parameter>b"]),
        (json!({ "format": "date" }), &["2026-11-30"], &["2026-13-30", "today"]),
        (json!({ "format": "password" }), &["x y"], &[]),
        (json!({ "format": "date", "pattern": "^2026" }), &["2026-11-30"], &["2025-11-30"]),
    ] {
        let mut schema = schema;
        schema["type"] = json!("string");
        let parameters = json!({ "type": "object", "properties": { "x": schema }, "required": ["x"] });
        let list = vec![Tool::new("f", None, Some(&parameters)).unwrap()];
        let tools = Tools::new(list, ToolChoice::Required, false).unwrap();
        let source = grammar(form, &tools, &Markers::default(), None);
        if right.is_empty() {
            let tokenizer = tokenizer(&[]);
            let vocabulary = Vocabulary::new(&tokenizer, tokenizer.vocab_size() as u32).unwrap();
            assert!(source.map_or(true, |source| vocabulary.grammar(&source).is_err()), "{schema}");
            continue;
        }
        let source = source.unwrap();
        for text in right {
            assert!(accepts(&source, &call(text)), "{text} for {schema}");
        }
        for text in wrong {
            assert!(!accepts(&source, &call(text)), "{text} for {schema}");
        }
    }
}

#[test]
fn what_cannot_be_enforced_is_refused_by_name() {
    let form = CallForm::all().iter().find(|form| form.name == "qwen3.5").unwrap();
    let schema =
        json!({ "type": "object", "properties": { "city": { "type": "string", "pattern": "^a|b$" } } });
    let list = vec![Tool::new("f", None, Some(&schema)).unwrap()];
    let tools = Tools::new(list, ToolChoice::Required, true).unwrap();
    let error = grammar(form, &tools, &Markers::default(), None).unwrap_err();
    assert!(
        error.unsupported && error.message.contains("pattern") && error.message.contains("city"),
        "{error}"
    );
    let hermes = CallForm::all().iter().find(|form| form.name == "hermes").unwrap();
    assert!(grammar(hermes, &tools, &Markers::default(), None).is_ok());
}
