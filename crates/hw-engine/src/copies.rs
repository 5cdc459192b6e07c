//! Copies of tables: the first one, tables that a definition newly names, tables that must be copied
//! again.
//!
//! The rows of a copy are read under one snapshot whose place in the log is X, sorted, and
//! loaded into a `rows` space of their own by the loader thread, while changes of those tables
//! wait in a spool. When the copy is complete and a marker sent behind it has arrived, the
//! spooled changes with commit position >= X are applied over the loaded rows (there unchanged
//! TOAST values are found), and the tables enter ([`crate::entering`], `design/engine.md` 6.3).
//!
//! A table that was read in key ranges, each under a snapshot of its own behind X, holds rows of
//! several times (`design/engine.md` 6.4). All its spooled changes are applied over them, in log
//! order, whatever a range has seen of them: a change says what its row is then, so the last
//! one of each key decides, and a key without any is as its range shows it. What a change leaves out
//! ([`Sight`] says when that is known) is the exception.

use crate::copy_spool::{Commit, CopySpool, Copying};
use crate::error::EngineError;
use crate::fold::{Fold, FoldError, RowChange};
use crate::overlay::Sink;
use crate::state::{CopyOfAll, Record, TableRecord, keys};
use crate::tables::{StoredRow, Table, same_shape};
use crate::writer::{CopyOutcome, Writer};
use hw_input::entry::{Behind, CopiedTable, Reading};
use hw_input::signal::CopyDropped;
use hw_input::transactions::Transaction;
use hw_store::StoreError;
use hw_types::{Change, Lsn, PgSnapshot, Relation, RelationId, TableName};
use std::collections::HashMap;
use std::sync::Arc;

/// Spooled changes that are folded before they are written to the loaded rows.
const REPLAY_BYTES: usize = 4 << 20;

impl Writer {
    /// From here on changes of tables that have not entered are kept.
    pub(crate) fn copy_begins(&mut self, whole: Option<String>) -> Result<(), EngineError> {
        self.drop_copy()?;
        if let Some(slot) = &whole {
            self.note_copy_of_all(slot.clone(), None)?;
            self.commit()?;
        }
        self.copying = Some(Copying {
            whole,
            boundary: Lsn::ZERO,
            loading: HashMap::new(),
            left_out: Vec::new(),
            sent_under: Vec::new(),
            spool: CopySpool::new(self.store.spool().clone()),
            loaded: None,
        });
        Ok(())
    }

    /// A slot that this store made is known as its own, whatever ends the copy.
    fn note_copy_of_all(&mut self, slot: String, made_at: Option<Lsn>) -> Result<(), EngineError> {
        let record = CopyOfAll { slot, made_at };
        self.overlay.put(&self.state, keys::COPYING.to_vec(), record.encode())?;
        Ok(())
    }

    /// All rows of the copy are loaded.
    pub(crate) fn loaded(&mut self, behind: Behind, reading: Reading) -> Result<(), EngineError> {
        let Some(copying) = &mut self.copying else { return Ok(()) };
        let at_once = matches!(behind, Behind::Source(_));
        let left_out: Vec<RelationId> = reading.left_out.iter().copied().collect();
        copying.loaded = Some((behind, reading));
        self.leave_out(&left_out)?;
        if at_once { self.enter_copy() } else { Ok(()) }
    }

    /// Tables of the copy that will not enter with it.
    pub(crate) fn leave_out(&mut self, tables: &[RelationId]) -> Result<(), EngineError> {
        let Some(copying) = &mut self.copying else { return Ok(()) };
        let left_out = tables.iter().filter_map(|id| copying.loading.remove(id));
        copying.left_out.extend(left_out);
        // Their rows may still be written before that.
        if copying.loaded.is_none() || copying.left_out.is_empty() {
            return Ok(());
        }
        let left_out = std::mem::take(&mut copying.left_out);
        self.discard(left_out)
    }

    /// Gives each relation of the copy an incarnation to be loaded into.
    pub(crate) fn prepare(
        &mut self,
        lsn: Lsn,
        tables: Vec<CopiedTable>,
    ) -> Result<Vec<Arc<Table>>, EngineError> {
        if let Some(slot) = self.copying.as_ref().and_then(|copying| copying.whole.clone()) {
            self.note_copy_of_all(slot, Some(lsn))?;
        }
        let Some(copying) = &mut self.copying else { return Ok(Vec::new()) };
        copying.boundary = lsn;
        let mut targets = Vec::new();
        for CopiedTable { relation, facts } in tables {
            let number = self.counters.table;
            self.counters.table += 1;
            let record = TableRecord {
                number,
                relation: Arc::new(relation),
                boundary: lsn,
                entered: false,
                stale: false,
                layout: 0,
                facts,
            };
            let key = keys::numbered(keys::TABLE, number);
            self.overlay.put(&self.state, key, record.encode())?;
            let table = Arc::new(Table::open(&self.store, record)?);
            copying.loading.insert(table.record.relation.id, table.clone());
            targets.push(table);
        }
        self.overlay.put(&self.state, keys::COUNTERS.to_vec(), self.counters.encode())?;
        self.commit()?;
        self.leave_out_sent_under()?;
        Ok(targets)
    }

