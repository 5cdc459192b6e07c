//! The single writer: events in, one order out.
//!
//! Whatever changes the store passes here, one event at a time: transactions, progress, table
//! copies, configurations. Small transactions that wait together share one commit; a commit is
//! published as soon as the publisher is idle.
//!
//! Invariants: E-1 (a transaction is applied wholly between two publications), E-2 (only the
//! publisher shows), E-9 (a control entry is committed behind everything before it).

use crate::buckets::{BucketBook, Origin, Spaces};
use crate::build::Slice;
use crate::definitions::Definitions;
use crate::engine::{Event, Shared};
use crate::entering::Copying;
use crate::error::EngineError;
use crate::evaluate::{Effects, FoldedChange};
use crate::fold::{Fold, FoldError};
use crate::markers::MarkerContents;
use crate::overlay::{Overlay, Sink};
use crate::publish::{PublishJob, Publisher};
use crate::state::{Counters, Progress, Record, TableRecord, keys};
use crate::tables::{Gates, StoredRow, Table, TablePlan, Tables, same_shape};
use crate::wake::Touched;
use hw_input::transactions::{Item, Transaction};
use hw_store::{Space, Store};
use hw_types::{Change, CommitLsn, EndLsn, LogMessage, RelationId};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// How much waits before it is committed although the publisher is busy. A commit of more than
/// about 2,000 writes makes others wait (measured: p99 0.4 s at 10,000).
const COMMIT_WRITES: usize = 2_000;
const COMMIT_BYTES: usize = 4 << 20;

/// Events that are taken out of the queue at once. The reader of the log, when it waits for the queue
/// to have room, is woken once for all of them.
const TAKEN: usize = 256;

/// Rows of one slice of a build. Small enough that live transactions wait tens of milliseconds.
const SLICE_ROWS: usize = 5_000;

/// Seconds between looks at the length of the tail.
const TRIM_EVERY: u64 = 60;

/// The writer's state. Lives on one thread; rebuilt from the store after a failure.
pub(crate) struct Writer {
    pub(crate) store: Store,
    pub(crate) state: Space,
    pub(crate) tail: Space,
    pub(crate) write_checkpoints: Space,
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
    /// Tables whose description changed: to be copied again before more of them is applied.
    pub(crate) stale: BTreeSet<u32>,
    pub(crate) built_rows: u64,
    pub(crate) shared: Arc<Shared>,
    publisher: Publisher,
    /// Room in the queue that uncommitted items still take: what they hold waits in memory, and
    /// giving it back with the commit wakes the reader of the log once and not for each item.
    held: Option<OwnedSemaphorePermit>,
    /// Taken out of the queue and not handled.
    taken: std::vec::IntoIter<Event>,
    /// Committed but not handed to the publisher.
    unpublished: bool,
    active: Option<Arc<crate::read::ActiveSync>>,
    pending_tail: Vec<(CommitLsn, u32)>,
}

