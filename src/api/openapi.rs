//! The description of the API as OpenAPI 3.1, made from the routes and the table of fields.

use serde_json::{Map, Value, json};

use super::Route;
use super::fields::{FIELDS, Kind, Routes, Treatment};

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// What a kind allows, as a JSON schema. `null` is the same as an absent field.
fn schema(kind: Kind) -> Value {
    let token = json!({ "type": "integer", "minimum": 0 });
    let tokens = json!({ "type": "array", "items": token, "minItems": 1 });
    match kind {
        Kind::Bool => json!({ "type": ["boolean", "null"] }),
        Kind::Whole { min, max: u64::MAX } => json!({ "type": ["integer", "null"], "minimum": min }),
        Kind::Whole { min, max } => json!({ "type": ["integer", "null"], "minimum": min, "maximum": max }),
        Kind::Number { min, max } => {
            let mut number = json!({ "type": ["number", "null"] });
            if min != f64::MIN {
                number["minimum"] = json!(min);
            }
            if max != f64::MAX {
                number["maximum"] = json!(max);
            }
            number
        }
        Kind::Text { max: 0 } => json!({ "type": ["string", "null"] }),
        Kind::Text { max } => json!({ "type": ["string", "null"], "minLength": 1, "maxLength": max }),
        Kind::Texts => json!({ "anyOf": [
            { "type": ["string", "null"] }, { "type": "array", "items": { "type": "string" }, "maxItems": 64 },
        ]}),
        Kind::Tokens => json!({ "type": ["array", "null"], "items": token, "maxItems": 64 }),
        Kind::Object => json!({ "type": ["object", "null"] }),
        Kind::Prompt => json!({ "anyOf": [
            { "type": ["string", "null"] },
            { "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": 64 },
            tokens,
            { "type": "array", "items": tokens, "minItems": 1, "maxItems": 64 },
        ]}),
        Kind::Messages => {
            json!({ "type": "array", "items": reference("Message"), "minItems": 1, "maxItems": 4096 })
        }
        Kind::Biases => json!({ "type": ["object", "array", "null"] }),
        Kind::Form(_) | Kind::Described(_) | Kind::Any => json!({}),
    }
}

/// What a field allows whose kind does not say it.
fn particular(route: Route, name: &str) -> Option<Value> {
    let text = json!({ "type": ["string", "null"] });
    let messages = matches!(route, Route::Messages | Route::CountTokens);
    Some(match name {
        "messages" if messages => {
            json!({ "type": "array", "items": reference("BlockMessage"), "minItems": 1, "maxItems": 4096 })
        }
        "input" => json!({ "anyOf": [
            { "type": "string" }, { "type": "array", "items": { "type": "object" }, "minItems": 1 },
        ]}),
        "system" if messages => {
            json!({ "anyOf": [text, { "type": "array", "items": reference("TextPart") }] })
        }
        "system" => text,
        "think" => json!({ "type": ["boolean", "string", "null"] }),
        "tools" => {
            let item = json!({ "type": "object" });
            json!({ "type": ["array", "null"], "items": item, "maxItems": crate::tools::MAX_TOOLS })
        }
        "tool_choice" if messages => json!({ "type": ["object", "null"] }),
        "tool_choice" => json!({ "anyOf": [
            { "enum": ["auto", "none", "required", "any", null] }, { "type": "object" },
        ]}),
        "reasoning_format" => json!({ "enum": ["auto", "deepseek", "none", null] }),
        _ => return None,
    })
}

/// The body of a route: its fields in the order of the table.
fn request(route: Route) -> Value {
    let mut properties = Map::new();
    for field in FIELDS.iter().filter(|field| field.routes.has(route)) {
        if matches!(field.treatment, Treatment::Refused(_)) {
            continue;
        }
        for name in field.names() {
            let mut value = particular(route, name).unwrap_or_else(|| schema(field.kind));
            value["description"] = json!(field.meaning);
            properties.insert(name.to_owned(), value);
        }
    }
    // ollama's routes load a model where there is nothing to answer.
    let is_needed = |name: &&str| match *name {
        "prompt" => Routes::TEXTS.has(route),
        _ => properties.contains_key(*name) && !Routes::OLLAMA.has(route),
    };
    let needed: Vec<&str> = ["messages", "input", "prompt"].into_iter().filter(is_needed).collect();
    json!({ "type": "object", "properties": properties, "required": needed })
}

