//! One gzip member per response, made of blocks that many responses share.
//!
//! A deflate stream is a sequence of blocks, and a block that was compressed without history is
//! valid behind any other. So a data line is compressed once, flushed to a byte boundary, and the
//! same bytes go to every client; a client's own short lines go out as *stored* blocks, or through
//! a fresh deflater when they are long. What a client keeps between lines is a checksum and a
//! length: eight bytes, no window, no deflater (`design/engine.md` 15).
//!
//! Invariant: header, blocks in the order of [`Member`]'s calls, and [`Member::finish`] form one
//! member by RFC 1952, and after each call the client can decode all lines given so far.

use std::cell::RefCell;

use flate2::{Compress, Compression, FlushCompress, Status};

/// Shorter lines are stored: a fresh deflater costs 70 to 130 µs whatever the length (measured),
/// which a few hundred saved bytes are not worth.
pub const STORED_BELOW: usize = 2048;
/// zlib-rs, data lines of 300 bytes an operation: level 1 has 142 MB/s and leaves 34 %, level 2
/// has 91 MB/s and leaves 25 %, level 3 has 53 MB/s and leaves 24 % (measured).
const LEVEL: Compression = Compression::new(2);
/// Most a stored block can hold (RFC 1951, 3.2.4).
const STORED_BLOCK: usize = 0xffff;
/// From this size on combining two checksums is cheaper than reading the bytes again.
const COMBINE_FROM: usize = 16 * 1024;

thread_local! {
    /// Reset before each use, so it carries no history from one caller to the next. One per
    /// thread, because it is 300 KB and only ever used between two awaits.
    static DEFLATER: RefCell<Compress> = RefCell::new(Compress::new(LEVEL, false));
}

/// Bytes compressed once, to be sent to many.
#[derive(Clone, Debug)]
pub struct Block {
    /// Raw deflate, ending at a byte boundary, without a final bit and without history.
    pub deflated: Vec<u8>,
    /// CRC-32 of the plain bytes.
    pub crc: u32,
}

/// Compresses `plain` into blocks that can stand behind any others.
pub fn block(plain: &[u8]) -> Block {
    let mut deflated = Vec::with_capacity(plain.len() / 4 + 64);
    deflate(plain, &mut deflated);
    Block { deflated, crc: crc32fast::hash(plain) }
}

/// The running state of a response's one member.
#[derive(Clone, Copy, Debug, Default)]
pub struct Member {
    crc: u32,
    /// Plain bytes so far, modulo 2^32 as the trailer wants it.
    length: u32,
}

impl Member {
    /// Starts a member by appending its header: deflate, no name, no time, unknown system.
    pub fn start(out: &mut Vec<u8>) -> Member {
        out.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
        Member::default()
    }

    /// Appends a client's own bytes.
    pub fn own(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        if plain.is_empty() {
            return;
        }
        let mut crc = crc32fast::Hasher::new_with_initial(self.crc);
        crc.update(plain);
        self.crc = crc.finalize();
        self.length = self.length.wrapping_add(plain.len() as u32);
        if plain.len() >= STORED_BELOW {
            deflate(plain, out);
            return;
        }
        for part in plain.chunks(STORED_BLOCK) {
            let length = part.len() as u16;
            out.push(0);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&(!length).to_le_bytes());
            out.extend_from_slice(part);
        }
    }

    /// Counts bytes whose compressed form the caller sends from a shared [`Block`]. The caller
    /// must have sent everything appended so far before it.
    pub fn shared(&mut self, plain: &[u8], crc: u32) {
        let mut running = crc32fast::Hasher::new_with_initial(self.crc);
        if plain.len() < COMBINE_FROM {
            running.update(plain);
        } else {
            running.combine(&crc32fast::Hasher::new_with_initial_len(crc, plain.len() as u64));
        }
        self.crc = running.finalize();
        self.length = self.length.wrapping_add(plain.len() as u32);
    }

    /// Ends the member: an empty final block, checksum and length.
    pub fn finish(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
        out.extend_from_slice(&self.crc.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
    }
}

/// Appends `plain` as raw deflate, sync-flushed.
fn deflate(plain: &[u8], out: &mut Vec<u8>) {
    DEFLATER.with_borrow_mut(|deflater| {
        deflater.reset();
        loop {
            let consumed = deflater.total_in() as usize;
            // A flush is complete when the deflater leaves room in the output.
            out.reserve((plain.len() - consumed) / 4 + 1024);
            let status = deflater
                .compress_vec(&plain[consumed..], out, FlushCompress::Sync)
                .expect("invariant: a raw deflater without a dictionary cannot fail");
            let all_in = deflater.total_in() as usize == plain.len();
            if status == Status::BufError || (all_in && out.len() < out.capacity()) {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn text(length: usize, seed: u64) -> Vec<u8> {
        let mut x = seed | 1;
        std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            b"{\"op_id\":\"PUT\",data}0123456789abcdef"[(x % 36) as usize]
        })
        .take(length)
        .collect()
    }

    #[test]
    fn own_and_shared_blocks_make_one_member() {
        let (mut plain, mut coded) = (Vec::new(), Vec::new());
        let mut member = Member::start(&mut coded);
        for (i, length) in
            [0, 1, 2047, 2048, 100_000, 15_999, 16_000, 65_536, 3].into_iter().enumerate()
        {
            let own = text(length, i as u64);
            member.own(&own, &mut coded);
            plain.extend_from_slice(&own);

            let line = text(length * 2 + 10, 99 + i as u64);
            let shared = block(&line);
            coded.extend_from_slice(&shared.deflated);
            member.shared(&line, shared.crc);
            plain.extend_from_slice(&line);
        }
        member.finish(&mut coded);
        let mut decoded = Vec::new();
        flate2::read::GzDecoder::new(&coded[..]).read_to_end(&mut decoded).unwrap();
        assert_eq!(decoded, plain);
    }

    #[test]
    fn every_line_can_be_decoded_as_soon_as_it_was_given() {
        let mut coded = Vec::new();
        let mut member = Member::start(&mut coded);
        let mut decoder = flate2::Decompress::new(false);
        let mut seen = 10;
        for length in [5, 5000, 70_000, 64, 300_000] {
            let line = text(length, 7);
            if length % 2 == 0 {
                member.own(&line, &mut coded);
            } else {
                let shared = block(&line);
                coded.extend_from_slice(&shared.deflated);
                member.shared(&line, shared.crc);
            }
            let mut out = Vec::with_capacity(length + 1);
            decoder
                .decompress_vec(&coded[seen..], &mut out, flate2::FlushDecompress::Sync)
                .unwrap();
            seen = coded.len();
            assert_eq!(out, line);
        }
    }

    #[test]
    fn incompressible_bytes_of_every_length_are_flushed_whole() {
        for length in (1..3000).chain([40_000, 65_535, 65_536, 131_072]) {
            let mut x = length as u64;
            let line: Vec<u8> = (0..length)
                .map(|_| {
                    x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (x >> 56) as u8
                })
                .collect();
            let mut out = Vec::with_capacity(length + 1);
            flate2::Decompress::new(false)
                .decompress_vec(&block(&line).deflated, &mut out, flate2::FlushDecompress::Sync)
                .unwrap();
            assert_eq!(out, line, "{length}");
        }
    }
}
