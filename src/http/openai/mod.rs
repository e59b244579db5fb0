//! The part of OpenAI's API that a question about a frame needs: models, and chat completions with pictures.
//!
//! # Why
//! Whatever speaks to a vision model today speaks this. What the daemon can't do (tools, several choices, a conversation) is refused by name rather than
//! left out: an answer to another question than the one that was asked is worse than none.

mod bounded;
mod picture;
mod reply;
mod request;

pub use picture::{Picture, picture};
pub use request::{Chat, Wish};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::time::{Duration, timeout};

use crate::http::body;
use crate::http::events::Events;
use crate::http::failure::Failure;
use crate::http::questions::key;
use crate::http::state::App;
use crate::journal::{Desk, FrameRef, Outcome, Progress};
use crate::units::QuestionId;

/// A question that is refused before any work, within so long, is refused by its status, not in the stream.
const EARLY: Duration = Duration::from_secs(1);

/// The name that requests call the model by: of `uhr-nano@0123abcd` what comes before its digest.
fn model_name(desk: &Desk) -> String {
    let status = desk.status();
    status.model.split('@').next().unwrap_or_default().to_owned()
}

fn model_document(name: &str) -> Value {
    json!({ "id": name, "object": "model", "created": 0, "owned_by": "uhr-edge" })
}

pub async fn models(State(app): State<App>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [model_document(&model_name(&app.desk))] }))
}

pub async fn model(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, Failure> {
    let name = model_name(&app.desk);
    if id == name { Ok(Json(model_document(&name))) } else { Err(no_model(&id, &name)) }
}

fn no_model(found: &str, wanted: &str) -> Failure {
    let found: String = found.chars().take(80).collect();
    Failure {
        param: Some("model"),
        ..Failure::new(StatusCode::NOT_FOUND, "model_not_found", format!("model: wanted {wanted:?}, found {found:?}"))
    }
}

pub async fn completions(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Response, Failure> {
    body::is_json(&headers)?;
    let held = body::read(&app, &headers, body, app.settings.max_body).await?;
    let key = key(&headers)?;
    // Parsing and decoding a large body takes longer than others should wait, and its memory is given back before the answer is waited for.
    let (id, wish) = app.blocking(move |desk| accept(desk, &held.bytes, key)).await??;
    let mut progress = app
        .blocking(move |desk| desk.follow(id))
        .await?
        .ok_or_else(|| Failure::broken(format!("question {id}: wanted what was just accepted, found nothing")))?;
    if wish.stream {
        let early = timeout(EARLY, progress.wait_for(|now| !matches!(now, Progress::Queued { .. }))).await;
        let early = early.ok().and_then(Result::ok).map(|now| now.clone());
        if let Some(Progress::Done(outcome)) = early
            && let Outcome::Refused { code, reason } = &*outcome
        {
            return Err(Failure::of_outcome(code, reason));
        }
        let (events, response) = Events::open(&app)?;
        tokio::spawn(reply::stream(events, progress, id, wish));
        return Ok(response);
    }
    let mut stop = app.stop.clone();
    let outcome = tokio::select! {
        done = progress.wait_for(|now| matches!(now, Progress::Done(_))) => match done.as_deref() {
            Ok(Progress::Done(outcome)) => outcome.clone(),
            _ => return Err(Failure::broken(format!("question {id}: wanted its outcome, found that it is not told any more"))),
        },
        _ = stop.wait_for(|stop| *stop) => {
            return Err(Failure::busy(format!("question {id} was accepted, but the daemon ends before it is answered: it will be when it is back (/api/answers/{id})")));
        }
    };
    match &*outcome {
        Outcome::Answered { document } => Ok(Json(reply::whole(id, &wish, document)).into_response()),
        Outcome::Refused { code, reason } => Err(Failure::of_outcome(code, reason)),
    }
}

/// From the body to a question that is on disk.
fn accept(desk: &Desk, bytes: &[u8], key: Option<String>) -> Result<(QuestionId, Wish), Failure> {
    let chat = Chat::parse(bytes)?;
    let name = model_name(desk);
    if chat.model() != name {
        return Err(no_model(chat.model(), &name));
    }
    let (mut asked, pictures, wish) = chat.question(name)?;
    asked.key = key;
    for picture in pictures {
        asked.frames.push(match picture {
            Picture::Frame(frame) => frame,
            Picture::Bytes(bytes) => FrameRef::Id(desk.bring(&bytes)?.id),
        });
    }
    Ok((desk.ask(asked)?, wish))
}
