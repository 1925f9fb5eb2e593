//! What a template can do, found by having it write: whether it shows tools to the model, how it writes calls, and how
//! thoughts.
//!
//! A conversation with words that stand nowhere else is rendered, and what comes of them says how histories have to be
//! given to this template. Where a template writes no call, its own text is searched for the marks.

use bitnetc_runtime::tokenizer::Tokenize;
use serde_json::{Map, Value, json};

use super::{ChatTemplate, Message, RenderInput, Role, SpecialTexts, ThinkForm};
use crate::tools::{CallForm, IdStyle, Markers};

/// What a template can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Whether it shows tools to the model.
    pub tools: bool,
    /// How it writes calls, where that is known.
    pub calls: Option<&'static CallForm>,
    /// How it wants earlier calls to be given.
    pub history: History,
    /// How it marks thoughts, if it does.
    pub thinking: Option<ThinkForm>,
    /// Control tokens of the model that are marks of calls or thoughts.
    pub markers: Markers,
}

/// How a template wants earlier calls to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Arguments as JSON text, not as an object.
    pub arguments_as_text: bool,
    /// An empty content beside calls, not none.
    pub empty_content: bool,
    /// Ids.
    pub ids: IdStyle,
}

impl Default for History {
    fn default() -> Self {
        Self { arguments_as_text: true, empty_content: false, ids: IdStyle::Call }
    }
}

const QUESTION: &str = "question_of_the_probe";
const FUNCTION: &str = "function_of_the_probe";
const KEY: &str = "key_of_the_probe";
const ARGUMENT: &str = "value_of_the_probe";

impl Abilities {
    /// Of a template for a model with this tokenizer.
    pub(super) fn of(template: &ChatTemplate, special: &SpecialTexts, tokenizer: &dyn Tokenize) -> Self {
        let tools = shows_tools(template, special);
        let (history, call) = written_call(template, special).unzip();
        let calls = CallForm::of_template(template.source(), call.as_deref()).filter(|_| tools);
        let thinking = ThinkForm::of_text(template.source());
        let mut literals = calls.map(CallForm::literals).unwrap_or_default();
        literals.extend(thinking.iter().flat_map(|form| [form.open, form.close]));
        let markers = Markers::of(tokenizer, &literals);
        Self { tools, calls, history: history.unwrap_or_default(), thinking, markers }
    }
}

fn declaration() -> Value {
    json!({ "type": "function", "function": { "name": FUNCTION, "description": "A probe.", "parameters": {
        "type": "object", "properties": { KEY: { "type": "string", "description": "A value." } }, "required": [KEY],
    }}})
}

fn render(template: &ChatTemplate, special: &SpecialTexts, messages: &[Message]) -> Option<String> {
    let tools = [declaration()];
    let input = RenderInput { messages, tools: Some(&tools), ..RenderInput::default() };
    template.render(&input, special).ok().map(|rendered| rendered.text)
}

/// Whether a declared function is shown to the model.
fn shows_tools(template: &ChatTemplate, special: &SpecialTexts) -> bool {
    let messages =
        [Message::new(Role::system(), "system_of_the_probe"), Message::new(Role::user(), QUESTION)];
    let shown = |messages| render(template, special, messages).is_some_and(|text| text.contains(FUNCTION));
    shown(&messages[1..]) || shown(&messages)
}

/// How the template wants a history with a call, and what it writes for one; nothing where it refuses or hides calls.
fn written_call(template: &ChatTemplate, special: &SpecialTexts) -> Option<(History, String)> {
    for ids in [IdStyle::Call, IdStyle::Nine] {
        for empty_content in [false, true] {
            for arguments_as_text in [false, true] {
                let history = History { arguments_as_text, empty_content, ids };
                let messages = [Message::new(Role::user(), QUESTION), call(history)];
                let Some(text) = render(template, special, &messages) else { continue };
                let Some((_, call)) = text.split_once(QUESTION) else { continue };
                // An object that was written as Python does, or a text whose quotes were escaped, is not what was meant.
                let is_meant = call.contains(FUNCTION)
                    && call.contains(ARGUMENT)
                    && !call.contains(&format!("'{KEY}'"))
                    && !call.contains(&format!("\\\"{KEY}"));
                if is_meant {
                    return Some((history, call.to_owned()));
                }
            }
        }
    }
    None
}

