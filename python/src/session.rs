//! Logits after tokens, as bytes that numpy views.

use std::sync::Arc;

use bitnetc::runtime::error::SessionError;
use bitnetc::session;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

use crate::errors;
use crate::process::AtHome;
use crate::signals::{Shared, Watch};

/// One sequence over a model, with a machine for itself.
#[pyclass(frozen, module = "bitnetc._bitnetc")]
#[derive(Debug)]
pub(crate) struct Session {
    session: AtHome<Shared<session::Session>>,
    watch: Arc<Watch>,
    vocab: usize,
    context: u32,
}

/// What a signal raised, or what the session refused.
pub(crate) fn refused(py: Python<'_>, watch: &Watch, error: SessionError) -> PyErr {
    match error {
        SessionError::Interrupted => watch.take().unwrap_or_else(|| {
            errors::cancelled(py, "the model was closed before the computation had ended")
        }),
        error => errors::request(py, &error.into()),
    }
}

/// Has `watch` asked between the parts of what a session computes.
pub(crate) fn set_watch(session: &mut session::Session, watch: &Arc<Watch>) {
    let asked = Arc::clone(watch);
    session.set_keep_going(move || asked.go_on());
}

/// Bytes of a logit.
const LOGIT: usize = size_of::<f32>();

fn write(bytes: &mut [u8], logits: &[f32]) {
    let places = bytes.chunks_exact_mut(LOGIT);
    places.zip(logits).for_each(|(place, logit)| place.copy_from_slice(&logit.to_ne_bytes()));
}

impl Session {
    pub(crate) fn new(mut session: session::Session) -> Self {
        let (vocab, context) = (session.model().vocab() as usize, session.context());
        let watch = Arc::<Watch>::default();
        set_watch(&mut session, &watch);
        Self { session: AtHome::new(Shared::new(session)), watch, vocab, context }
    }

    /// Does something with the session.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut session::Session) -> Result<T, SessionError> + Send,
    ) -> PyResult<T> {
        self.session.get("Session")?.with(py, work)?.map_err(|error| refused(py, &self.watch, error))
    }
}

#[pymethods]
impl Session {
    /// Appends tokens; the logits after the last of them.
    fn feed<'py>(&self, py: Python<'py>, tokens: Vec<u32>) -> PyResult<Bound<'py, PyByteArray>> {
        let logits = self.with(py, |session| session.feed(&tokens).map(<[f32]>::to_vec))?;
        PyByteArray::new_with(py, logits.len() * LOGIT, |bytes| {
            write(bytes, &logits);
            Ok(())
        })
    }

    /// Appends tokens; the logits after each of them.
    fn score<'py>(&self, py: Python<'py>, tokens: Vec<u32>) -> PyResult<Bound<'py, PyByteArray>> {
        // Before memory is taken by their number.
        if tokens.len() as u64 > u64::from(self.context) {
            let (tokens, position) = (tokens.len() as u64, 0);
            let error = SessionError::ContextFull { tokens, position, context: self.context };
            return Err(refused(py, &self.watch, error));
        }
        let row = self.vocab * LOGIT;
        PyByteArray::new_with(py, tokens.len() * row, |bytes| {
            self.with(py, |session| {
                session.score(&tokens, |at, logits| {
                    if let Some(place) = bytes.get_mut(at * row..(at + 1) * row) {
                        write(place, logits);
                    }
                    true
                })
            })
        })
    }

    /// Forgets all tokens from `position` on.
    fn truncate(&self, py: Python<'_>, position: u32) -> PyResult<()> {
        self.with(py, |session| {
            session.truncate(position);
            Ok(())
        })
    }

    /// The tokens that were appended.
    #[getter]
    fn tokens(&self, py: Python<'_>) -> PyResult<Vec<u32>> {
        self.with(py, |session| Ok(session.tokens().to_vec()))
    }

    /// How many tokens may be appended in all.
    #[getter]
    fn context(&self) -> u32 {
        self.context
    }

    /// Numbers of a row.
    #[getter]
    fn vocab(&self) -> usize {
        self.vocab
    }
}
