//! What every request passes: the rate of its peer, the names it came by, its token; and the headers that every answer gets.
//!
//! # Why
//! A daemon on the loopback address is reached by every page that the pilot's browser shows: another site may send requests to it, and a name of its own may
//! be made to point at 127.0.0.1. So without a token only the machine's own names are answered, and only to the daemon's own page or to no page at all.

use std::net::IpAddr;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::http::failure::{self, Failure};
use crate::http::listen::Peer;
use crate::http::state::App;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
    let mut response = match admit(&app, peer, &request) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn admit(app: &App, peer: IpAddr, request: &Request) -> Result<(), Failure> {
    if !app.rates.admit(peer, Instant::now()) {
        let message = format!("requests: wanted at most {} a second of a peer, found more", app.settings.rate);
        return Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, "rate", message));
    }
    let path = request.uri().path();
    // No path of the API needs an escape; those of ids that want to be paths of files do.
    if path.contains('%') {
        return Err(failure::nowhere(path));
    }
    let headers = request.headers();
    let Some(token) = &app.settings.token else { return own_names(request.uri(), headers) };
    // The page's own files hold nothing of the daemon's; it asks for the token and sends it with everything else.
    if path == "/" || path == "/healthz" || path.starts_with("/page/") {
        return Ok(());
    }
    let presented = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).and_then(bearer).unwrap_or_default();
    if token.is(presented) {
        return Ok(());
    }
    let found = if presented.is_empty() { "none" } else { "another" };
    Err(Failure::new(StatusCode::UNAUTHORIZED, "token", format!("authorization: wanted the bearer token of the token file, found {found}")))
}

/// The credentials of a `Bearer` header.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

/// Refuses what another site's page sends, and names that only look like this machine's.
fn own_names(uri: &Uri, headers: &HeaderMap) -> Result<(), Failure> {
    let refused = |what: &str, wanted: &str, found: &HeaderValue| {
        let found: String = String::from_utf8_lossy(found.as_bytes()).chars().take(80).collect();
        Err(Failure::new(StatusCode::FORBIDDEN, "origin", format!("{what}: wanted {wanted}, found {found:?}")))
    };
    let named = headers.get(header::HOST);
    if let Some(host) = named
        && !host.to_str().is_ok_and(|host| is_own(name(host)))
    {
        return refused("host", "localhost or a loopback address, as there is no token", host);
    }
    if let Some(authority) = uri.authority()
        && !is_own(authority.host())
    {
        return refused(
            "host",
            "localhost or a loopback address, as there is no token",
            &HeaderValue::from_static("another in the request line"),
        );
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let own = named.and_then(|host| host.to_str().ok()).map(|host| format!("http://{host}"));
        if own.as_deref().map(str::as_bytes) != Some(origin.as_bytes()) {
            return refused("origin", "the daemon's own page, as there is no token", origin);
        }
    }
    // A link to the page may stand anywhere.
    if let Some(site) = headers.get("sec-fetch-site").filter(|_| uri.path() != "/")
        && !["same-origin", "none"].iter().any(|own| site == own)
    {
        return refused("sec-fetch-site", "same-origin, as there is no token", site);
    }
    Ok(())
}

/// A host without its port.
fn name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

fn is_own(name: &str) -> bool {
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machines_own_names_are_answered() {
        let admitted = |lines: &[(&'static str, &'static str)]| {
            let headers = lines.iter().map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)));
            own_names(&Uri::from_static("/api/status"), &headers.collect()).is_ok()
        };
        for good in [
            &[][..],
            &[("host", "127.0.0.1:8080")],
            &[("host", "localhost:9")],
            &[("host", "[::1]:8080")],
            &[("host", "LOCALHOST")],
            &[("host", "localhost:9"), ("origin", "http://localhost:9"), ("sec-fetch-site", "same-origin")],
            &[("host", "127.0.0.1:8080"), ("sec-fetch-site", "none")],
        ] {
            assert!(admitted(good), "{good:?}");
        }
        for bad in [
            &[("host", "drone.example:8080")][..],
            &[("host", "127.0.0.1.example")],
            &[("host", "192.168.1.5")],
            &[("host", "")],
            &[("host", "localhost:9"), ("origin", "http://localhost:10")],
            &[("host", "localhost:9"), ("origin", "https://localhost:9")],
            &[("host", "localhost:9"), ("origin", "null")],
            &[("origin", "http://localhost:9")],
            &[("host", "localhost:9"), ("sec-fetch-site", "cross-site")],
        ] {
            assert!(!admitted(bad), "{bad:?}");
        }
    }

    #[test]
    fn credentials_come_after_the_scheme() {
        for (value, wanted) in
            [("Bearer abc", Some("abc")), ("bearer  abc ", Some("abc")), ("Basic abc", None), ("Bearer", None), ("", None)]
        {
            assert_eq!(bearer(value.as_bytes()), wanted.map(str::as_bytes), "{value}");
        }
    }
}
