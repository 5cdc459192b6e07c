//! Copies of tables: the first one, tables that a definition newly names, tables that must be copied
//! again.
//!
//! The rows of a copy are read under one snapshot whose place in the log is X, sorted, and
//! loaded into a `rows` space of their own by the loader thread, while changes of those tables
//! wait in a spool. When the copy is complete and a marker sent behind it has arrived, the
//! spooled changes with commit position >= X are applied over the loaded rows (there unchanged
//! TOAST values are found), and the tables enter ([`crate::entering`], `design/engine.md` 6.3).

use crate::copy_spool::{CopySpool, Copying};
use crate::error::EngineError;
use crate::fold::{Fold, FoldError};
use crate::overlay::Sink;
use crate::state::{Record, TableRecord, Text, keys};
use crate::tables::{StoredRow, Table, same_shape};
use crate::writer::{CopyOutcome, Writer};
use hw_input::entry::{Behind, CopiedTable};
use hw_input::transactions::Transaction;
use hw_store::StoreError;
use hw_types::{Change, Lsn, Relation, RelationId, TableName};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Spooled changes that are folded before they are written to the loaded rows.
const REPLAY_BYTES: usize = 4 << 20;

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
}
