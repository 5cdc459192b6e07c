//! The one port: all routes of all surfaces, put together.
//!
//! In: the routers of the surfaces. Out: one router. Invariant: nothing answers that the table in
//! `tests/routes.rs` does not list; a path that does not exist is answered in the manner of the
//! surface it would belong to.

use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use super::admin::Admin;
use super::surfaces::Surfaces;
use super::{admin, page};

/// Puts the one port together. With `admin` the administration routes are on it too.
pub fn one_port(surfaces: Surfaces, admin: Option<Admin>) -> Router {
    let mut router =
        Router::new().route("/", get(page::show)).merge(surfaces.sync).merge(surfaces.rest);
    if let Some(admin) = admin {
        router = router.merge(admin::routes(admin));
    }
    router.fallback(nothing_here)
}

/// The port of the administration alone.
pub fn admin_port(admin: Admin) -> Router {
    admin::routes(admin).fallback(nothing_here)
}

/// Prefixes whose unknown paths are answered as the PowerSync service answers them.
const POWERSYNC: &[&str] =
    &["/sync", "/write-checkpoint", "/probes", "/api/admin/v1", "/api/sync-rules/v1"];

async fn nothing_here(uri: Uri) -> Response {
    if POWERSYNC.iter().any(|prefix| uri.path().starts_with(prefix)) {
        return hw_sync::not_found().await;
    }
    hw_rest::routes::not_found().await
}

/// An error in our own manner.
pub fn error_body(status: StatusCode, code: u16, description: &str) -> Response {
    let body = json!({ "error": {
        "code": format!("HW{code:04}"),
        "status": status.as_u16(),
        "description": description,
    }});
    (status, axum::Json(body)).into_response()
}
