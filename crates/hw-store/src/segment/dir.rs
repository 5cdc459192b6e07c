//! The directory of segments and the budgets that they share.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Segment;
use super::budget::{Budget, Purpose, Reservation, SpoolLimits, Waiting};
use crate::StoreError;
use crate::home::create_private_dir;

const TEMPORARY: &str = "tmp";
const PERSISTED: &str = "keep";

/// Counts over the whole process, so that two openings of one directory never share a file name.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A directory of segments, and the purpose of those that are created through this handle. Cloning
/// shares it.
#[derive(Clone, Debug)]
pub struct SpoolDir {
    inner: Arc<Inner>,
    purpose: Purpose,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    budgets: [Budget; 3],
}

impl SpoolDir {
    /// Opens `path`, creating it when missing, for incoming changes of at most `max_bytes`; see
    /// [`SpoolDir::of`]. Segments of earlier processes are removed, apart from persisted ones, which
    /// count as decided. Nobody else may have the directory open: below a store, the store's lock
    /// sees to that.
    pub fn open(path: &Path, max_bytes: u64) -> Result<SpoolDir, StoreError> {
        SpoolDir::open_within(path, SpoolLimits::incoming(max_bytes))
    }

    /// The same with a limit for each purpose.
    pub fn open_within(path: &Path, limits: SpoolLimits) -> Result<SpoolDir, StoreError> {
        let doing = "open spool directory";
        create_private_dir(path).map_err(StoreError::io(doing))?;
        let mut used = 0;
        for entry in fs::read_dir(path).map_err(StoreError::io(doing))? {
            let entry = entry.map_err(StoreError::io(doing))?;
            let file = entry.path();
            if has_extension(&file, PERSISTED) {
                used += entry.metadata().map_err(StoreError::io(doing))?.len();
            } else if has_extension(&file, TEMPORARY) {
                fs::remove_file(&file).map_err(StoreError::io(doing))?;
            }
        }
        let budgets = Purpose::ALL.map(|purpose| Budget::new(purpose, limits.of(purpose)));
        let dir = SpoolDir {
            inner: Arc::new(Inner { path: path.into(), budgets }),
            purpose: Purpose::Incoming,
        };
        dir.of(Purpose::Decided).budget().count(used);
        Ok(dir)
    }

    /// The same directory, for segments of another purpose.
    pub fn of(&self, purpose: Purpose) -> SpoolDir {
        SpoolDir { inner: self.inner.clone(), purpose }
    }

    /// What segments that are created through this handle are for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Bytes of all segments of this purpose, and room reserved for them.
    pub fn used(&self) -> u64 {
        self.budget().used()
    }

    /// Bytes of the segments of all purposes.
    pub fn used_in_all(&self) -> u64 {
        self.inner.budgets.iter().map(Budget::used).sum()
    }

    /// Bytes that all segments of this purpose together may have.
    pub fn max_bytes(&self) -> u64 {
        self.budget().max()
    }

    /// Takes room now, for a segment that is written later: see [`super::SegmentWriter::within`].
    ///
    /// - Errors: `SpoolFull`; [`StoreError::never_fits`] tells whether waiting cannot help.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, StoreError> {
        self.budget().reserve(bytes)
    }

    /// The same, but waits on this thread until others have given room back.
    ///
    /// - Errors: `SpoolFull` at once when so much never fits.
    pub fn reserve_blocking(&self, bytes: u64) -> Result<Reservation, StoreError> {
        self.budget().wait(bytes)
    }

    /// The same as a future. It holds no place in a queue: whoever is polled first takes the room.
    pub fn reserve_waiting(&self, bytes: u64) -> Waiting {
        self.budget().wait_async(bytes)
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.inner.budgets[self.purpose as usize]
    }

    /// The names of persisted segments, ascending.
    pub fn persisted_names(&self) -> Vec<String> {
        let files = Self::persisted_files(&self.inner.path);
        let stem = |file: PathBuf| Some(file.file_stem()?.to_str()?.to_owned());
        let mut names: Vec<String> = files.into_iter().filter_map(stem).collect();
        names.sort_unstable();
        names
    }

    /// The segment persisted under `name`, or `None`.
    ///
    /// - Errors: `Damaged` when header or trailer are not those of a finished segment; records are
    ///   checked as they are read.
    pub fn persisted(&self, name: &str) -> Result<Option<Segment>, StoreError> {
        check_name(name)?;
        Segment::open_persisted(&self.of(Purpose::Decided), self.persisted_path(name))
    }

    pub(crate) fn persisted_files(path: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
        let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
        files.filter(|file| has_extension(file, PERSISTED)).collect()
    }

    pub(super) fn path(&self) -> &Path {
        &self.inner.path
    }

    pub(super) fn persisted_path(&self, name: &str) -> PathBuf {
        self.inner.path.join(format!("{name}.{PERSISTED}"))
    }

    /// A path that no other segment has; `name` is for a person who looks into the directory.
    pub(super) fn temporary_path(&self, name: &str) -> PathBuf {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.inner.path.join(format!("{name}-{}-{number}.{TEMPORARY}", std::process::id()))
    }

    /// Unlinks a file of `bytes` bytes. A failure leaves it to the next opening.
    pub(super) fn remove(&self, path: &Path, bytes: u64) {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!("remove segment: {error}");
        }
        self.budget().release(bytes);
    }
}

/// Names become file names, and come from code, never from rows.
pub(super) fn check_name(name: &str) -> Result<(), StoreError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 100 || !name.chars().all(allowed) {
        return Err(StoreError::Name { name: name.to_owned() });
    }
    Ok(())
}

fn has_extension(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|found| found == extension)
}
