//! Chat templates give the texts that Jinja2 gives with the settings of transformers: vectors of
//! `tests/data/make_chat_vectors.py`, over the built-in templates and equivalents of others in circulation.

mod common;

use std::collections::BTreeMap;

use bitnetc::chat::{ChatError, ChatTemplate, Message, RenderInput, SpecialTexts, TEMPLATES};
use common::data;
use serde_json::Value;

fn source_of(name: &str) -> String {
    match TEMPLATES.iter().find(|template| template.name == name) {
        Some(builtin) => builtin.source.to_owned(),
        None => std::fs::read_to_string(data(&format!("chat_templates/{name}.jinja"))).unwrap(),
    }
}

#[test]
fn texts_are_those_of_jinja2() {
    let vectors: Value = serde_json::from_slice(&std::fs::read(data("chat_vectors.json")).unwrap()).unwrap();
    let now: jiff::civil::DateTime = vectors["now"].as_str().unwrap().parse().unwrap();
    let now = now.to_zoned(jiff::tz::TimeZone::UTC).unwrap();
    let mut seen = BTreeMap::<&str, (usize, usize)>::new();
    for case in vectors["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let what = format!("{name}, {}, {}", case["conversation"], case["add_generation_prompt"]);
        let template = ChatTemplate::new(name, &source_of(name)).unwrap().at_time(now.clone());
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let tools: Option<Vec<Value>> = serde_json::from_value(case["tools"].clone()).unwrap();
        let token = |name: &str| case[name].as_str().map(str::to_owned);
        let special = SpecialTexts {
            bos: token("bos_token"),
            eos: token("eos_token"),
            // None of the conversations spells one: nothing may change for it.
            controls: ["<|begin_of_text|>", "<|eot_id|>", "<|im_start|>", "<s>"].map(String::from).to_vec(),
        };
        let input = RenderInput {
            messages: &messages,
            tools: tools.as_deref(),
            add_generation_prompt: case["add_generation_prompt"] == true,
            variables: case["variables"].as_object().unwrap().clone(),
        };
        let count = seen.entry(name).or_default();
        match (template.render(&input, &special), case["text"].as_str()) {
            (Ok(rendered), Some(text)) => {
                assert_eq!(rendered.text, text, "{what}");
                assert!(rendered.breaks.is_empty(), "{what}");
                count.0 += 1;
            }
            (Err(ChatError::Template { reason, .. }), None) => {
                let expected = case["refused"].as_str().unwrap();
                assert!(reason.contains(expected), "{what}: {reason}");
                count.1 += 1;
            }
            (result, expected) => panic!("{what}: {result:?}, not {expected:?}"),
        }
    }
    for template in TEMPLATES {
        assert!(seen.contains_key(template.name), "{} is not in the vectors", template.name);
    }
    assert!(seen.len() >= 18 && seen.values().map(|count| count.0).sum::<usize>() > 350, "{seen:?}");
    assert!(seen.values().any(|count| count.1 > 0));
}

/// The templates of Qwen 3.5, 3.6 and 3.8 as transformers renders them, with the variables that say whether and how hard to think.
/// They are not part of the repository, but looked for in the folder of outside data.
#[test]
fn qwen_thinks_as_asked() {
    let outside = common::root().join("../shared/data");
    let folder = std::env::var_os("BITNETC_TEST_DATA").map_or(outside, std::path::PathBuf::from);
    let Ok(bytes) = std::fs::read(folder.join("qwen35/chat_templates.json")) else {
        println!("skipped: {} is not there (set BITNETC_TEST_DATA)", folder.display());
        return;
    };
    let data: Value = serde_json::from_slice(&bytes).unwrap();
    let cases = data["cases"].as_array().unwrap();
    let mut refused = 0;
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let what = format!("{name}, {}, {}", case["what"], case["options"]);
        let template = ChatTemplate::new(name, data["templates"][name].as_str().unwrap()).unwrap();
        // A message has one text: parts of text are joined as the API joins them.
        let mut messages = case["messages"].clone();
        for content in messages.as_array_mut().unwrap().iter_mut().filter_map(|m| m.get_mut("content")) {
            if let Some(parts) = content.as_array() {
                let texts: String = parts.iter().map(|part| part["text"].as_str().unwrap()).collect();
                *content = texts.into();
            }
        }
        let messages: Vec<Message> = serde_json::from_value(messages).unwrap();
        let tools: Option<Vec<Value>> = serde_json::from_value(case["tools"].clone()).unwrap();
        let special = SpecialTexts {
            bos: None,
            eos: Some("<|im_end|>".to_owned()),
            controls: ["<|im_start|>", "<|im_end|>"].map(String::from).to_vec(),
        };
        let input = RenderInput {
            messages: &messages,
            tools: tools.as_deref(),
            add_generation_prompt: case["add_generation_prompt"] == true,
            variables: case["options"].as_object().unwrap().clone(),
        };
        match (template.render(&input, &special), case["error"].as_str()) {
            (Ok(rendered), None) => assert_eq!(Some(rendered.text.as_str()), case["text"].as_str(), "{what}"),
            (Err(ChatError::Template { reason, .. }), Some(error)) => {
                assert!(reason.contains(error), "{what}: {reason}");
                refused += 1;
            }
            (result, expected) => panic!("{what}: {result:?}, not {expected:?}"),
        }
    }
    assert!(cases.len() >= 54 && refused >= 7);
}
