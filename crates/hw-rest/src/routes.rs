//! The routes of this surface on axum, with CORS for browsers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use hw_http::places::Places;
use hw_http::{ApiError, Bound, Surface, code};
use hw_types::Code;
use tower_http::cors::{Any, CorsLayer};

use crate::state::RestState;
use crate::upload;

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
