//! Questions and answers in the daemon's own words.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::body;
use crate::http::failure::Failure;
use crate::http::frames::{limit, query};
use crate::http::held;
use crate::http::settings::SMALL_BODY;
use crate::http::state::App;
use crate::journal::{Asked, Filter, FrameRef, Origin, Outcome, Priority, QuestionEntry, Status};
use crate::units::{Bytes, Millis, QuestionId, Tiles, Tokens};

/// The longest key of a question that may be sent again.
const KEY: usize = 128;

/// A question as it comes by HTTP.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    text: String,
    /// Ids, or `newest`.
    frames: Vec<String>,
    budget: Option<String>,
    encode_tiles: Option<u32>,
    max_new: Option<u32>,
    deadline_ms: Option<f64>,
    seed: Option<u64>,
    #[serde(default)]
    priority: Priority,
}

/// What `frame` names.
///
/// # Errors
/// Neither an id nor `newest`.
pub fn frame_ref(frame: &str) -> Result<FrameRef, Failure> {
    match frame {
        "newest" => Ok(FrameRef::Newest),
        id => id.parse().map(FrameRef::Id).map_err(|_| {
            let found: String = id.chars().take(40).collect();
            Failure::bad("frames", format!("frame: wanted an id of 16 hexadecimal digits or \"newest\", found {found:?}"))
        }),
    }
}

/// A deadline that can be one.
///
/// # Errors
/// Not a positive number of milliseconds.
pub fn deadline(ms: Option<f64>) -> Result<Option<Millis>, Failure> {
    match ms {
        Some(found) if !found.is_finite() || found <= 0.0 => {
            Err(Failure::bad("deadline_ms", format!("deadline_ms: wanted a number above 0, found {found}")))
        }
        ms => Ok(ms.map(Millis)),
    }
}

impl Ask {
    /// Reads a body.
    ///
    /// # Errors
    /// What is no JSON, or not of this shape.
    pub fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        body::parse(bytes)
    }

    /// For the desk.
    ///
    /// # Errors
    /// A frame or a deadline that can't be one. What depends on the journal and the profile is the desk's to refuse.
    pub fn asked(self, key: Option<String>) -> Result<Asked, Failure> {
        let frames = self.frames.iter().map(|frame| frame_ref(frame)).collect::<Result<_, _>>()?;
        let mut asked = Asked::new(self.text, frames, Origin::Http);
        asked.budget = self.budget;
        asked.encode_tiles = self.encode_tiles.map(Tiles);
        asked.max_new = self.max_new.map(Tokens);
        asked.deadline = deadline(self.deadline_ms)?;
        asked.seed = self.seed;
        asked.priority = self.priority;
        asked.key = key;
        Ok(asked)
    }
}

/// The key by which a question that is sent again is the same one.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        // Each door has keys of its own: nobody asks here under another one's.
        Ok(key) if (1..=KEY).contains(&key.len()) => Ok(Some(format!("http:{key}"))),
        _ => Err(Failure::bad("idempotency-key", format!("idempotency-key: wanted 1 to {KEY} visible ASCII characters, found others"))),
    }
}

pub fn id(text: &str) -> Result<QuestionId, Failure> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let found = digits.then(|| text.parse().ok()).flatten();
    found.ok_or_else(|| Failure::none("question: wanted an id, which is a number, found something else"))
}

async fn entry(app: &App, text: &str) -> Result<QuestionEntry, Failure> {
    let id = id(text)?;
    let found = app.blocking(move |desk| desk.question(id)).await??;
    found.ok_or_else(|| Failure::none(format!("question: wanted one that was asked, found none of id {id}")))
}

pub async fn status(State(app): State<App>) -> Json<Status> {
    Json(app.desk.status().as_ref().clone())
}

pub async fn ask(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Response, Failure> {
    body::is_json(&headers)?;
    let held = body::read(&app, &headers, body, Bytes(SMALL_BODY as u64)).await?;
    let asked = Ask::parse(&held.bytes)?.asked(key(&headers)?)?;
    let id = app.blocking(move |desk| desk.ask(asked)).await??;
    let place = [(header::LOCATION, format!("/api/questions/{id}"))];
    Ok((StatusCode::ACCEPTED, place, Json(json!({ "id": id }))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    q: Option<String>,
    frame: Option<String>,
    limit: Option<usize>,
    before: Option<u64>,
}

pub async fn list(
    State(app): State<App>,
    search: Result<Query<Search>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Failure> {
    let Search { q, frame, limit: most, before } = query(search)?;
    let frame = match frame.as_deref().map(frame_ref).transpose()? {
        None => None,
        Some(FrameRef::Id(id)) => Some(id),
        Some(FrameRef::Newest) => return Err(Failure::bad("frame", "frame: wanted an id, found \"newest\"")),
    };
    let filter = Filter { search: q.filter(|text| !text.is_empty()), frame, before: before.map(QuestionId), limit: limit(most)? };
    let found = app.blocking(move |desk| desk.questions(&filter)).await??;
    Ok(Json(json!({ "questions": found.iter().map(brief).collect::<Vec<_>>() })))
}

/// An entry of a list: the answer's text in the place of its document.
fn brief(entry: &QuestionEntry) -> Value {
    let answer = match &entry.outcome {
        Some(Outcome::Answered { document }) => {
            json!({ "answer": document["text"], "finish": document["finish"], "total_ms": document["receipt"]["stages_ms"]["total"] })
        }
        Some(Outcome::Refused { code, reason }) => json!({ "code": code, "reason": reason }),
        None => Value::Null,
    };
    json!({
        "id": entry.id, "text": entry.text, "frames": entry.frames, "state": entry.state, "budget": entry.budget, "deadline_ms": entry.deadline_ms,
        "origin": entry.origin, "priority": entry.priority, "accepted_at": entry.accepted_at, "done_at": entry.done_at, "outcome": answer,
        "looked": entry.looked,
    })
}

pub async fn one(State(app): State<App>, Path(text): Path<String>) -> Result<Json<QuestionEntry>, Failure> {
    Ok(Json(entry(&app, &text).await?))
}

pub async fn answer(State(app): State<App>, Path(text): Path<String>) -> Result<Response, Failure> {
    let entry = entry(&app, &text).await?;
    match entry.outcome {
        None => Ok((StatusCode::ACCEPTED, Json(json!({ "state": "open" }))).into_response()),
        Some(Outcome::Answered { document }) => Ok(Json(document).into_response()),
        Some(Outcome::Refused { code, reason }) => Err(Failure::of_outcome(&code, &reason)),
    }
}

pub async fn looked(State(app): State<App>, Path(text): Path<String>) -> Result<Response, Failure> {
    let id = entry(&app, &text).await?.id;
    let text = async {
        app.blocking(move |desk| desk.looked(id)).await??.ok_or_else(|| {
            Failure::none(format!(
                "layers: wanted those of question {id}, found none: not answered, or so long ago that they were given up"
            ))
        })
    };
    held::json(&app, text, app.settings.patience).await
}
