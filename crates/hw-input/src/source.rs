//! The source as the driver sees it: who it is, what it publishes, its stream.
//!
//! In: a [`ConnectConfig`], the names of publication and instance. Out: [`Found`] for
//! [`crate::identity::check`], tables that are published and can be copied, a
//! [`TransactionStream`]. Nothing here keeps state about positions: what is stored, and what is
//! acknowledged, the engine knows.

use crate::error::Result;
use crate::identity::Found;
use crate::limit::within;
use crate::transactions::{
    Describer, Early, NextXid, Outdated, StreamLimits, TransactionStream, Values,
};
use hw_pg::catalog::{Catalog, Refused, Resolved, ServerInfo};
use hw_pg::config::ConnectConfig;
use hw_pg::copy::NotedTable;
use hw_pg::error::PgError;
use hw_pg::memory;
use hw_pg::publication::{self, Ensured};
use hw_pg::replication::{ReplicationConnection, ReplicationStream, StreamOptions};
use hw_pg::slot::{self, Session, SlotState};
use hw_pg::sql;
use hw_pg::types::TypeCatalog;
use hw_store::segment::SpoolDir;
use hw_types::{Lsn, OpId, RelationId, TableName, TablePattern};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio_postgres::Client;

/// How often a slot that another process uses is looked at.
const SLOT_POLL: Duration = Duration::from_secs(1);

/// What is configured about the source besides the connection.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Name of the publication.
    pub publication: String,
    /// Name of this instance; part of the slot's name. Empty for the only one.
    pub instance: String,
    /// Bytes of frames that may wait between the socket and the assembler.
    pub frame_bytes: usize,
    /// How long the source may take to answer a question about itself. A connection that is up
    /// and silent must not hold everything up unnoticed (P6).
    pub answer_limit: Duration,
    /// How long the stream may be silent, though asked, before it is taken for lost.
    pub silence_limit: Duration,
}

impl Default for SourceOptions {
    fn default() -> Self {
        SourceOptions {
            publication: String::from(publication::DEFAULT_NAME),
            instance: String::new(),
            frame_bytes: 8 << 20,
            answer_limit: Duration::from_secs(30),
            silence_limit: StreamOptions::default().silence_limit,
        }
    }
}

/// How long somebody's lock may keep the source from being reminded.
const LOCKED: Duration = Duration::from_secs(2);

/// What a look at the source found.
#[derive(Clone, Debug)]
pub struct Look {
    /// For [`crate::identity::check`].
    pub found: Found,
    /// Version and settings, for `doctor` and status.
    pub server: ServerInfo,
}

/// What [`Source::cover`] made of the tables that definitions name.
#[derive(Clone, Debug)]
pub struct Covered {
    /// Tables whose changes the publication sends, ready to be copied.
    pub tables: Vec<NotedTable>,
    /// Tables that the publication did not have before.
    pub added: Vec<TableName>,
    /// Names that mean no table (yet).
    pub missing: Vec<Refused>,
    /// Tables that cannot be replicated, each with its mend.
    pub refused: Vec<Refused>,
    /// The catalog behind the change of the publication, which is committed.
    pub catalog: Catalog,
    /// Whether the publication was made now: what was streamed before needs a new slot and a
    /// compared copy.
    pub made: bool,
}

/// A stream that has begun.
struct Opened {
    stream: ReplicationStream,
    /// In which form it sends values.
    values: Values,
    /// Whether it sends changes before their transaction ends.
    is_early: bool,
    next_xid: NextXid,
}

/// A source. Clones share what was learnt about it.
#[derive(Clone, Debug)]
pub struct Source {
    config: ConnectConfig,
    options: SourceOptions,
    /// Set when a stream met a column that has no binary form; binary is not tried again.
    text_only: Arc<AtomicBool>,
    early: Early,
    outdated: Outdated,
    /// The walsender of the last stream; 0 before the first one.
    walsender: Arc<AtomicU32>,
}

impl Source {
    /// A source; nothing is connected yet.
    pub fn new(config: ConnectConfig, options: SourceOptions) -> Source {
        let (text_only, early, outdated, walsender) = Default::default();
        Source { config, options, text_only, early, outdated, walsender }
    }

    /// Where it is.
    pub fn config(&self) -> &ConnectConfig {
        &self.config
    }

    /// What is configured.
    pub fn options(&self) -> &SourceOptions {
        &self.options
    }

    /// A new SQL connection; it ends with the client.
    pub async fn client(&self) -> Result<Client> {
        let (client, _driver) = sql::connect(&self.config).await?;
        Ok(client)
    }

    /// Looks who the source is and how its slot stands. Read-only.
    ///
    /// - Errors: a server older than 14; those of a connection. All walsenders in use is one of
    ///   them (F-17), to be tried again with [`Backoff`].
    pub async fn look(&self) -> Result<Look> {
        within(self.options.answer_limit, "look at the source", self.look_unbounded()).await
    }

