//! Rows that the source sent as those of a partitioned table above theirs.
//!
//! A publication that sends partitions as their root sends a table under another one for as long as it is
//! attached to that one, or as that one is in the publication. Both may come and go within a transaction and
//! leave nothing to see in the catalog; what was changed meanwhile has come under the other table's oid.
//! So what the stream says of it counts: the table is copied again, and as nobody can tell which of its
//! rows went, nobody has access by it until then (E-4). A copy under way that may lack it does not enter.

use crate::error::EngineError;
use crate::tables::Table;
use crate::writer::Writer;
use hw_input::transactions::Transaction;
use hw_input::transactions::changes::SentUnder;
use hw_types::{Lsn, RelationId};
use std::sync::Arc;

impl Writer {
    /// Marks the tables of which rows were sent under others. Before any part of the transaction is applied.
    pub(crate) fn note_sent_under(&mut self, transaction: &Transaction) -> Result<(), EngineError> {
        for sent in transaction.changes.sent_under() {
            for table in self.tables.all().iter().filter(|table| lacks(table, sent)) {
                if !self.stale.contains(&table.record.number) {
                    tracing::warn!(table = %table.record.relation.name, "rows of the table were sent under a partitioned table above it; it is copied again and compared");
                    self.mark_stale(table.record.number)?;
                }
                self.shut(table)?;
            }
            let Some(copying) = &mut self.copying else { continue };
            copying.sent_under.push((transaction.commit_lsn, *sent));
        }
        self.leave_out_sent_under()
    }

    /// Leaves out of the copy under way what was sent under other tables behind its beginning.
    pub(crate) fn leave_out_sent_under(&mut self) -> Result<(), EngineError> {
        let Some(copying) = &mut self.copying else { return Ok(()) };
        // Until it is known what is loaded, it may be any of them.
        if copying.boundary == Lsn::ZERO || copying.sent_under.is_empty() {
            return Ok(());
        }
        let mut sent = std::mem::take(&mut copying.sent_under);
        sent.retain(|(commit, _)| commit.0 >= copying.boundary);
        let is_left = |table: &&Arc<Table>| sent.iter().any(|(_, sent)| lacks(table, sent));
        let left: Vec<RelationId> = copying
            .loading
            .values()
            .filter(is_left)
            .map(|table| table.record.relation.id)
            .collect();
        self.leave_out(&left)
    }
}

/// Whether a table lacks rows that were sent so.
fn lacks(table: &Table, sent: &SentUnder) -> bool {
    let id = table.record.relation.id;
    let is_leaf = || {
        let mut leaves = table.facts.iter().flat_map(|facts| &facts.leaves);
        leaves.any(|leaf| leaf.id == sent.table)
    };
    id != sent.root && (id == sent.table || is_leaf())
}
