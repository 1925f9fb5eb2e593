//! Calls of every form, in pieces of every kind.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::tools::{IdStyle, ToolChoice};

fn form(name: &str) -> &'static CallForm {
    CallForm::all().iter().find(|form| form.name == name).unwrap()
}

fn tools(parallel: bool) -> Arc<Tools> {
    let weather = json!({ "type": "object", "properties": {
        "city": { "type": "string" }, "days": { "type": "integer" }, "metric": { "type": "boolean" },
    }});
    let list = vec![
        Tool::new("weather", None, Some(&weather)).unwrap(),
        Tool::new("now", Some("The time."), None).unwrap(),
    ];
    Arc::new(Tools::new(list, ToolChoice::Auto, parallel).unwrap())
}

const IDS: CallIds = CallIds { prompt: 0, seed: 1, style: IdStyle::Call };

/// What a text says, with neighbouring pieces joined.
fn events<'t>(
    form: &'static CallForm,
    parallel: bool,
    pieces: impl IntoIterator<Item = &'t str>,
) -> Vec<CallEvent> {
    let mut parser = CallParser::new(form, tools(parallel), IDS);
    let mut out = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut out);
    }
    parser.finish(&mut out);
    let mut joined: Vec<CallEvent> = Vec::new();
    for event in out {
        match (joined.last_mut(), event) {
            (Some(CallEvent::Text(text)), CallEvent::Text(more))
            | (Some(CallEvent::Arguments(text)), CallEvent::Arguments(more)) => text.push_str(&more),
            (_, event) => joined.push(event),
        }
    }
    joined
}

/// The text outside of calls, and the calls with their arguments.
fn parsed(name: &str, text: &str) -> (String, Vec<(String, String)>) {
    read(events(form(name), true, [text]))
}

fn read(events: Vec<CallEvent>) -> (String, Vec<(String, String)>) {
    let (mut outside, mut calls) = (String::new(), Vec::<(String, String)>::new());
    for event in events {
        match event {
            CallEvent::Text(text) => outside.push_str(&text),
            CallEvent::Begin { index, name, .. } => {
                assert_eq!(index as usize, calls.len());
                calls.push((name, String::new()));
            }
            CallEvent::Arguments(piece) => calls.last_mut().unwrap().1.push_str(&piece),
            CallEvent::End => {}
        }
    }
    (outside, calls)
}

