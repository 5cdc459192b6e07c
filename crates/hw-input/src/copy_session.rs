//! A copy of tables at one boundary of the log.
//!
//! Order (`engine.md` 6): (a) the publication change is committed ([`crate::source::Source::cover`]
//! has returned), and the tables are noted; (b) the slot is made, its consistent point is the
//! boundary X and its snapshot is exported; (c) every worker imports the snapshot before the
//! slot's connection does anything else. Then each table is locked, compared with what was noted,
//! and copied. The stream gives the changes of transactions with commit_lsn >= X, equality
//! included; all others are in the copy.
//!
//! No snapshot is held longer than [`CopyBounds`] say (E-8): a table that is not read by then is left
//! out, and a later session reads it in ranges of its key, each under a snapshot of its own
//! (`engine.md` 6.4). Those are taken behind X, so every transaction that was open when the
//! publication changed, and of which the log gives only a part, is in all of them.
//!
//! A table that is not what was noted needs a new X: [`CopySession::open`] tries again a few
//! times by itself, and a difference that shows up later fails the session.

use crate::entry::Reading;
use crate::error::{InputError, Result, code};
use crate::limit::within;
use crate::source::Source;
use hw_pg::copy::{KeyPlace, LOCK_LIMIT, NotedTable, Range, SnapshotReader, TableCopy};
use hw_pg::error::PgError;
use hw_pg::replication::{CreatedSlot, ReplicationConnection, SlotLife};
use hw_pg::slot::{self, Session};
use hw_types::{Diagnostic, Lsn, Relation, RelationId, Row, TableName};
use parking_lot::Mutex;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// How often a new boundary is tried when tables keep changing.
const TRIES: u32 = 5;

/// How long making a slot may wait before what blocks it is reported, and how often again.
const BLOCKED_AFTER: Duration = Duration::from_secs(1);

/// Which slot gives the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotChoice {
    /// The main slot, made now and kept: X is where the stream begins.
    Main {
        /// Its name.
        name: String,
    },
    /// A slot that goes with the session; the main slot streams already.
    Temporary,
}

/// How long a copy may hold a snapshot, and for which tables that was found to be too short.
#[derive(Clone, Debug)]
pub struct CopyBounds {
    /// How long; without it everything is read in one snapshot.
    pub max_snapshot: Option<Duration>,
    /// Tables that are read in key ranges from the beginning.
    pub ranges: BTreeSet<RelationId>,
    /// Tables that are read in one snapshot, however long that takes, although they have ranges.
    pub one_snapshot: BTreeSet<RelationId>,
}

impl CopyBounds {
    /// No bound: everything is read in one snapshot.
    pub fn none() -> CopyBounds {
        CopyBounds { max_snapshot: None, ranges: BTreeSet::new(), one_snapshot: BTreeSet::new() }
    }

    /// The bound for the snapshots of a table; `None` for one that is read in one snapshot.
    fn of(&self, table: &NotedTable) -> Option<Duration> {
        let id = table.catalog.facts.id;
        self.max_snapshot.filter(|_| table.has_ranges() && !self.one_snapshot.contains(&id))
    }

    /// The same for one that is read in ranges now.
    fn of_range(&self, table: &NotedTable) -> Option<Duration> {
        self.of(table).filter(|_| self.ranges.contains(&table.catalog.facts.id))
    }
}

/// What a copy delivers.
#[derive(Debug)]
pub enum CopyItem {
    /// Rows of a table, in no order.
    Rows {
        /// The table, by its place in [`CopySession::tables`].
        table: usize,
        /// The rows.
        rows: Vec<Row>,
        /// Bytes received for them.
        bytes: u64,
    },
    /// A table is complete.
    TableDone {
        /// The table, by its place in [`CopySession::tables`].
        table: usize,
        /// Its number of rows.
        rows: u64,
    },
}

