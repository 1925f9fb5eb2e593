//! Requests of OpenAI's `/v1/responses`, as chats. Nothing is stored: the input is the whole conversation.

use serde_json::{Map, Value, json};

use super::body::Body;
use super::chat::{ChatRequest, set_effort};
use super::fields::{INPUT, INSTRUCTIONS, REASONING, TEXT_FORMAT};
use super::messages::{Chat, check_fields};
use super::openai::check_model;
use super::reply::responses::ResponseShape;
use super::reply::{Reply, Shown};
use super::settings::decimal;
use super::{Call, Reading, Refusal, Route, Service};
use crate::tools::Tools;

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
    // The form has OpenAI's older spelling inside.
    let mut value = value.clone();
    if let Some(format) = format(&value) {
        value["response_format"] = format;
    }
    let body = Body::new(route, &value)?;
    check_include(&value)?;
    check_model(body, service)?;
    let mut chat = Chat::of_messages(&messages(body)?, body, service)?;
    if let Some(effort) = body.object(&REASONING).and_then(|reasoning| reasoning.get("effort")?.as_str()) {
        set_effort(&mut chat.variables, effort);
    }
    let request = ChatRequest { chat, tools: Tools::read(&value)?, thoughts: true, logprobs: None };
    let (mut asked, form) = request.ask(body, service, how)?;
    asked.prompt_field = "input";
    asked.choices = 1;
    let repeated = json!({
        "instructions": body.text(&INSTRUCTIONS),
        "max_output_tokens": asked.options.limit,
        "parallel_tool_calls": value.get("parallel_tool_calls").and_then(Value::as_bool).unwrap_or(true),
        "temperature": decimal(asked.params.temperature),
        "top_p": decimal(asked.params.top_p),
        "text": body.get(&TEXT_FORMAT).cloned().unwrap_or_else(|| json!({ "format": { "type": "text" } })),
        "tool_choice": value.get("tool_choice").filter(|choice| !choice.is_null()).cloned().unwrap_or_else(|| json!("auto")),
        "tools": value.get("tools").filter(|tools| tools.is_array()).cloned().unwrap_or_else(|| json!([])),
        "metadata": value.get("metadata").filter(|data| data.is_object()).cloned().unwrap_or_else(|| json!({})),
    });
    let choices = asked.prepare(service, how)?;
    let shown = Shown { measured: how.measured, ..Shown::default() };
    let shape = Box::new(ResponseShape::new(form, repeated));
    let reply = Reply::new(service, shape, &asked, shown, how, asked.stream);
    Ok(Call { choices, reply })
}

/// Of what can be included, probabilities are what there could be, and are not.
fn check_include(value: &Value) -> Result<(), Refusal> {
    let list = value.get("include").and_then(Value::as_array);
    let asks = |one: &Value| one.as_str().is_some_and(|one| one.ends_with("logprobs"));
    match list.is_some_and(|list| list.iter().any(asks)) {
        true => {
            let message =
                "`include` of logprobs is not supported: use `/v1/chat/completions` for probabilities";
            Err(Refusal::unsupported("include", message))
        }
        false => Ok(()),
    }
}

/// `text.format` as `response_format`.
fn format(value: &Value) -> Option<Value> {
    let format = value.get("text")?.get("format").filter(|format| !format.is_null())?;
    match (format.get("type").and_then(Value::as_str), format.get("schema")) {
        (Some("json_schema"), Some(schema)) => {
            Some(json!({ "type": "json_schema", "json_schema": { "schema": schema } }))
        }
        _ => Some(format.clone()),
    }
}

fn wrong(what: impl Into<String>) -> Refusal {
    Refusal::field("input", what)
}

