//! A body of an answer, and what lives as long as it does.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};

/// The same body, which owns `guest`: it is dropped when the body is complete, or when the client has left.
pub(crate) fn with_guest(body: Body, guest: impl Send + Unpin + 'static) -> Body {
    Body::new(WithGuest { body, _guest: guest })
}

struct WithGuest<T> {
    body: Body,
    _guest: T,
}

impl<T: Unpin> HttpBody for WithGuest<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
