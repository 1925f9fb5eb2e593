//! Text form of a kernel, for dumps and snapshots. It is not parsed back.
//!
//! Values are numbered as in the kernel, every definition shows its type, and attributes are printed in full, so two
//! kernels with the same text are the same kernel.

use std::fmt::{self, Write as _};

use super::kernel::{Access, Block, Kernel, ParamKind, Stmt};
use super::types::Value;

impl fmt::Display for ParamKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ParamKind::Ptr(Access::ReadOnly) => "ptr(readonly)",
            ParamKind::Ptr(Access::ReadWrite) => "ptr(readwrite)",
            ParamKind::Int => "int",
        })
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel @{}(", self.name)?;
        for (i, param) in self.params.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{} {}: {}", param.value, param.name, param.kind)?;
        }
        f.write_str(") {\n")?;
        Printer { kernel: self, indent: 1 }.block(f, &self.body)?;
        f.write_str("}\n")
    }
}

/// The first line of a statement, as the kernel's text shows it.
pub(super) fn headline(kernel: &Kernel, stmt: &Stmt) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(text, "{}", Headline { kernel, stmt });
    text
}

struct Headline<'a> {
    kernel: &'a Kernel,
    stmt: &'a Stmt,
}

impl fmt::Display for Headline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printer { kernel: self.kernel, indent: 0 }.headline(f, self.stmt)
    }
}

struct Printer<'a> {
    kernel: &'a Kernel,
    indent: usize,
}

impl Printer<'_> {
    fn block(&self, f: &mut fmt::Formatter<'_>, block: &Block) -> fmt::Result {
        for stmt in &block.stmts {
            self.line(f)?;
            self.headline(f, stmt)?;
            f.write_str("\n")?;
            let inner = Printer { kernel: self.kernel, indent: self.indent + 1 };
            match stmt {
                Stmt::Op { .. } => {}
                Stmt::Loop(l) => {
                    inner.block(f, &l.body)?;
                    self.line(f)?;
                    f.write_str("}\n")?;
                }
                Stmt::If(i) => {
                    inner.block(f, &i.then)?;
                    if i.otherwise != Block::default() {
                        self.line(f)?;
                        f.write_str("} else {\n")?;
                        inner.block(f, &i.otherwise)?;
                    }
                    self.line(f)?;
                    f.write_str("}\n")?;
                }
            }
        }
        if !block.yields.is_empty() {
            self.line(f)?;
            f.write_str("yield ")?;
            list(f, &block.yields, |f, v| write!(f, "{v}"))?;
            f.write_str("\n")?;
        }
        Ok(())
    }

    fn line(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:width$}", "", width = 2 * self.indent)
    }

    fn headline(&self, f: &mut fmt::Formatter<'_>, stmt: &Stmt) -> fmt::Result {
        match stmt {
            Stmt::Op { result, op } => {
                self.definitions(f, result.as_slice())?;
                write!(f, "{op}")
            }
            Stmt::Loop(l) => {
                self.definitions(f, &l.carries.iter().map(|c| c.result).collect::<Vec<_>>())?;
                write!(f, "loop {} in {}..{} step {}", l.index, l.lo, l.hi, l.step)?;
                if !l.carries.is_empty() {
                    f.write_str(" carry (")?;
                    list(f, &l.carries, |f, c| write!(f, "{} = {}", c.param, c.init))?;
                    f.write_str(")")?;
                }
                f.write_str(" {")
            }
            Stmt::If(i) => {
                self.definitions(f, &i.results)?;
                write!(f, "if {} {} {} {{", i.a, i.cond, i.b)
            }
        }
    }

    fn definitions(&self, f: &mut fmt::Formatter<'_>, values: &[Value]) -> fmt::Result {
        if values.is_empty() {
            return Ok(());
        }
        list(f, values, |f, &v| match self.kernel.type_of(v) {
            Some(ty) => write!(f, "{v}: {ty}"),
            None => write!(f, "{v}: ?"),
        })?;
        f.write_str(" = ")
    }
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    mut each: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        each(f, item)?;
    }
    Ok(())
}