    async fn look_unbounded(&self) -> Result<Look> {
        let client = self.client().await?;
        let server = ServerInfo::read(&client).await?;
        let mut connection = ReplicationConnection::connect(&self.config).await?;
        let system = connection.identify_system().await?;
        connection.close().await;
        let slot_name =
            slot::slot_name(system.system_id, server.database_oid, &self.options.instance);
        let slot = SlotState::read(&client, &slot_name).await?;
        let memory = memory::recall(&client, &slot_name).await?;
        let catalog = Catalog::read(&client, &self.options.publication, &[], &[]).await?;
        let found = Found {
            system_id: system.system_id,
            timeline: system.timeline,
            database_oid: server.database_oid,
            database: server.database.clone(),
            in_recovery: server.in_recovery,
            slot_name,
            slot,
            flush_lsn: system.flush_lsn,
            publication: catalog.publication.map(|publication| publication.oid),
            memory,
        };
        Ok(Look { found, server })
    }

    /// Whether it is the walsender of our last stream.
    pub fn is_own(&self, holder: &Session) -> bool {
        holder.pid.is_some_and(|pid| pid == self.walsender.load(Ordering::Relaxed))
    }

    /// Waits until no other process uses the slot (F-16).
    ///
    /// - Takes: `report`, called with the process that holds it, at first and whenever it is another one.
    pub async fn wait_for_slot(&self, name: &str, report: impl FnMut(&Session)) -> Result<()> {
        let limit = self.options.answer_limit;
        let client = within(limit, "look at the slot", self.client()).await?;
        let mut wait = slot::SlotWait::new(name, report);
        loop {
            let look = async { Ok(wait.look(&client).await?) };
            if within(limit, "look at the slot", look).await?.is_free() {
                return Ok(());
            }
            tokio::time::sleep(SLOT_POLL).await;
        }
    }

    /// Lets the source remember that this store uses the slot now ([`crate::history::REMIND`]). Returns
    /// false where another one took it than the one from which it may be taken.
    pub async fn remember(
        &self,
        slot: &str,
        store: (u128, OpId),
        from: Option<u128>,
    ) -> Result<bool> {
        let write = async {
            let client = self.client().await?;
            // Nothing is followed before the first one, and somebody's lock may last.
            let limit = format!("SET lock_timeout = {}", LOCKED.as_millis());
            client.batch_execute(&limit).await.map_err(PgError::from)?;
            Ok(memory::remember(&client, slot, store, from).await?)
        };
        within(self.options.answer_limit, "let the source remember", write).await
    }

    /// Drops the slot; false if it was not there.
    pub async fn drop_slot(&self, name: &str) -> Result<bool> {
        let drop = async { Ok(slot::drop_slot(&self.client().await?, name).await?) };
        within(self.options.answer_limit, "drop the slot", drop).await
    }

    /// Makes the publication send the tables that definitions name, as far as they can be
    /// replicated and it is ours, and describes them. The publication is made if it is not there.
    ///
    /// - Errors: those of a connection. What our role may not do refuses tables.
    pub async fn cover(&self, patterns: &[TablePattern]) -> Result<Covered> {
        let limit = self.options.answer_limit;
        within(limit, "cover the tables", self.cover_unbounded(patterns)).await
    }

    async fn cover_unbounded(&self, patterns: &[TablePattern]) -> Result<Covered> {
        let client = self.client().await?;
        let name = &self.options.publication;
        let Ensured { catalog, resolved, made, added, .. } =
            publication::ensure(&client, name, patterns, &[]).await?;
        let Resolved { tables, missing, refused, .. } = resolved;
        let tables = noted(&client, &catalog, &tables).await?;
        Ok(Covered { tables, added, missing, refused, catalog, made })
    }

    /// The same tables noted again, for another try of a copy. Those that are gone, or cannot be
    /// followed any more, are left out.
    pub async fn note(&self, tables: &[RelationId]) -> Result<Vec<NotedTable>> {
        let note = async {
            let client = self.client().await?;
            let catalog = Catalog::read(&client, &self.options.publication, &[], tables).await?;
            noted(&client, &catalog, tables).await
        };
        within(self.options.answer_limit, "describe tables", note).await
    }

    /// What the catalog says about the tables that patterns mean and those that are known.
    pub async fn catalog(
        &self,
        client: &Client,
        patterns: &[TablePattern],
        known: &[RelationId],
    ) -> Result<Catalog> {
        let read =
            async { Ok(Catalog::read(client, &self.options.publication, patterns, known).await?) };
        within(self.options.answer_limit, "read the catalog", read).await
    }

    /// A number that stays as long as [`Source::catalog`] would say the same (sizes apart). Cheap
    /// enough for every second.
    pub async fn fingerprint(
        &self,
        client: &Client,
        patterns: &[TablePattern],
        known: &[RelationId],
    ) -> Result<i64> {
        let ask = async {
            let name = &self.options.publication;
            Ok(Catalog::fingerprint(client, name, patterns, known).await?)
        };
        within(self.options.answer_limit, "look at the catalog", ask).await
    }

