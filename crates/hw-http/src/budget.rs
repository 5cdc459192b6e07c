//! Bytes that many holders together may keep, and whether they are near the bound.
//!
//! In: what is kept and given back. Out: whether it is short. Nobody waits here: who reads the
//! answer makes what he makes smaller, or refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes held of a bound.
#[derive(Debug, Default)]
pub struct Budget {
    held: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget { held: AtomicUsize::new(0), limit })
    }

    /// Whether as much as allowed is held.
    pub fn is_short(&self) -> bool {
        self.held() >= self.limit
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// The bound.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Counts bytes until the answer is dropped.
    pub fn hold(self: &Arc<Budget>, bytes: usize) -> Hold {
        self.add(bytes);
        Hold { budget: self.clone(), bytes }
    }

    /// Counts bytes that are held from now on.
    pub fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that were added as no longer held.
    pub fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes that count while this lives.
#[derive(Debug)]
pub struct Hold {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}