/// The statuses of refusals, each with what it means.
const REFUSALS: [(&str, &str); 12] = [
    ("400", "the request cannot be answered as it is"),
    ("401", "a key is missing or wrong"),
    ("403", "the request comes from a page or names a host that is not allowed"),
    ("404", "there is no such model or route"),
    ("405", "the route has another method"),
    ("408", "the request did not arrive in time"),
    ("409", "the sequence is in use"),
    ("413", "the request is too large"),
    ("415", "the media type is not allowed"),
    ("429", "too many requests are waiting"),
    ("500", "the server failed"),
    ("503", "the server is loading a model, or ends"),
];

fn content(media: &str, schema: &Value) -> Value {
    json!({ media: { "schema": schema } })
}

/// The refusals of an operation: those of a body only where it has one.
fn refusals(has_body: bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    REFUSALS.into_iter().filter(move |(status, _)| has_body || !["408", "413", "415"].contains(status))
}

/// An operation whose answer is `answer`, as a stream too where `streams`.
fn operation(id: &str, summary: &str, body: Option<&Value>, answer: &Value, streams: Option<&str>) -> Value {
    let mut answers = content("application/json", answer);
    if let Some(media) = streams {
        answers[media] = json!({ "schema": { "type": "string" } });
    }
    let mut responses = Map::new();
    let mut whole = json!({ "description": "the answer", "content": answers });
    if streams.is_some() {
        whole["headers"] = json!({ "x-seed": { "schema": { "type": "integer" }, "description": "the seed of the first choice" } });
    }
    responses.insert("200".to_owned(), whole);
    for (status, meaning) in refusals(body.is_some()) {
        let error = content("application/json", &reference("Error"));
        responses.insert(status.to_owned(), json!({ "description": meaning, "content": error }));
    }
    let mut operation = json!({ "operationId": id, "summary": summary, "responses": responses });
    if let Some(body) = body {
        operation["requestBody"] = json!({ "required": true, "content": content("application/json", body) });
    }
    operation
}

/// The name of a route in operations, and what it does.
fn about(route: Route) -> (&'static str, &'static str) {
    match route {
        Route::ChatCompletions => ("createChatCompletion", "Answers a conversation"),
        Route::ChatTokens => ("countChatTokens", "Counts the tokens of a conversation"),
        Route::ResponseTokens => ("countResponseTokens", "Counts the tokens of an input"),
        Route::Completions => ("createCompletion", "Continues prompts"),
        Route::Responses => ("createResponse", "Answers a conversation (OpenAI's Responses API)"),
        Route::Messages => ("createMessage", "Answers a conversation (Anthropic)"),
        Route::CountTokens => ("countTokens", "Counts the tokens of a conversation (Anthropic)"),
        Route::LlamaCompletion => ("completion", "Continues prompts (llama.cpp)"),
        Route::OllamaChat => ("ollamaChat", "Answers a conversation (ollama)"),
        Route::OllamaGenerate => ("ollamaGenerate", "Continues a prompt (ollama)"),
    }
}

/// The answer of a route.
fn answer(route: Route) -> Value {
    match route {
        Route::ChatCompletions => reference("ChatCompletion"),
        Route::Completions => reference("Completion"),
        Route::Responses => reference("Response"),
        Route::Messages => reference("MessageAnswer"),
        Route::CountTokens => closed(&json!({ "input_tokens": { "type": "integer" } }), &["input_tokens"]),
        Route::ChatTokens | Route::ResponseTokens => closed(
            &json!({ "object": { "const": "response.input_tokens" }, "input_tokens": { "type": "integer" } }),
            &["object", "input_tokens"],
        ),
        Route::LlamaCompletion => json!({ "anyOf": [
            reference("LlamaCompletion"), { "type": "array", "items": reference("LlamaCompletion") },
        ]}),
        Route::OllamaChat => ollama_answer(("message", json!({ "type": "object" }))),
        Route::OllamaGenerate => ollama_answer(("response", json!({ "type": "string" }))),
    }
}

/// The answer of one of ollama's routes.
fn ollama_answer((name, said): (&str, Value)) -> Value {
    let count = json!({ "type": "integer" });
    closed(
        &json!({
            "model": { "type": "string" }, "created_at": { "type": "string" }, name: said, "done": { "type": "boolean" },
            "done_reason": { "enum": ["stop", "length", "load", "unload"] }, "context": { "type": "array", "items": count },
            "prompt_eval_count": count, "eval_count": count, "total_duration": count, "load_duration": count,
            "prompt_eval_duration": count, "eval_duration": count,
        }),
        &["model", "created_at", name, "done"],
    )
}

