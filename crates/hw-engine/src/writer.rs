//! The writer: applies one entry after another to the state.
//!
//! Whatever changes the store passes here: transactions, progress, table copies, configurations.
//! Small transactions that wait together share one commit. The writer knows no clock, no queue and
//! no connection; [`crate::sequencer`] gives it entries and takes publications from it.
//!
//! Invariants: E-1 (a transaction is applied wholly between two publications), E-2 (only the
//! publisher shows), E-9 (a control entry is committed behind everything before it), E-11 (the
//! same entries give the same bytes).

use crate::buckets::{BucketBook, Spaces};
use crate::definitions::Definitions;
use crate::entering::Copying;
use crate::error::EngineError;
use crate::evaluate::{Effects, FoldedChange};
use crate::fold::{Fold, FoldError, FoldedRow};
use crate::overlay::{Overlay, Sink};
use crate::publish::PublishJob;
use crate::read::ActiveSync;
use crate::state::{
    BuildState, Counters, DerivedKind, Progress, Record, Refused, Secret, TableRecord,
    WriteCheckpoint, keys,
};
use crate::tables::{Gates, StoredRow, Table, TablePlan, Tables, same_shape};
use crate::wake::Touched;
use hw_input::entry::{CompactSlice, Control, Entry};
use hw_input::markers::MarkerContents;
use hw_input::transactions::Transaction;
use hw_store::{Space, Store};
use hw_types::{
    Change, ChangeKind, CommitLsn, EndLsn, LogMessage, Lsn, Relation, RelationId, TableName, Xid,
};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much waits before it is committed although the publisher is busy. A commit of more than
/// about 2,000 writes makes others wait (measured: p99 0.4 s at 10,000).
const COMMIT_WRITES: usize = 2_000;
const COMMIT_BYTES: usize = 4 << 20;

/// Bounds of the writer's memory, in bytes. They change nothing of what it writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// A transaction above this is folded on disk.
    pub fold_bytes: usize,
    /// Memory of one sort on disk.
    pub sort_bytes: usize,
}

/// What came of an entry, for whoever made it.
pub(crate) enum Applied {
    /// Nothing to tell.
    Done,
    /// A configuration that is new.
    Changed,
    /// The incarnations that the rows of a copy go to.
    Loading(Vec<Arc<Table>>),
}

/// How a copy ended.
pub(crate) enum CopyOutcome {
    /// Its tables have entered.
    Entered,
    /// It was thrown away, with the reason; its tables are copied again.
    Dropped(String),
}

/// What entries brought about that others must know.
#[derive(Default)]
pub(crate) struct News {
    /// Tables, or what definitions read, are others.
    pub tables: bool,
    /// Messages in the log that say that tables were altered.
    pub altered: u64,
    /// The copy under way has ended.
    pub copy: Option<CopyOutcome>,
}

impl News {
    pub fn any(&self) -> bool {
        self.tables || self.altered > 0 || self.copy.is_some()
    }
}

/// The writer's state. Lives on one thread; rebuilt from the store after a failure.
pub(crate) struct Writer {
    pub(crate) store: Store,
    pub(crate) state: Space,
    pub(crate) tail: Space,
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
    pub(crate) effects: Effects,
    pub(crate) touched: Touched,
    pub(crate) copying: Option<Copying>,
    /// What is left of a copy that a crash cut off.
    pub(crate) unfinished: Vec<Arc<Table>>,
    /// Tables whose description changed: to be copied again before more of them is applied.
    pub(crate) stale: BTreeSet<u32>,
    /// Descriptions in the log that were found to be those of the replica, by table number.
    descriptions: HashMap<u32, Arc<Relation>>,
    /// How often the log has emptied each table since the state was loaded, by table number: its
    /// files are others then, and its rows are right.
    pub(crate) truncations: HashMap<u32, u64>,
    pub(crate) built_rows: u64,
    pub(crate) news: News,
    /// Counts work, so that somebody who waits sees that there is some.
    pub(crate) beat: Arc<AtomicU64>,
    /// Signs markers.
    secret: [u8; 32],
    /// The source's history is another than the stored one.
    moved: bool,
    /// The store had no state.
    new: bool,
    /// Committed but not handed to the publisher.
    unpublished: bool,
    active: Option<Arc<ActiveSync>>,
}

