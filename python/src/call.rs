//! A request under way: what the engine tells of it, as Python's objects.
//!
//! A call either hands out tokens and the end of one text ([`Token`], [`Finished`]), or is shaped: then its events go through the
//! [`Reply`] of its API, and it hands out the frames of a stream as JSON beside the ends of its texts, and the body of the answer.
//!
//! Invariants: what has happened is handed out before the error that ended it; whoever drops a call drops its texts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitnetc::api::{ChoiceIndex, Frame, Refusal, Reply};
use bitnetc::engine::{Completion, Event, Handle, Stop};
use bitnetc::{TokenLogprobs, Tokenize};
use pyo3::prelude::*;

use crate::bell::Bell;
use crate::errors;
use crate::process::AtHome;
use crate::signals::LOOK;

/// A token with its probability and the likeliest at its place: id, text, logprob, and the same of each of the likeliest.
pub(crate) type Logprobs = (u32, String, f64, Vec<(u32, String, f64)>);

/// A token that was made.
#[pyclass(frozen, get_all, module = "bitnetc._bitnetc")]
#[derive(Debug)]
pub(crate) struct Token {
    id: u32,
    text: String,
    logprobs: Option<Logprobs>,
}

/// A text that has ended.
#[pyclass(frozen, get_all, module = "bitnetc._bitnetc")]
#[derive(Debug)]
pub(crate) struct Finished {
    index: usize,
    text: String,
    tail: String,
    tokens: Vec<u32>,
    logprobs: Vec<Logprobs>,
    prompt_logprobs: Vec<Logprobs>,
    ended_by: &'static str,
    stop_string: Option<usize>,
    stop_token: Option<u32>,
    seed: u64,
    prompt_tokens: usize,
    cached_tokens: usize,
    queue_ms: f64,
    prompt_ms: f64,
    decode_ms: f64,
}

/// What is handed out.
enum Item {
    Frame(String),
    Token(Token),
    Finished(Box<Finished>),
}

impl Item {
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match self {
            Self::Frame(json) => json.into_pyobject(py)?.into_any().unbind(),
            Self::Token(token) => Bound::new(py, token)?.into_any().unbind(),
            Self::Finished(finished) => Bound::new(py, *finished)?.into_any().unbind(),
        })
    }
}

/// Why a call ended.
enum Failure {
    Refused(Refusal),
    Failed(bitnetc::Error),
}

/// A text of a call.
pub(crate) struct Choice {
    /// Its events.
    pub(crate) handle: Handle,
    /// The seed of its random numbers.
    pub(crate) seed: u64,
}

/// What a call is made of.
struct Texts {
    choices: Vec<Choice>,
    left: usize,
    /// `None` once the body was asked for, or where nobody wants it.
    reply: Option<Reply>,
    shaped: bool,
    begun: bool,
    failure: Option<Failure>,
    ended: bool,
}

/// See the module.
#[pyclass(frozen, module = "bitnetc._bitnetc")]
pub(crate) struct Call {
    texts: AtHome<Mutex<Texts>>,
    bell: Arc<Bell>,
    model: bitnetc::Model,
}

impl Call {
    /// Of these texts, whose events ring `bell`. `shaped` says whether `reply` is to be told of them.
    pub(crate) fn new(
        choices: Vec<Choice>,
        reply: Reply,
        shaped: bool,
        bell: Arc<Bell>,
        model: bitnetc::Model,
    ) -> Self {
        let left = choices.len();
        let texts =
            Texts { choices, left, reply: Some(reply), shaped, begun: false, failure: None, ended: false };
        Self { texts: AtHome::new(Mutex::new(texts)), bell, model }
    }

    fn texts(&self) -> PyResult<MutexGuard<'_, Texts>> {
        Ok(self.texts.get("call")?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What has happened since the last time; the error that ended the call, after everything else.
    fn news(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        let (items, failure) = {
            let mut texts = self.texts()?;
            let items = texts.advance(self.model.tokenizer());
            let failure = if items.is_empty() { texts.failure.take() } else { None };
            texts.ended |= failure.is_some();
            (items, failure)
        };
        match failure {
            Some(Failure::Refused(refusal)) => Err(errors::refusal(py, &refusal)),
            Some(Failure::Failed(error)) => Err(errors::request(py, &error)),
            None => items.into_iter().map(|item| item.into_python(py)).collect(),
        }
    }
}

#[pymethods]
impl Call {
    /// What has happened since the last time: nothing yet, or at the end.
    fn take(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        self.news(py)
    }

    /// Waits until something happens, and returns it; nothing at the end.
    fn wait(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        loop {
            let items = self.news(py)?;
            if !items.is_empty() || self.texts()?.ended {
                return Ok(items);
            }
            let bell = Arc::clone(&self.bell);
            py.detach(|| bell.wait(LOOK));
            py.check_signals()?;
        }
    }

    /// Whether everything has been handed out.
    #[getter]
    fn ended(&self) -> PyResult<bool> {
        Ok(self.texts()?.ended)
    }

