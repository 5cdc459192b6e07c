//! Tables that come: the first copy, tables that a definition newly names, tables that must be
//! copied again.
//!
//! The rows of a copy are read under one snapshot whose place in the log is X, sorted, and
//! loaded into a `rows` space of their own by the loader thread, while changes of those tables
//! wait in a spool. When the copy is complete and a marker sent behind it has arrived, the
//! spooled changes with commit position >= X are applied over the loaded rows (there unchanged
//! TOAST values are found), and the tables *enter* in one visible step (`design/engine.md` 6.3):
//!
//! - a table that the replica did not have: its rows come;
//! - a table with the same identity columns: only differences from the replica become
//!   operations (a compared copy);
//! - a table whose identity changed: the old incarnation's rows go, the new one's come.

use crate::copy_spool::CopySpool;
use crate::error::EngineError;
use crate::evaluate::FoldedChange;
use crate::fold::{Fold, FoldError};
use crate::large::DecidedSink;
use crate::overlay::Sink;
use crate::state::{Record, TableRecord, Text, keys};
use crate::tables::{StoredRow, Table, same_shape};
use crate::writer::{CopyOutcome, Writer};
use hw_input::entry::{Behind, CopiedTable};
use hw_input::identity::Identity;
use hw_input::transactions::Transaction;
use hw_store::StoreError;
use hw_types::row::RowRef;
use hw_types::{Change, Lsn, Relation, RelationId, TableName, Xid};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Spooled changes that are folded before they are written to the loaded rows.
const REPLAY_BYTES: usize = 4 << 20;

/// A copy under way. There is one at a time; it may hold many tables.
pub(crate) struct Copying {
    /// Nothing is shown until it is complete: the source's history moved.
    whole: bool,
    boundary: Lsn,
    /// The incarnations that are being loaded, by the source's oid.
    loading: HashMap<RelationId, Arc<Table>>,
    spool: CopySpool,
    /// What the complete copy waits for; `None` while rows are loaded.
    behind: Option<Behind>,
}

impl Writer {
    /// From here on changes of tables that have not entered are kept.
    pub(crate) fn copy_begins(&mut self, whole: Option<String>) -> Result<(), EngineError> {
        self.drop_copy()?;
        if let Some(slot) = &whole {
            let slot = Text(slot.clone());
            self.overlay.put(&self.state, keys::COPYING.to_vec(), slot.encode())?;
            self.commit()?;
        }
        self.copying = Some(Copying {
            whole: whole.is_some(),
            boundary: Lsn::ZERO,
            loading: HashMap::new(),
            spool: CopySpool::new(self.store.spool().clone()),
            behind: None,
        });
        Ok(())
    }

    /// All rows of the copy are loaded.
    pub(crate) fn loaded(&mut self, behind: Behind) -> Result<(), EngineError> {
        let Some(copying) = &mut self.copying else { return Ok(()) };
        let at_once = matches!(behind, Behind::Source(_));
        copying.behind = Some(behind);
        if at_once { self.enter_copy() } else { Ok(()) }
    }