impl Writer {
    /// Loads the store's state and finishes decided writes.
    pub fn open(store: Store, bounds: Bounds, beat: Arc<AtomicU64>) -> Result<Writer, EngineError> {
        let state = store.space("state")?;
        let tail = store.space("tail")?;
        let write_checkpoints = store.space("wcp")?;
        let mut overlay = Overlay::new(store.clone());
        crate::large::resume(&store, &state)?;
        let snapshot = store.snapshot();
        let mut spaces = Spaces::default();
        let definitions = Definitions::load(&snapshot, &mut overlay, &state, &mut spaces)?;
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
        let secret = Secret::load(&snapshot, &state, keys::SECRET)?;
        let secret = secret.map_or([0; 32], |Secret(secret)| secret);
        let moved = snapshot.get(&state, keys::MOVED)?.is_some();
        overlay.commit()?;
        store.sync()?;
        let named = |number| unfinished.iter().any(|t: &Arc<Table>| t.record.number == number);
        sweep_spaces(&store, |number| tables.get(number).is_some() || named(number), &definitions)?;
        let active = definitions.active_sync(&store, &progress)?;
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
            effects: Effects::default(),
            touched: Touched::default(),
            copying: None,
            unfinished,
            stale,
            descriptions: HashMap::new(),
            truncations: HashMap::new(),
            built_rows: 0,
            news: News::default(),
            beat,
            secret,
            moved,
            new: stored.is_none(),
            unpublished: false,
            active,
            store,
            state,
            tail,
            write_checkpoints,
        };
        writer.replan();
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
        self.news.tables = true;
    }

    /// Applies the next entry.
    ///
    /// - Errors: the store's. The writer is then of no use; another one is opened from what is
    ///   durable, and the entries behind it come again.
    pub fn apply(&mut self, entry: Entry) -> Result<Applied, EngineError> {
        self.beat.fetch_add(1, Ordering::Relaxed);
        match entry {
            Entry::Transaction(transaction) => {
                self.transaction(transaction).map(|()| Applied::Done)
            }
            Entry::Progress(end_lsn) => {
                self.progress.end_lsn = self.progress.end_lsn.max(end_lsn);
                Ok(Applied::Done)
            }
            Entry::Control(control) => self.control(control),
        }
    }

    fn control(&mut self, control: Control) -> Result<Applied, EngineError> {
        match control {
            Control::Epoch { epoch, op_id } => {
                self.new = false;
                self.progress.epoch = self.progress.epoch.max(epoch);
                self.progress.op_id = self.progress.op_id.max(op_id);
                self.serve_anew()?;
            }
            Control::Secret(secret) => {
                self.overlay.put(&self.state, keys::SECRET.to_vec(), Secret(secret).encode())?;
                self.secret = secret;
            }
            Control::Configure { file, text } => {
                if self.configure(&file, &text)? {
                    return Ok(Applied::Changed);
                }
            }
            Control::CopyBegins { whole } => self.copy_begins(whole)?,
            Control::Boundary { lsn, tables } => {
                return Ok(Applied::Loading(self.prepare(lsn, tables)?));
            }
            Control::Loaded(behind) => self.loaded(behind)?,
            Control::CopyFailed => self.drop_copy()?,
            Control::BuildSlice { rows } => self.build_slice(rows)?,
            Control::BuildAll => self.build_at_once()?,
            Control::Switch { now } => self.switch(now)?,
            Control::Retire { before } => self.retire(before)?,
            Control::HistoryMoved => {
                self.moved = true;
                self.overlay.put(&self.state, keys::MOVED.to_vec(), Vec::new())?;
            }
            Control::TrimTail { below } => {
                crate::tail::trim(&self.store, &self.tail, below, &mut self.overlay)?;
            }
            Control::Stale { table, reason } => {
                if let Some(table) = self.appliable(table) {
                    tracing::warn!(table = %table.record.relation.name, reason, "the table is copied again and compared");
                    self.mark_stale(table.record.number)?;
                }
            }
            Control::Adopt { table, facts } => self.adopt(table, facts)?,
            Control::Gone { table, reason } => self.gone(table, &reason)?,
            Control::Compact(slice) => self.compact(&slice)?,
            Control::Refused(tables) => {
                let refused = Refused(tables);
                self.overlay.put(&self.state, keys::REFUSED.to_vec(), refused.encode())?;
                self.definitions.refused = refused.0;
                self.serve_anew()?;
            }
            Control::Thaw => self.thaw()?,
        }
        Ok(Applied::Done)
    }

    /// Compacts a slice of a bucket's log, in a commit of its own.
    fn compact(&mut self, slice: &CompactSlice) -> Result<(), EngineError> {
        if self.book.is_settled(slice.source, &slice.parameters, slice.until) {
            // Somebody still reads what is left.
            return Ok(());
        }
        self.commit()?;
        if crate::compact::compact_slice(&mut self.book, &self.spaces, &mut self.overlay, slice)? {
            self.book.again(slice.source, slice.parameters.as_str().into());
        }
        self.commit()
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

    /// The source's history is the stored one again.
    pub(crate) fn history_begins(&mut self, sink: &mut impl Sink) -> Result<(), EngineError> {
        self.moved = false;
        sink.delete(&self.state, keys::MOVED.to_vec())
    }

    /// Transactions that a stream repeats which begins where the source has confirmed, in order.
    pub fn tail_from(&self, confirmed: EndLsn) -> Result<VecDeque<(CommitLsn, Xid)>, EngineError> {
        let applied = self.progress.commit_lsn;
        crate::tail::between(&self.store, &self.tail, CommitLsn(confirmed.0), applied)
    }

    /// Up to where the tail is to be trimmed, when it is too long.
    pub fn tail_surplus(&self) -> Result<Option<Lsn>, EngineError> {
        crate::tail::surplus(&self.store, &self.tail)
    }

    /// Whether a configuration is being built.
    pub fn is_building(&self) -> bool {
        self.definitions.building.is_some()
    }

    /// Version of the configuration that is being built.
    pub fn building_version(&self) -> Option<u64> {
        self.definitions.building.as_ref().map(|building| building.record.version)
    }

    /// Whether what is built can be served.
    pub fn is_built(&self) -> bool {
        self.definitions.is_built(&self.stale_names())
    }

    /// Whether there is something to build.
    pub fn can_build(&self) -> bool {
        self.gates.least_complete().is_some()
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
    pub fn publication(&mut self) -> Result<PublishJob, EngineError> {
        self.commit()?;
        self.unpublished = false;
        let show = !self.hidden();
        Ok(PublishJob {
            snapshot: self.store.snapshot(),
            progress: self.progress,
            sync: self.active.clone(),
            // What is not shown yet is told when it is.
            touched: if show { std::mem::take(&mut self.touched) } else { Touched::default() },
            show,
        })
    }

    /// What is served is another, or stands elsewhere: every client looks at everything again.
    pub(crate) fn serve_anew(&mut self) -> Result<(), EngineError> {
        self.active = self.definitions.active_sync(&self.store, &self.progress)?;
        self.touched.everything = true;
        self.unpublished = true;
        self.news.tables = true;
        Ok(())
    }

    /// Shows the loaded state to surfaces that kept their watch over a restart of the writer.
    pub(crate) fn publish_anew(&mut self) {
        self.touched.everything = true;
        self.unpublished = true;
    }

    /// Applies a transaction behind the last one.
    fn transaction(&mut self, transaction: Transaction) -> Result<(), EngineError> {
        debug_assert!(transaction.commit_lsn > self.progress.commit_lsn);
        metrics::counter!("headwater_transactions_total").increment(1);
        // Values that had another shape than their type has now: rows of before are not right.
        for relation in transaction.changes.misfits() {
            if let Some(table) = self.appliable(*relation) {
                tracing::warn!(table = %table.record.relation.name, "a type of the table was altered; it is copied again and compared");
                self.mark_stale(table.record.number)?;
            }
        }
        // A table that turns out not to be what the replica holds is marked before any part of
        // the transaction is applied; then the transaction is read again without it, so that
        // nobody is shown half of it (E-1).
        let folded = loop {
            match self.fold(&transaction)? {
                Folded::Stale => {}
                other => break other,
            }
        };
        match folded {
            Folded::Whole(fold, messages) => {
                self.note_truncated(fold.truncated.iter().copied());
                self.note_transaction(&transaction);
                let (key, value) = crate::tail::record(transaction.commit_lsn, transaction.xid);
                self.overlay.append(&self.tail, &key, value)?;
                self.apply_folded(fold)?;
                for message in messages {
                    self.marker(&message, &transaction)?;
                }
                Ok(())
            }
            _ => self.apply_large(&transaction),
        }
    }

    /// The log has emptied these tables.
    pub(crate) fn note_truncated(&mut self, tables: impl Iterator<Item = u32>) {
        for number in tables {
            *self.truncations.entry(number).or_default() += 1;
            self.news.tables = true;
        }
    }

    /// The progress behind a transaction.
    pub(crate) fn note_transaction(&mut self, transaction: &Transaction) {
        self.progress.commit_lsn = transaction.commit_lsn;
        self.progress.xid = transaction.xid;
        self.progress.end_lsn = self.progress.end_lsn.max(transaction.end_lsn);
    }

    /// Folds all changes in memory, up to the bound.
    fn fold(&mut self, transaction: &Transaction) -> Result<Folded, EngineError> {
        let bound = self.bounds.fold_bytes;
        // The changes carry one state of a row, the fold holds both: it is not begun in vain.
        if transaction.changes.bytes() > bound as u64 {
            return Ok(Folded::TooLarge);
        }
        let (mut fold, mut messages, mut aside) = (Fold::default(), Vec::new(), false);
        let mut rows = 0;
        for change in transaction.changes.iter() {
            match self.route(change.map_err(|e| EngineError::Source(e.to_string()))?)? {
                Route::Nothing => {}
                Route::Stale => return Ok(Folded::Stale),
                Route::Message(message) => messages.push(message),
                Route::Aside => aside = true,
                Route::Row(table, kind) => {
                    rows += 1;
                    match fold.change(&table, kind, &self.overlay) {
                        Ok(()) => {}
                        Err(FoldError::Engine(error)) => return Err(error),
                        Err(FoldError::Incomplete(table)) => {
                            self.incomplete(table)?;
                            return Ok(Folded::Stale);
                        }
                    }
                }
                Route::Truncate { tables, others } => {
                    aside |= others;
                    for table in tables {
                        fold.truncate(&table);
                        if !self.fold_truncated(&table, &mut fold, bound)? {
                            return Ok(Folded::TooLarge);
                        }
                    }
                }
            }
            if fold.bytes() > bound {
                return Ok(Folded::TooLarge);
            }
        }
        if aside {
            self.spool(transaction)?;
        }
        metrics::counter!("headwater_rows_replicated_total").increment(rows);
        Ok(Folded::Whole(fold, messages))
    }

    /// What is done with a change: the one place that says so.
    pub(crate) fn route(&mut self, change: Change) -> Result<Route, EngineError> {
        Ok(match change {
            Change::Message(message) => Route::Message(message),
            Change::Relation(relation) => match self.appliable(relation.id) {
                Some(table) if !self.is_described(&table, &relation)? => Route::Stale,
                _ => Route::Nothing,
            },
            Change::Row { relation, kind } => match self.appliable(relation.id) {
                Some(table) if !self.is_described(&table, &relation)? => Route::Stale,
                Some(table) => Route::Row(table, kind),
                None => Route::Aside,
            },
            Change::Truncate { relations } => {
                let mut tables = Vec::with_capacity(relations.len());
                for relation in &relations {
                    let Some(table) = self.appliable(relation.id) else { continue };
                    if !self.is_described(&table, relation)? {
                        return Ok(Route::Stale);
                    }
                    tables.push(table);
                }
                let others = tables.len() < relations.len();
                Route::Truncate { tables, others }
            }
        })
    }

    /// Whether the log describes a table as the replica knows it; if not, the table is marked.
    fn is_described(
        &mut self,
        table: &Table,
        relation: &Arc<Relation>,
    ) -> Result<bool, EngineError> {
        let number = table.record.number;
        // Changes of one description share it: the comparison is one of pointers.
        if self.descriptions.get(&number).is_some_and(|known| Arc::ptr_eq(known, relation)) {
            return Ok(true);
        }
        if same_shape(&table.record.relation, relation) {
            self.descriptions.insert(number, relation.clone());
            return Ok(true);
        }
        tracing::warn!(table = %relation.name, "the table's description changed; it is copied again and compared");
        self.mark_stale(number)?;
        Ok(false)
    }

    /// The replica does not hold what the log changes.
    pub(crate) fn incomplete(&mut self, table: u32) -> Result<(), EngineError> {
        if let Some(table) = self.tables.get(table) {
            tracing::error!(table = %table.record.relation.name, "the replica does not hold a row that the log changes; the table is copied again");
        }
        self.mark_stale(table)
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

    /// Adds a truncated table's stored rows to the fold; false when they do not fit.
    fn fold_truncated(
        &mut self,
        table: &Arc<Table>,
        fold: &mut Fold,
        bound: usize,
    ) -> Result<bool, EngineError> {
        // A scan of the store sees committed writes only.
        self.commit()?;
        let snapshot = self.store.snapshot();
        for entry in snapshot.all(&table.rows) {
            let (key, value) = entry?;
            fold.gone(table.record.number, &key, StoredRow::decode(&value)?);
            if fold.bytes() > bound {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// From here on the table's changes are passed over, and it is copied again. In the overlay
    /// before anything that comes behind it: no crash forgets the mark and keeps the progress.
    pub(crate) fn mark_stale(&mut self, number: u32) -> Result<(), EngineError> {
        if let Some(table) = self.tables.get(number) {
            let record = TableRecord { stale: true, ..table.record.clone() };
            let key = keys::numbered(keys::TABLE, number);
            self.overlay.put(&self.state, key, record.encode())?;
        }
        self.stale.insert(number);
        self.descriptions.remove(&number);
        self.news.tables = true;
        self.freeze()
    }

    /// Evaluates a fold and puts its writes into the overlay.
    fn apply_folded(&mut self, fold: Fold) -> Result<(), EngineError> {
        // Taken out, so that it can be written into while the writer evaluates.
        let mut overlay = std::mem::replace(&mut self.overlay, Overlay::new(self.store.clone()));
        let mut outcome = Ok(());
        for ((number, key), row) in fold.rows {
            let Some(table) = self.tables.get(number).cloned() else { continue };
            outcome = self.apply_row(&mut overlay, &table, key, row);
            if outcome.is_err() {
                break;
            }
        }
        self.overlay = overlay;
        outcome
    }

    /// Evaluates a row's two states and writes the row: the one place where a change is applied,
    /// whatever the writes go into.
    pub(crate) fn apply_row<S: Sink>(
        &mut self,
        sink: &mut S,
        table: &Arc<Table>,
        key: Vec<u8>,
        row: FoldedRow,
    ) -> Result<(), EngineError> {
        if row.before == row.after {
            return Ok(());
        }
        let number = table.record.number;
        if let Some(plan) = self.plans.get(&number).cloned() {
            let change = FoldedChange {
                table: number,
                name: &table.record.relation.name,
                key: &key,
                before: row.before.as_ref().map(|r| r.row.view()),
                after: row.after.as_ref().map(|r| r.row.view()),
            };
            self.interpret(sink, [&plan, &plan], table, &change)?;
        }
        match row.after {
            Some(row) => {
                let value = StoredRow::encode(row.copies, row.row.as_bytes());
                sink.put(&table.rows, key, value)
            }
            None => sink.delete(&table.rows, key),
        }
    }

    /// Evaluates a change, numbers its operations, and keeps what the row was for incarnations
    /// that stand still.
    ///
    /// - Takes: the table as the state before was stored.
    pub(crate) fn interpret<S: Sink>(
        &mut self,
        sink: &mut S,
        plans: [&TablePlan; 2],
        was: &Table,
        change: &FoldedChange<'_>,
    ) -> Result<(), EngineError> {
        self.effects.evaluate(plans, &self.gates, change);
        if !self.effects.held.is_empty() {
            crate::frozen::hold(&self.effects.held, sink, was, change)?;
        }
        self.book.append(
            &self.spaces,
            sink,
            &mut self.effects,
            (change.table, change.key),
            &mut self.progress.op_id,
            &mut self.touched,
        )
    }

    /// A transactional message: a marker, or the news that tables were altered. Others are not ours.
    pub(crate) fn marker(
        &mut self,
        message: &LogMessage,
        transaction: &Transaction,
    ) -> Result<(), EngineError> {
        match &*message.prefix {
            hw_pg::marker::PREFIX => {}
            hw_pg::marker::DDL_PREFIX => {
                self.news.altered += 1;
                return Ok(());
            }
            _ => return Ok(()),
        }
        match hw_pg::marker::verify(message, transaction.xid, &self.secret) {
            Ok(marker) => {
                let contents = MarkerContents::decode(&marker.contents);
                for request in contents.write_checkpoints {
                    let own = self.progress.write_base + message.lsn.0;
                    let number = request.requested.unwrap_or(own);
                    self.write_checkpoint(&request.user_key, number, message.lsn)?;
                }
                self.copy_marker(contents.nonce)?;
            }
            Err(_) => metrics::counter!("headwater_foreign_markers_total").increment(1),
        }
        Ok(())
    }

    /// A user's writes up to this marker have arrived: recorded, unless a greater number is.
    fn write_checkpoint(&mut self, user: &str, number: u64, at: Lsn) -> Result<(), EngineError> {
        let stored = self.overlay.get(&self.write_checkpoints, user.as_bytes())?;
        let stored = stored.map(|value| WriteCheckpoint::decode(&value)).transpose()?;
        if stored.is_some_and(|stored| stored.number >= number) {
            return Ok(());
        }
        let value = WriteCheckpoint { number, at }.encode();
        self.overlay.put(&self.write_checkpoints, user.as_bytes().to_vec(), value)?;
        self.touched.users.insert(user.to_owned());
        Ok(())
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
            crate::failpoint::reached("writer::after_commit");
            self.committed = self.progress;
            self.unpublished = true;
        }
        Ok(())
    }

    fn switch(&mut self, now: u64) -> Result<(), EngineError> {
        self.commit()?;
        self.definitions.switch(now, &mut self.overlay, &self.state)?;
        self.commit()?;
        self.serve_anew()?;
        let version = self.active.as_ref().map_or(0, |a| a.version);
        tracing::info!(version, rows = self.built_rows, "the sync configuration is served");
        self.built_rows = 0;
        Ok(())
    }

    /// Whether anything changed.
    fn configure(&mut self, file: &str, text: &str) -> Result<bool, EngineError> {
        let Ok(config) = crate::definitions::compile(file, text) else {
            // Whoever makes entries has compiled it (E-7).
            tracing::error!(file, "a sync configuration that does not compile is passed over");
            return Ok(false);
        };
        self.commit()?;
        let changed = self.definitions.begin(
            file,
            text,
            config,
            &mut self.counters,
            &mut self.spaces,
            &mut self.overlay,
            &self.state,
        )?;
        if changed {
            self.commit()?;
            self.store.sync()?;
            self.replan();
        }
        Ok(changed)
    }

    /// Notes what the catalog says of a table from here on.
    fn adopt(&mut self, relation: RelationId, facts: Vec<u8>) -> Result<(), EngineError> {
        let Some(table) = self.tables.of_relation(relation) else { return Ok(()) };
        let record = TableRecord { facts, ..table.record.clone() };
        let key = keys::numbered(keys::TABLE, record.number);
        self.overlay.put(&self.state, key, record.encode())?;
        self.tables.insert(Table::open(&self.store, record)?);
        self.news.tables = true;
        Ok(())
    }

    fn retire(&mut self, before: u64) -> Result<(), EngineError> {
        let dropped = self.definitions.drop_retired(before, &mut self.overlay, &self.state)?;
        self.commit()?;
        self.store.sync()?;
        self.replan();
        self.book.forget_all();
        for record in dropped {
            self.spaces.drop(&self.store, record.kind, record.number)?;
            self.store.drop_space(&crate::frozen::space_name(record.number))?;
        }
        Ok(())
    }
}

/// Whether a transaction was folded in memory.
enum Folded {
    /// With the messages in it.
    Whole(Fold, Vec<LogMessage>),
    /// It does not fit.
    TooLarge,
    /// A table of it was marked: it must be read again.
    Stale,
}

/// What is done with a change.
pub(crate) enum Route {
    /// It is applied to this table.
    Row(Arc<Table>, ChangeKind),
    /// It empties these tables, and perhaps others that are not applied.
    Truncate { tables: Vec<Arc<Table>>, others: bool },
    /// It is of a table that is not applied: kept, if a copy waits for it.
    Aside,
    /// A message.
    Message(LogMessage),
    /// A description of what is known.
    Nothing,
    /// Its table was marked just now: the transaction must be read again.
    Stale,
}

/// Drops spaces that no record names: what a crash left between a record and its space.
fn sweep_spaces(
    store: &Store,
    is_table: impl Fn(u32) -> bool,
    definitions: &Definitions,
) -> Result<(), EngineError> {
    for name in store.space_names() {
        let Some((kind, number)) = name.split_once('.') else { continue };
        let Ok(number) = number.parse::<u32>() else { continue };
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
