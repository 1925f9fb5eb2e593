//! The parser: text to rules, with the place of whatever is wrong.

use std::collections::HashMap;

use super::{
    CharSet, Expr, Gbnf, GbnfError, MAX_DEPTH, MAX_REPEAT, MAX_RULES, MAX_SYMBOLS, MAX_TEXT, RuleId,
};

/// A rule by its name, as far as it is known.
struct Named {
    name: String,
    body: Option<Expr>,
    /// Where the name stands first.
    at: usize,
}

struct Parser<'t> {
    text: &'t str,
    /// Byte offset of the next character.
    at: usize,
    symbols: usize,
    rules: Vec<Named>,
    by_name: HashMap<&'t str, RuleId>,
}

/// Reads a grammar.
pub(super) fn parse(text: &str) -> Result<Gbnf, GbnfError> {
    if text.len() > MAX_TEXT {
        return Err(GbnfError::TooLarge { unit: "bytes", most: MAX_TEXT });
    }
    let at = text.len() - text.trim_start_matches('\u{feff}').len();
    let mut parser = Parser { text, at, symbols: 0, rules: Vec::new(), by_name: HashMap::new() };
    parser.space(true);
    while parser.peek().is_some() {
        parser.rule()?;
        parser.space(true);
    }
    parser.finish()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, what: &str) -> bool {
        let found = self.text.get(self.at..).is_some_and(|rest| rest.starts_with(what));
        self.at += if found { what.len() } else { 0 };
        found
    }

    /// The error that `what` is wrong at a byte offset.
    fn error(&self, at: usize, what: impl Into<String>) -> GbnfError {
        let before = self.text.get(..at).unwrap_or(self.text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before[start..].chars().count() + 1;
        let line = before.matches('\n').count() + 1;
        let whole = self.text[start..].lines().next().unwrap_or_default();
        // A window of the line, so that a long one stays readable.
        let skipped = column.saturating_sub(60);
        let window: String =
            whole.chars().skip(skipped).take(100).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let shown = format!("{line:>4} | {window}\n     | {}^", " ".repeat(column - 1 - skipped));
        GbnfError::At { line, column, what: what.into(), shown }
    }

    /// Skips blanks and comments, and line ends where they mean nothing.
    fn space(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => {}
                '\r' | '\n' if lines => {}
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n' && c != '\r') {
                        self.bump();
                    }
                    continue;
                }
                _ => return,
            }
            self.bump();
        }
    }

    fn count(&mut self) -> Result<(), GbnfError> {
        self.symbols += 1;
        match self.symbols > MAX_SYMBOLS {
            true => Err(GbnfError::TooLarge { unit: "symbols", most: MAX_SYMBOLS }),
            false => Ok(()),
        }
    }

    /// A name, and the rule that has it.
    fn name(&mut self) -> Option<RuleId> {
        let start = self.at;
        while self.peek().is_some_and(is_word) {
            self.bump();
        }
        let name = self.text.get(start..self.at).filter(|name| !name.is_empty())?;
        let next = RuleId(self.rules.len());
        let id = *self.by_name.entry(name).or_insert(next);
        if id == next {
            self.rules.push(Named { name: name.to_owned(), body: None, at: start });
        }
        Some(id)
    }

    /// Whether nothing stands before the next character in its line.
    fn begins_line(&self) -> bool {
        let before = self.text.get(..self.at).unwrap_or_default();
        before.chars().rev().find(|c| !matches!(c, ' ' | '\t')).is_none_or(|c| c == '\n' || c == '\r')
    }

    /// Whether the next name is that of a rule that is defined here.
    fn defines(&self) -> bool {
        let rest = self.text.get(self.at..).unwrap_or_default();
        rest.trim_start_matches(is_word).trim_start_matches([' ', '\t']).starts_with("::=")
    }

    fn rule(&mut self) -> Result<(), GbnfError> {
        let start = self.at;
        let id = self.name().ok_or_else(|| self.error(start, "expected the name of a rule"))?;
        self.space(false);
        if !self.eat("::=") {
            return Err(self.error(self.at, "expected `::=` after the name of a rule"));
        }
        let body = self.alternatives(0)?;
        match self.peek() {
            None | Some('\r' | '\n') => {}
            // An empty alternative, and the next rule on a line of its own.
            Some(c) if is_word(c) && self.begins_line() => {}
            Some(')') => return Err(self.error(self.at, "this `)` closes no group")),
            Some(c) => return Err(self.error(self.at, format!("unexpected {c:?} in a rule"))),
        }
        match self.rules.get_mut(id.0) {
            Some(rule) if rule.body.is_none() => rule.body = Some(body),
            _ => return Err(self.error(start, "a second rule of this name: join them with `|`")),
        }
        Ok(())
    }

    fn alternatives(&mut self, depth: u32) -> Result<Expr, GbnfError> {
        self.space(true);
        let mut all = vec![self.sequence(depth)?];
        loop {
            // A line that begins with a bar goes on with the rule.
            let before = self.at;
            self.space(true);
            if !self.eat("|") {
                if depth == 0 {
                    self.at = before;
                    self.space(false);
                }
                break;
            }
            self.space(true);
            all.push(self.sequence(depth)?);
        }
        Ok(match <[Expr; 1]>::try_from(all) {
            Ok([one]) => one,
            Err(all) => Expr::Alt(all),
        })
    }

    fn sequence(&mut self, depth: u32) -> Result<Expr, GbnfError> {
        let mut parts: Vec<Expr> = Vec::new();
        loop {
            self.space(depth > 0);
            let start = self.at;
            let Some(c) = self.peek() else { break };
            let part = match c {
                '"' => self.literal()?,
                '[' => {
                    self.bump();
                    Expr::Chars(self.class(start)?)
                }
                '.' => {
                    self.bump();
                    Expr::Chars(CharSet::any())
                }
                '(' => self.group(depth)?,
                '*' | '+' | '?' | '{' => {
                    return Err(self.error(start, format!("nothing precedes `{c}`")));
                }
                '<' | '!' => {
                    let what = "tokens by name or number are not supported: write their text as a string";
                    return Err(self.error(start, what));
                }
                c if is_word(c) => {
                    if depth == 0 && self.begins_line() && self.defines() {
                        break;
                    }
                    let Some(id) = self.name() else { break };
                    Expr::Rule(id)
                }
                _ => break,
            };
            self.count()?;
            parts.push(self.repeated(part, depth)?);
        }
        Ok(match <[Expr; 1]>::try_from(parts) {
            Ok([one]) => one,
            Err(parts) => Expr::Seq(parts),
        })
    }

    fn group(&mut self, depth: u32) -> Result<Expr, GbnfError> {
        let start = self.at;
        self.bump();
        if depth >= MAX_DEPTH {
            return Err(self
                .error(start, format!("groups are more than {MAX_DEPTH} deep: give the inner ones names")));
        }
        let inner = self.alternatives(depth + 1)?;
        match self.eat(")") {
            true => Ok(inner),
            false => Err(self.error(self.at, "expected `)`")),
        }
    }

    /// The operators after a part.
    fn repeated(&mut self, mut part: Expr, depth: u32) -> Result<Expr, GbnfError> {
        let mut operators = 0;
        loop {
            self.space(depth > 0);
            let start = self.at;
            let (min, max) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => self.braces()?,
                _ => return Ok(part),
            };
            if self.at == start {
                self.bump();
            }
            operators += 1;
            if operators > 8 {
                return Err(self.error(start, "more than 8 consecutive operators"));
            }
            part = match (min, max) {
                (_, Some(0)) => Expr::EMPTY,
                (1, Some(1)) => part,
                _ => Expr::Repeat(Box::new(part), min, max),
            };
        }
    }

    fn braces(&mut self) -> Result<(u32, Option<u32>), GbnfError> {
        let start = self.at;
        self.bump();
        self.space(true);
        let min = self.number()?;
        self.space(true);
        let max = match self.eat(",") {
            false => Some(min),
            true => {
                self.space(true);
                match self.peek() {
                    Some('}') => None,
                    _ => Some(self.number()?),
                }
            }
        };
        self.space(true);
        if !self.eat("}") {
            return Err(self.error(self.at, "expected `}`"));
        }
        match max.is_some_and(|max| max < min) {
            true => Err(self.error(start, "the second number is smaller than the first")),
            false => Ok((min, max)),
        }
    }

    fn number(&mut self) -> Result<u32, GbnfError> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.bump();
        }
        let digits = self.text.get(start..self.at).unwrap_or_default();
        if digits.is_empty() {
            return Err(self.error(start, "expected a number"));
        }
        let number = digits.parse().ok().filter(|&n| n <= MAX_REPEAT);
        number.ok_or_else(|| self.error(start, format!("the largest number of repetitions is {MAX_REPEAT}")))
    }

    fn literal(&mut self) -> Result<Expr, GbnfError> {
        let start = self.at;
        self.bump();
        let mut parts = Vec::new();
        while !self.eat("\"") {
            self.count()?;
            match self.character()? {
                Some(code) => parts.push(Expr::Chars(self.one(start, code)?)),
                None => return Err(self.error(start, "unterminated string")),
            }
        }
        Ok(Expr::Seq(parts))
    }

    fn one(&self, at: usize, code: u32) -> Result<CharSet, GbnfError> {
        let c = char::from_u32(code);
        c.map(CharSet::one).ok_or_else(|| self.error(at, format!("U+{code:04X} is no character")))
    }

    /// A class, after its bracket at `start`.
    fn class(&mut self, start: usize) -> Result<CharSet, GbnfError> {
        let negated = self.eat("^");
        let endless = |parser: &Self| parser.error(start, "unterminated character class");
        let mut ranges = Vec::new();
        while !self.eat("]") {
            self.count()?;
            let at = self.at;
            let from = self.character()?.ok_or_else(|| endless(self))?;
            let to = match self.text.get(self.at..) {
                Some(rest) if rest.starts_with('-') && !rest.starts_with("-]") => {
                    self.bump();
                    self.character()?.ok_or_else(|| endless(self))?
                }
                _ => from,
            };
            for code in [from, to] {
                self.one(at, code)?;
            }
            if from > to {
                return Err(self.error(at, "the ends of this range are in the wrong order"));
            }
            ranges.push((from, to));
        }
        let set = CharSet::of_ranges(ranges);
        Ok(if negated { set.complement() } else { set })
    }

    /// A character of a string or class, after its escape; nothing at the end of the text.
    fn character(&mut self) -> Result<Option<u32>, GbnfError> {
        let start = self.at;
        let escaped = match self.bump() {
            Some('\\') => self.bump(),
            plain => return Ok(plain.map(u32::from)),
        };
        Ok(Some(match escaped {
            Some('x') => self.hexadecimal(start, 2)?,
            Some('u') => self.hexadecimal(start, 4)?,
            Some('U') => self.hexadecimal(start, 8)?,
            Some('t') => u32::from('\t'),
            Some('r') => u32::from('\r'),
            Some('n') => u32::from('\n'),
            Some(c @ ('\\' | '"' | '[' | ']')) => u32::from(c),
            Some(_) => {
                let what = "unknown escape: known are \\t, \\r, \\n, \\\\, \\\", \\[, \\], \\x, \\u and \\U";
                return Err(self.error(start, what));
            }
            None => return Ok(None),
        }))
    }

    fn hexadecimal(&mut self, start: usize, digits: usize) -> Result<u32, GbnfError> {
        let hex = self.text.get(self.at..self.at + digits);
        let hex = hex.filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let code = code.ok_or_else(|| self.error(start, format!("expected {digits} hexadecimal digits")))?;
        self.at += digits;
        Ok(code)
    }

    fn finish(self) -> Result<Gbnf, GbnfError> {
        if self.rules.len() > MAX_RULES {
            return Err(GbnfError::TooLarge { unit: "rules", most: MAX_RULES });
        }
        let root = *self.by_name.get("root").ok_or(GbnfError::NoRoot)?;
        if let Some(rule) = self.rules.iter().find(|rule| rule.body.is_none()) {
            return Err(match rule.name.as_str() {
                "root" => GbnfError::NoRoot,
                name => self.error(rule.at, format!("undefined rule `{name}`")),
            });
        }
        let bodies = self.rules.into_iter().map(|rule| rule.body.unwrap_or(Expr::EMPTY));
        Ok(Gbnf { rules: bodies.collect(), root })
    }
}
