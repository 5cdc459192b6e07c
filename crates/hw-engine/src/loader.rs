//! Loads the rows of a table copy: sorted by row key, straight into the incarnation's own space,
//! on a thread of its own so that the writer goes on.

use crate::engine::LoadTarget;
use crate::error::EngineError;
use crate::tables::StoredRow;
use hw_store::Store;
use hw_store::sorter::Sorter;
use hw_types::{RelationId, Row};
use std::collections::HashMap;

/// Rows of one relation, as a copy worker read them.
pub(crate) struct Rows {
    pub relation: RelationId,
    pub rows: Vec<Row>,
    /// Whether the table has no more rows.
    pub last: bool,
}

/// Takes batches until the channel closes; returns the number of rows loaded.
///
/// - Errors: the store's. What was loaded so far is dropped with the copy.
pub(crate) fn load(
    store: &Store,
    targets: Vec<LoadTarget>,
    sort_bytes: usize,
    mut batches: tokio::sync::mpsc::Receiver<Rows>,
) -> Result<u64, EngineError> {
    let mut open: HashMap<RelationId, (LoadTarget, Sorter)> = targets
        .into_iter()
        .map(|target| {
            let id = target.table.record.relation.id;
            (id, (target, Sorter::new(store.spool(), sort_bytes)))
        })
        .collect();
    let mut total = 0;
    while let Some(batch) = batches.blocking_recv() {
        let Some((target, sorter)) = open.get_mut(&batch.relation) else { continue };
        for row in &batch.rows {
            let key = target.table.key(&row.view());
            sorter.push(&key, row.as_bytes())?;
            total += 1;
        }
        if batch.last
            && let Some((target, sorter)) = open.remove(&batch.relation)
        {
            write(store, &target, sorter)?;
        }
    }
    for (_, (target, sorter)) in open {
        write(store, &target, sorter)?;
    }
    Ok(total)
}

/// Writes a table's sorted rows. Equal keys are copies of one row in a table without identity.
fn write(store: &Store, target: &LoadTarget, sorter: Sorter) -> Result<(), EngineError> {
    let runs = sorter.finish()?;
    let mut cursor = runs.cursor()?;
    let mut load = store.bulk(&target.table.rows)?;
    let mut pending: Option<(Vec<u8>, Vec<u8>, u64)> = None;
    while let Some((key, row)) = cursor.next()? {
        match &mut pending {
            Some((waiting, _, copies)) if waiting == key => *copies += 1,
            Some((waiting, value, copies)) => {
                load.push(waiting, &StoredRow::encode(*copies, value))?;
                waiting.clear();
                waiting.extend_from_slice(key);
                value.clear();
                value.extend_from_slice(row);
                *copies = 1;
            }
            None => pending = Some((key.to_vec(), row.to_vec(), 1)),
        }
    }
    if let Some((key, value, copies)) = pending {
        load.push(&key, &StoredRow::encode(copies, &value))?;
    }
    load.finish()?;
    Ok(())
}
