//! What every request works with.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use crate::http::failure::Failure;
use crate::http::metrics::Metrics;
use crate::http::rate::Rates;
use crate::http::zooms::Zooms;
use crate::http::{HttpError, HttpSettings};
use crate::journal::Desk;

/// Small bodies read at once.
const SMALL_BODIES: usize = 32;

#[derive(Clone)]
pub struct App {
    pub desk: Desk,
    pub settings: Arc<HttpSettings>,
    pub zooms: Arc<Zooms>,
    pub rates: Arc<Rates>,
    pub metrics: Arc<Metrics>,
    /// Permits: to stream, to hold a small body, to hold the one large body.
    pub streams: Arc<Semaphore>,
    pub small: Arc<Semaphore>,
    pub large: Arc<Semaphore>,
    pub stop: watch::Receiver<bool>,
}

impl App {
    pub fn new(desk: Desk, settings: HttpSettings, stop: watch::Receiver<bool>) -> Result<Self, HttpError> {
        Ok(Self {
            zooms: Arc::new(Zooms::start(&settings)?),
            rates: Arc::new(Rates::new(settings.rate, settings.burst)),
            metrics: Arc::new(Metrics::new()),
            streams: Arc::new(Semaphore::new(settings.streams)),
            small: Arc::new(Semaphore::new(SMALL_BODIES)),
            large: Arc::new(Semaphore::new(1)),
            settings: Arc::new(settings),
            desk,
            stop,
        })
    }

    /// Runs what waits for a disk on a thread that may wait.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Desk) -> T + Send + 'static) -> Result<T, Failure> {
        let desk = self.desk.clone();
        tokio::task::spawn_blocking(move || work(&desk)).await.map_err(|_| Failure::broken("a worker ended before its time"))
    }
}
