//! What the API says when it does not do what was asked: one shape for all, with whose fault it is.

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::device::power::PowerError;
use crate::device::{DeviceError, Fault};
use crate::io::image::ImageError;
use crate::message::chain;
use crate::procedure::FlashError;
use crate::worker::answer::{Refusal, typed};
use crate::worker::keeper::KeeperError;

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorAnswer {
    /// What went wrong.
    pub error: ErrorFacts,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorFacts {
    /// A word for programs, such as `no-such-device`; words are added, never renamed.
    pub code: String,
    /// One line for people.
    pub message: String,
    /// What lies behind it, in one line.
    pub cause: Option<String>,
    /// How to mend it.
    pub hint: Option<String>,
    /// Whose fault it is.
    pub fault: FaultOf,
}

/// Whose fault it is that something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FaultOf {
    /// The DUT's.
    Dut,
    /// The lab's: the server or its host. Nothing is known of the DUT.
    Lab,
    /// That of whoever asked.
    User,
}

impl From<Fault> for FaultOf {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Dut => Self::Dut,
            Fault::Lab => Self::Lab,
            Fault::User => Self::User,
        }
    }
}

/// An error with its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The status.
    pub status: StatusCode,
    /// What is told. In a box, as most calls succeed.
    pub facts: Box<ErrorFacts>,
}

impl ApiError {
    /// The user asked for something that cannot be.
    pub fn user(status: StatusCode, code: &str, message: impl ToString) -> Self {
        Self::of(status, code, FaultOf::User, message)
    }

    /// There is no such thing.
    pub fn not_found(code: &str, message: impl ToString) -> Self {
        Self::user(StatusCode::NOT_FOUND, code, message)
    }

    /// It cannot be now.
    pub fn conflict(code: &str, message: impl ToString) -> Self {
        Self::user(StatusCode::CONFLICT, code, message)
    }

    /// It makes no sense.
    pub fn nonsense(code: &str, message: impl ToString) -> Self {
        Self::user(StatusCode::UNPROCESSABLE_ENTITY, code, message)
    }

    /// Nobody knows who asks.
    pub fn unknown() -> Self {
        let error = Self::user(StatusCode::UNAUTHORIZED, "no-token", crate::worker::access::WHO);
        error.hint("the token is what the server was started with, by --token-file or STANDIN_TOKEN")
    }

    /// The server or its host failed.
    pub fn lab(code: &str, message: impl ToString) -> Self {
        Self::of(StatusCode::INTERNAL_SERVER_ERROR, code, FaultOf::Lab, message)
    }

    fn of(status: StatusCode, code: &str, fault: FaultOf, message: impl ToString) -> Self {
        let (code, message) = (code.to_owned(), one_line(&message.to_string()));
        Self { status, facts: Box::new(ErrorFacts { code, message, cause: None, hint: None, fault }) }
    }

    /// Adds what lies behind it.
    pub fn cause(mut self, cause: impl ToString) -> Self {
        self.facts.cause = Some(one_line(&cause.to_string()));
        self
    }

    /// Adds advice.
    pub fn hint(mut self, hint: impl ToString) -> Self {
        self.facts.hint = Some(one_line(&hint.to_string()));
        self
    }

    /// Takes an error apart into what was attempted and what lies behind it. What a failed host says beyond its
    /// first words, such as command lines, is in its log and no client's business.
    fn with_chain(self, error: &dyn std::error::Error) -> Self {
        let behind = error.source().map(chain);
        let lab = self.facts.fault == FaultOf::Lab;
        if lab {
            tracing::error!(error = chain(error), "failed a client");
        }
        match behind {
            Some(cause) if lab => self.cause(cause.split(['\n', ';']).next().unwrap_or_default()),
            Some(cause) => self.cause(cause),
            None => self,
        }
    }
}

/// The first line, as errors of tools may have several.
fn one_line(text: &str) -> String {
    text.trim().replace("\r\n", " / ").replace(['\r', '\n'], " / ")
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let told = serde_json::to_vec(&ErrorAnswer { error: *self.facts });
        let mut response = typed("application/json", Body::from(told.expect("it has text keys alone")));
        *response.status_mut() = self.status;
        response
    }
}

impl From<KeeperError> for ApiError {
    fn from(error: KeeperError) -> Self {
        let KeeperError::Cut = error;
        Self::conflict("taken-away", "the device was taken away meanwhile, by a teardown or a deletion")
    }
}

impl From<DeviceError> for ApiError {
    fn from(error: DeviceError) -> Self {
        let fault = error.fault();
        let (status, code) = match (&error, fault) {
            (DeviceError::NotFitted(_) | DeviceError::Power(PowerError::NoButton { .. }), _) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "not-fitted")
            }
            (DeviceError::Power(PowerError::NoMains { .. }), _) => (StatusCode::CONFLICT, "mains-off"),
            (_, Fault::User) => (StatusCode::CONFLICT, "not-possible"),
            // The request was right and so is the server; who is behind it did not answer well.
            (_, Fault::Dut) => (StatusCode::BAD_GATEWAY, "dut-failed"),
            (_, Fault::Lab) => (StatusCode::INTERNAL_SERVER_ERROR, "lab-failed"),
        };
        let message = error.to_string();
        let message = if fault == Fault::Lab { first_words(&message) } else { &message };
        Self::of(status, code, fault.into(), message).with_chain(&error)
    }
}

impl From<FlashError> for ApiError {
    fn from(error: FlashError) -> Self {
        let error = match error {
            FlashError::Device(error) => return error.into(),
            error => error,
        };
        let told = match (&error, error.fault()) {
            (error, Fault::User) => Self::nonsense("not-possible", error),
            (error, Fault::Lab) => Self::lab("lab-failed", error),
            (error, Fault::Dut) => Self::of(StatusCode::BAD_GATEWAY, "dut-failed", FaultOf::Dut, error),
        };
        told.with_chain(&error)
    }
}

impl From<ImageError> for ApiError {
    fn from(error: ImageError) -> Self {
        let told = if error.is_users() {
            Self::nonsense("bad-image", &error)
        } else {
            Self::lab("lab-failed", &error)
        };
        told.with_chain(&error)
    }
}

/// A failed QEMU brings more words than its first, and its command line.
fn first_words(message: &str) -> &str {
    message.split(['\n', ';']).next().unwrap_or_default()
}

impl From<Refusal> for ApiError {
    /// Reading a body failed; see [`crate::worker::body`].
    fn from(refusal: Refusal) -> Self {
        match refusal.status {
            StatusCode::INTERNAL_SERVER_ERROR => {
                Self::user(StatusCode::BAD_REQUEST, "incomplete", refusal.message)
            }
            StatusCode::PAYLOAD_TOO_LARGE => Self::user(refusal.status, "too-large", refusal.message),
            status => Self::user(status, "bad-request", refusal.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_without_the_words_of_tools() {
        let line = "QEMU ended; it was started by qemu -x\nstderr: y";
        assert_eq!(first_words(line), "QEMU ended");
        assert_eq!(one_line("a\r\nb\nc\n"), "a / b / c");
    }
}
