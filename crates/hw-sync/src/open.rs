//! Everything that happens before the response's headers, so that an error still has a status.
//!
//! In: a verified principal and a parsed request. Out: a [`Ready`] stream with its first
//! checkpoint resolved, or an error body. A client that is ahead of this server waits here
//! (E-10); one above a limit learns it here (`powersync-protocol.md` 2.4).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hw_auth::Principal;
use hw_http::budget::Share;
use hw_types::OpId;
use serde_json::{Map, Value};

use crate::hub::Listener;
use crate::shared::Shared;
use crate::source::{
    Asker, Known, ResolveError, Resolved, ResolvedBy, Source, SourceError, Version, View,
};
use crate::state::bucket::{Announcement, Place};
use crate::wire::document::Document;
use crate::wire::error::ErrorBody;
use crate::wire::line::DataForm;
use crate::wire::request::StreamRequest;

/// A stream whose first checkpoint is known.
pub struct Ready<V: View> {
    /// Who asks.
    pub asker: Arc<Asker>,
    /// Where the client stands, by bucket name.
    pub resume: HashMap<String, Place>,
    /// How it wants data.
    pub form: DataForm,
    /// How long the token is still valid; zero for one inside the tolerance.
    pub token_remaining: Duration,
    /// The first state.
    pub first: Announcement,
    /// Number of the publication that it was read from.
    pub number: u64,
    /// What was served when it was resolved.
    pub version: Version,
    /// Keeps the first state readable.
    pub lease: V::Lease,
    /// Already listening for what the first state depends on.
    pub listener: Listener<V>,
    /// The memory of the request, which lives as long as the stream.
    pub memory: Share,
}

/// The key of a user's write checkpoints, of `sub` and client id (8.1).
pub fn user_key(principal: &Principal, client_id: Option<&str>) -> String {
    hw_types::user_key::join(&principal.key(), client_id)
}

/// About how many bytes a value takes in memory.
fn weight(value: &Value) -> usize {
    let inside = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(weight).sum(),
        // An entry of a map has a key beside its value.
        Value::Object(map) => {
            map.iter().map(|(key, value)| size_of::<String>() + key.len() + weight(value)).sum()
        }
    };
    size_of::<Value>() + inside
}

impl Asker {
    /// About how many bytes a stream keeps of its request for as long as it lives.
    fn weight(&self) -> usize {
        let subscriptions = self.subscriptions.iter().map(|subscription| {
            size_of_val(subscription)
                + subscription.stream.len()
                + subscription.parameters.as_ref().map_or(0, Document::len)
        });
        weight(&self.claims) + self.parameters.len() + subscriptions.sum::<usize>()
    }
}

/// Requests up to this weight are let in whatever the memory.
const LIGHT: usize = 4096;

/// Prepares a stream.
///
/// - Errors: 500 without a configuration, 400 above a limit, 503 when the client stays ahead, the
///   server stops, or the user's streams keep as much of their requests as they may, 500 when the
///   store fails (its text goes to the log).
pub async fn prepare<S: Source>(
    shared: &Shared<S>,
    principal: &Principal,
    request: StreamRequest,
) -> Result<Ready<S::View>, ErrorBody> {
    let asker = Arc::new(Asker {
        claims: Value::Object(Map::clone(&principal.claims)),
        parameters: request.parameters,
        subscriptions: request.subscriptions,
        include_defaults: request.include_defaults,
        user: principal.key(),
        user_key: user_key(principal, request.client_id.as_deref()),
    });
    let bytes = asker.weight();
    let memory = match bytes > LIGHT {
        true => shared.requests.take(&asker.user, bytes).ok_or_else(|| {
            ErrorBody::unavailable("Memory is short and the requests of this user are large")
        })?,
        false => shared.requests.count(&asker.user, bytes),
    };
    let resume: HashMap<String, OpId> =
        request.buckets.into_iter().map(|held| (held.name, held.after)).collect();
    reach(shared, &resume).await?;
    let resume = places(shared, &asker, resume).await?;

    // Listening begins before the state is read: nothing can be published unnoticed in between.
    let mut listener = shared.hub.listen(&asker.user_key);
    let view = shared.source.newest();
    let (number, version, lease) = (view.number(), view.version(), view.lease());
    let Resolved { announcement: first, interest } =
        resolve(shared, view, asker.clone(), Vec::new())
            .await
            .map_err(|error| outer(&asker, &error))?;
    listener.attend(number, interest);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(Ready {
        asker,
        resume,
        form: request.form,
        token_remaining: Duration::from_secs(principal.expires_at).saturating_sub(now),
        first,
        number,
        version: version.ok_or_else(ErrorBody::no_sync_config)?,
        lease,
        listener,
        memory,
    })
}

