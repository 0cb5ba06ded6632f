//! Answers in one line of text, as leviathan's clients know them.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// A refusal or a failure: a status, and what a person should know, without internals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// One line.
    pub message: String,
}

impl Refusal {
    /// What was asked did not work; the client may try again.
    pub fn failed(message: impl ToString) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, message: message.to_string() }
    }

    /// What was asked makes no sense; trying again is of no use.
    pub fn nonsense(message: impl ToString) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.to_string() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let line = self.message.replace(['\r', '\n'], " ");
        let mut response = plain(line);
        *response.status_mut() = self.status;
        response
    }
}

/// A fixed word of the protocol, in the type that the protocol has for it.
pub fn word(word: &'static str) -> Response {
    typed("text/html; charset=utf-8", word)
}

/// Text that may hold anything, so that no browser takes it for a page.
pub fn plain(text: impl Into<Body>) -> Response {
    typed("text/plain; charset=utf-8", text)
}

/// A body of a type.
pub fn typed(kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
