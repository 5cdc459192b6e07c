//! What is at `/`: in `dev` a page that shows what is synced, live, for a person who tries it out; else a
//! sentence for whoever asks what this is.
//!
//! In: nothing but the request. Out: one document with its style and scripts inside, compiled in.
//! Invariant: it loads nothing from anywhere; the content security policy forbids it to.

use std::sync::OnceLock;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

const DOCUMENT: &str = include_str!("../../page/index.html");
const STYLE: &str = include_str!("../../page/style.css");
const CLIENT: &str = include_str!("../../page/client.js");
const PAGE: &str = include_str!("../../page/page.js");

/// What the document takes in, and where.
const PARTS: [(&str, &str); 3] =
    [("/* style.css */", STYLE), ("/* client.js */", CLIENT), ("/* page.js */", PAGE)];

/// For whoever is not shown a page.
const SENTENCE: &str = concat!(
    "Headwater ",
    env!("CARGO_PKG_VERSION"),
    ": a sync server in front of Postgres. The SDKs of PowerSync connect to this address.\n"
);

struct Page {
    html: String,
    policy: String,
}

fn page() -> &'static Page {
    static PAGE_AND_POLICY: OnceLock<Page> = OnceLock::new();
    PAGE_AND_POLICY.get_or_init(|| {
        let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
        Page {
            html: PARTS.iter().fold(DOCUMENT.to_owned(), |html, (at, part)| html.replace(at, part)),
            policy: format!(
                "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                 frame-ancestors 'none'; style-src {}; script-src {} {}",
                hash(STYLE),
                hash(CLIENT),
                hash(PAGE)
            ),
        }
    })
}

/// Answers `/` outside of `dev`, and programs.
pub async fn say() -> Response {
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], SENTENCE).into_response()
}

/// Answers `/` in `dev`: a browser gets the page, whatever does not ask for `text/html` the sentence.
pub async fn show(headers: HeaderMap) -> Response {
    let wants_html = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|text| text.contains("text/html")));
    if !wants_html {
        return say().await;
    }
    let page = page();
    let mut response = Response::new(Body::from(page.html.as_str()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(policy) = HeaderValue::from_str(&page.policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn style_and_scripts_are_inside_and_nothing_is_loaded_from_elsewhere() {
        let html = &page().html;
        for (place, part) in PARTS {
            assert!(DOCUMENT.contains(place) && html.contains(part), "{place}");
        }
        for reference in ["http://", "https://", "src=", "<link", "@import", "url("] {
            assert!(!html.contains(reference), "{reference} in the page");
        }
        assert!(html.len() < 64 * 1024, "the page stays small");
    }
}
