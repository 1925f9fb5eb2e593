//! Arguments in Python's syntax, as JSON: `city="Rome", days=[1, 2], metric=True)`.
//!
//! A reader of single characters, so that what it writes does not depend on how a text is cut into pieces: strings are handed on as
//! they come, names and numbers when they end. What is not understood (arguments without a name, expressions) ends the call with the
//! arguments there are.

use super::tagged::{Step, escaped, json};

/// Most brackets inside of each other.
const MAX_DEPTH: usize = 64;
/// Most characters of a name or a number.
const MAX_WORD: usize = 256;

/// What is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bracket {
    /// The parenthesis of the call: names with values.
    Call,
    /// A list or a tuple, and what closes it.
    List { close: char },
    /// A dict: keys with values.
    Dict,
}

impl Bracket {
    fn close(self) -> char {
        match self {
            Self::Call => ')',
            Self::List { close } => close,
            Self::Dict => '}',
        }
    }

    fn json_close(self) -> char {
        if matches!(self, Self::List { .. }) { ']' } else { '}' }
    }
}

/// What may come next in a bracket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// An element or the end: after the bracket or a comma.
    Element,
    /// What stands between a key and its value.
    Sign,
    /// A value.
    Value,
    /// A comma or the end.
    Next,
}

/// A string that has begun.
#[derive(Debug)]
struct Quoted {
    quote: char,
    is_key: bool,
    /// What follows a backslash.
    escape: Option<String>,
    /// The first half of a character of two escapes.
    high: Option<u32>,
}

/// What a character came to.
enum Read {
    More,
    /// It closes the call.
    Closed,
    /// It is not one of a call, and is left.
    Unfit,
}

/// The arguments of a call as far as they are read.
#[derive(Debug)]
pub(super) struct Keywords {
    /// What is open, and whether it has an element.
    open: Vec<(Bracket, bool)>,
    place: Place,
    word: String,
    quoted: Option<Quoted>,
    begun: bool,
}

impl Default for Keywords {
    fn default() -> Self {
        let open = vec![(Bracket::Call, false)];
        Self { open, place: Place::Element, word: String::new(), quoted: None, begun: false }
    }
}

impl Keywords {
    /// Reads on in `held`, and appends JSON to `out`.
    pub(super) fn advance(&mut self, held: &mut String, out: &mut String) -> Step {
        for (at, c) in held.char_indices() {
            if !std::mem::replace(&mut self.begun, true) {
                out.push('{');
            }
            match self.read(c, out) {
                Read::More => {}
                Read::Closed => {
                    held.drain(..at + c.len_utf8());
                    return Step::Done;
                }
                Read::Unfit => {
                    held.drain(..at);
                    self.close(out);
                    return Step::Done;
                }
            }
        }
        held.clear();
        Step::Wait
    }

    fn read(&mut self, c: char, out: &mut String) -> Read {
        if self.quoted.is_some() {
            self.quoted(c, out);
            return Read::More;
        }
        let is_word = c.is_alphanumeric() || "_.+-".contains(c);
        if is_word {
            let fits = matches!(self.place, Place::Element | Place::Value) && self.word.len() < MAX_WORD;
            if !fits {
                return Read::Unfit;
            }
            self.word.push(c);
            return Read::More;
        }
        self.end_word(out);
        match c {
            _ if c.is_whitespace() => Read::More,
            '"' | '\'' => self.begin_text(c, out),
            '[' | '(' | '{' => self.begin_bracket(c, out),
            ']' | ')' | '}' => self.end_bracket(c, out),
            ',' if self.place == Place::Next => {
                self.place = Place::Element;
                Read::More
            }
            '=' | ':' if self.place == Place::Sign && (c == '=') == (self.bracket() == Bracket::Call) => {
                out.push_str(": ");
                self.place = Place::Value;
                Read::More
            }
            _ => Read::Unfit,
        }
    }

    fn bracket(&self) -> Bracket {
        self.open.last().map_or(Bracket::Call, |&(bracket, _)| bracket)
    }

    /// Begins an element; whether it is a key.
    fn element(&mut self, out: &mut String) -> bool {
        if self.place == Place::Value {
            return false;
        }
        if let Some((_, any)) = self.open.last_mut()
            && std::mem::replace(any, true)
        {
            out.push_str(", ");
        }
        !matches!(self.bracket(), Bracket::List { .. })
    }