/// A message with a call.
fn call(history: History) -> Message {
    let id = match history.ids {
        IdStyle::Call => "call_0123456789abcdef01234567",
        IdStyle::Nine => "a1b2c3d4e",
    };
    let arguments = json!({ KEY: ARGUMENT });
    let function = json!({ "name": FUNCTION, "arguments": arguments });
    let mut fields = Map::new();
    let calls = json!([{ "id": id, "type": "function", "function": function }]);
    fields.insert("tool_calls".to_owned(), calls);
    let mut message = Message { role: Role::assistant(), content: None, fields };
    history.adapt(&mut message);
    message
}

impl History {
    /// Gives a message with calls the form that the template wants.
    pub fn adapt(self, message: &mut Message) {
        let Some(Value::Array(calls)) = message.fields.get_mut("tool_calls") else { return };
        for call in calls {
            let Some(arguments) = call.get_mut("function").and_then(|function| function.get_mut("arguments"))
            else {
                continue;
            };
            match (&*arguments, self.arguments_as_text) {
                (Value::String(text), false) => {
                    if let Ok(object @ Value::Object(_)) = serde_json::from_str(text) {
                        *arguments = object;
                    }
                }
                (Value::Object(_), true) => *arguments = Value::String(arguments.to_string()),
                _ => {}
            }
        }
        if self.empty_content {
            message.content.get_or_insert_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ChatEncoder, TEMPLATES};
    use super::*;
    use crate::model::Model;

    fn abilities(source: &str) -> Abilities {
        let model = Model::builtin().unwrap();
        let tokenizer = std::sync::Arc::clone(&model.loaded().tokenizer);
        let template = ChatTemplate::new("a test", source).unwrap();
        ChatEncoder::new(tokenizer, template, Vec::new()).abilities().clone()
    }

    fn with_tools(rest: &str) -> String {
        format!(
            "{{% if tools %}}{{{{ tools | tojson }}}}{{% endif %}}{{% for m in messages %}}{{{{ m.content }}}}{{% for c in m.tool_calls or [] %}}{{% set f = c.function %}}{rest}{{% endfor %}}{{% endfor %}}"
        )
    }

    #[test]
    fn templates_show_what_they_can_do() {
        for template in TEMPLATES {
            let found = abilities(template.source);
            let form = (template.name == "hermes").then_some("hermes");
            assert_eq!(found.calls.map(|form| form.name), form, "{}", template.name);
            assert!(found.tools == form.is_some() && found.thinking.is_none(), "{}", template.name);
        }
        let hermes = "<tool_call>\n{\"name\": \"{{ f.name }}\", \"arguments\": {{ f.arguments | tojson }}}\n</tool_call>";
        let found = abilities(&(with_tools(hermes) + "{% if false %}</think>{% endif %}"));
        assert_eq!(found.calls.map(|form| form.name), Some("hermes"));
        assert!(found.tools && !found.history.arguments_as_text && found.thinking.is_some());
        let text =
            "<tool_call>\n{\"name\": \"{{ f.name }}\", \"arguments\": {{ '' + f.arguments }}}\n</tool_call>";
        assert!(abilities(&with_tools(text)).history.arguments_as_text);
        let nine =
            "{% if c.id|length != 9 %}{{ raise_exception('id') }}{% endif %}[TOOL_CALLS][{{ f | tojson }}]";
        let found = abilities(&with_tools(nine));
        assert_eq!(
            (found.calls.map(|form| form.name), found.history.ids),
            (Some("mistral-nemo"), IdStyle::Nine)
        );
        let content =
            "{{ 'x' + m.content }}{\"name\": \"{{ f.name }}\", \"parameters\": {{ f.arguments | tojson }}}";
        let found = abilities(&with_tools(content));
        assert_eq!((found.calls.map(|form| form.name), found.history.empty_content), (Some("llama3"), true));
        // Calls in Python's syntax that the template asks for, and calls of a history that it writes itself.
        let asks = "Answer in the format of [func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]";
        let list = "[{{ f.name }}({% for key, value in f.arguments.items() %}{{ key }}={{ value | tojson }}{% endfor %})]";
        for call in [list, hermes] {
            let found = abilities(&(asks.to_owned() + &with_tools(call)));
            assert_eq!(found.calls.map(|form| form.name), Some("pythonic"), "{call}");
            assert!(found.tools && !found.history.arguments_as_text, "{call}");
        }
        let marked = format!("<|tool_call_start|>{list}<|tool_call_end|>");
        assert_eq!(abilities(&with_tools(&marked)).calls.map(|form| form.name), Some("lfm2"));
        // Marks in the text of a template that shows no tools to the model mean nothing.
        assert_eq!(abilities("<tool_call>{{ messages[0].content }}").calls, None);
        // A form that is not known.
        let found = abilities(&with_tools("call {{ f.name }}({{ f.arguments | tojson }})"));
        assert_eq!((found.tools, found.calls), (true, None));
    }

    #[test]
    fn templates_in_circulation_have_their_forms() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat_templates");
        for (name, form, ids, thinks) in [
            ("qwen3", Some("hermes"), IdStyle::Call, true),
            ("llama31_tools", Some("llama3"), IdStyle::Call, false),
            ("mistral_strict", Some("mistral-nemo"), IdStyle::Call, false),
            ("gemma_strict", None, IdStyle::Call, false),
        ] {
            let found =
                abilities(&std::fs::read_to_string(folder.join(name).with_extension("jinja")).unwrap());
            assert_eq!(found.calls.map(|form| form.name), form, "{name}");
            assert_eq!((found.tools, found.thinking.is_some()), (form.is_some(), thinks), "{name}");
            assert!(form.is_none() || found.history.ids == ids, "{name}: {:?}", found.history);
        }
    }

