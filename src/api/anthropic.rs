//! Requests of Anthropic's `/v1/messages` and `/v1/messages/count_tokens`, as chats.

use serde_json::{Map, Value, json};

use super::body::Body;
use super::chat::{ChatRequest, set};
use super::fields::{MESSAGES, SYSTEM, THINKING, TOOL_CHOICE, TOOLS};
use super::messages::{Chat, check_fields};
use super::openai::check_model;
use super::reply::anthropic::MessageShape;
use super::reply::{Reply, Shown};
use super::{Call, Reading, Refusal, Route, Service};
use crate::tools::{MAX_TOOLS, Tool, ToolChoice, Tools};

/// Reads a request.
///
/// # Errors
/// What is wrong with it.
pub(super) fn accept(
    service: &Service,
    route: Route,
    value: &Value,
    how: &Reading<'_>,
) -> Result<Call, Refusal> {
    let body = Body::new(route, value)?;
    check_model(body, service)?;
    let mut chat = Chat::of_messages(&messages(body)?, body, service)?;
    match body.object(&THINKING).and_then(|thinking| thinking.get("type")?.as_str()) {
        Some("disabled") => set(&mut chat.variables, "enable_thinking", json!(false)),
        Some(_) => set(&mut chat.variables, "enable_thinking", json!(true)),
        None => {}
    }
    let request = ChatRequest { chat, tools: tools(body)?, thoughts: true, logprobs: None };
    let (mut asked, form) = request.ask(body, service, how)?;
    asked.choices = 1;
    let shape = Box::new(MessageShape::new(form, asked.options.stop.clone()));
    let choices = asked.prepare(service, how)?;
    let shown = Shown { measured: how.measured, ..Shown::default() };
    let reply = Reply::new(service, shape, &asked, shown, how, asked.stream);
    Ok(Call { choices, reply })
}

fn wrong(what: impl Into<String>) -> Refusal {
    Refusal::field("messages", what)
}

/// The text of blocks that are texts.
fn text_of(content: &Value, what: &'static str) -> Result<String, Refusal> {
    match content {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => {
            let texts =
                blocks.iter().map(|block| match (kind(block), block.get("text").and_then(Value::as_str)) {
                    ("text", Some(text)) => Ok(text),
                    (kind, _) => {
                        let kind: String = kind.chars().take(40).collect();
                        let message = format!("{what} can have blocks of type \"text\" only, not {kind:?}");
                        Err(Refusal::unsupported(what, message))
                    }
                });
            Ok(texts.collect::<Result<Vec<&str>, Refusal>>()?.join("\n"))
        }
        _ => Err(Refusal::field(what, format!("{what} must be a string or a list of blocks"))),
    }
}

