//! The writer's state: what it holds in memory of the store, how it is opened, what waits for the
//! next commit, and what is published of it.
//!
//! What is done to it stands in files of its own, each knowing those before it: [`crate::interpret`] (a
//! row), [`crate::frozen`] (definitions that stand still), [`crate::entering`] (tables that come and
//! go), [`crate::build`] (definitions that are built), [`crate::route`] and [`crate::messages`] (parts
//! of a transaction), [`crate::transaction`] and [`crate::apply_large`], and [`crate::apply`] (an entry).
//! Small transactions that wait together share one commit. The writer knows no clock, no queue and
//! no connection; [`crate::sequencer`] gives it entries and takes publications from it.
//!
//! Invariants: E-1 (a transaction is applied wholly between two publications), E-2 (only the
//! publisher shows), E-9 (a control entry is committed behind everything before it), E-11 (the
//! same entries give the same bytes).

use crate::arrivals::Arrived;
use crate::beat::Beat;
use crate::buckets::{BucketBook, Spaces};
use crate::change_list::{ChangedTable, Recorder, Rows};
use crate::copy_spool::Copying;
use crate::crowds::Crowds;
use crate::definitions::{Configured, Definitions};
use crate::error::EngineError;
use crate::evaluate::Effects;
use crate::kept_back::KeptBack;
use crate::lost::{Lost, numbered};
use crate::overlay::{Overlay, Sink};
use crate::publish::PublishJob;
use crate::published::Withheld;
use crate::runs::Runs;
use crate::state::{
    BuildState, Counters, Day, DerivedKind, Lacking, Progress, Record, Secret, TableRecord,
    WriteCheckpoint, keys,
};
use crate::sync_view::ActiveSync;
use crate::table_view::{ShownTables, shown_tables};
use crate::tables::{Gates, Table, TablePlan, Tables};
use crate::wake::Touched;
use hw_input::signal::CopyDropped;
use hw_input::transactions::Transaction;
use hw_store::{Space, Store};
use hw_types::{
    CommitLsn, Diagnostic, EndLsn, LogMessage, Lsn, Relation, RelationId, TableName, Xid,
};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// How much waits before it is committed although the publisher is busy. A commit of more than
/// about 2,000 writes makes others wait (measured: p99 0.4 s at 10,000).
const COMMIT_WRITES: usize = 2_000;
const COMMIT_BYTES: usize = 4 << 20;

/// As many of a table are remembered. All files of now were made by the last one that the catalog has;
/// the log may be ahead of a look at it, by as many as come from one look to the next. One that is
/// forgotten counts as untold, and the table is copied again.
const TRUNCATIONS: usize = 4096;

/// Bounds of the writer's memory, in bytes. They change nothing of what it writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// A transaction above this is folded on disk.
    pub fold_bytes: usize,
    /// Memory of one sort on disk.
    pub sort_bytes: usize,
    /// The change list, with what of it is not published; 0 for none.
    pub change_list_bytes: usize,
}

/// How a copy ended.
pub(crate) enum CopyOutcome {
    /// Its tables have entered.
    Entered,
    /// It was thrown away, with the reason; its tables are copied again.
    Dropped(CopyDropped),
}

/// What entries brought about that others must know.
#[derive(Default)]
pub(crate) struct News {
    /// Tables, or what definitions read, are others.
    pub tables: bool,
    /// Messages in the log that say that tables were altered.
    pub altered: u64,
    /// Descriptions of tables in the log, and what else says that rights may be others.
    pub rights: u64,
    /// The copy under way has ended.
    pub copy: Option<CopyOutcome>,
    /// Names of tables and definitions that are made again, because the store has lost them.
    pub lost: BTreeSet<String>,
}

impl News {
    pub fn any(&self) -> bool {
        self.tables
            || self.altered > 0
            || self.rights > 0
            || self.copy.is_some()
            || !self.lost.is_empty()
    }
}

