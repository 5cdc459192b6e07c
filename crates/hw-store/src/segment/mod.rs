//! Spool files beside the store: open transactions, table copies, sort runs, decided writes.
//!
//! A segment is written once from front to back, then read any number of times. It is a plain file
//! that vanishes with its last handle, and with the process, unless it was persisted under a name.
//! The segments of each [`Purpose`] share a byte budget. Layout: `docs/formats.md`.
//!
//! Invariant: a reader returns exactly the records that were appended, or an error; damaged and
//! cut files are found by length, checksum and trailer, never by a panic.

mod budget;
mod dir;
mod reader;
mod writer;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

pub use budget::{Purpose, Reservation, SpoolLimits, Waiting};
pub use dir::SpoolDir;
pub use reader::SegmentReader;
pub use writer::SegmentWriter;

use crate::StoreError;
use crate::home::sync_dir;

/// First bytes of every segment: kind and version.
pub(crate) const MAGIC: [u8; 8] = *b"HWSEG\0\0\x01";

/// Length and checksum in front of each record.
pub(crate) const FRAME_BYTES: u64 = 8;

/// In the place of a record's length: the trailer follows.
pub(crate) const TRAILER_MARK: u32 = u32::MAX;

/// Mark, checksum, number of records.
pub(crate) const TRAILER_BYTES: u64 = 16;

/// The longest record: a row's old and new value at Postgres's limit of 1 GB each do not fit into
/// memory twice anyway, so a longer one is refused when it is written.
pub const MAX_RECORD_BYTES: usize = 1 << 30;

/// A finished segment. Cloning shares it; the file is removed with the last clone and reader unless
/// it was persisted.
#[derive(Clone, Debug)]
pub struct Segment(Arc<SegmentInner>);

#[derive(Debug)]
struct SegmentInner {
    dir: SpoolDir,
    file: File,
    /// Bytes of the file, with header and trailer.
    len: u64,
    records: u64,
    place: Mutex<Place>,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// Whether the file outlives its handles.
    persisted: bool,
}

impl Segment {
    /// Reads from the first record on.
    pub fn reader(&self) -> SegmentReader {
        self.reader_from(MAGIC.len() as u64)
    }

    /// Reads from a record's offset on, as [`SegmentWriter::append`] or [`SegmentReader::offset`]
    /// gave it. Another offset ends in `Damaged`.
    pub fn reader_from(&self, offset: u64) -> SegmentReader {
        SegmentReader::new(self.clone(), offset)
    }

    /// How many records it has.
    pub fn records(&self) -> u64 {
        self.0.records
    }

    /// Bytes on disk, with frames.
    pub fn len_bytes(&self) -> u64 {
        self.0.len
    }

    /// Makes the segment durable under `name`: it survives handles, process and machine until
    /// [`Segment::discard`], and [`SpoolDir::persisted`] finds it again.
    ///
    /// - Takes: a name of ASCII letters, digits, `-` and `_`, that no other segment has.
    /// - Errors: `Name`; `Full`, `Io`: it is then not persisted.
    pub fn persist(&self, name: &str) -> Result<(), StoreError> {
        let doing = "persist segment";
        dir::check_name(name)?;
        let mut place = self.0.place.lock();
        let path = self.0.dir.persisted_path(name);
        if place.persisted || path.try_exists().map_err(StoreError::io(doing))? {
            return Err(StoreError::Name { name: name.to_owned() });
        }
        self.0.file.sync_all().map_err(StoreError::io(doing))?;
        std::fs::rename(&place.path, &path).map_err(StoreError::io(doing))?;
        *place = Place { path, persisted: true };
        sync_dir(self.0.dir.path()).map_err(StoreError::io(doing))
    }

    /// Removes a persisted segment's name durably; the bytes go with the last handle. A segment
    /// that was not persisted goes by itself.
    pub fn discard(self) -> Result<(), StoreError> {
        let doing = "discard segment";
        let mut place = self.0.place.lock();
        if !place.persisted {
            return Ok(());
        }
        let path = self.0.dir.temporary_path("discarded");
        std::fs::rename(&place.path, &path).map_err(StoreError::io(doing))?;
        *place = Place { path, persisted: false };
        sync_dir(self.0.dir.path()).map_err(StoreError::io(doing))
    }
}

impl Drop for SegmentInner {
    fn drop(&mut self) {
        let place = self.place.get_mut();
        if !place.persisted {
            self.dir.remove(&place.path, self.len);
        }
    }
}
