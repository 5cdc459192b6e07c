//! That something in the store is damaged: raised where it is read or written, acted on by the next
//! write, cleared by the opening that looks for all of it.

use crate::StoreError;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether something that was read is damaged, or a background thread died for a reason unknown.
#[derive(Debug, Default)]
pub(crate) struct Suspicion {
    raised: AtomicBool,
    /// The space, and what is wrong with it, when the first damage was that of one.
    space: Mutex<Option<(String, String)>>,
}

impl Suspicion {
    /// Notes what was met; the first damage is what is told.
    pub(crate) fn raise(&self, error: &StoreError) {
        if let StoreError::SpaceDamaged { space, what } = error
            && !self.is_raised()
        {
            *self.space.lock() = Some((space.clone(), what.clone()));
        }
        self.raised.store(true, Ordering::Release);
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// Whether it was raised; no longer.
    pub(crate) fn clear(&self) -> bool {
        *self.space.lock() = None;
        self.raised.swap(false, Ordering::AcqRel)
    }

    /// The damage, by the space's name where it is known.
    pub(crate) fn error(&self) -> StoreError {
        match self.space.lock().clone() {
            Some((space, what)) => StoreError::SpaceDamaged { space, what },
            None => StoreError::damaged("something that was read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_of_one_space_is_told_as_such() {
        let suspicion = Suspicion::default();
        let damaged = StoreError::SpaceDamaged { space: "rows.7".into(), what: "checksum".into() };
        suspicion.raise(&damaged);
        suspicion.raise(&StoreError::Poisoned);
        assert_eq!(suspicion.error().to_string(), damaged.to_string());
        assert_eq!(suspicion.error().code().0, 3017);
        assert!(suspicion.clear() && !suspicion.clear());
        suspicion.raise(&StoreError::Poisoned);
        assert_eq!(suspicion.error().code().0, 3004);
        suspicion.raise(&damaged);
        assert_eq!(suspicion.error().code().0, 3004, "not only that space");
    }
}
