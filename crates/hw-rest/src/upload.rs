//! `POST /api/v1/upload`: one request's way.
//!
//! Token, then body, then the engine, then the answer. The order keeps strangers from making us
//! read anything.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hw_auth::{Principal, RoleClaim};
use hw_http::places::Place;
use hw_http::{ApiError, Refusal, code};
use hw_types::Code;
use hw_write::{Author, AuthorRole, UploadError, code as write_code};

use crate::state::RestState;
use crate::wire;

/// From this size on an upload is large.
const LARGE: usize = 1 << 20;

/// How long an upload waits for its turn behind others of its user.
const TURN_WITHIN: Duration = Duration::from_secs(30);

pub(crate) async fn upload(
    State(state): State<RestState>,
    request: Request,
) -> Result<Response, ApiError> {
    let (principal, parts, body) = state.edge.caller_of(request).await?;
    check_media_type(&parts.headers)?;
    wire::check_subject(&principal.subject)?;
    let mut body = state.edge.body(&principal, body, state.max_body_bytes).await?;
    // Only now: who sends slowly keeps nobody waiting.
    let turn = turn(&state, &principal, body.bytes().len() >= LARGE);
    let places = tokio::time::timeout(TURN_WITHIN, turn).await.map_err(|_| Refusal::UserBusy)?;
    let upload = wire::read(body.bytes())?;
    body.spend();
    let ids: Vec<i64> = upload.transactions.iter().map(|transaction| transaction.id).collect();
    // A caller who hangs up does not leave a transaction half run on a connection that the next
    // one would wait for: what was begun ends within its time, and the ledger knows how.
    let applied = tokio::spawn(async move {
        let _places = places;
        let author = author(principal);
        state.uploads.apply(&author, &upload.client_id, &upload.transactions).await
    });
    let verdicts = applied.await.map_err(|_| broken())?.map_err(refuse)?;
    Ok(Json(wire::answer(ids, verdicts)).into_response())
}

async fn turn(state: &RestState, principal: &Principal, large: bool) -> (Place, Option<Place>) {
    let user = principal.key();
    let place = state.places.wait(&user).await;
    let of_large = if large { Some(state.large.wait(&user).await) } else { None };
    (place, of_large)
}

fn author(principal: Principal) -> Author {
    let user = principal.key();
    let role = match principal.role {
        RoleClaim::Absent => AuthorRole::Configured,
        RoleClaim::Listed(role) => AuthorRole::Chosen(role),
        RoleClaim::Unlisted(role) => AuthorRole::NotAllowed(role),
    };
    Author { user, subject: principal.subject, role, claims_json: principal.claims_json }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let json = match headers.get(header::CONTENT_TYPE).map(|value| value.to_str()) {
        None => true,
        Some(Ok(value)) => {
            let essence = value.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/json")
        }
        Some(Err(_)) => false,
    };
    match json {
        true => Ok(()),
        false => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code(code::MEDIA_TYPE),
            "The body must be application/json",
        )),
    }
}

/// A person must act, and the log says what; the caller learns what concerns him. 503, so that
/// clients keep their queue and come again.
fn refuse(UploadError(finding): UploadError) -> ApiError {
    let description = match finding.code.0 {
        write_code::NOT_SET_UP => "The database is not set up for writes; run: headwater setup",
        write_code::ROLE_NOT_ALLOWED => "The token's role may not write here",
        _ => "Writes are not possible now; the server's log says why",
    };
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, finding.code, description)
}

/// The task that applied the upload is gone: the server stops, or it found a bug in itself.
fn broken() -> ApiError {
    let description = "Writes are not possible now";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, Code(write_code::NO_VERDICT), description)
}