impl Writer {
    /// Loads the store's state, finishes decided writes, and publishes what there is.
    pub fn open(store: Store, shared: Arc<Shared>) -> Result<Writer, EngineError> {
        let state = store.space("state")?;
        let tail = store.space("tail")?;
        let write_checkpoints = store.space("wcp")?;
        let mut overlay = Overlay::new(store.clone());
        crate::large::resume(&store, &state)?;
        let snapshot = store.snapshot();
        let mut spaces = Spaces::default();
        let definitions = Definitions::load(&store, &snapshot, &state, &mut spaces)?;
        let counters = Counters::load(&snapshot, &state, keys::COUNTERS)?.unwrap_or_default();
        let mut tables = Tables::default();
        let mut stale = BTreeSet::new();
        for record in TableRecord::load_all(&snapshot, &state, keys::TABLE)? {
            // A copy that a crash cut off starts again (`design/engine.md` 6.3).
            if record.entered {
                if record.stale {
                    stale.insert(record.number);
                }
                tables.insert(Table::open(&store, record)?);
            } else {
                overlay.delete(&state, keys::numbered(keys::TABLE, record.number))?;
            }
        }
        let progress = match Progress::load(&snapshot, &state, keys::PROGRESS)? {
            Some(progress) => progress,
            None => {
                let fresh = shared.fresh_epoch();
                overlay.put(&state, keys::PROGRESS.to_vec(), fresh.encode())?;
                overlay.put(&state, keys::SECRET.to_vec(), shared.new_secret())?;
                fresh
            }
        };
        shared.set_write_base(progress.write_base);
        overlay.commit()?;
        store.sync()?;
        sweep_spaces(&store, &tables, &definitions)?;
        let active = definitions.active_sync(&store, &progress)?;
        let publication = shared.open_publication(&store, &write_checkpoints, &progress, &active);
        let events = shared.events.clone();
        let publisher = Publisher::start(publication, move |outcome| {
            // The queue always has room for this event: one publication at a time is under way.
            let _ = events.blocking_send(Event::Published(outcome));
        });
        let gates = definitions.gates();
        let mut writer = Writer {
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
            stale,
            built_rows: 0,
            publisher,
            held: None,
            taken: Vec::new().into_iter(),
            unpublished: false,
            active,
            pending_tail: Vec::new(),
            store,
            state,
            tail,
            write_checkpoints,
            shared,
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
            .map(|table| (table.record.number, Arc::new(self.definitions.plan(&table))))
            .collect();
        self.gates = self.definitions.gates();
        self.share_tables();
    }

    /// Handles events until told to stop or until the store fails.
    pub fn run(
        &mut self,
        events: &mut tokio::sync::mpsc::Receiver<Event>,
    ) -> Result<(), EngineError> {
        loop {
            let Some(event) = self.taken.next() else {
                if events.is_empty() {
                    self.offer()?;
                    match self.background()? {
                        Slice::Idle => {}
                        Slice::More | Slice::Complete => continue,
                    }
                }
                let mut taken = Vec::with_capacity(TAKEN);
                match events.blocking_recv_many(&mut taken, TAKEN) {
                    0 => return self.finish_up(events),
                    _ => self.taken = taken.into_iter(),
                }
                continue;
            };
            match event {
                Event::Stop => return self.finish_up(events),
                event => self.handle(event)?,
            }
            if self.overlay.len() >= COMMIT_WRITES || self.overlay.bytes() >= COMMIT_BYTES {
                self.commit()?;
                self.offer()?;
            }
        }
    }

    pub(crate) fn handle(&mut self, event: Event) -> Result<(), EngineError> {
        match event {
            Event::Item(item, room) => {
                self.hold(room);
                match item {
                    Item::Transaction(transaction) => self.transaction(transaction),
                    Item::Progress(end_lsn) => self.advance(end_lsn),
                }
            }
            Event::Published(outcome) => outcome,
            Event::Configure { file, text, config, reply } => {
                let outcome = self.configure(&file, &text, config);
                let failed = outcome.is_err();
                let _ = reply.send(outcome);
                if failed { Err(EngineError::Stopping) } else { Ok(()) }
            }
            Event::Copy(event) => self.copy_event(event),
            Event::Tick { now } => self.housekeeping(now),
            Event::Stop => Ok(()),
        }
    }

    /// Keeps an item's room in the queue until the commit.
    fn hold(&mut self, room: Option<OwnedSemaphorePermit>) {
        match (&mut self.held, room) {
            (Some(held), Some(room)) => held.merge(room),
            (held, room) => *held = held.take().or(room),
        }
    }

    /// Shows the loaded state to surfaces that kept their watch over a restart of the writer.
    pub(crate) fn publish_anew(&mut self) {
        self.touched.everything = true;
        self.unpublished = true;
    }

    /// Commits and publishes what waits, before the process ends.
    fn finish_up(
        &mut self,
        events: &mut tokio::sync::mpsc::Receiver<Event>,
    ) -> Result<(), EngineError> {
        while !self.publisher.is_idle() {
            match self.taken.next().or_else(|| events.blocking_recv()) {
                Some(Event::Published(outcome)) => outcome?,
                Some(_) => {}
                None => return Ok(()),
            }
        }
        self.commit()?;
        self.store.sync()?;
        Ok(())
    }

    /// Everything up to `end_lsn` holds nothing for us.
    fn advance(&mut self, end_lsn: EndLsn) -> Result<(), EngineError> {
        self.progress.end_lsn = self.progress.end_lsn.max(end_lsn);
        Ok(())
    }

    /// Applies a transaction, or skips it when it was applied before (F-3).
    fn transaction(&mut self, transaction: Transaction) -> Result<(), EngineError> {
        if transaction.commit_lsn <= self.progress.commit_lsn {
            return self.check_tail(&transaction);
        }
        metrics::counter!("headwater_transactions_total").increment(1);
        let mut fold = Fold::default();
        let mut messages = Vec::new();
        let large = match self.fold(&transaction, &mut fold, &mut messages)? {
            Folded::Whole => false,
            Folded::TooLarge => true,
        };
        if large {
            // The progress of this transaction is part of its step, not of its predecessors'
            // commit.
            drop(std::mem::take(&mut fold));
            self.commit()?;
        }
        self.progress.commit_lsn = transaction.commit_lsn;
        self.progress.xid = transaction.xid;
        self.progress.end_lsn = self.progress.end_lsn.max(transaction.end_lsn);
        self.pending_tail.push((transaction.commit_lsn, transaction.xid.0));
        if large {
            return self.apply_large(&transaction);
        }
        self.apply_folded(fold, transaction.xid)?;
        for message in messages {
            self.marker(&message, &transaction)?;
        }
        Ok(())
    }

    /// Folds all changes in memory, up to the bound.
    fn fold(
        &mut self,
        transaction: &Transaction,
        fold: &mut Fold,
        messages: &mut Vec<LogMessage>,
    ) -> Result<Folded, EngineError> {
        let bound = self.shared.options.fold_bytes;
        // The changes carry one state of a row, the fold holds both: it is not begun in vain.
        if transaction.changes.bytes() > bound as u64 {
            return Ok(Folded::TooLarge);
        }
        let mut spooled: BTreeSet<RelationId> = BTreeSet::new();
        for change in transaction.changes.iter() {
            let change = change.map_err(|e| EngineError::Source(e.to_string()))?;
            match change {
                Change::Relation(relation) => self.described(&relation, fold)?,
                Change::Message(message) => messages.push(message),
                Change::Row { relation, kind } => {
                    let Some(table) = self.appliable(relation.id) else {
                        spooled.insert(relation.id);
                        continue;
                    };
                    let number = table.record.number;
                    metrics::counter!("headwater_rows_replicated_total").increment(1);
                    match fold.change(&table, kind, &self.overlay) {
                        Ok(()) => {}
                        Err(FoldError::Engine(error)) => return Err(error),
                        Err(FoldError::Incomplete) => {
                            tracing::error!(table = %relation.name, "the replica does not hold a row that the log changes; the table is copied again");
                            self.mark_stale(number, fold)?;
                            spooled.insert(relation.id);
                        }
                    }
                    if fold.bytes() > bound {
                        return Ok(Folded::TooLarge);
                    }
                }
                Change::Truncate { relations } => {
                    for relation in relations {
                        match self.appliable(relation.id) {
                            Some(table) => {
                                fold.truncate(&table);
                                if !self.fold_truncated(&table, fold, bound)? {
                                    return Ok(Folded::TooLarge);
                                }
                            }
                            None => {
                                spooled.insert(relation.id);
                            }
                        }
                    }
                }
            }
        }
        if !spooled.is_empty() {
            self.spool(transaction, &spooled)?;
        }
        Ok(Folded::Whole)
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

    /// The log described a table: any difference copies it again.
    pub(crate) fn described(
        &mut self,
        relation: &hw_types::Relation,
        fold: &mut Fold,
    ) -> Result<(), EngineError> {
        let Some(table) = self.tables.of_relation(relation.id) else { return Ok(()) };
        if same_shape(&table.record.relation, relation) {
            return Ok(());
        }
        let number = table.record.number;
        if !self.stale.contains(&number) {
            tracing::warn!(table = %relation.name, "the table's description changed; it is copied again and compared");
            self.mark_stale(number, fold)?;
        }
        Ok(())
    }

    /// From here on the table's changes are passed over, and it is copied again. Committed at
    /// once: a mark without the progress behind it does no harm, the other way round would lose
    /// changes.
    pub(crate) fn mark_stale(&mut self, number: u32, fold: &mut Fold) -> Result<(), EngineError> {
        fold.forget(number);
        if let Some(table) = self.tables.get(number) {
            let record = TableRecord { stale: true, ..table.record.clone() };
            let mut batch = hw_store::Batch::new();
            record.save(&mut batch, &self.state, &keys::numbered(keys::TABLE, number));
            self.store.commit(batch)?;
        }
        self.stale.insert(number);
        self.share_tables();
        Ok(())
    }

    /// Evaluates a fold and puts its writes into the overlay.
    pub(crate) fn apply_folded(
        &mut self,
        fold: Fold,
        xid: hw_types::Xid,
    ) -> Result<(), EngineError> {
        for (index, ((number, key), row)) in fold.rows.into_iter().enumerate() {
            if row.before == row.after {
                continue;
            }
            let Some(table) = self.tables.get(number).cloned() else { continue };
            let (before, after) = (row.before.as_ref(), row.after.as_ref());
            let change = FoldedChange {
                table: &table,
                key: &key,
                before: before.map(|r| r.row.view()),
                after: after.map(|r| r.row.view()),
            };
            if let Some(plan) = self.plans.get(&number) {
                self.effects.evaluate([plan, plan], &self.gates, &change);
                self.append(Origin { xid, change: index as u64 }, &change)?;
            }
            match row.after {
                Some(row) => {
                    let value = StoredRow::encode(row.copies, row.row.as_bytes());
                    self.overlay.put(&table.rows, key, value)?;
                }
                None => self.overlay.delete(&table.rows, key)?,
            }
        }
        Ok(())
    }

    /// Puts the effects of the last evaluation into the overlay.
    pub(crate) fn append(
        &mut self,
        origin: Origin,
        change: &FoldedChange<'_>,
    ) -> Result<(), EngineError> {
        let place = (change.table.record.number, change.key);
        self.book.append(
            &self.spaces,
            &mut self.overlay,
            &mut self.effects,
            origin,
            place,
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
                self.shared.altered.send_modify(|count| *count += 1);
                return Ok(());
            }
            _ => return Ok(()),
        }
        let secret = self.shared.secret();
        match hw_pg::marker::verify(message, transaction.xid, &secret) {
            Ok(marker) => {
                let contents = MarkerContents::decode(&marker.contents);
                for request in contents.write_checkpoints {
                    let own = self.progress.write_base + message.lsn.0;
                    let number = request.requested.unwrap_or(own);
                    self.write_checkpoint(&request.user_key, number)?;
                }
                self.copy_marker(contents.nonce)?;
            }
            Err(_) => metrics::counter!("headwater_foreign_markers_total").increment(1),
        }
        Ok(())
    }

    /// A user's writes up to this marker have arrived. Shown with this commit, unless a table that is
    /// served still holds changes back.
    fn write_checkpoint(&mut self, user: &str, number: u64) -> Result<(), EngineError> {
        if self.holds_back() {
            let key = [keys::HELD, user.as_bytes()].concat();
            return self.overlay.put(&self.state, key, number.to_be_bytes().to_vec());
        }
        self.put_write_checkpoint(user, number)
    }

    /// Records a write checkpoint, unless a greater number is recorded.
    pub(crate) fn put_write_checkpoint(
        &mut self,
        user: &str,
        number: u64,
    ) -> Result<(), EngineError> {
        let stored = self.overlay.get(&self.write_checkpoints, user.as_bytes())?;
        let stored = stored.and_then(|value| Some(u64::from_be_bytes((*value).try_into().ok()?)));
        if stored.is_some_and(|stored| stored >= number) {
            return Ok(());
        }
        let value = number.to_be_bytes().to_vec();
        self.overlay.put(&self.write_checkpoints, user.as_bytes().to_vec(), value)?;
        self.touched.users.insert(user.to_owned());
        Ok(())
    }

    /// What comes again between the confirmed position and ours must match what we noted.
    fn check_tail(&mut self, transaction: &Transaction) -> Result<(), EngineError> {
        let noted = if transaction.commit_lsn == self.progress.commit_lsn {
            Some(self.progress.xid.0)
        } else {
            crate::tail::find(&self.store, &self.tail, transaction.commit_lsn)?
        };
        match noted {
            Some(xid) if xid == transaction.xid.0 => Ok(()),
            // Below the first position of this epoch nothing was noted.
            None if !crate::tail::reaches(&self.store, &self.tail, transaction.commit_lsn)? => {
                Ok(())
            }
            _ => Err(EngineError::MovedHistory),
        }
    }

    /// Commits what waits, with the progress that it makes: no op id is ever given twice (E-3).
    pub(crate) fn commit(&mut self) -> Result<(), EngineError> {
        self.book.flush(&self.spaces, &mut self.overlay)?;
        if self.progress != self.committed {
            let value = self.progress.encode();
            self.overlay.put(&self.state, keys::PROGRESS.to_vec(), value)?;
        }
        if !self.pending_tail.is_empty() {
            let (key, value) = crate::tail::encode(&self.pending_tail);
            self.overlay.append(&self.tail, &key, value)?;
        }
        if self.overlay.len() > 0 {
            self.overlay.commit()?;
            crate::failpoint::reached("writer::after_commit");
            self.pending_tail.clear();
            self.committed = self.progress;
            self.unpublished = true;
        }
        self.held = None;
        Ok(())
    }

    /// Hands what is committed to the publisher, when it is idle.
    pub(crate) fn offer(&mut self) -> Result<(), EngineError> {
        let news = self.unpublished || self.overlay.len() > 0 || self.progress != self.committed;
        if !news {
            // Transactions that were applied before hold room and leave nothing to commit.
            self.held = None;
        }
        if !news || !self.publisher.is_idle() {
            return Ok(());
        }
        self.commit()?;
        let job = PublishJob {
            snapshot: self.store.snapshot(),
            progress: self.progress,
            sync: self.active.clone(),
            touched: std::mem::take(&mut self.touched),
            show: !self.hidden(),
        };
        self.publisher.submit(job)?;
        self.unpublished = false;
        Ok(())
    }

    /// Whether a publication is under way.
    #[cfg(test)]
    pub(crate) fn is_publishing(&self) -> bool {
        !self.publisher.is_idle()
    }

    /// Work between events: slices of a build, and the switch behind the last one.
    pub(crate) fn background(&mut self) -> Result<Slice, EngineError> {
        if self.definitions.building.is_none() || self.tables_missing() {
            return Ok(Slice::Idle);
        }
        if self.gates.sources.is_empty() && self.gates.lookups.is_empty() {
            self.switch()?;
            return Ok(Slice::Complete);
        }
        if self.can_build_at_once() {
            self.build_at_once()?;
            return Ok(Slice::More);
        }
        self.build_slice(SLICE_ROWS)
    }

    fn switch(&mut self) -> Result<(), EngineError> {
        self.commit()?;
        let now = self.shared.now();
        self.definitions.switch(now, &mut self.overlay, &self.state)?;
        self.commit()?;
        self.active = self.definitions.active_sync(&self.store, &self.progress)?;
        self.touched.everything = true;
        self.unpublished = true;
        let version = self.active.as_ref().map_or(0, |a| a.version);
        tracing::info!(version, rows = self.built_rows, "the sync configuration is served");
        self.built_rows = 0;
        Ok(())
    }

    pub(crate) fn configure(
        &mut self,
        file: &str,
        text: &str,
        config: Arc<hw_expr::sync_config::SyncConfig>,
    ) -> Result<bool, EngineError> {
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

    /// Once a second: retire what is over its retention, trim the tail.
    fn housekeeping(&mut self, now: u64) -> Result<(), EngineError> {
        let before = now.saturating_sub(self.shared.options.definition_retention.as_secs());
        let dropped = self.definitions.drop_retired(before, &mut self.overlay, &self.state)?;
        if !dropped.sources.is_empty() || !dropped.lookups.is_empty() {
            self.commit()?;
            self.store.sync()?;
            self.replan();
            self.book.forget_all();
            for (number, ..) in dropped.sources {
                self.spaces.drop_source(&self.store, number)?;
            }
            for (number, ..) in dropped.lookups {
                self.spaces.drop_lookup(&self.store, number)?;
            }
        }
        if now.is_multiple_of(TRIM_EVERY) {
            crate::tail::trim(&self.store, &self.tail, &mut self.overlay)?;
        }
        Ok(())
    }
}

/// Whether a transaction was folded in memory.
enum Folded {
    Whole,
    TooLarge,
}

/// Drops spaces that no record names: what a crash left between a record and its space.
fn sweep_spaces(
    store: &Store,
    tables: &Tables,
    definitions: &Definitions,
) -> Result<(), EngineError> {
    for name in store.space_names() {
        let Some((kind, number)) = name.split_once('.') else { continue };
        let Ok(number) = number.parse::<u32>() else { continue };
        let known = match kind {
            "rows" => tables.get(number).is_some(),
            "ops" | "buckets" => definitions.sources.contains_key(&number),
            "lookups" => definitions.lookups.contains_key(&number),
            _ => true,
        };
        if !known {
            store.drop_space(&name)?;
        }
    }
    Ok(())
}
