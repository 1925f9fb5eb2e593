//! JSON in pieces: where a value ends, and the head of a call.

use serde_json::Value;

/// Finds the end of an object or a list that arrives in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    depth: u32,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// Inside of an object whose opening brace has been read.
    pub(super) fn inside() -> Self {
        Self { depth: 1, ..Self::default() }
    }

    /// Reads on; the end of the value, as an offset in `text`, where it ends there.
    pub(super) fn find_end(&mut self, text: &str) -> Option<usize> {
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// What the beginning of a text is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// More text is needed to say.
    More,
    /// No call.
    No,
    /// A call.
    Call {
        /// The function.
        name: String,
        /// Its arguments.
        arguments: Arguments,
    },
}

/// Where the arguments of a call are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arguments {
    /// An object that begins at this offset and may not be complete.
    At(usize),
    /// This text; what follows the call begins at the offset, inside of the call's object if that is not closed.
    Whole {
        /// JSON.
        text: String,
        /// Where reading goes on.
        end: usize,
        /// Whether the call's object ended there.
        closed: bool,
    },
}

/// Whether an object that ends too soon may have been a call: its first key is one of a call's, as far as it goes.
pub(super) fn may_be_call(text: &str) -> bool {
    let Some(key) = text.trim_start().strip_prefix('{') else { return false };
    let key = key.trim_start();
    KEYS.iter().any(|known| {
        let known = format!("\"{known}\"");
        key.starts_with(&known) || known.starts_with(key)
    })
}

/// Keys that calls begin with.
const KEYS: [&str; 8] =
    ["name", "tool_name", "arguments", "parameters", "id", "tool_call_id", "type", "function"];

/// A text that is read from its start and may end too soon.
struct Reader<'t> {
    text: &'t str,
    at: usize,
}

/// Too soon an end, or something else than expected.
enum Stop {
    More,
    No,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn peek(&mut self) -> Result<u8, Stop> {
        self.skip_space();
        self.rest().bytes().next().ok_or(Stop::More)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Stop> {
        if self.peek()? != byte {
            return Err(Stop::No);
        }
        self.at += 1;
        Ok(())
    }

    /// The text of a string.
    fn string(&mut self) -> Result<String, Stop> {
        let start = self.at;
        self.expect(b'"')?;
        let mut escaped = false;
        for (at, byte) in self.rest().bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    self.at += at + 1;
                    let text = self.text.get(start..self.at).unwrap_or_default();
                    return serde_json::from_str(text.trim_start()).map_err(|_| Stop::No);
                }
                _ => {}
            }
        }
        Err(Stop::More)
    }

    /// The text of a value that is complete.
    fn value(&mut self) -> Result<&'t str, Stop> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => self.string().map(drop)?,
            b'{' | b'[' => self.at += Scan::default().find_end(self.rest()).ok_or(Stop::More)?,
            _ => {
                let end = |byte: u8| b",]} \n\r\t".contains(&byte);
                self.at += self.rest().bytes().position(end).ok_or(Stop::More)?;
            }
        }
        Ok(self.text.get(start..self.at).unwrap_or_default())
    }
}

/// Arguments as a value that is complete: the JSON text of an object.
fn whole(value: &str) -> Option<String> {
    match serde_json::from_str(value).ok()? {
        Value::Object(_) => Some(value.to_owned()),
        Value::Null => Some("{}".to_owned()),
        // Some models write the JSON text of the arguments as a string.
        Value::String(text) => serde_json::from_str::<Value>(&text).ok()?.is_object().then_some(text),
        _ => None,
    }
}

/// Reads the head of an object with a function's name and its arguments, in either order, under any of the keys in use.
pub(super) fn head(text: &str) -> Head {
    match read_head(&mut Reader { text, at: 0 }) {
        Ok((name, arguments)) => Head::Call { name, arguments },
        Err(Stop::More) => Head::More,
        Err(Stop::No) => Head::No,
    }
}

fn read_head(reader: &mut Reader<'_>) -> Result<(String, Arguments), Stop> {
    reader.expect(b'{')?;
    let (mut name, mut arguments) = (None, None::<String>);
    loop {
        let key = reader.string()?;
        reader.expect(b':')?;
        match key.as_str() {
            "name" | "tool_name" => name = Some(reader.string()?),
            "arguments" | "parameters" => match (&mut name, reader.peek()?) {
                (Some(name), b'{') => return Ok((std::mem::take(name), Arguments::At(reader.at))),
                _ => arguments = Some(whole(reader.value()?).ok_or(Stop::No)?),
            },
            _ => drop(reader.value()?),
        }
        let next = reader.peek()?;
        reader.at += 1;
        let closed = next == b'}';
        match (&mut name, arguments.take()) {
            (Some(name), Some(text)) => {
                let arguments = Arguments::Whole { text, end: reader.at, closed };
                return Ok((std::mem::take(name), arguments));
            }
            (Some(name), None) if closed => {
                let arguments = Arguments::Whole { text: "{}".to_owned(), end: reader.at, closed };
                return Ok((std::mem::take(name), arguments));
            }
            (_, kept) if next == b',' => arguments = kept,
            _ => return Err(Stop::No),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str) -> Option<(String, Arguments)> {
        match head(text) {
            Head::Call { name, arguments } => Some((name, arguments)),
            _ => None,
        }
    }

    #[test]
    fn heads_are_read_in_every_order() {
        let at = |text: &str| call(text).map(|(name, arguments)| (name, arguments == Arguments::At(27)));
        assert_eq!(at(r#" {"name": "f", "arguments": {"a": "#), Some(("f".to_owned(), false)));
        assert_eq!(at(r#"{"name": "f", "arguments": {"a": "#), Some(("f".to_owned(), true)));
        let whole = |text: &str| match call(text).unwrap() {
            (name, Arguments::Whole { text, closed, .. }) => (name, text, closed),
            other => panic!("{other:?}"),
        };
        let f = |text: &str, closed| ("f".to_owned(), text.to_owned(), closed);
        assert_eq!(whole(r#"{"arguments": {"a": 1}, "name": "f"}"#), f(r#"{"a": 1}"#, true));
        assert_eq!(whole(r#"{"id": 3, "parameters": {}, "tool_name": "f", "x": 1}"#), f("{}", false));
        assert_eq!(whole(r#"{"name": "f", "arguments": "{\"a\":1}", "id": 1}"#), f(r#"{"a":1}"#, false));
        assert_eq!(whole(r#"{"name": "f"}"#), f("{}", true));
        assert_eq!(whole(r#"{"name": "f", "arguments": null}"#), f("{}", true));
        for more in
            ["", "{", r#"{"na"#, r#"{"name""#, r#"{"name": "f"#, r#"{"name": "f","#, r#"{"arguments": {"#]
        {
            assert_eq!(head(more), Head::More, "{more}");
        }
        for no in
            ["x", "{x", "[", r#"{"a": 1}"#, r#"{"name": 1}"#, r#"{"name": "f", "arguments": [1]}"#, "{}"]
        {
            assert_eq!(head(no), Head::No, "{no}");
        }
    }

    #[test]
    fn values_end_where_they_end() {
        let text = r#"{"a": "}\"]", "b": [1, {}]} x"#;
        assert_eq!(Scan::default().find_end(text), Some(text.len() - 2));
        let mut scan = Scan::default();
        let ends: Vec<usize> = text
            .char_indices()
            .filter(|&(at, c)| scan.find_end(&text[at..at + c.len_utf8()]).is_some())
            .map(|(at, _)| at)
            .collect();
        assert_eq!(ends.first(), Some(&(text.len() - 3)));
    }
}
