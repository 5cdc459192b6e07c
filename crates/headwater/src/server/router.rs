//! The one port: all routes of all surfaces, put together.
//!
//! In: the routers of the surfaces. Out: one router. Invariant: nothing answers that the table in
//! `tests/routes.rs` does not list; a path that does not exist is answered in the manner of the
//! surface it would belong to.

use axum::Router;
use axum::http::Uri;
use axum::response::IntoResponse as _;
use axum::routing::get;
use hw_http::{ApiError, Surface};

use super::admin::Admin;
use super::{admin, page};

/// Puts the one port together. With `admin` the administration routes are on it too, and in `dev`
/// the page that needs them.
pub fn one_port(surfaces: Vec<Surface>, admin: Option<Admin>) -> Router {
    let root = match admin.as_ref().is_some_and(|admin| admin.dev.is_some()) {
        true => get(page::show),
        false => get(page::say),
    };
    let mut router = Router::new().route("/", root);
    let mut refusals = Vec::new();
    for surface in surfaces {
        router = router.merge(surface.routes);
        refusals.extend(surface.prefixes.iter().map(|prefix| (*prefix, surface.not_found)));
    }
    if let Some(admin) = admin {
        router = router.merge(admin::routes(admin));
    }
    router.fallback(async move |uri: Uri| {
        let of = refusals.iter().find(|(prefix, _)| uri.path().starts_with(prefix));
        of.map_or_else(|| ApiError::not_found().into_response(), |(_, refuse)| refuse())
    })
}

/// The port of the administration alone: also the probes are on it, where no client can keep them from
/// being answered.
pub fn admin_port(admin: Admin, probes: Router) -> Router {
    admin::routes(admin).merge(probes).fallback(async || ApiError::not_found())
}