/// The writer's state. Lives on one thread; rebuilt from the store after a failure.
pub(crate) struct Writer {
    pub(crate) store: Store,
    pub(crate) state: Space,
    pub(crate) tail: Space,
    /// Transactions that may come before the tail is counted again; 0: now. What is committed is
    /// counted, so that the tail may pass its length by what waited then; where it was cut since, it is
    /// counted sooner than it must.
    pub(crate) tail_room: u64,
    pub(crate) write_checkpoints: Space,
    pub(crate) bounds: Bounds,
    pub(crate) overlay: Overlay,
    pub(crate) book: BucketBook,
    pub(crate) spaces: Spaces,
    pub(crate) tables: Tables,
    pub(crate) plans: HashMap<u32, Arc<TablePlan>>,
    pub(crate) gates: Gates,
    pub(crate) definitions: Definitions,
    pub(crate) counters: Counters,
    pub(crate) progress: Progress,
    /// The progress that the store holds.
    pub(crate) committed: Progress,
    /// Op ids that were never given.
    pub(crate) runs: Arc<Runs>,
    pub(crate) effects: Effects,
    pub(crate) touched: Touched,
    /// What was waited for and has come.
    pub(crate) arrived: Arrived,
    /// What the change list will say, if there is one.
    pub(crate) listed: Option<Recorder>,
    /// The tables as they are to be shown, unless they are others since.
    shown: Option<Arc<ShownTables>>,
    pub(crate) copying: Option<Copying>,
    /// What is left of a copy that a crash cut off.
    pub(crate) unfinished: Vec<Arc<Table>>,
    /// Damage that was found when the store was opened, and that is not given up yet.
    pub(crate) lost: Lost,
    /// Tables whose description changed: to be copied again before more of them is applied.
    pub(crate) stale: BTreeSet<u32>,
    /// Descriptions in the log that were found to be those of the replica, by table number.
    pub(crate) descriptions: HashMap<u32, Arc<Relation>>,
    /// Transactions in which the log has emptied each table since the state was loaded, by table
    /// number, the latest [`TRUNCATIONS`]: its files are others then, and its rows are right.
    pub(crate) truncations: HashMap<u32, Arc<Vec<Xid>>>,
    pub(crate) built_rows: u64,
    pub(crate) news: News,
    pub(crate) beat: Beat,
    /// Who may have too many write checkpoints.
    pub(crate) crowds: Crowds,
    /// How many are kept back.
    pub(crate) kept_back: KeptBack,
    /// The most bytes that changes beside a copy took while they were replayed.
    #[cfg(test)]
    pub(crate) most_replayed: usize,
    /// Signs markers.
    pub(crate) secret: [u8; 32],
    /// The day of the input's clock.
    pub(crate) day: Day,
    /// The source's history is another than the stored one.
    pub(crate) moved: bool,
    /// Clients were shown what the store lacks: nobody is answered from it.
    pub(crate) behind: bool,
    /// The store had no state.
    pub(crate) new: bool,
    /// Committed but not handed to the publisher.
    unpublished: bool,
    pub(crate) active: Option<Arc<ActiveSync>>,
    pub(crate) counted: Counted,
}

/// What the writer counts for the metrics. Looked up by name once, not with each transaction.
pub(crate) struct Counted {
    pub transactions: metrics::Counter,
    pub rows: metrics::Counter,
}

impl Counted {
    fn new() -> Counted {
        Counted {
            transactions: metrics::counter!("headwater_transactions_total"),
            rows: metrics::counter!("headwater_rows_replicated_total"),
        }
    }
}

/// How many write checkpoints are kept: counted when a writer opens, moved with each one.
pub(crate) fn kept_write_checkpoints() -> metrics::Gauge {
    metrics::gauge!("headwater_write_checkpoints")
}

/// Brings up to date which incarnations lack a column.
fn note_lacking(
    definitions: &mut Definitions,
    tables: &Tables,
    overlay: &mut Overlay,
    state: &Space,
) -> Result<(), EngineError> {
    let now = definitions.lacking_now(tables);
    if now != definitions.lacking {
        overlay.put(state, keys::LACKING.to_vec(), Lacking(now.clone()).encode())?;
        definitions.lacking = now;
    }
    Ok(())
}

