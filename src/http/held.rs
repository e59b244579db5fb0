//! A large document that is being sent, in parts, with its share of the memory for documents.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::http::failure::Failure;
use crate::http::settings::DOCUMENTS;
use crate::http::state::App;

/// What is handed to a connection at once.
const PART: usize = 32 << 10;

struct Held {
    left: Bytes,
    _permit: OwnedSemaphorePermit,
}

/// `text`, a JSON document, once there is room for it.
///
/// # Errors
/// No room within `patience`: other documents are being read too slowly.
pub async fn json(app: &App, text: impl Future<Output = Result<String, Failure>>, patience: Duration) -> Result<Response, Failure> {
    // Room for the largest there can be is taken first, and what isn't needed given back.
    let most = u32::try_from(DOCUMENTS >> 12).unwrap_or(u32::MAX);
    let permit = timeout(patience, std::sync::Arc::clone(&app.documents).acquire_many_owned(most)).await;
    let Ok(Ok(mut permit)) = permit else {
        return Err(Failure::busy(format!(
            "documents: wanted room for one within {} s, found others still being read",
            patience.as_secs()
        )));
    };
    let text = text.await?;
    let spare = permit.num_permits().saturating_sub(text.len().div_ceil(1 << 10));
    drop(permit.split(spare));
    let body = Held { left: Bytes::from(text), _permit: permit };
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::new(body)).into_response())
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let part = PART.min(self.left.len());
        // A copy: the whole is let go of when its last part was taken.
        let part = Bytes::copy_from_slice(&self.left.split_to(part));
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
