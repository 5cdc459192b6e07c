//! Bulk loads: ascending pairs into a space, visible together at the end.
//!
//! A load of little is one commit. One of much goes around journal and memory tables: its pairs flow
//! from the caller in chunks through a bounded queue into a thread that compresses them and writes
//! tables, so that a copy's reading and its loading use two cores. Invariants: the caller's keys
//! ascend strictly; nothing is visible before `finish` returns; what is committed behind it is durable
//! only with it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use fjall::Slice;
use parking_lot::{Condvar, Mutex};

use crate::batch::check_key_length;
use crate::disk::Disk;
use crate::simulation::Twin;
use crate::snapshot::Opening;
use crate::space::Keyspace;
use crate::{Batch, Space, StoreError};

/// Bytes that travel to the loading thread together.
const CHUNK_BYTES: usize = 256 << 10;

/// Chunks that wait for the loading thread; a faster caller waits.
const MAX_CHUNKS: usize = 4;

/// A load of less than this part of the memory for unflushed writes is one commit: tables of its own
/// would cost syncs and files, and a keyspace of its own more of them.
const SMALL_PART: u64 = 16;

/// A running bulk load of one space. Dropping it abandons the load; the tables that were begun take
/// disk space until the store is next opened or the space dropped.
pub struct BulkLoad {
    target: Target,
    space: Space,
    last_key: Vec<u8>,
    rows: u64,
}

enum Target {
    /// Collects pairs until there are many.
    Small {
        disk: Arc<Disk>,
        opening: Opening,
        batch: Batch,
    },
    Tables(Tables),
    Twin {
        twin: Arc<Twin>,
        batch: Batch,
    },
}

/// A load that writes tables.
struct Tables {
    chunk: Chunk,
    queue: Arc<Queue>,
    thread: Option<JoinHandle<Result<(), StoreError>>>,
}

impl BulkLoad {
    pub(crate) fn on_disk(disk: &Arc<Disk>, space: &Space) -> BulkLoad {
        let opening = disk.opening();
        BulkLoad::new(space, Target::Small { disk: disk.clone(), opening, batch: Batch::new() })
    }

    pub(crate) fn in_twin(twin: &Arc<Twin>, space: &Space) -> BulkLoad {
        BulkLoad::new(space, Target::Twin { twin: twin.clone(), batch: Batch::new() })
    }

    fn new(space: &Space, target: Target) -> BulkLoad {
        BulkLoad { target, space: space.clone(), last_key: Vec::new(), rows: 0 }
    }

    /// Adds one pair; a key that the space already has is replaced at `finish`.
    ///
    /// - Errors: `Order` unless `key` is greater than the last one, `KeyLength`; `Full`, `NoFiles`,
    ///   `Io`, `Superseded`, which end the load.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        check_key_length(key.len())?;
        if self.rows > 0 && key <= self.last_key.as_slice() {
            return Err(StoreError::Order);
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.rows += 1;
        match &mut self.target {
            Target::Twin { batch, .. } => {
                batch.put(&self.space, key, value);
                Ok(())
            }
            Target::Small { disk, opening, batch } => {
                batch.put(&self.space, key, value);
                if batch.bytes() < disk.options().memtable_bytes / SMALL_PART {
                    return Ok(());
                }
                let (disk, opening, batch) = (disk.clone(), opening.clone(), std::mem::take(batch));
                let tables = Tables::start(&disk, &self.space, &opening)?;
                self.target = Target::Tables(tables);
                let Target::Tables(tables) = &mut self.target else { return Ok(()) };
                for pair in batch.into_writes().1 {
                    tables.push(&pair.key, &pair.value.unwrap_or_default())?;
                }
                Ok(())
            }
            Target::Tables(tables) => tables.push(&self.space.stored(key), value),
        }
    }

