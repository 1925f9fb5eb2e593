//! A grammar for answers that have to be calls: the template's own form, with arguments that follow the schema.

use std::fmt::Write;

use bitnetc_runtime::tokenizer::{TokenId, TokenType, Tokenize};
use serde_json::{Value, json};

use super::declare::{Tool, ToolError, Tools, is_name_byte};
use super::form::{CallForm, Listed, Named, Objects, Shape, Tagged};
use super::tagged::is_text;
use crate::chat::ThinkForm;
use crate::constraint::GrammarSource;
use crate::constraint::schema::patterns;

/// Most calls of an answer that has to be one: a model that does not know when to end would go on to the limit of its length.
const MAX_CALLS: usize = 8;
/// Most properties of a tool whose form writes each by its name.
const MAX_PROPERTIES: usize = 256;

/// Control tokens of a model that stand for marks of its template. In an answer they count as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Markers(Vec<(String, TokenId)>);

impl Markers {
    /// Those that occur in any of `literals`. Tokens that end a text are none of them.
    pub fn of(tokenizer: &dyn Tokenize, literals: &[&str]) -> Self {
        let marker = |id: TokenId| {
            let control = tokenizer.token_type(id) == Some(TokenType::Control) && !tokenizer.is_end(id);
            let text = std::str::from_utf8(tokenizer.token_bytes(id)).ok().filter(|text| !text.is_empty())?;
            (control && literals.iter().any(|literal| literal.contains(text))).then(|| (text.to_owned(), id))
        };
        Self((0..tokenizer.vocab_size() as u32).filter_map(marker).collect())
    }

    /// Their ids.
    pub fn ids(&self) -> Vec<TokenId> {
        self.0.iter().map(|&(_, id)| id).collect()
    }

    /// A text in Lark: its marks as tokens, all else as it is.
    fn literal(&self, text: &str) -> String {
        let first = |(marker, id): &(String, TokenId)| Some((text.find(marker.as_str())?, marker.len(), *id));
        let found = self.0.iter().filter_map(first).min_by_key(|&(at, len, _)| (at, std::cmp::Reverse(len)));
        let quoted = |text: &str| match text {
            "" => String::new(),
            _ => format!("{} ", Value::from(text)),
        };
        match found {
            None => quoted(text),
            Some((at, len, id)) => {
                let (before, rest) = text.split_at(at);
                format!("{}<[{id}]> {}", quoted(before), self.literal(rest.get(len..).unwrap_or_default()))
            }
        }
    }

    /// The token that a text is, if it is one.
    fn token(&self, text: &str) -> Option<TokenId> {
        self.0.iter().find(|(marker, _)| marker == text).map(|&(_, id)| id)
    }
}

/// A grammar in the making.
struct Writer<'m> {
    markers: &'m Markers,
    rules: String,
    schemas: Vec<String>,
}

/// The grammar of an answer that is a call, or several, of the tools that may be called. `thinking` is how the template
/// thinks, and whether the prompt has begun to.
///
/// # Errors
/// Parameters that the form cannot enforce.
pub fn grammar(
    form: &CallForm,
    tools: &Tools,
    markers: &Markers,
    thinking: Option<(&ThinkForm, bool)>,
) -> Result<GrammarSource, ToolError> {
    let mut writer = Writer { markers, rules: String::new(), schemas: Vec::new() };
    let mut calls = Vec::new();
    for tool in tools.allowed() {
        calls.push(match &form.shape {
            Shape::Objects(objects) => writer.object(objects, tool),
            Shape::Named(named) => writer.named(named, tool),
            Shape::Tagged(tagged) => writer.tagged(tagged, tool)?,
            Shape::Listed(_) => writer.listed(tool)?,
        });
    }
    let _ = writeln!(writer.rules, "call: {}", calls.join(" | "));
    let answer = writer.answer(&form.shape, tools.parallel);
    let answer = match thinking {
        Some((form, opened)) => writer.after_thinking(form, opened, &answer),
        None => answer,
    };
    let lark = format!("start: {answer}\n{}", writer.rules);
    Ok(GrammarSource::Parts { lark, schemas: writer.schemas })
}

