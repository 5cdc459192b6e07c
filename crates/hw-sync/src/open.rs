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
use hw_http::holder::Full;
use hw_types::{OpId, Place};
use serde_json::{Map, Value};

use crate::hub::Listener;
use crate::shared::Shared;
use crate::source::{
    Asker, Cost, Known, ResolveError, Resolved, ResolvedBy, Source, SourceError, Version, View,
};
use crate::state::bucket::Announcement;
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
    /// What the first state takes of the user's bounds.
    pub cost: Cost,
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

/// Requests up to this weight are let in whatever others keep: the number of streams bounds them.
const LIGHT: usize = 4096;

/// Prepares a stream.
///
/// - Errors: 500 without a configuration, 400 above a limit, 503 when the client stays ahead, the
///   server's state stays withheld, it stops, or open streams, the user's or all, keep as much of their requests as they may, 500 when the
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
        true => shared.requests.take(&asker.user, bytes).map_err(|full| {
            ErrorBody::unavailable(match full {
                Full::Own => "The open streams of this user keep as much as those of one user may",
                Full::Strangers | Full::All => {
                    "The open streams of all users keep as much as they may"
                }
            })
        })?,
        false => shared.requests.count(bytes),
    };
    let held: HashMap<String, OpId> =
        request.buckets.into_iter().map(|held| (held.name, held.after)).collect();

    settled(shared).await?;
    // Listening begins before the state is read: nothing can be published unnoticed in between.
    let mut listener = shared.hub.listen(&asker.user_key);
    let (view, resume) = standing(shared, &asker, &listener, &held).await?;
    let (number, version, lease) = (view.number(), view.version(), view.lease());
    let Resolved { announcement: first, interest, cost } =
        resolve(shared, view, asker.clone(), Vec::new())
            .await
            .map_err(|error| outer(shared, &asker, &error))?;
    listener.attend(number, interest);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(Ready {
        asker,
        resume,
        form: request.form,
        token_remaining: Duration::from_secs(principal.expires_at).saturating_sub(now),
        first,
        number,
        version: version.ok_or_else(|| nothing_served(shared))?,
        cost,
        lease,
        listener,
        memory,
    })
}

/// A state that a client may be shown, and where the client stands in its buckets. Both are of one
/// state: what is served at another one says nothing about this one's names.
///
/// A client that is ahead of this server waits (E-10). One that holds what this server never had is
/// told to forget it, bucket by bucket, and waits, too: a store that was put back alone has yet to
/// learn what the source has. The write checkpoint that it asks for here says when that is reached;
/// the one that it waits for may be lost, so it needs one that is not.
async fn standing<S: Source>(
    shared: &Shared<S>,
    asker: &Asker,
    listener: &Listener<S::View>,
    held: &HashMap<String, OpId>,
) -> Result<(Arc<S::View>, HashMap<String, Place>), ErrorBody> {
    let mut has_the_present = false;
    loop {
        let view = shared.source.newest();
        // Names of other incarnations, and so of other epochs, say nothing about this server's
        // positions.
        let served = || held.iter().filter(|(name, _)| view.serves_name(name));
        let seen = served().map(|(_, &after)| after).max().unwrap_or_default();
        if view.op_id() < seen {
            drop(view);
            reach(shared, seen).await?;
            continue;
        }
        let place = |(name, &after): (&String, &OpId)| {
            let place =
                if view.is_lost(after) { Place::lost(after) } else { Place::brought(after) };
            (name.clone(), place)
        };
        let places: HashMap<String, Place> = served().map(place).collect();
        if has_the_present || !places.values().any(|place| place.lost) {
            return Ok((view, places));
        }
        view.meet_lost();
        drop(view);
        present(shared, asker, listener).await?;
        has_the_present = true;
    }
}

/// What is said while clients may have been shown more than the server holds.
const WITHHELD: &str = "Server has yet to compare what it holds with the source";