/// Logs which columns are missed that were not before.
fn tell_unsent(before: Option<&ActiveSync>, now: Option<&ActiveSync>) {
    let of = |sync: Option<&ActiveSync>| sync.map_or(Vec::new(), |sync| sync.unsent.clone());
    let known = of(before);
    of(now).iter().filter(|finding| !known.contains(finding)).for_each(Diagnostic::log);
}

impl Writer {
    /// Loads the store's state and finishes decided writes.
    ///
    /// - Errors: the store's; `Damaged` when it has lost what cannot be made again.
    pub fn open(store: Store, bounds: Bounds, beat: Beat) -> Result<Writer, EngineError> {
        let lost = Lost::of(&store)?;
        let state = store.space("state")?;
        let tail = store.space("tail")?;
        let write_checkpoints = store.space("wcp")?;
        let mut overlay = Overlay::new(store.clone());
        crate::large::resume(&store, &state, &lost, &beat)?;
        hw_process::failpoint::reached("writer::open");
        let snapshot = store.snapshot();
        let kept = snapshot.all(&write_checkpoints).inspect(|_| beat.count()).count();
        kept_write_checkpoints().set(kept as f64);
        let mut spaces = Spaces::default();
        let mut definitions = Definitions::load(&snapshot, &mut overlay, &state, &mut spaces)?;
        let counters = Counters::load(&snapshot, &state, keys::COUNTERS)?.unwrap_or_default();
        let mut tables = Tables::default();
        let (mut stale, mut unfinished) = (BTreeSet::new(), Vec::new());
        for record in TableRecord::load_all(&snapshot, &state, keys::TABLE)? {
            if !record.entered {
                // Of a copy that a crash cut off: it starts again (`design/engine.md` 6.3).
                unfinished.push(Arc::new(Table::open(&store, record)?));
                continue;
            }
            if record.stale {
                stale.insert(record.number);
            }
            tables.insert(Table::open(&store, record)?);
        }
        let stored = Progress::load(&snapshot, &state, keys::PROGRESS)?;
        let progress = stored.unwrap_or_default();
        let runs = Arc::new(Runs::load(&snapshot, &state, keys::RUNS)?.unwrap_or_default());
        let secret = Secret::load(&snapshot, &state, keys::SECRET)?;
        let secret = secret.map_or([0; 32], |Secret(secret)| secret);
        let moved = snapshot.get(&state, keys::MOVED)?;
        let behind = moved.as_deref() == Some(keys::BEHIND);
        let moved = moved.is_some();
        let day = Day::load(&snapshot, &state, keys::DAY)?.unwrap_or_default();
        note_lacking(&mut definitions, &tables, &mut overlay, &state)?;
        overlay.commit()?;
        store.sync()?;
        let named = |number| unfinished.iter().any(|t: &Arc<Table>| t.record.number == number);
        sweep_spaces(&store, |number| tables.get(number).is_some() || named(number), &definitions)?;
        let active = definitions.active_sync(&store, &progress, &tables)?;
        tell_unsent(None, active.as_deref());
        let gates = definitions.gates();
        let mut writer = Writer {
            bounds,
            overlay,
            book: BucketBook::new(),
            spaces,
            tables,
            plans: HashMap::new(),
            gates,
            definitions,
            counters,
            progress,
            committed: progress,
            runs,
            effects: Effects::default(),
            touched: Touched::default(),
            arrived: Arrived::default(),
            listed: Recorder::new(bounds.change_list_bytes),
            shown: None,
            copying: None,
            unfinished,
            lost,
            stale,
            descriptions: HashMap::new(),
            truncations: HashMap::new(),
            built_rows: 0,
            news: News::default(),
            beat,
            crowds: Crowds::default(),
            kept_back: KeptBack::default(),
            #[cfg(test)]
            most_replayed: 0,
            secret,
            day,
            moved,
            behind,
            new: stored.is_none(),
            unpublished: false,
            active,
            counted: Counted::new(),
            store,
            state,
            tail,
            tail_room: 0,
            write_checkpoints,
        };
        writer.replan();
        writer.count_kept_back()?;
        Ok(writer)
    }

