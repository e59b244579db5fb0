//! Server-sent events of a question: how things stand at once, then every change. Who comes back finds the text so far.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Sender};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::http::failure::Failure;
use crate::http::questions::id;
use crate::http::state::App;
use crate::journal::Progress;

/// A comment is sent when nothing else was for so long: proxies and clients close what is silent.
const QUIET: Duration = Duration::from_secs(15);
/// Between two changes: a screen shows no more.
const STEP: Duration = Duration::from_millis(40);
/// Events that wait for a slow reader.
const AHEAD: usize = 4;

/// A stream of events, one of a bounded number.
pub struct Events {
    to: Sender<Result<Bytes, Infallible>>,
    stop: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

/// The reader is gone, or the server ends.
pub struct Gone;

impl Events {
    /// A stream, and the response that carries it.
    pub fn open(app: &App) -> Result<(Self, Response), Failure> {
        let Ok(permit) = Arc::clone(&app.streams).try_acquire_owned() else {
            return Err(Failure::busy(format!("streams: wanted one of {}, found all taken", app.settings.streams)));
        };
        let (to, from) = mpsc::channel(AHEAD);
        let kind = [(header::CONTENT_TYPE, "text/event-stream")];
        let response = (kind, Body::from_stream(ReceiverStream::new(from))).into_response();
        Ok((Self { to, stop: app.stop.clone(), _permit: permit }, response))
    }

    async fn raw(&self, text: String) -> Result<(), Gone> {
        self.to.send(Ok(Bytes::from(text))).await.map_err(|_| Gone)
    }

    /// An event; JSON has no line breaks of its own.
    pub async fn event(&self, name: &str, data: &Value) -> Result<(), Gone> {
        self.raw(format!("event: {name}\ndata: {data}\n\n")).await
    }

    /// An event without a name, as OpenAI's clients read them.
    pub async fn data(&self, data: &str) -> Result<(), Gone> {
        self.raw(format!("data: {data}\n\n")).await
    }

    /// Waits for the next change of `progress`, and says now and then that the stream lives.
    pub async fn changed(&mut self, progress: &mut watch::Receiver<Progress>) -> Result<(), Gone> {
        tokio::time::sleep(STEP).await;
        loop {
            tokio::select! {
                changed = progress.changed() => return changed.map_err(|_| Gone),
                () = self.to.closed() => return Err(Gone),
                _ = self.stop.wait_for(|stop| *stop) => return Err(Gone),
                () = tokio::time::sleep(QUIET) => {}
            }
            self.raw(": \n\n".into()).await?;
        }
    }
}

pub async fn events(State(app): State<App>, Path(text): Path<String>) -> Result<Response, Failure> {
    let id = id(&text)?;
    let followed = app.blocking(move |desk| desk.follow(id)).await?;
    let mut progress = followed.ok_or_else(|| Failure::none(format!("question: wanted one that was asked, found none of id {id}")))?;
    let (mut events, response) = Events::open(&app)?;
    tokio::spawn(async move {
        let _ = tell(&mut events, &mut progress).await;
    });
    Ok(response)
}

async fn tell(events: &mut Events, progress: &mut watch::Receiver<Progress>) -> Result<(), Gone> {
    let mut told = String::new();
    loop {
        let now = progress.borrow_and_update().clone();
        match now {
            Progress::Queued { ahead } => events.event("progress", &json!({ "state": "queued", "ahead": ahead })).await?,
            Progress::Working { stage, share, text } => {
                events.event("progress", &json!({ "state": "working", "stage": stage, "share": share })).await?;
                if text != told {
                    events.event("text", &json!({ "text": text })).await?;
                    told = text;
                }
            }
            Progress::Done(outcome) => {
                let document = serde_json::to_value(&*outcome).unwrap_or_default();
                return events.event("done", &document).await;
            }
        }
        events.changed(progress).await?;
    }
}
