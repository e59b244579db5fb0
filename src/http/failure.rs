//! Every refusal in one shape: `{"error": {"code", "message", "type", "param"}}`, which OpenAI's clients read as well.

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::journal::{JournalError, Refused};

/// A request that isn't answered, with what was wanted and found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub status: StatusCode,
    pub code: String,
    pub message: String,
    /// The part of the request that is at fault.
    pub param: Option<&'static str>,
}

impl Failure {
    pub fn new(status: StatusCode, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into(), param: None }
    }

    pub fn bad(param: &'static str, message: impl Into<String>) -> Self {
        Self { param: Some(param), ..Self::new(StatusCode::BAD_REQUEST, "bad-request", message) }
    }

    pub fn none(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", message)
    }

    pub fn broken(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    }

    /// One that was accepted and then refused, by its code.
    pub fn of_outcome(code: &str, reason: &str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, reason)
    }

    /// The document.
    pub fn document(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 | 403 => "authentication_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        json!({ "error": { "code": self.code, "message": self.message, "type": kind, "param": self.param } })
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.document())).into_response();
        let headers = response.headers_mut();
        if [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&self.status) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "journal", error.to_string())
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let status = match &refused {
            Refused::Full { .. } | Refused::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Refused::NoFrame { .. } | Refused::NoneYet => StatusCode::NOT_FOUND,
            Refused::LargePicture { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Refused::NoRoom(_) => StatusCode::INSUFFICIENT_STORAGE,
            Refused::Journal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, refused.code(), refused.to_string())
    }
}

/// A path that leads nowhere.
pub fn nowhere(path: &str) -> Failure {
    let found: String = path.chars().take(120).collect();
    Failure::none(format!("path: wanted one of the API (docs/http.md), found {found:?}"))
}

pub async fn no_route(uri: Uri) -> Failure {
    nowhere(uri.path())
}

/// A path that leads somewhere else by this method.
pub async fn no_method(method: Method) -> Failure {
    let message = format!("method: wanted one that the path has, found {method}");
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method", message)
}
