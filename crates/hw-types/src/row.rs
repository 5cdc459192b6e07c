//! Rows: one buffer per row, columns back to back in canonical form.
//!
//! Layout: for each column a varint tag, then bytes. Tag 0 is NULL, tag 1 is *absent* (an
//! unchanged TOAST value: the log did not carry it; never stored), tag n+2 is a value of n
//! bytes. A buffer costs one allocation however many columns it has, and is what the store's
//! `rows` keyspace holds.

use crate::varint;
use smallvec::SmallVec;
use std::fmt;

/// One column's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cell<'a> {
    /// SQL NULL.
    Null,
    /// An unchanged TOAST value: unknown here, not NULL.
    Absent,
    /// Canonical bytes, see [`crate::pgtype`].
    Value(&'a [u8]),
}

impl<'a> Cell<'a> {
    /// The bytes, unless NULL or absent.
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Cell::Value(bytes) => Some(bytes),
            Cell::Null | Cell::Absent => None,
        }
    }
}

/// An owned row.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Row(Box<[u8]>);

impl Row {
    /// Takes a buffer that is already in the layout of this module.
    pub fn from_encoded(bytes: impl Into<Box<[u8]>>) -> Row {
        Row(bytes.into())
    }

    /// The buffer.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A view with the place of every column found once.
    pub fn view(&self) -> RowRef<'_> {
        RowRef::new(&self.0)
    }
}

impl fmt::Debug for Row {
    /// Prints the shape only: values of rows never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Row({} columns, {} bytes)", self.view().len(), self.0.len())
    }
}

/// A borrowed row whose columns can be reached by index.
#[derive(Clone)]
pub struct RowRef<'a> {
    bytes: &'a [u8],
    /// (start, end) of each column's bytes; (0, 0) is NULL and (1, 0) is absent.
    places: SmallVec<[(u32, u32); 16]>,
}

impl<'a> RowRef<'a> {
    /// Finds the columns of an encoded row. Bytes behind a damaged tag are ignored, so that a
    /// damaged row reads as one with fewer columns.
    pub fn new(bytes: &'a [u8]) -> RowRef<'a> {
        let mut places = SmallVec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            match varint::take(&mut rest) {
                Some(0) => places.push((0, 0)),
                Some(1) => places.push((1, 0)),
                Some(tag) if (tag - 2) as usize <= rest.len() => {
                    let start = bytes.len() - rest.len();
                    let end = start + (tag - 2) as usize;
                    places.push((start as u32, end as u32));
                    rest = &bytes[end..];
                }
                _ => break,
            }
        }
        RowRef { bytes, places }
    }

    /// The encoded bytes.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether the row has no columns.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A column; [`Cell::Null`] behind the last one.
    pub fn get(&self, index: usize) -> Cell<'a> {
        match self.places.get(index) {
            None | Some((0, 0)) => Cell::Null,
            Some((1, 0)) => Cell::Absent,
            Some(&(start, end)) => Cell::Value(&self.bytes[start as usize..end as usize]),
        }
    }

    /// All columns in order.
    pub fn iter(&self) -> impl Iterator<Item = Cell<'a>> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Whether some column is absent.
    pub fn has_absent(&self) -> bool {
        self.places.contains(&(1, 0))
    }

    /// An owned copy.
    pub fn to_row(&self) -> Row {
        Row::from_encoded(self.bytes)
    }
}

/// Builds a [`Row`] column by column; can be reused.
#[derive(Default)]
pub struct RowBuilder {
    bytes: Vec<u8>,
}

impl RowBuilder {
    /// An empty builder.
    pub fn new() -> RowBuilder {
        RowBuilder::default()
    }

    /// Appends a column.
    pub fn push(&mut self, cell: Cell<'_>) {
        match cell {
            Cell::Null => self.bytes.push(0),
            Cell::Absent => self.bytes.push(1),
            Cell::Value(value) => {
                varint::put(&mut self.bytes, value.len() as u64 + 2);
                self.bytes.extend_from_slice(value);
            }
        }
    }

    /// Copies the row out and empties the builder; the buffer is kept for the next row.
    pub fn finish(&mut self) -> Row {
        let row = Row::from_encoded(self.bytes.as_slice());
        self.bytes.clear();
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_round_trip_with_null_absent_and_empty_apart() {
        let long = vec![7u8; 300];
        let cells =
            [Cell::Null, Cell::Absent, Cell::Value(b""), Cell::Value(b"x"), Cell::Value(&long)];
        let mut builder = RowBuilder::new();
        cells.iter().for_each(|c| builder.push(*c));
        let row = builder.finish();
        let view = row.view();
        assert_eq!(view.iter().collect::<Vec<_>>(), cells);
        assert!(view.has_absent());
        assert_eq!(view.get(99), Cell::Null);
        assert_eq!(builder.finish().view().len(), 0, "the builder is empty after finish");
    }

    #[test]
    fn a_damaged_row_never_panics() {
        for bytes in [&[9u8, 1][..], &[0xff; 12][..], &[2, 2, 0x80][..]] {
            let _ = RowRef::new(bytes).iter().count();
        }
    }
}
