//! The memory of request bodies, bounded for the whole server regardless of the number of clients.
//!
//! There are two budgets. A body that is being read counts with the bytes that have arrived, so a client that announces a long body
//! and sends little occupies little. A body that is being parsed counts with [`PARSED`] times its size, because values in memory are
//! larger than their JSON. No body waits for the first budget while it holds a part of the second, so there is no deadlock; each
//! wait lasts at most [`Limits::read_timeout`](crate::Limits).

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::failure::Failure;
use crate::options::Limits;

/// Bytes of values in memory for a byte of JSON, at most: a list of digits (`[1,1,…`).
pub(crate) const PARSED: usize = 16;
/// Bytes that a byte of JSON takes at most while all of its text becomes tokens (`serve/tests/leaks.rs` measures it).
pub(crate) const TOKENIZED: usize = 48;
/// Bytes of a permit.
const UNIT: usize = 1 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Bodies {
    read: Arc<Semaphore>,
    parsed: Arc<Semaphore>,
    /// Permits of each.
    units: usize,
    /// How long a body is waited for, and room for it.
    patience: Duration,
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
}

impl Bodies {
    /// The budgets of a server with these limits.
    pub(crate) fn new(limits: &Limits) -> Self {
        let units = limits.bodies.max(limits.body).div_ceil(UNIT).min(u32::MAX as usize);
        let budget = || Arc::new(Semaphore::new(units));
        Self { read: budget(), parsed: budget(), units, patience: limits.read_timeout }
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
        let mut held = 0;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.map_err(|_| Trouble::Incomplete)?;
            let Ok(part) = frame.into_data() else { continue };
            if part.len() > most - bytes.len() {
                return Err(Trouble::TooLong);
            }
            let units = (bytes.len() + part.len()).div_ceil(UNIT);
            if units > held {
                *waits = true;
                permits.extend(self.acquire(&self.read, units - held).await);
                *waits = false;
                held = units;
            }
            bytes.extend_from_slice(&part);
        }
        Ok(Held { bytes: bytes.into(), permits: merged(permits) })
    }

    /// The budgets are never closed, so that there is a permit once there is room.
    async fn acquire(&self, of: &Arc<Semaphore>, units: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(of).acquire_many_owned(units.min(self.units) as u32).await.ok()
    }

    /// Waits for the room to parse a body, which then takes `times` its size.
    pub(crate) async fn admit(&self, held: &mut Held, times: usize) -> Result<(), Failure> {
        let units = held.bytes.len().saturating_mul(times).div_ceil(UNIT);
        let permit = timeout(self.patience, self.acquire(&self.parsed, units)).await;
        held.permits.extend(permit.map_err(|_| no_room())?);
        Ok(())
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

    #[tokio::test]
    async fn bodies_share_a_budget() {
        const BUDGET: usize = 64 << 20;
        let patience = Duration::from_millis(500);
        let bodies = Bodies::new(&Limits {
            body: 1 << 20,
            bodies: BUDGET,
            read_timeout: patience,
            ..Limits::default()
        });
        let body = || Body::from(vec![b'1'; 1 << 20]);
        let status = |result: Result<Held, Failure>| result.map_or_else(|why| why.refusal.status, |_| 200);
        let mut all = Vec::new();
        for _ in 0..BUDGET >> 20 {
            all.push(bodies.read(body(), 1 << 20).await.unwrap());
        }
        assert_eq!(status(bodies.read(body(), 1 << 20).await), 503);
        // A body that is too long needs no room to be refused.
        assert_eq!(status(bodies.read(body(), 1 << 10).await), 413);
        for held in all.iter_mut().take((BUDGET / PARSED) >> 20) {
            bodies.admit(held, PARSED).await.unwrap();
        }
        let refused = bodies.admit(all.last_mut().unwrap(), PARSED).await.unwrap_err();
        assert_eq!(refused.refusal.code, "bodies_full");
        all.remove(0);
        bodies.admit(all.last_mut().unwrap(), PARSED).await.unwrap();
        assert_eq!(status(bodies.read(body(), 1 << 20).await), 200);
    }
}
