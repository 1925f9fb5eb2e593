//! Memory of the bodies of requests and of their answers: bounded for the whole server, whatever the number of its clients.
//!
//! A body that is read holds what has arrived of it, so a client that announces much and sends little takes little; the first
//! [`SHORT`] bytes of each are bounded by the number of connections. Where there is no room for more, the longest body that has not
//! arrived yet is given up, so that bodies that are sent slowly do not keep others waiting. A body that is parsed holds what its
//! values take at most ([`api::reading_bytes`]) until that has ended; short ones have a share of their own, so that long ones never
//! keep them waiting, and no body takes more than a quarter of the rest. An answer holds its bytes until they are written, or its
//! client is gone. No body waits for the first budget while it holds another, so waits end; each lasts
//! [`Limits::read_timeout`](crate::Limits) at most.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bitnetc::api::{self, Route};
use http_body::{Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::failure::Failure;
use crate::options::Limits;

/// Bytes of all answers that are not written yet.
const ANSWERS: usize = 256 << 20;
/// Bytes of the values of all short bodies that are parsed.
const SHORT_BUDGET: usize = 64 << 20;
/// Longest body that is short.
pub(crate) const SHORT: usize = 64 << 10;
/// Bytes of a permit.
const UNIT: usize = 1 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Bodies {
    read: Arc<Semaphore>,
    parsed: Arc<Semaphore>,
    short: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    /// Bytes that the values of a long body may take.
    longest: usize,
    /// Bodies longer than [`SHORT`] that have not arrived yet.
    arriving: Mutex<BTreeMap<u64, Arriving>>,
    numbers: AtomicU64,
    /// How long a body is waited for, and room for it.
    patience: Duration,
}

/// A body that has not arrived yet.
#[derive(Debug)]
struct Arriving {
    units: usize,
    /// Told when it is given up.
    gives_up: Arc<Notify>,
}

/// A body that was read; its memory is counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    /// Of [`Bodies::read`], and of [`Bodies::parsed`] while it is parsed.
    permits: Vec<OwnedSemaphorePermit>,
}

/// Why a body could not be gathered.
enum Trouble {
    TooLong,
    Incomplete,
    NoRoom,
}

/// A body on its way in the list of those that are; it leaves the list when this is dropped.
struct Listed<'b> {
    bodies: &'b Bodies,
    number: u64,
    gives_up: Arc<Notify>,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.bodies.arriving().remove(&self.number);
    }
}

impl Bodies {
    /// The budgets of a server with these limits.
    pub(crate) fn new(limits: &Limits) -> Self {
        let bytes = limits.bodies.max(limits.body);
        let budget = |bytes: usize| Arc::new(Semaphore::new(bytes.div_ceil(UNIT).min(u32::MAX as usize)));
        Self {
            read: budget(bytes),
            parsed: budget(bytes),
            short: budget(SHORT_BUDGET),
            answers: budget(ANSWERS),
            longest: bytes / 4,
            arriving: Mutex::default(),
            numbers: AtomicU64::new(0),
            patience: limits.read_timeout,
        }
    }

