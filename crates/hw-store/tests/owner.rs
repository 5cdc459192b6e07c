//! Who owns the directory, and for how long (F-72).

use std::process::{Command, Stdio};

use hw_store::{Batch, Store, StoreError};

use crate::{copy_dir, files_below, small};

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

#[test]
fn damaged_database_files_end_in_an_error_not_in_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let store = Store::open(&small(&whole)).unwrap();
    let space = store.space("s").unwrap();
    let mut load = store.bulk(&space).unwrap();
    load.push(b"k", b"v").unwrap();
    load.finish().unwrap();
    drop((store, space));
    let mut damages = 0;
    for file in files_below(&whole.join("data/keyspaces")) {
        for cut in [true, false] {
            let copy = dir.path().join("copy");
            copy_dir(&whole, &copy);
            let file = copy.join(file.strip_prefix(&whole).unwrap());
            let bytes = std::fs::read(&file).unwrap();
            let half = bytes[..bytes.len() / 2].to_vec();
            let bytes = if cut { half } else { bytes.iter().map(|b| !b).collect() };
            std::fs::write(&file, bytes).unwrap();
            // Some bytes are read later than at opening; none of them may be taken for others.
            let found = Store::open(&small(&copy)).and_then(|store| {
                let space = store.existing_space("s").expect("the space is there");
                store.get(&space, b"k")
            });
            match found {
                Ok(value) => assert_eq!(value.unwrap(), b"v"),
                Err(StoreError::Damaged { .. } | StoreError::Io { .. }) => damages += 1,
                Err(other) => panic!("{other:?}"),
            }
            std::fs::remove_dir_all(&copy).unwrap();
        }
    }
    assert!(damages > 0);
    std::fs::create_dir(whole.join("data/keyspaces/not-a-number")).unwrap();
    assert!(matches!(Store::open(&small(&whole)), Err(StoreError::Damaged { .. })));
}
