//! What can be configured about a store, with defaults that keep a whole server below 512 MB.

use std::path::PathBuf;

/// How a store is opened. All sizes are bytes.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The store's own directory; created when missing, refused when it holds something else.
    pub dir: PathBuf,
    /// Memory for blocks read from tables, shared by all spaces.
    pub cache_bytes: u64,
    /// Journal on disk above which the oldest part is retired by flushing the spaces that still
    /// need it. Opening replays the journal, so this bounds the time to open. At least 64 MiB: the
    /// journal is cut in files of that size.
    pub journal_bytes: u64,
    /// Memory for unflushed writes of all spaces together. Commits wait when flushing falls behind,
    /// so that at most about three times this amount is in memory for a moment.
    pub memtable_bytes: u64,
    /// Threads that flush and compact. With one, a flush waits for the compaction before it, and
    /// commits with it (6 s in the worst case seen, against 0.5 s with two). fjall's first thread
    /// leaves compactions to the others, and spins as long as one waits for them: with two threads
    /// that was a third of all their CPU time, with four it is not seen.
    pub workers: usize,
    /// Table files kept open.
    pub open_files: usize,
    /// Disk that spools of what arrives may use (open transactions, changes beside copies). Applying
    /// one transaction takes more, for as long as it lasts, and is bounded by the disk.
    pub spool_bytes: u64,
}

impl StoreOptions {
    /// The defaults for a store in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> StoreOptions {
        StoreOptions { dir: dir.into(), ..StoreOptions::default() }
    }
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            dir: PathBuf::from(".headwater"),
            cache_bytes: 64 << 20,
            journal_bytes: 64 << 20,
            memtable_bytes: 32 << 20,
            workers: 4,
            open_files: 900,
            spool_bytes: 16 << 30,
        }
    }
}
