//! Damaged files (FD-7): nothing that was not written is ever read; a damaged space is named and the
//! others are read on, or opening is refused with the way out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hw_store::{Batch, Store, StoreError};

use crate::{copy_dir, files_below, small, use_up_short_numbers};

/// What the spaces hold.
type Content = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

/// A store with tables in shared keyspaces and in keyspaces of one space, and with a journal.
fn whole(dir: &Path) -> Content {
    let store = Store::open(&small(dir)).unwrap();
    let mut content = Content::new();
    let mut put = |name: &str, n: u32, len: usize| {
        let mut batch = Batch::new();
        let (key, value) = (n.to_be_bytes(), vec![n as u8; len]);
        batch.put(&store.space(name).unwrap(), key, value.as_slice());
        store.commit(batch).unwrap();
        content.entry(name.to_owned()).or_default().insert(key.to_vec(), value);
    };
    for n in 0..100 {
        put("rows.1", n, 3000);
        put("rows.2", n, 3000);
        put("ops.1", n, 100);
        put("state", n % 3, 20);
    }
    let space = store.space("rows.3").unwrap();
    let mut load = store.bulk(&space).unwrap();
    for n in 0..100u32 {
        load.push(&n.to_be_bytes(), &[n as u8; 1000]).unwrap();
        let value = vec![n as u8; 1000];
        content.entry("rows.3".to_owned()).or_default().insert(n.to_be_bytes().to_vec(), value);
    }
    load.finish().unwrap();
    let mut batch = Batch::new();
    for n in 0..20u32 {
        batch.put(&store.space("ops.2").unwrap(), n.to_be_bytes(), "in the journal only");
        let value = b"in the journal only".to_vec();
        content.entry("ops.2".to_owned()).or_default().insert(n.to_be_bytes().to_vec(), value);
    }
    store.commit(batch).unwrap();
    store.sync().unwrap();
    content
}

/// Reads everything; the names of what is damaged, or why nothing can be read. Anything that is read
/// must have been written.
fn read(store: &Store, content: &Content) -> Vec<String> {
    let mut damaged = Vec::new();
    for (name, pairs) in content {
        let Some(space) = store.existing_space(name) else { panic!("{name} is gone silently") };
        let snapshot = store.snapshot();
        let mut found = Ok(BTreeMap::new());
        for pair in snapshot.all(&space) {
            match pair {
                Ok((key, value)) => {
                    let Ok(found) = &mut found else { break };
                    assert_eq!(pairs.get(&key[..]).map(|v| &v[..]), Some(&value[..]), "{name}");
                    found.insert(key.to_vec(), value.to_vec());
                }
                Err(error) => found = Err(error),
            }
        }
        let points = pairs.iter().map(|(key, value)| {
            let found = snapshot.get(&space, key)?;
            assert_eq!(found.as_deref(), Some(&value[..]), "{name}");
            Ok(())
        });
        let points: Result<(), StoreError> = points.collect();
        match found.and_then(|found| points.map(|()| found)) {
            Ok(found) => assert_eq!(&found, pairs, "{name}"),
            Err(StoreError::SpaceDamaged { space, .. }) => {
                assert_eq!(&space, name);
                damaged.push(space);
            }
            Err(other) => panic!("{name}: {other:?}"),
        }
    }
    damaged
}

/// What became of a damage.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// The bytes mattered to nobody.
    Harmless,
    /// Some spaces are lost, the others whole.
    Named(Vec<String>),
    Refused,
}

/// Opens a damaged store, finds everything, heals what can be healed.
fn fate(dir: &Path, content: &Content) -> Fate {
    let store = match Store::open(&small(dir)) {
        Ok(store) => store,
        Err(error @ StoreError::Damaged { .. }) => {
            let text = error.diagnostic().to_string();
            assert!(text.starts_with("error[HW3004]") && text.contains("mend:"), "{text}");
            return Fate::Refused;
        }
        Err(other) => panic!("{other:?}"),
    };
    let damaged = read(&store, content);
    if damaged.is_empty() {
        return Fate::Harmless;
    }
    // Whoever met it made the store look through everything when it is opened again.
    match store.reopen() {
        Ok(()) => {}
        Err(StoreError::Damaged { .. }) => return Fate::Refused,
        Err(other) => panic!("{other:?}"),
    }
    let lost = store.damaged_spaces();
    assert!(damaged.iter().all(|name| lost.contains(name)), "{damaged:?} of {lost:?}");
    assert_eq!(read(&store, content), lost);
    // It stays so, and what is dropped is made again, empty and usable.
    store.sync().unwrap();
    store.reopen().unwrap();
    assert_eq!(store.damaged_spaces(), lost);
    for name in &lost {
        store.drop_space(name).unwrap();
        let space = store.space(name).unwrap();
        assert_eq!(store.snapshot().all(&space).count(), 0);
        let mut batch = Batch::new();
        for n in 0..200u32 {
            batch.put(&space, n.to_be_bytes(), vec![1; 1000]);
        }
        store.commit(batch).unwrap();
    }
    store.finish_removals().unwrap();
    assert!(store.damaged_spaces().is_empty());
    let rest: Content = content.clone().into_iter().filter(|(n, _)| !lost.contains(n)).collect();
    assert!(read(&store, &rest).is_empty());
    Fate::Named(lost)
}

