//! Views into canonical containers: arrays, ranges, multiranges, composites.
//!
//! The canonical containers are those of `array_send`, `range_send`, `multirange_send` and
//! `record_send`, with what depends on the database or on history made constant: element and
//! field oids are 0, and an array's flag says whether a NULL is in it now. Elements are canonical
//! themselves. Nothing is copied; damaged bytes give [`DamagedValue`].

use super::DamagedValue;
use smallvec::SmallVec;

/// Range flag: the range has no elements.
pub const RANGE_EMPTY: u8 = 0x01;
/// Range flag: the lower bound belongs to the range.
pub const RANGE_LOWER_INCLUSIVE: u8 = 0x02;
/// Range flag: the upper bound belongs to the range.
pub const RANGE_UPPER_INCLUSIVE: u8 = 0x04;
/// Range flag: there is no lower bound.
pub const RANGE_LOWER_INFINITE: u8 = 0x08;
/// Range flag: there is no upper bound.
pub const RANGE_UPPER_INFINITE: u8 = 0x10;

/// The most dimensions that Postgres allows.
pub const MAX_DIMENSIONS: usize = 6;

/// One dimension of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimension {
    /// Number of elements.
    pub len: usize,
    /// Index of the first, mostly 1.
    pub lower_bound: i32,
}

/// Reads a container's parts one after another.
#[derive(Clone, Debug)]
struct Parts<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Parts<'a> {
    fn int(&mut self) -> Result<i32, DamagedValue> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(DamagedValue::of(self.what))?;
        self.rest = rest;
        Ok(i32::from_be_bytes(*bytes))
    }

    /// A length and that many bytes; length -1 is NULL.
    fn value(&mut self) -> Result<Option<&'a [u8]>, DamagedValue> {
        let damaged = DamagedValue::of(self.what);
        match self.int()? {
            -1 => Ok(None),
            len => {
                let len = usize::try_from(len).map_err(|_| damaged)?;
                let (value, rest) = self.rest.split_at_checked(len).ok_or(damaged)?;
                self.rest = rest;
                Ok(Some(value))
            }
        }
    }

    fn end(&self) -> Result<(), DamagedValue> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err(DamagedValue::of(self.what)),
        }
    }
}

/// An array.
#[derive(Clone, Debug)]
pub struct Array<'a> {
    dimensions: SmallVec<[Dimension; 2]>,
    parts: Parts<'a>,
    count: usize,
}

impl<'a> Array<'a> {
    /// Reads the header; elements are checked while they are read.
    pub fn read(bytes: &'a [u8]) -> Result<Array<'a>, DamagedValue> {
        let damaged = DamagedValue::of("array");
        let mut parts = Parts { rest: bytes, what: "array" };
        let count = usize::try_from(parts.int()?).map_err(|_| damaged)?;
        let (_flags, _element) = (parts.int()?, parts.int()?);
        if count > MAX_DIMENSIONS {
            return Err(damaged);
        }
        let mut dimensions = SmallVec::new();
        let mut elements = usize::from(count > 0);
        for _ in 0..count {
            let len = usize::try_from(parts.int()?).map_err(|_| damaged)?;
            let lower_bound = parts.int()?;
            elements = elements.checked_mul(len).ok_or(damaged)?;
            dimensions.push(Dimension { len, lower_bound });
        }
        // Each element takes four bytes at least: a damaged header cannot promise more.
        if elements > parts.rest.len() / 4 {
            return Err(damaged);
        }
        Ok(Array { dimensions, parts, count: elements })
    }

    /// The dimensions, outermost first; none for an empty array.
    pub fn dimensions(&self) -> &[Dimension] {
        &self.dimensions
    }

    /// Number of elements over all dimensions.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The elements in row-major order; `None` is NULL. Ends behind the first error.
    pub fn elements(&self) -> Elements<'a> {
        Elements { parts: self.parts.clone(), left: self.count, oids: false, done: false }
    }
}

/// The elements of an array or the fields of a composite.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    parts: Parts<'a>,
    left: usize,
    /// Whether an oid precedes each value (composites).
    oids: bool,
    done: bool,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Option<&'a [u8]>, DamagedValue>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if self.left == 0 {
            self.done = true;
            return self.parts.end().err().map(Err);
        }
        self.left -= 1;
        let oid = if self.oids { self.parts.int().map(drop) } else { Ok(()) };
        let value = oid.and_then(|()| self.parts.value());
        self.done = value.is_err();
        Some(value)
    }
}

/// A range. An infinite bound is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<'a> {
    /// Whether the range has no elements; then there are no bounds.
    pub empty: bool,
    /// The lower bound, canonical.
    pub lower: Option<&'a [u8]>,
    /// The upper bound, canonical.
    pub upper: Option<&'a [u8]>,
    /// Whether the lower bound belongs to the range.
    pub lower_inclusive: bool,
    /// Whether the upper bound belongs to the range.
    pub upper_inclusive: bool,
}

impl<'a> Range<'a> {
    /// Reads a range.
    pub fn read(bytes: &'a [u8]) -> Result<Range<'a>, DamagedValue> {
        let damaged = DamagedValue::of("range");
        let (&flags, rest) = bytes.split_first().ok_or(damaged)?;
        let mut parts = Parts { rest, what: "range" };
        let empty = flags & RANGE_EMPTY != 0;
        let mut bound = |infinite: u8| match empty || flags & infinite != 0 {
            true => Ok(None),
            false => parts.value()?.map(Some).ok_or(damaged),
        };
        let lower = bound(RANGE_LOWER_INFINITE)?;
        let upper = bound(RANGE_UPPER_INFINITE)?;
        parts.end()?;
        Ok(Range {
            empty,
            lower,
            upper,
            lower_inclusive: flags & RANGE_LOWER_INCLUSIVE != 0,
            upper_inclusive: flags & RANGE_UPPER_INCLUSIVE != 0,
        })
    }
}

/// The ranges of a multirange, each for [`Range::read`].
///
/// - Errors: the count is damaged; damage behind it comes from the iterator.
pub fn multirange(
    bytes: &[u8],
) -> Result<impl ExactSizeIterator<Item = Result<&[u8], DamagedValue>> + '_, DamagedValue> {
    let damaged = DamagedValue::of("multirange");
    let mut parts = Parts { rest: bytes, what: "multirange" };
    let count = usize::try_from(parts.int()?).map_err(|_| damaged)?;
    if count > parts.rest.len() / 4 {
        return Err(damaged);
    }
    Ok((0..count).map(move |index| {
        let range = parts.value()?.ok_or(damaged)?;
        if index + 1 == count {
            parts.end()?;
        }
        Ok(range)
    }))
}

/// The fields of a composite in order; `None` is NULL.
///
/// - Errors: the count is damaged; damage behind it comes from the iterator.
pub fn composite(bytes: &[u8]) -> Result<Elements<'_>, DamagedValue> {
    let damaged = DamagedValue::of("composite");
    let mut parts = Parts { rest: bytes, what: "composite" };
    let left = usize::try_from(parts.int()?).map_err(|_| damaged)?;
    if left > parts.rest.len() / 8 {
        return Err(damaged);
    }
    Ok(Elements { parts, left, oids: true, done: false })
}
