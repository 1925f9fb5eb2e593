//! The tools that a request declares, and whether it wants one called.

use serde_json::{Map, Value, json};

/// Most tools of a request.
pub const MAX_TOOLS: usize = 128;
/// Longest name of a tool.
const MAX_NAME: usize = 128;
/// Most bytes of all declarations.
const MAX_BYTES: usize = 1 << 20;

/// What is wrong with a declaration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ToolError {
    /// The field.
    pub field: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
    /// Whether it is known and not supported, or has a value that it cannot have.
    pub unsupported: bool,
}

fn wrong(field: &'static str, what: impl std::fmt::Display) -> ToolError {
    ToolError { field, message: format!("{field}: {what}"), unsupported: false }
}

fn unsupported(field: &'static str, what: impl std::fmt::Display) -> ToolError {
    ToolError { unsupported: true, ..wrong(field, what) }
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name: up to 128 letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// What it does, for the model.
    pub description: Option<String>,
    /// A JSON schema of an object: its arguments. An empty one takes none.
    pub parameters: Map<String, Value>,
}

/// Whether a name is one that templates can write and parsers can find.
fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_name_byte)
}

/// Whether names may have this byte.
pub(super) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}

impl Tool {
    /// A tool whose name is fit and whose parameters are an object's.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(name: &str, description: Option<&str>, parameters: Option<&Value>) -> Result<Self, ToolError> {
        if !is_name(name) {
            let shown: String = name.chars().take(MAX_NAME).collect();
            return Err(wrong(
                "tools",
                format!(
                    "{shown:?} is not a valid function name: use 1 to {MAX_NAME} characters from a-z, A-Z, 0-9, `_`, `-` and `.`"
                ),
            ));
        }
        let parameters = match parameters {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(schema)) => schema.clone(),
            Some(_) => return Err(wrong("tools", format!("the parameters of {name} must be a JSON schema"))),
        };
        if parameters.get("type").is_some_and(|kind| kind != "object") {
            let what = format!("the parameters of {name} must be a schema of type \"object\"");
            return Err(wrong("tools", what));
        }
        Ok(Self { name: name.to_owned(), description: description.map(str::to_owned), parameters })
    }

    /// Reads a declaration of OpenAI's API: the function inside of `function`, or beside `type` as `/v1/responses` has it.
    fn read(value: &Value) -> Result<Self, ToolError> {
        match value.get("type").map(Value::as_str) {
            Some(Some("function")) | None if value.is_object() => {}
            Some(Some(kind)) => {
                let what = format!("tools of type {kind:?} are not supported: declare functions");
                return Err(unsupported("tools", what));
            }
            _ => return Err(wrong("tools", "each must be an object with type \"function\" and a function")),
        }
        let function = value.get("function").unwrap_or(value);
        let name = function.get("name").and_then(Value::as_str);
        let name = name.ok_or_else(|| wrong("tools", "each function must have a name"))?;
        let description = match function.get("description") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.as_str()),
            Some(_) => return Err(wrong("tools", format!("the description of {name} must be a string"))),
        };
        Self::new(name, description, function.get("parameters"))
    }

    /// The declaration as templates take it.
    pub fn to_json(&self) -> Value {
        let mut function = Map::new();
        function.insert("name".to_owned(), json!(self.name));
        if let Some(description) = &self.description {
            function.insert("description".to_owned(), json!(description));
        }
        let parameters = match self.parameters.is_empty() {
            true => json!({ "type": "object", "properties": {} }),
            false => Value::Object(self.parameters.clone()),
        };
        function.insert("parameters".to_owned(), parameters);
        json!({ "type": "function", "function": function })
    }

    /// The schema of the parameter with this name.
    pub(super) fn parameter(&self, name: &str) -> Option<&Value> {
        self.parameters.get("properties")?.get(name)
    }
}

/// Whether a tool is to be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As the model likes.
    #[default]
    Auto,
    /// Tools are not even shown to the model.
    None,
    /// At least one, whichever.
    Required,
    /// This one.
    Named(String),
}

