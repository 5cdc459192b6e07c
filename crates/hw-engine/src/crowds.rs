//! Users who may have more write checkpoints than are kept of one.
//!
//! Counted in memory, since the start or the beginning of the day: what it names is a reason to look,
//! and what comes of that stands in an entry. To look is to read all of a user's, on the writer's thread:
//! no more than four are read for each that came.

use std::collections::{BTreeSet, HashMap};

/// Of one user so many are kept, those whose markers are the newest of the present history: somebody who
/// invents client databases must not fill the store. A client waits for seconds, and as many others of
/// its user have to upload in between until its own is forgotten.
pub(crate) const KEEP_OF_USER: usize = 10_000;

/// So many more are a reason to look again.
const SURPLUS: usize = KEEP_OF_USER / 2;

/// So many new ones of a user are a reason to look, while it is not known how many he has.
const FIRST_LOOK: usize = 500;

/// Who may have too many write checkpoints.
#[derive(Default)]
pub(crate) struct Crowds {
    by_user: HashMap<String, Count>,
    crowded: BTreeSet<String>,
}

/// A user's write checkpoints.
#[derive(Default)]
struct Count {
    /// Those that he had at the last look.
    before: Option<usize>,
    /// Those that came since.
    new: usize,
}

impl Count {
    fn is_due(&self) -> bool {
        match self.before {
            None => self.new >= FIRST_LOOK,
            Some(before) => before + self.new >= KEEP_OF_USER + SURPLUS,
        }
    }
}

impl Crowds {
    /// The user has a write checkpoint more.
    pub fn note(&mut self, user: &str) {
        let count = match self.by_user.get_mut(user) {
            Some(count) => count,
            None => self.by_user.entry(user.to_owned()).or_default(),
        };
        count.new += 1;
        if count.is_due() {
            self.insert(user);
        }
    }

    /// The user has so many, and no more than are kept.
    pub fn counted(&mut self, user: &str, before: usize) {
        self.by_user.insert(user.to_owned(), Count { before: Some(before), new: 0 });
    }

    /// All of the user's were counted, and they are too many.
    pub fn insert(&mut self, user: &str) {
        if !self.crowded.contains(user) {
            self.crowded.insert(user.to_owned());
        }
    }

    /// All users' were counted.
    pub fn begin(&mut self) {
        self.by_user.clear();
    }

    /// Who may have too many; each told once.
    pub fn take(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.crowded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fd_43_what_is_read_to_keep_the_newest_is_a_few_times_what_came() {
        let (mut crowds, mut stored, mut read) = (Crowds::default(), 0, 0);
        for come in 1..=100_000 {
            crowds.note("amy");
            stored += 1;
            for user in crowds.take() {
                read += stored;
                stored = stored.min(KEEP_OF_USER);
                crowds.counted(&user, stored);
            }
            assert!(stored < KEEP_OF_USER + SURPLUS && read <= 4 * come, "{read} of {come}");
        }
        assert!(read > 0);
    }
}
