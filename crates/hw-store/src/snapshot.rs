//! Reading: all spaces as they were at one moment.
//!
//! Invariant: a snapshot taken between two commits never shows part of either, and never changes.
//! A snapshot keeps in memory and on disk what was overwritten since, also memory tables that were
//! flushed since, so nobody holds one while waiting for a socket (engine.md, section 14).

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{Readable, Slice};

use crate::simulation::{TwinIter, TwinView};
use crate::space::{Keyspace, Place, without_prefix};
use crate::suspicion::Suspicion;
use crate::{Space, StoreError};

/// All spaces at one moment. Cloning shares it.
#[derive(Clone)]
pub struct Snapshot(Arc<View>);

enum View {
    Disk(DiskView),
    /// The store was closed when the snapshot was asked for; every read says so.
    Closed,
    Twin(Arc<TwinView>),
}

pub(crate) struct DiskView {
    view: fjall::Snapshot,
    /// How many spaces had been dropped when it was taken.
    drops: u64,
    opening: Opening,
}

/// Which opening of the database something belongs to, and which one is current.
#[derive(Clone)]
pub(crate) struct Opening {
    pub(crate) mine: u64,
    pub(crate) current: Arc<AtomicU64>,
    /// Set when something read is damaged.
    pub(crate) suspicion: Arc<Suspicion>,
}

impl Opening {
    /// Files of an earlier opening may be gone or replaced, so nothing read from them counts.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.current.load(Ordering::Acquire) == self.mine {
            Ok(())
        } else {
            Err(StoreError::Superseded)
        }
    }

    /// The error of a failed read. Damage makes the store read-only until it is reopened, which looks
    /// for all of it.
    pub(crate) fn read_failed(&self, space: &Space, error: fjall::Error) -> StoreError {
        let error = space.failed(error);
        if matches!(error, StoreError::SpaceDamaged { .. }) {
            self.suspicion.raise(&error);
        }
        error
    }
}

impl Snapshot {
    pub(crate) fn on_disk(view: fjall::Snapshot, drops: u64, opening: Opening) -> Snapshot {
        Snapshot(Arc::new(View::Disk(DiskView { view, drops, opening })))
    }

    pub(crate) fn closed() -> Snapshot {
        Snapshot(Arc::new(View::Closed))
    }

    pub(crate) fn of_twin(view: TwinView) -> Snapshot {
        Snapshot(Arc::new(View::Twin(Arc::new(view))))
    }

    /// The value of `key`, or `None`.
    ///
    /// - Errors: `NoSpace` when the space had been dropped before the snapshot was taken,
    ///   `Superseded` after the store was reopened; `SpaceDamaged`, `NoFiles`, `Io`.
    pub fn get(&self, space: &Space, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        match (&*self.0, &space.0.place) {
            (View::Disk(disk), Place::Disk(place)) => {
                let guard = place.keyspace.load();
                let keyspace = disk.keyspace(space, guard.as_deref())?;
                let found = disk.view.get(&keyspace.tree, space.stored(key));
                disk.opening.check()?;
                found.map_err(|error| disk.opening.read_failed(space, error))
            }
            (View::Twin(view), Place::Twin(twin)) => view.get(space, twin, key),
            (View::Closed, _) => Err(StoreError::Closed),
            _ => Err(space.missing()),
        }
    }

    /// All pairs whose key starts with `prefix`, ascending from the front, descending from the back.
    pub fn prefix(&self, space: &Space, prefix: &[u8]) -> Iter {
        match above_prefix(prefix) {
            Some(end) => self.scan(space, Bound::Included(prefix), Bound::Excluded(&end)),
            None => self.scan(space, Bound::Included(prefix), Bound::Unbounded),
        }
    }

    /// All pairs within `range`, ascending from the front, descending from the back. A range whose
    /// start lies behind its end is empty.
    pub fn range<K: AsRef<[u8]>>(&self, space: &Space, range: impl RangeBounds<K>) -> Iter {
        let start = range.start_bound().map(AsRef::as_ref);
        let end = range.end_bound().map(AsRef::as_ref);
        self.scan(space, start, end)
    }

    /// All pairs of the space.
    pub fn all(&self, space: &Space) -> Iter {
        self.scan(space, Bound::Unbounded, Bound::Unbounded)
    }

