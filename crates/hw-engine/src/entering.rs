//! Tables enter and leave, each time in one visible step that no crash cuts:
//!
//! - a table that the replica did not have: its rows come;
//! - a table with the same identity columns: only differences from the replica become
//!   operations (a compared copy);
//! - a table whose identity changed: the old incarnation's rows go, the new one's come;
//! - a table that cannot be followed any more: its rows leave.

use crate::change_list::{Recorder, Rows};
use crate::error::EngineError;
use crate::evaluate::FoldedChange;
use crate::large::DecidedSink;
use crate::overlay::Sink;
use crate::state::{Record, keys};
use crate::tables::{StoredRow, Table, same_identity};
use crate::writer::{CopyOutcome, Writer};
use hw_input::identity::Identity;
use hw_types::row::RowRef;
use hw_types::{Lsn, Relation, RelationId, Xid};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

impl Writer {
    /// The visible step; with `history` also the beginning of that source's history.
    ///
    /// - Takes: the loaded incarnations, and the tables that a later copy reads.
    pub(crate) fn enter(
        &mut self,
        history: Option<Identity>,
        loading: &HashMap<RelationId, Arc<Table>>,
        left_out: &BTreeSet<RelationId>,
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
        // Under another history a table that is not in the copy is not known any more. Under the same
        // one, a table whose name another one of the step has is gone or out of reach.
        let is_left = |old: &Arc<Table>| {
            let old = &old.record.relation;
            let is_taken = pairs.iter().any(|(new, _)| new.record.relation.name == old.name);
            history.is_some() || (is_taken && !left_out.contains(&old.id))
        };
        let mut gone: Vec<Arc<Table>> = olds.into_iter().filter(is_left).collect();
        for old in &gone {
            tracing::warn!(
                table = %old.record.relation.name, id = %old.record.relation.id.0,
                "the table leaves the replica: it is not among those that enter in its place"
            );
        }
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
        // A copy of it that is under way must not bring it back.
        self.leave_out(&[relation])?;
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
        let mut sink = DecidedSink::new(&base, &self.beat)?;
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
        let begins_history = history.is_some();
        if let Some(identity) = history {
            self.begin_history(&identity, &mut sink)?;
        }
        self.book.flush(&self.spaces, &mut sink)?;
        sink.put(&self.state, keys::PROGRESS.to_vec(), self.progress.encode())?;
        sink.decide(&self.state)?;
        self.committed = self.progress;
        if begins_history {
            self.listed.as_mut().map(Recorder::anew);
        } else {
            let renamed = |arrival: &&Arrival| {
                let name = |table: &Table| table.record.relation.name.clone();
                arrival.from.as_ref().is_some_and(|from| name(from) != name(&arrival.table))
            };
            let before =
                arrivals.iter().filter(renamed).filter_map(|arrival| arrival.from.as_ref());
            let now = arrivals.iter().map(|arrival| &arrival.table);
            self.list_tables(gone.iter().chain(before).chain(now), || Rows::Unknown);
        }
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
        self.columns_changed()
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
        self.arrived.whole = Some(boundary);
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
            self.beat.count();
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
