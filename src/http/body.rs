//! A request's body, read in bounded memory and bounded time.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::http::failure::Failure;
use crate::http::settings::SMALL_BODY;
use crate::http::state::App;
use crate::units::Bytes;

/// For a whole body, however patiently its parts come.
const WHOLE: Duration = Duration::from_secs(120);
/// A peer that sends too much is listened to for as long, so that it hears why it is refused.
const DRAIN: Duration = Duration::from_secs(5);

/// A body and its share of the memory for bodies.
pub struct Held {
    pub bytes: Vec<u8>,
    _permits: Vec<OwnedSemaphorePermit>,
}

/// Reads a body of at most `most`. More than a small one is read one at a time.
pub async fn read(app: &App, headers: &HeaderMap, mut body: Body, most: Bytes) -> Result<Held, Failure> {
    let patience = app.settings.patience;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
    let large = |found: u64, more: &str| {
        let message = format!("body: wanted at most {}, found {}{more}", most, Bytes(found));
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", message)
    };
    if let Some(found) = announced.filter(|found| *found > most.0) {
        drain(&mut body, headers).await;
        return Err(large(found, ""));
    }
    let mut permits = vec![permit(&app.small, patience).await?];
    // The length that was announced may be a lie: room grows with what comes, up to one doubling too much.
    let mut bytes = Vec::with_capacity(usize::try_from(announced.unwrap_or(0)).unwrap_or(0).min(SMALL_BODY));
    let end = Instant::now() + WHOLE;
    loop {
        let frame = timeout_at(end, timeout(patience, next(&mut body))).await;
        let Ok(Ok(frame)) = frame else {
            let message = format!("body: wanted its next part within {} s and all within {} s", patience.as_secs(), WHOLE.as_secs());
            return Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "slow-body", message));
        };
        let Some(part) = frame? else { break };
        let after = bytes.len() + part.len();
        if after as u64 > most.0 {
            bytes = Vec::new();
            drop(bytes);
            drain(&mut body, headers).await;
            return Err(large(after as u64, " or more"));
        }
        if after > SMALL_BODY && permits.len() == 1 {
            permits.push(permit(&app.large, WHOLE).await?);
            // All of it at once where the length is known: a doubling would hold it twice.
            let all = usize::try_from(announced.unwrap_or(0)).unwrap_or(0);
            bytes.reserve_exact(all.saturating_sub(bytes.len()));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(Held { bytes, _permits: permits })
}

/// Refuses a body that doesn't say that it is JSON: a form of another site's page can't say so.
pub fn is_json(headers: &HeaderMap) -> Result<(), Failure> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let found: String = kind.chars().take(80).collect();
    let message = format!("content-type: wanted application/json, found {found:?}");
    Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type", message))
}

/// What serde says of a document, which is what was wanted and where.
pub fn malformed(error: &serde_json::Error) -> Failure {
    Failure::bad("body", format!("body: wanted a JSON document as the API has it, found: {error}"))
}

async fn next(body: &mut Body) -> Result<Option<axum::body::Bytes>, Failure> {
    loop {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await;
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                // Trailers.
                Err(_) => continue,
            },
            Some(Err(error)) => return Err(Failure::bad("body", format!("body: wanted all of it, found that it broke off: {error}"))),
        }
    }
}

/// Reads on for a while without keeping anything. Who asked whether to send it at all wasn't told to.
async fn drain(body: &mut Body, headers: &HeaderMap) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let _ = timeout(DRAIN, async { while let Ok(Some(_)) = next(body).await {} }).await;
}

async fn permit(semaphore: &std::sync::Arc<Semaphore>, patience: Duration) -> Result<OwnedSemaphorePermit, Failure> {
    match timeout(patience, std::sync::Arc::clone(semaphore).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Failure::busy(format!("body: wanted room for it within {} s, found others' bodies still coming", patience.as_secs()))),
    }
}
