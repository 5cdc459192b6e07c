//! What the surface needs from the engine: a published state to read, a watch on it, and markers.
//!
//! Two implementations exist: `engine` over `hw-engine`, and the in-memory twin of the
//! HTTP tests. Invariant: a [`View`] is one consistent state, so that data and checksum agree; it
//! may pin a store snapshot, so nobody keeps one while waiting for a socket.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use hw_types::{Diagnostic, OpId, Place};
use serde_json::Value;
use tokio::sync::watch;

use crate::state::bucket::{Announcement, Bucket, Totals};
use crate::wire::document::Document;
use crate::wire::line::OperationLine;
use crate::wire::request::Subscription;

/// A failure below this surface. The text is for the log; clients learn only that it happened.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// Stable codes of this crate's findings.
pub mod code {
    /// What a client asks for cannot be read from the store.
    pub const UNREADABLE: u16 = 3112;
}

impl SourceError {
    /// Tells that a client could not be answered.
    ///
    /// - Takes: whose client, and what was to be done for it.
    pub(crate) fn log(&self, user: &str, doing: &str) {
        Diagnostic::error(code::UNREADABLE, format!("cannot {doing}: {self}"))
            .at(format!("a client of {user}"))
            .mend("see what else the log says of the store; report it when there is nothing")
            .log();
    }
}

/// Why a user's buckets could not be told.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// More buckets or parameter query results than allowed (PSYNC_S2305).
    #[error("{description}")]
    TooMuch {
        /// For the client: `Too many buckets: 1200 (limit of 1000)`.
        description: String,
        /// For the log: counts per definition.
        details: String,
    },
    /// No sync configuration is served (PSYNC_S2302).
    #[error("no sync configuration is served")]
    NoConfig,
    /// The store or an evaluation failed.
    #[error(transparent)]
    Failed(#[from] SourceError),
}

/// Bounds on one user (`powersync-protocol.md` 4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserLimits {
    /// Distinct buckets.
    pub max_buckets: usize,
    /// Rows returned by all parameter queries of one evaluation.
    pub max_parameter_results: usize,
}

impl Default for UserLimits {
    fn default() -> UserLimits {
        UserLimits { max_buckets: 1000, max_parameter_results: 1000 }
    }
}

/// Who asks, and with what parameters. Immutable for a connection.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The token's payload, an object.
    pub claims: Value,
    /// Connection parameters.
    pub parameters: Document,
    /// Explicit subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// Whether default streams are included.
    pub include_defaults: bool,
    /// Names the user: what he takes of shared places is his own ([`hw_auth::Principal::key`]).
    pub user: String,
    /// Names the user and the client: the key of write checkpoints (`open::user_key`).
    pub user_key: String,
}

/// A user's buckets at one published state.
#[derive(Clone, Debug)]
pub struct Resolved<B, L> {
    /// What to announce, with totals.
    pub announcement: Announcement,
    /// What wakes the user.
    pub interest: Interest<B, L>,
    /// What it took of the user's bounds.
    pub cost: Cost,
}

/// What a user's buckets take of his bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Rows of all lookups.
    pub results: usize,
    /// Elements looked at and buckets found, over all subscriptions.
    pub work: usize,
}

/// A user's buckets as they were resolved, with all differences since.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// Ascending by name.
    pub buckets: &'a [Bucket],
    /// What they took of his bounds.
    pub cost: Cost,
}

/// Which of a user's buckets came and went.
#[derive(Clone, Debug)]
pub struct Difference<B> {
    /// Indexes of those that go; ascending.
    pub went: Vec<usize>,
    /// Those that come, with their totals, ascending by name; each with the index that it comes before.
    pub came: Vec<(usize, Bucket)>,
    /// Their names in wake-ups, in the same order.
    pub keys: Vec<B>,
    /// What all take of the user's bounds then.
    pub cost: Cost,
}

/// A bucket that a stream has resolved before and that did not change since.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its name.
    pub name: Arc<str>,
    /// Its totals.
    pub totals: Totals,
}

impl<B> Difference<B> {
    /// That of buckets which stay as they are.
    pub fn none(cost: Cost) -> Difference<B> {
        Difference { went: Vec::new(), came: Vec::new(), keys: Vec::new(), cost }
    }
}

/// A name of something in wake-ups.
pub trait WakeKey: Copy + Ord + Hash + Debug + Send + Sync + 'static {}

impl<K: Copy + Ord + Hash + Debug + Send + Sync + 'static> WakeKey for K {}

/// What a stream listens for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest<B, L> {
    /// Its buckets, in the order of the announcement.
    pub buckets: Vec<B>,
    /// The lookups that its set of buckets came from.
    pub lookups: Vec<L>,
}

/// What is served. Buckets of one version have the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Counts the times at which numbers that clients are given began anew.
    pub epoch: u64,
    /// Counts sync configurations.
    pub config: u64,
}

/// What changed between two publications.
pub trait Changes: Send {
    /// Names buckets.
    type BucketKey: WakeKey;
    /// Names keys of lookups.
    type LookupKey: WakeKey;

