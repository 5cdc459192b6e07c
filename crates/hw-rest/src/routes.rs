//! The routes of this surface on axum, with CORS for browsers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use hw_http::places::Places;
use hw_http::{ApiError, Bound, Edge, Surface, code};
use hw_types::Code;
use hw_write::Uploads;
use tower_http::cors::{Any, CorsLayer};

use crate::upload;

/// Uploads that are worked on at the same time; further ones wait, with their body.
const AT_ONCE: usize = 64;
/// Large uploads that are worked on at the same time, of different users: what is made of many
/// small operations takes many times the memory of their text.
const LARGE_AT_ONCE: usize = 2;

/// What the routes work with. Cheap to clone.
#[derive(Clone)]
pub struct RestState {
    pub(crate) edge: Edge,
    pub(crate) uploads: Uploads,
    pub(crate) max_body_bytes: usize,
    pub(crate) places: Arc<Places>,
    pub(crate) large: Arc<Places>,
}

impl RestState {
    /// Takes who lets requests in, who writes, and the largest body of an upload in bytes.
    pub fn new(edge: Edge, uploads: Uploads, max_body_bytes: usize) -> RestState {
        // A user must not take all connections to the database.
        let places = Places::new(AT_ONCE, uploads.connections_per_user());
        let large = Places::new(LARGE_AT_ONCE, 1);
        RestState { edge, uploads, max_body_bytes, places, large }
    }
}

/// This surface as the server registers it.
pub fn surface(state: RestState) -> Surface {
    let (places, large) = (state.places.clone(), state.large.clone());
    Surface {
        name: "rest",
        routes: routes(state),
        prefixes: &["/api/v1"],
        not_found: || ApiError::not_found().into_response(),
        bounds: Arc::new(move || {
            let of = |name, places: &Places| Bound::new(name, places.taken(), places.limit());
            vec![of("uploads", &places), of("large_uploads", &large)]
        }),
    }
}

/// All routes of this surface.
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

async fn method_not_allowed() -> Response {
    let description = "The path takes POST requests only";
    let refused = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, Code(code::METHOD), description);
    ([(header::ALLOW, "POST")], refused).into_response()
}
