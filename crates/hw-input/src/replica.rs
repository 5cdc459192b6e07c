//! The replica as the driver sees it: all that it needs to know of the engine.
//!
//! The engine implements [`Replica`], once; what the driver has to say goes the other way, as a
//! [`Signal`](crate::signal::Signal). So the driver knows neither the store's layout nor how entries
//! are applied, and the engine neither builds a connection nor confirms anything to the source: it
//! tells what is durable.

use crate::identity::Stored;
use hw_pg::catalog::Refused;
use hw_types::facts::TableFacts;
use hw_types::{Diagnostic, EndLsn, Lsn, OpId, Relation, RelationId, TableName, TablePattern, Xid};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::watch;

/// What the driver needs to know.
pub trait Replica: Send + Sync {
    /// What is stored of the source and its history.
    ///
    /// - Errors: the store cannot be read, or a record in it is damaged.
    fn kept(&self) -> Result<Kept, Box<Diagnostic>>;

    /// Whether this store never gave an op id that the source remembers of it: it was put back.
    fn lacks(&self, op_id: OpId) -> bool;

    /// Signs markers.
    fn secret(&self) -> [u8; 32];

    /// Everything up to here is durable: what may be confirmed to the source. It goes back only where
    /// the history of another source begins.
    fn durable(&self) -> watch::Receiver<EndLsn>;

    /// What is to be followed, and what there is.
    fn plan(&self) -> watch::Receiver<Arc<Plan>>;

    /// What happened that the driver must react to.
    fn turns(&self) -> watch::Receiver<Turns>;

    /// Takes what a look at the catalog came to.
    fn looked(&self, looked: Looked);
}

/// What is stored of the source and its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Names this store at the source.
    pub store: u128,
    /// The last op id that clients were given.
    pub op_id: OpId,
    /// Which history is stored and how far; `None` when no rows are.
    pub stored: Option<Stored>,
    /// The slot of a copy of everything that was begun and has not entered, with where it was made; `None` as
    /// long as the engine was not told.
    pub copying: Option<(String, Option<Lsn>)>,
    /// Whether the source was found to repeat something else than what was applied.
    pub moved: bool,
}

/// What is to be followed, and what there is. Both parts keep their address as long as they are the
/// same.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What definitions read, those under construction included, and tables that are demanded.
    pub wanted: Arc<Vec<TablePattern>>,
    /// Of these, what no definition names: where it is not there, nobody has to mend that.
    pub demanded: Arc<BTreeSet<TableName>>,
    /// The tables of the replica by the source's oid.
    pub tables: Arc<Tables>,
    /// Tables that exist and cannot be replicated, as the replica knows it.
    pub refused: Arc<BTreeSet<TableName>>,
}

impl Plan {
    /// Leaves out of what is not there what nobody has to mend.
    pub(crate) fn expected(&self, missing: &mut Vec<Refused>) {
        missing.retain(|one| one.table.as_ref().is_none_or(|t| !self.demanded.contains(t)));
    }
}

/// The tables of the replica by the source's oid.
pub type Tables = BTreeMap<RelationId, ReplicaTable>;

/// A table of the replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaTable {
    /// As its rows are stored.
    pub relation: Arc<Relation>,
    /// What its rows depend on, as noted; `None` when nothing that can be read is noted.
    pub facts: Option<Arc<TableFacts>>,
    /// Transactions in which the log has emptied it since the replica was opened, the latest ones. Shared
    /// until there is another, so that those of one table cost nothing when something else is told.
    pub truncations: Arc<Vec<Xid>>,
    /// Whether it must be copied again.
    pub stale: bool,
}

/// Counts what happened that the driver must react to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// How often the log told that tables were altered (`headwater setup` installs what writes it).
    pub altered: u64,
    /// How often the engine began again from what is durable.
    pub restarts: u64,
    /// How often the source's history was found to be another one.
    pub moved: u64,
}

/// What a look at the catalog found.
#[derive(Clone, Debug)]
pub struct Looked {
    /// The patterns that it looked for.
    pub wanted: Arc<Vec<TablePattern>>,
    /// Tables that these mean, that can be replicated, and are not in the replica as they are now.
    pub missing: BTreeSet<TableName>,
    /// Whether that is all: what was found out just now may add to it.
    pub is_settled: bool,
    /// Tables that these mean, that can be replicated, and that are in the replica.
    pub found: BTreeSet<RelationId>,
}
