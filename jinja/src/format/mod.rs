//! Python's two ways to format: `'%s' % value` and `'{}'.format(value)`.

mod braces;
mod number;
mod percent;

pub(crate) use braces::braces;
pub(crate) use number::{fixed, rounded};
pub(crate) use percent::percent;

use crate::error::{Error, Result};
use crate::text::{Origin, Text, TextBuilder};

/// Digits after the point that may be asked for.
const MAX_PRECISION: usize = 1000;

/// How something is laid out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spec {
    fill: Option<char>,
    align: Option<Align>,
    /// `+` or a space for numbers that are not negative.
    sign: Option<char>,
    alternate: bool,
    width: usize,
    /// Between thousands.
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
    Center,
    /// Between the sign and the digits.
    BehindSign,
}

impl Spec {
    fn check(self) -> Result<Self> {
        if self.precision.is_some_and(|precision| precision > MAX_PRECISION) {
            return Err(Error::limit(format!("a precision of more than {MAX_PRECISION} digits")));
        }
        Ok(self)
    }

    /// Appends a sign and what follows it, filled to the width.
    fn pad(
        &self,
        out: &mut TextBuilder<'_>,
        sign: &str,
        body: &Text,
        default: Align,
        fill_origin: Origin,
    ) -> Result<()> {
        let len = sign.len() + body.as_str().chars().count();
        let missing = self.width.saturating_sub(len);
        let (fill, align) = (self.fill.unwrap_or(' '), self.align.unwrap_or(default));
        let (before, between, after) = match align {
            Align::Left => (0, 0, missing),
            Align::Right => (missing, 0, 0),
            Align::Center => (missing / 2, 0, missing - missing / 2),
            Align::BehindSign => (0, missing, 0),
        };
        out.push_fill(fill, before, fill_origin)?;
        out.push(sign, body.origin())?;
        out.push_fill(fill, between, fill_origin)?;
        out.push_text(body)?;
        out.push_fill(fill, after, fill_origin)
    }
}

/// The first characters of a text, up to a number of them.
fn cut(budget: &crate::budget::Budget, text: &Text, chars: Option<usize>) -> Result<Text> {
    let Some(chars) = chars else { return Ok(text.clone()) };
    let end = text.as_str().char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
    text.slice(budget, 0..end)
}