    /// Starts to stream from where the slot stands.
    ///
    /// - Errors: the slot is in use, gone or lost; those of a connection.
    pub async fn stream(
        &self,
        slot: &str,
        spool: SpoolDir,
        limits: StreamLimits,
    ) -> Result<TransactionStream> {
        let limit = self.options.answer_limit;
        let opened = within(limit, "start to stream", self.open_stream(slot)).await?;
        let Opened { stream, values, is_early, next_xid } = opened;
        let (text_only, outdated) = (self.text_only.clone(), self.outdated.clone());
        let describer = Describer::new(self.config.clone(), values, text_only, outdated, limit);
        let early = is_early.then(|| self.early.clone());
        Ok(TransactionStream::start(stream, early, describer, spool, limits, next_xid))
    }

    /// Whether large transactions are received behind their end only.
    pub fn sends_whole(&self) -> bool {
        !self.early.sends()
    }

    /// Lets a stream that runs describe tables again, before it reads anything that is committed from
    /// now on.
    pub fn describe_again(&self, tables: impl IntoIterator<Item = RelationId>) {
        self.outdated.extend(tables);
    }

    async fn open_stream(&self, slot: &str) -> Result<Opened> {
        let client = self.client().await?;
        let values = self.values(&client).await?;
        let state = SlotState::read(&client, slot).await?;
        let is_early = self.sends_early(&client, state.as_ref()).await?;
        let connection = ReplicationConnection::connect(&self.config).await?;
        self.walsender.store(connection.backend_pid(), Ordering::Relaxed);
        let options = StreamOptions {
            publications: vec![self.options.publication.clone()],
            streaming: is_early,
            binary: values == Values::Binary,
            budget_bytes: self.options.frame_bytes,
            silence_limit: self.options.silence_limit,
        };
        // 0/0: Postgres would silently move any other position forward.
        let stream = connection.start_replication(slot, Lsn::ZERO, &options).await?;
        // Of a slot that is not there no stream begins.
        let next_xid = NextXid::new(state.map(|slot| slot.next_xid).unwrap_or_default());
        Ok(Opened { stream, values, is_early, next_xid })
    }

    /// Whether changes of open transactions are wanted, as far as the source can send them.
    async fn sends_early(&self, client: &Client, slot: Option<&SlotState>) -> Result<bool> {
        if self.early.sends() {
            return Ok(true);
        }
        let confirmed = slot.and_then(|slot| slot.confirmed_flush).unwrap_or_default();
        Ok(self.early.resumes(confirmed, ServerInfo::read(client).await?.flush_lsn))
    }

    /// Binary only where every published column has a binary form that we read: the stream has
    /// one form for all columns.
    async fn values(&self, client: &Client) -> Result<Values> {
        if self.text_only.load(Ordering::Relaxed) {
            return Ok(Values::Text);
        }
        let name = &self.options.publication;
        let members = Catalog::members(client, name).await?;
        let catalog = Catalog::read(client, name, &[], &members).await?;
        let columns = catalog.tables.iter().flat_map(|table| &table.facts.columns);
        let mut oids: Vec<u32> = columns.map(|column| column.type_oid).collect();
        oids.sort_unstable();
        oids.dedup();
        let types = TypeCatalog::load(client, &oids).await?;
        let binary = oids.iter().all(|oid| types.resolve(*oid).has_binary());
        Ok(if binary { Values::Binary } else { Values::Text })
    }
}

/// Tables as they must be noted before a slot is made; those that cannot be followed are left out.
async fn noted(
    client: &Client,
    catalog: &Catalog,
    tables: &[RelationId],
) -> Result<Vec<NotedTable>> {
    let mut found = Vec::with_capacity(tables.len());
    for table in tables.iter().filter_map(|id| catalog.table_by_id(*id)) {
        found.extend(NotedTable::note(client, table).await?);
    }
    Ok(found)
}

/// How long to wait before the next try: longer each time, with chance mixed in, so that many
/// servers do not come back at the same moment.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    /// Below the 30 s within which nothing may stand still unnoticed (P6).
    const LONGEST: Duration = Duration::from_secs(15);

    /// No failure so far.
    pub fn new() -> Backoff {
        Backoff::default()
    }

    /// Notes a failure and tells how long to wait: between half and the whole of 100 ms, 200 ms …
    /// 15 s.
    pub fn next_wait(&mut self) -> Duration {
        let longest = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        longest.mul_f64(0.5 + 0.5 * chance())
    }

    /// How often it has failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Something between 0 and 1 that differs between processes.
fn chance() -> f64 {
    use std::hash::BuildHasher as _;
    let bits = std::hash::RandomState::new().hash_one(0u8);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_start_again_after_success() {
        let mut backoff = Backoff::new();
        let waits: Vec<Duration> = (0..12).map(|_| backoff.next_wait()).collect();
        for (number, wait) in waits.iter().enumerate() {
            let longest = Duration::from_millis(100 << number).min(Backoff::LONGEST);
            assert!(*wait >= longest / 2 && *wait <= longest, "{number}: {wait:?}");
        }
        assert_eq!(backoff.failures(), 12);
        backoff.reset();
        assert!(backoff.next_wait() <= Backoff::FIRST);
    }
}
