//! An error of the operating system at each call that the store makes (FD-1, FD-3): it is told by its
//! kind, nothing panics or hangs, and reopening finds everything that was synced.

#![allow(clippy::print_stdout)] // The tried process tells its parent what it met.

use std::path::{Path, PathBuf};
use std::process::Command;

use hw_store::{Batch, Store, StoreError};

use crate::small;

const CHILD_DIR: &str = "HW_STORE_TEST_FAULTS_DIR";

/// Bytes of a row, so that the few batches of a run fill memory several times.
const ROW_BYTES: usize = 8000;

const ROWS: u32 = 5;

const BATCHES: u32 = 24;

/// How often a run may fail before it counts as one that does not heal.
const MAX_FAILURES: usize = 20;

/// What the tried process does; not a test by itself.
#[test]
fn child_that_meets_a_fault() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let dir = PathBuf::from(dir);
    let mut run = Run { failures: 0, synced: None };
    let store = loop {
        match Store::open(&small(&dir)) {
            Ok(store) => break store,
            Err(error) => run.failed(&error),
        }
    };
    let mut next = 0;
    while next < BATCHES {
        match run.step(&store, next) {
            Ok(()) => next += 1,
            Err(error) => {
                run.failed(&error);
                next = run.reopen(&store);
            }
        }
    }
    loop {
        match store.sync().and_then(|()| store.finish_removals()) {
            Ok(()) => break,
            Err(error) => {
                run.failed(&error);
                assert_eq!(run.reopen(&store), BATCHES, "nothing but syncs were missing");
            }
        }
    }
    drop(store);
    // The fault may wait for the very last reads.
    let found = loop {
        match Store::open(&small(&dir)).and_then(|store| check(&store)) {
            Ok(found) => break found,
            Err(error) => run.failed(&error),
        }
    };
    assert_eq!(found, BATCHES);
    println!("child is done");
}

struct Run {
    failures: usize,
    /// The newest batch that a sync covered.
    synced: Option<u32>,
}

impl Run {
    fn failed(&mut self, error: &StoreError) {
        self.failures += 1;
        println!("failed: {error:?}");
        assert!(self.failures < MAX_FAILURES, "it does not heal");
        assert!(
            matches!(
                error,
                StoreError::Io { .. }
                    | StoreError::Full
                    | StoreError::NoFiles { .. }
                    | StoreError::Poisoned
                    | StoreError::Closed
                    | StoreError::Superseded
            ),
            "an error of the operating system is taken for {error:?}"
        );
    }

    fn step(&mut self, store: &Store, n: u32) -> Result<(), StoreError> {
        let spaces = [store.space("rows.a")?, store.space("rows.b")?];
        let state = store.space("state")?;
        let mut batch = Batch::new();
        for row in 0..ROWS {
            for space in &spaces {
                batch.put(space, (n * ROWS + row).to_be_bytes(), vec![n as u8; ROW_BYTES]);
            }
        }
        batch.put(&state, "next", (n + 1).to_be_bytes());
        store.commit(batch)?;
        if n % 8 == 5 {
            let space = store.space(&format!("table.{n}"))?;
            let mut load = store.bulk(&space)?;
            for row in 0..ROWS {
                load.push(&row.to_be_bytes(), &[n as u8; ROW_BYTES])?;
            }
            load.finish()?;
        }
        if n % 8 == 7 {
            store.drop_space(&format!("table.{}", n - 2))?;
        }
        if n.is_multiple_of(3) {
            store.sync()?;
            self.synced = Some(n);
        }
        check(store).map(drop)
    }

    /// Goes on behind a failure; returns the next batch.
    fn reopen(&mut self, store: &Store) -> u32 {
        loop {
            match store.reopen().and_then(|()| check(store)) {
                Ok(next) => {
                    assert!(next >= self.synced.map_or(0, |n| n + 1), "{next}, {:?}", self.synced);
                    return next;
                }
                Err(error) => self.failed(&error),
            }
        }
    }
}

