//! The routes of the sync service on axum.
//!
//! In: HTTP requests. Out: the stream (one task each), write checkpoints, probes, and errors in
//! PowerSync's manner with its CORS headers (`powersync-protocol.md` 2).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::Response;
use axum::routing::{get, post};
use hw_auth::Principal;
use hw_http::Surface;
use hw_http::outbox::outbox;
use hw_http::socket::ConnectionHandle;
use tower_http::cors::{Any, CorsLayer};

use crate::checkpoints;
use crate::drive::{self, Transport};
use crate::open::prepare;
use crate::plain::{client_id, json, refuse};
use crate::probes::{self, Probe};
use crate::shared::{Health, SyncState};
use crate::source::Source;
use crate::telemetry::{LogValue, for_log, object_for_log};
use crate::wire::error::ErrorBody;
use crate::wire::negotiate::{self, ContentCoding};
use crate::wire::request::{StreamRequest, stream_request};

/// This surface as the server registers it.
pub fn surface<S: Source>(state: SyncState<S>) -> Surface {
    let counted = state.clone();
    Surface {
        name: "sync",
        routes: routes(state),
        prefixes: &["/sync", "/write-checkpoint", "/probes", "/api/admin/v1", "/api/sync-rules/v1"],
        not_found: || refuse(&ErrorBody::route_not_found()),
        bounds: Arc::new(move || counted.bounds()),
    }
}

/// All routes of this surface, with CORS. Paths that do not exist below `/sync` and `/probes` are
/// answered here, those below the other prefixes of [`surface`] by the server's fallback.
pub fn routes<S: Source>(state: SyncState<S>) -> Router {
    let health = state.clone();
    Router::new()
        .route("/sync/stream", post(stream::<S>).fallback(not_found))
        .route("/sync/checkpoint-request", post(checkpoints::request::<S>).fallback(not_found))
        .route("/write-checkpoint2.json", get(checkpoints::managed::<S>).fallback(not_found))
        .route("/write-checkpoint.json", get(checkpoints::oldest::<S>).fallback(not_found))
        .route("/sync", axum::routing::any(not_found))
        .route("/sync/{*rest}", axum::routing::any(not_found))
        .with_state(state)
        .merge(probe_routes(move || (health.health)()))
        .layer(cors())
}

/// The probes alone, for a port of the operator's, too.
pub fn probe_routes(health: impl Fn() -> Health + Clone + Send + Sync + 'static) -> Router {
    let probe = |probe: Probe| {
        let health = health.clone();
        get(move || async move {
            let (status, body) = probes::answer(probe, &health(), SystemTime::now());
            json(status, body)
        })
    };
    Router::new()
        .route("/probes/startup", probe(Probe::Startup).fallback(not_found))
        .route("/probes/liveness", probe(Probe::Liveness).fallback(not_found))
        .route("/probes/readiness", probe(Probe::Readiness).fallback(not_found))
        .route("/probes", axum::routing::any(not_found))
        .route("/probes/{*rest}", axum::routing::any(not_found))
}

/// While the server is being opened: the probes; whoever asks for anything else is to come again.
pub fn early_routes(health: impl Fn() -> Health + Clone + Send + Sync + 'static) -> Router {
    let come_again = async || refuse(&ErrorBody::unavailable("Server is starting"));
    probe_routes(health).fallback(come_again).layer(cors())
}

/// 404 in PowerSync's manner.
async fn not_found() -> Response {
    refuse(&ErrorBody::route_not_found())
}

/// What browsers are allowed (2.3).
pub fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            header::CONTENT_TYPE,
            header::AUTHORIZATION,
            header::USER_AGENT,
            HeaderName::from_static("x-user-agent"),
        ])
        .expose_headers([header::CONTENT_TYPE])
        .max_age(Duration::from_secs(3600))
}

/// `POST /sync/stream`.
async fn stream<S: Source>(State(state): State<SyncState<S>>, request: Request) -> Response {
    open_stream(state, request).await.unwrap_or_else(|error| refuse(&error))
}

async fn open_stream<S: Source>(
    state: SyncState<S>,
    request: Request,
) -> Result<Response, ErrorBody> {
    let (mut parts, body) = request.into_parts();
    let most = state.options.max_body_bytes;
    let (principal, body) = state.edge.receive(&parts.headers, body, most).await?;
    // Validation comes before authorization (section 2).
    let most_subscriptions = state.options.user.max_buckets;
    let request = stream_request(body.bytes(), client_id(&parts)?.as_deref(), most_subscriptions)?;
    let accept = joined(&parts.headers, &header::ACCEPT);
    if !negotiate::takes_ndjson(accept.as_deref()) {
        return Err(ErrorBody::unsupported_media_type());
    }
    let coding =
        negotiate::content_coding(joined(&parts.headers, &header::ACCEPT_ENCODING).as_deref());
    let principal = principal?;
    if state.stop.is_cancelled() {
        return Err(ErrorBody::unavailable("Server is stopping"));
    }
    let place = state.streams.take(&principal.key()).map_err(|full| {
        state.metrics.no_place(full, &principal.key());
        ErrorBody::too_many_connections()
    })?;
    let permit = state.metrics.open_stream(place);
    log_request(&parts.headers, &principal, &request);
    let ready = prepare(&state, &principal, request).await?;
    // It has been counted until here for the list of held buckets, which is done with now.
    drop(body);
    tracing::info!(
        user = ready.asker.user_key,
        user_agent = user_agent(&parts.headers),
        buckets = ready.first.buckets.len(),
        "Sync stream started"
    );

    let cut = parts.extensions.remove::<ConnectionHandle>();
    let (outbox, body) = outbox();
    let transport = Transport { outbox, coding, cut, permit };
    tokio::spawn(drive::run(state, ready, transport));
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(negotiate::NDJSON));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if coding == ContentCoding::Gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// All values of a header that may come in several lines.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<&str> =
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// SDKs that cannot set `user-agent` send `x-user-agent` (2.1).
fn user_agent(headers: &HeaderMap) -> &str {
    let value = headers.get("x-user-agent").or_else(|| headers.get(header::USER_AGENT));
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    &text[..text.len().min(200)]
}

fn log_request(headers: &HeaderMap, principal: &Principal, request: &StreamRequest) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let metadata = request.app_metadata.iter().map(|(key, text)| (key, LogValue::Text(text)));
    tracing::debug!(
        subject = principal.subject,
        user_agent = user_agent(headers),
        held_buckets = request.buckets.len(),
        subscriptions = request.subscriptions.len(),
        parameters = object_for_log(&request.parameters.read()),
        app_metadata = for_log(metadata),
        "sync request"
    );
}
