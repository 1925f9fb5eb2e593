//! Requests for texts: read, taken or refused, made by the engine, answered in one piece or as a stream.
//!
//! Everything that may take its time (reading the body, templates, tokens, forms) is done on threads where that stops nobody. The
//! texts of a request belong to [`Texts`]; when that is dropped, because the answer has ended or its client has left, the engine
//! drops them within a step, whether they wait, read their prompt or decode.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, Request, StatusCode};
use axum::response::Response;
use bitnetc::api::{self, ChoiceIndex, Frame, Framing, Refusal, Reply, Route, Unload};
use bitnetc::engine::{self, Event, Handle};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use crate::admission::Ticket;
use crate::app::App;
use crate::bodies::Held;
use crate::failure::{Failure, json};
use crate::log::Record;
use crate::registry::Lease;
use crate::shutdown::{Phase, Shutdown};

/// Pieces of a stream that wait for the connection to take them. Then the engine's channel fills, and then the text pauses.
const PIECES: usize = 16;
/// Waiting for a model that takes no longer was waiting for none.
const AT_ONCE: Duration = Duration::from_millis(1);
/// The seed of the first choice.
const SEED: HeaderName = HeaderName::from_static("x-seed");
/// Longest body that is searched for the name of a model on a thread that serves others.
const SHORT: usize = 64 << 10;

/// Reads the body of a request, which must have one, within its bounds.
pub(crate) async fn read_body(app: &App, body: Body) -> Result<Held, Failure> {
    let held = app.bodies.read(body, app.options.limits.body).await?;
    if held.bytes.is_empty() {
        let message = "the body is empty: send a JSON object";
        return Err(Failure::new(StatusCode::BAD_REQUEST, "invalid_json", message));
    }
    Ok(held)
}

/// Reads a body that has names only.
pub(crate) async fn read_short_body(app: &App, body: Body) -> Result<Bytes, Failure> {
    Ok(app.bodies.read(body, app.options.limits.body.min(SHORT)).await?.bytes)
}

/// The model that a body names.
pub(crate) async fn model_of(body: &Bytes) -> Option<String> {
    if body.len() <= SHORT {
        return api::model_of(body);
    }
    let body = body.clone();
    tokio::task::spawn_blocking(move || api::model_of(&body)).await.ok().flatten()
}

/// Answers a request for texts.
pub(crate) async fn answer(
    app: Arc<App>,
    route: Route,
    record: Record,
    request: Request<Body>,
) -> Result<Response, Failure> {
    let mut body = read_body(&app, request.into_body()).await?;
    if app.options.log_prompts {
        record.prompt(&body.bytes);
    }
    let model = model_of(&body.bytes).await;
    if body.bytes.len() <= SHORT
        && let Some(unload) = Unload::of(route, &body.bytes)?
    {
        return unloaded(&app, &record, model.as_deref(), unload).await;
    }
    let asked = Instant::now();
    let lease = app.registry.acquire(model.as_deref()).await?;
    record.model(&lease.service.id);
    let load = asked.elapsed();
    if load >= AT_ONCE {
        record.loaded_in(load);
    }
    if route.counts() {
        return crate::utilities::count_tokens(&app, route, lease, body).await;
    }
    // Before any work is done for it.
    let ticket = lease.admission.admit()?;
    app.bodies.admit(&mut body).await?;
    let read = tokio::task::spawn_blocking(move || {
        let call = api::accept(&lease.service, route, &body.bytes)?;
        let requests: Result<Vec<engine::Request>, Refusal> =
            call.choices.into_iter().map(api::Prepared::finish).collect();
        // Model, place and the memory of the body are held here too: the work goes on where the client has left.
        drop(body);
        Ok::<_, Refusal>((requests?, call.reply, lease, ticket))
    });
    let read = read.await.map_err(|_| bug("a panic while the request was read"))?;
    let (requests, mut reply, lease, mut ticket) = read?;
    reply.model_loaded_in(load);
    check_slots(&requests, &lease)?;
    let context = u64::from(lease.service.context);
    let tokens = |request: &engine::Request| {
        let prompt = request.prompt.len() as u64;
        prompt + request.options().limit.unwrap_or(context).min(context.saturating_sub(prompt))
    };
    ticket.grow(requests.len(), requests.iter().map(tokens).sum())?;
    ticket.wait().await?;
    let texts = Texts::submit(lease, ticket, requests, reply, record);
    let seed = texts.reply.seed();
    let mut response = match texts.reply.is_stream() {
        true => stream(&app, texts),
        false => texts.collect().await?,
    };
    response.headers_mut().insert(SEED, seed.into());
    Ok(response)
}

/// Refuses a sequence that the model does not have.
fn check_slots(requests: &[engine::Request], lease: &Lease) -> Result<(), Refusal> {
    let asked = requests.iter().find_map(|request| request.cache.seat);
    match asked.filter(|seat| seat.0 >= lease.sequences) {
        Some(seat) => {
            let message =
                format!("id_slot is {}, but the sequences are 0 to {}", seat.0, lease.sequences - 1);
            Err(Refusal::field("id_slot", message))
        }
        None => Ok(()),
    }
}