/// Waits until somebody may be answered from what this server holds: not before it has asked the source
/// whether it was put back to an earlier state, and then not before that has been compared.
pub(crate) async fn settled<S: Source>(shared: &Shared<S>) -> Result<(), ErrorBody> {
    let mut watch = shared.source.watch();
    let settled = async {
        let settled = watch.wait_for(|view| !view.is_withheld()).await;
        settled.map(drop).map_err(|_| ErrorBody::stopping())
    };
    within(shared, shared.options.ahead_wait, WITHHELD, settled).await
}

/// Why nothing is served.
pub(crate) fn nothing_served<S: Source>(shared: &Shared<S>) -> ErrorBody {
    match shared.source.newest().is_withheld() {
        true => ErrorBody::unavailable(WITHHELD),
        false => ErrorBody::no_sync_config(),
    }
}

/// Waits until this server has reached what a client has seen.
async fn reach<S: Source>(shared: &Shared<S>, seen: OpId) -> Result<(), ErrorBody> {
    let mut watch = shared.source.watch();
    let reached = async {
        let reached = watch.wait_for(|view| view.op_id() >= seen).await;
        reached.map(drop).map_err(|_| ErrorBody::stopping())
    };
    let late = "Server has not yet reached the position that this client has seen";
    within(shared, shared.options.ahead_wait, late, reached).await
}

/// Waits until this server has what the source has now.
async fn present<S: Source>(
    shared: &Shared<S>,
    asker: &Asker,
    listener: &Listener<S::View>,
) -> Result<(), ErrorBody> {
    // It comes again, and holds the same.
    let late = "Server has not yet reached what the source has, and this client holds more than it";
    let reached = async {
        let number = {
            // Whoever invents positions has the places of those who ask, and no more.
            let _place = shared.checkpoint_requests.wait(&asker.user).await;
            let asked = shared.source.write_checkpoint(&asker.user_key, None).await;
            asked.map_err(|_| ErrorBody::unavailable(late))?
        };
        arrived(shared, listener, &asker.user_key, number).await.map(drop)
    };
    within(shared, shared.options.ahead_wait, late, reached).await
}

/// Waits for a state that contains a write checkpoint of the user who is listened for, and returns its
/// position. No state is held meanwhile.
pub(crate) async fn arrived<S: Source>(
    shared: &Shared<S>,
    listener: &Listener<S::View>,
    user_key: &str,
    number: u64,
) -> Result<OpId, ErrorBody> {
    loop {
        // Heard before it is looked: what is published behind the look rings again.
        listener.bell().heard();
        {
            let view = shared.source.newest();
            let stored = view.write_checkpoint(user_key).map_err(|error| {
                error.log(user_key, "read a write checkpoint");
                ErrorBody::internal()
            })?;
            if stored >= Some(number) {
                return Ok(view.op_id());
            }
        }
        listener.bell().rung().await;
    }
}

/// What comes of `work` unless the server stops or the time is over before.
pub(crate) async fn within<S: Source, T>(
    shared: &Shared<S>,
    most: Duration,
    late: &str,
    work: impl Future<Output = Result<T, ErrorBody>>,
) -> Result<T, ErrorBody> {
    tokio::select! {
        done = tokio::time::timeout(most, work) => {
            done.unwrap_or_else(|_| Err(ErrorBody::unavailable(late)))
        }
        () = shared.stop.cancelled() => Err(ErrorBody::stopping()),
    }
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

fn outer<S: Source>(shared: &Shared<S>, asker: &Asker, error: &ResolveError) -> ErrorBody {
    match error {
        ResolveError::TooMuch { description, details } => {
            shared.metrics.too_much(&asker.user_key, description, details);
            ErrorBody::too_much(description)
        }
        ResolveError::NoConfig => nothing_served(shared),
        ResolveError::Failed(error) => {
            error.log(&asker.user_key, "resolve buckets");
            ErrorBody::internal()
        }
    }
}