    /// The pair with the smallest key that starts with `prefix`.
    pub fn first_in_prefix(
        &self,
        space: &Space,
        prefix: &[u8],
    ) -> Result<Option<(Slice, Slice)>, StoreError> {
        self.prefix(space, prefix).next().transpose()
    }

    /// The pair with the greatest key that starts with `prefix`.
    pub fn last_in_prefix(
        &self,
        space: &Space,
        prefix: &[u8],
    ) -> Result<Option<(Slice, Slice)>, StoreError> {
        self.prefix(space, prefix).next_back().transpose()
    }

    fn scan(&self, space: &Space, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Iter {
        if is_empty_range(start, end) {
            return Iter(Scan::Ended);
        }
        match (&*self.0, &space.0.place) {
            (View::Disk(disk), Place::Disk(place)) => {
                let guard = place.keyspace.load();
                match disk.keyspace(space, guard.as_deref()) {
                    Ok(keyspace) => Iter(Scan::Disk {
                        pairs: disk.view.range(&keyspace.tree, space.stored_range(start, end)),
                        space: space.clone(),
                        opening: disk.opening.clone(),
                    }),
                    Err(error) => Iter(Scan::Failed(error)),
                }
            }
            (View::Twin(view), Place::Twin(twin)) => match view.check(space) {
                Ok(()) => Iter(Scan::Twin(TwinIter::new(view.clone(), twin.clone(), start, end))),
                Err(error) => Iter(Scan::Failed(error)),
            },
            (View::Closed, _) => Iter(Scan::Failed(StoreError::Closed)),
            _ => Iter(Scan::Failed(space.missing())),
        }
    }
}

impl DiskView {
    fn keyspace<'k>(
        &self,
        space: &Space,
        keyspace: Option<&'k Keyspace>,
    ) -> Result<&'k Keyspace, StoreError> {
        self.opening.check()?;
        space.check_readable(self.drops)?;
        match keyspace {
            Some(keyspace) if keyspace.generation == self.opening.mine => Ok(keyspace),
            Some(_) => Err(StoreError::Superseded),
            None => Err(space.absent()),
        }
    }
}

/// An ordered scan; ends after its first error. Made by [`Snapshot`], which it keeps alive.
pub struct Iter(Scan);

enum Scan {
    Disk { pairs: fjall::Iter, space: Space, opening: Opening },
    Twin(TwinIter),
    Failed(StoreError),
    Ended,
}

impl Iter {
    fn step(
        &mut self,
        disk: impl FnOnce(&mut fjall::Iter) -> Option<fjall::Guard>,
        twin: impl FnOnce(&mut TwinIter) -> Option<Result<(Slice, Slice), StoreError>>,
    ) -> Option<Result<(Slice, Slice), StoreError>> {
        let item = match &mut self.0 {
            Scan::Disk { pairs, space, opening } => disk(pairs).map(|guard| {
                let pair = guard.into_inner();
                opening.check()?;
                let (key, value) = pair.map_err(|error| opening.read_failed(space, error))?;
                Ok((without_prefix(key), value))
            }),
            Scan::Twin(pairs) => twin(pairs),
            Scan::Failed(_) => match std::mem::replace(&mut self.0, Scan::Ended) {
                Scan::Failed(error) => Some(Err(error)),
                _ => None,
            },
            Scan::Ended => None,
        };
        if !matches!(item, Some(Ok(_))) {
            self.0 = Scan::Ended;
        }
        item
    }
}

impl Iterator for Iter {
    type Item = Result<(Slice, Slice), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(Iterator::next, Iterator::next)
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(DoubleEndedIterator::next_back, DoubleEndedIterator::next_back)
    }
}

/// The smallest key above all keys that start with `prefix`; `None` when there is none.
fn above_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// Ranges that hold no key by their bounds alone; ordered maps panic on some of them.
fn is_empty_range(start: Bound<&[u8]>, end: Bound<&[u8]>) -> bool {
    match (start, end) {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end))
        | (Bound::Excluded(start), Bound::Included(end)) => start >= end,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_above_all_its_keys() {
        assert_eq!(above_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(above_prefix(&[1, 255, 255]), Some(vec![2]));
        assert_eq!(above_prefix(&[255, 255]), None);
        assert_eq!(above_prefix(b""), None);
    }
}
