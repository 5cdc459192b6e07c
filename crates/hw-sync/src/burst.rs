//! Collects the lines of one burst into chunks for the socket, plain or as gzip.
//!
//! In: a client's own short lines and shared pages, in order. Out: chunks for the
//! [`Outbox`]. Short things are copied together, so that a checkpoint with a few operations is one
//! write to the socket; large pages go out as shared bytes. Between bursts nothing is kept but the
//! gzip member's checksum and length.

use std::sync::Arc;

use bytes::Bytes;
use hw_http::gzip::{Member, STORED_BELOW};
use hw_http::outbox::Outbox;

use crate::page::Page;
use crate::wire::negotiate::ContentCoding;

/// Plain pages below this are copied instead of being a chunk of their own.
const COPY_BELOW: usize = 4096;

/// One response's encoder.
#[derive(Debug)]
pub struct Burst {
    compressed: bool,
    /// Present in a gzip response until its end.
    member: Option<Member>,
    /// Own lines that are not in `coded` yet. Only used with gzip.
    own: Vec<u8>,
    /// Bytes as they will be sent.
    coded: Vec<u8>,
    chunks: Vec<Bytes>,
    pending: usize,
    plain_bytes: u64,
    sent_bytes: u64,
}

impl Burst {
    /// An encoder at the start of a response.
    pub fn new(coding: ContentCoding) -> Burst {
        let mut coded = Vec::new();
        let member = match coding {
            ContentCoding::Identity => None,
            ContentCoding::Gzip => Some(Member::start(&mut coded)),
        };
        Burst {
            compressed: member.is_some(),
            member,
            own: Vec::new(),
            coded,
            chunks: Vec::new(),
            pending: 0,
            plain_bytes: 0,
            sent_bytes: 0,
        }
    }

    /// Appends lines that `write` puts into the buffer.
    pub fn own(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let buffer = if self.member.is_some() { &mut self.own } else { &mut self.coded };
        let before = buffer.len();
        write(buffer);
        let written = buffer.len() - before;
        self.pending += written;
        self.plain_bytes += written as u64;
    }

    /// Appends a shared page.
    pub fn page(&mut self, page: &Arc<Page>) {
        let plain = page.plain();
        self.pending += plain.len();
        self.plain_bytes += plain.len() as u64;
        if self.member.is_none() {
            if plain.len() < COPY_BELOW {
                self.coded.extend_from_slice(plain);
            } else {
                self.chunk(page.plain_bytes());
            }
            return;
        }
        if plain.len() < STORED_BELOW {
            self.own.extend_from_slice(plain);
            return;
        }
        self.code_own();
        let block = page.block();
        if let Some(member) = &mut self.member {
            member.shared(plain, block.crc);
        }
        if block.deflated.len() < COPY_BELOW {
            self.coded.extend_from_slice(&block.deflated);
        } else {
            self.chunk(page.block_bytes());
        }
    }

    /// Whether the response is gzip.
    pub fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// Plain bytes that were appended since the last flush.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Hands everything over.
    pub fn flush(&mut self, outbox: &Outbox) {
        self.code_own();
        self.take_coded();
        self.pending = 0;
        for chunk in std::mem::take(&mut self.chunks) {
            self.sent_bytes += chunk.len() as u64;
            outbox.push(chunk);
        }
    }

    /// Appends what ends the response, and hands everything over.
    pub fn finish(&mut self, outbox: &Outbox) {
        self.code_own();
        if let Some(member) = self.member.take() {
            member.finish(&mut self.coded);
        }
        self.flush(outbox);
    }

    /// (bytes of lines, bytes given to the socket).
    pub fn totals(&self) -> (u64, u64) {
        (self.plain_bytes, self.sent_bytes)
    }

    fn code_own(&mut self) {
        if let Some(member) = &mut self.member {
            member.own(&self.own, &mut self.coded);
            self.own = Vec::new();
        }
    }

    fn chunk(&mut self, bytes: Bytes) {
        self.take_coded();
        self.chunks.push(bytes);
    }

    fn take_coded(&mut self) {
        if !self.coded.is_empty() {
            self.chunks.push(Bytes::from(std::mem::take(&mut self.coded)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use futures_util::StreamExt;
    use hw_http::budget::Budget;
    use hw_http::outbox::outbox;

    use super::*;

    async fn response(coding: ContentCoding) -> (Vec<u8>, Vec<u8>, u64) {
        let (outbox, body) = outbox();
        let mut burst = Burst::new(coding);
        let budget = Budget::new(1 << 20);
        let mut plain = Vec::new();
        for (i, length) in [100, 600, 5000, 100_000, 300].into_iter().enumerate() {
            let line = format!("{{\"checkpoint\":{i}}}\n");
            burst.own(|out| out.extend_from_slice(line.as_bytes()));
            plain.extend_from_slice(line.as_bytes());
            let page = Page::of_text(&format!("{}\n", "line ".repeat(length / 5)), &budget);
            burst.page(&page);
            plain.extend_from_slice(page.plain());
            if i % 2 == 0 {
                burst.flush(&outbox);
                assert_eq!(burst.pending(), 0);
            }
        }
        burst.finish(&outbox);
        outbox.finish();
        let chunks: Vec<Bytes> = body.map(|chunk| chunk.unwrap()).collect().await;
        let totals = burst.totals();
        let sent = chunks.concat();
        assert_eq!(totals, (plain.len() as u64, sent.len() as u64));
        (plain, sent, totals.1)
    }

    #[tokio::test]
    async fn own_lines_and_pages_arrive_in_order_in_both_codings() {
        let (plain, sent, _) = response(ContentCoding::Identity).await;
        assert_eq!(sent, plain);
        let (plain, sent, length) = response(ContentCoding::Gzip).await;
        let mut decoded = Vec::new();
        flate2::read::GzDecoder::new(&sent[..]).read_to_end(&mut decoded).unwrap();
        assert_eq!(decoded, plain);
        assert!(length < plain.len() as u64 / 10);
    }
}