    fn arriving(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arriving>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a body of at most `most` bytes.
    pub(crate) async fn read(&self, body: Body, most: usize) -> Result<Held, Failure> {
        let too_long = || {
            let message = format!("the body is longer than {most} bytes");
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message).closing()
        };
        // What the client announces is refused before it is sent.
        if body.size_hint().lower() > most as u64 {
            return Err(too_long());
        }
        let mut waits = false;
        match timeout(self.patience, self.gather(body, most, &mut waits)).await {
            Ok(Ok(held)) => Ok(held),
            Ok(Err(Trouble::TooLong)) => Err(too_long()),
            Ok(Err(Trouble::Incomplete)) => {
                let message = "the body of the request is incomplete";
                Err(Failure::new(StatusCode::BAD_REQUEST, "incomplete_body", message).closing())
            }
            Ok(Err(Trouble::NoRoom)) => Err(no_room().closing()),
            Err(_) if waits => Err(no_room().closing()),
            Err(_) => {
                let message = "the body of the request did not arrive in time";
                Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message).closing())
            }
        }
    }

    /// The parts of a body as they come; `waits` is on while there is no room for the next one.
    async fn gather(&self, mut body: Body, most: usize, waits: &mut bool) -> Result<Held, Trouble> {
        let (mut bytes, mut permits) = (Vec::new(), Vec::new());
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let listed = Listed { bodies: self, number, gives_up: Arc::default() };
        let mut held = 0;
        loop {
            let frame = tokio::select! {
                frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)) => frame,
                () = listed.gives_up.notified() => return Err(Trouble::NoRoom),
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| Trouble::Incomplete)?;
            let Ok(part) = frame.into_data() else { continue };
            if part.len() > most - bytes.len() {
                return Err(Trouble::TooLong);
            }
            let units = (bytes.len() + part.len()).saturating_sub(SHORT).div_ceil(UNIT);
            if units > held {
                *waits = true;
                permits.push(self.room(&listed, units - held).await?);
                *waits = false;
                held = units;
                let gives_up = Arc::clone(&listed.gives_up);
                self.arriving().insert(number, Arriving { units, gives_up });
            }
            bytes.extend_from_slice(&part);
        }
        drop(listed);
        Ok(Held { bytes: bytes.into(), permits: merged(permits) })
    }

    /// Room for more of a body. Where there is none, the longest body on its way is given up, this one among them.
    async fn room(&self, listed: &Listed<'_>, units: usize) -> Result<OwnedSemaphorePermit, Trouble> {
        let wanted = u32::try_from(units).map_err(|_| Trouble::NoRoom)?;
        if let Ok(permit) = Arc::clone(&self.read).try_acquire_many_owned(wanted) {
            return Ok(permit);
        }
        let longest = {
            let arriving = self.arriving();
            let longest = arriving.iter().max_by_key(|(_, body)| body.units);
            longest.map(|(&number, body)| (number, Arc::clone(&body.gives_up)))
        };
        match longest {
            Some((number, _)) if number == listed.number => return Err(Trouble::NoRoom),
            Some((_, gives_up)) => gives_up.notify_one(),
            // All room is that of bodies that have arrived, and are worked on.
            None => {}
        }
        tokio::select! {
            permit = Arc::clone(&self.read).acquire_many_owned(wanted) => permit.map_err(|_| Trouble::NoRoom),
            () = listed.gives_up.notified() => Err(Trouble::NoRoom),
        }
    }

    /// Waits for the room to parse a body of a request for `route`, or of one that is read as those are.
    pub(crate) async fn admit(&self, held: &mut Held, route: Route) -> Result<(), Failure> {
        let is_short = held.bytes.len() <= SHORT;
        let bytes = match is_short {
            true => api::reading_bytes(route, &held.bytes),
            false => {
                let body = held.bytes.clone();
                let scan = tokio::task::spawn_blocking(move || api::reading_bytes(route, &body));
                scan.await.unwrap_or(usize::MAX)
            }
        };
        let (of, most) = if is_short { (&self.short, SHORT_BUDGET) } else { (&self.parsed, self.longest) };
        if bytes > most {
            let message = format!(
                "the body has too many lists, objects and values: reading it could take {bytes} bytes, and it may take {most}"
            );
            return Err(Failure::new(StatusCode::BAD_REQUEST, "body_too_complex", message));
        }
        let units = bytes.div_ceil(UNIT) as u32;
        let permit = timeout(self.patience, Arc::clone(of).acquire_many_owned(units)).await;
        held.permits.push(permit.map_err(|_| no_room())?.map_err(|_| no_room())?);
        Ok(())
    }

    /// Takes room for the text of an answer, until it is written. Does not wait for the room: those who do not read their
    /// answers have it.
    pub(crate) fn answer(&self, text: String) -> Result<Answered, Failure> {
        let bytes: Bytes = text.into();
        let units = bytes.len().div_ceil(UNIT).min(u32::MAX as usize) as u32;
        match Arc::clone(&self.answers).try_acquire_many_owned(units) {
            Ok(permit) => Ok(Answered { bytes: Some(bytes), _permit: permit }),
            Err(_) => {
                let message = "the server has no memory left for answers: try again later";
                Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "answers_full", message).retry_after(1))
            }
        }
    }
}

/// The text of an answer, whose memory is counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Answered {
    bytes: Option<Bytes>,
    _permit: OwnedSemaphorePermit,
}

impl Answered {
    pub(crate) fn response(self) -> Response {
        (StatusCode::OK, [(CONTENT_TYPE, "application/json")], Body::new(self)).into_response()
    }
}

/// Bytes that are given to the connection at a time: what it has not taken stays counted.
const PIECE: usize = 256 << 10;

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(mut rest) = self.bytes.take().filter(|bytes| !bytes.is_empty()) else {
            return Poll::Ready(None);
        };
        let piece = rest.split_to(PIECE.min(rest.len()));
        self.bytes = Some(rest).filter(|rest| !rest.is_empty());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, Bytes::len) as u64)
    }
}

/// One permit in the place of many.
fn merged(permits: Vec<OwnedSemaphorePermit>) -> Vec<OwnedSemaphorePermit> {
    let join = |mut all: OwnedSemaphorePermit, one| {
        all.merge(one);
        all
    };
    permits.into_iter().reduce(join).into_iter().collect()
}

