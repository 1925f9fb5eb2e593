//! Parsing modules: recursive descent without recursion, one token of lookahead, names looked up in hash maps.

use std::collections::HashMap;
use std::ops::Range;

use super::lex::{Lexer, Tok, Token, unescape};
use super::{FuncSpans, MAX_DIMS, MAX_NAME, MAX_TEXT, ParseError, SourceMap, is_name};
use crate::build::check_op;
use crate::entity::{ParamId, ValueId};
use crate::graph::{Func, Operand, TokenCount};
use crate::limits::{MAX_FUNCS, MAX_INPUTS, MAX_OPS, MAX_PARAMS, MAX_PARTS};
use crate::module::{ContentHash, Module, ParamDecl, ParamDef};
use crate::ops::Op;
use crate::plan::{FuncPlan, Place};
use crate::target::TargetDesc;
use crate::types::{DType, Dim, Layout, Shape, Type};

type Parsed<T> = Result<T, ParseError>;

/// The module that `text` describes. It is well-formed enough to be printed; [`crate::verify`] checks the rest.
///
/// # Errors
/// The first place where the text is not in the form that [`crate::text`] defines.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    parse_mapped(text).map(|(module, _)| module)
}

/// Like [`parse`], and tells where in the text each entity stands.
///
/// # Errors
/// As [`parse`].
pub fn parse_mapped(text: &str) -> Result<(Module, SourceMap), ParseError> {
    if text.len() > MAX_TEXT {
        let message = format!("the text has {} bytes, the most that is read is {MAX_TEXT}", text.len());
        return Err(ParseError::new(text, 0..0, message));
    }
    let mut lexer = Lexer::new(text);
    let next = lexer.next()?;
    let mut parser = Parser {
        lexer,
        next,
        end: 0,
        module: Module::new(),
        spans: SourceMap::default(),
        params: HashMap::new(),
        ops: 0,
    };
    parser.module()?;
    Ok((parser.module, parser.spans))
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    next: Token<'a>,
    /// Where the last token taken ends.
    end: usize,
    module: Module,
    spans: SourceMap,
    params: HashMap<&'a str, ParamId>,
    /// Ops of all functions so far.
    ops: usize,
}

/// The function that is being parsed.
struct Body<'a> {
    func: Func,
    values: HashMap<&'a str, ValueId>,
    plan: Option<FuncPlan>,
    spans: FuncSpans,
}

