//! Arrays, ranges, multiranges and composites in text form.
//!
//! Sources: PostgreSQL `arrayfuncs.c` (`array_in`), `rangetypes.c` (`range_parse`),
//! `multirangetypes.c`, `rowtypes.c` (`record_in`). Only what the output functions print is read:
//! no white space between parts.

use super::binary::{counted, put_null};
use super::scalars::append;
use hw_types::PgType;
use hw_types::pgtype::ElementType;
use hw_types::text::DamagedValue;
use hw_types::text::container::{
    MAX_DIMENSIONS, RANGE_EMPTY, RANGE_LOWER_INCLUSIVE, RANGE_LOWER_INFINITE,
    RANGE_UPPER_INCLUSIVE, RANGE_UPPER_INFINITE,
};

/// Takes a container's text from the front.
struct Reader<'a> {
    rest: &'a str,
    damaged: DamagedValue,
    /// The last item, without its quotes and escapes.
    item: String,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, what: &'static str) -> Reader<'a> {
        Reader { rest: text, damaged: DamagedValue::of(what), item: String::new() }
    }

    fn peek(&self) -> Option<u8> {
        self.rest.as_bytes().first().copied()
    }

    fn take(&mut self, character: u8) -> bool {
        let found = self.peek() == Some(character);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn must_take(&mut self, character: u8) -> Result<(), DamagedValue> {
        if self.take(character) { Ok(()) } else { Err(self.damaged) }
    }

    fn end(&self) -> Result<(), DamagedValue> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.damaged) }
    }

    /// Reads one item into `self.item`, up to one of `ends` outside of quotes.
    ///
    /// - Returns: whether quotes were there.
    fn item(&mut self, ends: &[u8]) -> Result<bool, DamagedValue> {
        self.item.clear();
        let (mut quoted, mut inside) = (false, false);
        let bytes = self.rest.as_bytes();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if !inside && ends.contains(&byte) {
                break;
            }
            match byte {
                b'"' if inside && bytes.get(at + 1) == Some(&b'"') => {
                    self.item.push('"');
                    at += 2;
                }
                b'"' => {
                    (quoted, inside) = (true, !inside);
                    at += 1;
                }
                _ => {
                    let start = if byte == b'\\' { at + 1 } else { at };
                    let next = self.rest[start..].chars().next().ok_or(self.damaged)?;
                    self.item.push(next);
                    at = start + next.len_utf8();
                }
            }
        }
        if inside || at == bytes.len() {
            return Err(self.damaged);
        }
        self.rest = &self.rest[at..];
        Ok(quoted)
    }

    /// Appends the last item as a value with its length in front.
    fn append_item(&self, ty: &PgType, out: &mut Vec<u8>) -> Result<(), DamagedValue> {
        counted(out, |out| append(ty, &self.item, out))
    }

    fn integer(&mut self) -> Result<i32, DamagedValue> {
        let end = self.rest.find([':', ']']).ok_or(self.damaged)?;
        let number = self.rest[..end].parse().map_err(|_| self.damaged)?;
        self.rest = &self.rest[end..];
        Ok(number)
    }
}

pub(super) fn append_array(
    element: &ElementType,
    text: &str,
    out: &mut Vec<u8>,
) -> Result<(), DamagedValue> {
    let mut reader = Reader::new(text, "array");
    let damaged = reader.damaged;
    if text == "{}" {
        out.extend([0; 12]);
        return Ok(());
    }
    let mut lower_bounds = Vec::new();
    if reader.peek() == Some(b'[') {
        while reader.take(b'[') {
            lower_bounds.push(reader.integer()?);
            reader.must_take(b':')?;
            reader.integer()?;
            reader.must_take(b']')?;
        }
        reader.must_take(b'=')?;
    }
    let depth = reader.rest.bytes().take_while(|&byte| byte == b'{').count();
    if depth == 0 || depth > MAX_DIMENSIONS {
        return Err(damaged);
    }
    if !lower_bounds.is_empty() && lower_bounds.len() != depth {
        return Err(damaged);
    }
    let header = out.len();
    out.extend((depth as i32).to_be_bytes());
    out.extend([0; 8]);
    out.resize(out.len() + 8 * depth, 0);

    let mut elements = ArrayElements { element, header, lengths: [None; MAX_DIMENSIONS], depth };
    elements.dimension(&mut reader, 0, out)?;
    reader.end()?;
    for (index, length) in elements.lengths[..depth].iter().enumerate() {
        let place = header + 12 + 8 * index;
        let length = length.and_then(|length| i32::try_from(length).ok()).ok_or(damaged)?;
        let lower_bound = lower_bounds.get(index).copied().unwrap_or(1);
        out[place..place + 4].copy_from_slice(&length.to_be_bytes());
        out[place + 4..place + 8].copy_from_slice(&lower_bound.to_be_bytes());
    }
    Ok(())
}

