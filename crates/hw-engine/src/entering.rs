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

use crate::buckets::Origin;
use crate::copy_spool::CopySpool;
use crate::engine::{Behind, CopyEvent, LoadTarget};
use crate::error::EngineError;
use crate::evaluate::FoldedChange;
use crate::fold::Fold;
use crate::large::DecidedSink;
use crate::overlay::Sink;
use crate::state::{IdentityRecord, Record, TableRecord, keys};
use crate::tables::{StoredRow, Table};
use crate::writer::Writer;
use hw_input::transactions::Transaction;
use hw_types::row::RowRef;
use hw_types::{Change, Lsn, Relation, RelationId, Xid};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

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
    pub(crate) fn copy_event(&mut self, event: CopyEvent) -> Result<(), EngineError> {
        match event {
            CopyEvent::Begin { whole, reply } => {
                self.drop_copy()?;
                // A store that waited for its turn at the slot begins its epoch now, above what
                // the one before it gave meanwhile (E-3).
                if whole.is_some()
                    && self.definitions.active.is_none()
                    && self.tables.all().is_empty()
                {
                    let fresh = self.shared.fresh_epoch();
                    self.progress.epoch = self.progress.epoch.max(fresh.epoch);
                    self.progress.op_id = self.progress.op_id.max(fresh.op_id);
                }
                if let Some(slot) = &whole {
                    self.overlay.put(&self.state, keys::COPYING.to_vec(), slot.clone().into())?;
                    self.commit()?;
                }
                let spool = CopySpool::new(self.store.spool().clone());
                self.copying = Some(Copying {
                    whole: whole.is_some(),
                    boundary: Lsn::ZERO,
                    loading: HashMap::new(),
                    spool,
                    behind: None,
                });
                let _ = reply.send(());
                Ok(())
            }
            CopyEvent::Boundary { lsn, relations, reply } => {
                let targets = self.prepare(lsn, relations)?;
                let _ = reply.send(targets);
                Ok(())
            }
            CopyEvent::Loaded { behind } => {
                if let Some(copying) = &mut self.copying {
                    copying.behind = Some(behind);
                }
                match &self.copying {
                    Some(Copying { behind: Some(Behind::Source(_)), .. }) => self.enter_copy(),
                    _ => Ok(()),
                }
            }
            CopyEvent::Failed => self.drop_copy(),
        }
    }

    /// Gives each relation of the copy an incarnation to be loaded into.
    fn prepare(
        &mut self,
        lsn: Lsn,
        relations: Vec<Relation>,
    ) -> Result<Vec<LoadTarget>, EngineError> {
        let Some(copying) = &mut self.copying else { return Ok(Vec::new()) };
        copying.boundary = lsn;
        let mut targets = Vec::new();
        for relation in relations {
            let number = self.counters.table;
            self.counters.table += 1;
            let record =
                TableRecord { number, relation, boundary: lsn, entered: false, stale: false };
            let key = keys::numbered(keys::TABLE, number);
            self.overlay.put(&self.state, key, record.encode())?;
            let table = Arc::new(Table::open(&self.store, record)?);
            copying.loading.insert(table.record.relation.id, table.clone());
            targets.push(LoadTarget { table });
        }
        self.overlay.put(&self.state, keys::COUNTERS.to_vec(), self.counters.encode())?;
        self.commit()?;
        Ok(targets)
    }

    /// Throws an unfinished copy away; its tables are copied again under a new X.
    pub(crate) fn drop_copy(&mut self) -> Result<(), EngineError> {
        let Some(copying) = self.copying.take() else { return Ok(()) };
        for table in copying.loading.values() {
            self.overlay.delete(&self.state, keys::numbered(keys::TABLE, table.record.number))?;
        }
        self.commit()?;
        for table in copying.loading.values() {
            self.store.drop_space(&format!("rows.{}", table.record.number))?;
        }
        self.share_tables();
        Ok(())
    }

    /// Keeps the changes of tables that have not entered, when a copy waits for them.
    pub(crate) fn spool(
        &mut self,
        transaction: &Transaction,
        relations: &BTreeSet<RelationId>,
    ) -> Result<(), EngineError> {
        let Some(copying) = &mut self.copying else { return Ok(()) };
        let wanted = |relation: &Relation| relations.contains(&relation.id);
        let mut changes = Vec::new();
        for change in transaction.changes.iter() {
            match change.map_err(|e| EngineError::Source(e.to_string()))? {
                Change::Row { relation, kind } if wanted(&relation) => {
                    changes.push(Change::Row { relation, kind });
                }
                Change::Truncate { relations } => {
                    let relations: Vec<_> = relations.into_iter().filter(|r| wanted(r)).collect();
                    if !relations.is_empty() {
                        changes.push(Change::Truncate { relations });
                    }
                }
                _ => {}
            }
        }
        if !changes.is_empty() {
            copying.spool.append(transaction.commit_lsn, changes)?;
        }
        Ok(())
    }

    /// Whether write checkpoints must wait: a table that is served is being copied again, and
    /// its changes stand in the spool.
    pub(crate) fn holds_back(&self) -> bool {
        !self.stale.is_empty()
    }

    /// Lets the write checkpoints go that waited for tables, when no other table is waited for.
    fn release_held(&mut self) -> Result<(), EngineError> {
        if self.holds_back() {
            return Ok(());
        }
        let held: Vec<_> =
            self.store.snapshot().prefix(&self.state, keys::HELD).collect::<Result<_, _>>()?;
        for (key, value) in held {
            let user = String::from_utf8_lossy(&key[keys::HELD.len()..]).into_owned();
            let number = (*value).try_into().map(u64::from_be_bytes);
            let number =
                number.map_err(|_| EngineError::damaged("state", "held write checkpoint"))?;
            self.put_write_checkpoint(&user, number)?;
            self.overlay.delete(&self.state, key.to_vec())?;
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
        self.replay(boundary, &loading, spool)?;
        let history = match behind {
            Some(Behind::Source(identity)) => Some(identity),
            _ => None,
        };
        self.enter(history, &loading)
    }

    /// Applies the spooled changes behind X to the loaded rows. Nobody reads them yet, so the
    /// commits are cut where it suits; a crash starts the copy again.
    fn replay(
        &mut self,
        boundary: Lsn,
        loading: &HashMap<RelationId, Arc<Table>>,
        spool: CopySpool,
    ) -> Result<(), EngineError> {
        for transaction in spool.finish()? {
            let (commit_lsn, changes) = transaction?;
            if commit_lsn.0 < boundary {
                continue;
            }
            let mut fold = Fold::default();
            for change in changes {
                match change {
                    Change::Row { relation, kind } => {
                        let Some(table) = loading.get(&relation.id) else { continue };
                        fold.change(table, kind, &self.overlay).map_err(|e| match e {
                            crate::fold::FoldError::Engine(error) => error,
                            crate::fold::FoldError::Incomplete => EngineError::Source(format!(
                                "a change of {} names a row that its copy does not hold",
                                relation.name
                            )),
                        })?;
                    }
                    Change::Truncate { relations } => {
                        for relation in relations {
                            let Some(table) = loading.get(&relation.id) else { continue };
                            self.commit()?;
                            fold.truncate(table);
                            let snapshot = self.store.snapshot();
                            for entry in snapshot.all(&table.rows) {
                                let (key, value) = entry?;
                                fold.gone(table.record.number, &key, StoredRow::decode(&value)?);
                            }
                        }
                    }
                    _ => {}
                }
            }
            for ((number, key), row) in fold.rows {
                let table = loading.values().find(|t| t.record.number == number);
                let Some(table) = table else { continue };
                match row.after {
                    Some(row) => {
                        let value = StoredRow::encode(row.copies, row.row.as_bytes());
                        self.overlay.put(&table.rows, key, value)?;
                    }
                    None => self.overlay.delete(&table.rows, key)?,
                }
            }
            if self.overlay.bytes() > 4 << 20 {
                self.commit()?;
            }
        }
        self.commit()
    }

    /// The visible step; with `history` also the beginning of that source's history.
    fn enter(
        &mut self,
        history: Option<IdentityRecord>,
        loading: &HashMap<RelationId, Arc<Table>>,
    ) -> Result<(), EngineError> {
        let mut new_tables: Vec<Arc<Table>> = loading.values().cloned().collect();
        new_tables.sort_by_key(|t| t.record.number);
        let mut scratch = Vec::new();
        let mut gone = Vec::new();
        let mut arrivals = Vec::new();
        for loaded in new_tables {
            let name = &loaded.record.relation.name;
            let old = self.tables.all().into_iter().find(|t| {
                t.record.relation.id == loaded.record.relation.id || t.record.relation.name == *name
            });
            match old {
                Some(old) if same_identity(&old, &loaded) => {
                    let mut record = loaded.record.clone();
                    record.number = old.record.number;
                    record.entered = true;
                    let kept = Arc::new(Table::open(&self.store, record)?);
                    scratch.push(loaded.record.number);
                    arrivals.push(Arrival {
                        from: Some(old),
                        rows: loaded,
                        table: kept,
                        compared: true,
                    });
                }
                old => {
                    if let Some(old) = old {
                        gone.push(old);
                    }
                    let mut record = loaded.record.clone();
                    record.entered = true;
                    let table = Arc::new(Table::open(&self.store, record)?);
                    arrivals.push(Arrival { from: None, rows: loaded, table, compared: false });
                }
            }
        }
        let entered: Vec<String> =
            arrivals.iter().map(|a| a.table.record.relation.name.to_string()).collect();
        let overlay =
            std::mem::replace(&mut self.overlay, crate::overlay::Overlay::new(self.store.clone()));
        let mut sink = DecidedSink::new(&overlay)?;
        let mut step = Step { change: 0 };
        for old in &gone {
            self.compare(&mut sink, &mut step, Some(old), None, old, false)?;
            sink.delete(&self.state, keys::numbered(keys::TABLE, old.record.number))?;
        }
        for arrival in &arrivals {
            let Arrival { from, rows, table, compared } = arrival;
            self.compare(&mut sink, &mut step, from.as_ref(), Some(rows), table, *compared)?;
            let key = keys::numbered(keys::TABLE, table.record.number);
            sink.put(&self.state, key, table.record.encode())?;
        }
        for number in &scratch {
            sink.delete(&self.state, keys::numbered(keys::TABLE, *number))?;
        }
        if let Some(identity) = history {
            self.begin_history(&identity, &mut sink)?;
        }
        self.book.flush(&self.spaces, &mut sink)?;
        sink.put(&self.state, keys::PROGRESS.to_vec(), self.progress.encode())?;
        sink.decide(&self.state)?;
        drop(overlay);
        self.committed = self.progress;
        for old in gone {
            self.tables.remove(old.record.number);
            self.stale.remove(&old.record.number);
            self.store.drop_space(&format!("rows.{}", old.record.number))?;
        }
        for number in scratch {
            self.store.drop_space(&format!("rows.{number}"))?;
        }
        for arrival in arrivals {
            self.stale.remove(&arrival.table.record.number);
            self.tables.insert(Table::open(&self.store, arrival.table.record.clone())?);
        }
        self.release_held()?;
        self.replan();
        self.note_commit();
        self.shared.entered.send_modify(|count| *count += 1);
        tracing::info!(tables = %entered.join(", "), "tables have entered");
        Ok(())
    }

    /// The position behind a copy of everything: what is before X is in it, what comes at or
    /// behind X is applied. Positions may go back here, numbers given to clients do not.
    ///
    /// The tail starts anew where the slot begins, also while it is empty, so that a crash before
    /// the first acknowledgement is not taken for a moved history.
    fn begin_history(
        &mut self,
        identity: &IdentityRecord,
        sink: &mut DecidedSink<'_>,
    ) -> Result<(), EngineError> {
        /// More log than a source writes between our last position and its own end.
        const SLACK: u64 = 1 << 40;
        let boundary = identity.slot_mark;
        for entry in self.store.snapshot().all(&self.tail) {
            sink.delete(&self.tail, entry?.0.to_vec())?;
        }
        sink.put(&self.tail, boundary.0.to_be_bytes().to_vec(), Vec::new())?;
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
        self.shared.set_write_base(progress.write_base);
        self.touched.everything = true;
        Ok(())
    }

    /// Merges two row spaces and writes what differs: operations, lookups, and rows of a compared
    /// table. Without readers that live a new table's rows need no look.
    fn compare(
        &mut self,
        sink: &mut DecidedSink<'_>,
        step: &mut Step,
        old: Option<&Arc<Table>>,
        new: Option<&Arc<Table>>,
        table: &Arc<Table>,
        write_rows: bool,
    ) -> Result<(), EngineError> {
        // Without a table there is nothing to evaluate.
        let plan_of = |t: Option<&Arc<Table>>| t.map(|t| self.definitions.plan(t));
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
                table,
                key,
                before: before.as_deref().map(RowRef::new),
                after: after.as_deref().map(RowRef::new),
            };
            self.effects.evaluate(plans, &self.gates, &change);
            let origin = Origin { xid: Xid(0), change: step.change };
            step.change += 1;
            self.book.append(
                &self.spaces,
                sink,
                &mut self.effects,
                origin,
                (table.record.number, key),
                &mut self.progress.op_id,
                &mut self.touched,
            )?;
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

/// Counts the changes of an entering step.
struct Step {
    change: u64,
}

/// A table of an entering step.
struct Arrival {
    /// The incarnation whose rows are compared.
    from: Option<Arc<Table>>,
    /// The loaded rows.
    rows: Arc<Table>,
    /// The table as it will be.
    table: Arc<Table>,
    compared: bool,
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
    old.record.relation.id == new.record.relation.id
        && old.multiple == new.multiple
        && columns(old) == columns(new)
}

fn same_columns(old: Option<&Arc<Table>>, new: Option<&Arc<Table>>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => old.record.relation.columns == new.record.relation.columns,
        _ => false,
    }
}