/// How far a copy is; for progress bars, status and metrics.
#[derive(Clone, Debug)]
pub struct CopyProgress {
    /// The table.
    pub table: TableName,
    /// Rows received.
    pub rows: u64,
    /// Bytes received.
    pub bytes: u64,
    /// The planner's estimate of its rows, if it has one.
    pub estimated_rows: Option<u64>,
    /// Its size on the source's disk.
    pub source_bytes: u64,
    /// Whether it is complete.
    pub done: bool,
    /// The key range that is read, from 1; `None` for a table that is read in one snapshot.
    pub range: Option<u64>,
    /// Whether its snapshot is held until it is complete, however long that takes.
    pub one_snapshot: bool,
}

#[derive(Debug, Default)]
struct Counters {
    rows: AtomicU64,
    bytes: AtomicU64,
    done: AtomicU64,
    /// Key ranges that were begun.
    ranges: AtomicU64,
}

/// Tells the progress of a copy from anywhere.
#[derive(Clone, Debug)]
pub struct ProgressHandle {
    tables: Arc<[(NotedTable, Counters)]>,
    bounds: Arc<CopyBounds>,
    taken_at: Instant,
}

impl ProgressHandle {
    /// Every table of the copy.
    pub fn tables(&self) -> Vec<CopyProgress> {
        let entries = self.tables.iter().map(|(table, counters)| CopyProgress {
            table: table.catalog.facts.name.clone(),
            rows: counters.rows.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
            estimated_rows: table.catalog.estimated_rows,
            source_bytes: table.catalog.bytes,
            done: counters.done.load(Ordering::Relaxed) > 0,
            range: Some(counters.ranges.load(Ordering::Relaxed)).filter(|range| *range > 0),
            one_snapshot: self.bounds.of(table).is_none(),
        });
        entries.collect()
    }

    /// How long the snapshot has been held, which keeps the source from cleaning up (E-8).
    pub fn snapshot_held_for(&self) -> Duration {
        self.taken_at.elapsed()
    }
}

/// Tables at one boundary, ready to be read. Dropping it gives the snapshot back.
pub struct CopySession {
    source: Source,
    boundary: Lsn,
    readers: Vec<SnapshotReader>,
    tables: Arc<[(NotedTable, Counters)]>,
    bounds: Arc<CopyBounds>,
    taken_at: Instant,
}

impl CopySession {
    /// Makes the slot and takes its snapshot.
    ///
    /// - Takes: tables from [`Source::cover`], whose publication change is therefore committed;
    ///   `workers`, the number of connections that copy (at least 1); `report`, called each second
    ///   of a wait for the slot with those whose transactions hold it back then (F-18), perhaps none.
    /// - Returns: when all workers are inside the snapshot and no table was rewritten meanwhile.
    /// - Errors: no slot is free (F-17); tables that keep changing; those of a connection. No
    ///   temporary slot is left behind, and a main slot that was made is dropped again.
    pub async fn open(
        source: &Source,
        tables: Vec<NotedTable>,
        choice: SlotChoice,
        workers: usize,
        mut report: impl FnMut(&[Session]),
    ) -> Result<CopySession> {
        let ids: Vec<RelationId> = tables.iter().map(|table| table.catalog.facts.id).collect();
        let mut tables = tables;
        for attempt in 1..=TRIES {
            let opened = attempt_open(source, tables, &choice, workers, &mut report).await;
            let failed = match opened {
                Ok(session) => return Ok(session),
                Err(failed) => failed,
            };
            if let (SlotChoice::Main { name }, true) = (&choice, failed.slot_was_made) {
                source.drop_slot(name).await?;
            }
            match failed.error {
                InputError::Overtaken(table) => {
                    tracing::info!(%table, attempt, "a table changed before it could be copied");
                    tables = source.note(&ids).await?;
                }
                error => return Err(error),
            }
        }
        let what = format!("tables kept changing through {TRIES} tries to copy them");
        Err(InputError::from(
            Diagnostic::error(code::COPY_RESTLESS, what)
                .mend("pause the job that truncates or rewrites them until they are copied"),
        ))
    }

