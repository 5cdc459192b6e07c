//! The store's promises, each module one of them. Both backends run the same cases where they can.

mod bulk;
mod damage;
mod durability;
mod faults;
mod formats;
mod full;
mod model;
mod owner;
mod sorting;
mod spaces;
mod spool;
mod twin;

use std::path::{Path, PathBuf};

use hw_store::{Simulation, Store, StoreOptions};
use tempfile::TempDir;

/// A store on disk with little memory, so that small tests reach flushing and compaction.
fn small(dir: &Path) -> StoreOptions {
    StoreOptions { memtable_bytes: 256 << 10, cache_bytes: 1 << 20, ..StoreOptions::new(dir) }
}

/// A store of each backend, with what keeps it alive.
fn both() -> Vec<(Store, Option<TempDir>)> {
    let dir = tempfile::tempdir().unwrap();
    let disk = Store::open(&small(dir.path())).unwrap();
    vec![(disk, Some(dir)), (Store::simulated(&Simulation::new()), None)]
}

/// Gives spaces their numbers until the next ones are short, and those of two later ones are long.
fn use_up_short_numbers(dir: &Path) {
    let store = Store::open(&small(dir)).unwrap();
    for _ in 0..(1 << 15) - 4 {
        store.space("gone").unwrap();
        store.drop_space("gone").unwrap();
    }
    store.finish_removals().unwrap();
    store.sync().unwrap();
}

/// All files below a directory.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

/// Copies a directory that nobody writes to, as it is.
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_dir(&path, &to) } else { drop(std::fs::copy(&path, &to)) }
    }
}
