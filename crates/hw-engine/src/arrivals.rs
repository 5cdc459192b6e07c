//! Which markers have come back, in which publication: "has everything up to now arrived?" for somebody
//! who waits (`design/engine.md` 9).
//!
//! A marker is known by its nonce and not by its position: where the source is another one meanwhile,
//! positions mean something else, and the marker does not come.

use hw_input::markers::MarkerError;
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
}

impl Arrivals {
    /// Notes what publication `number` is the first to contain. Before that is shown.
    pub fn push(&self, number: u64, nonces: Vec<u64>) {
        if nonces.is_empty() {
            return;
        }
        let mut markers = self.markers.lock();
        markers.extend(nonces.into_iter().map(|nonce| (nonce, number)));
        let surplus = markers.len().saturating_sub(KEPT);
        markers.drain(..surplus);
    }

    /// Whether publication `number` contains a marker.
    pub fn contains(&self, number: u64, nonce: u64) -> bool {
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
        arrivals.push(3, vec![7, 8]);
        assert!(!arrivals.contains(2, 7) && arrivals.contains(3, 7) && arrivals.contains(9, 8));
        assert!(!arrivals.contains(9, 6));
        arrivals.push(4, (100..100 + KEPT as u64).collect());
        assert!(!arrivals.contains(9, 7) && arrivals.contains(9, 100));
    }
}
