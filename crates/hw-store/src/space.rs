//! A space: one ordered map from keys to values, created, filled and dropped as a whole.
//!
//! On disk a space is a number in front of keys: many spaces share one keyspace of the database, and
//! one that is loaded with much at once has a keyspace of its own. Numbers are never used twice.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use byteview::ByteView;
use fjall::Slice;

use crate::StoreError;
use crate::simulation::TwinSpace;

/// The longest that a space's number is in front of each of its keys.
pub(crate) const PREFIX_BYTES: usize = 4;

/// Numbers below this one are two bytes long: most stores never have as many spaces, and keys of up to
/// 20 bytes, which most are then, lie in the memory tables themselves instead of behind a pointer.
const SHORT: u32 = 1 << 15;

/// The first number that no space can have.
pub(crate) const NUMBERS: u32 = 1 << 31;

/// A handle of one space. Cheap to clone. It stays valid when the store is reopened; after
/// [`crate::Store::drop_space`] older snapshots can still be read through it, but nothing written.
#[derive(Clone)]
pub struct Space(pub(crate) Arc<SpaceInner>);

pub(crate) struct SpaceInner {
    pub(crate) name: Box<str>,
    pub(crate) number: u32,
    /// 0 while the space exists, else which drop of its store ended it.
    dropped: AtomicU64,
    pub(crate) place: Place,
}

/// Where a space's bytes are.
pub(crate) enum Place {
    Disk(DiskPlace),
    Twin(Arc<TwinSpace>),
}

pub(crate) struct DiskPlace {
    /// Replaced when the database is reopened and when a load moves the space, while it is empty,
    /// to a keyspace of its own. Empty while the store is closed, or when its files are gone.
    pub(crate) keyspace: ArcSwapOption<Keyspace>,
    /// Whether something was committed to it since the database was opened.
    pub(crate) written: AtomicBool,
    /// Whether the keyspace that holds it was found missing when the database was opened.
    pub(crate) lost: AtomicBool,
}

/// A keyspace of one opening of the database.
pub(crate) struct Keyspace {
    /// Which opening: handles and snapshots of different openings must not meet.
    pub(crate) generation: u64,
    pub(crate) tree: fjall::Keyspace,
}

impl Space {
    /// The name it was created under.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn on_disk(name: &str, number: u32, keyspace: Option<Arc<Keyspace>>) -> Space {
        let lost = AtomicBool::new(keyspace.is_none());
        let keyspace = ArcSwapOption::new(keyspace);
        let place = DiskPlace { keyspace, written: AtomicBool::new(false), lost };
        Space::new(name, number, Place::Disk(place))
    }

    pub(crate) fn in_twin(name: &str, twin: Arc<TwinSpace>) -> Space {
        Space::new(name, 0, Place::Twin(twin))
    }

    fn new(name: &str, number: u32, place: Place) -> Space {
        Space(Arc::new(SpaceInner { name: name.into(), number, dropped: AtomicU64::new(0), place }))
    }

    pub(crate) fn disk(&self) -> Option<&DiskPlace> {
        match &self.0.place {
            Place::Disk(place) => Some(place),
            Place::Twin(_) => None,
        }
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.0.dropped.load(Ordering::Acquire) != 0
    }

    /// Notes that the `drop`-th drop of the store, counted from 1, ended this space.
    pub(crate) fn mark_dropped(&self, drop: u64) {
        self.0.dropped.store(drop, Ordering::Release);
    }

    /// Refuses a read at a moment at which `drops` spaces had been dropped, when this one was among
    /// them: what is left of it is being removed.
    pub(crate) fn check_readable(&self, drops: u64) -> Result<(), StoreError> {
        match self.0.dropped.load(Ordering::Acquire) {
            0 => Ok(()),
            drop if drop > drops => Ok(()),
            _ => Err(self.missing()),
        }
    }

    /// The error for a write to a space that is gone, or that another kind of store made.
    pub(crate) fn missing(&self) -> StoreError {
        StoreError::NoSpace { name: self.name().to_owned() }
    }

    /// Why the space has no keyspace at the moment.
    pub(crate) fn absent(&self) -> StoreError {
        if self.is_dropped() {
            return self.missing();
        }
        match self.disk() {
            Some(place) if place.lost.load(Ordering::Acquire) => StoreError::SpaceDamaged {
                space: self.name().to_owned(),
                what: "the files that hold it are gone".to_owned(),
            },
            _ => StoreError::Closed,
        }
    }

    /// What a failed read of this space means: damage is this space's, anything else the store's.
    pub(crate) fn failed(&self, error: impl Into<StoreError>) -> StoreError {
        match error.into() {
            StoreError::Damaged { what } => {
                StoreError::SpaceDamaged { space: self.name().to_owned(), what }
            }
            other => other,
        }
    }

    /// What stands in front of all its keys.
    pub(crate) fn prefix(&self) -> Prefix {
        prefix(self.0.number)
    }

    /// `key` as it is stored.
    pub(crate) fn stored(&self, key: &[u8]) -> Slice {
        ByteView::fused(&self.prefix(), key).into()
    }

    /// A range of keys as it is stored.
    pub(crate) fn stored_range(
        &self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> (Bound<Slice>, Bound<Slice>) {
        let start = match start {
            Bound::Unbounded => Bound::Included(Slice::from(&*self.prefix())),
            bound => bound.map(|key| self.stored(key)),
        };
        let end = match end {
            Bound::Unbounded => Bound::Excluded(Slice::from(&*prefix(self.0.number + 1))),
            bound => bound.map(|key| self.stored(key)),
        };
        (start, end)
    }
}

