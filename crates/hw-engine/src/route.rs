//! What is done with each change of a transaction: applied, kept for a copy, or a reason to copy its
//! table again.

use crate::error::{EngineError, code};
use crate::tables::{Table, same_shape};
use crate::writer::Writer;
use hw_types::{Change, ChangeKind, Diagnostic, LogMessage, Relation};
use std::sync::Arc;

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

impl Writer {
    /// What is done with a change: the one place that says so.
    pub(crate) fn route(&mut self, change: Change) -> Result<Route, EngineError> {
        Ok(match change {
            Change::Message(message) => Route::Message(message),
            Change::Relation(relation) => {
                self.list_description(&relation);
                match self.appliable(relation.id) {
                    Some(table) if !self.is_described(&table, &relation)? => Route::Stale,
                    None if self.takes_a_name(&relation)? => Route::Stale,
                    _ => Route::Nothing,
                }
            }
            Change::Row { relation, kind } => match self.appliable(relation.id) {
                Some(table) if !self.is_described(&table, &relation)? => Route::Stale,
                Some(table) => Route::Row(table, kind),
                None => {
                    self.list_aside(&relation);
                    Route::Aside
                }
            },
            Change::Truncate { relations } => {
                let mut tables = Vec::with_capacity(relations.len());
                for relation in &relations {
                    let Some(table) = self.appliable(relation.id) else {
                        self.list_aside(relation);
                        continue;
                    };
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

    /// The log describes a table, known as it is or not: who may do what with it may be others since.
    fn list_description(&mut self, relation: &Relation) {
        self.news.rights += 1;
        if let (Some(listed), Some(table)) =
            (&mut self.listed, self.tables.of_relation(relation.id))
        {
            listed.described(table);
        }
    }

    /// A change of a table that is not applied is one of those that stand still and have its oid or its name:
    /// whoever reads the name waits for what it did.
    fn list_aside(&mut self, relation: &Relation) {
        let Some(listed) = &mut self.listed else { return };
        for table in self.stale.iter().filter_map(|number| self.tables.get(*number)) {
            let own = &table.record.relation;
            if own.id == relation.id || own.name == relation.name {
                listed.stands_still(table);
            }
        }
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

    /// Whether a table that is not applied has the name of one that is. That one is marked: it was
    /// renamed or dropped, and whoever reads the name reads the other.
    fn takes_a_name(&mut self, relation: &Relation) -> Result<bool, EngineError> {
        let is_taken = |table: &Arc<Table>| {
            let own = &table.record.relation;
            own.name == relation.name
                && own.id != relation.id
                && !self.stale.contains(&table.record.number)
        };
        let Some(table) = self.tables.all().into_iter().find(is_taken) else { return Ok(false) };
        tracing::warn!(table = %relation.name, "another table has the name; it is copied in place of the first");
        self.mark_stale(table.record.number)?;
        Ok(true)
    }

    /// The replica does not hold what the log changes: its rows may have other keys than those of the log.
    pub(crate) fn incomplete(&mut self, number: u32) -> Result<(), EngineError> {
        let Some(table) = self.tables.get(number).cloned() else { return Ok(()) };
        let name = &table.record.relation.name;
        let what = format!(
            "{name}: the replica does not hold a row that the log changes; it is copied again"
        );
        Diagnostic::error(code::ROW_MISSING, what)
            .mend("nothing, when it was once; report it when it comes again")
            .log();
        self.mark_stale(number)?;
        self.shut(&table)
    }
}