    /// Gives each relation of the copy an incarnation to be loaded into.
    pub(crate) fn prepare(
        &mut self,
        lsn: Lsn,
        tables: Vec<CopiedTable>,
    ) -> Result<Vec<Arc<Table>>, EngineError> {
        let Some(copying) = &mut self.copying else { return Ok(Vec::new()) };
        copying.boundary = lsn;
        let mut targets = Vec::new();
        for CopiedTable { relation, facts } in tables {
            let number = self.counters.table;
            self.counters.table += 1;
            let record = TableRecord {
                number,
                relation,
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
        Ok(targets)
    }

    /// Throws an unfinished copy away; its tables are copied again under a new X.
    pub(crate) fn drop_copy(&mut self) -> Result<(), EngineError> {
        let loading = self.copying.take().map(|copying| copying.loading).unwrap_or_default();
        let mut tables = std::mem::take(&mut self.unfinished);
        tables.extend(loading.into_values());
        self.discard(tables)
    }

    /// Throws an unfinished copy away, and tells whoever waits for it why.
    fn give_up_copy(&mut self, why: String) -> Result<(), EngineError> {
        tracing::warn!(why, "the copy is thrown away; its tables are copied again");
        self.drop_copy()?;
        self.news.copy = Some(CopyOutcome::Dropped(why));
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

    /// Keeps the changes of tables that are not applied, when a copy waits for them.
    pub(crate) fn spool(&mut self, transaction: &Transaction) -> Result<(), EngineError> {
        // Taken out, so that tables can be asked about meanwhile.
        let Some(mut copying) = self.copying.take() else { return Ok(()) };
        let outcome = self.spool_into(&mut copying.spool, transaction);
        self.copying = Some(copying);
        match outcome {
            Err(EngineError::Store(full @ StoreError::SpoolFull { .. })) => {
                self.give_up_copy(format!("changes beside the copy do not fit: {full}"))
            }
            outcome => outcome,
        }
    }

    fn spool_into(
        &self,
        spool: &mut CopySpool,
        transaction: &Transaction,
    ) -> Result<(), EngineError> {
        let mut spooled = spool.transaction(transaction.commit_lsn);
        for change in transaction.changes.iter() {
            match change.map_err(|e| EngineError::Source(e.to_string()))? {
                Change::Row { relation, kind } if self.appliable(relation.id).is_none() => {
                    spooled.push(Change::Row { relation, kind })?;
                }
                Change::Truncate { mut relations } => {
                    relations.retain(|relation| self.appliable(relation.id).is_none());
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
        self.copying.as_ref().is_some_and(|c| c.whole)
    }

    /// A marker has arrived; if it is the one behind the copy, the tables enter.
    pub(crate) fn copy_marker(&mut self, nonce: u64) -> Result<(), EngineError> {
        match &self.copying {
            Some(Copying { behind: Some(Behind::Marker(sent)), .. }) if *sent == nonce => {
                self.enter_copy()
            }
            _ => Ok(()),
        }
    }

    fn enter_copy(&mut self) -> Result<(), EngineError> {
        let Some(copying) = self.copying.take() else { return Ok(()) };
        self.commit()?;
        let Copying { boundary, loading, spool, behind, .. } = copying;
        if let Some(why) = self.replay(boundary, &loading, spool)? {
            self.discard(loading.into_values().collect())?;
            return self.give_up_copy(why);
        }
        let history = match behind {
            Some(Behind::Source(identity)) => Some(identity),
            _ => None,
        };
        self.enter(history, &loading)
    }

    /// Applies the spooled changes behind X to the loaded rows, or says why that cannot be.
    ///
    /// Nobody reads the rows yet, so that transactions are cut where it suits (E-5); a crash
    /// starts the copy again.
    fn replay(
        &mut self,
        boundary: Lsn,
        loading: &HashMap<RelationId, Arc<Table>>,
        spool: CopySpool,
    ) -> Result<Option<String>, EngineError> {
        let mut fold = Fold::default();
        // Descriptions in the log that were found to be those of the copy.
        let mut described: HashMap<RelationId, Arc<Relation>> = HashMap::new();
        let other = |name: &TableName| Some(format!("{name} was altered while it was copied"));
        for change in spool.finish(boundary)? {
            self.beat.fetch_add(1, Ordering::Relaxed);
            match change? {
                Change::Row { relation, kind } => {
                    let Some(table) = loading.get(&relation.id) else { continue };
                    let known = described.get(&relation.id);
                    if known.is_none_or(|known| !Arc::ptr_eq(known, &relation)) {
                        if !same_shape(&table.record.relation, &relation) {
                            return Ok(other(&relation.name));
                        }
                        described.insert(relation.id, relation.clone());
                    }
                    match fold.change(table, kind, &self.overlay) {
                        Ok(()) => {}
                        Err(FoldError::Engine(error)) => return Err(error),
                        Err(FoldError::Incomplete(_)) => {
                            return Ok(Some(format!(
                                "a change of {} names a row that its copy does not hold",
                                relation.name
                            )));
                        }
                    }
                }
                Change::Truncate { relations } => {
                    self.keep(&mut fold, loading)?;
                    for relation in relations {
                        let Some(table) = loading.get(&relation.id) else { continue };
                        if !same_shape(&table.record.relation, &relation) {
                            return Ok(other(&relation.name));
                        }
                        self.empty(table)?;
                    }
                }
                Change::Relation(_) | Change::Message(_) => {}
            }
            if fold.bytes() > REPLAY_BYTES {
                self.keep(&mut fold, loading)?;
            }
        }
        self.keep(&mut fold, loading)?;
        self.commit()?;
        Ok(None)
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

    /// The visible step; with `history` also the beginning of that source's history.
    fn enter(
        &mut self,
        history: Option<Identity>,
        loading: &HashMap<RelationId, Arc<Table>>,
    ) -> Result<(), EngineError> {
        let mut loaded: Vec<Arc<Table>> = loading.values().cloned().collect();
        loaded.sort_by_key(|t| t.record.number);
        let mut olds = self.tables.all();
        // Oids of another cluster mean nothing.
        let same_oids = match &history {
            Some(identity) => self.knows_oids_of(identity)?,
            None => true,
        };
        let mut take = |found: &dyn Fn(&Relation) -> bool| {
            let place = olds.iter().position(|old| found(&old.record.relation))?;
            Some(olds.remove(place))
        };
        // By oid first, whatever the names are now; by name only what no oid of the step is.
        let mut pairs: Vec<(Arc<Table>, Option<Arc<Table>>)> = loaded
            .into_iter()
            .map(|new| {
                let id = new.record.relation.id;
                let old = if same_oids { take(&|old| old.id == id) } else { None };
                (new, old)
            })
            .collect();
        for (new, old) in &mut pairs {
            if old.is_none() {
                let name = &new.record.relation.name;
                *old = take(&|old| old.name == *name);
            }
        }
        // Under another history a table that is not in the copy is not known any more.
        let mut gone = if history.is_some() { olds } else { Vec::new() };
        let mut arrivals = Vec::new();
        for (rows, old) in pairs {
            let mut record = rows.record.clone();
            record.entered = true;
            match old {
                Some(old) if same_identity(&old, &rows) => {
                    record.number = old.record.number;
                    record.layout = old.record.layout + 1;
                    let table = Arc::new(Table::open(&self.store, record)?);
                    arrivals.push(Arrival { from: Some(old), rows, table });
                }
                old => {
                    gone.extend(old);
                    let table = Arc::new(Table::open(&self.store, record)?);
                    arrivals.push(Arrival { from: None, rows, table });
                }
            }
        }
        let entered: Vec<String> =
            arrivals.iter().map(|a| a.table.record.relation.name.to_string()).collect();
        self.decided_step(gone, arrivals, history)?;
        self.news.copy = Some(CopyOutcome::Entered);
        tracing::info!(tables = %entered.join(", "), "tables have entered");
        Ok(())
    }

    /// Whether tables of a source have the oids under which the replica knows them.
    fn knows_oids_of(&self, identity: &Identity) -> Result<bool, EngineError> {
        let stored = Identity::load(&self.store.snapshot(), &self.state, keys::IDENTITY)?;
        Ok(stored.is_some_and(|stored| {
            stored.system_id == identity.system_id && stored.database_oid == identity.database_oid
        }))
    }

    /// A table cannot be followed any more: its rows leave.
    pub(crate) fn gone(&mut self, relation: RelationId, reason: &str) -> Result<(), EngineError> {
        let Some(table) = self.tables.of_relation(relation).cloned() else { return Ok(()) };
        tracing::warn!(table = %table.record.relation.name, reason, "the table leaves the replica");
        self.commit()?;
        self.decided_step(vec![table], Vec::new(), None)
    }

    /// Tables come and go in one step, which no crash cuts.
    fn decided_step(
        &mut self,
        gone: Vec<Arc<Table>>,
        arrivals: Vec<Arrival>,
        history: Option<Identity>,
    ) -> Result<(), EngineError> {
        let base = crate::overlay::Overlay::new(self.store.clone());
        let mut sink = DecidedSink::new(&base)?;
        for old in &gone {
            self.compare(&mut sink, Some(old), None, old, false)?;
            sink.delete(&self.state, keys::numbered(keys::TABLE, old.record.number))?;
        }
        for arrival in &arrivals {
            let Arrival { from, rows, table } = arrival;
            let compared = from.is_some();
            self.compare(&mut sink, from.as_ref(), Some(rows), table, compared)?;
            let key = keys::numbered(keys::TABLE, table.record.number);
            sink.put(&self.state, key, table.record.encode())?;
            if compared {
                sink.delete(&self.state, keys::numbered(keys::TABLE, rows.record.number))?;
            }
        }
        if let Some(identity) = history {
            self.begin_history(&identity, &mut sink)?;
        }
        self.book.flush(&self.spaces, &mut sink)?;
        sink.put(&self.state, keys::PROGRESS.to_vec(), self.progress.encode())?;
        sink.decide(&self.state)?;
        self.committed = self.progress;
        for old in gone {
            self.tables.remove(old.record.number);
            self.stale.remove(&old.record.number);
            self.store.drop_space(&format!("rows.{}", old.record.number))?;
        }
        for Arrival { from, rows, table } in arrivals {
            if from.is_some() {
                self.store.drop_space(&format!("rows.{}", rows.record.number))?;
            }
            self.stale.remove(&table.record.number);
            self.tables.insert(Table::open(&self.store, table.record.clone())?);
        }
        self.replan();
        self.note_commit();
        Ok(())
    }

    /// The position behind a copy of everything: what is before X is in it, what comes at or
    /// behind X is applied. Positions may go back here, numbers given to clients do not.
    ///
    /// The tail starts anew where the slot begins, also while it is empty, so that a crash before
    /// the first acknowledgement is not taken for a moved history.
    fn begin_history(
        &mut self,
        identity: &Identity,
        sink: &mut DecidedSink<'_>,
    ) -> Result<(), EngineError> {
        /// More log than a source writes between our last position and its own end.
        const SLACK: u64 = 1 << 40;
        let boundary = identity.slot_mark;
        for entry in self.store.snapshot().all(&self.tail) {
            sink.delete(&self.tail, entry?.0.to_vec())?;
        }
        let (key, value) = crate::tail::beginning(boundary);
        sink.append(&self.tail, &key, value)?;
        self.history_begins(sink)?;
        sink.put(&self.state, keys::IDENTITY.to_vec(), identity.encode())?;
        sink.delete(&self.state, keys::COPYING.to_vec())?;
        let progress = &mut self.progress;
        if boundary < progress.end_lsn.0 {
            progress.write_base += progress.end_lsn.0.0 + SLACK;
        }
        progress.write_floor = progress.write_base + boundary.0;
        progress.end_lsn = hw_types::EndLsn(boundary);
        progress.commit_lsn = hw_types::CommitLsn(Lsn(boundary.0.saturating_sub(1)));
        progress.xid = Xid(0);
        self.news.tables = true;
        self.touched.everything = true;
        Ok(())
    }

    /// Merges two row spaces and writes what differs: operations, lookups, and rows of a compared
    /// table. Without readers that live a new table's rows need no look.
    fn compare(
        &mut self,
        sink: &mut DecidedSink<'_>,
        old: Option<&Arc<Table>>,
        new: Option<&Arc<Table>>,
        table: &Arc<Table>,
        write_rows: bool,
    ) -> Result<(), EngineError> {
        // Without a table there is nothing to evaluate.
        let plan_of = |t: Option<&Arc<Table>>| t.map(|t| self.definitions.plan(&t.record.relation));
        let before = plan_of(old).unwrap_or_default();
        let after = plan_of(new.map(|_| table)).unwrap_or_default();
        let plans = [&before, &after];
        let number = table.record.number;
        if !write_rows && plans.iter().all(|plan| self.gates.shut(plan, number)) {
            return Ok(());
        }
        let snapshot = self.store.snapshot();
        let rows = |t: Option<&Arc<Table>>| t.map(|t| snapshot.all(&t.rows));
        let mut olds = rows(old).into_iter().flatten().peekable();
        let mut news = rows(new).into_iter().flatten().peekable();
        loop {
            use std::cmp::Ordering;
            let order = match (olds.peek(), news.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(Ok((a, _))), Some(Ok((b, _)))) => a[..].cmp(&b[..]),
                (Some(_), Some(_)) => Ordering::Equal,
            };
            let was = if order.is_le() { olds.next().transpose()? } else { None };
            let is = if order.is_ge() { news.next().transpose()? } else { None };
            let split = |value: &Option<(hw_store::Slice, hw_store::Slice)>| {
                value.as_ref().map(|(_, v)| v.clone())
            };
            let (was_value, is_value) = (split(&was), split(&is));
            // Equal bytes under equal columns are an equal row.
            if was_value.as_deref() == is_value.as_deref() && same_columns(old, new) {
                continue;
            }
            let Some((key, _)) = is.as_ref().or(was.as_ref()) else { break };
            let row = |value: &Option<hw_store::Slice>| -> Result<Option<Vec<u8>>, EngineError> {
                value.as_ref().map(|v| Ok(StoredRow::split(v)?.1.to_vec())).transpose()
            };
            let (before, after) = (row(&was_value)?, row(&is_value)?);
            let change = FoldedChange {
                table: number,
                name: &table.record.relation.name,
                key,
                before: before.as_deref().map(RowRef::new),
                after: after.as_deref().map(RowRef::new),
            };
            self.interpret(sink, plans, old.unwrap_or(table), &change)?;
            if write_rows {
                match &is_value {
                    Some(value) => sink.put(&table.rows, key.to_vec(), value.to_vec())?,
                    None => sink.delete(&table.rows, key.to_vec())?,
                }
            }
        }
        Ok(())
    }
}

/// A table of an entering step.
struct Arrival {
    /// The incarnation whose rows are compared and then replaced.
    from: Option<Arc<Table>>,
    /// The loaded rows.
    rows: Arc<Table>,
    /// The table as it will be.
    table: Arc<Table>,
}

/// Whether row keys of two incarnations mean the same.
fn same_identity(old: &Table, new: &Table) -> bool {
    let columns = |t: &Table| -> Vec<(String, hw_types::PgType)> {
        let columns = &t.record.relation.columns;
        t.key_columns
            .iter()
            .map(|&i| (columns[i].name.clone(), columns[i].pg_type.clone()))
            .collect()
    };
    old.multiple == new.multiple && columns(old) == columns(new)
}

fn same_columns(old: Option<&Arc<Table>>, new: Option<&Arc<Table>>) -> bool {
    match (old, new) {
        // Under another name other definitions read it.
        (Some(old), Some(new)) => {
            let (old, new) = (&old.record.relation, &new.record.relation);
            old.columns == new.columns && old.name == new.name
        }
        _ => false,
    }
}
