//! Refusals in our own manner: `{"error":{"code":"HW5005","status":400,"description":"…"}}`.
//!
//! The description is for the caller. What only the operator may know goes to the log where the
//! refusal is made.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hw_auth::AuthError;
use hw_types::Code;
use serde_json::json;

/// HW5001: the path does not exist on this server.
pub const NO_SUCH_PATH: Code = Code(5001);
/// HW5002: the path does not take this method.
pub const METHOD: Code = Code(5002);
/// HW5004: the body is larger than `uploads.max_body`, or has more transactions than one request
/// may have. Send fewer at a time.
pub const TOO_LARGE: Code = Code(5004);
/// HW5005: the body is not what the route's page describes.
pub const BODY: Code = Code(5005);
/// HW5006: the body is not JSON by its content type.
pub const MEDIA_TYPE: Code = Code(5006);
/// HW5007: the body did not arrive in time.
pub const TOO_SLOW: Code = Code(5007);

/// A refused request.
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

    pub(crate) fn body(description: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, BODY, description)
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, error.hw_code(), error.description())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "error": {
            "code": self.code.to_string(),
            "status": self.status.as_u16(),
            "description": self.description,
        }});
        let mut response = (self.status, axum::Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110 section 11.6.1 asks for it.
            let challenge = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
