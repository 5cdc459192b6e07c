//! Users who may have more write checkpoints than are kept of one.
//!
//! Counted in memory, since the start or the beginning of the day: what it names is a reason to look,
//! and what comes of that stands in an entry.

use std::collections::{BTreeSet, HashMap};

/// So many new ones of a user are a reason to count all of his.
const COUNT_EVERY: u32 = 500;

/// Who may have too many write checkpoints.
#[derive(Default)]
pub(crate) struct Crowds {
    /// New ones by user, since his were last counted.
    new: HashMap<String, u32>,
    crowded: BTreeSet<String>,
}

impl Crowds {
    /// The user has a write checkpoint more.
    pub fn note(&mut self, user: &str) {
        let new = match self.new.get_mut(user) {
            Some(new) => new,
            None => self.new.entry(user.to_owned()).or_default(),
        };
        *new += 1;
        if *new >= COUNT_EVERY {
            *new = 0;
            self.insert(user);
        }
    }

    /// All of the user's were counted, and they are too many.
    pub fn insert(&mut self, user: &str) {
        if !self.crowded.contains(user) {
            self.crowded.insert(user.to_owned());
        }
    }

    /// All users' were counted.
    pub fn begin(&mut self) {
        self.new.clear();
    }

    /// Who may have too many; each told once.
    pub fn take(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.crowded)
    }
}
