//! The body of a streamed answer: chunks put together, gzip undone, lines told apart.
//!
//! In: bytes of the socket behind the head, cut anywhere. Out: plain text and its whole lines.
//! Small and without I/O, so that the client's own cost stays far below the server's.
//!
//! Sources: RFC 9112 section 7.1 (chunks), RFC 1952 (gzip).

use flate2::{Decompress, FlushDecompress, Status};
use memchr::memmem;

use crate::Outcome;

/// Bytes of a gzip header without optional fields.
const GZIP_HEADER: usize = 10;

/// A body that is being read.
pub struct Body {
    chunk: Chunk,
    /// Characters of the chunk's size so far.
    size: Vec<u8>,
    gzip: Option<Gzip>,
    /// Plain text whose lines have not been taken.
    plain: Vec<u8>,
    /// No end of line is before this place of `plain`.
    searched: usize,
    plain_bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size,
    Data(usize),
    /// The end of line behind the data.
    Ending,
    Last,
}

struct Gzip {
    header: usize,
    inflate: Decompress,
    ended: bool,
}

impl Body {
    /// A chunked body; `gzip` when the head says so.
    pub fn new(gzip: bool) -> Body {
        Body {
            chunk: Chunk::Size,
            size: Vec::new(),
            gzip: gzip.then(|| Gzip { header: 0, inflate: Decompress::new(false), ended: false }),
            plain: Vec::new(),
            searched: 0,
            plain_bytes: 0,
        }
    }

    /// Takes the next bytes of the socket.
    ///
    /// - Errors: bytes that are not chunks, or not gzip.
    pub fn push(&mut self, mut wire: &[u8]) -> Outcome<()> {
        while !wire.is_empty() {
            match self.chunk {
                Chunk::Size => {
                    let end = memchr::memchr(b'\n', wire);
                    let taken = end.map_or(wire.len(), |at| at + 1);
                    self.size.extend_from_slice(&wire[..taken]);
                    wire = &wire[taken..];
                    if end.is_some() {
                        self.chunk = match chunk_size(&self.size)? {
                            0 => Chunk::Last,
                            size => Chunk::Data(size),
                        };
                        self.size.clear();
                    }
                }
                Chunk::Data(left) => {
                    let (data, rest) = wire.split_at(left.min(wire.len()));
                    wire = rest;
                    self.decode(data)?;
                    self.chunk = match left - data.len() {
                        0 => Chunk::Ending,
                        left => Chunk::Data(left),
                    };
                }
                Chunk::Ending => match memchr::memchr(b'\n', wire) {
                    Some(at) => {
                        wire = &wire[at + 1..];
                        self.chunk = Chunk::Size;
                    }
                    None => return Ok(()),
                },
                Chunk::Last => return Ok(()),
            }
        }
        Ok(())
    }

    fn decode(&mut self, mut data: &[u8]) -> Outcome<()> {
        let before = self.plain.len();
        match &mut self.gzip {
            None => self.plain.extend_from_slice(data),
            Some(gzip) => {
                while gzip.header < GZIP_HEADER && !data.is_empty() {
                    // The fourth byte names optional fields, which this server never sends.
                    if gzip.header == 3 && data[0] != 0 {
                        return Err("the gzip header has optional fields".into());
                    }
                    gzip.header += 1;
                    data = &data[1..];
                }
                gzip.undo(data, &mut self.plain)?;
            }
        }
        self.plain_bytes += (self.plain.len() - before) as u64;
        Ok(())
    }

    /// Hands over every whole line, without its end, and forgets them.
    pub fn lines(&mut self, mut take: impl FnMut(&[u8])) {
        let mut start = 0;
        while let Some(at) = memchr::memchr(b'\n', &self.plain[self.searched..]) {
            let end = self.searched + at;
            take(&self.plain[start..end]);
            start = end + 1;
            self.searched = start;
        }
        self.plain.drain(..start);
        self.searched = self.plain.len();
    }

