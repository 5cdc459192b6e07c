//! What the driver is told of the engine ([`hw_input::replica`]).

use crate::board::Board;
use crate::error::{EngineError, code};
use crate::publish::Publication;
use crate::state::{CopyOfAll, Record, keys};
use crate::tables::Table;
use crate::writer::Writer;
use hw_input::identity::{Identity, Stored};
use hw_input::replica::{Kept, Looked, Plan, Replica, ReplicaTable, Tables, Turns};
use hw_input::signal::Inlet;
use hw_store::Store;
use hw_types::{Diagnostic, EndLsn, OpId};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::sync::watch;

/// The engine as the driver sees it.
pub(crate) struct Told {
    pub store: Store,
    pub board: Arc<Board>,
    pub publication: Arc<Publication>,
    pub inlet: Inlet,
}

impl Told {
    fn read(&self) -> Result<Kept, EngineError> {
        let store = &self.store;
        let state = store.space("state")?;
        let snapshot = store.snapshot();
        let tail_start = crate::tail::start(store, &store.space("tail")?)?;
        let end_lsn = self.publication.durable();
        let identity = Identity::load(&snapshot, &state, keys::IDENTITY)?;
        let copying = CopyOfAll::load(&snapshot, &state, keys::COPYING)?;
        Ok(Kept {
            store: store_id(&self.board.secret()),
            op_id: self.publication.given(),
            stored: identity.map(|identity| Stored { identity, end_lsn, tail_start }),
            copying: copying.map(|copy| (copy.slot, copy.made_at)),
            moved: snapshot.get(&state, keys::MOVED)?.is_some(),
        })
    }
}

/// Names a store at the source. As secret as a number can be that others read.
fn store_id(secret: &[u8; 32]) -> u128 {
    let hash = Sha256::digest(secret);
    u128::from_be_bytes(hash[..16].try_into().expect("a digest has 32 bytes"))
}

impl Replica for Told {
    fn kept(&self) -> Result<Kept, Box<Diagnostic>> {
        self.read().map_err(|error| {
            let stopping = || Diagnostic::error(code::STOPPING, error.to_string());
            Box::new(error.finding().unwrap_or_else(stopping))
        })
    }

    fn lacks(&self, op_id: OpId) -> bool {
        op_id > self.publication.given() || self.publication.current().runs().is_lost(op_id)
    }

    fn secret(&self) -> [u8; 32] {
        self.board.secret()
    }

    fn durable(&self) -> watch::Receiver<EndLsn> {
        self.publication.watch_durable()
    }

    fn plan(&self) -> watch::Receiver<Arc<Plan>> {
        self.board.plan.subscribe()
    }

    fn turns(&self) -> watch::Receiver<Turns> {
        self.board.turns.subscribe()
    }

    fn looked(&self, looked: Looked) {
        *self.board.looked.lock() = Some(looked);
        self.inlet.wake();
    }
}

/// What is to be followed, and what there is. What is as it was told before keeps its address.
pub(crate) fn plan(writer: &Writer, told: &Plan) -> Plan {
    let table = |table: Arc<Table>| {
        let record = &table.record;
        let relation = record.relation.clone();
        let facts = table.facts.clone();
        let stale = writer.stale.contains(&record.number);
        let truncations = writer.truncations.get(&record.number).cloned().unwrap_or_default();
        (record.relation.id, ReplicaTable { relation, facts, truncations, stale })
    };
    let tables: Tables = writer.tables.all().into_iter().map(table).collect();
    let definitions = &writer.definitions;
    let wanted = definitions.table_patterns();
    let demanded = definitions.demanded_only();
    let refused = &definitions.refused;
    Plan {
        wanted: kept_or_new(&told.wanted, wanted),
        demanded: kept_or_new(&told.demanded, demanded),
        tables: kept_or_new(&told.tables, tables),
        refused: kept_or_new(&told.refused, refused.clone()),
    }
}

/// What was told before, if it is the same.
fn kept_or_new<T: PartialEq>(told: &Arc<T>, now: T) -> Arc<T> {
    if **told == now { told.clone() } else { Arc::new(now) }
}