fn no_room() -> Failure {
    let message = "the server has no memory left for the bodies of requests: try again later";
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "bodies_full", message).retry_after(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: usize = 256 << 20;

    fn limits() -> Limits {
        Limits { bodies: BUDGET, read_timeout: Duration::ZERO, ..Limits::default() }
    }

    /// Budgets that nobody waits for.
    fn impatient() -> Bodies {
        Bodies::new(&limits())
    }

    fn status<T>(result: Result<T, Failure>) -> u16 {
        result.map_or_else(|why| why.refusal.status, |_| 200)
    }

    #[tokio::test]
    async fn bodies_share_a_budget_and_short_ones_need_none_of_it() {
        let bodies = impatient();
        let body = |bytes: usize| Body::from(vec![b'1'; bytes]);
        let mut all = Vec::new();
        for _ in 0..BUDGET >> 20 {
            all.push(bodies.read(body((1 << 20) + SHORT), 2 << 20).await.unwrap());
        }
        assert_eq!(status(bodies.read(body(1 << 20), 1 << 20).await), 503);
        assert_eq!(status(bodies.read(body(SHORT), 1 << 20).await), 200);
        // A body that is too long needs no room to be refused.
        assert_eq!(status(bodies.read(body(1 << 20), 1 << 10).await), 413);
        all.remove(0);
        assert_eq!(status(bodies.read(body(1 << 20), 1 << 20).await), 200);
    }

    #[tokio::test]
    async fn parsing_is_charged_by_what_it_takes() {
        let bodies = impatient();
        let held = |text: String| Held { bytes: text.into(), permits: Vec::new() };
        let text = |bytes: usize| held(format!("\"{}\"", "x".repeat(bytes)));
        let objects = |count: usize| held(format!("[{}0]", "{\"\":0},".repeat(count)));
        // A quarter of the budget, in copies of the text and in objects.
        assert_eq!(status(bodies.admit(&mut text(12 << 20), Route::ChatCompletions).await), 200);
        assert_eq!(status(bodies.admit(&mut text(14 << 20), Route::ChatCompletions).await), 400);
        assert_eq!(status(bodies.admit(&mut objects(1 << 17), Route::Completions).await), 400);
        assert_eq!(status(bodies.admit(&mut objects(9_000), Route::OllamaChat).await), 200);
        // Long ones fill their share; a short one has room.
        let mut all: Vec<Held> = (0..5).map(|_| text(12 << 20)).collect();
        let mut results = Vec::new();
        for each in &mut all {
            results.push(status(bodies.admit(each, Route::ChatCompletions).await));
        }
        assert_eq!(results, [200, 200, 200, 200, 503]);
        assert_eq!(status(bodies.admit(&mut text(1_000), Route::ChatCompletions).await), 200);
        all.truncate(3);
        assert_eq!(status(bodies.admit(&mut text(12 << 20), Route::ChatCompletions).await), 200);
    }

    /// A body of so many bytes that never ends.
    struct Endless(Option<Bytes>);

    impl HttpBody for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
        }
    }

    #[tokio::test]
    async fn a_body_that_stops_gives_way() {
        let bodies = Arc::new(Bodies::new(&Limits { read_timeout: Duration::from_secs(600), ..limits() }));
        let mut slow = Vec::new();
        for _ in 0..16 {
            let bodies = Arc::clone(&bodies);
            let body = Body::new(Endless(Some(vec![0; (16 << 20) + SHORT].into())));
            slow.push(tokio::spawn(async move { status(bodies.read(body, 32 << 20).await) }));
        }
        while bodies.read.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        // Neither this one nor any other waits for the time in which the slow ones may arrive.
        assert_eq!(status(bodies.read(Body::from(vec![0; 1 << 20]), 1 << 20).await), 200);
        while !slow.iter().any(tokio::task::JoinHandle::is_finished) {
            tokio::task::yield_now().await;
        }
        let ended: Vec<usize> = (0..slow.len()).filter(|&at| slow[at].is_finished()).collect();
        assert_eq!(ended.len(), 1);
        assert_eq!(slow.remove(ended[0]).await.unwrap(), 503);
        slow.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn answers_are_counted_until_they_are_gone() {
        let bodies = impatient();
        let text = || "x".repeat(100 << 20);
        let (one, two) = (bodies.answer(text()).unwrap(), bodies.answer(text()).unwrap());
        assert_eq!(bodies.answer(text()).unwrap_err().refusal.code, "answers_full");
        drop(one);
        let mut response = bodies.answer(text()).unwrap().response();
        drop(two);
        let mut bytes = 0;
        while let Some(frame) = poll_fn(|cx| Pin::new(response.body_mut()).poll_frame(cx)).await {
            bytes += frame.unwrap().into_data().unwrap().len();
            assert!(bodies.answers.available_permits() * UNIT <= BUDGET - (100 << 20));
        }
        assert_eq!(bytes, 100 << 20);
        drop(response);
        assert_eq!(bodies.answers.available_permits() * UNIT, BUDGET);
    }
}
