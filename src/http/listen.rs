//! Connections: accepted, counted, and given up when there are too many.
//!
//! # Why
//! A thousand connections that say nothing must not keep the pilot's out. When all places are taken, the one that has waited longest for its next request
//! gives way; only where every place is at work is the newcomer told so.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};
use tower::ServiceExt;

use crate::http::patient::Patient;
use crate::http::state::App;
use crate::http::{HttpError, HttpSettings, metrics, router};
use crate::journal::Desk;

/// Buffer of a request's head: also the longest head.
const HEAD: usize = 16 << 10;
/// Headers of a request.
const HEADERS: usize = 64;
/// For connections to end what they are at when the server ends.
const GRACE: Duration = Duration::from_secs(2);

/// Who a request comes from.
#[derive(Clone, Copy)]
pub struct Peer(pub IpAddr);

/// A server that listens and doesn't answer yet.
pub struct Bound {
    runtime: Runtime,
    listener: TcpListener,
    address: SocketAddr,
    settings: HttpSettings,
}

/// Starts to listen.
///
/// # Errors
/// An address that can't be had, or that others than this machine can reach where there is no token.
pub fn bind(settings: HttpSettings) -> Result<Bound, HttpError> {
    let address = settings.address;
    if !address.ip().to_canonical().is_loopback() && settings.token.is_none() {
        return Err(HttpError::Open { address });
    }
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(8).thread_name("http").build().map_err(HttpError::Runtime)?;
    let listener = runtime.block_on(async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(1_024)
    });
    let failed = |source| HttpError::Bind { address, source };
    let listener = listener.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Bound { runtime, listener, address, settings })
}

impl Bound {
    /// Where it listens: with the port that port 0 became.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` turns true or its sender is gone.
    ///
    /// # Errors
    /// A folder for tiles that can't be written.
    pub fn run(self, desk: Desk, mut stop: watch::Receiver<bool>) -> Result<(), HttpError> {
        let Self { runtime, listener, settings, .. } = self;
        let (most, patience) = (settings.connections, settings.patience);
        let app = App::new(desk, settings, stop.clone())?;
        let router = router(app.clone());
        let connections = Arc::new(Connections::default());
        runtime.block_on(async {
            tokio::spawn(metrics::follow(app.clone()));
            let mut number = 0;
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = stop.wait_for(|stop| *stop) => break,
                };
                let Ok((stream, peer)) = stream else {
                    // Out of descriptors: what is idle gives way, and it is tried again.
                    connections.give_way();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                number += 1;
                if connections.len() >= most && !connections.give_way() {
                    refuse(&stream);
                    continue;
                }
                let connection = connections.enter(number);
                tokio::spawn(converse(stream, peer.ip(), connection, router.clone(), patience, stop.clone()));
            }
            drop(listener);
            let ended = async {
                while connections.len() > 0 {
                    connections.give_way();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let _ = tokio::time::timeout(GRACE, ended).await;
        });
        app.zooms.stop();
        runtime.shutdown_timeout(GRACE);
        Ok(())
    }
}

/// Tells a newcomer that every place is at work; what its socket takes at once is all it gets.
fn refuse(stream: &TcpStream) {
    let text = r#"{"error":{"code":"busy","message":"connections: wanted a place, found all of them at work","type":"server_error","param":null}}"#;
    let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\nretry-after: 1\r\n";
    let _ = stream.try_write(format!("{head}content-length: {}\r\n\r\n{text}", text.len()).as_bytes());
}

/// One connection, to its end.
async fn converse(
    stream: TcpStream,
    peer: IpAddr,
    connection: Connection,
    router: Router,
    patience: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let place = Arc::clone(&connection.place);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let busy = Busy::new(&place);
        request.extensions_mut().insert(Peer(peer));
        let answered = router.clone().oneshot(request);
        async move { answered.await.map(|response: Response<Body>| response.map(|body| Guarded { body, _busy: busy })) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(HEAD).max_headers(HEADERS);
    let served = builder.serve_connection(TokioIo::new(Patient::new(stream, patience)), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        _ = served.as_mut() => return,
        // What has sent no more than part of a head is no loss.
        () = connection.place.close.notified() => if connection.place.busy.load(Ordering::Relaxed) == 0 { return },
        _ = stop.wait_for(|stop| *stop) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = served.await;
}

/// Connections that are open, oldest first.
#[derive(Default)]
struct Connections(Mutex<BTreeMap<u64, Arc<Place>>>);

#[derive(Default)]
struct Place {
    /// Requests whose answers aren't all sent.
    busy: AtomicUsize,
    close: Notify,
}

/// A place, given back when it is dropped.
struct Connection {
    number: u64,
    place: Arc<Place>,
    all: Arc<Connections>,
}

impl Connections {
    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn enter(self: &Arc<Self>, number: u64) -> Connection {
        let place = Arc::new(Place::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&place));
        Connection { number, place, all: Arc::clone(self) }
    }

    /// Ends the oldest connection that waits for a request. Whether there was one.
    fn give_way(&self) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(number) = all.iter().find(|(_, place)| place.busy.load(Ordering::Relaxed) == 0).map(|(number, _)| *number) else {
            return false;
        };
        if let Some(place) = all.remove(&number) {
            place.close.notify_one();
        }
        true
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// A request that is being answered.
struct Busy(Arc<Place>);

impl Busy {
    fn new(place: &Arc<Place>) -> Self {
        place.busy.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(place))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body that keeps its connection's place until it is sent.
struct Guarded {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Guarded {
    type Data = axum::body::Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