/// Answers of the dialects.
fn dialects() -> [(&'static str, Value); 3] {
    let (integer, string, any) =
        (json!({ "type": "integer" }), json!({ "type": "string" }), json!({ "type": "object" }));
    let items = json!({ "type": "array", "items": any });
    let response = closed(
        &json!({ "id": string, "object": { "const": "response" }, "created_at": integer, "model": string,
            "status": { "enum": ["completed", "incomplete"] }, "output": items, "usage": any,
            "incomplete_details": { "type": ["object", "null"] } }),
        &["id", "object", "created_at", "model", "status", "output", "usage"],
    );
    let message = closed(
        &json!({ "id": string, "type": { "const": "message" }, "role": { "const": "assistant" }, "model": string,
            "content": items, "stop_reason": { "enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"] },
            "stop_sequence": { "type": ["string", "null"] }, "usage": any }),
        &["id", "type", "role", "model", "content", "stop_reason", "usage"],
    );
    let completion = closed(
        &json!({ "index": integer, "content": string, "tokens": { "type": "array", "items": integer },
            "stop": { "const": true }, "stop_type": { "enum": ["eos", "word", "limit", "none"] }, "model": string,
            "tokens_predicted": integer, "tokens_evaluated": integer, "timings": any }),
        &["index", "content", "tokens", "stop", "stop_type", "model"],
    );
    [("Response", response), ("MessageAnswer", message), ("LlamaCompletion", completion)]
}

/// The media type of the streams of a route.
fn stream(route: Route) -> Option<&'static str> {
    match route {
        route if route.counts() => None,
        Route::OllamaChat | Route::OllamaGenerate => Some("application/x-ndjson"),
        _ => Some("text/event-stream"),
    }
}

fn closed(properties: &Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required })
}

/// What choices of both routes have beside their text.
fn choice(text: (&str, Value)) -> Value {
    let (name, text) = text;
    closed(
        &json!({
            "index": { "type": "integer" },
            name: text,
            "logprobs": { "type": ["object", "null"] },
            "finish_reason": { "enum": ["stop", "length", "tool_calls"] },
            "stop_reason": { "type": ["string", "integer", "null"] },
            "token_ids": { "type": "array", "items": { "type": "integer" } },
            "prompt_token_ids": { "type": "array", "items": { "type": "integer" } },
            "prompt_logprobs": { "type": "array" },
        }),
        &["index", name, "logprobs", "finish_reason"],
    )
}

/// The answer of one of OpenAI's routes.
fn completion(object: &str, choice: &Value) -> Value {
    closed(
        &json!({
            "id": { "type": "string" },
            "object": { "const": object },
            "created": { "type": "integer" },
            "model": { "type": "string" },
            "system_fingerprint": { "type": "string" },
            "choices": { "type": "array", "items": choice },
            "usage": reference("Usage"),
            "seed": { "type": "integer" },
            "timings": { "type": "object" },
        }),
        &["id", "object", "created", "model", "choices", "usage", "seed"],
    )
}

fn schemas() -> Value {
    let (integer, string) = (json!({ "type": "integer" }), json!({ "type": "string" }));
    let part = closed(&json!({ "type": { "const": "text" }, "text": string }), &["type", "text"]);
    let content = json!({ "anyOf": [string, { "type": "array", "items": reference("TextPart") }] });
    let role = json!({ "enum": ["system", "developer", "user", "assistant", "tool", "function"] });
    let mut message = closed(
        &json!({ "role": role, "content": { "anyOf": [content, { "type": "null" }] },
            "refusal": { "type": ["string", "null"] }, "tool_calls": { "type": ["array", "null"], "items": { "type": "object" } } }),
        &["role"],
    );
    // What is said, or what is called.
    message["anyOf"] = json!([
        { "properties": { "content": content }, "required": ["content"] },
        { "properties": { "tool_calls": { "type": "array", "minItems": 1 } }, "required": ["tool_calls"] },
    ]);
    let blocks = json!({ "anyOf": [string, { "type": "array", "items": closed(&json!({ "type": string }), &["type"]) }] });
    let block_message = closed(
        &json!({ "role": { "enum": ["user", "assistant", "system"] }, "content": blocks }),
        &["role", "content"],
    );
    let error = closed(
        &json!({ "message": string, "type": string, "param": { "type": ["string", "null"] },
            "code": { "type": ["string", "integer", "null"] } }),
        &["message", "type"],
    );
    let usage = json!({ "prompt_tokens": integer, "completion_tokens": integer, "total_tokens": integer,
        "prompt_tokens_details": { "type": "object" } });
    let mut all = json!({
        "Message": message,
        "BlockMessage": block_message,
        "TextPart": part,
        "Error": { "type": "object" , "properties": { "error": { "anyOf": [error, string] } }, "required": ["error"] },
        "Usage": closed(&usage, &["prompt_tokens", "completion_tokens", "total_tokens"]),
        "ChatCompletion": completion("chat.completion", &choice(("message", reference("Message")))),
        "Completion": completion("text_completion", &choice(("text", json!({ "type": "string" })))),
        "Model": closed(
            &json!({ "id": string, "object": { "const": "model" }, "created": integer, "owned_by": string }),
            &["id", "object", "created", "owned_by"],
        ),
    });
    if let Value::Object(all) = &mut all {
        all.extend(dialects().map(|(name, schema)| (name.to_owned(), schema)));
    }
    all
}

