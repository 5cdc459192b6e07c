//! What a test can do to a simulated store.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tempfile::TempDir;

use super::twin::{Content, Twin};
use crate::Store;
use crate::segment::SpoolDir;

/// A simulated machine: what is durable on it, and the knobs for what goes wrong. Cloning shares it.
#[derive(Clone, Default)]
pub struct Simulation(Arc<Inner>);

#[derive(Default)]
pub(super) struct Inner {
    pub(super) knobs: Mutex<Knobs>,
    machine: Mutex<Machine>,
}

#[derive(Default)]
struct Machine {
    running: Option<Arc<Twin>>,
    /// Where the running store's segments lie. An old directory goes away with the next crash.
    spool: Option<TempDir>,
    spool_bytes: Option<u64>,
}

/// Faults that are still to come.
#[derive(Default)]
pub(super) struct Knobs {
    /// Counted down by commits, bulk loads and syncs; the one that finds 1 fails.
    any: Option<u64>,
    commit: Option<u64>,
    sync: Option<u64>,
    /// Commits that the failing sync has made durable nevertheless.
    torn: u64,
    /// Bytes of keys and values that still fit.
    room: Option<u64>,
}

/// What a knob makes of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Full,
    Broken,
}

impl Simulation {
    /// A machine with an empty disk and no faults.
    pub fn new() -> Simulation {
        Simulation::default()
    }

    /// Cuts the power and starts again: the running store is dead (its calls answer `Closed`), and
    /// the returned one has what was synced, nothing else. Knobs stay as they are.
    pub fn crash(&self) -> Store {
        self.crash_keeping(0)
    }

    /// The same, but the first `commits` of the unsynced commits have reached the disk as well, as
    /// may happen: a journal loses a suffix, never something from its middle.
    pub fn crash_keeping(&self, commits: u64) -> Store {
        let mut machine = self.0.machine.lock();
        let content = match machine.running.take() {
            Some(twin) => twin.kill(commits),
            None => Content::default(),
        };
        let twin = Arc::new(Twin::new(self.0.clone(), content));
        machine.running = Some(twin.clone());
        let spool = machine.new_spool();
        Store::of_twin(twin, spool)
    }

    /// The `n`-th commit, bulk load or sync from now fails (1 is the next one). The store is then
    /// read-only until it is reopened, which loses what was not synced.
    pub fn fail_next(&self, n: u64) {
        self.0.knobs.lock().any = Some(n.max(1));
    }

    /// The `n`-th commit or bulk load from now fails.
    pub fn fail_commit(&self, n: u64) {
        self.0.knobs.lock().commit = Some(n.max(1));
    }

    /// The `n`-th sync from now fails and makes nothing durable.
    pub fn fail_sync(&self, n: u64) {
        self.tear_sync(n, 0);
    }

    /// The `n`-th sync from now fails, although the first `commits` of those that waited for it are
    /// durable.
    pub fn tear_sync(&self, n: u64, commits: u64) {
        let mut knobs = self.0.knobs.lock();
        knobs.sync = Some(n.max(1));
        knobs.torn = commits;
    }

    /// The disk is full once `bytes` more bytes of keys and values were committed; `None` gives
    /// unlimited room. A store that ran full reopens only after this was called again.
    pub fn full_after(&self, bytes: impl Into<Option<u64>>) {
        self.0.knobs.lock().room = bytes.into();
    }

    /// Reads of the space `name` find damage from now on: it makes the store read-only, and behind
    /// [`Store::reopen`] or a crash the space counts as lost.
    pub fn damage(&self, name: &str) {
        if let Some(twin) = &self.0.machine.lock().running {
            twin.damage(name);
        }
    }

    /// The byte limit of incoming spools of stores made by later crashes. 1 GiB by default.
    pub fn spool_limit(&self, bytes: u64) {
        self.0.machine.lock().spool_bytes = Some(bytes);
    }
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Simulation")
    }
}

impl Machine {
    /// A new directory with the persisted segments of the old one, so that handles of the dead
    /// store cannot touch what the new one owns.
    fn new_spool(&mut self) -> SpoolDir {
        let old = self.spool.take();
        let new = tempfile::tempdir().expect("a test machine has a temporary directory");
        if let Some(old) = old {
            for path in SpoolDir::persisted_files(old.path()) {
                let name: PathBuf = path.file_name().expect("files have names").into();
                std::fs::hard_link(&path, new.path().join(name))
                    .expect("a temporary directory takes links");
            }
        }
        let limit = self.spool_bytes.unwrap_or(1 << 30);
        let spool = SpoolDir::open(new.path(), limit).expect("a new directory opens");
        self.spool = Some(new);
        spool
    }
}

impl Knobs {
    pub(super) fn on_commit(&mut self, bytes: u64) -> Result<(), Fault> {
        if due(&mut self.any) | due(&mut self.commit) {
            return Err(Fault::Broken);
        }
        match &mut self.room {
            Some(room) if *room < bytes => {
                *room = 0;
                Err(Fault::Full)
            }
            Some(room) => {
                *room -= bytes;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The error holds how many commits became durable in spite of it.
    pub(super) fn on_sync(&mut self) -> Result<(), u64> {
        let any = due(&mut self.any);
        if due(&mut self.sync) {
            return Err(std::mem::take(&mut self.torn));
        }
        if any { Err(0) } else { Ok(()) }
    }

    pub(super) fn has_room(&self) -> bool {
        self.room != Some(0)
    }
}

/// Counts one operation; true when this one is to fail.
fn due(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(1) => {
            *countdown = None;
            true
        }
        Some(n) => {
            *n -= 1;
            false
        }
        None => false,
    }
}
