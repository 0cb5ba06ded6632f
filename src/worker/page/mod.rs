//! The page at `/`: the device at a glance for a person, made of files that are compiled in.
//!
//! It is a client of `/v1` like any other. Its files hold no secret and are given to everybody, also where `/v1` asks
//! for a token; the page then asks the person for it. Nothing to clean up.

use std::sync::LazyLock;

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;

use super::answer::typed;

/// A file of the page.
struct Asset {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! script {
    ($name:literal) => {
        Asset { path: concat!("/page/", $name), kind: SCRIPT, text: include_str!($name) }
    };
}

static ASSETS: [Asset; 10] = [
    Asset { path: "/", kind: "text/html; charset=utf-8", text: include_str!("index.html") },
    Asset { path: "/page/style.css", kind: "text/css; charset=utf-8", text: include_str!("style.css") },
    script!("api.js"),
    script!("console.js"),
    script!("flash.js"),
    script!("page.js"),
    script!("screen.js"),
    script!("sha256.js"),
    script!("terminal.js"),
    script!("words.js"),
];

/// Nothing but what comes from this server runs or is asked (CSP Level 3); `data:` is the empty icon.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Another page under the same addresses is another standin's.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = blake3::Hasher::new();
    for asset in &ASSETS {
        hasher.update(asset.text.as_bytes());
    }
    format!("\"{}\"", &hasher.finalize().to_hex()[..16])
});

/// The routes of the page.
pub fn router() -> Router {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        router.route(asset.path, get(move |headers: HeaderMap| async move { answer(asset, &headers) }))
    })
}

fn answer(asset: &'static Asset, asked: &HeaderMap) -> Response {
    let is_known = asked.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == TAG.as_bytes());
    let mut response = typed(asset.kind, if is_known { "" } else { asset.text });
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    let fixed: [(HeaderName, &'static str); 3] = [
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(&TAG) {
        headers.insert(header::ETAG, tag);
    }
    response
}
