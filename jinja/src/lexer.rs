//! A template's source to tokens, as Jinja2's lexer has it with `trim_blocks` and `lstrip_blocks`.
//!
//! Line breaks of all systems (CR LF, CR) are LF before anything else is looked at, and one at the end of the source is
//! not part of it. White space around tags is taken off here, so that the parser sees only text that is written.

use crate::error::{Error, Result};

/// A token within a tag, or text between tags.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Data(String),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    String(String),
    Integer(i128),
    Float(f64),
    Operator(&'static str),
}

impl Token {
    /// For messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Data(_) => "template data".to_owned(),
            Self::VariableBegin => "begin of print statement".to_owned(),
            Self::VariableEnd => "end of print statement".to_owned(),
            Self::BlockBegin => "begin of statement block".to_owned(),
            Self::BlockEnd => "end of statement block".to_owned(),
            Self::Name(name) => format!("'{name}'"),
            Self::String(_) => "a string".to_owned(),
            Self::Integer(_) | Self::Float(_) => "a number".to_owned(),
            Self::Operator(operator) => format!("'{operator}'"),
        }
    }
}

/// Longest first, so that the first that fits is the one.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

/// White space as Python's regular expressions and `str.strip` have it.
pub(crate) fn is_space(ch: char) -> bool {
    ch.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&ch)
}

struct Lexer<'s> {
    rest: &'s str,
    line: u32,
    tokens: Vec<(Token, u32)>,
    /// Whether what was read last ended a line, or nothing was read.
    line_starting: bool,
}

/// The source with line feeds only and without the last one.
fn normalized(source: &str) -> String {
    let mut text = source.replace("\r\n", "\n").replace('\r', "\n");
    if text.ends_with('\n') {
        text.pop();
    }
    text
}

/// The tokens of a template with their lines.
pub(crate) fn tokenize(source: &str) -> Result<Vec<(Token, u32)>> {
    let source = normalized(source);
    let mut lexer = Lexer { rest: &source, line: 1, tokens: Vec::new(), line_starting: true };
    while !lexer.rest.is_empty() {
        lexer.root()?;
    }
    Ok(lexer.tokens)
}

/// What opens a tag.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opener {
    Variable,
    Block,
    Comment,
    Raw,
}

