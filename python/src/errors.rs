//! Errors of the library as Python's, which the Python layer defines (`bitnetc._errors`).

use bitnetc::api::Refusal;
use bitnetc::engine::EngineError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// An error of one of the classes of `bitnetc._errors`.
fn of_class(py: Python<'_>, class: &str, message: &str, fields: &Bound<'_, PyDict>) -> PyErr {
    let made = py
        .import("bitnetc._errors")
        .and_then(|module| module.getattr(class))
        .and_then(|class| class.call((message,), Some(fields)));
    made.map_or_else(|error| error, PyErr::from_value)
}

/// `bitnetc.Error`.
pub(crate) fn error(py: Python<'_>, message: &str) -> PyErr {
    of_class(py, "Error", message, &PyDict::new(py))
}

/// `bitnetc.ModelError`: a model that cannot be opened.
pub(crate) fn model(py: Python<'_>, message: &str) -> PyErr {
    of_class(py, "ModelError", message, &PyDict::new(py))
}

/// `bitnetc.Cancelled`.
pub(crate) fn cancelled(py: Python<'_>, message: &str) -> PyErr {
    of_class(py, "Cancelled", message, &PyDict::new(py))
}

/// What a refusal is: `bitnetc.RequestError`, `bitnetc.ContextLengthError`, or `bitnetc.Error` where the request is not at fault.
pub(crate) fn refusal(py: Python<'_>, refusal: &Refusal) -> PyErr {
    let fields = PyDict::new(py);
    let filled = || -> PyResult<&str> {
        if refusal.status >= 500 {
            return Ok("Error");
        }
        fields.set_item("param", refusal.param.as_deref())?;
        fields.set_item("code", refusal.code)?;
        fields.set_item("status", refusal.status)?;
        let Some(lengths) = refusal.context else { return Ok("RequestError") };
        fields.set_item("prompt_tokens", lengths.prompt)?;
        fields.set_item("context", lengths.context)?;
        Ok("ContextLengthError")
    };
    match filled() {
        Ok(class) => of_class(py, class, &refusal.message, &fields),
        Err(error) => error,
    }
}

/// An error of the library that ends a request or a computation.
pub(crate) fn request(py: Python<'_>, error: &bitnetc::Error) -> PyErr {
    match error {
        bitnetc::Error::Engine(EngineError::Stopped) => {
            cancelled(py, "the model was closed before the text had ended")
        }
        error => refusal(py, &Refusal::of_error(error, None)),
    }
}
