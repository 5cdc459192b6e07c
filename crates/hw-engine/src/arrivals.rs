//! Which markers have come back, in which publication: "has everything up to now arrived?" for somebody
//! who waits (`design/engine.md` 9).
//!
//! A marker is known by its nonce and not by its position: where the source is another one meanwhile,
//! positions mean something else, and the marker does not come. But one that was written before a copy of
//! everything never comes back, and is contained in it.

use hw_input::markers::{Marked, MarkerError};
use hw_types::Lsn;
use parking_lot::Mutex;
use std::collections::VecDeque;

/// As many are remembered: markers are written one after the other, a few hundred in a second, and nobody
/// waits longer than five seconds for one.
const KEPT: usize = 8_192;

/// The last markers that came back.
#[derive(Default)]
pub(crate) struct Arrivals {
    /// Nonce, and number of the first publication that contains the marker; ascending.
    markers: Mutex<VecDeque<(u64, u64)>>,
    /// Where the last copy of everything was taken, and the first publication that contains it.
    whole: Mutex<Option<(Lsn, u64)>>,
}

/// What a publication is the first to contain.
#[derive(Default)]
pub(crate) struct Arrived {
    /// Markers, by nonce.
    pub markers: Vec<u64>,
    /// A copy of everything, by its place in the log.
    pub whole: Option<Lsn>,
}

impl Arrived {
    /// Adds what came behind it.
    pub fn append(&mut self, later: Arrived) {
        self.markers.extend(later.markers);
        let surplus = self.markers.len().saturating_sub(KEPT);
        self.markers.drain(..surplus);
        self.whole = later.whole.or(self.whole);
    }
}

impl Arrivals {
    /// Notes what publication `number` is the first to contain. Before that is shown.
    pub fn push(&self, number: u64, arrived: Arrived) {
        if let Some(whole) = arrived.whole {
            *self.whole.lock() = Some((whole, number));
        }
        if arrived.markers.is_empty() {
            return;
        }
        let mut markers = self.markers.lock();
        markers.extend(arrived.markers.into_iter().map(|nonce| (nonce, number)));
        let surplus = markers.len().saturating_sub(KEPT);
        markers.drain(..surplus);
    }

    /// Whether publication `number` contains a marker.
    ///
    /// - Takes: the publication that was there before the marker was written.
    pub fn contains(&self, number: u64, marked: Marked, before: u64) -> bool {
        let Marked { lsn, nonce } = marked;
        let is_copied =
            |(whole, first): (Lsn, u64)| lsn < whole && before < first && first <= number;
        if self.whole.lock().is_some_and(is_copied) {
            return true;
        }
        let markers = self.markers.lock();
        // What is waited for came lately.
        markers.iter().rev().any(|(known, first)| *known == nonce && *first <= number)
    }
}

/// Why it is not known that everything has arrived.
#[derive(Debug, thiserror::Error)]
pub enum ArrivalError {
    /// No marker could be written.
    #[error("source: {0}")]
    Source(String),
    /// The marker has not come back in time: the stream is behind or cut, or a copy of everything is
    /// under way.
    #[error("the source's log has not come back in time")]
    Late,
    /// Nobody is answered from what the store holds.
    #[error("nobody is answered until the store was compared with the source")]
    Withheld,
    /// The engine is stopping.
    #[error("the engine is stopping")]
    Stopping,
}

impl From<MarkerError> for ArrivalError {
    fn from(error: MarkerError) -> Self {
        match error {
            MarkerError::Source(what) => ArrivalError::Source(what),
            MarkerError::Closed => ArrivalError::Stopping,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_contained_from_its_publication_on_and_the_last_ones_are_remembered() {
        let arrivals = Arrivals::default();
        let push = |number, markers| arrivals.push(number, Arrived { markers, whole: None });
        let contains = |number, nonce| arrivals.contains(number, Marked { lsn: Lsn(1), nonce }, 0);
        push(3, vec![7, 8]);
        assert!(!contains(2, 7) && contains(3, 7) && contains(9, 8) && !contains(9, 6));
        push(4, (100..100 + KEPT as u64).collect());
        assert!(!contains(9, 7) && contains(9, 100));
    }

    #[test]
    fn a_copy_of_everything_contains_the_markers_before_it_of_those_who_waited_for_it() {
        let arrivals = Arrivals::default();
        arrivals.push(5, Arrived { markers: Vec::new(), whole: Some(Lsn(100)) });
        let contains = |number, lsn, before| {
            arrivals.contains(number, Marked { lsn: Lsn(lsn), nonce: 1 }, before)
        };
        assert!(contains(5, 99, 4) && contains(9, 99, 0));
        assert!(!contains(4, 99, 3), "it is not shown yet");
        assert!(!contains(5, 100, 4), "behind the copy");
        assert!(!contains(9, 99, 5), "a source that was put back since");
    }
}