    /// Bounds how long it holds a snapshot.
    pub fn bounded(self, bounds: CopyBounds) -> CopySession {
        CopySession { bounds: Arc::new(bounds), ..self }
    }

    /// The boundary X: the copy holds every transaction with commit_lsn < X and no other.
    pub fn boundary(&self) -> Lsn {
        self.boundary
    }

    /// The relations in the order in which [`CopyItem`]s name them.
    pub fn relations(&self) -> Vec<Arc<Relation>> {
        self.tables.iter().map(|(table, _)| table.relation.clone()).collect()
    }

    /// The tables as they were noted.
    pub fn tables(&self) -> Vec<NotedTable> {
        self.tables.iter().map(|(table, _)| table.clone()).collect()
    }

    /// A handle that tells the progress from anywhere.
    pub fn progress(&self) -> ProgressHandle {
        ProgressHandle {
            tables: self.tables.clone(),
            bounds: self.bounds.clone(),
            taken_at: self.taken_at,
        }
    }

    /// Reads all tables, several at a time: first those that need the session's snapshot to the end,
    /// the largest first; then, the smallest first, those that can be left out; then those that are
    /// read in ranges.
    ///
    /// - Takes: `sink`, a bounded channel; when it is full, the server waits. When its receiver is
    ///   dropped, the copy ends with [`InputError::Closed`].
    /// - Returns: how they were read.
    /// - Errors: [`InputError::Overtaken`] when a table is not what was noted; those of a
    ///   connection. What was delivered is then worth nothing: a new session has a new X.
    pub async fn run(self, sink: mpsc::Sender<CopyItem>) -> Result<Reading> {
        let CopySession { source, readers, tables, bounds, taken_at, .. } = self;
        let (in_ranges, mut whole): (Vec<usize>, Vec<usize>) =
            (0..tables.len()).partition(|&table| bounds.of_range(&tables[table].0).is_some());
        whole.sort_by_key(|&table| {
            let bytes = i128::from(tables[table].0.catalog.bytes);
            let is_bounded = bounds.of(&tables[table].0).is_some();
            (is_bounded, if is_bounded { bytes } else { -bytes })
        });
        let queues =
            Arc::new(Mutex::new(Queues { whole: whole.into(), in_ranges: in_ranges.into() }));
        let reading = Arc::<Mutex<Reading>>::default();
        let mut workers = tokio::task::JoinSet::new();
        for reader in readers {
            let worker = Worker {
                source: source.clone(),
                tables: tables.clone(),
                queues: queues.clone(),
                bounds: bounds.clone(),
                reading: reading.clone(),
                sink: sink.clone(),
            };
            workers.spawn(hw_process::vital("a reader of copies", worker.run(reader, taken_at)));
        }
        drop(sink);
        let mut outcome = Ok(());
        while let Some(ended) = workers.join_next().await {
            let ended = ended.unwrap_or(Err(InputError::Closed));
            if let Err(error) = ended
                && outcome.is_ok()
            {
                // The others' work is worth nothing either; their connections end with them.
                workers.abort_all();
                outcome = Err(error);
            }
        }
        outcome?;
        Ok(std::mem::take(&mut *reading.lock()))
    }
}

struct Failed {
    error: InputError,
    slot_was_made: bool,
}