/// Waits until this server has reached what the client has seen (E-10). Names of other
/// incarnations, and so of other epochs, say nothing about this server's positions.
async fn reach<S: Source>(
    shared: &Shared<S>,
    resume: &HashMap<String, OpId>,
) -> Result<(), ErrorBody> {
    let view = shared.source.newest();
    let served = resume.iter().filter(|(name, _)| view.serves_name(name));
    let seen = served.map(|(_, &after)| after).max().unwrap_or_default();
    if view.op_id() >= seen {
        return Ok(());
    }
    drop(view);
    let mut watch = shared.source.watch();
    let reached = async { watch.wait_for(|view| view.op_id() >= seen).await.is_ok() };
    tokio::select! {
        reached = tokio::time::timeout(shared.options.ahead_wait, reached) => match reached {
            Ok(true) => Ok(()),
            Ok(false) => Err(ErrorBody::unavailable("Server is stopping")),
            Err(_) => Err(ErrorBody::unavailable(
                "Server has not yet reached the position that this client has seen",
            )),
        },
        () = shared.stop.cancelled() => Err(ErrorBody::unavailable("Server is stopping")),
    }
}

/// Where a client stands. One that holds what this server never had is told to forget it, bucket by
/// bucket; the write checkpoint that it waits for may be lost, too, so it gets one that is not.
async fn places<S: Source>(
    shared: &Shared<S>,
    asker: &Asker,
    resume: HashMap<String, OpId>,
) -> Result<HashMap<String, Place>, ErrorBody> {
    let view = shared.source.newest();
    let mut lost = false;
    let place = |(name, after): (String, OpId)| {
        let is_lost = view.serves_name(&name) && view.is_lost(after);
        lost |= is_lost;
        (name, if is_lost { Place::lost(after) } else { Place::brought(after) })
    };
    let places = resume.into_iter().map(place).collect();
    if lost {
        view.meet_lost();
        let reached = async {
            let number = {
                // Whoever invents positions has the places of those who ask, and no more.
                let _place = shared.checkpoint_requests.wait(&asker.user).await;
                shared.source.write_checkpoint(&asker.user_key, None).await.ok()?
            };
            // A store that was put back alone has yet to learn what the source has; until then it
            // would answer from the past (E-10).
            let has_it = |view: &Arc<S::View>| {
                let stored = view.write_checkpoint(&asker.user_key);
                stored.is_ok_and(|stored| stored >= Some(number))
            };
            shared.source.watch().wait_for(has_it).await.ok().map(drop)
        };
        if tokio::time::timeout(shared.options.ahead_wait, reached).await.ok().flatten().is_none() {
            // It comes again, and holds the same.
            return Err(ErrorBody::unavailable(
                "Server has not yet reached what the source has, and this client holds more than it",
            ));
        }
    }
    Ok(places)
}

/// Resolves a user off the async threads: it may read thousands of keys.
pub(crate) async fn resolve<S: Source>(
    shared: &Shared<S>,
    view: Arc<S::View>,
    asker: Arc<Asker>,
    known: Vec<Known>,
) -> Result<ResolvedBy<S::View>, ResolveError> {
    let _place = shared.reads.wait(&asker.user).await;
    let limits = shared.options.user;
    let work = move || view.resolve(&asker, &limits, &known);
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        // The panic's own text may hold values; its hook has reported where it happened.
        Err(ResolveError::Failed(SourceError("resolving a user panicked".into())))
    })
}

fn outer(asker: &Asker, error: &ResolveError) -> ErrorBody {
    match error {
        ResolveError::TooMuch { description, details } => {
            tracing::warn!(user = asker.user_key, details, "{description}");
            ErrorBody::too_much(description)
        }
        ResolveError::NoConfig => ErrorBody::no_sync_config(),
        ResolveError::Failed(error) => {
            tracing::error!(user = asker.user_key, %error, "cannot resolve buckets");
            ErrorBody::internal()
        }
    }
}
