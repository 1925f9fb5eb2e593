//! Values as the text form names them, for messages.

use bitnetc_ir::text::ValueNames;
use bitnetc_ir::{Func, ValueId};

/// The name of `value` in the text form of `func`, with the `%`.
pub(crate) fn value_name(func: &Func, value: ValueId) -> String {
    ValueNames::new(func).value(value)
}
