//! The page at `/`: what is synced, live, for a person who tries it out.
//!
//! In: nothing but the request. Out: one document with its style and script inside, compiled in.
//! Invariant: it loads nothing from anywhere; the content security policy forbids it to.

use std::sync::OnceLock;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

const DOCUMENT: &str = include_str!("../../page/index.html");
const STYLE: &str = include_str!("../../page/style.css");
const SCRIPT: &str = include_str!("../../page/script.js");

/// Where the document takes the two in.
const STYLE_PLACE: &str = "/* style.css */";
const SCRIPT_PLACE: &str = "/* script.js */";

struct Page {
    html: String,
    policy: String,
}

fn page() -> &'static Page {
    static PAGE: OnceLock<Page> = OnceLock::new();
    PAGE.get_or_init(|| {
        let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
        Page {
            html: DOCUMENT.replace(STYLE_PLACE, STYLE).replace(SCRIPT_PLACE, SCRIPT),
            policy: format!(
                "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                 frame-ancestors 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'",
                hash(STYLE),
                hash(SCRIPT)
            ),
        }
    })
}

/// Answers `/`: HEAD, or an `Accept` without `text/html`, gets 200 and nothing, so that probes
/// and curious programs see a living server; a browser gets the page.
pub async fn show(method: Method, headers: HeaderMap) -> Response {
    let wants_html = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|text| text.contains("text/html")));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::OK;
    if method == Method::HEAD || !wants_html {
        return response;
    }
    let page = page();
    *response.body_mut() = Body::from(page.html.as_str());
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
    fn style_and_script_are_inside_and_nothing_is_loaded_from_elsewhere() {
        let html = &page().html;
        assert!(!html.contains(STYLE_PLACE) && !html.contains(SCRIPT_PLACE));
        for reference in ["http://", "https://", "src=", "<link", "@import", "url("] {
            assert!(!html.contains(reference), "{reference} in the page");
        }
        assert!(html.len() < 64 * 1024, "the page stays small");
    }
}