impl<'s> Lexer<'s> {
    fn fail<T>(&self, reason: impl AsRef<str>) -> Result<T> {
        Err(Error::syntax(self.line, reason))
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    /// Takes bytes off the front.
    fn take(&mut self, bytes: usize) -> &'s str {
        let (taken, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.rest = rest;
        self.line += taken.bytes().filter(|&byte| byte == b'\n').count() as u32;
        if let Some(last) = taken.chars().next_back() {
            self.line_starting = last == '\n';
        }
        taken
    }

    fn skip_space(&mut self) {
        self.take(self.rest.len() - self.rest.trim_start_matches(is_space).len());
    }

    /// Text up to the next tag, and the tag.
    fn root(&mut self) -> Result<()> {
        let line_starting = self.line_starting;
        let Some((at, opener)) = next_opener(self.rest) else {
            let text = self.rest.to_owned();
            self.push(Token::Data(text));
            self.take(self.rest.len());
            return Ok(());
        };
        let line = self.line;
        let text = self.take(at);
        self.take(2);
        let sign = self.rest.chars().next().filter(|ch| matches!(ch, '-' | '+'));
        self.take(sign.map_or(0, char::len_utf8));
        let text = strip_end(text, sign, opener, line_starting);
        if !text.is_empty() {
            self.tokens.push((Token::Data(text.to_owned()), line));
        }
        match opener {
            Opener::Comment => self.comment(),
            Opener::Raw => self.raw(),
            Opener::Block => self.tag(Token::BlockBegin, Token::BlockEnd, "%}"),
            Opener::Variable => self.tag(Token::VariableBegin, Token::VariableEnd, "}}"),
        }
    }

    /// Takes the end of a block tag or comment with the white space that goes with it, if it is here.
    fn block_end(&mut self, end: &str) -> bool {
        let stripped = |sign: &str| self.rest.strip_prefix(sign).is_some_and(|rest| rest.starts_with(end));
        if stripped("-") {
            self.take(1 + end.len());
            self.skip_space();
        } else if stripped("+") {
            self.take(1 + end.len());
        } else if self.rest.starts_with(end) {
            self.take(end.len());
            self.take(usize::from(self.rest.starts_with('\n')));
        } else {
            return false;
        }
        true
    }

    fn comment(&mut self) -> Result<()> {
        let Some(at) = self.rest.find("#}") else { return self.fail("Missing end of comment tag") };
        let signed = self.rest[..at].ends_with(['-', '+']);
        self.take(at - usize::from(signed));
        self.block_end("#}");
        Ok(())
    }

    /// Behind `{% raw`'s sign, up to and with `{% endraw %}`.
    fn raw(&mut self) -> Result<()> {
        self.skip_space();
        self.take("raw".len());
        self.skip_space();
        if self.rest.starts_with('-') {
            self.take(3);
            self.skip_space();
        } else {
            self.take(2);
        }
        let line_starting = self.line_starting;
        let line = self.line;
        for (at, _) in self.rest.match_indices("{%") {
            let after = &self.rest[at + 2..];
            let sign = after.chars().next().filter(|ch| matches!(ch, '-' | '+'));
            let inside = after[sign.map_or(0, char::len_utf8)..].trim_start_matches(is_space);
            let Some(inside) = inside.strip_prefix("endraw") else { continue };
            let inside = inside.trim_start_matches(is_space);
            if !["%}", "-%}", "+%}"].iter().any(|end| inside.starts_with(end)) {
                continue;
            }
            let text = strip_end(&self.rest[..at], sign, Opener::Block, line_starting);
            if !text.is_empty() {
                self.tokens.push((Token::Data(text.to_owned()), line));
            }
            self.take(self.rest.len() - inside.len());
            self.block_end("%}");
            return Ok(());
        }
        self.fail("Missing end of raw directive")
    }

    /// The tokens of a tag.
    fn tag(&mut self, begin: Token, end: Token, delimiter: &str) -> Result<()> {
        self.push(begin);
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            self.skip_space();
            if open.is_empty() && self.tag_end(&end, delimiter) {
                return Ok(());
            }
            let Some(first) = self.rest.chars().next() else {
                return self.fail("unexpected end of template within a tag");
            };
            if first.is_ascii_digit() {
                let number = self.number()?;
                self.push(number);
            } else if first == '_' || first.is_alphabetic() {
                let length = self.rest.find(|ch: char| ch != '_' && !ch.is_alphanumeric());
                let line = self.line;
                let name = self.take(length.unwrap_or(self.rest.len())).to_owned();
                self.tokens.push((Token::Name(name), line));
            } else if first == '\'' || first == '"' {
                self.string(first)?;
            } else {
                self.operator(&mut open)?;
            }
        }
    }

    fn tag_end(&mut self, end: &Token, delimiter: &str) -> bool {
        let line = self.line;
        let ended = match end {
            Token::BlockEnd => self.block_end(delimiter),
            _ if self.rest.starts_with('-') && self.rest[1..].starts_with(delimiter) => {
                self.take(1 + delimiter.len());
                self.skip_space();
                true
            }
            _ if self.rest.starts_with(delimiter) => {
                self.take(delimiter.len());
                true
            }
            _ => false,
        };
        if ended {
            self.tokens.push((end.clone(), line));
        }
        ended
    }

    fn operator(&mut self, open: &mut Vec<&'static str>) -> Result<()> {
        let Some(operator) = OPERATORS.into_iter().find(|operator| self.rest.starts_with(operator)) else {
            let found: String = self.rest.chars().take(1).collect();
            return self.fail(format!("unexpected char '{found}'"));
        };
        match operator {
            "{" => open.push("}"),
            "(" => open.push(")"),
            "[" => open.push("]"),
            "}" | ")" | "]" => match open.pop() {
                None => return self.fail(format!("unexpected '{operator}'")),
                Some(expected) if expected != operator => {
                    return self.fail(format!("unexpected '{operator}', expected '{expected}'"));
                }
                Some(_) => {}
            },
            _ => {}
        }
        self.push(Token::Operator(operator));
        self.take(operator.len());
        Ok(())
    }