    /// Ends the texts, of which nothing is handed out any more.
    fn cancel(&self) -> PyResult<()> {
        let dropped = {
            let mut texts = self.texts()?;
            texts.ended = true;
            texts.failure = None;
            (std::mem::take(&mut texts.choices), texts.reply.take())
        };
        drop(dropped);
        self.bell.ring();
        Ok(())
    }

    /// The answer in one piece, as JSON. Once, when all texts have ended.
    fn body(&self, py: Python<'_>) -> PyResult<String> {
        let reply = self.texts()?.reply.take();
        let reply = reply.ok_or_else(|| errors::error(py, "the answer was taken already"))?;
        let body = py.detach(|| reply.into_body().map(|body| body.to_string()));
        body.map_err(|refusal| errors::refusal(py, &refusal))
    }
}

impl Texts {
    /// Takes what the engine has told.
    fn advance(&mut self, tokenizer: &dyn Tokenize) -> Vec<Item> {
        let mut items = VecDeque::new();
        if self.ended || self.failure.is_some() {
            return Vec::new();
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.shape(&mut items, Reply::begin);
        }
        for index in 0..self.choices.len() {
            while let Some(event) = self.choices[index].handle.try_recv() {
                if let Err(failure) = self.take(index, event, tokenizer, &mut items) {
                    self.failure = Some(failure);
                    self.choices.clear();
                    return items.into();
                }
            }
        }
        if self.left == 0 {
            self.shape(&mut items, Reply::end);
            self.ended = true;
            self.choices.clear();
        }
        items.into()
    }

    /// Takes an event of a text.
    fn take(
        &mut self,
        index: usize,
        event: Event,
        tokenizer: &dyn Tokenize,
        items: &mut VecDeque<Item>,
    ) -> Result<(), Failure> {
        match event {
            Event::Failed(error @ bitnetc::Error::Engine(_)) if error.session().is_none() => {
                return Err(Failure::Failed(error));
            }
            // The answer knows which field is to blame.
            Event::Failed(error) => {
                let reply = self.reply.as_mut();
                let frames = reply.map(|reply| reply.event(ChoiceIndex::new(index), Event::Failed(error)));
                drop(frames);
                let refusal = self.reply.as_ref().and_then(|reply| reply.refusal().cloned());
                let lost = || Refusal::new(500, "generation_failed", "the text failed");
                return Err(Failure::Refused(refusal.unwrap_or_else(lost)));
            }
            Event::Done(completion) => {
                self.left -= 1;
                let finished = finished(index, self.choices[index].seed, &completion, tokenizer);
                self.shape(items, |reply| reply.event(ChoiceIndex::new(index), Event::Done(completion)));
                items.push_back(Item::Finished(Box::new(finished)));
            }
            Event::Token(token) if !self.shaped => items.push_back(Item::Token(Token {
                id: token.id,
                text: token.text,
                logprobs: token.logprobs.as_ref().map(|scored| logprobs(scored, tokenizer)),
            })),
            event => self.shape(items, |reply| reply.event(ChoiceIndex::new(index), event)),
        }
        Ok(())
    }

    /// Adds the frames that `make` gives, where there are any.
    fn shape(&mut self, items: &mut VecDeque<Item>, make: impl FnOnce(&mut Reply) -> Vec<Frame>) {
        let Some(reply) = self.reply.as_mut().filter(|_| self.shaped) else { return };
        items.extend(make(reply).iter().filter_map(json_of).map(Item::Frame));
    }
}

/// The JSON of a frame that has one.
fn json_of(frame: &Frame) -> Option<String> {
    match frame {
        Frame::Data(value) | Frame::Event(_, value) | Frame::Line(value) => Some(value.to_string()),
        Frame::Done | Frame::Ping => None,
    }
}

fn logprobs(scored: &TokenLogprobs, tokenizer: &dyn Tokenize) -> Logprobs {
    let text = |id: u32| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned();
    let top = scored.top.iter().map(|best| (best.id, text(best.id), best.logprob)).collect();
    (scored.token.id, text(scored.token.id), scored.token.logprob, top)
}

fn finished(index: usize, seed: u64, end: &Completion, tokenizer: &dyn Tokenize) -> Finished {
    let all = |scored: &[TokenLogprobs]| scored.iter().map(|one| logprobs(one, tokenizer)).collect();
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let (stop_string, stop_token) = match end.finish {
        Stop::StopString(at) => (Some(at), None),
        Stop::StopToken(id) => (None, Some(id)),
        _ => (None, None),
    };
    Finished {
        index,
        text: end.text.clone(),
        tail: end.tail.clone(),
        tokens: end.tokens.clone(),
        logprobs: all(&end.logprobs),
        prompt_logprobs: all(&end.prompt_logprobs),
        ended_by: end.finish.name(),
        stop_string,
        stop_token,
        seed,
        prompt_tokens: end.prompt_tokens,
        cached_tokens: end.reused_tokens,
        queue_ms: ms(end.timings.queue),
        prompt_ms: ms(end.timings.prompt),
        decode_ms: ms(end.timings.decode + end.timings.sample),
    }
}
