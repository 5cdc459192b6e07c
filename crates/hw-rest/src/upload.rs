//! `POST /api/v1/upload`: one request's way.
//!
//! Token, then body, then the engine, then the answer. The order keeps strangers from making us
//! read anything.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hw_auth::{Principal, RoleClaim};
use hw_write::{Author, AuthorRole, UploadError, apply};

use crate::error::{ApiError, MEDIA_TYPE, TOO_LARGE, TOO_SLOW};
use crate::routes::RestState;
use crate::wire;

/// A body must have arrived within this time, so that a client that sends it byte by byte holds
/// nothing for long.
const BODY_WITHIN: Duration = Duration::from_secs(30);

pub(crate) async fn upload(
    State(state): State<RestState>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let authorization = parts.headers.get(header::AUTHORIZATION);
    let authorization = authorization.and_then(|value| value.to_str().ok());
    let principal = state.authenticator.verify(authorization).await?;
    check_media_type(&parts.headers)?;

    let _permit = state.at_once.acquire().await.expect("the semaphore is never closed");
    let bytes = read_body(body, state.max_body_bytes).await?;
    let upload = wire::read(&bytes)?;
    drop(bytes);
    let ids: Vec<i64> = upload.transactions.iter().map(|transaction| transaction.id).collect();
    let verdicts = state
        .uploads
        .apply(&author(principal), &upload.client_id, &upload.transactions)
        .await
        .map_err(refuse)?;
    Ok(Json(wire::answer(ids, verdicts)).into_response())
}

fn author(principal: Principal) -> Author {
    let role = match principal.role {
        RoleClaim::Absent => AuthorRole::Configured,
        RoleClaim::Listed(role) => AuthorRole::Chosen(role),
        RoleClaim::Unlisted(role) => AuthorRole::NotAllowed(role),
    };
    Author { subject: principal.subject, role, claims_json: principal.claims_json }
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
            MEDIA_TYPE,
            "The body must be application/json",
        )),
    }
}

async fn read_body(body: Body, max_bytes: usize) -> Result<Vec<u8>, ApiError> {
    let collected = tokio::time::timeout(BODY_WITHIN, Limited::new(body, max_bytes).collect());
    match collected.await {
        Ok(Ok(bytes)) => Ok(bytes.to_bytes().into()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            TOO_LARGE,
            format!("The body is larger than {max_bytes} bytes"),
        )),
        Ok(Err(_)) => Err(ApiError::body("The body broke off")),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            TOO_SLOW,
            "The body did not arrive in time",
        )),
    }
}

/// A person must act: the log says what, the caller learns what concerns him. 503, so that clients
/// keep their queue and come again.
fn refuse(UploadError(finding): UploadError) -> ApiError {
    tracing::error!(
        code = %finding.code,
        mend = finding.mend.as_deref().unwrap_or_default(),
        "uploads are refused: {}",
        finding.what
    );
    let description = match finding.code.0 {
        apply::NOT_SET_UP => "The database is not set up for writes; run: headwater setup",
        apply::ROLE_NOT_ALLOWED => "The token's role may not write here",
        _ => "Writes are not possible now; the server's log says why",
    };
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, finding.code, description)
}