    /// Templates that may not be committed: looked for as other tests of the data do, and skipped where they are not.
    #[test]
    fn published_templates_have_their_forms() {
        let Some(root) = std::env::var_os("BITNETC_TEST_DATA") else { return };
        let path = std::path::Path::new(&root).join("qwen35/chat_templates.json");
        let Ok(bytes) = std::fs::read(&path) else {
            println!("skipped: {} is not there", path.display());
            return;
        };
        let data: Value = serde_json::from_slice(&bytes).unwrap();
        for (name, source) in data["templates"].as_object().unwrap() {
            let found = abilities(source.as_str().unwrap());
            assert_eq!(found.calls.map(|form| form.name), Some("qwen3.5"), "{name}");
            assert!(found.tools && found.thinking.is_some() && !found.history.arguments_as_text, "{name}");
        }
    }

    #[test]
    fn histories_take_the_form_of_the_template() {
        let adapted = |history: History, arguments: Value| {
            let calls = json!([{ "function": { "name": "f", "arguments": arguments } }, {}, 1]);
            let fields = [("tool_calls".to_owned(), calls)].into_iter().collect();
            let mut message = Message { role: Role::assistant(), content: None, fields };
            history.adapt(&mut message);
            (message.fields["tool_calls"][0]["function"]["arguments"].clone(), message.content)
        };
        let objects = History { arguments_as_text: false, empty_content: true, ids: IdStyle::Call };
        assert_eq!(adapted(objects, json!("{\"a\":1}")), (json!({ "a": 1 }), Some(String::new())));
        assert_eq!(adapted(objects, json!("no")).0, json!("no"));
        assert_eq!(adapted(History::default(), json!({ "a": 1 })), (json!("{\"a\":1}"), None));
    }
}