/// The grammar of an answer that follows `source` after the model has thought.
///
/// # Errors
/// None for forms that can be a part of a grammar; the others are given back.
pub(crate) fn schema_after_thinking(
    source: GrammarSource,
    markers: &Markers,
    form: &ThinkForm,
    opened: bool,
) -> Result<GrammarSource, GrammarSource> {
    let GrammarSource::JsonSchema(schema) = source else { return Err(source) };
    let mut writer = Writer { markers, rules: String::new(), schemas: vec![schema] };
    let answer = writer.after_thinking(form, opened, "schema_0");
    let lark = format!("start: {answer}\n{}", writer.rules);
    Ok(GrammarSource::Parts { lark, schemas: writer.schemas })
}

impl Writer<'_> {
    fn literal(&self, text: &str) -> String {
        self.markers.literal(text)
    }

    /// The name of a rule for texts that follow a schema.
    fn schema(&mut self, schema: &Value) -> String {
        self.schemas.push(schema.to_string());
        format!("schema_{}", self.schemas.len() - 1)
    }

    /// The rule for the arguments of a tool. Only what is declared may be given, unless the schema says otherwise.
    fn arguments(&mut self, tool: &Tool) -> String {
        let mut schema = tool.parameters.clone();
        schema.entry("type").or_insert_with(|| json!("object"));
        let combines =
            ["anyOf", "oneOf", "allOf", "$ref", "patternProperties", "unevaluatedProperties", "if"];
        if !combines.iter().any(|&key| schema.contains_key(key)) {
            schema.entry("additionalProperties").or_insert(Value::Bool(false));
        }
        self.schema(&Value::Object(schema))
    }

    fn object(&mut self, form: &Objects, tool: &Tool) -> String {
        let arguments = self.arguments(tool);
        let name = json!(tool.name);
        let head = format!("\"{}\": {name}, \"{}\": ", form.name, form.arguments);
        match form.number {
            None => format!("{}{arguments} \"}}\"", self.literal(&format!("{{{head}"))),
            Some(key) => {
                let number = self.literal(&format!("{{\"{key}\": \""));
                let head = self.literal(&format!("\", {head}"));
                format!("{number}/[0-9]/ {head}{arguments} \"}}\"")
            }
        }
    }

    fn named(&mut self, form: &Named, tool: &Tool) -> String {
        let arguments = self.arguments(tool);
        let head = self.literal(&format!("{}{}", form.open, tool.name));
        let count = if form.counted { "\":\" /[0-9]/ " } else { "" };
        format!("{head}{count}{}{arguments} {}", self.literal(form.middle), self.literal(form.close))
    }

    fn tagged(&mut self, form: &Tagged, tool: &Tool) -> Result<String, ToolError> {
        let (open, close, end) = form.function;
        let mut rule = self.literal(&format!("{open}{}{close}\n", tool.name));
        for Property { name, schema, is_required } in properties(tool)? {
            let head = self.literal(&format!("{}{name}{}{}", form.parameter.0, form.parameter.1, form.pad));
            let value = self.value(form, tool, name, schema)?;
            let _ = write!(rule, "({head}{value} \"\\n\"){} ", if is_required { "" } else { "?" });
        }
        rule.push_str(&self.literal(end));
        Ok(rule)
    }

    /// A call as Python writes it, with values of JSON: those that are required and any of the others, in the order of the schema.
    fn listed(&mut self, tool: &Tool) -> Result<String, ToolError> {
        let properties = properties(tool)?;
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_name_byte);
        if let Some(Property { name, .. }) = properties.iter().find(|property| !is_name(property.name)) {
            return Err(unenforceable(
                tool,
                &format!("has the property {name:?}, which cannot be the name of an argument"),
            ));
        }
        let head = self.literal(&format!("{}(", tool.name));
        let arguments = properties.iter().map(|property| {
            let value = self.schema(&with_definitions(property.schema, tool));
            format!("{}{value} ", self.literal(&format!("{}=", property.name)))
        });
        let arguments: Vec<String> = arguments.collect();
        // For each property what may follow from there on: after other arguments, or as the first one.
        let rule = format!("rest_{}", self.rules.len());
        let count = properties.len();
        let _ = writeln!(self.rules, "{rule}_more_{count}: \"\"\n{rule}_first_{count}: \"\"");
        for (at, (argument, property)) in arguments.iter().zip(&properties).enumerate() {
            for (kind, comma) in [("more", "\", \" "), ("first", "")] {
                let skipped = match property.is_required {
                    true => String::new(),
                    false => format!("| {rule}_{kind}_{}", at + 1),
                };
                let next = format!("{comma}{argument}{rule}_more_{}", at + 1);
                let _ = writeln!(self.rules, "{rule}_{kind}_{at}: {next} {skipped}");
            }
        }
        Ok(format!("{head}{rule}_first_0 \")\""))
    }

    /// The value of a property and the mark after it.
    fn value(&mut self, form: &Tagged, tool: &Tool, name: &str, schema: &Value) -> Result<String, ToolError> {
        let end = format!("{}{}", form.pad, form.end);
        if !is_text(schema) {
            return Ok(format!("{} {}", self.schema(&with_definitions(schema, tool)), self.literal(&end)));
        }
        let choices = schema.get("enum").and_then(Value::as_array).map(Vec::as_slice);
        let choices = choices.or(schema.get("const").map(std::slice::from_ref));
        if let Some(choices) = choices {
            let choice = |choice: &Value| match choice {
                Value::String(text) if text.contains(form.end) => None,
                Value::String(text) => Some(self.literal(text)),
                other => Some(self.literal(&other.to_string())),
            };
            let choices: Option<Vec<String>> = choices.iter().map(choice).collect();
            let choices =
                choices.ok_or_else(|| unenforceable(tool, &format!("has the mark of an end in {name}")))?;
            return Ok(format!("({}) {}", choices.join("| "), self.literal(&end)));
        }
        for keyword in ["anyOf", "oneOf", "allOf", "not", "$ref"] {
            if schema.get(keyword).is_some() {
                return Err(unenforceable(tool, &format!("has {keyword} for the text {name}")));
            }
        }
        let rule = format!("text_{}", self.rules.len());
        let patterns: Option<Vec<String>> =
            patterns(schema).iter().map(|pattern| whole_pattern(pattern)).collect();
        let patterns = patterns.ok_or_else(|| {
            unenforceable(tool, &format!("has a pattern with several anchors for the text {name}"))
        })?;
        let (suffix, all) = (Value::from(end), text_of(schema));
        let text = match patterns.is_empty() {
            true => all,
            // Where the mark of the end does not end a text that matches, it must not become a part of it.
            false => {
                format!("{} & {all} & ~(/(?s:.*)/ {} /(?s:.*)/)", patterns.join(" & "), Value::from(form.end))
            }
        };
        let _ = writeln!(self.rules, "{rule}[suffix={suffix}]: {text}");
        Ok(rule)
    }

    /// What an answer is made of `call`.
    fn answer(&self, shape: &Shape, parallel: bool) -> String {
        let more = |separator: &str| match parallel {
            true => repeated(&self.literal(separator), "call"),
            false => String::new(),
        };
        match shape {
            Shape::Objects(Objects { open: "", .. }) => "call".to_owned(),
            Shape::Objects(Objects { open, close, list: true, .. }) => {
                format!("{}{}", self.list(open, parallel), self.literal(close))
            }
            Shape::Listed(Listed { open, close }) => {
                format!("{}{}", self.list(open, parallel), self.literal(close))
            }
            Shape::Objects(Objects { open, close, pad, .. }) => {
                let (open, close) =
                    (self.literal(&format!("{open}{pad}")), self.literal(&format!("{pad}{close}")));
                self.each(&format!("{open}call {close}"), pad, parallel)
            }
            Shape::Named(Named { section, .. }) => {
                format!("{}call {} {}", self.literal(section.0), more(""), self.literal(section.1))
            }
            Shape::Tagged(Tagged { open, close, each, function, .. }) => {
                let line = if function.0.is_empty() { "" } else { "\n" };
                let (open, close) =
                    (self.literal(&format!("{open}{line}")), self.literal(&format!("{line}{close}")));
                match each {
                    true => self.each(&format!("{open}call {close}"), "\n", parallel),
                    false => format!("{open}call {} {close}", more("\n")),
                }
            }
        }
    }

    /// A list of calls after a mark.
    fn list(&self, open: &str, parallel: bool) -> String {
        let more = if parallel { repeated(&self.literal(", "), "call") } else { String::new() };
        format!("{}\"[\" call {more} \"]\" ", self.literal(open))
    }

    fn each(&self, one: &str, separator: &str, parallel: bool) -> String {
        match parallel {
            true => format!("{one} {}", repeated(&self.literal(separator), one)),
            false => one.to_owned(),
        }
    }

    /// An answer after thoughts: to their end where the prompt has begun them, else none or all.
    fn after_thinking(&mut self, form: &ThinkForm, opened: bool, answer: &str) -> String {
        let thoughts = match self.markers.token(form.close) {
            Some(id) => format!("thoughts: (/(?s:.+)/)? <[{id}]>"),
            None => format!("thoughts[suffix={}]: /(?s:.*)/", Value::from(form.close)),
        };
        let _ = writeln!(self.rules, "{thoughts}");
        let space = "(\"\\n\" \"\\n\"?)?";
        match opened {
            true => format!("thoughts {space} {answer}"),
            false => format!("({} thoughts {space})? {answer}", self.literal(form.open)),
        }
    }
}