fn kind(block: &Value) -> &str {
    block.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The messages in OpenAI's form, the system message in front.
fn messages(body: Body<'_>) -> Result<Vec<Value>, Refusal> {
    let mut all = Vec::new();
    if let Some(system) = body.get(&SYSTEM) {
        all.push(json!({ "role": "system", "content": text_of(system, "system")? }));
    }
    for (number, message) in body.list(&MESSAGES).unwrap_or_default().iter().enumerate() {
        check_fields(message).map_err(|why| wrong(format!("messages: message {}: {why}", number + 1)))?;
        match (message.get("role").and_then(Value::as_str), message.get("content")) {
            (Some(role @ ("user" | "assistant" | "system")), Some(content)) => add(&mut all, role, content)?,
            _ => return Err(wrong("messages: each must have a role (user or assistant) and a content")),
        }
    }
    Ok(all)
}

/// Adds what a message says: results of tools become messages of their own, in front of its text.
fn add(all: &mut Vec<Value>, role: &str, content: &Value) -> Result<(), Refusal> {
    let Value::Array(blocks) = content else {
        all.push(json!({ "role": role, "content": content }));
        return Ok(());
    };
    let (mut texts, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for block in blocks {
        let field = |name: &str| block.get(name).and_then(Value::as_str);
        let needed = |name: &str| {
            field(name)
                .ok_or_else(|| wrong(format!("messages: a block of type {:?} needs {name}", kind(block))))
        };
        match kind(block) {
            "text" => texts.push(needed("text")?),
            "thinking" => thoughts.push(needed("thinking")?),
            "redacted_thinking" => {}
            "tool_use" => {
                let arguments = block.get("input").cloned().unwrap_or_else(|| json!({}));
                let function = json!({ "name": needed("name")?, "arguments": arguments.to_string() });
                calls.push(json!({ "id": needed("id")?, "type": "function", "function": function }));
            }
            "tool_result" => {
                let text = text_of(block.get("content").unwrap_or(&Value::Null), "messages")?;
                let mut result =
                    json!({ "role": "tool", "tool_call_id": needed("tool_use_id")?, "content": text });
                // Templates that tell failures apart know it by this name.
                if block.get("is_error") == Some(&Value::Bool(true)) {
                    result["is_error"] = json!(true);
                }
                all.push(result);
            }
            other => {
                let other: String = other.chars().take(40).collect();
                let message =
                    format!("messages: blocks of type {other:?} are not supported: only text is read");
                return Err(Refusal::unsupported("messages", message));
            }
        }
    }
    if texts.is_empty() && calls.is_empty() && role != "assistant" && !blocks.is_empty() {
        return Ok(());
    }
    let mut message = Map::new();
    message.insert("role".to_owned(), json!(role));
    let text = texts.join("\n");
    message.insert(
        "content".to_owned(),
        if text.is_empty() && !calls.is_empty() { Value::Null } else { json!(text) },
    );
    if !thoughts.is_empty() {
        message.insert("reasoning_content".to_owned(), json!(thoughts.join("\n")));
    }
    if !calls.is_empty() {
        message.insert("tool_calls".to_owned(), json!(calls));
    }
    all.push(Value::Object(message));
    Ok(())
}

/// The tools of a request; nothing where none may be called.
fn tools(body: Body<'_>) -> Result<Option<Tools>, Refusal> {
    let list = match body.get(&TOOLS) {
        None => &[][..],
        Some(value) => value.as_array().ok_or_else(|| Refusal::field("tools", "tools must be a list"))?,
    };
    let choice = body.get(&TOOL_CHOICE);
    let parallel = choice.and_then(|choice| choice.get("disable_parallel_tool_use")?.as_bool()) != Some(true);
    let choice = match choice.map(|choice| (kind(choice), choice.get("name").and_then(Value::as_str))) {
        None | Some(("auto", _)) => ToolChoice::Auto,
        Some(("any", _)) => ToolChoice::Required,
        Some(("none", _)) => ToolChoice::None,
        Some(("tool", Some(name))) => ToolChoice::Named(name.to_owned()),
        Some(_) => {
            let message = "tool_choice: type must be \"auto\", \"any\", \"none\", or \"tool\" with a name";
            return Err(Refusal::field("tool_choice", message));
        }
    };
    if list.len() > MAX_TOOLS {
        return Err(Refusal::field("tools", format!("tools: declare at most {MAX_TOOLS} tools")));
    }
    if list.is_empty() {
        return match choice {
            ToolChoice::Auto | ToolChoice::None => Ok(None),
            _ => Err(Refusal::field("tool_choice", "tool_choice: no tools are declared")),
        };
    }
    let tool = |tool: &Value| {
        let text = |name: &str| tool.get(name).and_then(Value::as_str);
        if !matches!(kind(tool), "" | "custom") {
            let message =
                format!("tools: tools of type {:?} are not supported: declare functions", kind(tool));
            return Err(Refusal::unsupported("tools", message));
        }
        Ok(Tool::new(text("name").unwrap_or_default(), text("description"), tool.get("input_schema"))?)
    };
    let list = list.iter().map(tool).collect::<Result<Vec<Tool>, Refusal>>()?;
    Ok(Some(Tools::new(list, choice, parallel)?).filter(|tools| tools.choice != ToolChoice::None))
}
