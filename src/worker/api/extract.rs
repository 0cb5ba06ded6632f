//! Reading requests: JSON bodies and queries of a type, refused with the name of the field that is wrong.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Api;
use super::error::ApiError;
use crate::worker::answer::typed;
use crate::worker::body::Pieces;

/// How long a body of words may be; the longest are suites.
const WORDS_BYTES: usize = 4 << 20;

/// A body of JSON.
#[derive(Debug)]
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        // A page of somebody else's can make a browser send a form or plain text, but no JSON.
        if kind.and_then(|kind| kind.split(';').next()).map(str::trim) != Some(JSON) {
            let message = format!("expected a body of type {JSON}, found {}", kind.unwrap_or("none"));
            return Err(ApiError::user(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", message));
        }
        let text = whole(api.pieces(request.into_body()), WORDS_BYTES).await?;
        Ok(Self(parse(&text)?))
    }
}

/// The type of what this API mostly says and reads.
pub const JSON: &str = "application/json";

/// All of a body, up to a limit.
pub async fn whole(mut pieces: Pieces, limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut all = Vec::new();
    while let Some(piece) = pieces.next().await? {
        if all.len() + piece.len() > limit {
            let message = format!("the body is longer than {limit} bytes");
            return Err(ApiError::user(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

/// Text as JSON of a type; what is wrong names the field.
fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, ApiError> {
    let mut from = serde_json::Deserializer::from_slice(text);
    let parsed = serde_path_to_error::deserialize(&mut from).map_err(|error| {
        let (field, error) = (error.path().to_string(), error.into_inner());
        if error.is_data() {
            let told = ApiError::nonsense("bad-field", format!("field `{field}`: {error}"));
            if field == "." { ApiError::nonsense("bad-field", error) } else { told }
        } else {
            ApiError::user(StatusCode::BAD_REQUEST, "malformed", format!("the body is no JSON: {error}"))
        }
    })?;
    from.end().map_err(|error| {
        ApiError::user(StatusCode::BAD_REQUEST, "malformed", format!("the body is no JSON: {error}"))
    })?;
    Ok(parsed)
}

/// The query of a URL.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        let axum::extract::Query(query) = query.map_err(|error| {
            use std::error::Error as _;
            let error = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            ApiError::nonsense("bad-query", format!("the query of the URL: {error}"))
        })?;
        Ok(Self(query))
    }
}

/// An answer in JSON.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let text = serde_json::to_vec(&self.0).expect("answers have text keys and no value that can fail");
        typed(JSON, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::operate::PowerVerb;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code, reason = "it is only read")]
        action: Vec<PowerVerb>,
    }

    #[test]
    fn what_is_wrong_in_a_body_is_named() {
        let wrong = |text: &str| {
            let error = parse::<Sample>(text.as_bytes()).unwrap_err();
            (error.status.as_u16(), error.facts.message)
        };
        for (text, status, named) in [
            (r#"{"action": ["on", "explode"]}"#, 422, "field `action[1]`: unknown variant `explode`"),
            (r#"{"action": 1}"#, 422, "field `action`: invalid type"),
            (r#"{"acton": []}"#, 422, "unknown field `acton`"),
            ("{}", 422, "missing field `action`"),
            (r#"{"action": []"#, 400, "no JSON"),
            (r#"{"action": []} x"#, 400, "no JSON"),
            ("", 400, "no JSON"),
        ] {
            let (found, message) = wrong(text);
            assert!(found == status && message.contains(named), "{text}: {found} {message}");
        }
    }
}