async fn attempt_open(
    source: &Source,
    tables: Vec<NotedTable>,
    choice: &SlotChoice,
    workers: usize,
    report: &mut impl FnMut(&[Session]),
) -> Result<CopySession, Failed> {
    let before = |error: InputError| Failed { error, slot_was_made: false };
    let behind = |error: InputError| Failed { error, slot_was_made: true };
    let config = source.config();
    let connecting = async { Ok(ReplicationConnection::connect(config).await?) };
    let connecting = within(source.options().answer_limit, "make a slot", connecting);
    let mut connection = connecting.await.map_err(before)?;
    // A type may have been altered since the stream was told of it: from the boundary on it reads
    // values as the copy does, or the check below fails.
    source.describe_again(tables.iter().map(|table| table.catalog.facts.id));
    let created = create_slot(source, &mut connection, choice, report).await;
    let created = created.map_err(|error| before(error.into()))?;
    let taken_at = Instant::now();

    // Nothing may be said on `connection` until the last worker has the snapshot.
    let limit = source.options().answer_limit;
    let workers = workers.clamp(1, tables.len().max(1));
    let opening = (0..workers).map(|_| SnapshotReader::open(config, &created.snapshot));
    let opening = async { Ok(futures_util::future::try_join_all(opening).await?) };
    let readers = within(limit, "import the slot's snapshot", opening).await;
    connection.close().await;
    let readers = readers.map_err(behind)?;

    // Making the slot may have taken long; what was rewritten meanwhile is found now.
    let now = within(limit, "check the tables", source.client()).await.map_err(behind)?;
    for table in &tables {
        let check = async {
            readers[0].check(table, &source.options().publication, &now).await?;
            Ok(readers[0].release().await?)
        };
        within(limit + LOCK_LIMIT, "check the tables", check).await.map_err(behind)?;
    }
    let tables = tables.into_iter().map(|table| (table, Counters::default())).collect();
    Ok(CopySession {
        source: source.clone(),
        boundary: created.consistent_point,
        readers,
        tables,
        bounds: Arc::new(CopyBounds::none()),
        taken_at,
    })
}

/// Makes the slot; while that waits for open transactions, says which.
async fn create_slot(
    source: &Source,
    connection: &mut ReplicationConnection,
    choice: &SlotChoice,
    report: &mut impl FnMut(&[Session]),
) -> Result<CreatedSlot, PgError> {
    let pid = connection.backend_pid();
    let (name, life) = match choice {
        SlotChoice::Main { name } => (name.clone(), SlotLife::Permanent),
        // Unique: the walsender has one at a time, and its pid is in use while it lives.
        SlotChoice::Temporary => (format!("headwater_copy_{pid}"), SlotLife::Temporary),
    };
    let creating = connection.create_slot(&name, life);
    tokio::pin!(creating);
    let mut asking = None;
    loop {
        match tokio::time::timeout(BLOCKED_AFTER, &mut creating).await {
            Ok(created) => return created,
            Err(_) => {
                // The answer to this question must not end the wait.
                if asking.is_none() {
                    asking = source.client().await.ok();
                }
                let Some(client) = &asking else { continue };
                match slot::blockers(client, pid).await {
                    Ok(blockers) => report(&blockers),
                    Err(_) => asking = None,
                }
            }
        }
    }
}

/// Tables that wait for a worker, by their place.
struct Queues {
    /// Read under the session's snapshot.
    whole: VecDeque<usize>,
    /// Read in ranges.
    in_ranges: VecDeque<usize>,
}

struct Worker {
    source: Source,
    tables: Arc<[(NotedTable, Counters)]>,
    queues: Arc<Mutex<Queues>>,
    bounds: Arc<CopyBounds>,
    reading: Arc<Mutex<Reading>>,
    sink: mpsc::Sender<CopyItem>,
}

impl Worker {
    async fn run(self, reader: SnapshotReader, taken_at: Instant) -> Result<()> {
        let limit = self.source.options().answer_limit;
        let now = within(limit, "check the tables", self.source.client()).await?;
        let mut reader = Some(reader);
        loop {
            let next = self.queues.lock().whole.pop_front();
            let Some(number) = next else { break };
            let (table, _) = &self.tables[number];
            let until = self.bounds.of(table).map(|max| taken_at + max);
            let Some(open) = reader.take_if(|_| until.is_none_or(|until| Instant::now() < until))
            else {
                self.leave_out(number);
                continue;
            };
            self.check(&open, table, &now).await?;
            let copy = open.copy(table).await?;
            match self.pass_on(number, open, copy, until, &mut None).await? {
                Some(open) => {
                    open.release().await?;
                    self.table_is_done(number).await?;
                    reader = Some(open);
                }
                None => self.leave_out(number),
            }
        }
        drop(reader);
        loop {
            let next = self.queues.lock().in_ranges.pop_front();
            let Some(number) = next else { return Ok(()) };
            self.read_ranges(number, &now).await?;
            self.table_is_done(number).await?;
        }
    }

