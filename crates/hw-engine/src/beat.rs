//! The writer's count of work: whoever looks from outside sees by it whether the writer works.
//!
//! Invariant: it grows at least once for each row, write or change that a step goes through, however
//! long the step is, and while the writer waits for work. It stands still when the writer hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count of work. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Beat(Arc<AtomicU64>);

impl Beat {
    /// Something was done.
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How much was done so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
