//! Write checkpoints: "your uploaded writes are contained in this checkpoint"
//! (`powersync-protocol.md` 8, `design/engine.md` 9).
//!
//! In: a user key. Out: a number that a later checkpoint line of the same user and client carries
//! once everything committed before the request has arrived. The record itself travels in the
//! source's log; here is only its HTTP form.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use hw_auth::Principal;

use crate::open::{arrived, nothing_served, settled, user_key, within};
use crate::plain::{Head, client_id, json, refuse};
use crate::shared::SyncState;
use crate::source::{Source, View};
use crate::wire::error::ErrorBody;
use crate::wire::request::checkpoint_request;

/// Longest body of a request for a write checkpoint.
const MOST_BYTES: usize = 64 * 1024;

/// How long the oldest form may block (8.4).
const OLDEST_WAIT: Duration = Duration::from_secs(50);

/// `GET /write-checkpoint2.json` (8.2).
pub(crate) async fn managed<S: Source>(
    State(state): State<SyncState<S>>,
    Head(parts): Head,
) -> Response {
    let answer = async {
        let principal = state.edge.caller(&parts.headers).await?;
        let key = user_key(&principal, client_id(&parts)?.as_deref());
        let number = issue(&state, &principal, &key, None).await?;
        Ok(format!(r#"{{"data":{{"write_checkpoint":"{number}"}}}}"#))
    };
    respond(answer.await)
}

/// `POST /sync/checkpoint-request` (8.3).
pub(crate) async fn request<S: Source>(
    State(state): State<SyncState<S>>,
    request: Request,
) -> Response {
    let answer = async {
        let (parts, body) = request.into_parts();
        let (principal, body) = state.edge.receive(&parts.headers, body, MOST_BYTES).await?;
        let request = checkpoint_request(body.bytes(), client_id(&parts)?.as_deref())?;
        let principal = principal?;
        let key = user_key(&principal, request.client_id.as_deref());
        let number = issue(&state, &principal, &key, Some(request.requested)).await?;
        Ok(format!(r#"{{"data":{{"checkpoint_request_id":"{number}"}}}}"#))
    };
    respond(answer.await)
}

/// `GET /write-checkpoint.json` (8.4): blocks until the source's present head was replicated, and
/// answers with the checkpoint that contains it.
pub(crate) async fn oldest<S: Source>(
    State(state): State<SyncState<S>>,
    Head(parts): Head,
) -> Response {
    let answer = async {
        let principal = state.edge.caller(&parts.headers).await?;
        let key = user_key(&principal, client_id(&parts)?.as_deref());
        let _place = state
            .checkpoint_waits
            .take(&principal.key())
            .map_err(|_| ErrorBody::too_many_connections())?;
        let number = issue(&state, &principal, &key, None).await?;
        let listener = state.hub.listen(&key);
        let arrived = arrived(&state, &listener, &key, number);
        let late = "Replication has not caught up in time";
        let op_id = within(&state, OLDEST_WAIT, late, arrived).await?;
        Ok(format!(r#"{{"data":{{"checkpoint":"{op_id}"}}}}"#))
    };
    respond(answer.await)
}

async fn issue<S: Source>(
    state: &SyncState<S>,
    principal: &Principal,
    key: &str,
    requested: Option<u64>,
) -> Result<u64, ErrorBody> {
    settled(state).await?;
    let _place = state
        .checkpoint_requests
        .take(&principal.key())
        .map_err(|_| ErrorBody::too_many_connections())?;
    if state.source.newest().version().is_none() {
        return Err(nothing_served(state));
    }
    state.source.write_checkpoint(key, requested).await.map_err(|error| {
        state.metrics.no_write_checkpoint(key, &error);
        ErrorBody::unavailable("The source database cannot be reached")
    })
}

fn respond(answer: Result<String, ErrorBody>) -> Response {
    match answer {
        Ok(body) => json(200, body),
        Err(error) => refuse(&error),
    }
}
