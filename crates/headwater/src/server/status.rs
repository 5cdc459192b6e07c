//! The figures of a running server: one report for `/admin/api/status`, `headwater status`, the
//! metrics and the status line of `dev`.
//!
//! In: what the engine, the surfaces and the sockets count. Out: plain JSON. Invariants: names and
//! counts, never values of rows, never secrets; figures that another version does not send are 0.

use serde::{Deserialize, Serialize};

use crate::process;

/// Everything that [`StatusReport::state`] may be once a server has started.
pub const STATES: [&str; 6] = ["starting", "copying", "building", "streaming", "waiting", "failed"];

/// What a server is doing. Sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Version of the server.
    pub version: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// `starting`, `copying`, `building` (what a sync configuration selects), `streaming`,
    /// `waiting` or `failed`; the last two with the reason in `trouble`.
    pub state: String,
    /// Why it is not streaming, when it is not, or what hinders what is served.
    pub trouble: Option<String>,
    /// The source.
    pub source: SourceReport,
    /// The newest published checkpoint.
    pub checkpoint: CheckpointReport,
    /// What is served, and what is not at the moment.
    #[serde(default)]
    pub sync: SyncReport,
    /// Copies in progress.
    pub copies: Vec<CopyReport>,
    /// Connections.
    pub clients: ClientsReport,
    /// What the surfaces and the edge use of their bounds.
    #[serde(default)]
    pub bounds: Vec<BoundReport>,
    /// Live results.
    #[serde(default)]
    pub live: LiveReport,
    /// The store.
    pub store: StoreReport,
    /// What has been applied since the start.
    pub applied: AppliedReport,
}

/// The source and how far behind it we are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceReport {
    /// Name of the database.
    pub database: String,
    /// Log that is not published yet. Unset while it is not known.
    pub lag_bytes: Option<u64>,
    /// Seconds since what is published was the newest.
    pub lag_seconds: Option<f64>,
    /// Log that the slot makes the source keep. Unset when it has not answered lately.
    pub retained_bytes: Option<u64>,
    /// Its limit.
    pub retained_limit_bytes: u64,
    /// Seconds since the catalog was compared with what is known of the tables, and there was no news:
    /// what was done to them since may not be known, or not be applied, yet. Unset until it is.
    pub catalog_seconds: Option<f64>,
    /// Whether large transactions are received behind their end only, because the source could not send
    /// one before that (HW3054).
    pub sent_whole: bool,
    /// Why the last copy of tables was thrown away and how to mend it, while there is no room for one (HW3055, HW3003).
    pub copy_starved: Option<String>,
}

/// The sync configuration in force, and the one that is to follow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncReport {
    /// Number of the configuration that waits: for tables, or until it is built.
    pub waiting_version: Option<u64>,
    /// Tables that are copied again and compared, because their changes could not be followed.
    pub stale_tables: Vec<String>,
    /// Definitions that stand still until these tables have entered again.
    pub frozen: Vec<String>,
    /// The same, with what is kept back because of them.
    pub held: Vec<HeldReport>,
    /// Definitions that are not served, because a table that they read cannot be replicated, or a column
    /// is not sent; or not yet, because they are new and a table has to be copied.
    pub withheld: Vec<String>,
    /// Tables that definitions name and that cannot be replicated, or of which a column that is read is
    /// not sent, each with the reason.
    pub refused: Vec<String>,
    /// Tables and definitions that the store has lost to damage and that are copied and built again;
    /// nothing is served until they are.
    pub lost: Vec<String>,
}

/// A definition that stands still, and the write checkpoints that came since: clients that use it are told
/// them when it goes on, so that what they wrote stays pending there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeldReport {
    /// The definition.
    pub definition: String,
    /// The position of the source at which it stands, as Postgres writes it.
    pub since: String,
    /// Write checkpoints whose markers came behind that, one for each client at most.
    pub write_checkpoints: u64,
}

/// Results that are kept live.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LiveReport {
    /// Results that are kept.
    pub results: u64,
    /// Those whose changes are computed here; for the others Postgres is asked.
    pub planned: u64,
    /// Those that are being asked, or wait for it.
    pub waiting: u64,
    /// Seconds for which the oldest question waits for its answer. Unset while there is none.
    pub behind_seconds: Option<f64>,
    /// Those for which the others of their socket do not wait any more: they are not told in the order of commits.
    pub overtaken: u64,
    /// Why Postgres cannot be asked, while it cannot.
    pub failing: Option<String>,
    /// Tables whose changes are not followed, each with the reason: what depends on them is asked each second.
    pub polled: Vec<String>,
    /// Tables and roles for which an audit found that what is computed here is not what Postgres shows, so that it is
    /// asked until policies, functions or grants change (HW4306).
    pub disagreements: Vec<String>,
}

/// A published position.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointReport {
    /// Newest operation, as text because it may exceed what JavaScript counts exactly.
    pub op_id: String,
    /// Position of the source, as Postgres writes it.
    pub lsn: String,
    /// Number of the sync configuration in force, 0 for none.
    pub sync_version: u64,
    /// Checkpoints published since the start.
    pub published: u64,
}

/// A table whose first copy is in progress.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CopyReport {
    /// `schema.table`.
    pub table: String,
    /// Rows read.
    pub rows: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Rows there may be, by the source's statistics.
    pub estimated_rows: Option<u64>,
    /// Whether all rows are read and what happened meanwhile is being applied.
    pub read: bool,
    /// The key range that is read, each in a snapshot of its own; unset while one snapshot is enough.
    pub range: Option<u64>,
    /// Whether one snapshot is held until all rows are read.
    pub one_snapshot: bool,
    /// Seconds since it began.
    pub seconds: f64,
}

/// Connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientsReport {
    /// Open connections of any kind.
    pub connections: u64,
    /// Their limit.
    pub limit: u64,
    /// Open streams of all surfaces.
    pub streams: u64,
}

/// Something bounded, and how much of it is used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BoundReport {
    /// Whose it is: a surface, or `http` for what all share.
    pub surface: String,
    /// What it is, with its unit unless it is counted.
    pub name: String,
    /// How much is used.
    pub used: u64,
    /// The bound.
    pub limit: u64,
}

/// The store on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreReport {
    /// Code and finding, once a client was there that holds operations which this store has never had.
    pub went_back: Option<String>,
    /// How often the writer has begun again since the start, because it could not write.
    pub restarts: u64,
    /// Bytes of the store.
    pub bytes: u64,
    /// Memory of writes that are not in the store's tables yet.
    pub memtable_bytes: u64,
    /// Its limit.
    pub memtable_limit_bytes: u64,
    /// Memory of transactions that wait to be written to the store.
    pub queue_bytes: u64,
    /// Its limit.
    pub queue_limit_bytes: u64,
    /// Bytes of spools.
    pub spool_bytes: u64,
    /// Their limit.
    pub spool_limit_bytes: u64,
}

/// What has been applied since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppliedReport {
    /// Transactions of the source.
    pub transactions: u64,
    /// Changes of rows in them.
    pub rows: u64,
    /// Rows that copies of tables brought.
    pub copied_rows: u64,
    /// Operations of buckets that came of both.
    pub operations: u64,
}

impl StatusReport {
    /// Sets what is read rather than counted where it happens.
    pub fn record(&self) {
        metrics::counter!("headwater_operations_total").absolute(self.applied.operations);
        metrics::counter!("headwater_checkpoints_total").absolute(self.checkpoint.published);
        let set = |name: &'static str, value: f64| metrics::gauge!(name).set(value);
        let whole = |value: u64| value as f64;
        for state in STATES {
            let is = f64::from(u8::from(self.state == state));
            metrics::gauge!("headwater_state", "state" => state).set(is);
        }
        if let Some(seconds) = self.source.lag_seconds {
            set("headwater_replication_lag_seconds", seconds);
            // What it was when the source was last heard is not what it is.
            set("headwater_replication_lag_bytes", self.source.lag_bytes.map_or(f64::NAN, whole));
        }
        if let Some(seconds) = self.source.catalog_seconds {
            set("headwater_catalog_age_seconds", seconds);
        }
        if self.source.lag_seconds.is_some() {
            let retained = self.source.retained_bytes.map_or(f64::NAN, whole);
            set("headwater_retained_log_bytes", retained);
        }
        set("headwater_retained_log_limit_bytes", whole(self.source.retained_limit_bytes));
        set("headwater_checkpoint_op_id", self.checkpoint.op_id.parse().unwrap_or(0.0));
        set("headwater_sync_version", whole(self.checkpoint.sync_version));
        set("headwater_sync_waiting", f64::from(u8::from(self.sync.waiting_version.is_some())));
        set("headwater_tables_stale", self.sync.stale_tables.len() as f64);
        set("headwater_tables_refused", self.sync.refused.len() as f64);
        set("headwater_definitions_frozen", self.sync.frozen.len() as f64);
        let held = self.sync.held.iter().map(|held| held.write_checkpoints).max();
        set("headwater_write_checkpoints_held", whole(held.unwrap_or(0)));
        set("headwater_definitions_withheld", self.sync.withheld.len() as f64);
        set("headwater_live_waiting", whole(self.live.waiting));
        set("headwater_live_behind_seconds", self.live.behind_seconds.unwrap_or(0.0));
        set("headwater_live_overtaken", whole(self.live.overtaken));
        set("headwater_live_failing", f64::from(u8::from(self.live.failing.is_some())));
        set("headwater_live_polled_tables", self.live.polled.len() as f64);
        set("headwater_clients", whole(self.clients.connections));
        set("headwater_clients_limit", whole(self.clients.limit));
        for bound in &self.bounds {
            let labels = [("surface", bound.surface.clone()), ("bound", bound.name.clone())];
            metrics::gauge!("headwater_bound_used", &labels).set(whole(bound.used));
            metrics::gauge!("headwater_bound_limit", &labels).set(whole(bound.limit));
        }
        set("headwater_store_bytes", whole(self.store.bytes));
        set("headwater_store_memtable_bytes", whole(self.store.memtable_bytes));
        set("headwater_store_memtable_limit_bytes", whole(self.store.memtable_limit_bytes));
        set("headwater_queue_memory_bytes", whole(self.store.queue_bytes));
        set("headwater_queue_memory_limit_bytes", whole(self.store.queue_limit_bytes));
        set("headwater_spool_bytes", whole(self.store.spool_bytes));
        set("headwater_spool_limit_bytes", whole(self.store.spool_limit_bytes));
        set("headwater_uptime_seconds", whole(self.uptime_seconds));
        metrics::gauge!("headwater_build_info", "version" => self.version.clone()).set(1.0);
        if let Some(bytes) = process::resident_memory() {
            set("headwater_process_memory_bytes", whole(bytes));
        }
        let is_starved = self.source.copy_starved.is_some();
        set("headwater_copy_starved", f64::from(u8::from(is_starved)));
        set("headwater_tables_copying", self.copies.len() as f64);
        set("headwater_copy_rows", whole(self.copies.iter().map(|copy| copy.rows).sum()));
        set("headwater_copy_bytes", whole(self.copies.iter().map(|copy| copy.bytes).sum()));
    }
}
