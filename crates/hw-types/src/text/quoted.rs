//! Containers as Postgres prints them: each has quoting rules of its own.
//!
//! Sources: PostgreSQL `arrayfuncs.c` (`array_out`), `rangetypes.c` (`range_deparse`,
//! `range_bound_escape`), `multirangetypes.c`, `rowtypes.c` (`record_out`).

use super::container::{Array, Dimension, Elements, Range, composite, multirange};
use super::{DamagedValue, put, write_text};
use crate::pgtype::{ElementType, PgType};

/// Space in the C locale, as the server's `isspace` and `array_isspace` see it.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

pub(super) fn write_array(
    element: &ElementType,
    bytes: &[u8],
    out: &mut String,
) -> Result<(), DamagedValue> {
    let array = Array::read(bytes)?;
    if array.is_empty() {
        out.push_str("{}");
        return Ok(());
    }
    if array.dimensions().iter().any(|dimension| dimension.lower_bound != 1) {
        for dimension in array.dimensions() {
            let lower = i64::from(dimension.lower_bound);
            put(out, format_args!("[{lower}:{}]", lower + dimension.len as i64 - 1));
        }
        out.push('=');
    }
    let mut elements = array.elements();
    let dimensions = array.dimensions();
    write_dimension(element, dimensions, &mut elements, out)?;
    elements.next().map_or(Ok(()), |extra| extra.map(drop))
}

fn write_dimension(
    element: &ElementType,
    dimensions: &[Dimension],
    elements: &mut Elements<'_>,
    out: &mut String,
) -> Result<(), DamagedValue> {
    let damaged = DamagedValue::of("array");
    let (dimension, inner) = dimensions.split_first().ok_or(damaged)?;
    out.push('{');
    for index in 0..dimension.len {
        if index > 0 {
            out.push(char::from(element.delimiter));
        }
        if !inner.is_empty() {
            write_dimension(element, inner, elements, out)?;
            continue;
        }
        match elements.next().ok_or(damaged)?? {
            None => out.push_str("NULL"),
            Some(value) => {
                let start = out.len();
                write_text(&element.pg_type, value, out)?;
                let text = &out[start..];
                let needs_quotes = text.is_empty()
                    || text.eq_ignore_ascii_case("null")
                    || text.bytes().any(|byte| {
                        matches!(byte, b'"' | b'\\' | b'{' | b'}')
                            || byte == element.delimiter
                            || is_space(byte)
                    });
                if needs_quotes {
                    quote(out, start, Escape::Backslash);
                }
            }
        }
    }
    out.push('}');
    Ok(())
}

pub(super) fn write_range(
    subtype: &PgType,
    bytes: &[u8],
    out: &mut String,
) -> Result<(), DamagedValue> {
    let range = Range::read(bytes)?;
    if range.empty {
        out.push_str("empty");
        return Ok(());
    }
    let bound = |value: Option<&[u8]>, out: &mut String| {
        let Some(value) = value else { return Ok(()) };
        let start = out.len();
        write_text(subtype, value, out)?;
        let text = &out[start..];
        let special = |byte| matches!(byte, b'"' | b'\\' | b'(' | b')' | b'[' | b']' | b',');
        if text.is_empty() || text.bytes().any(|byte| special(byte) || is_space(byte)) {
            quote(out, start, Escape::Double);
        }
        Ok(())
    };
    out.push(if range.lower_inclusive { '[' } else { '(' });
    bound(range.lower, out)?;
    out.push(',');
    bound(range.upper, out)?;
    out.push(if range.upper_inclusive { ']' } else { ')' });
    Ok(())
}

pub(super) fn write_multirange(
    subtype: &PgType,
    bytes: &[u8],
    out: &mut String,
) -> Result<(), DamagedValue> {
    out.push('{');
    for (index, range) in multirange(bytes)?.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_range(subtype, range?, out)?;
    }
    out.push('}');
    Ok(())
}

pub(super) fn write_composite(
    fields: &[(String, PgType)],
    bytes: &[u8],
    out: &mut String,
) -> Result<(), DamagedValue> {
    let damaged = DamagedValue::of("composite");
    let mut values = composite(bytes)?;
    out.push('(');
    for (index, (_, ty)) in fields.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let Some(value) = values.next().ok_or(damaged)?? else { continue };
        let start = out.len();
        write_text(ty, value, out)?;
        let text = &out[start..];
        let special = |byte| matches!(byte, b'"' | b'\\' | b'(' | b')' | b',');
        if text.is_empty() || text.bytes().any(|byte| special(byte) || is_space(byte)) {
            quote(out, start, Escape::Double);
        }
    }
    out.push(')');
    match values.next() {
        None => Ok(()),
        Some(_) => Err(damaged),
    }
}

/// How a quote or backslash is escaped inside of quotes.
#[derive(Clone, Copy, PartialEq)]
enum Escape {
    /// Arrays: a backslash before it.
    Backslash,
    /// Ranges and composites: written twice.
    Double,
}

/// Puts what was written from `start` on into quotes, without a buffer of its own.
fn quote(out: &mut String, start: usize, escape: Escape) {
    let end = out.len();
    out.push('"');
    let mut copied = start;
    for at in start..end {
        let byte = out.as_bytes()[at];
        if matches!(byte, b'"' | b'\\') {
            out.extend_from_within(copied..at);
            out.push(if escape == Escape::Double { char::from(byte) } else { '\\' });
            copied = at;
        }
    }
    out.extend_from_within(copied..end);
    out.push('"');
    out.drain(start..end);
}