/// A parameter that a form writes by its name.
struct Property<'t> {
    name: &'t str,
    schema: &'t Value,
    is_required: bool,
}

/// The parameters of a tool.
fn properties(tool: &Tool) -> Result<Vec<Property<'_>>, ToolError> {
    let properties = match tool.parameters.get("properties") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(properties)) if properties.len() <= MAX_PROPERTIES => properties,
        Some(_) => {
            return Err(unenforceable(tool, &format!("has no list of at most {MAX_PROPERTIES} properties")));
        }
    };
    let required = tool.parameters.get("required").and_then(Value::as_array);
    let is_required =
        |name: &str| required.is_some_and(|list| list.iter().any(|entry| entry.as_str() == Some(name)));
    let property = |(name, schema)| Property { name, schema, is_required: is_required(name) };
    Ok(properties.iter().map(|(name, schema)| (name.as_str(), schema)).map(property).collect())
}

/// The schema of a parameter, with what it may refer to.
fn with_definitions(schema: &Value, tool: &Tool) -> Value {
    let mut schema = schema.clone();
    for key in ["$defs", "definitions"] {
        if let (Some(shared), Some(schema)) = (tool.parameters.get(key), schema.as_object_mut()) {
            schema.entry(key).or_insert_with(|| shared.clone());
        }
    }
    schema
}