/// The messages in OpenAI's older form.
fn messages(body: Body<'_>) -> Result<Vec<Value>, Refusal> {
    let mut all = Vec::new();
    if let Some(text) = body.text(&INSTRUCTIONS) {
        all.push(json!({ "role": "system", "content": text }));
    }
    match body.get(&INPUT) {
        Some(Value::String(text)) => all.push(json!({ "role": "user", "content": text })),
        Some(Value::Array(items)) if !items.is_empty() => {
            for item in items {
                add(&mut all, item)?;
            }
        }
        _ => return Err(wrong("input must be a string, or a list of items that is not empty")),
    }
    Ok(all)
}

/// Adds an item of the input. Thoughts and calls become part of one message of the assistant.
fn add(all: &mut Vec<Value>, item: &Value) -> Result<(), Refusal> {
    let field = |name: &str| item.get(name).and_then(Value::as_str);
    let kind = field("type").unwrap_or("message");
    let needed = |name: &str| {
        field(name).ok_or_else(|| wrong(format!("input: an item of type {kind:?} needs {name}")))
    };
    match kind {
        "message" => {
            check_fields(item).map_err(|why| wrong(format!("input: {why}")))?;
            let content = text_of(item.get("content").unwrap_or(&Value::Null))?;
            let role = needed("role")?;
            match last_of_assistant(all).filter(|_| role == "assistant") {
                Some(message) if !message.contains_key("content") => {
                    message.insert("content".to_owned(), json!(content));
                }
                _ => all.push(json!({ "role": role, "content": content })),
            }
        }
        "function_call" => {
            let function = json!({ "name": needed("name")?, "arguments": needed("arguments")? });
            let call = json!({ "id": needed("call_id")?, "type": "function", "function": function });
            add_call(all, call);
        }
        "function_call_output" => {
            let output = text_of(item.get("output").unwrap_or(&Value::Null))?;
            all.push(json!({ "role": "tool", "tool_call_id": needed("call_id")?, "content": output }));
        }
        "reasoning" => {
            let parts = item.get("content").or(item.get("summary")).and_then(Value::as_array);
            let texts = parts.into_iter().flatten().filter_map(|part| part.get("text")?.as_str());
            let thoughts: Vec<&str> = texts.collect();
            if !thoughts.is_empty() {
                let mut message = Map::new();
                message.insert("role".to_owned(), json!("assistant"));
                message.insert("reasoning_content".to_owned(), json!(thoughts.join("\n")));
                all.push(Value::Object(message));
            }
        }
        other => {
            let other: String = other.chars().take(40).collect();
            let message = format!(
                "input: items of type {other:?} are not supported: send messages, calls and their results"
            );
            return Err(Refusal::unsupported("input", message));
        }
    }
    Ok(())
}

fn last_of_assistant(all: &mut [Value]) -> Option<&mut Map<String, Value>> {
    all.last_mut()
        .and_then(Value::as_object_mut)
        .filter(|message| message.get("role") == Some(&json!("assistant")))
}

/// Puts a call into the last message, if that is of the assistant; else into a new one.
fn add_call(all: &mut Vec<Value>, call: Value) {
    let Some(message) = last_of_assistant(all) else {
        all.push(json!({ "role": "assistant", "content": null, "tool_calls": [call] }));
        return;
    };
    message.entry("content").or_insert(Value::Null);
    if let Value::Array(calls) = message.entry("tool_calls").or_insert_with(|| json!([])) {
        calls.push(call);
    }
}

/// The text of a content: a string, or parts that are texts.
fn text_of(content: &Value) -> Result<String, Refusal> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let text = |part: &Value| {
                let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
                let text = part.get("text").and_then(Value::as_str);
                text.filter(|_| matches!(kind, "input_text" | "output_text" | "text"))
                    .map(str::to_owned)
                    .ok_or_else(|| {
                        let kind: String = kind.chars().take(40).collect();
                        let message =
                            format!("input: parts of type {kind:?} are not supported: only text is read");
                        Refusal::unsupported("input", message)
                    })
            };
            Ok(parts.iter().map(text).collect::<Result<Vec<_>, _>>()?.join("\n"))
        }
        _ => Err(wrong("input: `content` must be a string or a list of parts")),
    }
}