/// Checks that a prefix of the batches is there, wholly, and returns how many they are.
fn check(store: &Store) -> Result<u32, StoreError> {
    let snapshot = store.snapshot();
    let Some(state) = store.existing_space("state") else { return Ok(0) };
    let next = snapshot.get(&state, b"next")?;
    let next = next.map_or(0, |next| u32::from_be_bytes(next[..].try_into().unwrap()));
    for name in ["rows.a", "rows.b"] {
        let Some(space) = store.existing_space(name) else { continue };
        let mut count = 0;
        for pair in snapshot.all(&space) {
            let (key, value) = pair?;
            assert_eq!(key, u32::to_be_bytes(count));
            assert_eq!(value, vec![(count / ROWS) as u8; ROW_BYTES]);
            count += 1;
        }
        assert_eq!(count, next * ROWS, "{name}");
    }
    for name in store.space_names().iter().filter(|name| name.starts_with("table.")) {
        let Some(space) = store.existing_space(name) else { continue };
        let count = snapshot.all(&space).collect::<Result<Vec<_>, _>>()?.len();
        assert!([0, ROWS as usize].contains(&count), "{name}: {count}");
    }
    Ok(next)
}

/// Builds what makes calls fail.
fn shim(dir: &Path) -> PathBuf {
    let library = dir.join("faults.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status()
        .expect("a C compiler, which the workspace needs anyway");
    assert!(built.success());
    library
}

/// Tries a run in which calls `at..at + times` fail; false when it made fewer calls.
fn tried(library: &Path, call: &str, errno: i32, at: u64, times: u64) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let (store, mark) = (dir.path().join("store"), dir.path().join("mark"));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::child_that_meets_a_fault", "--nocapture"])
        .env(CHILD_DIR, &store)
        .env("LD_PRELOAD", library)
        .env("FAULT_CALL", call)
        .env("FAULT_ERRNO", errno.to_string())
        .env("FAULT_AT", at.to_string())
        .env("FAULT_TIMES", times.to_string())
        .env("FAULT_BELOW", &store)
        .env("FAULT_MARK", &mark)
        .output()
        .unwrap();
    let (out, log) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let done = output.status.success() && out.contains("child is done");
    assert!(done, "{call} {errno} at {at} for {times}:\n{out}\n{log}");
    assert!(!log.contains("panicked"), "{call} {errno} at {at} for {times}:\n{log}");
    mark.exists()
}

fn an_error_at_each(calls: &[(&str, i32)]) {
    let dir = tempfile::tempdir().unwrap();
    let library = shim(dir.path());
    for (call, errno) in calls {
        // Every call would be thousands of runs; these meet all places, later ones less densely.
        let mut at = 1;
        while tried(&library, call, *errno, at, 1) {
            at += 1 + at / 2;
        }
        assert!(at > 1, "{call} is never made");
        tried(&library, call, *errno, at / 2, 3);
    }
}

#[test]
fn fd_1_an_i_o_error_at_a_sync_is_survived_wherever_it_is() {
    an_error_at_each(&[("fdatasync", libc::EIO), ("fsync", libc::EIO)]);
}

#[test]
fn fd_1_an_i_o_error_or_a_full_disk_at_a_write_is_survived_wherever_it_is() {
    an_error_at_each(&[("write", libc::EIO), ("write", libc::ENOSPC), ("ftruncate", libc::EIO)]);
}

#[test]
fn fd_1_no_more_open_files_are_survived_wherever_it_is() {
    an_error_at_each(&[("open", libc::EMFILE), ("open", libc::EIO)]);
}

#[test]
fn fd_1_an_i_o_error_at_a_read_is_survived_wherever_it_is() {
    an_error_at_each(&[("pread", libc::EIO), ("read", libc::EIO)]);
}

#[test]
fn fd_1_an_i_o_error_at_a_name_is_survived_wherever_it_is() {
    an_error_at_each(&[("rename", libc::EIO), ("unlink", libc::EIO), ("mkdir", libc::ENOSPC)]);
}