struct ArrayElements<'t> {
    element: &'t ElementType,
    /// Where the array starts in the output.
    header: usize,
    /// Length of each dimension, once known.
    lengths: [Option<usize>; MAX_DIMENSIONS],
    depth: usize,
}

impl ArrayElements<'_> {
    fn dimension(
        &mut self,
        reader: &mut Reader<'_>,
        level: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), DamagedValue> {
        let delimiter = self.element.delimiter;
        reader.must_take(b'{')?;
        let mut length = 0;
        loop {
            if level + 1 < self.depth {
                self.dimension(reader, level + 1, out)?;
            } else {
                let quoted = reader.item(&[delimiter, b'}'])?;
                if !quoted && reader.item.eq_ignore_ascii_case("null") {
                    out[self.header + 7] = 1;
                    out.extend((-1i32).to_be_bytes());
                } else {
                    reader.append_item(&self.element.pg_type, out)?;
                }
            }
            length += 1;
            if !reader.take(delimiter) {
                break;
            }
        }
        reader.must_take(b'}')?;
        match self.lengths[level].replace(length) {
            Some(other) if other != length => Err(reader.damaged),
            _ => Ok(()),
        }
    }
}

pub(super) fn append_range(
    subtype: &PgType,
    text: &str,
    out: &mut Vec<u8>,
) -> Result<(), DamagedValue> {
    let mut reader = Reader::new(text, "range");
    range(subtype, &mut reader, out)?;
    reader.end()
}

fn range(subtype: &PgType, reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), DamagedValue> {
    if let Some(rest) = reader.rest.strip_prefix("empty") {
        reader.rest = rest;
        out.push(RANGE_EMPTY);
        return Ok(());
    }
    let place = out.len();
    let mut flags = 0;
    if reader.take(b'[') {
        flags |= RANGE_LOWER_INCLUSIVE;
    } else {
        reader.must_take(b'(')?;
    }
    out.push(0);
    for (end, infinite) in [(&b","[..], RANGE_LOWER_INFINITE), (b"])", RANGE_UPPER_INFINITE)] {
        let quoted = reader.item(end)?;
        if reader.item.is_empty() && !quoted {
            flags |= infinite;
        } else {
            reader.append_item(subtype, out)?;
        }
        if infinite == RANGE_LOWER_INFINITE {
            reader.must_take(b',')?;
        }
    }
    if reader.take(b']') {
        flags |= RANGE_UPPER_INCLUSIVE;
    } else {
        reader.must_take(b')')?;
    }
    out[place] = flags;
    Ok(())
}

pub(super) fn append_multirange(
    subtype: &PgType,
    text: &str,
    out: &mut Vec<u8>,
) -> Result<(), DamagedValue> {
    let mut reader = Reader::new(text, "multirange");
    let place = out.len();
    out.extend([0; 4]);
    let mut count = 0i32;
    reader.must_take(b'{')?;
    while reader.peek() != Some(b'}') {
        if count > 0 {
            reader.must_take(b',')?;
        }
        counted(out, |out| range(subtype, &mut reader, out))?;
        count += 1;
    }
    reader.must_take(b'}')?;
    reader.end()?;
    out[place..place + 4].copy_from_slice(&count.to_be_bytes());
    Ok(())
}

pub(super) fn append_composite(
    fields: &[(String, PgType)],
    text: &str,
    out: &mut Vec<u8>,
) -> Result<(), DamagedValue> {
    let mut reader = Reader::new(text, "composite");
    out.extend((fields.len() as i32).to_be_bytes());
    reader.must_take(b'(')?;
    let mut count = 0;
    let mut fits = true;
    // A composite without fields prints as `()`, one with a single NULL field too.
    while !(count == 0 && fields.is_empty() && reader.peek() == Some(b')')) {
        let quoted = reader.item(b",)")?;
        if let Some((_, ty)) = fields.get(count) {
            let null = reader.item.is_empty() && !quoted;
            fits &= put_field((!null).then_some(ty), &mut reader, out);
        }
        count += 1;
        if reader.peek() != Some(b',') {
            break;
        }
        reader.must_take(b',')?;
    }
    // A value of another time than its type: what is missing is NULL, what is too much goes.
    if !fits || count != fields.len() {
        super::note_misfit();
    }
    for _ in count.min(fields.len())..fields.len() {
        out.extend([0; 4]);
        put_null(out);
    }
    reader.must_take(b')')?;
    reader.end()
}

/// Appends a field with its (unknown) type's oid in front; one that cannot be read becomes NULL.
/// Returns whether it could.
fn put_field(ty: Option<&PgType>, reader: &mut Reader<'_>, out: &mut Vec<u8>) -> bool {
    out.extend([0; 4]);
    let place = out.len();
    let appended = match ty {
        Some(ty) => reader.append_item(ty, out),
        None => {
            put_null(out);
            Ok(())
        }
    };
    if appended.is_err() {
        out.truncate(place);
        put_null(out);
    }
    appended.is_ok()
}