    /// A number, which begins with a digit.
    fn number(&mut self) -> Result<Token> {
        let rest = self.rest;
        let after_dot = matches!(self.tokens.last(), Some((Token::Operator("."), _)));
        if let Some(length) = float_length(rest).filter(|_| !after_dot) {
            let digits = self.take(length).replace('_', "");
            return match digits.parse() {
                Ok(number) => Ok(Token::Float(number)),
                Err(_) => self.fail("a number cannot be read"),
            };
        }
        let (radix, prefix) = match rest.as_bytes() {
            [b'0', b'x' | b'X', ..] => (16, 2),
            [b'0', b'o' | b'O', ..] => (8, 2),
            [b'0', b'b' | b'B', ..] => (2, 2),
            _ => (10, 0),
        };
        let length = digits_length(&rest[prefix..], radix);
        let (radix, prefix, length) = if length == 0 { (10, 0, 1) } else { (radix, prefix, length) };
        let digits = self.take(prefix + length)[prefix..].replace('_', "");
        match i128::from_str_radix(&digits, radix) {
            Ok(number) => Ok(Token::Integer(number)),
            Err(_) => self.fail("a number is too large"),
        }
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let mut escaped = false;
        let end = self.rest.char_indices().skip(1).find(|&(_, ch)| {
            let ends = !escaped && ch == quote;
            escaped = !escaped && ch == '\\';
            ends
        });
        let Some((end, _)) = end else { return self.fail("a string has no end") };
        let line = self.line;
        let inside = &self.take(end + 1)[1..end];
        let value = unescape(inside).map_err(|reason| Error::syntax(line, reason))?;
        self.tokens.push((Token::String(value), line));
        Ok(())
    }
}

/// Where the next tag opens, and of what kind.
fn next_opener(text: &str) -> Option<(usize, Opener)> {
    text.match_indices('{').find_map(|(at, _)| {
        let after = &text[at + 1..];
        let opener = match after.as_bytes().first()? {
            b'{' => Opener::Variable,
            b'#' => Opener::Comment,
            b'%' if is_raw(&after[1..]) => Opener::Raw,
            b'%' => Opener::Block,
            _ => return None,
        };
        Some((at, opener))
    })
}

/// Whether a block tag is `raw`, given what follows `{%`.
fn is_raw(after: &str) -> bool {
    let after = after.strip_prefix(['-', '+']).unwrap_or(after).trim_start_matches(is_space);
    let Some(after) = after.strip_prefix("raw") else { return false };
    let after = after.trim_start_matches(is_space);
    after.starts_with("%}") || after.starts_with("-%}")
}

/// The text before a tag without the white space that the tag takes off.
fn strip_end(text: &str, sign: Option<char>, opener: Opener, line_starting: bool) -> &str {
    match sign {
        Some('-') => text.trim_end_matches(is_space),
        Some(_) => text,
        None if opener == Opener::Variable => text,
        None => {
            let line = text.rfind('\n').map_or(0, |at| at + 1);
            let blank = !text[line..].is_empty() && text[line..].chars().all(is_space);
            if (line > 0 || line_starting) && blank { &text[..line] } else { text }
        }
    }
}

/// The length of digits with single underscores between.
fn digits_length(text: &str, radix: u32) -> usize {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(|&byte| char::from(byte).is_digit(radix));
    let mut length = 0;
    loop {
        if is_digit(length) {
            length += 1;
        } else if bytes.get(length) == Some(&b'_') && is_digit(length + 1) && (length > 0 || radix != 10) {
            length += 2;
        } else {
            return length;
        }
    }
}

/// The length of a number with a fraction or an exponent, if there is one.
fn float_length(text: &str) -> Option<usize> {
    let whole = digits_length(text, 10);
    let after = &text[whole..];
    let fraction = after.strip_prefix('.').map_or(0, |digits| match digits_length(digits, 10) {
        0 => 0,
        length => length + 1,
    });
    let exponent = after[fraction..].strip_prefix(['e', 'E']).map_or(0, |power| {
        let sign = usize::from(power.starts_with(['+', '-']));
        match digits_length(&power[sign..], 10) {
            0 => 0,
            length => 1 + sign + length,
        }
    });
    (whole > 0 && fraction + exponent > 0).then_some(whole + fraction + exponent)
}

const HALF_A_PAIR: &str = "half of a surrogate pair";