    /// Pairs pushed so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Makes the load visible, between two commits. It is durable like a commit: with whatever is
    /// synced behind it. (Tables are durable at once, and what was committed before them, too; but a
    /// load of little costs no sync, so that thousands of them cost none.)
    ///
    /// - Returns: the number of pairs.
    /// - Errors: `Superseded` when the store was reopened meanwhile, `NoSpace` when the space was
    ///   dropped; any other as for [`crate::Store::commit`].
    pub fn finish(mut self) -> Result<u64, StoreError> {
        match &mut self.target {
            Target::Small { disk, opening, batch } => {
                if !batch.is_empty() {
                    disk.commit_in(std::mem::take(batch), Some(opening))?;
                }
            }
            Target::Tables(tables) => tables.finish()?,
            Target::Twin { twin, batch } => {
                if self.space.is_dropped() {
                    return Err(self.space.missing());
                }
                if !batch.is_empty() {
                    twin.commit(std::mem::take(batch))?;
                }
            }
        }
        Ok(self.rows)
    }
}

impl Tables {
    fn start(disk: &Arc<Disk>, space: &Space, opening: &Opening) -> Result<Tables, StoreError> {
        let queue = disk.loads.start()?;
        let end = |error| {
            queue.close(End::Done);
            error
        };
        // Behind the start, because reopening waits for all loads that have started.
        opening.check().map_err(end)?;
        let keyspace = disk.place_for_load(space).map_err(end)?;
        // Every load adds a run of tables that reads look into until it is compacted.
        disk.wait_for_room(std::slice::from_ref(&keyspace)).map_err(end)?;
        let thread = std::thread::Builder::new().name("store-load".into()).spawn({
            let (disk, space, done) = (disk.clone(), space.clone(), Done(queue.clone()));
            move || {
                // Whoever reopens the store waits for `done`, so the tree is let go of before.
                let result = load(&disk, &done.0, &space, &keyspace);
                drop(keyspace);
                result
            }
        });
        let thread = thread.map_err(StoreError::io("start bulk load")).map_err(end)?;
        Ok(Tables { chunk: Chunk::default(), queue, thread: Some(thread) })
    }

    fn push(&mut self, stored_key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.chunk.push(stored_key, value);
        let full = self.chunk.bytes.len() >= CHUNK_BYTES;
        if !full || self.queue.push(std::mem::take(&mut self.chunk)) {
            return Ok(());
        }
        self.join()
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        if self.queue.push(std::mem::take(&mut self.chunk)) {
            self.queue.close(End::Finish);
        }
        self.join()
    }

    /// The loading thread's result. A thread that ended before it was told to has failed.
    fn join(&mut self) -> Result<(), StoreError> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(StoreError::damaged("a bulk load ended in a panic")),
            None => Err(StoreError::Poisoned),
        }
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        self.queue.close(End::Abandon);
        // Its result interests nobody any more.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn load(disk: &Disk, queue: &Queue, space: &Space, keyspace: &Keyspace) -> Result<(), StoreError> {
    let opening = disk.opening();
    if keyspace.generation != opening.mine {
        return Err(StoreError::Superseded);
    }
    let mut tables = keyspace.tree.start_ingestion()?;
    loop {
        match queue.next() {
            Next::Chunk(chunk) => {
                for (key, value) in chunk.pairs() {
                    tables.write(Slice::from(key), Slice::from(value))?;
                }
            }
            Next::End(End::Finish) => return disk.end_load(space, || tables.finish()),
            Next::End(End::Reopened) => return Err(StoreError::Superseded),
            Next::End(End::Abandon | End::Done) => return Ok(()),
        }
    }
}

/// Pairs one behind the other, with where each part ends.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Ends of key and value of each pair.
    ends: Vec<(usize, usize)>,
}

impl Chunk {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((middle, self.bytes.len()));
    }

    fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |&(middle, end)| {
            let pair = (&self.bytes[start..middle], &self.bytes[middle..end]);
            start = end;
            pair
        })
    }
}