    /// Makes the plans of all tables anew: after a table or an incarnation came or went.
    pub(crate) fn replan(&mut self) {
        self.plans = self
            .tables
            .all()
            .into_iter()
            .map(|table| {
                let plan = self.definitions.plan(&table.record.relation);
                (table.record.number, Arc::new(plan))
            })
            .collect();
        self.gates = self.definitions.gates();
        self.descriptions.clear();
        self.tables_changed();
    }

    /// Other tables are there, or one stands still, or can be followed again.
    pub(crate) fn tables_changed(&mut self) {
        self.shown = None;
        self.news.tables = true;
    }

    /// The tables as they are to be shown.
    pub fn shown(&mut self) -> Arc<ShownTables> {
        let (tables, stale, definitions) = (&self.tables, &self.stale, &self.definitions);
        let shown = || {
            Arc::new(ShownTables {
                tables: shown_tables(tables, |number| stale.contains(&number)),
                wanted: definitions.table_patterns(),
                refused: definitions.refused.clone(),
                demanded: definitions.demanded.clone(),
            })
        };
        self.shown.get_or_insert_with(shown).clone()
    }

    /// Something that is no transaction changes these tables, or lets them stand still.
    pub(crate) fn list_tables<'t>(
        &mut self,
        tables: impl Iterator<Item = &'t Arc<Table>>,
        rows: fn() -> Rows,
    ) {
        let Some(listed) = &mut self.listed else { return };
        let mut tables: Vec<ChangedTable> =
            tables.map(|table| ChangedTable::new(table, rows())).collect();
        tables.sort_by_key(|table| table.number);
        listed.other(self.progress.commit_lsn, self.progress.end_lsn, tables);
    }

    /// A transaction is applied, and so what it did can be listed.
    pub(crate) fn list_transaction(&mut self, transaction: &Transaction, messages: &[LogMessage]) {
        let Transaction { commit_lsn, end_lsn, xid, .. } = *transaction;
        if let Some(listed) = &mut self.listed {
            let is_ddl = |message: &LogMessage| message.prefix == hw_pg::marker::DDL_PREFIX;
            listed.end(commit_lsn, end_lsn, xid, messages.iter().any(is_ddl));
        }
    }

    /// How far the entries are applied.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// What is served.
    pub fn active(&self) -> &Option<Arc<ActiveSync>> {
        &self.active
    }

    /// Signs markers.
    pub fn secret(&self) -> [u8; 32] {
        self.secret
    }

    /// Whether the store had no state when it was opened.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// Tables that nothing reads any more.
    pub fn unread_tables(&self) -> Vec<RelationId> {
        let unread = |table: &Arc<Table>| {
            self.plans.get(&table.record.number).is_none_or(|plan| plan.is_empty())
                && !self.definitions.demanded.contains(&table.record.relation.name)
        };
        let tables = self.tables.all();
        tables.iter().filter(|t| unread(t)).map(|t| t.record.relation.id).collect()
    }

    /// Whether there is something left of a copy that a crash cut off.
    pub fn has_unfinished_copy(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Whether the source's history is another than the stored one.
    pub fn has_moved(&self) -> bool {
        self.moved
    }

    /// The source's history is another than the stored one from here on.
    pub(crate) fn history_moves(&mut self, behind: bool) -> Result<(), EngineError> {
        (self.moved, self.behind) = (true, self.behind || behind);
        let value = if self.behind { keys::BEHIND.to_vec() } else { Vec::new() };
        self.overlay.put(&self.state, keys::MOVED.to_vec(), value)
    }

    /// The source's history is the stored one again.
    pub(crate) fn history_begins(&mut self, sink: &mut impl Sink) -> Result<(), EngineError> {
        (self.moved, self.behind) = (false, false);
        sink.delete(&self.state, keys::MOVED.to_vec())
    }

    /// Transactions that a stream repeats which begins where the source has confirmed, in order.
    pub fn tail_from(&self, confirmed: EndLsn) -> Result<VecDeque<(CommitLsn, Xid)>, EngineError> {
        let applied = self.progress.commit_lsn;
        crate::tail::between(&self.store, &self.tail, CommitLsn(confirmed.0), applied)
    }

    /// Up to where the tail is to be trimmed, when it is too long.
    pub fn tail_surplus(&mut self) -> Result<Option<Lsn>, EngineError> {
        if self.tail_room == 0 {
            self.tail_room = crate::tail::room(&self.store, &self.tail);
        }
        match self.tail_room {
            0 => crate::tail::oldest_kept(&self.store, &self.tail),
            _ => Ok(None),
        }
    }

    /// Whether a configuration is being built.
    pub fn is_building(&self) -> bool {
        self.definitions.building.is_some()
    }

    /// Version of the configuration that is being built, while another one is served.
    pub fn building_version(&self) -> Option<u64> {
        let version = |of: &Option<Configured>| of.as_ref().map(|of| of.record.version);
        let built = version(&self.definitions.building)?;
        (version(&self.definitions.active) != Some(built)).then_some(built)
    }

    /// Whether there is something to build but for these incarnations.
    pub fn can_build(&self, later: &BTreeSet<u32>) -> bool {
        self.gates.least_complete(later).is_some()
    }

    /// The tables that cannot be followed at the moment.
    pub(crate) fn stale_names(&self) -> Vec<&TableName> {
        let stale = self.stale.iter().filter_map(|number| self.tables.get(*number));
        stale.map(|table| &table.record.relation.name).collect()
    }

    /// Whether something was retired at or before this second.
    pub fn has_retired(&self, before: u64) -> bool {
        self.definitions.has_retired(before)
    }

    /// Whether so much waits that it should be committed.
    pub fn is_full(&self) -> bool {
        self.overlay.len() >= COMMIT_WRITES || self.overlay.bytes() >= COMMIT_BYTES
    }

    /// Whether there is something to publish.
    pub fn has_news(&self) -> bool {
        self.unpublished || self.overlay.len() > 0 || self.progress != self.committed
    }

    /// Commits what waits and gives what is to be published.
    ///
    /// - Takes: why nobody is to be answered from it, and [`Publication::changes`] as that was said.
    ///
    /// [`Publication::changes`]: crate::publish::Publication::changes
    pub fn publication(
        &mut self,
        withheld: Option<Withheld>,
        changes: u64,
    ) -> Result<PublishJob, EngineError> {
        self.commit()?;
        self.unpublished = false;
        let show = !self.hidden();
        Ok(PublishJob {
            snapshot: self.store.snapshot(),
            progress: self.progress,
            runs: self.runs.clone(),
            kept_back: self.kept_back.clone(),
            sync: self.active.clone(),
            // What is not shown yet is told when it is.
            touched: if show { std::mem::take(&mut self.touched) } else { Touched::default() },
            arrived: if show { std::mem::take(&mut self.arrived) } else { Arrived::default() },
            listed: self.listed.as_mut().filter(|_| show).map(Recorder::take),
            tables: self.shown(),
            show,
            withheld,
            changes,
        })
    }

    /// What is served is another, or stands elsewhere: every client looks at everything again.
    pub(crate) fn serve_anew(&mut self) -> Result<(), EngineError> {
        note_lacking(&mut self.definitions, &self.tables, &mut self.overlay, &self.state)?;
        let now = self.definitions.active_sync(&self.store, &self.progress, &self.tables)?;
        tell_unsent(self.active.as_deref(), now.as_deref());
        self.active = now;
        self.count_kept_back()?;
        self.touched.everything = true;
        self.unpublished = true;
        self.tables_changed();
        Ok(())
    }

    /// Counts the write checkpoints that are kept back, where other definitions stand still, or stand elsewhere.
    fn count_kept_back(&mut self) -> Result<(), EngineError> {
        let frozen = self.active.iter().flat_map(|active| &active.frozen);
        for since in self.kept_back.stand(frozen.filter_map(|since| *since).collect()) {
            // Nothing has come behind what is applied.
            let is_new = since >= self.progress.end_lsn;
            let count = if is_new { 0 } else { self.recorded_behind(since)? };
            self.kept_back.counted(since, count);
        }
        Ok(())
    }

    fn recorded_behind(&mut self, since: EndLsn) -> Result<u64, EngineError> {
        // A scan of the store sees committed writes only.
        self.commit()?;
        let mut count = 0;
        for entry in self.store.snapshot().all(&self.write_checkpoints) {
            let WriteCheckpoint { number, at, .. } = WriteCheckpoint::decode(&entry?.1)?;
            // What is not above the floor everybody is told; positions of an earlier history mean nothing.
            count += u64::from(since.0 <= at && number > self.progress.write_floor);
        }
        Ok(count)
    }

    /// Other columns of tables are sent, or other tables are there: what lacks one is not served, and what
    /// has all of them is.
    pub(crate) fn columns_changed(&mut self) -> Result<(), EngineError> {
        match self.definitions.lacking_now(&self.tables) == self.definitions.lacking {
            true => Ok(()),
            false => self.serve_anew(),
        }
    }

    /// Shows the loaded state to surfaces that kept their watch over a restart of the writer.
    pub(crate) fn publish_anew(&mut self) {
        // What the store has come to hold between the last publication and the failure nobody knows.
        self.listed.as_mut().map(Recorder::anew);
        self.touched.everything = true;
        self.unpublished = true;
    }

    /// The log has emptied these tables in a transaction.
    pub(crate) fn note_truncated(&mut self, xid: Xid, tables: impl Iterator<Item = u32>) {
        for number in tables {
            let of_table = Arc::make_mut(self.truncations.entry(number).or_default());
            let surplus = (of_table.len() + 1).saturating_sub(TRUNCATIONS);
            of_table.drain(..surplus);
            of_table.push(xid);
            self.news.tables = true;
        }
    }

    /// The progress behind a transaction.
    pub(crate) fn note_transaction(&mut self, transaction: &Transaction) {
        self.progress.commit_lsn = transaction.commit_lsn;
        self.progress.xid = transaction.xid.short();
        self.progress.end_lsn = self.progress.end_lsn.max(transaction.end_lsn);
        self.tail_room = self.tail_room.saturating_sub(1);
    }

    /// The table whose changes are applied now: it has entered and is not to be copied again.
    pub(crate) fn appliable(&self, relation: RelationId) -> Option<Arc<Table>> {
        let table = self.tables.of_relation(relation)?;
        (!self.stale.contains(&table.record.number)).then(|| table.clone())
    }

    /// Notes that a commit was made outside of the overlay.
    pub(crate) fn note_commit(&mut self) {
        self.unpublished = true;
    }

    /// Commits what waits, with the progress that it makes: no op id is ever given twice (E-3).
    pub(crate) fn commit(&mut self) -> Result<(), EngineError> {
        self.book.flush(&self.spaces, &mut self.overlay)?;
        if self.progress != self.committed {
            let value = self.progress.encode();
            self.overlay.put(&self.state, keys::PROGRESS.to_vec(), value)?;
        }
        if self.overlay.len() > 0 {
            self.overlay.commit()?;
            hw_process::failpoint::reached("writer::after_commit");
            self.committed = self.progress;
            self.unpublished = true;
        }
        Ok(())
    }
}

/// Drops spaces that no record names: what a crash left between a record and its space.
fn sweep_spaces(
    store: &Store,
    is_table: impl Fn(u32) -> bool,
    definitions: &Definitions,
) -> Result<(), EngineError> {
    for name in store.space_names() {
        let Some((kind, number)) = numbered(&name) else { continue };
        let derived = definitions.derived.get(&number).map(|i| &i.record);
        let known = match kind {
            "rows" => is_table(number),
            "ops" | "buckets" => derived.is_some_and(|r| r.kind == DerivedKind::Source),
            "lookups" => derived.is_some_and(|r| r.kind == DerivedKind::Lookup),
            "held" => derived.is_some_and(|r| matches!(r.state, BuildState::Frozen { .. })),
            _ => true,
        };
        if !known {
            store.drop_space(&name)?;
        }
    }
    Ok(())
}
