//! A batch: writes to any spaces that become visible and durable together.

use fjall::Slice;

use crate::space::{PREFIX_BYTES, prefix_len};
use crate::{Space, StoreError};

/// The longest key: the database's limit without what the store puts in front of it.
const MAX_KEY_BYTES: usize = u16::MAX as usize - PREFIX_BYTES;

/// Collected writes for [`crate::Store::commit`]. Later writes to a key win over earlier ones.
#[derive(Clone, Default, Debug)]
pub struct Batch {
    spaces: Vec<Space>,
    writes: Vec<Write>,
    bytes: u64,
}

/// One write; `value` is `None` for a deletion.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// Index into the batch's spaces.
    pub(crate) space: u32,
    /// As it is stored: behind the space's number.
    pub(crate) key: Slice,
    pub(crate) value: Option<Slice>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// An empty batch with room for `writes` writes.
    pub fn with_capacity(writes: usize) -> Batch {
        Batch { writes: Vec::with_capacity(writes), ..Batch::default() }
    }

    /// Sets `key` to `value`. Keys have 1 to 65,531 bytes, which commit checks.
    pub fn put(&mut self, space: &Space, key: impl AsRef<[u8]>, value: impl Into<Slice>) {
        self.push(space, key.as_ref(), Some(value.into()));
    }

    /// Removes `key`; removing a key that is not there changes nothing.
    pub fn delete(&mut self, space: &Space, key: impl AsRef<[u8]>) {
        self.push(space, key.as_ref(), None);
    }

    /// How many writes it holds.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether it holds no write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Bytes of all keys and values: what commits are cut by.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn spaces(&self) -> &[Space] {
        &self.spaces
    }

    pub(crate) fn into_writes(self) -> (Vec<Space>, Vec<Write>) {
        (self.spaces, self.writes)
    }

    /// Keys that the backends cannot hold are refused before anything is written.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        for write in &self.writes {
            check_key_length(write.key.len() - prefix_len(&write.key))?;
        }
        match self.spaces.iter().find(|space| space.is_dropped()) {
            Some(gone) => Err(gone.missing()),
            None => Ok(()),
        }
    }

    fn push(&mut self, space: &Space, key: &[u8], value: Option<Slice>) {
        self.bytes += (key.len() + value.as_ref().map_or(0, |v| v.len())) as u64;
        let key = space.stored(key);
        let space = self.index(space);
        self.writes.push(Write { space, key, value });
    }

    /// A batch touches few spaces and mostly the same one again, so a scan from the end beats a map.
    fn index(&mut self, space: &Space) -> u32 {
        let known = self.writes.last().map(|write| write.space);
        if let Some(last) = known
            && self.spaces[last as usize] == *space
        {
            return last;
        }
        let found = self.spaces.iter().rposition(|known| known == space);
        found.unwrap_or_else(|| {
            self.spaces.push(space.clone());
            self.spaces.len() - 1
        }) as u32
    }
}

/// Refuses a key that the store cannot hold.
pub(crate) fn check_key_length(len: usize) -> Result<(), StoreError> {
    if len == 0 || len > MAX_KEY_BYTES { Err(StoreError::KeyLength { len }) } else { Ok(()) }
}
