//! Values as the text form names them, for messages: inputs by name, results by number in program order.

use bitnetc_ir::{Func, ValueId};

/// The name of `value` in the text form of `func`, with the `%`.
pub(crate) fn value_name(func: &Func, value: ValueId) -> String {
    if func.inputs().contains(&value) {
        let name = func.value(value).name.as_deref().unwrap_or("?");
        return format!("%{name}");
    }
    let results = func.order().iter().flat_map(|&n| func.node(n).results.iter());
    match results.copied().position(|v| v == value) {
        Some(number) => format!("%{number}"),
        None => "%?".to_owned(),
    }
}