/// What stands in front of the keys of a space: its number, big-endian, in two bytes, or in four of which
/// the first bit is set. Prefixes sort as numbers do, and none begins another.
#[derive(Clone, Copy)]
pub(crate) struct Prefix {
    bytes: [u8; PREFIX_BYTES],
    len: usize,
}

impl std::ops::Deref for Prefix {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What stands in front of the keys of space `number`.
pub(crate) fn prefix(number: u32) -> Prefix {
    match number < SHORT {
        true => Prefix { bytes: (number << 16).to_be_bytes(), len: 2 },
        false => Prefix { bytes: (number | NUMBERS).to_be_bytes(), len: PREFIX_BYTES },
    }
}

/// The number in front of a stored key; `None` when there is none.
pub(crate) fn number(stored: &[u8]) -> Option<u32> {
    match prefix_len(stored) {
        PREFIX_BYTES => stored.first_chunk().map(|long| u32::from_be_bytes(*long) & !NUMBERS),
        _ => stored.first_chunk().map(|short| u32::from(u16::from_be_bytes(*short))),
    }
}

/// How long the number in front of a stored key is.
pub(crate) fn prefix_len(stored: &[u8]) -> usize {
    if stored.first().is_some_and(|first| first & 0x80 != 0) { PREFIX_BYTES } else { 2 }
}

/// The key that was stored, without the space's number.
pub(crate) fn without_prefix(stored: Slice) -> Slice {
    let len = prefix_len(&stored);
    ByteView::from(stored).slice(len..).into()
}

impl PartialEq for Space {
    fn eq(&self, other: &Space) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Space {}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Space").field(&self.name()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_front_of_keys_sort_as_they_are_and_are_read_back() {
        let numbers = [0, 1, 255, 256, SHORT - 1, SHORT, SHORT + 1, 1 << 24, NUMBERS - 1];
        let prefixes: Vec<Vec<u8>> = numbers.iter().map(|n| prefix(*n).to_vec()).collect();
        assert!(prefixes.is_sorted());
        for (number_in, bytes) in numbers.iter().zip(&prefixes) {
            let stored = [bytes, b"key".as_slice()].concat();
            assert_eq!(number(&stored), Some(*number_in));
            assert_eq!(&*without_prefix(Slice::from(stored)), b"key");
            assert_eq!(prefixes.iter().filter(|other| other.starts_with(bytes)).count(), 1);
        }
        assert_eq!(number(&[]), None);
        assert_eq!(number(&[0x80, 1, 2]), None);
    }
}
