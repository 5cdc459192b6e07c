//! A table's `COPY … TO STDOUT (FORMAT binary)`, drained by a client that does nothing with it.

use std::ops::Range;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use tokio_postgres::Client;

use crate::Outcome;

const COPY: &str = "COPY items TO STDOUT (FORMAT binary)";

/// Signature, flags and the length of an empty extension.
const HEADER: usize = 19;

/// Drains the copy.
///
/// - Returns: its bytes and the time from the statement to the end.
pub async fn drain(sql: &Client) -> Outcome<(u64, Duration)> {
    let began = Instant::now();
    let mut stream = std::pin::pin!(sql.copy_out(COPY).await?);
    let mut bytes = 0;
    while let Some(chunk) = stream.try_next().await? {
        bytes += chunk.len() as u64;
    }
    Ok((bytes, began.elapsed()))
}

/// The copied rows in one piece, ascending by the first column.
pub struct Tuples {
    bytes: Vec<u8>,
    /// The first column and the whole tuple.
    places: Vec<(Range<usize>, Range<usize>)>,
}

impl Tuples {
    /// Reads the copy into memory.
    pub async fn read(sql: &Client) -> Outcome<Tuples> {
        let mut stream = std::pin::pin!(sql.copy_out(COPY).await?);
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.try_next().await? {
            bytes.extend_from_slice(&chunk);
        }
        let mut places = places(&bytes).ok_or("the copy is not in its binary format")?;
        places.sort_unstable_by(|(a, _), (b, _)| bytes[a.clone()].cmp(&bytes[b.clone()]));
        Ok(Tuples { bytes, places })
    }

    /// Key and row, ascending by key.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let bytes = &self.bytes;
        self.places.iter().map(|(key, row)| (&bytes[key.clone()], &bytes[row.clone()]))
    }
}

/// Source: PostgreSQL manual, COPY, "Binary Format".
fn places(bytes: &[u8]) -> Option<Vec<(Range<usize>, Range<usize>)>> {
    let mut places = Vec::new();
    let mut at = HEADER;
    loop {
        let start = at;
        let columns = i16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?);
        at += 2;
        if columns < 0 {
            return Some(places);
        }
        let mut key = None;
        for _ in 0..columns {
            let length = i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
            at += 4;
            // A NULL has the length -1 and no bytes.
            let length = usize::try_from(length).unwrap_or(0);
            key.get_or_insert(at..at + length);
            at += length;
        }
        places.push((key?, start..at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_of_a_binary_copy_are_told_apart() {
        let mut bytes = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend_from_slice(b"\0\x02\0\0\0\x01b\xff\xff\xff\xff");
        bytes.extend_from_slice(b"\0\x02\0\0\0\x01a\0\0\0\x01x");
        bytes.extend_from_slice(b"\xff\xff");
        assert_eq!(places(&bytes), Some(vec![(25..26, 19..30), (36..37, 30..42)]));
        assert_eq!(places(&bytes[..40]), None);
    }
}
