//! The routes of this surface on axum, with CORS for browsers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use hw_auth::Authenticator;
use hw_write::Uploads;
use tokio::sync::Semaphore;
use tower_http::cors::{Any, CorsLayer};

use crate::error::{ApiError, METHOD, NO_SUCH_PATH};
use crate::upload;

/// Uploads that may hold a body in memory at the same time; further ones wait.
const UPLOADS_AT_ONCE: usize = 64;

/// What the routes work with. Cheap to clone.
#[derive(Clone)]
pub struct RestState {
    pub(crate) authenticator: Authenticator,
    pub(crate) uploads: Uploads,
    pub(crate) max_body_bytes: usize,
    pub(crate) at_once: Arc<Semaphore>,
}

impl RestState {
    /// Takes who verifies tokens, who writes, and the largest body of an upload in bytes.
    pub fn new(authenticator: Authenticator, uploads: Uploads, max_body_bytes: usize) -> RestState {
        let at_once = Arc::new(Semaphore::new(UPLOADS_AT_ONCE));
        RestState { authenticator, uploads, max_body_bytes, at_once }
    }
}

/// All routes of this surface. Other paths below `/api/v1/` are for the server's fallback, which
/// may answer with [`not_found`].
pub fn routes(state: RestState) -> Router {
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::POST])
        .allow_headers([header::CONTENT_TYPE, header::AUTHORIZATION])
        .max_age(Duration::from_secs(3600));
    Router::new()
        .route("/api/v1/upload", post(upload::upload).fallback(method_not_allowed))
        .layer(cors)
        .with_state(state)
}

/// 404 in our manner.
pub async fn not_found() -> Response {
    let description = "The path does not exist on this server";
    ApiError::new(StatusCode::NOT_FOUND, NO_SUCH_PATH, description).into_response()
}

async fn method_not_allowed() -> Response {
    let refused =
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, METHOD, "The path takes POST requests only");
    ([(header::ALLOW, "POST")], refused).into_response()
}