/// The value of a string literal, by the escapes of Python.
fn unescape(text: &str) -> std::result::Result<String, &'static str> {
    let mut value = String::with_capacity(text.len());
    let mut chars = text.chars();
    let mut high: Option<u32> = None;
    while let Some(ch) = chars.next() {
        let pending = high.take();
        if ch != '\\' {
            if pending.is_some() {
                return Err(HALF_A_PAIR);
            }
            value.push(ch);
            continue;
        }
        let escape = chars.next().ok_or("\\ at the end of a string")?;
        let simple = match escape {
            '\n' => continue,
            '\\' | '\'' | '"' => escape,
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            'x' | 'u' | 'U' => {
                let length = match escape {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let digits = chars.as_str().get(..length).ok_or("truncated \\x, \\u or \\U escape")?;
                let code = u32::from_str_radix(digits, 16).map_err(|_| "truncated \\x, \\u or \\U escape")?;
                chars = chars.as_str()[length..].chars();
                match (pending, code) {
                    (None, 0xd800..=0xdbff) => {
                        high = Some(code);
                        continue;
                    }
                    (Some(first), 0xdc00..=0xdfff) => {
                        let code = 0x10000 + ((first - 0xd800) << 10) + (code - 0xdc00);
                        char::from_u32(code).ok_or("illegal Unicode character")?
                    }
                    (Some(_), _) => return Err(HALF_A_PAIR),
                    (None, code) => char::from_u32(code).ok_or("illegal Unicode character")?,
                }
            }
            '0'..='7' => {
                let more =
                    chars.as_str().bytes().take(2).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                let digits = format!("{escape}{}", &chars.as_str()[..more]);
                chars = chars.as_str()[more..].chars();
                u32::from_str_radix(&digits, 8).ok().and_then(char::from_u32).ok_or("illegal octal escape")?
            }
            'N' => return Err("names of characters (\\N) are not supported"),
            other => {
                value.push('\\');
                other
            }
        };
        if pending.is_some() && escape != 'u' {
            return Err(HALF_A_PAIR);
        }
        value.push(simple);
    }
    if high.is_some() { Err(HALF_A_PAIR) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(source: &str) -> String {
        let tokens = tokenize(source).unwrap();
        let text = tokens.iter().map(|(token, _)| match token {
            Token::Data(text) => text.as_str(),
            Token::VariableBegin => "<",
            Token::VariableEnd => ">",
            Token::BlockBegin => "[",
            Token::BlockEnd => "]",
            _ => "",
        });
        text.collect()
    }

    #[test]
    fn white_space_around_tags() {
        for (source, expected) in [
            ("a\r\nb\rc\n", "a\nb\nc"),
            ("  {% x %}\n  a", "[]  a"),
            ("b  {% x %}\n\na", "b  []\na"),
            ("b  {%- x -%}\n\n a", "b[]a"),
            ("b\n  {%+ x +%}\na", "b\n  []\na"),
            ("b\n  {{ x }}\na", "b\n  <>\na"),
            ("b\n  {{- x -}}\na", "b<>a"),
            ("a\n  {# c #}\nb{#- c -#}  d {# -#} e", "a\nbd e"),
            ("{% raw %} {{ a }} {% endraw %}b", " {{ a }} b"),
            ("{% raw -%}  {% x %}  {%- endraw -%}  b", "{% x %}b"),
            ("{% set a = {'}}': 1} %}", "[]"),
            ("{{ {'a': {}} }}", "<>"),
            ("{% x %}  {% y %}\n", "[]  []"),
        ] {
            assert_eq!(data(source), expected, "{source:?}");
        }
    }

    #[test]
    fn literals() {
        let token = |source: &str| tokenize(&format!("{{{{ {source} }}}}")).unwrap()[1].0.clone();
        assert_eq!(token("1_000"), Token::Integer(1000));
        assert_eq!(token("0x_ff"), Token::Integer(255));
        assert_eq!(token("1.5e-3"), Token::Float(0.0015));
        assert_eq!(token("2e3"), Token::Float(2000.0));
        assert_eq!(token(r"'a\n\x41\u00e9\101\q\''"), Token::String("a\nAéA\\q'".to_owned()));
        assert_eq!(token(r"'\ud83d\ude00'"), Token::String("😀".to_owned()));
        for bad in
            ["{{ 'a }}", "{{ ( ] }}", "{{ ! }}", "{{ a", "{# a", "{% raw %}", "{{ '\\ud800' }}", "{{ ) }}"]
        {
            assert!(tokenize(bad).is_err(), "{bad}");
        }
    }
}
