//! Reading a segment: from any record on, through a buffer, several readers at once.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::writer::checksum;
use super::{
    FRAME_BYTES, MAGIC, MAX_RECORD_BYTES, Place, Segment, SegmentInner, SpoolDir, TRAILER_BYTES,
    TRAILER_MARK,
};
use crate::StoreError;

/// Bytes fetched at a time unless the caller says otherwise.
const BUFFER_BYTES: usize = 64 << 10;

/// Reads the records of a segment in order. Keeps the segment alive.
#[derive(Debug)]
pub struct SegmentReader {
    segment: Segment,
    /// The window of the file that is in memory.
    buffer: Vec<u8>,
    /// Where the window begins in the file.
    base: u64,
    /// Where the next frame begins within the window.
    next: usize,
    window: usize,
    ended: bool,
}

impl SegmentReader {
    pub(super) fn new(segment: Segment, offset: u64) -> SegmentReader {
        SegmentReader {
            segment,
            buffer: Vec::new(),
            base: offset,
            next: 0,
            window: BUFFER_BYTES,
            ended: false,
        }
    }

    /// The same, fetching `bytes` at a time.
    pub(crate) fn with_window(mut self, bytes: usize) -> SegmentReader {
        self.window = bytes.max(64);
        self
    }

    /// The offset of the next record: where a cursor goes on after a restart.
    pub fn offset(&self) -> u64 {
        self.base + self.next as u64
    }

    /// The next record, valid until the next call; `None` behind the last one.
    ///
    /// - Errors: `Damaged` when the file was cut or changed; then the reader has ended.
    pub fn next_record(&mut self) -> Result<Option<&[u8]>, StoreError> {
        match self.advance() {
            Ok(Some((start, end))) => Ok(Some(&self.buffer[start..end])),
            Ok(None) => Ok(None),
            Err(error) => {
                self.ended = true;
                Err(error)
            }
        }
    }

    /// Moves behind the next record and says where it lies in the window.
    fn advance(&mut self) -> Result<Option<(usize, usize)>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        self.fetch(FRAME_BYTES as usize)?;
        let length = self.u32_at(self.next);
        let expected = self.u32_at(self.next + 4);
        if length == TRAILER_MARK {
            self.ended = true;
            return Ok(None);
        }
        let len = length as usize;
        if len > MAX_RECORD_BYTES {
            return Err(self.damaged("a record's length is impossible"));
        }
        self.fetch(FRAME_BYTES as usize + len)?;
        let start = self.next + FRAME_BYTES as usize;
        let record = &self.buffer[start..start + len];
        if checksum(&length.to_le_bytes(), &[record]) != expected {
            return Err(self.damaged("a record's checksum is wrong"));
        }
        self.next = start + len;
        Ok(Some((start, start + len)))
    }

    /// Makes the next `len` bytes lie in the window.
    fn fetch(&mut self, len: usize) -> Result<(), StoreError> {
        if self.buffer.len() - self.next >= len {
            return Ok(());
        }
        self.base += self.next as u64;
        self.buffer.drain(..self.next);
        self.next = 0;
        let left = self.segment.len_bytes().saturating_sub(self.base);
        if left < len as u64 {
            return Err(self.damaged("it ends within a record"));
        }
        let have = self.buffer.len();
        let want = (len.max(self.window) as u64).min(left) as usize;
        self.buffer.resize(want, 0);
        // One long record must not keep its memory for the rest of the segment.
        self.buffer.shrink_to(2 * self.window);
        let at = self.base + have as u64;
        read(&self.segment.0.file, &mut self.buffer[have..], at)
    }

    fn u32_at(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.buffer[at..at + 4]);
        u32::from_le_bytes(bytes)
    }

    fn damaged(&self, what: &str) -> StoreError {
        StoreError::damaged(format!("segment at offset {}: {what}", self.offset()))
    }
}

/// Owned records, for callers that keep them.
impl Iterator for SegmentReader {
    type Item = Result<Vec<u8>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().map(|record| record.map(<[u8]>::to_vec)).transpose()
    }
}

impl Segment {
    /// Opens a persisted file, checking what can be checked without reading the records.
    pub(super) fn open_persisted(
        dir: &SpoolDir,
        path: PathBuf,
    ) -> Result<Option<Segment>, StoreError> {
        let doing = "open segment";
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io(doing)(error)),
        };
        let len = file.metadata().map_err(StoreError::io(doing))?.len();
        let not_finished = || StoreError::damaged("a persisted segment is not a finished one");
        if len < MAGIC.len() as u64 + TRAILER_BYTES {
            return Err(not_finished());
        }
        let mut magic = MAGIC;
        read(&file, &mut magic, 0)?;
        let mut trailer = [0; TRAILER_BYTES as usize];
        read(&file, &mut trailer, len - TRAILER_BYTES)?;
        let (head, records) = trailer.split_at(FRAME_BYTES as usize);
        let (mark, sum) = head.split_at(4);
        if magic != MAGIC
            || mark != TRAILER_MARK.to_le_bytes()
            || sum != checksum(mark, &[records]).to_le_bytes()
        {
            return Err(not_finished());
        }
        let mut count = [0; 8];
        count.copy_from_slice(records);
        let records = u64::from_le_bytes(count);
        let place = Mutex::new(Place { path, persisted: true });
        Ok(Some(Segment(Arc::new(SegmentInner { dir: dir.clone(), file, len, records, place }))))
    }
}

fn read(file: &File, buffer: &mut [u8], at: u64) -> Result<(), StoreError> {
    file.read_exact_at(buffer, at).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => StoreError::damaged("a segment was cut short"),
        _ => StoreError::io("read segment")(error),
    })
}
