//! Tokens to a tree, by the grammar of Jinja2 3.1 with the settings of transformers: loop controls and `{% generation %}`,
//! no `{% do %}`, and none of the tags that read other templates.

mod expressions;
mod statements;

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Expr, ExprKind, Known, Symbol, Tree};
use crate::error::{Error, Result};
use crate::lexer::{Token, tokenize};

/// Depth of an expression and of statements in each other. Jinja2 itself fails at about this depth, because Python does.
const MAX_DEPTH: u32 = 200;

pub(crate) struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    names: Vec<Arc<str>>,
    symbols: HashMap<Arc<str>, Symbol>,
    /// Names that were read so far, in order; a body's are those after its start.
    read: Vec<Symbol>,
    depth: u32,
}

/// The tree of a template.
pub(crate) fn parse(source: &str) -> Result<Tree> {
    let mut parser = Parser {
        tokens: tokenize(source)?,
        at: 0,
        names: Vec::new(),
        symbols: HashMap::new(),
        read: Vec::new(),
        depth: 0,
    };
    let known = Known {
        r#loop: parser.symbol("loop"),
        caller: parser.symbol("caller"),
        varargs: parser.symbol("varargs"),
        kwargs: parser.symbol("kwargs"),
    };
    let body = parser.statements(&[])?;
    Ok(Tree { body, names: parser.names, known })
}

impl Parser {
    fn symbol(&mut self, name: &str) -> Symbol {
        if let Some(&symbol) = self.symbols.get(name) {
            return symbol;
        }
        let (symbol, name) = (Symbol(self.names.len() as u32), Arc::<str>::from(name));
        self.names.push(Arc::clone(&name));
        self.symbols.insert(name, symbol);
        symbol
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    fn fail<T>(&self, reason: impl AsRef<str>) -> Result<T> {
        Err(Error::syntax(self.line(), reason))
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn peek_second(&self) -> Option<&Token> {
        self.tokens.get(self.at + 1).map(|(token, _)| token)
    }

    fn is_operator(&self, operator: &str) -> bool {
        matches!(self.peek(), Some(Token::Operator(found)) if *found == operator)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == name)
    }

    fn skip_operator(&mut self, operator: &str) -> bool {
        let found = self.is_operator(operator);
        self.at += usize::from(found);
        found
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    fn unexpected<T>(&self, expected: &str) -> Result<T> {
        match self.peek() {
            Some(token) => self.fail(format!("expected {expected}, got {}", token.describe())),
            None => self.fail(format!("unexpected end of template, expected {expected}")),
        }
    }

    fn expect_operator(&mut self, operator: &str) -> Result<()> {
        if self.skip_operator(operator) { Ok(()) } else { self.unexpected(&format!("'{operator}'")) }
    }

    fn expect_block_end(&mut self) -> Result<()> {
        if self.peek() == Some(&Token::BlockEnd) {
            self.at += 1;
            return Ok(());
        }
        self.unexpected("end of statement block")
    }

    fn expect_name(&mut self) -> Result<String> {
        match self.peek() {
            Some(Token::Name(name)) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    /// One level deeper in the recursion of the parser.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail("the template nests too deep");
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// An expression over others, the deepest of which is given.
    fn expr(&self, kind: ExprKind, line: u32, deepest: u32) -> Result<Expr> {
        if deepest >= MAX_DEPTH {
            return self.fail("an expression nests too deep");
        }
        Ok(Expr { kind, line, depth: deepest + 1 })
    }
}

/// The depth of the deepest.
fn deepest<'e>(exprs: impl IntoIterator<Item = &'e Expr>) -> u32 {
    exprs.into_iter().map(|expr| expr.depth).max().unwrap_or(0)
}
