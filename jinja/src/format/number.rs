//! Digits of numbers.

use super::{Align, Spec};
use crate::error::{Error, Result};
use crate::operators::as_float;
use crate::text::{Origin, Text, TextBuilder};
use crate::value::Value;

/// Digits after the point.
pub(crate) fn fixed(number: f64, precision: usize) -> String {
    format!("{number:.precision$}")
}

/// A number rounded to digits after the point, ties to even, as Python rounds the exact value.
pub(crate) fn rounded(number: f64, precision: i128) -> Result<f64> {
    if !number.is_finite() || precision > 330 {
        return Ok(number);
    }
    if let Ok(precision) = usize::try_from(precision) {
        return Ok(fixed(number, precision).parse().unwrap_or(number));
    }
    if precision < -330 {
        return Ok(0.0_f64.copysign(number));
    }
    let power = 10f64.powi(i32::try_from(-precision).unwrap_or(i32::MAX));
    Ok((number / power).round_ties_even() * power)
}

/// `1.5e+03` of Rust's `1.5e3`.
fn exponent(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
    format!("{digits}e{sign}{power:0>2}")
}

fn power_of(text: &str) -> i32 {
    text.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0)
}

/// `%g`, and with `point` what a float is without a kind: a digit after the point at least.
fn general(number: f64, precision: usize, alternate: bool, point: bool) -> String {
    let precision = precision.max(1);
    let scientific = exponent(number, precision - 1);
    let power = power_of(&scientific);
    let most = precision as i32 - i32::from(point);
    let strip = |text: &str| match text.contains('.') && !alternate {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if power < -4 || power >= most.max(i32::from(!point)) {
        let (digits, tail) = scientific.split_once('e').unwrap_or((&scientific, "+00"));
        return format!("{}e{tail}", strip(digits));
    }
    let text = strip(&fixed(number, usize::try_from(precision as i32 - 1 - power).unwrap_or(0)));
    if point && !text.contains('.') { text + ".0" } else { text }
}

/// The digits of a number that is not negative, in one of the forms of floats.
fn float_digits(number: f64, spec: &Spec, kind: Option<char>) -> String {
    let precision = spec.precision.unwrap_or(6);
    let text = if number.is_nan() {
        "nan".to_owned()
    } else if number.is_infinite() {
        "inf".to_owned()
    } else {
        match kind {
            Some('e' | 'E') => exponent(number, precision),
            Some('f' | 'F') => fixed(number, precision),
            Some('%') => fixed(number * 100.0, precision),
            Some('g' | 'G' | 'n') => general(number, precision, spec.alternate, false),
            _ => match spec.precision {
                Some(precision) => general(number, precision, spec.alternate, true),
                None => crate::write::float(number),
            },
        }
    };
    let text = if matches!(kind, Some('E' | 'F' | 'G')) { text.to_uppercase() } else { text };
    if kind == Some('%') { text + "%" } else { text }
}

fn grouped(digits: &str, separator: char, every: usize) -> String {
    let whole = digits.find(|ch: char| !ch.is_ascii_alphanumeric()).unwrap_or(digits.len());
    let (whole, rest) = digits.split_at(whole);
    let mut text = String::new();
    for (number, digit) in whole.chars().enumerate() {
        if number > 0 && (whole.len() - number) % every == 0 {
            text.push(separator);
        }
        text.push(digit);
    }
    text + rest
}

impl Spec {
    /// Appends a number; `None` if the value is none or the kind is not of numbers.
    pub(super) fn number(
        &self,
        out: &mut TextBuilder<'_>,
        value: &Value,
        fill: Origin,
    ) -> Result<Option<()>> {
        let kind = self.kind;
        let (negative, digits) = match (value, kind) {
            (Value::Float(..), None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'n' | '%'))
            | (_, Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => {
                let Some(number) = as_float(value) else { return Ok(None) };
                (number.is_sign_negative() && !number.is_nan(), float_digits(number.abs(), self, kind))
            }
            (_, None | Some('d' | 'n' | 'b' | 'o' | 'x' | 'X')) => {
                let Some(number) = value.as_index() else { return Ok(None) };
                (number < 0, self.whole_digits(number.unsigned_abs())?)
            }
            _ => return Ok(None),
        };
        let digits = match self.grouping {
            Some(separator) => {
                grouped(&digits, separator, if matches!(kind, Some('b' | 'o' | 'x' | 'X')) { 4 } else { 3 })
            }
            None => digits,
        };
        let prefix = match kind {
            Some('x') if self.alternate => "0x",
            Some('X') if self.alternate => "0X",
            Some('o') if self.alternate => "0o",
            Some('b') if self.alternate => "0b",
            _ => "",
        };
        let sign = if negative { "-".to_owned() } else { self.sign.map(String::from).unwrap_or_default() };
        let body = Text::new(digits, value.origin());
        self.pad(out, &(sign + prefix), &body, Align::Right, fill)?;
        Ok(Some(()))
    }

    fn whole_digits(&self, number: u128) -> Result<String> {
        let digits = match self.kind {
            Some('b') => format!("{number:b}"),
            Some('o') => format!("{number:o}"),
            Some('x') => format!("{number:x}"),
            Some('X') => format!("{number:X}"),
            _ => number.to_string(),
        };
        if self.precision.is_some() {
            return Err(Error::operation("Precision not allowed in integer format specifier"));
        }
        Ok(digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_in_all_forms() {
        let spec = |kind: char, precision| Spec { kind: Some(kind), precision, ..Spec::default() };
        for (number, kind, precision, expected) in [
            (1234.5678, 'f', Some(2), "1234.57"),
            (1234.5678, 'e', None, "1.234568e+03"),
            (0.00001234, 'g', None, "1.234e-05"),
            (100000.0, 'g', None, "100000"),
            (1000000.0, 'G', None, "1E+06"),
            (0.5, '%', Some(1), "50.0%"),
            (2.5, 'f', Some(0), "2"),
        ] {
            assert_eq!(float_digits(number, &spec(kind, precision), Some(kind)), expected);
        }
        assert_eq!(float_digits(1.0, &Spec { precision: Some(3), ..Spec::default() }, None), "1.0");
        assert_eq!(float_digits(12345.0, &Spec { precision: Some(3), ..Spec::default() }, None), "1.23e+04");
        assert_eq!(grouped("1234567.25", ',', 3), "1,234,567.25");
        assert_eq!(rounded(2.675, 2).unwrap(), 2.67);
        assert_eq!(rounded(1234.5, -2).unwrap(), 1200.0);
    }
}
