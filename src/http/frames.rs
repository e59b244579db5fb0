//! Frames, their thumbnails and their tiles.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Duration, timeout};

use crate::http::body;
use crate::http::failure::Failure;
use crate::http::state::App;
use crate::http::zooms::{NoThumbnail, ZoomState};
use crate::imaging::TILE;
use crate::journal::FrameEntry;
use crate::units::{FrameId, FrameNumber};

/// Most entries of a list.
pub const MOST: usize = 200;
/// A thumbnail is waited for.
const THUMBNAIL: Duration = Duration::from_secs(60);
/// Tiles of an id never change: it is the digest of the file.
const FOR_EVER: &str = "private, max-age=31536000, immutable";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    limit: Option<usize>,
    before: Option<u64>,
}

/// The query of a list, or what is wrong with it.
pub fn query<T>(query: Result<Query<T>, axum::extract::rejection::QueryRejection>) -> Result<T, Failure> {
    query
        .map(|Query(query)| query)
        .map_err(|error| Failure::bad("query", format!("query: wanted what docs/http.md has, found: {}", error.body_text())))
}

/// How many of a list: 50 where nothing is said.
pub fn limit(wanted: Option<usize>) -> Result<usize, Failure> {
    match wanted.unwrap_or(50) {
        found @ 1..=MOST => Ok(found),
        found => Err(Failure::bad("limit", format!("limit: wanted 1 to {MOST}, found {found}"))),
    }
}

fn id(text: &str) -> Result<FrameId, Failure> {
    text.parse().map_err(|_| Failure::none("frame: wanted an id of 16 hexadecimal digits, found something else"))
}

async fn entry(app: &App, text: &str) -> Result<FrameEntry, Failure> {
    let id = id(text)?;
    let found = app.blocking(move |desk| desk.frame(&id)).await??;
    found.ok_or_else(|| Failure::none(format!("frame: wanted one that the daemon has taken in, found none of id {id}")))
}

pub async fn list(
    State(app): State<App>,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Failure> {
    let page = query(page)?;
    let limit = limit(page.limit)?;
    let frames = app.blocking(move |desk| desk.frames(limit, page.before.map(FrameNumber))).await??;
    Ok(Json(json!({ "frames": frames })))
}

/// Takes in a picture that is sent as it is.
pub async fn bring(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Response, Failure> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("image/")) {
        let found: String = kind.chars().take(80).collect();
        let message = format!("content-type: wanted that of a picture (image/…), found {found:?}");
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type", message));
    }
    let held = body::read(&app, &headers, body, app.settings.max_picture).await?;
    let entry = app.blocking(move |desk| desk.bring(&held.bytes)).await??;
    Ok((StatusCode::CREATED, [(header::LOCATION, format!("/api/frames/{}", entry.id))], Json(entry)).into_response())
}

pub async fn one(State(app): State<App>, Path(text): Path<String>) -> Result<Json<FrameEntry>, Failure> {
    Ok(Json(entry(&app, &text).await?))
}

fn jpeg(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "image/jpeg"), (header::CACHE_CONTROL, FOR_EVER)], bytes).into_response()
}

pub async fn thumbnail(State(app): State<App>, Path(text): Path<String>) -> Result<Response, Failure> {
    let frame = entry(&app, &text).await?;
    let zooms = std::sync::Arc::clone(&app.zooms);
    let id = frame.id;
    let kept = app
        .blocking(move |_| {
            zooms.kept_thumbnail(id).or_else(|| match zooms.state(id) {
                ZoomState::Ready(pack) => pack.tile(0, 0, 0).ok().flatten(),
                _ => None,
            })
        })
        .await?;
    if let Some(bytes) = kept {
        return Ok(jpeg(bytes));
    }
    match timeout(THUMBNAIL, app.zooms.make_thumbnail(&frame)).await {
        Ok(Ok(Ok(bytes))) => Ok(jpeg(bytes)),
        Ok(Ok(Err(NoThumbnail::Failed(reason)))) => Err(Failure::new(StatusCode::NOT_FOUND, "no-picture", reason)),
        _ => Err(Failure::busy("thumbnail: wanted the one that makes them to be free, found it busy with others")),
    }
}

pub async fn prepare(State(app): State<App>, Path(text): Path<String>) -> Result<Response, Failure> {
    let frame = entry(&app, &text).await?;
    let zooms = std::sync::Arc::clone(&app.zooms);
    let id = frame.id;
    if !app.blocking(move |_| zooms.prepare(&frame)).await? {
        return Err(Failure::busy("tiles: wanted a place in the queue of frames, found all taken"));
    }
    Ok((StatusCode::ACCEPTED, Json(state(&app, id).await?)).into_response())
}

pub async fn zoom(State(app): State<App>, Path(text): Path<String>) -> Result<Json<Value>, Failure> {
    let frame = entry(&app, &text).await?;
    Ok(Json(state(&app, frame.id).await?))
}

async fn state(app: &App, id: FrameId) -> Result<Value, Failure> {
    let zooms = std::sync::Arc::clone(&app.zooms);
    Ok(match app.blocking(move |_| zooms.state(id)).await? {
        ZoomState::Absent => json!({ "state": "absent" }),
        ZoomState::Preparing { share } => json!({ "state": "preparing", "share": share }),
        ZoomState::Failed { reason } => json!({ "state": "failed", "reason": reason }),
        ZoomState::Ready(pack) => {
            let (w, h) = pack.size();
            let levels = pack.shape().levels();
            json!({ "state": "ready", "w": w, "h": h, "tile": TILE, "levels": levels, "prepared_ms": pack.prepared().as_millis() as u64 })
        }
    })
}

pub async fn tile(State(app): State<App>, Path((text, level, place)): Path<(String, String, String)>) -> Result<Response, Failure> {
    let frame = id(&text)?;
    let place = place.strip_suffix(".jpg").and_then(|place| place.split_once('_'));
    let number = |text: &str| text.parse::<usize>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let place = place.and_then(|(x, y)| Some((number(&level)?, number(x)?, number(y)?)));
    let Some((level, x, y)) = place else { return Err(Failure::none("tile: wanted LEVEL/X_Y.jpg, found something else")) };
    let zooms = std::sync::Arc::clone(&app.zooms);
    let found = app
        .blocking(move |_| match zooms.state(frame) {
            ZoomState::Ready(pack) => pack.tile(level, x, y).map_err(|error| Failure::broken(error.to_string())),
            _ => Err(Failure::none("tiles: wanted them prepared (POST …/zoom), found that they aren't")),
        })
        .await??;
    found.map(jpeg).ok_or_else(|| Failure::none(format!("tile: wanted one that the frame has, found level {level}, column {x}, row {y}")))
}
