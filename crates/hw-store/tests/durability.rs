//! Kill at any moment, open again: what was acknowledged as synced is there, batches are whole
//! (E-2, F-2, F-3).

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use hw_store::{Batch, Store};

use crate::small;

const CHILD_DIR: &str = "HW_STORE_TEST_CHILD_DIR";

/// Rows that each batch writes to each of its two spaces.
const ROWS: u32 = 20;

/// Not a test by itself: what the killed process does. Prints the number of each synced batch.
#[test]
fn child_that_commits_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = Store::open(&small(dir.as_ref())).unwrap();
    let (a, b) = (store.space("a").unwrap(), store.space("b").unwrap());
    let state = store.space("state").unwrap();
    let first = next_batch(&store);
    for n in first.. {
        let mut batch = Batch::new();
        for row in 0..ROWS {
            let key = (n * ROWS + row).to_be_bytes();
            batch.put(&a, key, vec![n as u8; 200]);
            batch.put(&b, key, vec![n as u8; 100]);
        }
        if n % 7 == 6 {
            batch.delete(&a, ((n - 1) * ROWS).to_be_bytes());
        }
        batch.put(&state, "next", (n + 1).to_be_bytes());
        store.commit(batch).unwrap();
        if n % 50 == 25 {
            // Every second one is more than a commit takes and gets tables of its own.
            let space = store.space(&format!("table.{n}")).unwrap();
            let mut load = store.bulk(&space).unwrap();
            for row in 0..ROWS {
                load.push(&row.to_be_bytes(), &vec![7; (n % 4) as usize * 1000]).unwrap();
            }
            load.finish().unwrap();
            if n > 100 {
                store.drop_space(&format!("table.{}", n - 100)).unwrap();
            }
        }
        if n % 3 == 0 {
            store.sync().unwrap();
            eprintln!("synced {n}");
        }
    }
}

fn next_batch(store: &Store) -> u32 {
    let Some(state) = store.existing_space("state") else { return 0 };
    let next = store.get(&state, b"next").unwrap();
    next.map_or(0, |next| u32::from_be_bytes(next[..].try_into().unwrap()))
}

/// Checks that batches `0..next` are there, wholly, and nothing else.
fn check(store: &Store, next: u32) {
    let snapshot = store.snapshot();
    for (name, len) in [("a", 200), ("b", 100)] {
        let space = store.existing_space(name).unwrap();
        let mut expected = (0..next * ROWS).filter(|key| {
            let (n, row) = (key / ROWS, key % ROWS);
            let deleted = name == "a" && row == 0 && n % 7 == 5 && n + 1 < next;
            !deleted
        });
        for pair in snapshot.all(&space) {
            let (key, value) = pair.unwrap();
            let key = u32::from_be_bytes(key[..].try_into().unwrap());
            assert_eq!(Some(key), expected.next());
            assert_eq!(value, vec![(key / ROWS) as u8; len]);
        }
        assert_eq!(expected.next(), None);
    }
    for name in store.space_names().iter().filter(|name| name.starts_with("table")) {
        let space = store.existing_space(name).unwrap();
        let n: u32 = name["table.".len()..].parse().unwrap();
        let count = snapshot.all(&space).count();
        // The load that was running when the process was killed is there wholly or not at all.
        assert!(count == ROWS as usize || (count == 0 && n + 1 >= next), "{name}: {count}");
    }
}

#[test]
fn a_store_killed_at_any_moment_has_all_that_was_synced_and_no_part_of_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut synced = None;
    // The kill falls at another place of the child's work each time, without a clock.
    for lines in [1, 2, 3, 5, 8, 13, 30, 60, 90, 120] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "durability::child_that_commits_until_it_is_killed", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = 0;
        let mut log = Vec::new();
        while seen < lines {
            let Some(Ok(line)) = output.next() else { panic!("child ended: {log:#?}") };
            if let Some(n) = line.strip_prefix("synced ") {
                synced = Some(n.parse::<u32>().unwrap());
                seen += 1;
            }
            log.push(line);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What was printed before the kill reached it counts as acknowledged, too.
        for line in output.map_while(Result::ok) {
            if let Some(n) = line.strip_prefix("synced ") {
                synced = Some(n.parse::<u32>().unwrap());
            }
        }
        let store = Store::open(&small(dir.path())).unwrap();
        let next = next_batch(&store);
        assert!(Some(next) > synced, "synced {synced:?}, found {next}");
        check(&store, next);
        store.finish_removals().unwrap();
        check(&store, next);
    }
}

#[test]
fn a_closed_store_opens_with_all_that_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5u8 {
        let store = Store::open(&small(dir.path())).unwrap();
        let space = store.space("s").unwrap();
        assert_eq!(store.snapshot().all(&space).count(), usize::from(round));
        let mut batch = Batch::new();
        batch.put(&space, [round], "v");
        store.commit(batch).unwrap();
    }
}

#[test]
fn callers_that_wait_together_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&small(dir.path())).unwrap();
    let space = store.space("s").unwrap();
    store.sync().unwrap();
    // The creation of the space.
    assert_eq!(store.statistics().syncs, 1);
    store.sync().unwrap();
    assert_eq!(store.statistics().syncs, 1);
    let mut batch = Batch::new();
    batch.put(&space, "k", "v");
    store.commit(batch).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| store.sync().unwrap());
        }
    });
    assert_eq!(store.statistics().syncs, 2);
    assert_eq!(store.statistics().commits, 1);
}
