//! Definitions that stand still while a table that they read cannot be followed.
//!
//! A table is *stale* from the moment on which its changes are passed over until a compared copy of
//! it has entered. The buckets of every definition that reads it stay as they were then; the replica's
//! other tables, and all other definitions, go on. So nobody is shown a part of what a transaction did.
//! Its lookups go on losing what rows no longer give, and gain nothing: whoever loses access loses it
//! at once (E-4), by changes of tables that are followed ([`crate::interpret`]) and of those that are
//! not ([`crate::withdraw`]).
//!
//! For each incarnation that stands still it is kept what a row was at its first change since
//! ([`crate::held`]). When every table can be followed again, the incarnation is given the difference
//! between that and the rows as they are then: one step, whose cost is that of the rows that changed
//! meanwhile.

use crate::change_list::Rows;
use crate::error::EngineError;
use crate::evaluate::FoldedChange;
use crate::held::{HeldRow, ROW, damaged, layout_key, space_name, split_key};
use crate::large::DecidedSink;
use crate::overlay::{Overlay, Sink};
use crate::state::{BuildState, Record, TableRecord, keys};
use crate::tables::{Planned, StoredRow, Table, TablePlan};
use crate::writer::Writer;
use hw_store::Space;
use hw_types::row::RowRef;
use hw_types::{Relation, TableName};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

impl Writer {
    /// From here on the table's changes are passed over, and it is copied again. In the overlay
    /// before anything that comes behind it: no crash forgets the mark and keeps the progress.
    pub(crate) fn mark_stale(&mut self, number: u32) -> Result<(), EngineError> {
        if let Some(table) = self.tables.get(number) {
            let record = TableRecord { stale: true, ..table.record.clone() };
            let key = keys::numbered(keys::TABLE, number);
            self.overlay.put(&self.state, key, record.encode())?;
            // Whatever else is noted of the table comes with the mark.
            self.tables.insert(Table::open(&self.store, record)?);
        }
        if self.stale.insert(number)
            && let Some(table) = self.tables.get(number).cloned()
        {
            self.list_tables([&table].into_iter(), || Rows::StandsStill);
        }
        self.descriptions.remove(&number);
        self.tables_changed();
        self.freeze()
    }

    /// Lets every served definition stand still that reads a stale table. Before anything of the
    /// entry that made it stale is applied.
    pub(crate) fn freeze(&mut self) -> Result<(), EngineError> {
        let held = self.held_up();
        let live = |number: &u32| {
            let incarnation = self.definitions.derived.get(number);
            incarnation.is_some_and(|i| i.record.state == BuildState::Live)
        };
        let freezing: BTreeSet<u32> = held.into_iter().filter(live).collect();
        if freezing.is_empty() {
            return Ok(());
        }
        let to = BuildState::Frozen { since: self.progress.end_lsn, shut: false };
        self.definitions.set_state(&freezing, &to, &mut self.overlay, &self.state)?;
        self.gates = self.definitions.gates();
        self.serve_anew()
    }

    /// The incarnations that cannot follow as long as the stale tables cannot.
    fn held_up(&self) -> BTreeSet<u32> {
        self.definitions.held_up_by(&self.stale_names())
    }

    /// The incarnations that stand still and could go on.
    fn thawing(&self) -> BTreeSet<u32> {
        let frozen: BTreeSet<u32> = self
            .definitions
            .derived
            .values()
            .filter(|i| matches!(i.record.state, BuildState::Frozen { .. }))
            .map(|i| i.record.number)
            .collect();
        if frozen.is_empty() {
            return frozen;
        }
        // One that is no longer served waits for its own tables.
        let waits = |number: &u32| {
            self.stale
                .iter()
                .any(|table| self.plans.get(table).is_some_and(|plan| plan.find(*number).is_some()))
        };
        let held = self.held_up();
        frozen.into_iter().filter(|number| !held.contains(number) && !waits(number)).collect()
    }

    /// Whether something that stands still could go on.
    pub fn can_thaw(&self) -> bool {
        !self.thawing().is_empty()
    }

    /// Gives incarnations that can go on the difference between the rows as they were for them and
    /// as they are.
    pub(crate) fn thaw(&mut self) -> Result<(), EngineError> {
        let thawing = self.thawing();
        self.commit()?;
        let base = Overlay::new(self.store.clone());
        let mut sink = DecidedSink::new(&base, &self.beat)?;
        let mut rows = 0;
        for number in &thawing {
            let space = self.store.space(&space_name(*number))?;
            rows += self.thaw_one(*number, &space, &mut sink)?;
        }
        self.definitions.set_state(&thawing, &BuildState::Live, &mut sink, &self.state)?;
        self.book.flush(&self.spaces, &mut sink)?;
        sink.put(&self.state, keys::PROGRESS.to_vec(), self.progress.encode())?;
        sink.decide(&self.state)?;
        self.committed = self.progress;
        for number in &thawing {
            self.store.drop_space(&space_name(*number))?;
        }
        self.gates = self.definitions.gates();
        self.serve_anew()?;
        tracing::info!(parts = thawing.len(), rows, "definitions that stood still go on");
        Ok(())
    }

    fn thaw_one(
        &mut self,
        number: u32,
        space: &Space,
        sink: &mut DecidedSink<'_>,
    ) -> Result<u64, EngineError> {
        let snapshot = self.store.snapshot();
        // How the incarnation reads the rows as they were, and as they are.
        let mut before_plans: HashMap<(u32, u32), TablePlan> = HashMap::new();
        let mut after_plans: HashMap<u32, TablePlan> = HashMap::new();
        let mut rows = 0;
        for entry in snapshot.prefix(space, &[ROW]) {
            self.beat.count();
            let (key, value) = entry?;
            let (table, row_key) = split_key(&key).ok_or_else(|| damaged("key"))?;
            let HeldRow { layout, row: before } = HeldRow::decode(&value)?;
            let now = self.tables.get(table).cloned();
            let Some(incarnation) = self.definitions.derived.get(&number) else { continue };
            let plan = |relation: &Relation| {
                let bound = incarnation.bind(relation).map(Arc::new);
                TablePlan(bound.into_iter().map(|bound| Planned { number, bound }).collect())
            };
            if let (Some(_), None) = (&before, before_plans.get(&(table, layout))) {
                let columns = Relation::load(&snapshot, space, &layout_key(table, layout))?;
                let columns = columns.ok_or_else(|| damaged("columns"))?;
                before_plans.insert((table, layout), plan(&columns));
            }
            if let Some(now) = &now {
                after_plans.entry(table).or_insert_with(|| plan(&now.record.relation));
            }
            let after = match &now {
                Some(now) => snapshot.get(&now.rows, row_key)?,
                None => None,
            };
            let after = after.as_deref().map(StoredRow::split).transpose()?.map(|(_, row)| row);
            let nothing = TablePlan::default();
            let plans = [
                before_plans.get(&(table, layout)).unwrap_or(&nothing),
                after_plans.get(&table).unwrap_or(&nothing),
            ];
            let gone = TableName::new("", "");
            let change = FoldedChange {
                table,
                name: now.as_ref().map_or(&gone, |now| &now.record.relation.name),
                key: row_key,
                before: before.as_ref().map(|row| row.view()),
                after: after.map(RowRef::new),
            };
            self.effects.evaluate_anew(plans, &change);
            self.book.append(
                &self.spaces,
                sink,
                &mut self.effects,
                (table, row_key),
                &mut self.progress.op_id,
                &mut self.touched,
            )?;
            rows += 1;
        }
        Ok(rows)
    }
}