impl ToolChoice {
    /// Reads the field of OpenAI's API.
    ///
    /// # Errors
    /// Anything but a word or a function with a name.
    pub fn read(value: Option<&Value>) -> Result<Option<Self>, ToolError> {
        const FIELD: &str = "tool_choice";
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(word)) => match word.as_str() {
                "auto" => Ok(Some(Self::Auto)),
                "none" => Ok(Some(Self::None)),
                "required" | "any" => Ok(Some(Self::Required)),
                _ => Err(wrong(FIELD, "expected \"auto\", \"none\", \"required\" or a function")),
            },
            Some(Value::Object(object)) => {
                if let Some(kind) = object.get("type").filter(|kind| *kind != "function") {
                    return Err(unsupported(FIELD, format!("type {kind} is not supported: name a function")));
                }
                let function = object.get("function").unwrap_or(object.get("name").unwrap_or(&Value::Null));
                let name = function.get("name").unwrap_or(function).as_str();
                let name = name.ok_or_else(|| wrong(FIELD, "the function must have a name"))?;
                Ok(Some(Self::Named(name.to_owned())))
            }
            Some(_) => Err(wrong(FIELD, "expected a word or an object with a function")),
        }
    }
}

/// What a request says of tools. At least one is declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Tools {
    list: Vec<Tool>,
    /// Whether one is to be called.
    pub choice: ToolChoice,
    /// Whether an answer may have more than one call. It has one where the choice names the function.
    pub parallel: bool,
}

impl Tools {
    /// Tools that fit together.
    ///
    /// # Errors
    /// No tools, too many, two of a name, or a choice of one that is not among them.
    pub fn new(list: Vec<Tool>, choice: ToolChoice, parallel: bool) -> Result<Self, ToolError> {
        if list.is_empty() || list.len() > MAX_TOOLS {
            return Err(wrong("tools", format!("declare 1 to {MAX_TOOLS} tools, not {}", list.len())));
        }
        for (at, tool) in list.iter().enumerate() {
            if list.iter().take(at).any(|other| other.name == tool.name) {
                return Err(wrong("tools", format!("{} is declared twice", tool.name)));
            }
        }
        match &choice {
            ToolChoice::Named(name) if !list.iter().any(|tool| tool.name == *name) => {
                let shown: String = name.chars().take(MAX_NAME).collect();
                Err(wrong("tool_choice", format!("{shown:?} is not one of the tools")))
            }
            ToolChoice::Named(_) => Ok(Self { list, choice, parallel: false }),
            _ => Ok(Self { list, choice, parallel }),
        }
    }

