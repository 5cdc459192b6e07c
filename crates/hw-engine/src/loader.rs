//! Loads the rows of a table copy: sorted by row key, straight into the incarnation's own space,
//! on a thread of its own so that the writer goes on.

use crate::tables::{StoredRow, Table};
use hw_input::signal::{Load, Rows};
use hw_store::sorter::Sorter;
use hw_store::{Store, StoreError};
use hw_types::RelationId;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Loads rows into the incarnations of a copy.
pub(crate) struct Loader {
    pub store: Store,
    pub tables: Vec<Arc<Table>>,
    /// Memory of one sort on disk.
    pub sort_bytes: usize,
}

impl Load for Loader {
    fn load(self: Box<Self>, mut batches: mpsc::Receiver<Rows>) -> Result<(), StoreError> {
        let Loader { store, tables, sort_bytes } = *self;
        let mut open: HashMap<RelationId, (Arc<Table>, Sorter)> = tables
            .into_iter()
            .map(|table| {
                let id = table.record.relation.id;
                (id, (table, Sorter::new(store.spool(), sort_bytes)))
            })
            .collect();
        while let Some(batch) = batches.blocking_recv() {
            hw_process::failpoint::reached("loader::batch");
            let Some((table, sorter)) = open.get_mut(&batch.relation) else { continue };
            for row in &batch.rows {
                sorter.push(&table.key(&row.view()), row.as_bytes())?;
            }
            if batch.last
                && let Some((table, sorter)) = open.remove(&batch.relation)
            {
                write(&store, &table, sorter)?;
            }
        }
        // What is still open was left out of the copy.
        Ok(())
    }
}

/// Writes a table's sorted rows. Equal keys are copies of one row in a table without identity.
fn write(store: &Store, table: &Table, sorter: Sorter) -> Result<(), StoreError> {
    let runs = sorter.finish()?;
    let mut cursor = runs.cursor()?;
    let mut load = store.bulk(&table.rows)?;
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