    /// Whether everything must be looked at again: the record does not reach back, or the
    /// configuration changed.
    fn everything(&self) -> bool;
    /// Whether the bucket may have changed.
    fn bucket(&self, key: Self::BucketKey) -> bool;
    /// Whether the results under a lookup key may have changed.
    fn lookup(&self, key: Self::LookupKey) -> bool;
    /// Whether the user's write checkpoint may have changed.
    fn user(&self, user_key: &str) -> bool;
    /// Calls back with each changed bucket; duplicates are fine. Empty with `everything`.
    fn each_bucket(&self, each: &mut dyn FnMut(Self::BucketKey));
    /// Calls back with each changed lookup key.
    fn each_lookup(&self, each: &mut dyn FnMut(Self::LookupKey));
    /// Calls back with each user whose write checkpoint changed.
    fn each_user(&self, each: &mut dyn FnMut(&str));
}

/// Names buckets in the wake-ups of a view.
pub type BucketKeyOf<V> = <<V as View>::Changes as Changes>::BucketKey;
/// Names keys of lookups in the wake-ups of a view.
pub type LookupKeyOf<V> = <<V as View>::Changes as Changes>::LookupKey;
/// A user's buckets as a view resolves them.
pub type ResolvedBy<V> = Resolved<BucketKeyOf<V>, LookupKeyOf<V>>;
/// What a stream on a view listens for.
pub type InterestOf<V> = Interest<BucketKeyOf<V>, LookupKeyOf<V>>;

/// How a reading of operations ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageEnd {
    /// Whether more follow up to the totals that were asked for.
    pub has_more: bool,
    /// Where the client stands behind the last one.
    pub place: Place,
}

/// One published state.
pub trait View: Sized + Send + Sync + 'static {
    /// What changed, as this view's engine tells it.
    type Changes: Changes;
    /// See [`View::lease`].
    type Lease: Send + Sync;

    /// Counts publications of this process.
    fn number(&self) -> u64;
    /// The last operation contained.
    fn op_id(&self) -> OpId;
    /// Whether nobody may be answered from it, because clients may have been shown more than it holds.
    fn is_withheld(&self) -> bool;
    /// What is served; `None` while nothing is.
    fn version(&self) -> Option<Version>;
    /// Whether a bucket name that a client presents belongs to an incarnation that is served,
    /// and so to this epoch.
    fn serves_name(&self, name: &str) -> bool;
    /// Whether an operation that a client of this epoch presents was never given, although later ones
    /// were: the server was put back to an earlier state.
    fn is_lost(&self, op_id: OpId) -> bool;
    /// Notes that a client presented such an operation, for the operator.
    fn meet_lost(&self);
    /// The user's buckets, ascending by name, with their totals and the write checkpoint. The totals
    /// of `known` buckets, ascending by name, are not read again.
    fn resolve(
        &self,
        asker: &Asker,
        limits: &UserLimits,
        known: &[Known],
    ) -> Result<ResolvedBy<Self>, ResolveError>;
    /// What `changes` did to the set of a user's buckets, without those that stayed; `None` when only
    /// [`View::resolve`] can tell. Asked only where no stream had an error.
    fn difference(
        &self,
        asker: &Asker,
        limits: &UserLimits,
        before: Before<'_>,
        changes: &Self::Changes,
    ) -> Result<Option<Difference<BucketKeyOf<Self>>>, SourceError>;
    /// Totals of a bucket of the active configuration; zero when it never had a row.
    fn totals(&self, source: u32, parameters: &str) -> Result<Totals, SourceError>;
    /// Whether some definition stands still, so that what a write checkpoint contains depends on
    /// what its owner is subscribed to.
    fn stands_still(&self) -> bool;
    /// The greatest write checkpoint that this state contains for somebody whose definitions do
    /// not stand still; what [`View::resolve`] gives is for anybody.
    fn write_checkpoint(&self, user_key: &str) -> Result<Option<u64>, SourceError>;
    /// Keeps readable what a client that is sent this state still needs, until it is dropped.
    fn lease(&self) -> Self::Lease;
    /// Calls back with operations of `bucket` behind `place`, up to the totals that `bucket`
    /// carries (which may be older than this view), ascending: the newest of each row, and what
    /// stands for the others. Stops behind `rows` operations or about `bytes` bytes of them. `None`
    /// when the bucket can no longer be read as it was then.
    fn operations(
        &self,
        bucket: &Bucket,
        place: Place,
        limits: (usize, usize),
        each: &mut dyn FnMut(&OperationLine<'_>),
    ) -> Result<Option<PageEnd>, SourceError>;
    /// What changed in publications behind `number`, up to this one.
    fn changes_since(&self, number: u64) -> Self::Changes;
}

/// The engine as this surface sees it.
pub trait Source: Clone + Send + Sync + 'static {
    /// Its published states.
    type View: View;

    /// The newest published state.
    fn newest(&self) -> Arc<Self::View>;
    /// Tells of each new one.
    fn watch(&self) -> watch::Receiver<Arc<Self::View>>;
    /// Puts a write checkpoint into the source's log and returns its number (8.2), or records the
    /// number that the client chose unless a greater one is stored, and returns the stored one
    /// (8.3).
    fn write_checkpoint(
        &self,
        user_key: &str,
        requested: Option<u64>,
    ) -> impl Future<Output = Result<u64, SourceError>> + Send;
}