/// A text of each form: words, a call of `weather` with a city and days, and one of `now`.
const TEXTS: &[(&str, &str)] = &[
    ("lfm2", "Let me see.<|tool_call_start|>[weather(city=\"a<b\", days=2), now()]<|tool_call_end|>"),
    (
        "hermes",
        "Let me see.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"a<b\", \"days\": 2}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
    ),
    (
        "mistral-nemo",
        "Let me see.[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"city\": \"a<b\", \"days\": 2}, \"id\": \"abcdefghi\"}, {\"name\": \"now\", \"arguments\": {}}]",
    ),
    (
        "mistral",
        "Let me see.[TOOL_CALLS]weather[ARGS]{\"city\": \"a<b\", \"days\": 2}[TOOL_CALLS]now[CALL_ID]x1[ARGS]{}",
    ),
    (
        "nemotron",
        "Let me see. <TOOLCALL>[{\"name\": \"weather\", \"arguments\": {\"city\": \"a<b\", \"days\": 2}}, {\"arguments\": {}, \"name\": \"now\"}]</TOOLCALL>",
    ),
    (
        "granite",
        "Let me see.<|tool_call|>[{\"name\": \"weather\", \"arguments\": {\"city\": \"a<b\", \"days\": 2}},{\"name\": \"now\"}]",
    ),
    (
        "phi-4",
        "Let me see.<|tool_call|>{\"name\": \"weather\", \"arguments\": {\"city\": \"a<b\", \"days\": 2}}<|/tool_call|><|tool_call|>{\"name\": \"now\"}<|/tool_call|>",
    ),
    (
        "command-r7b",
        "Let me see.<|START_ACTION|>[\n {\"tool_call_id\": \"0\", \"tool_name\": \"weather\", \"parameters\": {\"city\": \"a<b\", \"days\": 2}},\n {\"tool_call_id\": \"1\", \"tool_name\": \"now\", \"parameters\": {}}\n]<|END_ACTION|>",
    ),
    (
        "firefunction",
        "Let me see. functools[{\"name\": \"weather\", \"arguments\": {\"city\": \"a<b\", \"days\": 2}}, {\"name\": \"now\", \"arguments\": {}}]",
    ),
    (
        "functionary",
        "Let me see.<function=weather>{\"city\": \"a<b\", \"days\": 2}</function><function=now>{}</function>",
    ),
    (
        "deepseek-r1",
        "Let me see.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": \"a<b\", \"days\": 2}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    (
        "deepseek",
        "Let me see.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"a<b\", \"days\": 2}<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    (
        "kimi",
        "Let me see.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{\"city\": \"a<b\", \"days\": 2}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    ),
    (
        "gpt-oss",
        "Let me see.<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\": \"a<b\", \"days\": 2}<|call|><|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|>",
    ),
    (
        "qwen3.5",
        "Let me see.\n\n<tool_call>\n<function=weather>\n<parameter=city>\na<b\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
    ),
    (
        "seed-oss",
        "Let me see.<seed:tool_call>\n<function=weather>\n<parameter=city>a<b</parameter>\n<parameter=days>2</parameter>\n</function>\n</seed:tool_call><seed:tool_call>\n<function=now>\n</function>\n</seed:tool_call>",
    ),
    (
        "glm",
        "Let me see.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>a<b</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
    ),
    (
        "minimax",
        "Let me see.\n<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"city\">a<b</parameter>\n<parameter name=\"days\">2</parameter>\n</invoke>\n<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>",
    ),
];

#[test]
fn every_form_gives_the_calls() {
    for &(name, text) in TEXTS {
        let (outside, calls) = parsed(name, text);
        assert_eq!(outside, "Let me see.", "{name}");
        let arguments = "{\"city\": \"a<b\", \"days\": 2}".to_owned();
        assert_eq!(calls, [("weather".to_owned(), arguments), ("now".to_owned(), "{}".to_owned())], "{name}");
    }
    let missing: Vec<&str> = CallForm::all()
        .iter()
        .map(|form| form.name)
        .filter(|name| {
            !["llama3", "pythonic"].contains(name) && !TEXTS.iter().any(|(tested, _)| tested == name)
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn an_answer_may_be_a_call_as_a_whole() {
    let call = r#"{"name": "weather", "parameters": {"city": "Rome"}}"#;
    let weather = || vec![("weather".to_owned(), r#"{"city": "Rome"}"#.to_owned())];
    assert_eq!(parsed("llama3", call), (String::new(), weather()));
    assert_eq!(parsed("llama3", &format!("<|python_tag|> {call}")), (String::new(), weather()));
    let list = "[weather(city='Rome'), now( )]";
    let both = || [weather(), vec![("now".to_owned(), "{}".to_owned())]].concat();
    assert_eq!(parsed("pythonic", list), (String::new(), both()));
    assert_eq!(
        parsed("pythonic", &format!("<|python_start|> {list}<|python_end|>")),
        (String::new(), both())
    );
    for text in [
        "[]",
        "[1, 2]",
        "[unknown(a=1)]",
        "[weather",
        "[weather]",
        "weather(city='Rome')",
        &format!("So: {list}"),
    ] {
        assert_eq!(parsed("pythonic", text), (text.to_owned(), vec![]), "{text}");
    }
    // What is no call in a list ends it.
    assert_eq!(parsed("pythonic", "[weather(city='Rome'), x]").1, weather());
    assert_eq!(parsed("pythonic", "[weather('Rome')]").1, [("weather".to_owned(), "{}".to_owned())]);
    // JSON that calls nothing, and JSON after words.
    for text in [r#"{"name": "Rome", "parameters": {}}"#, r#"{"a": 1}"#, &format!("So: {call}"), "{", "{}{"] {
        assert_eq!(parsed("llama3", text), (text.to_owned(), vec![]), "{text}");
    }
}

#[test]
fn what_is_no_call_stays_text() {
    for (name, text) in [
        ("hermes", "<tool_call>\n{\"name\": \"unknown\", \"arguments\": {}}\n</tool_call>"),
        ("hermes", "Write <tool_call> to call, <tool_"),
        ("hermes", "<tool_call>{\"name\": 1}"),
        ("mistral", "[TOOL_CALLS]unknown[ARGS]{}"),
        ("mistral-nemo", "[TOOL_CALLS] []"),
        ("qwen3.5", "<tool_call>\n<function=unknown>\n</function>\n</tool_call>"),
        ("glm", "<tool_call>unknown\n"),
    ] {
        let (outside, calls) = parsed(name, text);
        assert!(calls.is_empty(), "{name}: {calls:?}");
        assert_eq!(outside, text, "{name}");
    }
}

#[test]
fn parameters_with_tags_become_json() {
    let text =
        |parameters: &str| format!("<tool_call>\n<function=weather>\n{parameters}</function>\n</tool_call>");
    let value = |name: &str, value: &str| format!("<parameter={name}>\n{value}\n</parameter>\n");
    let arguments = |parameters: &str| -> Value {
        let (_, calls) = parsed("qwen3.5", &text(parameters));
        serde_json::from_str(&calls[0].1).unwrap()
    };
    assert_eq!(arguments(&value("city", "a\n\"b\"\n </p")), json!({ "city": "a\n\"b\"\n </p" }));
    assert_eq!(arguments(&value("city", "12")), json!({ "city": "12" }));
    assert_eq!(arguments(&value("city", "")), json!({ "city": "" }));
    let mixed = value("days", "3") + &value("metric", "True") + &value("other", "x y");
    assert_eq!(arguments(&mixed), json!({ "days": 3, "metric": true, "other": "x y" }));
    assert_eq!(arguments(&value("days", "[1,\n{\"a\": null}]")), json!({ "days": [1, { "a": null }] }));
    assert_eq!(arguments("oh"), json!({}));
}

#[test]
fn a_call_that_is_cut_off_keeps_what_there_is() {
    let cut = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Ro";
    assert_eq!(parsed("hermes", cut).1, [("weather".to_owned(), "{\"city\": \"Ro".to_owned())]);
    let whole = "<tool_call>\n<function=weather>\n<parameter=city>\nRo\n</para";
    assert_eq!(parsed("qwen3.5", whole).1, [("weather".to_owned(), "{\"city\": \"Ro\\n</para".to_owned())]);
    assert_eq!(
        read(cut_events("qwen3.5", whole)).1,
        [("weather".to_owned(), "{\"city\": \"Ro".to_owned())],
        "the beginning of a mark is no part of a value"
    );
    assert_eq!(
        events(form("hermes"), true, ["<tool_call>{\"name\": \"now\", \"arguments\": {"]).last(),
        Some(&CallEvent::End)
    );
}

/// What a text says that is cut off.
fn cut_events(name: &str, text: &str) -> Vec<CallEvent> {
    let mut parser = CallParser::new(form(name), tools(true), IDS);
    let mut out = Vec::new();
    parser.push(text, &mut out);
    parser.cut(&mut out);
    out
}

#[test]
fn the_beginning_of_a_call_is_no_text_where_it_is_cut_off() {
    for &(name, text) in TEXTS {
        for at in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
            let cut = &text[..at];
            let (outside, calls) = read(cut_events(name, cut));
            // White space that nothing follows is text; before a mark it is not.
            let said = if cut.trim_end() == "Let me see." { cut } else { "Let me see." };
            assert!(said.starts_with(&outside), "{name}: {cut:?} gives {outside:?}");
            assert!(outside.len() == at.min(said.len()) || at < 11, "{name}: {cut:?} gives {outside:?}");
            let expected = parsed(name, text).1;
            for ((function, arguments), (whole, all)) in calls.iter().zip(&expected) {
                assert_eq!(function, whole, "{name}: {cut:?}");
                assert!(all.starts_with(arguments), "{name}: {cut:?} gives {arguments}");
            }
        }
    }
    // Without a mark an answer in JSON stays one, unless it begins as a call does.
    for (text, outside) in [
        ("{\"name\": \"wea", ""),
        ("{\"na", ""),
        ("{", ""),
        ("{\"answer\": 4", "{\"answer\": 4"),
        ("{\"nam\": \"wea", "{\"nam\": \"wea"),
        ("{\"name\": \"Rome\", \"parameters\": {\"a\"", "{\"name\": \"Rome\", \"parameters\": {\"a\""),
        ("Words ", "Words "),
        ("", ""),
    ] {
        assert_eq!(read(cut_events("llama3", text)), (outside.to_owned(), vec![]), "{text}");
    }
    for (text, outside) in [("[wea", ""), ("[", ""), ("[weather", ""), ("[1", "[1"), ("[x(", "[x(")] {
        assert_eq!(read(cut_events("pythonic", text)), (outside.to_owned(), vec![]), "{text}");
    }
    let cut = read(cut_events("pythonic", "[weather(city=\"Ro"));
    assert_eq!(cut, (String::new(), vec![("weather".to_owned(), "{\"city\": \"Ro".to_owned())]));
    // Words that end where a mark could begin lose that.
    assert_eq!(read(cut_events("hermes", "if a <")).0, "if a");
    assert_eq!(read(cut_events("hermes", "if a < b\n")).0, "if a < b\n");
}

#[test]
fn one_call_where_one_is_allowed() {
    for &(name, text) in TEXTS {
        let begun = |event: &&CallEvent| matches!(event, CallEvent::Begin { .. });
        assert_eq!(events(form(name), false, [text]).iter().filter(begun).count(), 1, "{name}");
    }
}

#[test]
fn text_is_handed_out_as_soon_as_it_is_certain() {
    let mut parser = CallParser::new(form("hermes"), tools(true), IDS);
    let mut out = Vec::new();
    let mut push = |piece: &str| {
        out.clear();
        parser.push(piece, &mut out);
        out.clone()
    };
    let text = |text: &str| vec![CallEvent::Text(text.to_owned())];
    assert_eq!(push("Hello <b"), text("Hello <b"));
    assert_eq!(push("> <tool"), text(">"));
    assert_eq!(push("box"), text(" <toolbox"));
    assert_eq!(push(" <tool_call>\n{\"name\": \"no"), vec![]);
    assert_eq!(push("w\", \"arguments\": ").len(), 0);
    assert!(
        matches!(&push("{\"a\"")[..], [CallEvent::Begin { .. }, CallEvent::Arguments(piece)] if piece == "{\"a\"")
    );
    assert_eq!(push(": 1"), vec![CallEvent::Arguments(": 1".to_owned())]);
}

/// Texts made of what a form is made of, whether they make sense or not.
fn soup() -> impl Strategy<Value = (usize, String)> {
    (0..CallForm::all().len()).prop_flat_map(|number| {
        let mut words: Vec<String> =
            CallForm::all()[number].literals().into_iter().map(str::to_owned).collect();
        words.extend(
            [
                "{\"name\": \"weather\", ",
                "\"arguments\": ",
                "\"parameters\": ",
                "{\"city\": \"é\\\"}\"}",
                "}",
                "{",
                "[",
                "]",
                ",",
                "weather",
                "weather(",
                "now",
                "(",
                ")",
                "=",
                "'a\\'b'",
                "-1.5",
                "\\u00e9",
                "city",
                "\n",
                " ",
                "<",
                "</",
                "x",
                "é",
                "\"",
                "[CALL_ID]",
                "```",
            ]
            .map(str::to_owned),
        );
        let whole: Vec<String> = TEXTS
            .iter()
            .filter(|(name, _)| *name == CallForm::all()[number].name)
            .map(|(_, text)| (*text).to_owned())
            .collect();
        words.extend(whole);
        let words = proptest::collection::vec(proptest::sample::select(words), 0..14);
        words.prop_map(move |words| (number, words.concat()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn pieces_do_not_matter((number, text) in soup(), cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..40)) {
        let form = &CallForm::all()[number];
        let mut places: Vec<usize> =
            cuts.iter().map(|cut| cut.index(text.len() + 1)).filter(|&at| text.is_char_boundary(at)).collect();
        places.extend([0, text.len()]);
        places.sort_unstable();
        let pieces = places.windows(2).map(|pair| &text[pair[0]..pair[1]]);
        prop_assert_eq!(events(form, true, pieces), events(form, true, [text.as_str()]), "{}", form.name);
        let characters = text.split_inclusive(|_: char| true);
        prop_assert_eq!(events(form, true, characters), events(form, true, [text.as_str()]), "{}", form.name);
    }
}
