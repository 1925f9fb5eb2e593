//! Statements: text, prints and tags.

use std::sync::Arc;

use super::Parser;
use crate::ast::{Body, Expr, ExprKind, For, Macro, Stmt, StmtKind, Symbol, Target};
use crate::error::Result;
use crate::lexer::Token;
use crate::text::{Origin, Text};

impl Parser {
    /// Statements up to one of the tags `ends`, whose name is then the next token; without ends, up to the end.
    pub(super) fn statements(&mut self, ends: &[&str]) -> Result<Body> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let Some(token) = self.peek() else { break };
            let kind = match token {
                Token::Data(text) => {
                    let text = Text::new(text.clone(), Origin::Program);
                    self.at += 1;
                    StmtKind::Data(text)
                }
                Token::VariableBegin => {
                    self.at += 1;
                    let value = self.tuple(true, &[])?;
                    if self.peek() != Some(&Token::VariableEnd) {
                        return self.unexpected("end of print statement");
                    }
                    self.at += 1;
                    StmtKind::Print(vec![value])
                }
                Token::BlockBegin => {
                    self.at += 1;
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(body);
                    }
                    let kind = self.nested(Self::tag)?;
                    self.expect_block_end()?;
                    kind
                }
                _ => return self.unexpected("text or a tag"),
            };
            body.push(Stmt { kind, line });
        }
        match ends {
            [] => Ok(body),
            _ => self.fail(format!("unexpected end of template, expected {}", ends.join(" or "))),
        }
    }

    /// The body of a tag, up to and with the name of the tag that ends it.
    fn body(&mut self, ends: &[&str]) -> Result<(Body, String)> {
        self.skip_operator(":");
        self.expect_block_end()?;
        let body = self.statements(ends)?;
        Ok((body, self.expect_name()?))
    }

    fn only_body(&mut self, end: &str) -> Result<Body> {
        Ok(self.body(&[end])?.0)
    }

    fn tag(&mut self) -> Result<StmtKind> {
        let name = self.expect_name()?;
        match name.as_str() {
            "set" => self.set(),
            "if" => self.branches(),
            "for" => self.r#for(),
            "macro" => self.r#macro(),
            "call" => self.call_block(),
            "with" => self.with(),
            "filter" => {
                let filters = self.block_filters()?;
                Ok(StmtKind::FilterBlock(filters, self.only_body("endfilter")?))
            }
            "print" => self.print(),
            "generation" => Ok(StmtKind::Scope(self.only_body("endgeneration")?)),
            "block" => self.block(),
            "break" => Ok(StmtKind::Break),
            "continue" => Ok(StmtKind::Continue),
            "include" | "import" | "from" | "extends" => {
                self.fail(format!("a chat template has no other templates for '{name}'"))
            }
            _ => {
                self.at -= 1;
                self.fail(format!("Encountered unknown tag '{name}'."))
            }
        }
    }

    fn set(&mut self) -> Result<StmtKind> {
        let target = self.target(true, &[])?;
        if self.skip_operator("=") {
            return Ok(StmtKind::Set(target, self.tuple(true, &[])?));
        }
        let filters = if self.skip_operator("|") { Some(self.block_filters()?) } else { None };
        Ok(StmtKind::SetBlock(target, filters, self.only_body("endset")?))
    }

    /// A target: a name, an attribute of a namespace if those are allowed, or several with commas.
    fn target(&mut self, attributes: bool, ends: &[&str]) -> Result<Target> {
        self.nested(|parser| {
            let first = parser.target_item(attributes)?;
            if !parser.is_operator(",") {
                return Ok(first);
            }
            let mut items = vec![first];
            while parser.skip_operator(",") {
                match parser.peek() {
                    Some(Token::Name(name)) if ends.contains(&name.as_str()) => break,
                    Some(Token::Name(_) | Token::Operator("(")) => {
                        items.push(parser.target_item(attributes)?)
                    }
                    _ => break,
                }
            }
            Ok(Target::Tuple(items))
        })
    }

    fn target_item(&mut self, attributes: bool) -> Result<Target> {
        if self.skip_operator("(") {
            let inside = self.target(attributes, &[])?;
            self.expect_operator(")")?;
            return Ok(inside);
        }
        let name = self.assignable_name()?;
        if attributes && self.skip_operator(".") {
            self.read.push(name);
            return Ok(Target::Attribute(name, Text::new(self.expect_name()?, Origin::Program)));
        }
        Ok(Target::Name(name))
    }

    fn assignable_name(&mut self) -> Result<Symbol> {
        let name = self.expect_name()?;
        if matches!(name.as_str(), "true" | "false" | "none" | "True" | "False" | "None") {
            return self.fail(format!("can't assign to '{name}'"));
        }
        Ok(self.symbol(&name))
    }

    fn branches(&mut self) -> Result<StmtKind> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, &[])?;
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            branches.push((test, body));
            match end.as_str() {
                "elif" => {}
                "else" => return Ok(StmtKind::If(branches, self.only_body("endif")?)),
                _ => return Ok(StmtKind::If(branches, Vec::new())),
            }
        }
    }

    fn r#for(&mut self) -> Result<StmtKind> {
        let target = self.target(false, &["in"])?;
        if !self.skip_name("in") {
            return self.unexpected("'in'");
        }
        let iterable = self.tuple(false, &["recursive"])?;
        let test = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        let start = self.read.len();
        let (body, end) = self.body(&["endfor", "else"])?;
        let r#loop = self.symbol("loop");
        let uses_loop = recursive || self.read[start..].contains(&r#loop);
        let otherwise = if end == "else" { self.only_body("endfor")? } else { Vec::new() };
        Ok(StmtKind::For(Arc::new(For { target, iterable, test, recursive, uses_loop, body, otherwise })))
    }

    fn with(&mut self) -> Result<StmtKind> {
        let mut values = Vec::new();
        while self.peek() != Some(&Token::BlockEnd) {
            if !values.is_empty() {
                self.expect_operator(",")?;
            }
            let target = self.target_item(false)?;
            self.expect_operator("=")?;
            values.push((target, self.expression()?));
        }
        Ok(StmtKind::With(values, self.only_body("endwith")?))
    }

    fn signature(&mut self) -> Result<Vec<(Symbol, Option<Expr>)>> {
        self.expect_operator("(")?;
        let mut parameters: Vec<(Symbol, Option<Expr>)> = Vec::new();
        while !self.is_operator(")") {
            if !parameters.is_empty() {
                self.expect_operator(",")?;
            }
            let name = self.assignable_name()?;
            if parameters.iter().any(|(known, _)| *known == name) {
                return self.fail("two parameters have the same name");
            }
            let default = if self.skip_operator("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, default)| default.is_some()) {
                return self.fail("non-default argument follows default argument");
            }
            parameters.push((name, default));
        }
        self.expect_operator(")")?;
        Ok(parameters)
    }

    fn r#macro(&mut self) -> Result<StmtKind> {
        let name = self.assignable_name()?;
        let parameters = self.signature()?;
        Ok(StmtKind::Macro(Arc::new(self.macro_body(Some(name), parameters, "endmacro")?)))
    }

    fn macro_body(
        &mut self,
        name: Option<Symbol>,
        parameters: Vec<(Symbol, Option<Expr>)>,
        end: &str,
    ) -> Result<Macro> {
        let start = self.read.len();
        let body = self.only_body(end)?;
        let mut uses = |name: &str| {
            let symbol = self.symbol(name);
            self.read[start..].contains(&symbol)
        };
        let (uses_caller, uses_varargs, uses_kwargs) = (uses("caller"), uses("varargs"), uses("kwargs"));
        Ok(Macro { name, parameters, uses_caller, uses_varargs, uses_kwargs, body })
    }

    fn call_block(&mut self) -> Result<StmtKind> {
        let parameters = if self.is_operator("(") { self.signature()? } else { Vec::new() };
        let call = self.expression()?;
        if !matches!(call.kind, ExprKind::Call(..)) {
            return self.fail("expected a call");
        }
        Ok(StmtKind::CallBlock(Arc::new(self.macro_body(None, parameters, "endcall")?), call))
    }

    fn print(&mut self) -> Result<StmtKind> {
        let mut values = Vec::new();
        while self.peek() != Some(&Token::BlockEnd) {
            if !values.is_empty() {
                self.expect_operator(",")?;
            }
            values.push(self.expression()?);
        }
        Ok(StmtKind::Print(values))
    }

    fn block(&mut self) -> Result<StmtKind> {
        let name = self.expect_name()?;
        let scoped = self.skip_name("scoped");
        self.skip_name("required");
        let body = self.only_body("endblock")?;
        self.skip_name(&name);
        Ok(if scoped { StmtKind::Scope(body) } else { StmtKind::Block(body) })
    }
}
