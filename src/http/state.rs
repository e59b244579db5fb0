//! What every request works with.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use crate::http::failure::Failure;
use crate::http::metrics::Metrics;
use crate::http::rate::Rates;
use crate::http::settings::DOCUMENTS;
use crate::http::zooms::Zooms;
use crate::http::{HttpError, HttpSettings};
use crate::journal::Desk;

#[derive(Clone)]
pub struct App {
    pub desk: Desk,
    pub settings: Arc<HttpSettings>,
    pub zooms: Arc<Zooms>,
    pub rates: Arc<Rates>,
    /// Of requests that are refused by name or token.
    pub refusals: Arc<Rates>,
    pub metrics: Arc<Metrics>,
    /// Permits: to stream, to hold the one large body.
    pub streams: Arc<Semaphore>,
    /// To hold a document that is being sent, a permit a KiB.
    pub documents: Arc<Semaphore>,
    pub large: Arc<Semaphore>,
    pub stop: watch::Receiver<bool>,
}

impl App {
    pub fn new(desk: Desk, settings: HttpSettings, stop: watch::Receiver<bool>) -> Result<Self, HttpError> {
        Ok(Self {
            zooms: Arc::new(Zooms::start(&settings)?),
            rates: Arc::new(Rates::new(settings.rate, settings.burst)),
            refusals: Arc::new(Rates::new(settings.rate, settings.burst)),
            metrics: Arc::new(Metrics::new()),
            streams: Arc::new(Semaphore::new(settings.streams)),
            documents: Arc::new(Semaphore::new(DOCUMENTS >> 10)),
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
