//! The routes of the sync service on axum.
//!
//! In: HTTP requests. Out: the stream (one task each), write checkpoints, probes, and errors in
//! PowerSync's manner with its CORS headers (`powersync-protocol.md` 2).

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hw_auth::Principal;
use hw_http::outbox::outbox;
use hw_http::socket::ConnectionCut;
use tower_http::cors::{Any, CorsLayer};

use crate::checkpoints;
use crate::drive::{self, Transport};
use crate::open::prepare;
use crate::probes::{self, Probe};
use crate::shared::{Shared, SyncState};
use crate::source::Source;
use crate::telemetry::{LogValue, for_log, object_for_log};
use crate::wire::error::ErrorBody;
use crate::wire::negotiate::{self, ContentCoding};
use crate::wire::request::{StreamRequest, stream_request};

/// A body must have arrived within this time, so that a client that sends it byte by byte holds
/// nothing for long.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// Longest body that is read for a caller who has not shown a valid token.
const STRANGER_BODY_BYTES: usize = 1 << 20;

/// All routes of this surface, with CORS. Paths that do not exist below `/sync` and `/probes` are
/// answered here; for the other prefixes that speak PowerSync's manner the server's fallback calls
/// [`not_found`].
pub fn routes<S: Source>(state: SyncState<S>) -> Router {
    let probe = |probe: Probe| {
        get(move |State(state): State<SyncState<S>>| async move {
            let (status, body) = probes::answer(probe, &(state.health)(), SystemTime::now());
            json(status, body)
        })
    };
    Router::new()
        .route("/sync/stream", post(stream::<S>).fallback(not_found))
        .route("/sync/checkpoint-request", post(checkpoints::request::<S>).fallback(not_found))
        .route("/write-checkpoint2.json", get(checkpoints::managed::<S>).fallback(not_found))
        .route("/write-checkpoint.json", get(checkpoints::oldest::<S>).fallback(not_found))
        .route("/probes/startup", probe(Probe::Startup).fallback(not_found))
        .route("/probes/liveness", probe(Probe::Liveness).fallback(not_found))
        .route("/probes/readiness", probe(Probe::Readiness).fallback(not_found))
        .route("/sync", axum::routing::any(not_found))
        .route("/sync/{*rest}", axum::routing::any(not_found))
        .route("/probes", axum::routing::any(not_found))
        .route("/probes/{*rest}", axum::routing::any(not_found))
        .layer(cors())
        .with_state(state)
}

/// 404 in PowerSync's manner.
pub async fn not_found() -> Response {
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
    let principal = authenticate(&state, &parts.headers).await;
    let bytes = read_body(&state, body, principal.is_ok()).await?;
    // Validation comes before authorization (section 2).
    let request = stream_request(&bytes, client_id(&parts).as_deref())?;
    drop(bytes);
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
    let permit = state
        .metrics
        .open_stream(state.options.max_streams)
        .ok_or_else(ErrorBody::too_many_connections)?;
    log_request(&parts.headers, &principal, &request);
    let ready = prepare(&state, &principal, request).await?;
    tracing::info!(
        user = ready.asker.user_key,
        user_agent = user_agent(&parts.headers),
        buckets = ready.first.buckets.len(),
        "Sync stream started"
    );

    let cut = parts.extensions.remove::<ConnectionCut>();
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

/// The caller, or the 401 that he gets once his request was found valid.
pub(crate) async fn authenticate<S: Source>(
    state: &Shared<S>,
    headers: &HeaderMap,
) -> Result<Principal, ErrorBody> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let verified = state.authenticator.verify(value).await;
    verified.map_err(|error| ErrorBody::authorization(error.code(), error.description()))
}

/// Reads a request's body within bounds of size and time.
pub(crate) async fn read_body<S: Source>(
    state: &Shared<S>,
    body: Body,
    known: bool,
) -> Result<axum::body::Bytes, ErrorBody> {
    let most = state.options.max_body_bytes;
    let limit = if known { most } else { most.min(STRANGER_BODY_BYTES) };
    match tokio::time::timeout(BODY_WITHIN, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_too_long(&error) => Err(ErrorBody::body_too_large()),
        // The client went away or is too slow to be served; nobody may read this.
        Ok(Err(_)) | Err(_) => Err(ErrorBody::not_json()),
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = inner.source();
    }
    false
}

/// The query's `client_id`.
pub(crate) fn client_id(parts: &Parts) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Fields {
        client_id: Option<String>,
    }
    axum::extract::Query::<Fields>::try_from_uri(&parts.uri).ok()?.0.client_id
}

/// The request's head alone.
pub(crate) struct Head(pub Parts);

impl<S: Send + Sync> FromRequestParts<S> for Head {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Head, Infallible> {
        Ok(Head(parts.clone()))
    }
}

pub(crate) fn refuse(error: &ErrorBody) -> Response {
    json(error.status, error.to_json())
}

pub(crate) fn json(status: u16, body: impl Into<Body>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = HeaderValue::from_static("application/json; charset=utf-8");
    (status, [(header::CONTENT_TYPE, content_type)], body.into()).into_response()
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
        parameters = object_for_log(&request.parameters),
        app_metadata = for_log(metadata),
        "sync request"
    );
}
