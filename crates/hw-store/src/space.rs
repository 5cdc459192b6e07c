//! A space: one ordered map from keys to values, created, filled and dropped as a whole.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;

use crate::StoreError;
use crate::simulation::TwinSpace;

/// A handle of one space. Cheap to clone. It stays valid when the store is reopened; after
/// [`crate::Store::drop_space`] snapshots can still be read through it, but nothing written.
#[derive(Clone)]
pub struct Space(pub(crate) Arc<SpaceInner>);

pub(crate) struct SpaceInner {
    pub(crate) name: Box<str>,
    dropped: AtomicBool,
    pub(crate) place: Place,
}

/// Where a space's bytes are.
pub(crate) enum Place {
    /// Replaced when the database is reopened; empty while it is closed.
    Disk(ArcSwapOption<Keyspace>),
    Twin(Arc<TwinSpace>),
}

/// A space of one opening of the database.
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

    pub(crate) fn on_disk(name: &str, keyspace: Keyspace) -> Space {
        Space::new(name, Place::Disk(ArcSwapOption::from_pointee(keyspace)))
    }

    pub(crate) fn in_twin(name: &str, twin: Arc<TwinSpace>) -> Space {
        Space::new(name, Place::Twin(twin))
    }

    fn new(name: &str, place: Place) -> Space {
        Space(Arc::new(SpaceInner { name: name.into(), dropped: AtomicBool::new(false), place }))
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.0.dropped.load(Ordering::Acquire)
    }

    pub(crate) fn mark_dropped(&self) {
        self.0.dropped.store(true, Ordering::Release);
    }

    /// The error for a write to a space that is gone, or that another kind of store made.
    pub(crate) fn missing(&self) -> StoreError {
        StoreError::NoSpace { name: self.name().to_owned() }
    }
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
