//! Who owns the directory, and for how long (F-72).

use std::process::{Command, Stdio};

use hw_store::{Batch, Store, StoreError};

use crate::small;

#[test]
fn a_child_process_does_not_keep_the_store_locked() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&small(dir.path())).unwrap();
    // A child that inherits everything it can and outlives the store.
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    assert!(matches!(Store::open(&small(dir.path())), Err(StoreError::Locked { .. })));
    drop(store);
    Store::open(&small(dir.path())).unwrap();
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn handles_that_outlive_the_store_do_not_keep_it_locked() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&small(dir.path())).unwrap();
    let (space, gone) = (store.space("s").unwrap(), store.space("gone").unwrap());
    let mut batch = Batch::new();
    batch.put(&space, "k", "v");
    store.commit(batch).unwrap();
    let snapshot = store.snapshot();
    let scan = snapshot.all(&space);
    store.drop_space("gone").unwrap();
    drop(store);
    let store = Store::open(&small(dir.path())).unwrap();
    let again = store.existing_space("s").unwrap();
    assert_eq!(store.get(&again, b"k").unwrap().unwrap(), b"v");
    assert!(store.existing_space("gone").is_none());
    assert!(matches!(snapshot.get(&space, b"k"), Err(StoreError::Superseded)));
    assert!(matches!(scan.collect::<Result<Vec<_>, _>>(), Err(StoreError::Superseded)));
    drop(gone);
}

#[test]
fn a_directory_that_holds_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    let error = Store::open(&small(dir.path())).unwrap_err();
    assert_eq!(error.code().to_string(), "HW3008");
    std::fs::remove_file(dir.path().join("letter.txt")).unwrap();
    Store::open(&small(dir.path())).unwrap();
}
