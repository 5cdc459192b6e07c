//! Which spaces exist: names, numbers and the keyspaces that hold them.
//!
//! The catalogue is a keyspace of the store's own, written through the journal like everything else:
//! creating or dropping a space is one entry of the journal, so what is durable of it is decided by
//! the same prefix as the commits around it. A name that is gone is all that is remembered of a
//! dropped space: whatever stands under a number that no name has is removed in the background.

use std::collections::HashMap;

use fjall::{Database, Slice};

use super::keyspace_options;
use crate::StoreError;

/// The catalogue's keyspace.
pub(super) const CATALOGUE: &str = "catalogue";

/// Keyspaces that many spaces share, one for each family of names.
const SHARED: &str = "shared/";

/// Keyspaces of one space, called by its number.
const OWN: &str = "own/";

/// The keyspace of spaces whose files were damaged; it never exists.
const LOST: &str = "lost";

/// In front of names, as keys of the catalogue.
const NAME: u8 = b'n';

/// The key of the next number.
const NEXT: &[u8] = b"next";

/// The key that each opening writes: see `advance_sequence`.
const OPENED: &[u8] = b"opened";

/// In front of every value.
const VERSION: u8 = 1;

/// Numbers begin here; 0 stands in front of what the store itself writes into a keyspace.
const FIRST: u32 = 1;

/// One change of the catalogue: a key and its new value, or none.
pub(super) type Change = (Slice, Option<Slice>);

/// What the catalogue says about a space.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) number: u32,
    pub(super) keyspace: String,
}

/// All of it, as read at an opening.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) entries: HashMap<String, Entry>,
    /// The number of the next space.
    pub(super) next: u32,
}

/// The keyspace of a new space: shared with all whose names begin alike, up to the first dot.
pub(super) fn shared_keyspace(name: &str) -> String {
    let family = name.split_once('.').map_or("", |(family, _)| family);
    format!("{SHARED}{family}")
}

/// The keyspace of a space that has one of its own.
pub(super) fn own_keyspace(number: u32) -> String {
    format!("{OWN}{number}")
}

/// Whether only one space is in `keyspace`.
pub(super) fn is_own(keyspace: &str) -> bool {
    keyspace.starts_with(OWN)
}

/// Whether many spaces may be in `keyspace`.
pub(super) fn is_shared(keyspace: &str) -> bool {
    keyspace.starts_with(SHARED)
}

/// Whether nothing of the spaces in `keyspace` can be read.
pub(super) fn is_lost(keyspace: &str) -> bool {
    keyspace == LOST
}

/// Opens the catalogue of a database, or makes that of a new one, and reads it.
pub(super) fn open(database: &Database) -> Result<(fjall::Keyspace, Content), StoreError> {
    if database.keyspace_count() > 0 && !database.keyspace_exists(CATALOGUE) {
        return Err(StoreError::damaged("the catalogue of spaces is gone"));
    }
    let tree = database.keyspace(CATALOGUE, keyspace_options)?;
    let content = read(&tree)?;
    Ok((tree, content))
}

fn read(tree: &fjall::Keyspace) -> Result<Content, StoreError> {
    let mut content = Content { next: FIRST, ..Content::default() };
    for guard in tree.iter() {
        let (key, value) = guard.into_inner()?;
        match &key[..] {
            OPENED => {}
            NEXT => content.next = next(&value).ok_or_else(damaged)?,
            [NAME, name @ ..] => {
                let name = std::str::from_utf8(name).map_err(|_| damaged())?;
                let entry = entry(&value).ok_or_else(damaged)?;
                content.entries.insert(name.to_owned(), entry);
            }
            _ => return Err(damaged()),
        }
    }
    // A number that was given is never given again, whatever the record says.
    if content.entries.values().any(|entry| entry.number >= content.next) {
        return Err(damaged());
    }
    Ok(content)
}

/// The changes that make `name` a space.
pub(super) fn created(name: &str, entry: &Entry) -> [Change; 2] {
    let next = [&[VERSION], &(entry.number + 1).to_be_bytes()[..]].concat();
    [placed(name, entry), (NEXT.into(), Some(next.into()))]
}

/// The change that says where a space is.
pub(super) fn placed(name: &str, entry: &Entry) -> Change {
    let value = [&[VERSION], &entry.number.to_be_bytes()[..], entry.keyspace.as_bytes()].concat();
    (name_key(name), Some(value.into()))
}

/// The change that says for good that nothing of a space can be read.
pub(super) fn lost(name: &str, number: u32) -> Change {
    placed(name, &Entry { number, keyspace: LOST.to_owned() })
}

/// The change that ends a space.
pub(super) fn dropped(name: &str) -> Change {
    (name_key(name), None)
}

/// The change that each opening makes.
pub(super) fn opened() -> Change {
    (OPENED.into(), Some([VERSION].into()))
}

fn name_key(name: &str) -> Slice {
    [&[NAME], name.as_bytes()].concat().into()
}

fn entry(value: &[u8]) -> Option<Entry> {
    let (version, rest) = value.split_first()?;
    let (number, keyspace) = rest.split_first_chunk::<4>()?;
    let keyspace = std::str::from_utf8(keyspace).ok()?.to_owned();
    let entry = Entry { number: u32::from_be_bytes(*number), keyspace };
    (*version == VERSION && entry.number >= FIRST).then_some(entry)
}

fn next(value: &[u8]) -> Option<u32> {
    let (version, number) = value.split_first()?;
    (*version == VERSION).then_some(u32::from_be_bytes(number.try_into().ok()?))
}

fn damaged() -> StoreError {
    StoreError::damaged("a record of the catalogue of spaces is none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written_and_others_are_refused() {
        let space = Entry { number: 7, keyspace: shared_keyspace("rows.12") };
        assert_eq!(space.keyspace, "shared/rows");
        assert_eq!(shared_keyspace("state"), "shared/");
        let [(key, value), (_, following)] = created("rows.12", &space);
        assert_eq!(key, b"nrows.12");
        let value = value.unwrap();
        assert_eq!(entry(&value), Some(space));
        assert_eq!(next(&following.unwrap()), Some(8));
        for damaged in [&b""[..], b"\x01", b"\x02\0\0\0\x07shared/", b"\x01\0\0\0\0shared/"] {
            assert_eq!(entry(damaged), None, "{damaged:?}");
        }
        assert_eq!(entry(&[&value[..], &[0xff]].concat()), None);
        assert_eq!(next(b"\x01\0\0\0"), None);
    }
}
