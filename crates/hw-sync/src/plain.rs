//! Requests and answers that are no stream.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use crate::wire::error::ErrorBody;
use crate::wire::request::check_client_id;

/// The query's `client_id`.
///
/// - Errors: 400 when it is too long.
pub(crate) fn client_id(parts: &Parts) -> Result<Option<String>, ErrorBody> {
    #[derive(serde::Deserialize)]
    struct Fields {
        client_id: Option<String>,
    }
    let fields = axum::extract::Query::<Fields>::try_from_uri(&parts.uri);
    let client_id = fields.ok().and_then(|fields| fields.0.client_id);
    check_client_id(client_id.as_deref())?;
    Ok(client_id)
}

/// The request's head alone.
pub(crate) struct Head(pub Parts);

impl<S: Send + Sync> FromRequestParts<S> for Head {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Head, Infallible> {
        Ok(Head(parts.clone()))
    }
}

/// An error in PowerSync's manner.
pub(crate) fn refuse(error: &ErrorBody) -> Response {
    json(error.status, error.to_json())
}

/// An answer in JSON.
pub(crate) fn json(status: u16, body: impl Into<Body>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = HeaderValue::from_static("application/json; charset=utf-8");
    (status, [(header::CONTENT_TYPE, content_type)], body.into()).into_response()
}
