//! Where the server listens, who may speak to it, and how much of it one may use.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::http::HttpError;
use crate::imaging::{Limits, Reading, zoom_bytes};
use crate::units::Bytes;

/// A token's length in characters.
const TOKEN: std::ops::RangeInclusive<usize> = 16..=512;

/// What a bearer must present. Only its digest is kept.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// Reads the first line of a file that only its owner can read.
    ///
    /// # Errors
    /// A file that others can read, or without a token.
    pub fn load(path: &Path) -> Result<Self, HttpError> {
        let read = |source| HttpError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        let data = file.metadata().map_err(read)?;
        let mode = data.mode() & 0o7777;
        if !data.is_file() || mode & 0o077 != 0 {
            return Err(HttpError::Mode { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(4_096).read_to_string(&mut text).map_err(read)?;
        let token = text.trim_end_matches(['\r', '\n']);
        if !TOKEN.contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let found = format!("{} characters, or others", token.chars().count());
            return Err(HttpError::Token { path: path.to_owned(), least: *TOKEN.start(), most: *TOKEN.end(), found });
        }
        Ok(Self(Sha256::digest(token).into()))
    }

    /// Whether `presented` is the token; takes as long for one that is nearly right.
    #[must_use]
    pub fn is(&self, presented: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        self.0.ct_eq(&digest).into()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Everything that the server is told at start.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    pub address: SocketAddr,
    /// Wanted of every request but those of the page's own files and `/healthz`; needed where `address` isn't of this machine alone.
    pub token: Option<Token>,
    /// Folder of tiles and thumbnails, and the most that it may hold.
    pub zoom_folder: PathBuf,
    pub zoom_most: Bytes,
    /// What a frame that is shown must keep to; `whole` beside what the pipeline's own decoding may hold.
    pub frame: Limits,
    pub reading: Reading,
    /// The largest document: a question with its pictures as data URLs, a third longer than they are.
    pub max_body: Bytes,
    /// The largest picture that is sent as it is.
    pub max_picture: Bytes,
    /// Connections at once. Where one more comes, one that waits for a request gives way.
    pub connections: usize,
    /// Answers that are being streamed at once.
    pub streams: usize,
    /// Requests a second of one peer, and as many more at once.
    pub rate: f64,
    pub burst: f64,
    /// For a request's head, for each part of a body that comes and for each part of an answer that is taken.
    pub patience: Duration,
}

impl HttpSettings {
    /// The usual bounds.
    #[must_use]
    pub fn new(address: SocketAddr, zoom_folder: PathBuf, frame: Limits) -> Self {
        Self {
            address,
            token: None,
            zoom_folder,
            zoom_most: Bytes(2 << 30),
            frame,
            reading: Reading::default(),
            max_body: Bytes(32 << 20),
            max_picture: Bytes(64 << 20),
            connections: 512,
            streams: 128,
            rate: 200.0,
            burst: 400.0,
            patience: Duration::from_secs(10),
        }
    }
}

/// Read and write buffers of a connection, and what its task and a streamed answer hold.
pub const CONNECTION: usize = 64 << 10;
/// A body up to this size isn't waited for by others.
pub const SMALL_BODY: usize = 64 << 10;
/// Documents being written: history, layers.
const DOCUMENTS: usize = 16 << 20;

/// Most that the server holds, for the memory plan: connections' buffers, one large body as it came, as text and as a picture, documents, and the tiles'
/// preparation for frames within `settings.frame`, beside what a picture that isn't decoded by rows is admitted for.
#[must_use]
pub fn http_bytes(settings: &HttpSettings) -> Bytes {
    let body = settings.max_body.0;
    let large = (body * 2 + body / 4 * 3).max(settings.max_picture.0);
    Bytes::of::<u8>(settings.connections * CONNECTION + DOCUMENTS) + Bytes(large) + zoom_bytes(settings.frame.max_side)
}
