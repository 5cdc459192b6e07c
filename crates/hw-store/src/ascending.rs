//! Point reads of keys that ascend: side by side with a scan where they lie close together.
//!
//! A point read searches every part of the store for its key; a step of a scan costs a fraction of
//! that. A reader of ascending keys follows a scan as long as few keys lie between two that it is
//! asked for, and reads single keys while many do.

use fjall::Slice;

use crate::snapshot::Iter;
use crate::{Snapshot, Space, StoreError};

/// Keys that are passed over to reach one that is asked for; about what a point read costs.
const STEPS: usize = 6;

/// Point reads after a scan that did not reach its key, before another one is tried: at first, and
/// at most. Opening a scan costs about ten of them.
const FIRST_PAUSE: u32 = 32;
const LONGEST_PAUSE: u32 = 8192;

/// Reads one space's keys in ascending order from a snapshot.
pub struct Ascending {
    snapshot: Snapshot,
    space: Space,
    scan: Option<Scan>,
    /// Point reads until a scan is tried again.
    rest: u32,
    pause: u32,
}

struct Scan {
    pairs: Iter,
    /// The first pair at or behind the last key; `None` when there is none.
    ahead: Option<(Slice, Slice)>,
}

impl Ascending {
    /// A reader that has read nothing.
    pub fn new(snapshot: Snapshot, space: Space) -> Ascending {
        Ascending { snapshot, space, scan: None, rest: FIRST_PAUSE, pause: FIRST_PAUSE }
    }

    /// The value of `key`, or `None`. Keys must not descend from call to call.
    ///
    /// - Errors: as of [`Snapshot::get`].
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        if self.scan.is_none() && self.rest == 0 {
            let mut pairs = self.snapshot.range(&self.space, key..);
            let ahead = pairs.next().transpose()?;
            self.scan = Some(Scan { pairs, ahead });
        }
        let Some(scan) = &mut self.scan else {
            self.rest -= 1;
            return self.snapshot.get(&self.space, key);
        };
        for _ in 0..=STEPS {
            match &scan.ahead {
                Some((at, _)) if **at < *key => scan.ahead = scan.pairs.next().transpose()?,
                Some((at, value)) if **at == *key => {
                    self.pause = FIRST_PAUSE;
                    return Ok(Some(value.clone()));
                }
                _ => return Ok(None),
            }
        }
        self.scan = None;
        self.rest = self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.snapshot.get(&self.space, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Store, StoreOptions};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Dense, sparse and mixed requests: keys that are there, and keys between them.
        #[test]
        fn ascending_reads_give_what_point_reads_give(
            stored in prop::collection::btree_set(0_u16..4000, 0..1500),
            strides in prop::collection::vec((1_u16..60, 1_usize..80), 1..12),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&StoreOptions::new(dir.path())).unwrap();
            let (space, other) = (store.space("a").unwrap(), store.space("b").unwrap());
            let mut batch = Batch::new();
            for number in &stored {
                batch.put(&space, number.to_be_bytes().as_slice(), number.to_le_bytes().as_slice());
            }
            batch.put(&other, [0; 2].as_slice(), b"of another space".as_slice());
            store.commit(batch).unwrap();
            let snapshot = store.snapshot();
            let mut reader = Ascending::new(snapshot.clone(), space.clone());
            let mut key = 0_u16;
            for (stride, times) in strides {
                for _ in 0..times {
                    let name = key.to_be_bytes();
                    let expected = snapshot.get(&space, &name).unwrap();
                    prop_assert_eq!(reader.get(&name).unwrap(), expected.clone());
                    // The same key twice is in order, too.
                    prop_assert_eq!(reader.get(&name).unwrap(), expected);
                    key = key.saturating_add(stride);
                }
            }
        }
    }
}