fn is_table(file: &Path) -> bool {
    file.parent().is_some_and(|dir| dir.ends_with("tables"))
}

fn is_journal(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "jnl")
}

/// The ways to damage a file.
fn ways(bytes: &[u8]) -> Vec<(String, Option<Vec<u8>>)> {
    let mut ways = vec![("deleted".to_owned(), None), ("emptied".to_owned(), Some(Vec::new()))];
    for part in [0, 1, 4] {
        let at = (bytes.len().saturating_sub(1)) * part / 4;
        let mut flipped = bytes.to_vec();
        if let Some(byte) = flipped.get_mut(at) {
            *byte ^= 0x10;
        }
        ways.push((format!("bit flipped at {at}"), Some(flipped)));
        let mut zeroed = bytes.to_vec();
        let page = at / 4096 * 4096;
        let end = zeroed.len().min(page + 4096);
        zeroed[page..end].fill(0);
        ways.push((format!("page zeroed at {page}"), Some(zeroed)));
        ways.push((format!("cut at {at}"), Some(bytes[..at].to_vec())));
    }
    ways.retain(|(_, damaged)| damaged.as_deref() != Some(bytes));
    ways
}

/// Damages each file of `which` in each way; says what became of it.
fn damage(which: impl Fn(&Path) -> bool) -> Vec<(PathBuf, String, Fate)> {
    let dir = tempfile::tempdir().unwrap();
    let whole_dir = dir.path().join("whole");
    let content = whole(&whole_dir);
    for file in files_below(&whole_dir).into_iter().filter(|file| is_journal(file)) {
        // Behind what was written are zeroes only, which would be copied each time.
        let mut bytes = std::fs::read(&file).unwrap();
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1));
        std::fs::write(&file, bytes).unwrap();
    }
    let mut fates = Vec::new();
    let files = files_below(&whole_dir.join("data")).into_iter().filter(|file| which(file));
    for file in files {
        let name = file.strip_prefix(&whole_dir).unwrap().to_owned();
        let bytes = std::fs::read(&file).unwrap();
        for (way, damaged) in ways(&bytes) {
            let copy = dir.path().join("copy");
            copy_dir(&whole_dir, &copy);
            match damaged {
                Some(damaged) => std::fs::write(copy.join(&name), damaged).unwrap(),
                None => std::fs::remove_file(copy.join(&name)).unwrap(),
            }
            let fate = std::panic::catch_unwind(|| fate(&copy, &content));
            let Ok(fate) = fate else { panic!("{} {way}", name.display()) };
            fates.push((name.clone(), way, fate));
            std::fs::remove_dir_all(&copy).unwrap();
        }
    }
    assert!(fates.iter().any(|(.., fate)| *fate != Fate::Harmless), "{fates:#?}");
    fates
}

#[test]
fn fd_7_a_damaged_table_costs_the_spaces_in_it_and_no_other() {
    let fates = damage(is_table);
    let named = fates.iter().filter(|(.., fate)| matches!(fate, Fate::Named(_))).count();
    assert!(named > fates.len() / 2, "{fates:#?}");
}

/// The first spaces have numbers of two bytes, the others of four.
#[test]
fn fd_7_a_damaged_table_costs_the_spaces_in_it_where_numbers_become_longer() {
    let dir = tempfile::tempdir().unwrap();
    let (whole_dir, copy) = (dir.path().join("whole"), dir.path().join("copy"));
    use_up_short_numbers(&whole_dir);
    let content = whole(&whole_dir);
    let mut lost = BTreeSet::new();
    for file in files_below(&whole_dir.join("data")).into_iter().filter(|file| is_table(file)) {
        copy_dir(&whole_dir, &copy);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes.truncate(bytes.len() / 2);
        std::fs::write(copy.join(file.strip_prefix(&whole_dir).unwrap()), bytes).unwrap();
        match fate(&copy, &content) {
            Fate::Named(names) => lost.extend(names),
            // It holds nothing of a space, or the catalogue.
            Fate::Harmless | Fate::Refused => {}
        }
        std::fs::remove_dir_all(&copy).unwrap();
    }
    assert!(lost.contains("rows.1") && lost.contains("rows.3"), "{lost:?}");
}

#[test]
fn fd_7_a_damaged_list_of_tables_costs_the_spaces_in_it_and_no_other() {
    let fates = damage(|file| {
        let Ok(current) = std::fs::read(file.with_file_name("current")) else { return false };
        let newest = format!("v{}", u64::from_le_bytes(current[..8].try_into().unwrap()));
        file.ends_with("current") || file.ends_with(newest)
    });
    assert!(fates.iter().any(|(.., fate)| matches!(fate, Fate::Named(_))), "{fates:#?}");
    assert!(fates.iter().any(|(.., fate)| *fate == Fate::Refused), "{fates:#?}");
}

#[test]
fn fd_7_a_damaged_journal_or_version_is_refused() {
    let fates = damage(|file| is_journal(file) || file.ends_with("version"));
    let taken: Vec<_> = fates.iter().filter(|(.., fate)| *fate != Fate::Refused).collect();
    assert!(taken.is_empty(), "{taken:#?}");
}