/// A parameter of a path or of what follows it.
fn parameter(place: &str, name: &str, schema: &Value) -> Value {
    json!({ "name": name, "in": place, "required": place == "path", "schema": schema })
}

/// The operation on the state of a sequence.
fn slot_operation(answer: &Value) -> Value {
    let file = json!({ "type": "object", "properties": { "filename": { "type": "string" }, "model": { "type": "string" } } });
    let mut act = operation(
        "actOnSlot",
        "Saves, restores or erases the state of a sequence",
        Some(&file),
        answer,
        None,
    );
    act["parameters"] = json!([
        parameter("path", "id", &json!({ "type": "integer", "minimum": 0 })),
        parameter("query", "action", &json!({ "enum": ["save", "restore", "erase"] })),
        parameter("query", "model", &json!({ "type": "string" })),
    ]);
    act
}

/// The paths that are read: models, properties and the state of the server.
fn reading_paths(any: &Value) -> Map<String, Value> {
    let models = closed(
        &json!({ "models": { "type": "array", "items": closed(&json!({ "name": { "type": "string" } }), &["name"]) } }),
        &["models"],
    );
    let version = closed(&json!({ "version": { "type": "string" } }), &["version"]);
    let list = closed(
        &json!({ "object": { "const": "list" }, "data": { "type": "array", "items": reference("Model") } }),
        &["object", "data"],
    );
    let (model, slots) = (reference("Model"), json!({ "type": "array", "items": any }));
    let state = closed(&json!({ "status": { "type": "string" } }), &["status"]);
    let of_model = parameter("query", "model", &json!({ "type": "string" }));
    let id = parameter("path", "id", &json!({ "type": "string" }));
    let mut paths = Map::new();
    for (path, name, summary, answer, parameters) in [
        ("/v1/models", "listModels", "Lists the models", &list, None),
        ("/models", "listModels2", "Lists the models", &list, None),
        ("/v1/models/{id}", "getModel", "Describes a model", &model, Some(&id)),
        ("/models/{id}", "getModel2", "Describes a model", &model, Some(&id)),
        ("/tokenizer_info", "tokenizerInfo", "Describes the tokenizer of a model", any, Some(&of_model)),
        ("/props", "props", "Describes a model and its defaults", any, Some(&of_model)),
        ("/slots", "slots", "Tells what the sequences of a model are doing", &slots, Some(&of_model)),
        ("/health", "health", "Whether the server lives", &state, None),
        ("/v1/health", "health2", "Whether the server lives", &state, None),
        ("/ready", "ready", "Whether a new request would be taken", &state, None),
        ("/api/tags", "ollamaTags", "Lists the models (ollama)", &models, None),
        ("/api/ps", "ollamaRunning", "Lists the models that are loaded (ollama)", &models, None),
        ("/api/version", "ollamaVersion", "The version (ollama)", &version, None),
    ] {
        let mut get = operation(name, summary, None, answer, None);
        if let Some(parameter) = parameters {
            get["parameters"] = json!([parameter]);
        }
        if path.ends_with("health") || path == "/ready" {
            // A probe that says no is an answer.
            let answers = json!({ "anyOf": [state, reference("Error")] });
            get["responses"]["503"]["content"] = content("application/json", &answers);
        }
        paths.insert(path.to_owned(), json!({ "get": get }));
    }
    let mut metrics = operation("metrics", "Numbers for Prometheus", None, any, None);
    metrics["responses"]["200"]["content"] = content("text/plain", &json!({ "type": "string" }));
    paths.insert("/metrics".to_owned(), json!({ "get": metrics }));
    paths
}

