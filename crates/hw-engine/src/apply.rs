//! Applies an entry: the one way in which the state changes.

use crate::change_list::Rows;
use crate::definitions::{compile, no_longer_compiles};
use crate::error::{EngineError, code};
use crate::overlay::Sink;
use crate::runs::Runs;
use crate::state::{Day, Demanded, IncarnationRecord, Record, Refused, Secret, TableRecord, keys};
use crate::tables::Table;
use crate::writer::Writer;
use hw_input::entry::{CompactSlice, Control, Entry};
use hw_types::{Diagnostic, RelationId, TableName};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What came of an entry, for whoever made it.
pub(crate) enum Applied {
    /// Nothing to tell.
    Done,
    /// A configuration that is new.
    Changed,
    /// The incarnations that the rows of a copy go to.
    Loading(Vec<Arc<Table>>),
}

impl Writer {
    /// Applies the next entry.
    ///
    /// - Errors: the store's. The writer is then of no use; another one is opened from what is
    ///   durable, and the entries behind it come again.
    pub fn apply(&mut self, entry: Entry) -> Result<Applied, EngineError> {
        self.beat.count();
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
        if let Control::Stale { .. }
        | Control::Adopt { .. }
        | Control::Gone { .. }
        | Control::Refused(_) = &control
        {
            // The catalog says something else of a table.
            self.news.rights += 1;
        }
        match control {
            Control::Epoch { epoch, op_id, write_base } => {
                self.new = false;
                self.progress.epoch = self.progress.epoch.max(epoch);
                self.progress.op_id = self.progress.op_id.max(op_id);
                self.progress.write_base = self.progress.write_base.max(write_base);
                self.note_runs(Runs::of_epoch(self.progress.op_id))?;
                self.serve_anew()?;
            }
            Control::Run { op_id, write_base } => {
                let progress = &mut self.progress;
                let last = std::mem::replace(&mut progress.op_id, op_id);
                progress.write_base = write_base;
                self.note_runs(self.runs.with(last, op_id))?;
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
            Control::Loaded { behind, reading } => self.loaded(behind, reading)?,
            Control::CopyFailed => self.drop_copy()?,
            Control::BuildSlice { rows, later } => self.build_slice(rows, &later)?,
            Control::BuildAll => self.build_at_once()?,
            Control::Switch { now, waiting } => self.switch(now, waiting)?,
            Control::Retire { before } => self.retire(before)?,
            Control::HistoryMoved => self.history_moves(false)?,
            Control::Behind => self.history_moves(true)?,
            Control::Day(day) => self.new_day(Day(day))?,
            Control::KeepNewest { user } => self.keep_newest(&user)?,
            Control::TrimTail { below } => {
                // A scan of the store sees committed writes only.
                self.commit()?;
                crate::tail::trim(&self.store, &self.tail, below, &mut self.overlay)?;
            }
            Control::Stale { table: relation, reason, untraced } => {
                if let Some(table) = self.appliable(relation) {
                    tracing::warn!(table = %table.record.relation.name, reason, "the table is copied again and compared");
                    self.mark_stale(table.record.number)?;
                }
                if let Some(table) = self.tables.of_relation(relation).filter(|_| untraced).cloned()
                {
                    // Also of what was applied before somebody looked it cannot be told whose it was.
                    self.shut(&table)?;
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
            Control::Demand(table) => self.demand(table)?,
            Control::Thaw => self.thaw()?,
            Control::Lost { tables, derived } => self.give_up(&tables, derived)?,
        }
        Ok(Applied::Done)
    }

    fn note_runs(&mut self, runs: Runs) -> Result<(), EngineError> {
        self.overlay.put(&self.state, keys::RUNS.to_vec(), runs.encode())?;
        self.runs = Arc::new(runs);
        Ok(())
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

    fn switch(&mut self, now: u64, waiting: BTreeSet<u32>) -> Result<(), EngineError> {
        self.commit()?;
        self.definitions.switch(now, waiting, &mut self.overlay, &self.state)?;
        self.commit()?;
        self.serve_anew()?;
        let version = self.active.as_ref().map_or(0, |a| a.version);
        let waiting = self.definitions.waiting_names();
        match waiting.is_empty() {
            true => {
                tracing::info!(version, rows = self.built_rows, "the sync configuration is served");
            }
            false => tracing::info!(
                version,
                rows = self.built_rows,
                waiting = waiting.join(", "),
                "the sync configuration is served, but for what waits for tables"
            ),
        }
        self.built_rows = 0;
        Ok(())
    }

    /// Whether anything changed.
    fn configure(&mut self, file: &str, text: &str) -> Result<bool, EngineError> {
        let config = match compile(file, text) {
            Ok(config) => config,
            // Whoever makes entries has compiled it (E-7).
            Err(findings) => {
                no_longer_compiles(&format!("the sync configuration of {file}"), &findings);
                return Ok(false);
            }
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

    /// Replicates a table from here on.
    fn demand(&mut self, table: TableName) -> Result<(), EngineError> {
        if self.definitions.demanded.insert(table) {
            let demanded = Demanded(self.definitions.demanded.clone());
            self.overlay.put(&self.state, keys::DEMANDED.to_vec(), demanded.encode())?;
            self.tables_changed();
        }
        Ok(())
    }

    /// Notes what the catalog says of a table from here on.
    fn adopt(&mut self, relation: RelationId, facts: Vec<u8>) -> Result<(), EngineError> {
        let Some(table) = self.tables.of_relation(relation) else { return Ok(()) };
        let record = TableRecord { facts, ..table.record.clone() };
        let key = keys::numbered(keys::TABLE, record.number);
        self.overlay.put(&self.state, key, record.encode())?;
        self.tables.insert(Table::open(&self.store, record)?);
        self.tables_changed();
        self.columns_changed()
    }

    fn retire(&mut self, before: u64) -> Result<(), EngineError> {
        let dropped = self.definitions.drop_retired(before, &mut self.overlay, &self.state)?;
        self.drop_incarnations(dropped)
    }

    /// Drops the spaces of incarnations whose records are removed with what waits.
    fn drop_incarnations(&mut self, dropped: Vec<IncarnationRecord>) -> Result<(), EngineError> {
        self.commit()?;
        self.store.sync()?;
        self.replan();
        self.book.forget_all();
        for record in dropped {
            self.spaces.drop(&self.store, record.kind, record.number)?;
            self.store.drop_space(&crate::held::space_name(record.number))?;
        }
        Ok(())
    }

    /// Gives up what the store has lost (see [`crate::lost`]).
    fn give_up(
        &mut self,
        tables: &BTreeSet<u32>,
        mut derived: BTreeSet<u32>,
    ) -> Result<(), EngineError> {
        self.commit()?;
        let mut names = BTreeSet::new();
        let lost: Vec<Arc<Table>> =
            tables.iter().filter_map(|number| self.tables.get(*number).cloned()).collect();
        self.list_tables(lost.iter(), || Rows::Unknown);
        for number in tables {
            let Some(table) = self.tables.get(*number).cloned() else { continue };
            names.insert(table.record.relation.name.to_string());
            let plan = self.definitions.plan(&table.record.relation);
            derived.extend(plan.0.iter().map(|planned| planned.number));
            self.overlay.delete(&self.state, keys::numbered(keys::TABLE, *number))?;
            self.tables.remove(*number);
            self.stale.remove(number);
        }
        let first = self.counters.derived;
        let given_up = self.definitions.renew(
            &derived,
            &mut self.counters,
            &mut self.spaces,
            &mut self.overlay,
            &self.state,
        )?;
        names.extend(self.definitions.names_of(|number| number >= first));
        self.drop_incarnations(given_up)?;
        for number in tables {
            self.store.drop_space(&format!("rows.{number}"))?;
        }
        if !names.is_empty() {
            let listed = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let what = format!("the store has lost to damage what it held of {listed}");
            Diagnostic::error(code::LOST, what)
                .mend(
                    "check the disk; what is lost is copied and built again, and nothing is \
                     served until it is",
                )
                .log();
        }
        self.news.lost = names;
        self.serve_anew()
    }
}
