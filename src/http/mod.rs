//! Questions, frames and answers over HTTP: an API that OpenAI's clients speak, one of the daemon's own, the page, metrics.
//!
//! [`serve`] runs on its own thread and its own runtime; what the desk does on disk runs on the runtime's blocking threads, never on the pipeline's.
//!
//! # Why
//! A frame is megabytes, a peer may be slow, gone or hostile, and the daemon's memory is planned. So every buffer has a bound ([`http_bytes`]), every wait an
//! end, and a request that goes beyond either is refused with what was wanted and what there was.

mod assets;
mod body;
mod events;
mod failure;
mod frames;
mod guard;
mod listen;
mod metrics;
pub mod openai;
mod patient;
mod questions;
mod rate;
mod settings;
mod state;
mod zooms;

pub use listen::{Bound, bind};
pub use questions::Ask;
pub use settings::{HttpSettings, Token, http_bytes};

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::Router;
use axum::routing::{get, post};
use tokio::sync::watch;

use crate::imaging::ZoomError;
use crate::journal::Desk;
use state::App;

/// Why the server doesn't start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("http {address}: cannot listen: {source}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("http {address}: wanted a token file, for others than this machine can reach it, found none")]
    Open { address: SocketAddr },
    #[error("{path}: wanted a token file that only its owner can read (mode 0600 or less), found mode {mode:04o}")]
    Mode { path: PathBuf, mode: u32 },
    #[error("{path}: wanted a token of {least} to {most} visible ASCII characters, found {found}")]
    Token { path: PathBuf, least: usize, most: usize, found: String },
    #[error("{path}: cannot be read: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("http: a runtime of its own: {0}")]
    Runtime(std::io::Error),
    #[error("http: tiles for the viewer: {0}")]
    Zoom(#[from] ZoomError),
}

/// Listens and answers until `stop` turns true or its sender is gone; connections have two seconds then to end what they are at.
///
/// # Errors
/// An address that can't be listened on, or must not be without a token; a folder for tiles that can't be written.
pub fn serve(desk: Desk, settings: HttpSettings, stop: watch::Receiver<bool>) -> Result<(), HttpError> {
    bind(settings)?.run(desk, stop)
}

/// All routes. Whatever they are reached through has passed the guard.
fn router(app: App) -> Router {
    Router::new()
        .route("/", get(assets::index))
        .route("/page/{file}", get(assets::file))
        .route("/healthz", get(assets::healthz))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{*id}", get(openai::model))
        .route("/v1/chat/completions", post(openai::completions))
        .route("/api/status", get(questions::status))
        .route("/api/frames", get(frames::list).post(frames::bring))
        .route("/api/frames/{id}", get(frames::one))
        .route("/api/frames/{id}/thumbnail.jpg", get(frames::thumbnail))
        .route("/api/frames/{id}/zoom", get(frames::zoom).post(frames::prepare))
        .route("/api/frames/{id}/tiles/{level}/{place}", get(frames::tile))
        .route("/api/questions", get(questions::list).post(questions::ask))
        .route("/api/questions/{id}", get(questions::one))
        .route("/api/questions/{id}/events", get(events::events))
        .route("/api/answers/{id}", get(questions::answer))
        .route("/api/answers/{id}/looked", get(questions::looked))
        .fallback(failure::no_route)
        .method_not_allowed_fallback(failure::no_method)
        .layer(axum::middleware::from_fn_with_state(app.clone(), guard::guard))
        .with_state(app)
}
