//! The directory of segments and the byte budget they share.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Segment;
use crate::StoreError;

const TEMPORARY: &str = "tmp";
const PERSISTED: &str = "keep";

/// Counts over the whole process, so that two openings of one directory never share a file name.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A directory of segments with a limit for all of them together. Cloning shares it.
#[derive(Clone, Debug)]
pub struct SpoolDir(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    max_bytes: u64,
    used: AtomicU64,
}

impl SpoolDir {
    /// Opens `path`, creating it when missing. Segments of earlier processes are removed, apart
    /// from persisted ones, which count as used. Nobody else may have the directory open: below a
    /// store, the store's lock sees to that.
    pub fn open(path: &Path, max_bytes: u64) -> Result<SpoolDir, StoreError> {
        let doing = "open spool directory";
        fs::create_dir_all(path).map_err(StoreError::io(doing))?;
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
        Ok(SpoolDir(Arc::new(Inner { path: path.into(), max_bytes, used: used.into() })))
    }

    /// Bytes of all segments that exist.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Bytes that all segments together may have.
    pub fn max_bytes(&self) -> u64 {
        self.0.max_bytes
    }

    /// The names of persisted segments, ascending.
    pub fn persisted_names(&self) -> Vec<String> {
        let files = Self::persisted_files(&self.0.path);
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
        Segment::open_persisted(self, self.persisted_path(name))
    }

    pub(crate) fn persisted_files(path: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
        let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
        files.filter(|file| has_extension(file, PERSISTED)).collect()
    }

    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }

    pub(super) fn persisted_path(&self, name: &str) -> PathBuf {
        self.0.path.join(format!("{name}.{PERSISTED}"))
    }

    /// A path that no other segment has; `name` is for a person who looks into the directory.
    pub(super) fn temporary_path(&self, name: &str) -> PathBuf {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.0.path.join(format!("{name}-{}-{number}.{TEMPORARY}", std::process::id()))
    }

    /// Takes `bytes` out of the budget.
    pub(super) fn reserve(&self, bytes: u64) -> Result<(), StoreError> {
        let max = self.0.max_bytes;
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= max);
        match self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(()),
            Err(used) => Err(StoreError::SpoolFull { used, max, wanted: bytes }),
        }
    }

    pub(super) fn release(&self, bytes: u64) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Unlinks a file of `bytes` bytes. A failure leaves it to the next opening.
    pub(super) fn remove(&self, path: &Path, bytes: u64) {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!("remove segment: {error}");
        }
        self.release(bytes);
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
