//! Parameters with tags, as JSON.
//!
//! A value whose schema is that of a text is the text between its tags; any other is JSON, or what a template writes for
//! it (`True`), and a text where it is neither.

use serde_json::Value;

use super::declare::Tool;
use super::form::Tagged;
use super::may_become;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Something was read.
    More,
    /// More text is needed.
    Wait,
    /// The call has ended.
    Done,
}

/// The parameters of a call as far as they are read.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    any: bool,
    value: Option<Kind>,
}

/// The value that is being read.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A text: whether its first character has been read.
    Text { begun: bool },
    /// JSON.
    Json,
}

/// Whether a schema is that of a text.
pub(super) fn is_text(schema: &Value) -> bool {
    let string = |value: &Value| value == "string";
    match schema.get("type") {
        Some(Value::Array(types)) => types.iter().any(string),
        Some(kind) => string(kind),
        None => {
            let all = schema.get("enum").and_then(Value::as_array);
            all.is_some_and(|all| all.iter().all(Value::is_string))
                || schema.get("const").is_some_and(Value::is_string)
        }
    }
}

/// A text as it stands inside of the quotes of a JSON string.
pub(super) fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned()
}

/// A value that is no text.
pub(super) fn json(raw: &str) -> String {
    match raw {
        "True" => "true".to_owned(),
        "False" => "false".to_owned(),
        "None" => "null".to_owned(),
        _ if serde_json::from_str::<Value>(raw).is_ok() => raw.to_owned(),
        _ => Value::from(raw).to_string(),
    }
}

/// What follows a mark, all white space around its lines being optional; `None` if it may still come.
fn after<'t>(text: &'t str, mark: &str) -> Result<&'t str, Step> {
    let mut rest = text;
    for line in mark.split('\n') {
        rest = match rest.trim_start().strip_prefix(line) {
            Some(rest) => rest,
            None if line.starts_with(rest.trim_start()) => return Err(Step::Wait),
            None => return Err(Step::Done),
        };
    }
    Ok(rest)
}

impl Parameters {
    /// Reads on in `held`, and appends JSON to `out`.
    pub(super) fn advance(
        &mut self,
        form: &Tagged,
        tool: &Tool,
        held: &mut String,
        last: bool,
        out: &mut String,
    ) -> Step {
        match self.value {
            None => self.between(form, tool, held, last, out),
            Some(Kind::Text { begun }) => self.text(form, begun, held, last, out),
            Some(Kind::Json) => match held.find(form.end) {
                Some(end) => {
                    out.push_str(&json(held.get(..end).unwrap_or_default().trim()));
                    held.drain(..end + form.end.len());
                    self.value = None;
                    Step::More
                }
                None => Step::Wait,
            },
        }
    }

    fn close(&self, out: &mut String) -> Step {
        out.push_str(if self.any { "}" } else { "{}" });
        Step::Done
    }

    /// Before a parameter or the end.
    fn between(
        &mut self,
        form: &Tagged,
        tool: &Tool,
        held: &mut String,
        last: bool,
        out: &mut String,
    ) -> Step {
        let space = held.len() - held.trim_start().len();
        held.drain(..space);
        let end = form.function.2;
        if !end.is_empty() && held.starts_with(end) {
            held.drain(..end.len());
            return self.close(out);
        }
        if end.is_empty() && held.starts_with(form.close) {
            return self.close(out);
        }
        let (open, middle) = form.parameter;
        let is_prefix = |mark: &str| held.len() < mark.len() && mark.starts_with(held.as_str());
        if !last && [open, end, form.close].into_iter().any(is_prefix) {
            return Step::Wait;
        }
        let Some(rest) = held.strip_prefix(open) else {
            return if last { Step::Wait } else { self.close(out) };
        };
        let stop = middle.chars().next().unwrap_or('>');
        let Some(at) = rest.find(stop) else { return Step::Wait };
        let (key, rest) = rest.split_at_checked(at).unwrap_or_default();
        let value = match after(rest, middle) {
            Ok(value) => held.len() - value.len(),
            Err(Step::Wait) if !last => return Step::Wait,
            Err(_) => return self.close(out),
        };
        let key = key.trim();
        out.push_str(if self.any { ", " } else { "{" });
        out.push_str(&Value::from(key).to_string());
        out.push_str(": ");
        self.any = true;
        self.value = Some(match tool.parameter(key).is_some_and(is_text) {
            true => {
                out.push('"');
                Kind::Text { begun: false }
            }
            false => Kind::Json,
        });
        held.drain(..value);
        Step::More
    }

    /// In a text.
    fn text(&mut self, form: &Tagged, begun: bool, held: &mut String, last: bool, out: &mut String) -> Step {
        if !begun {
            if held.is_empty() {
                return Step::Wait;
            }
            if held.starts_with(form.pad) {
                held.drain(..form.pad.len());
            }
            self.value = Some(Kind::Text { begun: true });
        }
        if let Some(end) = held.find(form.end) {
            let text = held.get(..end).unwrap_or_default();
            out.push_str(&escaped(text.strip_suffix(form.pad).unwrap_or(text)));
            out.push('"');
            held.drain(..end + form.end.len());
            self.value = None;
            return Step::More;
        }
        let padded = format!("{}{}", form.pad, form.end);
        let keep = if last { 0 } else { may_become(held, [padded.as_str(), form.end].into_iter()) };
        let text: String = held.drain(..held.len() - keep).collect();
        out.push_str(&escaped(&text));
        Step::Wait
    }
}