    /// Throws an unfinished copy away; its tables are copied again under a new X.
    pub(crate) fn drop_copy(&mut self) -> Result<(), EngineError> {
        let mut tables = std::mem::take(&mut self.unfinished);
        if let Some(Copying { loading, left_out, .. }) = self.copying.take() {
            tables.extend(loading.into_values().chain(left_out));
        }
        self.discard(tables)
    }

    /// Throws an unfinished copy away, and tells whoever waits for it why.
    fn give_up_copy(&mut self, dropped: CopyDropped) -> Result<(), EngineError> {
        let why = &dropped.why.what;
        tracing::warn!(why, "the copy is thrown away; its tables are copied again");
        self.drop_copy()?;
        self.news.copy = Some(CopyOutcome::Dropped(dropped));
        Ok(())
    }

    fn discard(&mut self, tables: Vec<Arc<Table>>) -> Result<(), EngineError> {
        for table in &tables {
            self.overlay.delete(&self.state, keys::numbered(keys::TABLE, table.record.number))?;
        }
        self.commit()?;
        for table in &tables {
            self.store.drop_space(&format!("rows.{}", table.record.number))?;
        }
        self.news.tables = true;
        Ok(())
    }

    /// Keeps the changes of tables that are not applied, when a copy waits for them: what another one will
    /// read takes no room from this one.
    pub(crate) fn spool(&mut self, transaction: &Transaction) -> Result<(), EngineError> {
        // Taken out, so that tables can be asked about meanwhile.
        let Some(mut copying) = self.copying.take() else { return Ok(()) };
        let outcome = self.spool_into(&mut copying, transaction);
        self.copying = Some(copying);
        match outcome {
            Err(EngineError::Store(full @ StoreError::SpoolFull { .. })) => {
                let names = self.copying.iter().flat_map(|copying| copying.loading.values());
                let mut names: Vec<String> =
                    names.map(|table| table.record.relation.name.to_string()).collect();
                names.sort_unstable();
                self.give_up_copy(CopyDropped::outgrown(&names, &full))
            }
            outcome => outcome,
        }
    }

