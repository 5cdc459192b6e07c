//! The store's promises, each module one of them. Both backends run the same cases where they can.

mod bulk;
mod durability;
mod full;
mod model;
mod owner;
mod sorting;
mod spool;
mod twin;

use hw_store::{Simulation, Store, StoreOptions};
use tempfile::TempDir;

/// A store on disk with little memory, so that small tests reach flushing and compaction.
fn small(dir: &std::path::Path) -> StoreOptions {
    StoreOptions { memtable_bytes: 256 << 10, cache_bytes: 1 << 20, ..StoreOptions::new(dir) }
}

/// A store of each backend, with what keeps it alive.
fn both() -> Vec<(Store, Option<TempDir>)> {
    let dir = tempfile::tempdir().unwrap();
    let disk = Store::open(&small(dir.path())).unwrap();
    vec![(disk, Some(dir)), (Store::simulated(&Simulation::new()), None)]
}