/// Unloads a model as ollama's clients ask for it, unless it is in use. One that is not loaded is not loaded for that.
async fn unloaded(
    app: &App,
    record: &Record,
    model: Option<&str>,
    unload: Unload,
) -> Result<Response, Failure> {
    let entry = app.registry.find(model)?;
    record.model(&entry.source.name);
    let is_unloaded = app.registry.unload(entry).await;
    let answer = unload.answer(&entry.source.name, is_unloaded);
    if !unload.is_stream() {
        return Ok(json(StatusCode::OK, &answer));
    }
    let mut response = Response::new(Body::from(bytes(&[Frame::Line(answer)])));
    let kind = HeaderValue::from_static(Framing::Ndjson.content_type());
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

fn bug(message: &str) -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
}

/// The texts of a request, and its answer in the making.
struct Texts {
    handles: Vec<Handle>,
    reply: Reply,
    /// Told when a handle has something to read.
    news: Arc<Notify>,
    record: Record,
    // In this order: the texts are dropped first, then their place, then what holds the model.
    _ticket: Ticket,
    _lease: Lease,
}

impl Texts {
    fn submit(
        lease: Lease,
        ticket: Ticket,
        requests: Vec<engine::Request>,
        reply: Reply,
        record: Record,
    ) -> Self {
        record.submitted();
        let news = Arc::new(Notify::new());
        let submit = |request| {
            let news = Arc::clone(&news);
            lease.engine.submit_with(request, Arc::new(move || news.notify_one()))
        };
        let handles = requests.into_iter().map(submit).collect();
        Self { handles, reply, news, record, _ticket: ticket, _lease: lease }
    }

    /// What the texts have come to since the last time, as pieces of the stream; at most some of it, then it is not the end.
    fn advance(&mut self, frames: &mut Vec<Frame>) -> bool {
        for (index, handle) in self.handles.iter_mut().enumerate() {
            while let Some(event) = handle.try_recv() {
                match &event {
                    Event::Progress(_) | Event::Scored(_) => {}
                    Event::Token(_) => self.record.token(),
                    Event::Done(completion) => self.record.completed(completion),
                    Event::Failed(_) => self.record.ended("error"),
                }
                frames.extend(self.reply.event(ChoiceIndex::new(index), event));
                if let Some(refusal) = self.reply.refusal() {
                    self.record.refused(refusal);
                }
                if frames.len() >= PIECES {
                    return false;
                }
            }
        }
        true
    }

    /// The answer in one piece.
    async fn collect(mut self) -> Result<Response, Failure> {
        let mut frames = Vec::new();
        loop {
            // An answer in one piece makes no frames.
            while !self.advance(&mut frames) {
                frames.clear();
            }
            if self.reply.is_complete() {
                break;
            }
            self.news.notified().await;
        }
        Ok(json(StatusCode::OK, &self.reply.body()?))
    }

    /// Sends the answer piece by piece. Ends when the connection is gone, too.
    async fn pump(self, to: mpsc::Sender<Bytes>, shutdown: Shutdown, silence: Duration) {
        // What is logged of the texts is noted before their stream ends.
        let mut texts = self;
        let mut frames = texts.reply.begin();
        let ending = shutdown.reached(Phase::Ending);
        let mut ending = std::pin::pin!(ending);
        loop {
            let all = texts.advance(&mut frames);
            let complete = texts.reply.is_complete();
            if complete {
                frames.extend(texts.reply.end());
            }
            if !frames.is_empty() && to.send(bytes(&frames)).await.is_err() {
                return texts.record.ended("cancelled");
            }
            frames.clear();
            if complete {
                return;
            }
            if !all {
                continue;
            }
            tokio::select! {
                () = texts.news.notified() => {}
                () = to.closed() => return texts.record.ended("cancelled"),
                () = sleep(silence) => {
                    if texts.reply.framing() == Framing::Sse {
                        frames.push(Frame::Ping);
                    }
                }
                () = &mut ending => {
                    let frames = texts.reply.fail(&Failure::draining().refusal);
                    texts.record.ended("shutdown");
                    drop(to.send(bytes(&frames)).await);
                    return;
                }
            }
        }
    }
}

impl Drop for Texts {
    fn drop(&mut self) {
        // What was used is told of a text that is ended by others, too.
        if !self.reply.is_complete() || self.reply.refusal().is_some() {
            self.record.used(self.reply.usage());
        }
    }
}

fn bytes(frames: &[Frame]) -> Bytes {
    let mut out = Vec::new();
    frames.iter().for_each(|frame| frame.write(&mut out));
    out.into()
}

/// The answer as a stream.
fn stream(app: &App, texts: Texts) -> Response {
    let (to, pieces) = mpsc::channel(PIECES);
    let kind = texts.reply.framing().content_type();
    tokio::spawn(texts.pump(to, app.shutdown.clone(), app.options.limits.ping));
    let mut response = Response::new(Body::new(Pieces(pieces)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx passes on every piece as it comes then.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// The body of a stream.
struct Pieces(mpsc::Receiver<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(http_body::Frame::data(piece))))
    }
}