/// All texts of the lengths that a schema allows, in Lark.
fn text_of(schema: &Value) -> String {
    let length = |key: &str| schema.get(key).and_then(Value::as_u64);
    match (length("minLength"), length("maxLength")) {
        (None, None) => "/(?s:.*)/".to_owned(),
        (least, most) => {
            let most = most.map(|most| most.to_string()).unwrap_or_default();
            format!("/(?s:.{{{},{most}}})/", least.unwrap_or(0))
        }
    }
}

/// The texts in which a pattern is found, in Lark; `None` where it has anchors that are not those of the whole.
fn whole_pattern(pattern: &str) -> Option<String> {
    let is_escaped = |text: &str| text.bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 1;
    let (inner, from_start) = match pattern.strip_prefix('^') {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    let (inner, to_end) = match inner.strip_suffix('$') {
        Some(rest) if !is_escaped(rest) => (rest, true),
        _ => (inner, false),
    };
    if (from_start || to_end) && has_alternatives(inner) {
        return None;
    }
    let any = |is_anchored: bool| if is_anchored { "" } else { "(?s:.*)" };
    // What would end the pattern in Lark is spelled as its code.
    let inner = inner.replace('/', "\\x2F").replace('\n', "\\n");
    Some(format!("/{}({inner}){}/", any(from_start), any(to_end)))
}

/// Whether a pattern has alternatives that stand in no group.
fn has_alternatives(pattern: &str) -> bool {
    let (mut depth, mut in_class, mut escaped) = (0_usize, false, false);
    for byte in pattern.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'[' => in_class = true,
            b']' => in_class = false,
            _ if in_class => {}
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'|' if depth == 0 => return true,
            _ => {}
        }
    }
    false
}

/// Further calls, each after a separator.
fn repeated(separator: &str, call: &str) -> String {
    format!("({separator}{call}){{0,{}}}", MAX_CALLS - 1)
}

fn unenforceable(tool: &Tool, what: &str) -> ToolError {
    ToolError {
        field: "tools",
        message: format!(
            "tools: {} {what}, which cannot be enforced in the form in which this model writes calls: use tool_choice \"auto\", or leave it out of the schema",
            tool.name
        ),
        unsupported: true,
    }
}

#[cfg(test)]
mod tests;