impl<'a> Parser<'a> {
    fn fail<T>(&self, span: Range<usize>, message: impl Into<String>) -> Parsed<T> {
        Err(ParseError::new(self.lexer.source, span, message))
    }
    fn expected<T>(&self, what: &str) -> Parsed<T> {
        let found = match self.next.tok {
            // Where the text breaks off, not after the blanks and comments that follow.
            Tok::End => {
                return self.fail(self.end..self.end, format!("expected {what}, found the end of the text"));
            }
            _ => {
                let text = &self.lexer.source[self.next.span.clone()];
                let short: String = text.chars().take(40).collect();
                format!("`{short}{}`", if short.len() < text.len() { "…" } else { "" })
            }
        };
        self.fail(self.next.span.clone(), format!("expected {what}, found {found}"))
    }
    fn bump(&mut self) -> Parsed<Token<'a>> {
        let next = self.lexer.next()?;
        let taken = std::mem::replace(&mut self.next, next);
        self.end = taken.span.end;
        Ok(taken)
    }
    fn eat(&mut self, tok: Tok<'_>) -> Parsed<bool> {
        let found = self.next.tok == tok;
        if found {
            self.bump()?;
        }
        Ok(found)
    }
    fn punct(&mut self, c: char, what: &str) -> Parsed<()> {
        match self.eat(Tok::Punct(c))? {
            true => Ok(()),
            false => self.expected(what),
        }
    }
    fn word(&mut self, what: &str) -> Parsed<(&'a str, Range<usize>)> {
        match self.next.tok {
            Tok::Word(word) => Ok((word, self.bump()?.span)),
            _ => self.expected(what),
        }
    }
    fn key(&mut self, key: &str) -> Parsed<()> {
        if !self.eat(Tok::Word(key))? {
            return self.expected(&format!("`{key}=`"));
        }
        self.punct('=', &format!("`=` after `{key}`"))
    }
    fn number(&mut self, what: &str) -> Parsed<u64> {
        let (word, span) = self.word(what)?;
        match word.parse() {
            Ok(n) if word.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
            _ => self.fail(span, format!("expected {what}, a whole number below 2^64, found `{word}`")),
        }
    }
    /// A new name for an entity, of a token that is already checked to be one.
    fn checked_name(&self, name: &'a str, span: &Range<usize>) -> Parsed<&'a str> {
        match is_name(name) {
            true => Ok(name),
            false => self.fail(
                span.clone(),
                format!("a name starts with a letter or `_` and has at most {MAX_NAME} letters, digits, `_`, `.`, `-`"),
            ),
        }
    }
    /// Fails if there are `count` already, and no more than `most` may be.
    fn limit(&self, count: usize, most: usize, what: &str, span: &Range<usize>) -> Parsed<()> {
        match count < most {
            true => Ok(()),
            false => self.fail(span.clone(), format!("more than {most} {what}")),
        }
    }

    fn module(&mut self) -> Parsed<()> {
        if !self.eat(Tok::Word("bir"))? {
            return self.expected("`bir 1`, the first words of a module");
        }
        if !self.eat(Tok::Word("1"))? {
            return self.expected("`1`, the only version of the text form");
        }
        self.key("stage")?;
        let (word, span) = self.word("a stage")?;
        self.module.stage = match word.parse() {
            Ok(stage) => stage,
            Err(message) => return self.fail(span, message),
        };
        if self.eat(Tok::Word("target"))? {
            self.punct('=', "`=` after `target`")?;
            self.module.target = Some(self.target()?);
        }
        while self.eat(Tok::Word("param"))? {
            self.param()?;
        }
        let mut names = HashMap::new();
        while self.eat(Tok::Word("func"))? {
            self.func(&mut names)?;
        }
        match self.next.tok {
            Tok::End => Ok(()),
            Tok::Word("param") => self.expected("`func`, as parameters stand before functions"),
            _ => self.expected("`param`, `func` or the end"),
        }
    }

    fn target(&mut self) -> Parsed<TargetDesc> {
        let (_, first) = self.word("a target such as x86_64+sse4.1")?;
        while self.eat(Tok::Punct('+'))? {
            self.word("a feature")?;
        }
        let span = first.start..self.end;
        match self.lexer.source[span.clone()].parse() {
            Ok(target) => Ok(target),
            Err(e) => self.fail(span, e.to_string()),
        }
    }

    fn ty(&mut self) -> Parsed<Type> {
        let what = "a type such as f32[2560]";
        let (word, span) = self.word(what)?;
        let Some(&dtype) = DType::ALL.iter().find(|d| d.name() == word) else {
            let known: Vec<&str> = DType::ALL.iter().map(|d| d.name()).collect();
            return self.fail(
                span,
                format!("expected {what} (element types: {}), found `{word}`", known.join(", ")),
            );
        };
        let mut dims = Vec::new();
        if self.eat(Tok::Punct('['))? {
            let (word, span) = self.word("dimensions such as 2560, Tx2560 or 5xCx128")?;
            for text in word.split('x') {
                let dim = match text {
                    "T" => Some(Dim::Tokens),
                    "C" => Some(Dim::Ctx),
                    n if n.bytes().all(|b| b.is_ascii_digit()) => {
                        n.parse().ok().filter(|&n| n > 0).map(Dim::N)
                    }
                    _ => None,
                };
                match dim {
                    Some(dim) if dims.len() < MAX_DIMS => dims.push(dim),
                    Some(_) => return self.fail(span, format!("a type has at most {MAX_DIMS} dimensions")),
                    None => {
                        let message =
                            format!("`{text}` is no dimension: expected a number from 1 to 2^32 - 1, T or C");
                        return self.fail(span, message);
                    }
                }
            }
            self.punct(']', "`]` after the dimensions")?;
        }
        let mut layout = Layout::Rows;
        let mut group = 0;
        if let Tok::Name(name) = self.next.tok {
            let (word, of_group) = match name.rsplit_once("_g") {
                Some((word, digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                    (word, digits.parse().ok())
                }
                _ => (name, Some(0)),
            };
            let canonical = |g: &u32| word == name || name == format!("{word}_g{g}") && *g > 0;
            let Some(found) = of_group.filter(canonical) else {
                return self
                    .expected("a layout, with a group such as `_g128` after it where there are groups");
            };
            group = found;
            layout = match Layout::ALL.iter().find(|l| l.name() == word && (*l != &Layout::Rows || group > 0))
            {
                Some(&layout) => layout,
                None => {
                    let known: Vec<&str> = Layout::ALL.iter().map(|l| l.name()).collect();
                    return self.expected(&format!("a layout ({})", known.join(", ")));
                }
            };
            self.bump()?;
        }
        Ok(Type { dtype, shape: Shape(dims), layout, group })
    }

    fn types(&mut self) -> Parsed<Vec<(Type, Range<usize>)>> {
        let mut all = Vec::new();
        loop {
            let start = self.next.span.start;
            all.push((self.ty()?, start..self.end));
            if !self.eat(Tok::Punct(','))? {
                return Ok(all);
            }
        }
    }

    fn param_ref(&mut self) -> Parsed<ParamId> {
        let Tok::Name(name) = self.next.tok else { return self.expected("a parameter, `@name`") };
        match self.params.get(name) {
            Some(&id) => self.bump().map(|_| id),
            None => self.expected("a parameter that is declared above"),
        }
    }

    fn param(&mut self) -> Parsed<()> {
        let Tok::Name(name) = self.next.tok else { return self.expected("the parameter's name, `@name`") };
        let span = self.bump()?.span;
        let name = self.checked_name(name, &span)?;
        self.limit(self.module.params().len(), MAX_PARAMS, "parameters", &span)?;
        if self.params.contains_key(name) {
            return self.fail(span, format!("there is already a parameter @{name}"));
        }
        self.punct(':', "`:` and the parameter's type")?;
        let ty = self.ty()?;
        self.punct('=', "`=` and the parameter's origin")?;
        let def = self.param_def()?;
        let id = self.module.add_param(ParamDecl { name: name.to_owned(), ty, def });
        self.params.insert(name, id);
        self.spans.params.push(span);
        Ok(())
    }

    fn param_def(&mut self) -> Parsed<ParamDef> {
        let what = "the parameter's origin: file, concat, interleave16, relayout or quantise";
        let (word, span) = self.word(what)?;
        match word {
            "file" => {
                let Tok::Str(raw) = self.next.tok else {
                    return self.expected("the tensor's name in quotes");
                };
                let span = self.bump()?.span;
                let tensor = match unescape(raw) {
                    Ok(tensor) if tensor.len() <= MAX_NAME => tensor,
                    Ok(_) => return self.fail(span, format!("a tensor's name has at most {MAX_NAME} bytes")),
                    Err(message) => return self.fail(span, message),
                };
                let hash = match self.next.tok {
                    Tok::Hash(hex) => parse_hash(hex),
                    _ => None,
                };
                match hash {
                    Some(hash) => self.bump().map(|_| ParamDef::File { tensor, hash }),
                    None => self.expected("`#` and 32 lower-case hex digits, the hash of the bytes"),
                }
            }
            "concat" => {
                let mut all = vec![self.param_ref()?];
                while self.eat(Tok::Punct(','))? {
                    all.push(self.param_ref()?);
                }
                Ok(ParamDef::Concat(all))
            }
            "interleave16" => {
                let first = self.param_ref()?;
                self.punct(',', "`,` and the second parameter")?;
                Ok(ParamDef::Interleave16(first, self.param_ref()?))
            }
            "relayout" => Ok(ParamDef::Relayout(self.param_ref()?)),
            "quantise" => Ok(ParamDef::Quantise(self.param_ref()?)),
            _ => self.fail(span, format!("expected {what}, found `{word}`")),
        }
    }

    fn func(&mut self, names: &mut HashMap<&'a str, ()>) -> Parsed<()> {
        let Tok::Name(name) = self.next.tok else { return self.expected("the function's name, `@name`") };
        let span = self.bump()?.span;
        let name = self.checked_name(name, &span)?;
        self.limit(names.len(), MAX_FUNCS, "functions", &span)?;
        if names.insert(name, ()).is_some() {
            return self.fail(span, format!("there is already a function @{name}"));
        }
        let mut inputs: Vec<(&'a str, Type, Range<usize>)> = Vec::new();
        self.punct('(', "`(` and the inputs")?;
        if !self.eat(Tok::Punct(')'))? {
            loop {
                let Tok::Value(input) = self.next.tok else {
                    return self.expected("an input, `%name: type`");
                };
                let span = self.bump()?.span;
                let input = self.checked_name(input, &span)?;
                self.limit(inputs.len(), MAX_INPUTS, "inputs", &span)?;
                self.punct(':', "`:` and the input's type")?;
                inputs.push((input, self.ty()?, span));
                if !self.eat(Tok::Punct(','))? {
                    break;
                }
            }
            self.punct(')', "`,` and another input, or `)`")?;
        }
        if !self.eat(Tok::Arrow)? {
            return self.expected("`->` and the types of the outputs");
        }
        self.punct('(', "`(` and the types of the outputs")?;
        let outputs = if self.next.tok == Tok::Punct(')') { Vec::new() } else { self.types()? };
        self.punct(')', "`,` and another type, or `)`")?;
        let tokens = self.tokens()?;
        let mut plan = None;
        if self.next.tok == Tok::Word("arena") {
            self.key("arena")?;
            let arena_bytes = self.number("the bytes of the arena")?;
            let mut private_bytes = 0;
            if self.next.tok == Tok::Word("private") {
                self.key("private")?;
                private_bytes = self.number("the bytes of the private memory of a thread")?;
            }
            plan = Some(FuncPlan { arena_bytes, private_bytes, ..FuncPlan::default() });
        }
        self.punct('{', "`{` and the ops")?;

        let spans = FuncSpans { name: span, ..FuncSpans::default() };
        let mut body = Body { func: Func::new(name, tokens), values: HashMap::new(), plan, spans };
        for (name, ty, span) in inputs {
            let id = body.func.add_input(name, ty);
            if body.values.insert(name, id).is_some() {
                return self.fail(span, format!("there is already an input %{name}"));
            }
            if let Some(plan) = &mut body.plan {
                plan.places.insert(id, Place::Extern);
            }
            body.spans.inputs.push(span);
        }
        while matches!(self.next.tok, Tok::Value(_)) {
            self.op(&mut body)?;
        }
        if !self.eat(Tok::Word("return"))? {
            return self.expected("an op, `%name = …`, or `return`");
        }
        self.outputs(&mut body, &outputs)?;
        self.punct('}', "`}` after the outputs")?;
        body.func.plan = body.plan;
        self.module.add_func(body.func);
        self.spans.funcs.push(body.spans);
        Ok(())
    }

    fn tokens(&mut self) -> Parsed<TokenCount> {
        if !self.eat(Tok::Word("tokens"))? {
            return self.expected("`tokens=1` or `tokens<=` and the most tokens of a call");
        }
        if self.eat(Tok::AtMost)? {
            let span = self.next.span.clone();
            return match u32::try_from(self.number("the most tokens of a call")?) {
                Ok(n) => Ok(TokenCount::UpTo(n)),
                Err(_) => self.fail(span, "a call has fewer than 2^32 tokens"),
            };
        }
        self.punct('=', "`=1` or `<=`")?;
        match self.eat(Tok::Word("1"))? {
            true => Ok(TokenCount::One),
            false => self.expected("`1` (write `tokens<=` for a call with several tokens)"),
        }
    }

    fn outputs(&mut self, body: &mut Body<'a>, types: &[(Type, Range<usize>)]) -> Parsed<()> {
        let mut outputs = Vec::new();
        let end = self.end;
        if matches!(self.next.tok, Tok::Value(_)) {
            loop {
                let span = self.next.span.clone();
                let value = self.value_ref(body)?;
                match types.get(outputs.len()) {
                    Some((ty, _)) if ty == body.func.ty(value) => outputs.push(value),
                    Some((ty, _)) => {
                        let message = format!(
                            "output {} is {}, but the head of the function says {ty}",
                            outputs.len(),
                            body.func.ty(value)
                        );
                        return self.fail(span, message);
                    }
                    None => {
                        return self
                            .fail(span, format!("the head of the function has {} outputs", types.len()));
                    }
                }
                if !self.eat(Tok::Punct(','))? {
                    break;
                }
            }
        }
        if outputs.len() < types.len() {
            let message =
                format!("{} outputs, but the head of the function has {}", outputs.len(), types.len());
            return self.fail(end.saturating_sub("return".len())..end, message);
        }
        body.func.set_outputs(outputs);
        Ok(())
    }

    fn value_ref(&mut self, body: &Body<'a>) -> Parsed<ValueId> {
        let Tok::Value(name) = self.next.tok else { return self.expected("a value, `%name`") };
        match body.values.get(name) {
            Some(&id) => self.bump().map(|_| id),
            None => self.expected("an input or the result of an op above"),
        }
    }

    fn op(&mut self, body: &mut Body<'a>) -> Parsed<()> {
        let start = self.next.span.start;
        self.limit(self.ops, MAX_OPS, "ops", &self.next.span)?;
        self.ops += 1;
        let mut names: Vec<(&'a str, Range<usize>)> = Vec::new();
        loop {
            let Tok::Value(name) = self.next.tok else {
                return self.expected("a name for a result, `%name`");
            };
            let span = self.bump()?.span;
            if name.len() > MAX_NAME {
                return self.fail(span, format!("a name has at most {MAX_NAME} bytes"));
            }
            if body.values.contains_key(name) {
                return self.fail(span, format!("there is already a value %{name}"));
            }
            self.limit(names.len(), MAX_PARTS, "results of an op", &span)?;
            names.push((name, span));
            if !self.eat(Tok::Punct(','))? {
                break;
            }
        }
        self.punct('=', "`=` and an op")?;
        let (mnemonic, at) = self.word("an op")?;
        let mut operands = Vec::new();
        let mut typed = Vec::new();
        loop {
            let operand = match self.next.tok {
                Tok::Value(_) => Operand::Value(self.value_ref(body)?),
                Tok::Name(_) => Operand::Param(self.param_ref()?),
                _ => return self.expected("an operand, `%value` or `@parameter`"),
            };
            operands.push(operand);
            let ty = body.func.operand_type(operand, &|p| self.module.params()[p].ty.clone());
            typed.push((ty, matches!(operand, Operand::Param(_))));
            if !self.eat(Tok::Punct(','))? {
                break;
            }
        }
        let attrs = self.attrs()?;
        let op = match Op::parse(mnemonic, &attrs) {
            Ok(op) => op,
            Err(e) => return self.fail(at, e.to_string()),
        };
        let inferred = match check_op(&op, &typed) {
            Ok(types) => types,
            Err(e) => return self.fail(at, e.to_string()),
        };
        if inferred.len() != names.len() {
            let message = format!("`{mnemonic}` has {} results here, not {}", inferred.len(), names.len());
            return self.fail(start..at.start, message);
        }
        self.punct(':', "`:` and the types of the results")?;
        let written = self.types()?;
        if written.len() != inferred.len() {
            let message = format!("{} types for {} results", written.len(), inferred.len());
            return self.fail(at.start..self.end, message);
        }
        if let Some((i, (ty, span))) = written.iter().enumerate().find(|(i, (ty, _))| *ty != inferred[*i]) {
            let message =
                format!("result {i} of `{mnemonic}` is {} for these operands, not {ty}", inferred[i]);
            return self.fail(span.clone(), message);
        }
        let node = body.func.insert(None, op, operands, inferred);
        let results = body.func.node(node).results.clone();
        self.places(body, &results)?;
        if let Some(plan) = &mut body.plan
            && self.eat(Tok::Word("barrier"))?
        {
            plan.barriers.insert(node);
        }
        for ((name, span), value) in names.into_iter().zip(results) {
            if body.values.insert(name, value).is_some() {
                return self.fail(span, format!("there is already a value %{name}"));
            }
        }
        body.spans.nodes.push(start..self.end);
        Ok(())
    }

    fn attrs(&mut self) -> Parsed<Vec<(&'a str, &'a str)>> {
        let mut attrs: Vec<(&'a str, &'a str)> = Vec::new();
        if !self.eat(Tok::Punct('{'))? {
            return Ok(attrs);
        }
        loop {
            let (name, span) = self.word("an attribute, `name=value`")?;
            if attrs.iter().any(|(other, _)| *other == name) {
                return self.fail(span, format!("the attribute `{name}` is given twice"));
            }
            // No op comes near this number, which keeps the search above short.
            if attrs.len() == 64 {
                return self.fail(span, "more than 64 attributes");
            }
            self.punct('=', "`=` and the attribute's value")?;
            let start = self.next.span.start;
            if self.eat(Tok::Punct('['))? {
                loop {
                    self.word("a size")?;
                    if !self.eat(Tok::Punct(','))? {
                        break;
                    }
                }
                self.punct(']', "`,` and another size, or `]`")?;
            } else {
                self.word("the attribute's value")?;
            }
            attrs.push((name, &self.lexer.source[start..self.end]));
            if !self.eat(Tok::Punct(','))? {
                break;
            }
        }
        self.punct('}', "`,` and another attribute, or `}`")?;
        Ok(attrs)
    }

    fn places(&mut self, body: &mut Body<'a>, results: &[ValueId]) -> Parsed<()> {
        let what = "the place of the result: at, private, view, alias, extern or unplaced";
        if body.plan.is_none() {
            return match self.next.tok {
                Tok::Word("at" | "private" | "view" | "alias" | "extern" | "unplaced" | "barrier") => {
                    let message = "places and barriers need `arena=` and a size in the head of the function";
                    self.fail(self.next.span.clone(), message)
                }
                _ => Ok(()),
            };
        }
        for (i, &result) in results.iter().enumerate() {
            if i > 0 {
                self.punct(',', "`,` and the place of the next result")?;
            }
            let (word, span) = self.word(what)?;
            let place = match word {
                "at" => {
                    let offset = self.number("an offset in the arena")?;
                    self.punct('+', "`+` and a size")?;
                    Some(Place::Arena { offset, size: self.number("a size in bytes")? })
                }
                "private" => {
                    let offset = self.number("an offset in the private memory")?;
                    self.punct('+', "`+` and a size")?;
                    Some(Place::Private { offset, size: self.number("a size in bytes")? })
                }
                "view" => {
                    let of = self.value_ref(body)?;
                    self.punct('+', "`+` and an offset in the row")?;
                    Some(Place::View { of, offset: self.number("an offset in the row")? })
                }
                "alias" => Some(Place::Alias { of: self.value_ref(body)? }),
                "extern" => Some(Place::Extern),
                "unplaced" => None,
                _ => return self.fail(span, format!("expected {what}, found `{word}`")),
            };
            if let (Some(plan), Some(place)) = (&mut body.plan, place) {
                plan.places.insert(result, place);
            }
        }
        Ok(())
    }
}

fn parse_hash(hex: &str) -> Option<ContentHash> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut hash = [0; 16];
    if hex.len() != 2 * hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(ContentHash(hash))
}