    /// Ends a name or a number, if there is one.
    fn end_word(&mut self, out: &mut String) {
        if self.word.is_empty() {
            return;
        }
        let word = std::mem::take(&mut self.word);
        self.place = match self.element(out) {
            true => {
                out.push_str(&format!("\"{}\"", escaped(&word)));
                Place::Sign
            }
            false => {
                out.push_str(&json(&word));
                Place::Next
            }
        };
    }

    fn begin_text(&mut self, quote: char, out: &mut String) -> Read {
        let is_name = self.place == Place::Element && self.bracket() == Bracket::Call;
        if is_name || !matches!(self.place, Place::Element | Place::Value) {
            return Read::Unfit;
        }
        let is_key = self.element(out);
        out.push('"');
        self.quoted = Some(Quoted { quote, is_key, escape: None, high: None });
        Read::More
    }

    fn begin_bracket(&mut self, c: char, out: &mut String) -> Read {
        let is_key = self.place == Place::Element && !matches!(self.bracket(), Bracket::List { .. });
        let is_value = matches!(self.place, Place::Element | Place::Value) && !is_key;
        if !is_value || self.open.len() >= MAX_DEPTH {
            return Read::Unfit;
        }
        self.element(out);
        let (bracket, json) = match c {
            '{' => (Bracket::Dict, '{'),
            '[' => (Bracket::List { close: ']' }, '['),
            _ => (Bracket::List { close: ')' }, '['),
        };
        out.push(json);
        self.open.push((bracket, false));
        self.place = Place::Element;
        Read::More
    }

    fn end_bracket(&mut self, c: char, out: &mut String) -> Read {
        if !matches!(self.place, Place::Element | Place::Next) || self.bracket().close() != c {
            return Read::Unfit;
        }
        out.push(self.bracket().json_close());
        self.open.pop();
        self.place = Place::Next;
        if self.open.is_empty() { Read::Closed } else { Read::More }
    }

    /// A character of a string.
    fn quoted(&mut self, c: char, out: &mut String) {
        let Some(quoted) = &mut self.quoted else { return };
        if let Some(escape) = &mut quoted.escape {
            escape.push(c);
            match meaning(escape) {
                Meaning::More => {}
                Meaning::Text(text) => {
                    quoted.lone(out);
                    out.push_str(&escaped(&text));
                    quoted.escape = None;
                }
                Meaning::Half(code) => {
                    quoted.half(code, out);
                    quoted.escape = None;
                }
            }
            return;
        }
        if c == '\\' {
            quoted.escape = Some(String::new());
            return;
        }
        quoted.lone(out);
        if c != quoted.quote {
            out.push_str(&escaped(c.encode_utf8(&mut [0; 4])));
            return;
        }
        out.push('"');
        self.place = if quoted.is_key { Place::Sign } else { Place::Next };
        self.quoted = None;
    }

    /// Ends arguments in the middle of which something else stands.
    fn close(&mut self, out: &mut String) {
        if let Some(quoted) = self.quoted.take() {
            out.push('"');
            self.place = if quoted.is_key { Place::Sign } else { Place::Next };
        }
        self.end_word(out);
        match self.place {
            Place::Sign => out.push_str(": null"),
            Place::Value => out.push_str("null"),
            Place::Element | Place::Next => {}
        }
        self.open.drain(..).rev().for_each(|(bracket, _)| out.push(bracket.json_close()));
    }
}

impl Quoted {
    /// The half of a character whose other half does not come.
    fn lone(&mut self, out: &mut String) {
        if self.high.take().is_some() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }

    fn half(&mut self, code: u32, out: &mut String) {
        let is_high = code < 0xdc00;
        match self.high.take() {
            Some(high) if !is_high => {
                let whole = 0x1_0000 + ((high - 0xd800) << 10) + (code - 0xdc00);
                out.push(char::from_u32(whole).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            before => {
                let lost = usize::from(before.is_some()) + usize::from(!is_high);
                (0..lost).for_each(|_| out.push(char::REPLACEMENT_CHARACTER));
                self.high = is_high.then_some(code);
            }
        }
    }
}

/// What an escape stands for.
enum Meaning {
    /// It goes on.
    More,
    Text(String),
    /// Half of a character: a surrogate.
    Half(u32),
}

/// What follows a backslash; what is no escape stands for itself, as in Python.
fn meaning(escape: &str) -> Meaning {
    let text = |text: &str| Meaning::Text(text.to_owned());
    let Some(first) = escape.chars().next() else { return Meaning::More };
    let digits = match first {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        'n' => return text("\n"),
        't' => return text("\t"),
        'r' => return text("\r"),
        'b' => return text("\u{8}"),
        'f' => return text("\u{c}"),
        '0' => return text("\0"),
        // A line that goes on.
        '\n' => return text(""),
        '\\' | '\'' | '"' => return text(escape),
        _ => return Meaning::Text(format!("\\{escape}")),
    };
    let given = escape.get(1..).unwrap_or_default();
    match u32::from_str_radix(given, 16) {
        _ if given.is_empty() => Meaning::More,
        Err(_) => Meaning::Text(format!("\\{escape}")),
        Ok(_) if given.len() < digits => Meaning::More,
        Ok(code @ 0xd800..=0xdfff) => Meaning::Half(code),
        Ok(code) => Meaning::Text(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER).into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The arguments of a text after the parenthesis, and what is left of it.
    fn read(text: &str) -> (String, String) {
        let (mut held, mut out) = (text.to_owned(), String::new());
        Keywords::default().advance(&mut held, &mut out);
        (out, held)
    }

    #[test]
    fn literals_of_python_become_json() {
        let value = |text: &str| -> Value {
            let (json, rest) = read(&format!("a={text}) x"));
            assert_eq!(rest, " x", "{text}");
            serde_json::from_str::<Value>(&json).unwrap_or_else(|why| panic!("{json}: {why}"))["a"].clone()
        };
        for (text, expected) in [
            ("1", json!(1)),
            ("-2.5e3", json!(-2500.0)),
            ("True", json!(true)),
            ("false", json!(false)),
            ("None", json!(null)),
            ("Rome", json!("Rome")),
            ("0x10", json!("0x10")),
            ("'it\\'s'", json!("it's")),
            ("\"a\\n\\\"b\\\"\\\\ \\d é\"", json!("a\n\"b\"\\ \\d é")),
            ("'\\x41\\u00e9\\U0001F600\\ud83d\\ude00'", json!("Aé😀😀")),
            ("'\\ud83dx\\ude00\\ud83d'", json!("\u{fffd}x\u{fffd}\u{fffd}")),
            ("'\\xzz\\u+123'", json!("\\xzz\\u+123")),
            ("'a\\\nb'", json!("ab")),
            ("[1, [2], ('x', None,), ]", json!([1, [2], ["x", null]])),
            ("{'k': 1, \"l\": {m: []}}", json!({ "k": 1, "l": { "m": [] } })),
            ("\"a) b, c=(\"", json!("a) b, c=(")),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
        assert_eq!(read("a=1,\n b = 'x' , )").0, "{\"a\": 1, \"b\": \"x\"}");
        assert_eq!(read(")").0, "{}");
    }

    #[test]
    fn what_is_not_understood_ends_the_call() {
        for (text, json, rest) in [
            ("'Rome')", "{}", "'Rome')"),
            ("a", "{", ""),
            ("a=1; b", "{\"a\": 1}", "; b"),
            ("a)", "{\"a\": null}", ")"),
            ("a=)", "{\"a\": null}", ")"),
            ("a=f(1))", "{\"a\": \"f\"}", "(1))"),
            ("a=[1)", "{\"a\": [1]}", ")"),
            ("a={1: 2}, b={3})", "{\"a\": {\"1\": 2}, \"b\": {\"3\": null}}", "})"),
            ("a=1 b=2)", "{\"a\": 1}", "b=2)"),
            ("a:1)", "{\"a\": null}", ":1)"),
            ("a='x' 'y')", "{\"a\": \"x\"}", "'y')"),
        ] {
            assert_eq!(read(text), (json.to_owned(), rest.to_owned()), "{text}");
        }
        let deep = format!("a={}", "[".repeat(100));
        assert!(serde_json::from_str::<Value>(&read(&deep).0).is_ok());
        let long = format!("a={})", "1".repeat(1000));
        assert!(serde_json::from_str::<Value>(&read(&long).0).is_ok());
    }
}