    /// Another session reads it, in ranges.
    fn leave_out(&self, number: usize) {
        let facts = &self.tables[number].0.catalog.facts;
        tracing::info!(table = %facts.name, "the table is copied later, in key ranges");
        self.reading.lock().left_out.insert(facts.id);
    }

    async fn table_is_done(&self, number: usize) -> Result<()> {
        let counters = &self.tables[number].1;
        counters.done.store(1, Ordering::Relaxed);
        let rows = counters.rows.load(Ordering::Relaxed);
        let done = CopyItem::TableDone { table: number, rows };
        self.sink.send(done).await.map_err(|_| InputError::Closed)
    }

    async fn check(
        &self,
        reader: &SnapshotReader,
        table: &NotedTable,
        now: &tokio_postgres::Client,
    ) -> Result<()> {
        let options = self.source.options();
        let check = async { Ok(reader.check(table, &options.publication, now).await?) };
        within(options.answer_limit + LOCK_LIMIT, "check the tables", check).await
    }

    /// Reads a table range by range: each goes as far as its time allows, and the next one begins
    /// behind the last row that was read.
    async fn read_ranges(&self, number: usize, now: &tokio_postgres::Client) -> Result<()> {
        let (table, counters) = &self.tables[number];
        let limit = self.source.options().answer_limit;
        let mut place = None;
        loop {
            counters.ranges.fetch_add(1, Ordering::Relaxed);
            let opening = async { Ok(SnapshotReader::fresh(self.source.config()).await?) };
            let (reader, snapshot) = within(limit, "take a snapshot", opening).await?;
            let until = self.bounds.of(table).map(|max| Instant::now() + max);
            let id = table.catalog.facts.id;
            self.reading.lock().ranges.entry(id).or_default().push(snapshot);
            self.check(&reader, table, now).await?;
            let copy = reader.copy_range(table, Range { behind: place.as_ref() }).await?;
            if self.pass_on(number, reader, copy, until, &mut place).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// Passes rows on until there are no more, or until the snapshot must be given back; not before
    /// the first rows, so that there is an end.
    ///
    /// - Returns: the reader, when there are no more rows.
    async fn pass_on(
        &self,
        number: usize,
        reader: SnapshotReader,
        mut copy: TableCopy,
        until: Option<Instant>,
        place: &mut Option<KeyPlace>,
    ) -> Result<Option<SnapshotReader>> {
        let (table, counters) = &self.tables[number];
        let mut batch = copy.next_batch().await?;
        while let Some(rows) = batch {
            if let (Some(_), Some(last)) = (until, rows.rows.last()) {
                *place = Some(table.place(last)?);
            }
            counters.rows.fetch_add(rows.rows.len() as u64, Ordering::Relaxed);
            counters.bytes.fetch_add(rows.bytes, Ordering::Relaxed);
            let item = CopyItem::Rows { table: number, rows: rows.rows, bytes: rows.bytes };
            let mut item = Some(item);
            let step = async {
                let room = self.sink.reserve().await.map_err(|_| InputError::Closed)?;
                if let Some(item) = item.take() {
                    room.send(item);
                }
                Ok::<_, InputError>(copy.next_batch().await?)
            };
            batch = match until {
                None => step.await?,
                Some(until) => match timeout_at(until, step).await {
                    Ok(next) => next?,
                    Err(_) => {
                        drop(reader);
                        if let Some(item) = item {
                            self.sink.send(item).await.map_err(|_| InputError::Closed)?;
                        }
                        return Ok(None);
                    }
                },
            };
        }
        Ok(Some(reader))
    }
}
