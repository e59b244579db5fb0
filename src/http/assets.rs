//! The page and its files, from the binary.

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::http::failure::Failure;

const INDEX: &[u8] = include_bytes!("page/index.html");

/// Name, kind and bytes.
const FILES: [(&str, &str, &[u8]); 7] = [
    ("style.css", "text/css; charset=utf-8", include_bytes!("page/style.css")),
    ("app.js", "text/javascript; charset=utf-8", include_bytes!("page/app.js")),
    ("api.js", "text/javascript; charset=utf-8", include_bytes!("page/api.js")),
    ("viewer.js", "text/javascript; charset=utf-8", include_bytes!("page/viewer.js")),
    ("receipt.js", "text/javascript; charset=utf-8", include_bytes!("page/receipt.js")),
    ("map.js", "text/javascript; charset=utf-8", include_bytes!("page/map.js")),
    ("icon.svg", "image/svg+xml", include_bytes!("page/icon.svg")),
];

/// Of this build: the page asks whether its files are still the same, and gets them again only when they aren't.
const TAG: &str = concat!("\"", env!("CARGO_PKG_VERSION"), "-");

fn tag(bytes: &[u8]) -> String {
    // FNV-1a: tells builds apart, nothing more.
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{TAG}{hash:016x}\"")
}

fn send(headers: &HeaderMap, kind: &'static str, bytes: &'static [u8]) -> Response {
    let tag = tag(bytes);
    let same = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let about = [(header::ETAG, tag), (header::CACHE_CONTROL, "no-cache".to_owned())];
    if same {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    (about, [(header::CONTENT_TYPE, kind)], bytes).into_response()
}

pub async fn index(headers: HeaderMap) -> Response {
    send(&headers, "text/html; charset=utf-8", INDEX)
}

pub async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Failure> {
    let file = FILES.iter().find(|(own, ..)| *own == name);
    let (_, kind, bytes) = file.ok_or_else(|| Failure::none("page: wanted one of its files, found another name"))?;
    Ok(send(&headers, kind, bytes))
}

/// Says that requests are answered; how the daemon stands is `/api/status`.
pub async fn healthz() -> &'static str {
    "ok\n"
}
