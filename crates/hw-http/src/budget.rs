//! Bytes that many holders together may keep, and whether they are near the bound.
//!
//! In: what is kept and given back. Out: whether it is short, or whether a user may keep more.
//! Nobody waits here: who reads the answer makes what he makes smaller, or refuses.

use parking_lot::Mutex;
use std::collections::HashMap;
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

    /// Counts bytes that are held from now on.
    pub fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that were added as no longer held.
    pub fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes of a budget that users keep for long, each at most a share and all together at most a limit:
/// one alone takes nothing from others.
#[derive(Debug)]
pub struct Shares {
    budget: Arc<Budget>,
    limit: usize,
    share: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_user: HashMap<Arc<str>, usize>,
}

/// Whose bytes leave no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The user's own.
    Own,
    /// Those of all users.
    All,
}

impl Shares {
    /// Users together take at most `limit` bytes, each at most `share`. They count in `budget`, too,
    /// whose bound they do not ask.
    pub fn new(budget: Arc<Budget>, limit: usize, share: usize) -> Arc<Shares> {
        Arc::new(Shares { budget, limit, share, held: Mutex::default() })
    }

    /// Counts bytes for a user until the answer is dropped.
    ///
    /// - Errors: his share, or that of all, would be exceeded.
    pub fn take(self: &Arc<Shares>, user: &str, bytes: usize) -> Result<Share, Full> {
        let mut share = Share { shares: self.clone(), user: Some(user.into()), bytes: 0 };
        share.grow(bytes)?;
        Ok(share)
    }

    /// Whether a user holds half of his share, or all together half of what they may: who takes
    /// nothing of what waits for him is not waited for then.
    pub fn is_pressed(&self, user: &str) -> bool {
        let held = self.held.lock();
        let own = held.by_user.get(user).copied().unwrap_or(0);
        2 * own >= self.share || 2 * held.all >= self.limit
    }

    /// Bytes that users hold now.
    pub fn held(&self) -> usize {
        self.held.lock().all
    }

    /// The bound.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Counts bytes in the budget alone: for what is so small that the number of holders bounds it.
    pub fn count(self: &Arc<Shares>, bytes: usize) -> Share {
        self.budget.add(bytes);
        Share { shares: self.clone(), user: None, bytes }
    }
}

/// Bytes that count while this lives.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    /// Whose share they take from; `None` for nobody's.
    user: Option<Arc<str>>,
    bytes: usize,
}

impl Share {
    /// Counts more bytes for the same user.
    ///
    /// - Errors: as [`Shares::take`]; what it held before it holds.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        self.resize(self.bytes + bytes)
    }

    /// Counts this many bytes from now on; fewer than before may always be.
    ///
    /// - Errors: as [`Shares::take`]; what it held before it holds.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Full> {
        if let Some(user) = &self.user {
            let mut held = self.shares.held.lock();
            let others = held.by_user.get(user).copied().unwrap_or(0) - self.bytes;
            let of_others = held.all - self.bytes;
            if bytes > self.bytes && others + bytes > self.shares.share {
                return Err(Full::Own);
            }
            if bytes > self.bytes && of_others + bytes > self.shares.limit {
                return Err(Full::All);
            }
            held.all = of_others + bytes;
            held.by_user.insert(user.clone(), others + bytes);
        }
        self.shares.budget.add(bytes);
        self.shares.budget.give_back(self.bytes);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.budget.give_back(self.bytes);
        let Some(user) = &self.user else { return };
        let mut held = self.shares.held.lock();
        held.all -= self.bytes;
        if let Some(own) = held.by_user.get_mut(user) {
            *own -= self.bytes;
            if *own == 0 {
                held.by_user.remove(user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_takes_his_share_and_nobody_elses() {
        let budget = Budget::new(100);
        let shares = Shares::new(budget.clone(), 30, 20);
        let first = shares.take("amy", 15).expect("there is room");
        assert_eq!(shares.take("amy", 6).err(), Some(Full::Own));
        let second = shares.take("bob", 15).expect("amy took nothing of his");
        assert_eq!(shares.take("cleo", 1).err(), Some(Full::All));
        assert_eq!(budget.held(), 30);
        drop((first, second));
        assert_eq!(budget.held(), 0);
        assert!(shares.held.lock().by_user.is_empty());
        assert!(shares.take("amy", 20).is_ok());
    }

    #[test]
    fn what_grows_is_bounded_and_given_back_as_a_whole() {
        let budget = Budget::new(100);
        let shares = Shares::new(budget.clone(), 30, 20);
        let mut first = shares.take("amy", 0).expect("there is room");
        first.grow(8).expect("there is room");
        assert!(!shares.is_pressed("amy") && !shares.is_pressed("bob"));
        first.grow(4).expect("there is room");
        assert!(shares.is_pressed("amy") && !shares.is_pressed("bob"));
        assert_eq!(first.grow(9), Err(Full::Own));
        first.resize(3).expect("fewer may always be");
        assert_eq!((shares.held(), budget.held()), (3, 3));
        first.resize(12).expect("there is room");
        let second = shares.take("bob", 18).expect("there is room");
        assert_eq!(first.grow(1), Err(Full::All));
        assert!(shares.is_pressed("cleo"), "all together hold half");
        assert_eq!((shares.held(), budget.held()), (30, 30));
        drop((first, second));
        assert_eq!((shares.held(), budget.held()), (0, 0));
        assert!(shares.held.lock().by_user.is_empty());
    }

    #[test]
    fn what_is_small_takes_nothing_from_what_is_large() {
        let budget = Budget::new(100);
        let shares = Shares::new(budget.clone(), 30, 20);
        let small: Vec<Share> = (0..40).map(|_| shares.count(1)).collect();
        assert_eq!(budget.held(), 40);
        let large = shares.take("amy", 20).expect("there is room");
        assert_eq!(budget.held(), 60);
        drop((small, large));
        assert_eq!(budget.held(), 0);
    }
}
