//! Keywords of numbers: bounds that the engine keeps exactly, and steps that it can count in.

use serde_json::{Map, Number, Value};

use super::exact::is_large;
use super::lower::names_type;
use super::{Pointer, SchemaError};

/// Largest bound of a number.
const MOST: f64 = 1e18;
/// Largest step, once its point is moved to its end: the engine has a state for each remainder, and computes them before the first
/// token.
const MAX_STEP: f64 = 32_768.0;
/// The same for powers of ten, of which only the zeros at the end of a number are counted.
const MAX_POWER_OF_TEN: f64 = 1e7;

fn number<'m>(
    map: &'m Map<String, Value>,
    key: &str,
    at: &Pointer,
) -> Result<Option<&'m Number>, SchemaError> {
    match map.get(key) {
        None => Ok(None),
        Some(Value::Number(number)) => Ok(Some(number)),
        Some(_) => Err(at.child(key).wrong(format!("{key} must be a number"))),
    }
}

/// The bounds and the step of `map`, put into `out`.
pub(super) fn lower(
    map: &Map<String, Value>,
    at: &Pointer,
    out: &mut Map<String, Value>,
) -> Result<(), SchemaError> {
    let integer =
        map.get("type").is_some_and(|types| names_type(types, "integer") && !names_type(types, "number"));
    for (bound, exclusive) in [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")] {
        // Up to draft 4, `exclusiveMinimum` said how `minimum` is meant.
        let mut keys = vec![(bound, bound)];
        match map.get(exclusive) {
            Some(Value::Bool(true)) => keys = vec![(bound, exclusive)],
            Some(Value::Bool(false)) | None => {}
            Some(_) => keys.push((exclusive, exclusive)),
        }
        for (key, name) in keys {
            let Some(limit) = number(map, key, at)? else { continue };
            // Integers have bounds of any size (see `exact`); others are rounded by the engine.
            let rounded = is_large(limit) || limit.as_f64().is_none_or(|x| x.abs() > MOST);
            if !integer && rounded {
                return Err(at
                    .child(key)
                    .unsupported(format!("the bound {limit} is too large: leave it out")));
            }
            out.insert(name.to_owned(), Value::Number(limit.clone()));
        }
    }
    if let Some(step) = number(map, "multipleOf", at)? {
        check_step(step, &at.child("multipleOf"))?;
        out.insert("multipleOf".to_owned(), Value::Number(step.clone()));
    }
    Ok(())
}

/// Refuses a step that the engine would take for another one.
fn check_step(step: &Number, at: &Pointer) -> Result<(), SchemaError> {
    let value = step.as_f64().unwrap_or(0.0);
    if value <= 0.0 {
        return Err(at.wrong("multipleOf must be greater than 0"));
    }
    // The engine moves the point until no digit is left after it; the decimal form must agree.
    let (mut scaled, mut digits) = (value, 0u32);
    while scaled.fract() != 0.0 && digits < 20 {
        scaled *= 10.0;
        digits += 1;
    }
    let text = format!("{value}");
    let written = text.split_once('.').map_or(0, |(_, decimals)| decimals.len() as u32);
    let whole = text.replace('.', "").parse::<f64>().ok();
    if digits != written || whole != Some(scaled) {
        return Err(at.unsupported(format!("multipleOf {step} has too many digits")));
    }
    match is_countable(scaled) {
        true => Ok(()),
        false => Err(at.unsupported(format!(
            "multipleOf {step} is too large: use up to {MAX_STEP}, or a power of ten up to {MAX_POWER_OF_TEN} \
             (digits after the point count as digits)"
        ))),
    }
}

/// Whether the engine can count in a whole step.
fn is_countable(step: f64) -> bool {
    let is_power_of_ten = |step: f64| (0..=9).any(|digits| step == 10f64.powi(digits));
    step <= MAX_STEP || (step <= MAX_POWER_OF_TEN && is_power_of_ten(step))
}

/// Refuses steps that cannot be combined: the engine counts in what is a multiple of several.
pub(super) fn check_steps(steps: &[f64], at: &Pointer) -> Result<(), SchemaError> {
    let mut distinct: Vec<f64> = steps.to_vec();
    distinct.sort_by(f64::total_cmp);
    distinct.dedup();
    if distinct.len() < 2 {
        return Ok(());
    }
    let digits = |step: &f64| format!("{step}").split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let scale = 10f64.powi(distinct.iter().map(digits).max().unwrap_or(0) as i32);
    let product: f64 = distinct.iter().map(|step| step * scale).product();
    match is_countable(product) {
        true => Ok(()),
        false => {
            Err(at.unsupported("its values of multipleOf are too large to be combined: use one of them"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_with_too_many_remainders_are_refused_by_name() {
        let check = |step: &str| check_step(&serde_json::from_str(step).unwrap(), &Pointer::default());
        for step in ["1", "7", "0.01", "0.25", "32768", "10000000", "1e-8", "2.5"] {
            assert!(check(step).is_ok(), "{step}");
        }
        for step in ["32771", "99991", "999983", "65536000", "100000000", "4294967291", "3.2771", "1e300"] {
            let message = check(step).unwrap_err().to_string();
            assert!(message.contains("multipleOf") && message.contains("too"), "{step}: {message}");
        }
        assert!(check("0").is_err() && check("-1").is_err());
        let steps = |steps: &[f64]| check_steps(steps, &Pointer::default());
        assert!(steps(&[3.0, 5.0]).is_ok() && steps(&[32_749.0, 32_749.0]).is_ok());
        assert!(steps(&[251.0, 257.0]).is_err());
    }
}