/// Why no more chunks come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Finish,
    Abandon,
    Reopened,
    /// The thread has ended.
    Done,
}

enum Next {
    Chunk(Chunk),
    End(End),
}

/// The chunks of one load between its caller and its thread.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    chunks: VecDeque<Chunk>,
    end: Option<End>,
}

impl Queue {
    /// Hands over a chunk, waiting for a place; false when the load has ended already.
    fn push(&self, chunk: Chunk) -> bool {
        let mut state = self.state.lock();
        while state.end.is_none() && state.chunks.len() >= MAX_CHUNKS {
            self.changed.wait(&mut state);
        }
        if state.end.is_some() {
            return false;
        }
        state.chunks.push_back(chunk);
        self.changed.notify_all();
        true
    }

    fn close(&self, end: End) {
        let mut state = self.state.lock();
        // An end by the store or by the thread stands; the caller's own may be overruled by them.
        if matches!(state.end, None | Some(End::Finish)) || end == End::Done {
            state.end = Some(end);
        }
        self.changed.notify_all();
    }

    fn next(&self) -> Next {
        let mut state = self.state.lock();
        loop {
            // Only a load that is to be finished still wants what is queued.
            if !matches!(state.end, None | Some(End::Finish)) {
                break;
            }
            if let Some(chunk) = state.chunks.pop_front() {
                self.changed.notify_all();
                return Next::Chunk(chunk);
            }
            if state.end.is_some() {
                break;
            }
            self.changed.wait(&mut state);
        }
        Next::End(state.end.unwrap_or(End::Abandon))
    }

    fn wait_until_done(&self) {
        let mut state = self.state.lock();
        while state.end != Some(End::Done) {
            self.changed.wait(&mut state);
        }
    }
}

/// Says that the loading thread has ended, in whatever way.
struct Done(Arc<Queue>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.close(End::Done);
    }
}

/// The running loads of a store, so that reopening can end them: a load of the old opening would
/// write table files under the numbers of the new one.
#[derive(Default)]
pub(crate) struct Loads(Mutex<LoadsState>);

#[derive(Default)]
struct LoadsState {
    stopped: bool,
    running: Vec<Weak<Queue>>,
}

/// No load starts while this exists.
pub(crate) struct NoLoads<'l>(&'l Loads);

impl Loads {
    fn start(&self) -> Result<Arc<Queue>, StoreError> {
        let mut state = self.0.lock();
        if state.stopped {
            return Err(StoreError::Superseded);
        }
        let queue = Arc::new(Queue::default());
        state.running.retain(|load| load.strong_count() > 0);
        state.running.push(Arc::downgrade(&queue));
        Ok(queue)
    }

    /// Ends all running loads and waits until they have let go of the database.
    pub(crate) fn stop(&self) -> NoLoads<'_> {
        let running = {
            let mut state = self.0.lock();
            state.stopped = true;
            std::mem::take(&mut state.running)
        };
        for load in running.iter().filter_map(Weak::upgrade) {
            load.close(End::Reopened);
            load.wait_until_done();
        }
        NoLoads(self)
    }
}

impl Drop for NoLoads<'_> {
    fn drop(&mut self) {
        self.0.0.lock().stopped = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_queue_is_emptied_and_a_reopened_one_is_not() {
        let chunk = || {
            let mut chunk = Chunk::default();
            chunk.push(b"k", b"v");
            chunk
        };
        let finished = Queue::default();
        assert!(finished.push(chunk()));
        finished.close(End::Finish);
        assert!(matches!(finished.next(), Next::Chunk(c) if c.pairs().count() == 1));
        assert!(matches!(finished.next(), Next::End(End::Finish)));

        let reopened = Queue::default();
        assert!(reopened.push(chunk()));
        reopened.close(End::Reopened);
        reopened.close(End::Finish);
        assert!(matches!(reopened.next(), Next::End(End::Reopened)));
        assert!(!reopened.push(chunk()));
    }
}