    /// Reads the fields `tools`, `tool_choice` and `parallel_tool_calls` of OpenAI's API. `None` where nothing may be called.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(body: &Value) -> Result<Option<Self>, ToolError> {
        for (field, instead) in [("functions", "tools"), ("function_call", "tool_choice")] {
            let asks =
                |value: &&Value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty());
            if body.get(field).filter(asks).is_some_and(|value| value != "none") {
                return Err(unsupported(field, format!("the old form is not supported: use {instead}")));
            }
        }
        let choice = ToolChoice::read(body.get("tool_choice"))?;
        let parallel = match body.get("parallel_tool_calls") {
            None | Some(Value::Null) => true,
            Some(Value::Bool(parallel)) => *parallel,
            Some(_) => return Err(wrong("parallel_tool_calls", "must be true or false")),
        };
        let declared = match body.get("tools") {
            None | Some(Value::Null) => &[][..],
            Some(Value::Array(list)) => list.as_slice(),
            Some(_) => return Err(wrong("tools", "expected a list of functions")),
        };
        if declared.is_empty() {
            return match choice {
                Some(ToolChoice::Required | ToolChoice::Named(_)) => {
                    Err(wrong("tool_choice", "no tools are declared: add tools, or leave tool_choice out"))
                }
                _ => Ok(None),
            };
        }
        if declared.len() > MAX_TOOLS {
            return Err(wrong("tools", format!("declare at most {MAX_TOOLS} tools, not {}", declared.len())));
        }
        let bytes: usize = declared.iter().map(|tool| tool.to_string().len()).sum();
        if bytes > MAX_BYTES {
            return Err(wrong("tools", format!("{bytes} bytes of declarations are more than {MAX_BYTES}")));
        }
        let list = declared.iter().map(Tool::read).collect::<Result<_, _>>()?;
        let tools = Self::new(list, choice.unwrap_or_default(), parallel)?;
        Ok(Some(tools).filter(|tools| tools.choice != ToolChoice::None))
    }

    /// All of them.
    pub fn list(&self) -> &[Tool] {
        &self.list
    }

    /// Those that may be called.
    pub fn allowed(&self) -> impl Iterator<Item = &Tool> {
        let named = match &self.choice {
            ToolChoice::Named(name) => Some(name),
            _ => None,
        };
        self.list.iter().filter(move |tool| named.is_none_or(|name| tool.name == *name))
    }

    /// Whether the answer has to be a call.
    pub fn is_forced(&self) -> bool {
        matches!(self.choice, ToolChoice::Required | ToolChoice::Named(_))
    }

    /// The declarations as templates take them.
    pub fn to_json(&self) -> Vec<Value> {
        self.list.iter().map(Tool::to_json).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str) -> Value {
        json!({ "type": "function", "function": { "name": name, "parameters": { "type": "object" } } })
    }

    #[test]
    fn declarations_of_clients_are_read() {
        let body = json!({ "tools": [function("a"), { "type": "function", "name": "b.c-d", "description": "D" }],
            "tool_choice": { "type": "function", "function": { "name": "a" } }, "parallel_tool_calls": false });
        let tools = Tools::read(&body).unwrap().unwrap();
        assert_eq!((tools.list().len(), tools.parallel, tools.is_forced()), (2, false, true));
        assert_eq!(tools.allowed().map(|tool| tool.name.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(tools.to_json()[1]["function"]["description"], "D");
        for nothing in [
            json!({}),
            json!({ "tools": [], "tool_choice": "auto", "functions": [] }),
            json!({ "tools": null, "tool_choice": null, "function_call": "none" }),
            json!({ "tools": [function("a")], "tool_choice": "none" }),
        ] {
            assert_eq!(Tools::read(&nothing).unwrap(), None, "{nothing}");
        }
        let flat = json!({ "tools": [function("a")], "tool_choice": { "type": "function", "name": "a" } });
        assert_eq!(Tools::read(&flat).unwrap().unwrap().choice, ToolChoice::Named("a".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let many: Vec<Value> = (0..=MAX_TOOLS).map(|n| function(&format!("f{n}"))).collect();
        for (field, body) in [
            ("tools", json!({ "tools": {} })),
            ("tools", json!({ "tools": [1] })),
            ("tools", json!({ "tools": [{}] })),
            ("tools", json!({ "tools": [{ "type": "custom", "name": "a" }] })),
            ("tools", json!({ "tools": [function("a b")] })),
            ("tools", json!({ "tools": [function("")] })),
            ("tools", json!({ "tools": [function("a"), function("a")] })),
            (
                "tools",
                json!({ "tools": [{ "type": "function", "function": { "name": "a", "parameters": [] } }] }),
            ),
            (
                "tools",
                json!({ "tools": [{ "type": "function", "function": { "name": "a", "parameters": { "type": "string" } } }] }),
            ),
            ("tools", json!({ "tools": many })),
            ("tool_choice", json!({ "tool_choice": "required" })),
            ("tool_choice", json!({ "tools": [function("a")], "tool_choice": "sometimes" })),
            ("tool_choice", json!({ "tools": [function("a")], "tool_choice": { "type": "function" } })),
            (
                "tool_choice",
                json!({ "tools": [function("a")], "tool_choice": { "type": "function", "function": { "name": "b" } } }),
            ),
            ("parallel_tool_calls", json!({ "tools": [function("a")], "parallel_tool_calls": 1 })),
            ("functions", json!({ "functions": [{ "name": "a" }] })),
        ] {
            let error = Tools::read(&body).unwrap_err();
            assert_eq!(error.field, field, "{body}");
            assert!(error.message.contains(field), "{error}");
        }
    }
}
