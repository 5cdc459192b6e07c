//! What is refused, and the two manners of telling it.
//!
//! A [`Refusal`] says what happened at the edge. Each surface tells it in the manner of its
//! protocol: PowerSync's is the sync surface's own; ours, `{"error":{"code":"HW5005","status":400,
//! "description":"…"}}`, is [`ApiError`]. A description is for the caller. What only the operator
//! may know goes to the log where the refusal is made.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hw_auth::AuthError;
use hw_types::Code;
use serde_json::json;

use crate::code;

/// How long who is told to come again should wait, seconds.
const COME_AGAIN: HeaderValue = HeaderValue::from_static("5");

/// Why a request got no further than the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 401: there is no token, or it is refused.
    Token(AuthError),
    /// 413: the body is longer than `limit` bytes.
    TooLarge {
        /// What the route takes.
        limit: usize,
    },
    /// 408: the body did not arrive in time.
    TooSlow,
    /// 400: the body broke off; the client has gone away.
    BrokenOff,
    /// 503: all bodies together hold as much memory as they may.
    BodiesFull,
    /// 429: this user has as much in flight as one user may.
    UserBusy,
}

/// A refused request, told in our own manner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: Code,
    description: String,
}

impl ApiError {
    /// A refusal with a text for the caller.
    pub fn new(status: StatusCode, code: Code, description: impl Into<String>) -> ApiError {
        ApiError { status, code, description: description.into() }
    }

    /// 400: the body is not what the route's page describes.
    pub fn body(description: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, Code(code::BODY), description)
    }

    /// 404.
    pub fn not_found() -> ApiError {
        let description = "The path does not exist on this server";
        ApiError::new(StatusCode::NOT_FOUND, Code(code::NO_SUCH_PATH), description)
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What `docs/errors.md` calls it.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The text for the caller.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The body of the answer.
    pub fn to_json(&self) -> String {
        json!({ "error": {
            "code": self.code.to_string(),
            "status": self.status.as_u16(),
            "description": self.description,
        }})
        .to_string()
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        match refusal {
            Refusal::Token(error) => {
                ApiError::new(StatusCode::UNAUTHORIZED, error.hw_code(), error.description())
            }
            Refusal::TooLarge { limit } => ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                Code(code::TOO_LARGE),
                format!("The body is larger than {limit} bytes"),
            ),
            Refusal::TooSlow => ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                Code(code::TOO_SLOW),
                "The body did not arrive in time",
            ),
            Refusal::BrokenOff => ApiError::body("The body broke off"),
            Refusal::BodiesFull => ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                Code(code::BODIES_FULL),
                "Too much is being sent at the moment; come again",
            ),
            Refusal::UserBusy => ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                Code(code::USER_BUSY),
                "Earlier requests of this user are still in progress; come again",
            ),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let kind = HeaderValue::from_static("application/json");
        let body = self.to_json();
        let mut response = (self.status, [(header::CONTENT_TYPE, kind)], body).into_response();
        let headers = response.headers_mut();
        match self.status {
            // RFC 9110 section 11.6.1 asks for it.
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, COME_AGAIN);
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_told_in_our_manner() {
        let body = r#"{"error":{"code":"HW5001","description":"The path does not exist on this server","status":404}}"#;
        assert_eq!(ApiError::not_found().to_json(), body);
        for (refusal, status, code) in [
            (Refusal::TooLarge { limit: 7 }, 413, "HW5004"),
            (Refusal::TooSlow, 408, "HW5007"),
            (Refusal::BrokenOff, 400, "HW5005"),
            (Refusal::BodiesFull, 503, "HW5009"),
            (Refusal::UserBusy, 429, "HW5010"),
        ] {
            let error = ApiError::from(refusal);
            assert!(error.to_json().contains(code), "{error:?}");
            let response = error.into_response();
            assert_eq!(response.status(), status);
            let comes_again = response.headers().contains_key(header::RETRY_AFTER);
            assert_eq!(comes_again, matches!(status, 503 | 429));
        }
    }
}
