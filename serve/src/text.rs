//! Requests for texts: read, taken or refused, made by the engine, answered in one piece or as a stream.
//!
//! Everything that may take its time (reading the body, templates, tokens, forms) is done on threads where that stops nobody. The
//! texts of a request belong to [`Texts`]; when that is dropped, because the answer has ended or its client has left, the engine
//! drops them within a step, whether they wait, read their prompt or decode.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, Request, StatusCode};
use axum::response::Response;
use bitnetc::api::{self, ChoiceIndex, Frame, Framing, Refusal, Reply, Route};
use bitnetc::engine::{self, Event, Handle};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use crate::admission::Ticket;
use crate::app::App;
use crate::bodies::{Held, SHORT};
use crate::failure::Failure;
use crate::log::Record;
use crate::registry::Lease;
use crate::shutdown::{Phase, Shutdown};

/// Pieces of a stream that wait for the connection to take them. Then the engine's channel fills, and then the text pauses.
const PIECES: usize = 16;

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

/// The model that a body names. A body that is no JSON is refused here, before a model is loaded for it.
pub(crate) async fn model_of(body: &Bytes) -> Result<Option<String>, Failure> {
    // A long one is looked at on a thread that serves nobody else.
    if body.len() <= SHORT {
        return Ok(api::model_of(body)?);
    }
    let body = body.clone();
    let name = tokio::task::spawn_blocking(move || api::model_of(&body)).await;
    Ok(name.map_err(|_| bug("a panic while the request was read"))??)
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
    let lease = app.registry.acquire(model_of(&body.bytes).await?.as_deref()).await?;
    record.model(&lease.service.id);
    if route == Route::CountTokens {
        return crate::utilities::count_tokens(&app, lease, body).await;
    }
    // Before any work is done for it.
    let ticket = lease.admission.admit()?;
    app.bodies.admit(&mut body, route).await?;
    // What is long keeps a processor busy for a while.
    let place = match body.bytes.len() > SHORT {
        true => Arc::clone(&app.computing).acquire_owned().await.ok(),
        false => None,
    };
    let read = tokio::task::spawn_blocking(move || {
        let (ticket, full) = (RefCell::new(ticket), RefCell::new(None));
        let reserve = |texts, tokens| {
            let grown = ticket.borrow_mut().grow(texts, tokens);
            grown.map_err(|failure| full.borrow_mut().insert(failure).refusal.clone())
        };
        let call = api::accept_within(&lease.service, route, &body.bytes, &reserve);
        // Model, place and the memory of the body are held here too: the work goes on where the client has left. What follows waits
        // for the form, and needs no more of the body.
        drop((body, place));
        let call = call.map_err(|refusal| full.take().unwrap_or_else(|| refusal.into()))?;
        let requests: Result<Vec<engine::Request>, Refusal> =
            call.choices.into_iter().map(api::Prepared::finish).collect();
        Ok::<_, Failure>((requests?, call.reply, lease, ticket.into_inner()))
    });
    let read = read.await.map_err(|_| bug("a panic while the request was read"))?;
    let (requests, reply, lease, mut ticket) = read?;
    if !requests.is_empty() {
        ticket.wait().await?;
    }
    let texts = Texts::submit(lease, ticket, requests, reply, record);
    match texts.reply.is_stream() {
        true => Ok(stream(&app, texts)),
        false => texts.collect(&app).await,
    }
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
                if frames.len() >= PIECES {
                    return false;
                }
            }
        }
        true
    }

    /// The answer in one piece.
    async fn collect(mut self, app: &Arc<App>) -> Result<Response, Failure> {
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
        // It may be long: it is made where that stops nobody.
        let app = Arc::clone(app);
        let made = tokio::task::spawn_blocking(move || app.bodies.answer(&self.reply.into_body()?));
        Ok(made.await.map_err(|_| bug("a panic while the answer was made"))??.response())
    }

    /// Sends the answer piece by piece. Ends when the connection is gone, too.
    async fn pump(mut self, to: mpsc::Sender<Bytes>, shutdown: Shutdown, silence: Duration) {
        let mut frames = self.reply.begin();
        let ending = shutdown.reached(Phase::Ending);
        let mut ending = std::pin::pin!(ending);
        loop {
            let all = self.advance(&mut frames);
            let complete = self.reply.is_complete();
            if complete {
                frames.extend(self.reply.end());
            }
            if !frames.is_empty() && to.send(bytes(&frames)).await.is_err() {
                return self.record.ended("cancelled");
            }
            frames.clear();
            if complete {
                return;
            }
            if !all {
                continue;
            }
            tokio::select! {
                () = self.news.notified() => {}
                () = to.closed() => return self.record.ended("cancelled"),
                () = sleep(silence) => {
                    if self.reply.framing() == Framing::Sse {
                        frames.push(Frame::Ping);
                    }
                }
                () = &mut ending => {
                    let frames = self.reply.fail(&Failure::draining().refusal);
                    self.record.ended("shutdown");
                    drop(to.send(bytes(&frames)).await);
                    return;
                }
            }
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
