//! What the sequencer tells others, and what others leave for it: places, not queues, that outlive
//! a failure of the writer.

use crate::beat::Beat;
use crate::error::code;
use crate::status::Waits;
use crate::waiting::UnderConstruction;
use hw_input::replica::{Looked, Plan, Turns};
use hw_types::{Diagnostic, TableName};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{oneshot, watch};

/// The places.
#[derive(Default)]
pub(crate) struct Board {
    /// What is to be followed, and what there is.
    pub plan: watch::Sender<Arc<Plan>>,
    /// What happened that the driver must react to.
    pub turns: watch::Sender<Turns>,
    /// Grows when something says that anybody's rights may be others; before the state is published
    /// that contains it.
    pub rights: watch::Sender<u64>,
    /// What the last look at the catalog found.
    pub looked: Mutex<Option<Looked>>,
    /// The newest configuration that was handed in and not taken over. A place, not an event: no
    /// failure of the writer forgets it.
    pub desired: Mutex<Option<Desired>>,
    /// How the writer is.
    pub writer: Mutex<WriterStatus>,
    /// Whether the source was asked for what clients were shown, or does not answer: before that nobody
    /// is answered from what the store held when the process began.
    pub asked: AtomicBool,
    /// Whether the writer works.
    pub beat: Beat,
    /// Becomes true when everything ends.
    pub stop: watch::Sender<bool>,
    secret: Mutex<[u8; 32]>,
    write_base: AtomicU64,
}

/// How the writer is, as it tells it.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriterStatus {
    pub building: bool,
    pub waiting_version: Option<u64>,
    /// The definitions of the configuration that is being built, of those that are not complete what they
    /// read.
    pub under_construction: Vec<UnderConstruction>,
    pub stale: Vec<TableName>,
    pub lost: Vec<String>,
    pub store_error: Option<String>,
    pub restarts: u64,
}

impl Board {
    /// Nothing was told or left yet.
    pub fn new(beat: Beat) -> Board {
        Board { beat, ..Board::default() }
    }

    /// Signs markers.
    pub fn secret(&self) -> [u8; 32] {
        *self.secret.lock()
    }

    pub fn set_secret(&self, secret: [u8; 32]) {
        *self.secret.lock() = secret;
    }

    /// What is added to a marker's position to give a write checkpoint's number.
    pub fn write_base(&self) -> u64 {
        self.write_base.load(Ordering::Acquire)
    }

    pub fn set_write_base(&self, base: u64) {
        self.write_base.store(base, Ordering::Release);
    }

    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// The tables that definitions name and that have not entered as they are at the source; `None` before
    /// the catalog was asked for everything that definitions name.
    pub fn missing(&self) -> Option<BTreeSet<TableName>> {
        let plan = self.plan.borrow().clone();
        let looked = self.looked.lock();
        // What was there when the catalog was asked may be lost since.
        let is_known = |looked: &&Looked| {
            looked.is_settled
                && *looked.wanted == *plan.wanted
                && looked.found.iter().all(|id| plan.tables.contains_key(id))
        };
        looked.as_ref().filter(is_known).map(|looked| looked.missing.clone())
    }

    /// What keeps definitions of the sync configuration under construction from being served, as the last
    /// look found.
    pub fn waits_for(&self) -> Waits {
        let definitions = self.writer.lock().under_construction.clone();
        let looked = self.looked.lock();
        let mut waits = Waits::default();
        for UnderConstruction { name, reads, stands_still } in definitions {
            let missing = looked.iter().flat_map(|looked| &looked.missing);
            let of_it: Vec<&TableName> =
                missing.filter(|table| reads.iter().any(|p| p.matches(table))).collect();
            match of_it.is_empty() {
                true if stands_still => waits.standing.push(name),
                true => {}
                false => {
                    waits.tables.extend(of_it.into_iter().cloned());
                    waits.definitions.push(name);
                }
            }
        }
        waits
    }
}

/// A sync configuration that compiles and was handed in.
pub(crate) struct Desired {
    pub file: String,
    pub text: String,
    /// Told whether anything changed; `None` when nobody waits.
    pub reply: Option<oneshot::Sender<Result<bool, Diagnostic>>>,
}

impl Desired {
    /// Hands a configuration in, in place of one that was not taken over yet.
    pub fn hand_in(place: &Mutex<Option<Desired>>, desired: Desired) {
        let before = place.lock().replace(desired);
        if let Some(reply) = before.and_then(|before| before.reply) {
            let what = "a newer sync configuration was handed in before this one was taken over";
            let _ = reply.send(Err(Diagnostic::error(code::OVERTAKEN, what)));
        }
    }

    /// Puts one back that could not be taken over, unless a newer one is there.
    pub fn put_back(place: &Mutex<Option<Desired>>, desired: Desired) {
        let newer = place.lock().take();
        Self::hand_in(place, desired);
        if let Some(newer) = newer {
            Self::hand_in(place, newer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(text: &str) -> (Desired, oneshot::Receiver<Result<bool, Diagnostic>>) {
        let (reply, answer) = oneshot::channel();
        (Desired { file: "sync.yaml".into(), text: text.into(), reply: Some(reply) }, answer)
    }

    /// F-53: a writer that failed while it took one over takes it, or a newer one, when it begins again.
    #[test]
    fn a_configuration_that_is_put_back_takes_no_newer_ones_place() {
        let place = Mutex::new(None);
        let (older, mut of_older) = desired("older");
        Desired::put_back(&place, older);
        let older = place.lock().take().expect("it is there again");
        let (newer, mut of_newer) = desired("newer");
        Desired::hand_in(&place, newer);
        Desired::put_back(&place, older);
        assert_eq!(place.lock().as_ref().map(|desired| &*desired.text), Some("newer"));
        let told = of_older.try_recv().expect("it is told").expect_err("it is overtaken");
        assert_eq!(told.code.0, code::OVERTAKEN);
        assert!(of_newer.try_recv().is_err(), "it waits");
    }
}
