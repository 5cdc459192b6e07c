//! Writing a segment: records behind each other through one buffer.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    FRAME_BYTES, MAGIC, MAX_RECORD_BYTES, Place, Reservation, Segment, SegmentInner, SpoolDir,
    TRAILER_BYTES, TRAILER_MARK, dir,
};
use crate::StoreError;
use crate::home::create_private_file;

/// Bytes collected before they go to the file. Open transactions have a writer each, so it is small.
const BUFFER_BYTES: usize = 32 << 10;

/// A segment that is being written. Dropping it removes the file.
#[derive(Debug)]
pub struct SegmentWriter {
    dir: SpoolDir,
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    /// Bytes in the file, without the buffer.
    written: u64,
    /// Bytes taken out of the budget: header, records and the trailer to come.
    reserved: u64,
    /// Room that was reserved for this segment and is not used yet.
    ahead: Option<Reservation>,
    records: u64,
    /// A failed write leaves the file's end unknown, so nothing may follow it.
    broken: bool,
    /// Whether the file now belongs to a [`Segment`].
    finished: bool,
}

impl SegmentWriter {
    /// Begins a segment. `name` helps a person who looks into the directory; it need not be unique.
    ///
    /// - Takes: a name of ASCII letters, digits, `-` and `_`.
    /// - Errors: `Name`, `SpoolFull`, `Full`, `Io`.
    pub fn create(dir: &SpoolDir, name: &str) -> Result<SegmentWriter, StoreError> {
        dir::check_name(name)?;
        let path = dir.temporary_path(name);
        let overhead = MAGIC.len() as u64 + TRAILER_BYTES;
        dir.budget().take(overhead, 0)?;
        let file = create_private_file(&path);
        let file = file.map_err(StoreError::io("create segment")).inspect_err(|_| {
            dir.budget().release(overhead);
        })?;
        Ok(SegmentWriter {
            dir: dir.clone(),
            file,
            path,
            buffer: MAGIC.to_vec(),
            written: 0,
            reserved: overhead,
            ahead: None,
            records: 0,
            broken: false,
            finished: false,
        })
    }

    /// Uses room that was reserved for the same purpose before it takes more. What is left of it
    /// comes back when the segment is finished or dropped.
    pub fn within(mut self, reservation: Reservation) -> SegmentWriter {
        self.ahead = Some(reservation).filter(|ahead| ahead.is_of(self.dir.budget()));
        self
    }

    /// Adds a record.
    ///
    /// - Returns: its offset, for [`Segment::reader_from`] and [`SegmentWriter::truncate`].
    /// - Errors: `SpoolFull` and `RecordLength` change nothing and can be tried again; behind `Full`
    ///   and `Io` the segment cannot be continued.
    pub fn append(&mut self, record: &[u8]) -> Result<u64, StoreError> {
        self.append_parts(&[record])
    }

    /// Adds a record that is given in parts, without joining them first.
    pub fn append_parts(&mut self, parts: &[&[u8]]) -> Result<u64, StoreError> {
        if self.broken {
            return Err(StoreError::Poisoned);
        }
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > MAX_RECORD_BYTES {
            return Err(StoreError::RecordLength { len, max: MAX_RECORD_BYTES });
        }
        self.take(FRAME_BYTES + len as u64)?;
        let offset = self.end();
        let length = (len as u32).to_le_bytes();
        self.buffer.extend_from_slice(&length);
        self.buffer.extend_from_slice(&checksum(&length, parts).to_le_bytes());
        for part in parts {
            self.buffer.extend_from_slice(part);
        }
        self.records += 1;
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(offset)
    }

    /// Bytes so far, with header and frames: the offset of the next record.
    pub fn bytes(&self) -> u64 {
        self.end()
    }

    /// Records so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Cuts the segment back to `offset`, which leaves `records` records: how an aborted
    /// sub-transaction's changes are taken out. Both as noted before the cut part was appended.
    pub fn truncate(&mut self, offset: u64, records: u64) -> Result<(), StoreError> {
        let cut = self.end().checked_sub(offset).filter(|_| offset >= MAGIC.len() as u64);
        let Some(cut) = cut else {
            return Err(StoreError::damaged("segment truncated outside of its records"));
        };
        self.flush()?;
        let result =
            self.file.set_len(offset).and_then(|()| self.file.seek(SeekFrom::Start(offset)));
        result.map_err(StoreError::io("truncate segment")).inspect_err(|_| self.broken = true)?;
        self.written = offset;
        self.records = records;
        self.dir.budget().release(cut);
        self.reserved -= cut;
        Ok(())
    }

    /// Makes everything appended so far durable, though not the segment's name: see
    /// [`Segment::persist`].
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        self.file.sync_data().map_err(StoreError::io("sync segment")).inspect_err(|_| {
            self.broken = true;
        })
    }

    /// Ends the segment and makes it readable.
    pub fn finish(mut self) -> Result<Segment, StoreError> {
        let mark = TRAILER_MARK.to_le_bytes();
        let records = self.records.to_le_bytes();
        self.buffer.extend_from_slice(&mark);
        self.buffer.extend_from_slice(&checksum(&mark, &[&records]).to_le_bytes());
        self.buffer.extend_from_slice(&records);
        self.flush()?;
        let file = self.file.try_clone().map_err(StoreError::io("finish segment"))?;
        self.finished = true;
        Ok(Segment(Arc::new(SegmentInner {
            dir: self.dir.clone(),
            file,
            len: self.written,
            records: self.records,
            place: Mutex::new(Place { path: std::mem::take(&mut self.path), persisted: false }),
        })))
    }

    /// Takes room for `bytes` more, or changes nothing.
    fn take(&mut self, bytes: u64) -> Result<(), StoreError> {
        let ahead = self.ahead.as_ref().map_or(0, Reservation::bytes);
        if bytes > ahead {
            self.dir.budget().take(bytes - ahead, self.reserved + ahead)?;
        }
        if let Some(ahead) = &mut self.ahead {
            ahead.draw(bytes);
        }
        self.reserved += bytes;
        Ok(())
    }

    fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError::Poisoned);
        }
        if let Err(error) = self.file.write_all(&self.buffer) {
            self.broken = true;
            return Err(StoreError::io("write segment")(error));
        }
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        // One long record must not keep its memory for the rest of the segment.
        self.buffer.shrink_to(2 * BUFFER_BYTES);
        Ok(())
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        if !self.finished {
            self.dir.remove(&self.path, self.reserved);
        }
    }
}

/// Covers length and record, so that a zeroed block is no sequence of valid empty records.
pub(super) fn checksum(head: &[u8], parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}
