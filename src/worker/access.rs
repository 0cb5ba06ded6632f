//! Who may come in: everybody, or those who know a token.
//!
//! The token goes before every path, whatever stands behind it. Nothing to clean up.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};

use super::answer::Refusal;
use super::api::error::ApiError;

/// What whoever comes in must know; never shown.
#[derive(Clone, Copy)]
pub struct Token(blake3::Hash);

impl Token {
    /// Fewer characters can be guessed.
    pub const SHORTEST: usize = 16;

    /// `None` if it could be guessed, or cannot stand in a header.
    pub fn new(text: &str) -> Option<Self> {
        let fits = text.len() >= Self::SHORTEST && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(blake3::hash(text.as_bytes())))
    }

    /// Takes as long for any text of this length.
    fn is(self, text: &[u8]) -> bool {
        // Hashes of blake3 are compared in constant time.
        self.0 == blake3::hash(text)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// The router, for those who send `Authorization: Bearer TOKEN` and nobody else. A browser can send no header with a
/// WebSocket: there the token, in hexadecimal digits, may be one of the offered protocols, as `token.DIGITS`.
pub fn guarded(router: Router, token: Token) -> Router {
    router.layer(from_fn(move |request: Request, next: Next| async move {
        if given(request.headers()).is_some_and(|given| token.is(&given)) {
            return next.run(request).await;
        }
        if request.uri().path().starts_with("/v1") { ApiError::unknown().into_response() } else { unknown() }
    }))
}

fn given(headers: &HeaderMap) -> Option<Vec<u8>> {
    let text = |name| headers.get(name).map(HeaderValue::as_bytes);
    let bearer = text(header::AUTHORIZATION).and_then(bearer).map(Vec::from);
    bearer.or_else(|| text(header::SEC_WEBSOCKET_PROTOCOL).and_then(offered))
}

/// The scheme's name may be written in any case (RFC 9110, 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

fn offered(protocols: &[u8]) -> Option<Vec<u8>> {
    let mut protocols = protocols.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let digits = protocols.find_map(|protocol| protocol.strip_prefix(b"token."))?;
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

/// What somebody without the token is told.
pub const WHO: &str = "this worker asks for `Authorization: Bearer TOKEN`";

fn unknown() -> Response {
    let message = WHO.to_owned();
    let mut answer = Refusal { status: StatusCode::UNAUTHORIZED, message }.into_response();
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_from_its_header_in_any_case() {
        assert_eq!(bearer(b"bearer  abc "), Some(b"abc".as_slice()));
        for other in [b"".as_slice(), b"Bearer", b"Basic abcdef", b"Bearerabc"] {
            assert_eq!(bearer(other), None);
        }
    }

    #[test]
    fn a_web_socket_offers_a_token_as_one_of_its_protocols() {
        assert_eq!(offered(b"standin, token.61622f"), Some(b"ab/".to_vec()));
        for other in [b"".as_slice(), b"standin", b"token.zz", b"xtoken.6162"] {
            assert_eq!(offered(other), None);
        }
    }

    #[test]
    fn a_token_that_can_be_guessed_is_none() {
        assert!(Token::new("0123456789abcde").is_none());
        assert!(Token::new("0123456789 abcdef").is_none());
        let token = Token::new("0123456789abcdef").unwrap();
        assert!(token.is(b"0123456789abcdef") && !token.is(b"0123456789abcdeF"));
    }
}