    /// Plain bytes so far.
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }
}

impl Gzip {
    fn undo(&mut self, mut data: &[u8], plain: &mut Vec<u8>) -> Outcome<()> {
        while !self.ended {
            let before = self.inflate.total_in();
            plain.reserve(data.len() * 4 + 1024);
            let status = self.inflate.decompress_vec(data, plain, FlushDecompress::None)?;
            data = &data[(self.inflate.total_in() - before) as usize..];
            self.ended = status == Status::StreamEnd;
            // Room left in the output: there is no more to be had of this input.
            if data.is_empty() && plain.len() < plain.capacity() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn chunk_size(line: &[u8]) -> Outcome<usize> {
    let text = std::str::from_utf8(line)?.trim();
    let digits = text.split(';').next().unwrap_or_default();
    Ok(usize::from_str_radix(digits, 16).map_err(|_| "a chunk without a size")?)
}

/// What kind of line this is (`powersync-protocol.md` 4), by its one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `checkpoint`.
    Checkpoint,
    /// `data`.
    Data,
    /// `checkpoint_complete`.
    Complete,
    /// Any other.
    Other,
}

/// The kind of a line.
pub fn kind(line: &[u8]) -> Kind {
    let key = line.strip_prefix(b"{\"").unwrap_or_default();
    match key {
        _ if key.starts_with(b"data\"") => Kind::Data,
        _ if key.starts_with(b"checkpoint\"") => Kind::Checkpoint,
        _ if key.starts_with(b"checkpoint_complete\"") => Kind::Complete,
        _ => Kind::Other,
    }
}

/// Operations in a `data` line. Within the text of a row the quotes of such a key are escaped.
pub fn operations(line: &[u8], finder: &memmem::Finder<'_>) -> u64 {
    finder.find_iter(line).count() as u64
}

/// Finds what [`operations`] counts.
pub fn operation_finder() -> memmem::Finder<'static> {
    memmem::Finder::new(b"\"op_id\":\"")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn chunked(data: &[u8], length: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for part in data.chunks(length) {
            out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
            out.extend_from_slice(part);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n\r\n");
        out
    }

    fn lines(wire: &[u8], gzip: bool, cut: usize) -> Vec<String> {
        let mut body = Body::new(gzip);
        let mut found = Vec::new();
        for part in wire.chunks(cut) {
            body.push(part).unwrap();
            body.lines(|line| found.push(String::from_utf8(line.to_vec()).unwrap()));
        }
        found
    }

    #[test]
    fn lines_are_found_however_the_body_is_cut() {
        let text = b"{\"a\":1}\n{\"data\":{}}\n\n{\"checkpoint\":2}\n";
        let expected = ["{\"a\":1}", "{\"data\":{}}", "", "{\"checkpoint\":2}"];
        for cut in 1..50 {
            assert_eq!(lines(&chunked(text, 7), false, cut), expected);
        }
    }

    #[test]
    fn gzip_is_undone_however_the_body_is_cut() {
        let text: String = (0..2000).map(|n| format!("line {n}\n")).collect();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        let wire = chunked(&encoder.finish().unwrap(), 100);
        for cut in [1, 2, 9, 1000, 100_000] {
            let found = lines(&wire, true, cut);
            assert_eq!((found.len(), found[1999].as_str()), (2000, "line 1999"));
        }
    }

    #[test]
    fn lines_are_told_apart_and_operations_counted() {
        assert_eq!(kind(b"{\"checkpoint\":{}}"), Kind::Checkpoint);
        assert_eq!(kind(b"{\"checkpoint_complete\":{}}"), Kind::Complete);
        assert_eq!(kind(b"{\"checkpoint_diff\":{}}"), Kind::Other);
        let line = br#"{"data":{"data":[{"op_id":"1","data":"{\"op_id\":\"9\"}"},{"op_id":"2"}]}}"#;
        assert_eq!(kind(line), Kind::Data);
        assert_eq!(operations(line, &operation_finder()), 2);
    }
}
