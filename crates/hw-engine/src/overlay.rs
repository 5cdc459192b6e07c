//! The commit that is being put together: writes wait here, and reads see them.
//!
//! Small transactions that wait together share one store commit; each must see its
//! predecessors' writes before they are in the store. [`Sink`] is what evaluation writes into:
//! the overlay for small transactions, the decided spool for large ones.

use crate::error::EngineError;
use hw_store::{Batch, Slice, Space, Store};
use std::collections::HashMap;

/// Takes the writes of an evaluation.
pub(crate) trait Sink {
    /// What evaluation reads: the state behind the preceding transaction.
    fn base(&self) -> &Overlay;
    /// Sets a key. Later reads of a small transaction see it.
    fn put(&mut self, space: &Space, key: Vec<u8>, value: Vec<u8>) -> Result<(), EngineError>;
    /// Sets a key that nothing reads before the commit (operations of an op log).
    fn append(&mut self, space: &Space, key: &[u8], value: Vec<u8>) -> Result<(), EngineError>;
    /// Removes a key.
    fn delete(&mut self, space: &Space, key: Vec<u8>) -> Result<(), EngineError>;
}

type Writes = HashMap<Vec<u8>, Option<Vec<u8>>, foldhash::fast::RandomState>;

/// Pending writes over a store.
pub(crate) struct Overlay {
    store: Store,
    /// Per space. Found by going through: there are tens, and a comparison is one of pointers.
    writes: Vec<(Space, Writes)>,
    appended: Vec<(Space, Vec<u8>, Vec<u8>)>,
    bytes: usize,
    len: usize,
}

/// A value that was read: from the pending writes or from the store.
pub(crate) enum Found<'a> {
    Pending(&'a [u8]),
    Stored(Slice),
}

impl std::ops::Deref for Found<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Found::Pending(bytes) => bytes,
            Found::Stored(slice) => slice,
        }
    }
}

impl Overlay {
    pub fn new(store: Store) -> Overlay {
        Overlay { store, writes: Vec::new(), appended: Vec::new(), bytes: 0, len: 0 }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The newest value, pending or stored.
    pub fn get(&self, space: &Space, key: &[u8]) -> Result<Option<Found<'_>>, EngineError> {
        let writes = self.writes.iter().find(|(s, _)| s == space);
        match writes.and_then(|(_, writes)| writes.get(key)) {
            Some(write) => Ok(write.as_deref().map(Found::Pending)),
            None => Ok(self.store.get(space, key)?.map(Found::Stored)),
        }
    }

    /// Bytes that wait, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of writes that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    fn write(&mut self, space: &Space, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.len += 1;
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len) + 64;
        match self.writes.iter_mut().find(|(s, _)| s == space) {
            Some((_, writes)) => {
                writes.insert(key, value);
            }
            None => {
                let mut writes = Writes::default();
                writes.insert(key, value);
                self.writes.push((space.clone(), writes));
            }
        }
    }

    /// Commits what waits, atomically. On an error the writes are gone: whoever made them begins
    /// again from the store. (They are handed over one by one, so that a large row is not held
    /// twice.)
    pub fn commit(&mut self) -> Result<(), EngineError> {
        if self.len == 0 {
            return Ok(());
        }
        let mut batch = Batch::new();
        // A space may be dropped between commits; its handle is not kept.
        self.writes.retain_mut(|(space, writes)| {
            let used = !writes.is_empty();
            for (key, write) in writes.drain() {
                match write {
                    Some(value) => batch.put(space, key.as_slice(), value.as_slice()),
                    None => batch.delete(space, key.as_slice()),
                }
            }
            used
        });
        for (space, key, value) in self.appended.drain(..) {
            batch.put(&space, key.as_slice(), value.as_slice());
        }
        (self.bytes, self.len) = (0, 0);
        Ok(self.store.commit(batch)?)
    }
}

impl Sink for Overlay {
    fn base(&self) -> &Overlay {
        self
    }

    fn put(&mut self, space: &Space, key: Vec<u8>, value: Vec<u8>) -> Result<(), EngineError> {
        self.write(space, key, Some(value));
        Ok(())
    }

    fn append(&mut self, space: &Space, key: &[u8], value: Vec<u8>) -> Result<(), EngineError> {
        self.len += 1;
        self.bytes += key.len() + value.len() + 64;
        self.appended.push((space.clone(), key.to_vec(), value));
        Ok(())
    }

    fn delete(&mut self, space: &Space, key: Vec<u8>) -> Result<(), EngineError> {
        self.write(space, key, None);
        Ok(())
    }
}
