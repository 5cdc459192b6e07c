//! Whether the source sends the changes of transactions before these have ended.
//!
//! Postgres, 14 to 18, cannot decode every transaction early: where what a savepoint altered of a table
//! was rolled back, and the table is altered again and rewritten, the walsender fails ("could not map
//! filenode"), at the same place in every session. Decoded whole, behind its commit, the transaction is
//! well. So a stream that sends early and ends of an internal error is begun again without that, and
//! goes on so; the next one that is begun when everything is confirmed that was in the log then sends
//! early again.

use crate::error::code;
use hw_pg::error::PgError;
use hw_types::{Diagnostic, EndLsn};
use parking_lot::Mutex;
use std::sync::Arc;

/// SQLSTATE of an internal error.
const INTERNAL_ERROR: &str = "XX000";

/// What is known of it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Early(Arc<Mutex<State>>);

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// It does.
    #[default]
    Sends,
    /// It failed, somewhere before the end of the log.
    Failed,
    /// It does not, until this is confirmed.
    Paused(EndLsn),
}

impl Early {
    /// Takes the end of a stream that sends early. Returns whether the next one gets further.
    pub fn ends(&self, error: &PgError) -> bool {
        let is_internal = error.sqlstate() == Some(INTERNAL_ERROR);
        if is_internal {
            *self.0.lock() = State::Failed;
            let what = format!(
                "the source cannot send a transaction before its end, and sends it behind that: {}",
                error.diagnostic().what
            );
            Diagnostic::warning(code::SENT_WHOLE, what).log();
        }
        is_internal
    }

    /// Whether a new stream sends early, as far as that is known without asking where the slot stands.
    pub fn sends(&self) -> bool {
        matches!(*self.0.lock(), State::Sends)
    }

    /// Whether a new stream sends early, by what is confirmed and where the log ends.
    pub fn resumes(&self, confirmed: EndLsn, end: EndLsn) -> bool {
        let mut state = self.0.lock();
        *state = match *state {
            State::Failed => State::Paused(end),
            State::Paused(until) if until <= confirmed => State::Sends,
            state => state,
        };
        matches!(*state, State::Sends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw_types::Lsn;

    #[test]
    fn what_failed_is_sent_whole_until_all_that_was_in_the_log_is_confirmed() {
        let early = Early::default();
        assert!(early.sends());
        *early.0.lock() = State::Failed;
        let at = |lsn| EndLsn(Lsn(lsn));
        assert!(!early.sends());
        assert!(!early.resumes(at(10), at(20)));
        assert!(!early.resumes(at(19), at(30)));
        assert!(early.resumes(at(20), at(40)));
        assert!(early.sends());
    }
}