    fn spool_into(
        &self,
        copying: &mut Copying,
        transaction: &Transaction,
    ) -> Result<(), EngineError> {
        let Copying { boundary, loading, spool, .. } = copying;
        // Until it is known what it reads, it may be any of them.
        let is_read = |id| *boundary == Lsn::ZERO || loading.contains_key(&id);
        let is_kept = |id: RelationId| is_read(id) && self.appliable(id).is_none();
        let mut spooled = spool.transaction(transaction.commit_lsn, transaction.xid);
        for change in transaction.changes.iter() {
            match change.map_err(|e| EngineError::Source(e.to_string()))? {
                Change::Row { relation, kind } if is_kept(relation.id) => {
                    spooled.push(Change::Row { relation, kind })?;
                }
                Change::Truncate { mut relations } => {
                    relations.retain(|relation| is_kept(relation.id));
                    if !relations.is_empty() {
                        spooled.push(Change::Truncate { relations })?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether nothing new may be shown.
    pub(crate) fn hidden(&self) -> bool {
        self.copying.as_ref().is_some_and(|c| c.whole.is_some())
    }

    /// A marker has arrived; if it is the one behind the copy, the tables enter.
    pub(crate) fn copy_marker(&mut self, nonce: u64) -> Result<(), EngineError> {
        match &self.copying {
            Some(Copying { loaded: Some((Behind::Marker(sent), _)), .. }) if *sent == nonce => {
                self.enter_copy()
            }
            _ => Ok(()),
        }
    }

    fn enter_copy(&mut self) -> Result<(), EngineError> {
        let Some(copying) = self.copying.take() else { return Ok(()) };
        self.commit()?;
        let Copying { boundary, loading, spool, loaded, .. } = copying;
        let Some((behind, reading)) = loaded else { return Ok(()) };
        if let Err(dropped) = self.replay(boundary, &loading, &reading, spool)? {
            self.discard(loading.into_values().collect())?;
            return self.give_up_copy(dropped);
        }
        let history = match behind {
            Behind::Source(identity) => Some(identity),
            Behind::Marker(_) => None,
        };
        self.enter(history, &loading, &reading.left_out)
    }

    /// Applies the spooled changes that are not in the loaded rows, or says why that cannot be.
    ///
    /// Nobody reads the rows yet, so that transactions are cut where it suits (E-5); a crash
    /// starts the copy again.
    fn replay(
        &mut self,
        boundary: Lsn,
        loading: &HashMap<RelationId, Arc<Table>>,
        reading: &Reading,
        spool: CopySpool,
    ) -> Result<Result<(), CopyDropped>, EngineError> {
        let mut fold = Fold::default();
        // Descriptions in the log that were found to be those of the copy.
        let mut described: HashMap<RelationId, Arc<Relation>> = HashMap::new();
        let other = |name: &TableName| {
            Ok(Err(CopyDropped::from(format!("{name} was altered while it was copied"))))
        };
        for change in spool.finish()? {
            self.beat.count();
            let (commit, change) = change?;
            let sight = |relation: RelationId| match reading.ranges.get(&relation) {
                Some(snapshots) => Sight::of(commit, snapshots),
                None if commit.lsn < boundary => Sight::Whole,
                None => Sight::Nothing,
            };
            match change {
                Change::Row { relation, kind } => {
                    let Some(table) = loading.get(&relation.id) else { continue };
                    let sight = sight(relation.id);
                    if sight == Sight::Whole {
                        continue;
                    }
                    let known = described.get(&relation.id);
                    if known.is_none_or(|known| !Arc::ptr_eq(known, &relation)) {
                        if !same_shape(&table.record.relation, &relation) {
                            return other(&relation.name);
                        }
                        described.insert(relation.id, relation.clone());
                    }
                    let change = RowChange::of(table, kind);
                    let moves = matches!(change, RowChange::Move { .. });
                    if sight == Sight::Part && moves && change.is_partial() {
                        let why = format!(
                            "the key of a row of {} changed between two ranges of its copy, \
                             and the log leaves out the row's large values",
                            relation.name
                        );
                        return Ok(Err(CopyDropped::of_ranges(relation.id, why)));
                    }
                    match fold.row_change(table, change, &self.overlay) {
                        Ok(()) => {}
                        Err(FoldError::Engine(error)) => return Err(error),
                        // Its range was read when the row had gone, which comes later in the spool.
                        Err(FoldError::Incomplete(_)) if sight == Sight::Part => {}
                        Err(FoldError::Incomplete(_)) => {
                            let why = format!(
                                "a change of {} names a row that its copy does not hold",
                                relation.name
                            );
                            return Ok(Err(why.into()));
                        }
                    }
                }
                Change::Truncate { relations } => {
                    self.keep(&mut fold, loading)?;
                    for relation in relations {
                        let Some(table) = loading.get(&relation.id) else { continue };
                        if sight(relation.id) == Sight::Whole {
                            continue;
                        }
                        if !same_shape(&table.record.relation, &relation) {
                            return other(&relation.name);
                        }
                        self.empty(table)?;
                    }
                }
                Change::Relation(_) | Change::Message(_) => {}
            }
            #[cfg(test)]
            {
                self.most_replayed = self.most_replayed.max(fold.bytes() + self.overlay.bytes());
            }
            if fold.bytes() > REPLAY_BYTES {
                self.keep(&mut fold, loading)?;
            }
        }
        self.keep(&mut fold, loading)?;
        self.commit()?;
        Ok(Ok(()))
    }

    /// Writes folded changes to the loaded rows.
    fn keep(
        &mut self,
        fold: &mut Fold,
        loading: &HashMap<RelationId, Arc<Table>>,
    ) -> Result<(), EngineError> {
        let tables: HashMap<u32, &Arc<Table>> =
            loading.values().map(|table| (table.record.number, table)).collect();
        for ((number, key), row) in std::mem::take(fold).rows {
            let Some(table) = tables.get(&number) else { continue };
            match row.after {
                Some(row) => {
                    let value = StoredRow::encode(row.copies, row.row.as_bytes());
                    self.overlay.put(&table.rows, key, value)?;
                }
                None => self.overlay.delete(&table.rows, key)?,
            }
            if self.is_full() {
                self.commit()?;
            }
        }
        Ok(())
    }

    /// Deletes all loaded rows of a table.
    fn empty(&mut self, table: &Table) -> Result<(), EngineError> {
        // A scan of the store sees committed writes only.
        self.commit()?;
        let snapshot = self.store.snapshot();
        for entry in snapshot.all(&table.rows) {
            self.overlay.delete(&table.rows, entry?.0.to_vec())?;
            if self.is_full() {
                self.commit()?;
            }
        }
        Ok(())
    }
}

/// How much of a transaction the loaded rows of a table hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// All of it. It is passed over.
    Whole,
    /// What it did in some key ranges. A row may be of a later time than the change that names it; what
    /// such a change leaves out is right under the same key, because whatever made the row later
    /// follows, and unknown under another one.
    Part,
    /// Nothing. When its turn comes, every row is as it found it: what a snapshot sees that does not
    /// see this transaction was done before it, and has been applied.
    Nothing,
}

impl Sight {
    /// What key ranges hold that were read under these snapshots.
    ///
    /// Visibility decides and not the commit position: a transaction that waits for a synchronous
    /// standby has its place in the log and is invisible to snapshots that are taken behind it.
    fn of(commit: Commit, snapshots: &[PgSnapshot]) -> Sight {
        let seen = snapshots.iter().filter(|snapshot| snapshot.sees(commit.xid)).count();
        match seen {
            0 => Sight::Nothing,
            _ if seen == snapshots.len() => Sight::Whole,
            _ => Sight::Part,
        }
    }
}