/// The description of all routes: those that make text, the utilities, and those of a server.
pub fn openapi() -> Value {
    let mut paths = Map::new();
    for route in Route::ALL {
        let (id, summary) = about(route);
        let body = request(route);
        for (number, path) in route.paths().iter().enumerate() {
            let id = if number == 0 { id.to_owned() } else { format!("{id}{}", number + 1) };
            let operation = operation(&id, summary, Some(&body), &answer(route), stream(route));
            paths.insert((*path).to_owned(), json!({ "post": operation }));
        }
    }
    let (any, flag) = (json!({ "type": "object" }), json!({ "type": ["boolean", "null"] }));
    let tokens = json!({ "type": "array", "items": { "type": "integer", "minimum": 0 } });
    let to_tokens = json!({ "type": "object", "properties": {
        "content": { "type": ["string", "array", "null"] }, "add_special": flag, "parse_special": flag, "with_pieces": flag,
        "prompt": { "type": ["string", "null"] }, "messages": { "type": ["array", "null"], "items": reference("Message") },
        "add_special_tokens": flag, "add_generation_prompt": flag, "return_token_strs": flag,
    }});
    let of_tokens = json!({ "type": "object", "properties": { "tokens": tokens }, "required": ["tokens"] });
    let to_text = closed(
        &json!({ "content": { "type": "string" }, "prompt": { "type": "string" } }),
        &["content", "prompt"],
    );
    let prompt = closed(&json!({ "prompt": { "type": "string" } }), &["prompt"]);
    let made = closed(&json!({ "tokens": { "type": "array" } }), &["tokens"]);
    for (path, id, summary, body, answer) in [
        ("/tokenize", "tokenize", "The tokens of a text", to_tokens, made),
        ("/detokenize", "detokenize", "The text of tokens", of_tokens, to_text),
        (
            "/apply-template",
            "applyTemplate",
            "The prompt of a conversation",
            request(Route::ChatCompletions),
            prompt,
        ),
    ] {
        paths.insert(path.to_owned(), json!({ "post": operation(id, summary, Some(&body), &answer, None) }));
    }
    let show =
        json!({ "type": "object", "properties": { "model": { "type": "string" } }, "required": ["model"] });
    let shown = operation("ollamaShow", "Describes a model (ollama)", Some(&show), &any, None);
    paths.insert("/api/show".to_owned(), json!({ "post": shown }));
    paths.extend(reading_paths(&any));
    paths.insert("/slots/{id}".to_owned(), json!({ "post": slot_operation(&any) }));
    json!({
        "openapi": "3.1.0",
        "info": { "title": "bitnetc", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        // Only a server with keys asks for one.
        "security": [{}, { "bearer": [] }, { "key": [] }],
        "components": { "schemas": schemas(), "securitySchemes": {
            "bearer": { "type": "http", "scheme": "bearer" },
            "key": { "type": "apiKey", "in": "header", "name": "x-api-key" },
        }},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All references of a value.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn the_description_is_whole() {
        let all = openapi();
        for route in Route::ALL {
            assert!(route.paths().iter().all(|path| all["paths"][*path]["post"].is_object()), "{route:?}");
        }
        for (path, method) in all["paths"].as_object().unwrap() {
            for (method, operation) in method.as_object().unwrap() {
                let has = |status: &str| operation["responses"].get(status).is_some();
                assert!(has("200") && has("400") && has("413") == (method == "post"), "{path}");
            }
        }
        for path in ["/health", "/ready", "/metrics", "/slots", "/models/{id}", "/v1/models/{id}"] {
            assert!(all["paths"][path]["get"].is_object(), "{path}");
        }
        let reasons = &all["paths"]["/api/chat"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
            ["properties"]["done_reason"]["enum"];
        assert_eq!(*reasons, json!(["stop", "length", "load", "unload"]));
        assert_eq!(all["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
        let mut found = Vec::new();
        references(&all, &mut found);
        assert!(found.len() > 20);
        for reference in found {
            let at = reference.strip_prefix('#').unwrap();
            assert!(all.pointer(at).is_some(), "{reference}");
        }
        let chat = &all["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]
            ["schema"];
        assert_eq!(chat["properties"]["top_logprobs"]["maximum"], 20);
        assert!(chat["properties"].get("audio").is_none(), "what is refused is not offered");
        let mut ids: Vec<&str> = all["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|path| path.as_object().unwrap().values())
            .map(|operation| operation["operationId"].as_str().unwrap())
            .collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
