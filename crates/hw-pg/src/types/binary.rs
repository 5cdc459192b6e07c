//! Values in binary form.
//!
//! In: what a type's send function made. Out: canonical bytes. Most types are canonical as they
//! are; NaNs, numerics that are not numbers, jsonb and containers are rebuilt.

use hw_types::PgType;
use hw_types::pgtype::TextKind;
use hw_types::text::container::{Array, Range, composite, multirange};
use hw_types::text::{DamagedValue, datetime};

/// The version byte in front of a jsonb's text.
const JSONB_VERSION: u8 = 1;

/// The canonical bytes inside of the input, or `None` if they must be rebuilt.
pub(super) fn as_is<'a>(ty: &PgType, input: &'a [u8]) -> Result<Option<&'a [u8]>, DamagedValue> {
    let of_length = |length: usize, what: &'static str| match input.len() == length {
        true => Ok(Some(input)),
        false => Err(DamagedValue::of(what)),
    };
    let of_text = |bytes: &'a [u8], what: &'static str| match std::str::from_utf8(bytes) {
        Ok(_) => Ok(Some(bytes)),
        Err(_) => Err(DamagedValue::of(what)),
    };
    match ty {
        PgType::Bool => match input {
            [0 | 1] => Ok(Some(input)),
            _ => Err(DamagedValue::of("bool")),
        },
        PgType::Int2 => of_length(2, "int2"),
        PgType::Int4 => of_length(4, "int4"),
        PgType::Int8 => of_length(8, "int8"),
        PgType::Oid => of_length(4, "oid"),
        PgType::Uuid => of_length(16, "uuid"),
        PgType::PgLsn => of_length(8, "pg_lsn"),
        PgType::Date => of_length(4, "date"),
        // Not every number of microseconds is a time of day, and what is kept must be printable.
        PgType::Time => datetime::time(input).map(|_| Some(input)),
        PgType::Timetz => datetime::timetz(input).map(|_| Some(input)),
        PgType::Timestamp => of_length(8, "timestamp"),
        PgType::Timestamptz => of_length(8, "timestamptz"),
        PgType::Interval => of_length(16, "interval"),
        PgType::Float4 => match <[u8; 4]>::try_from(input) {
            Ok(bytes) if f32::from_be_bytes(bytes).is_nan() => Ok(None),
            _ => of_length(4, "float4"),
        },
        PgType::Float8 => match <[u8; 8]>::try_from(input) {
            Ok(bytes) if f64::from_be_bytes(bytes).is_nan() => Ok(None),
            _ => of_length(8, "float8"),
        },
        PgType::Numeric => match numeric_sign(input)? {
            Sign::Number => Ok(Some(input)),
            Sign::Special(_) => Ok(None),
        },
        PgType::Bytea => Ok(Some(input)),
        PgType::Text { kind: TextKind::Foreign } => {
            Err(DamagedValue::of("without a known binary form"))
        }
        PgType::Text { .. } => of_text(input, "text"),
        PgType::Bpchar => of_text(input, "bpchar"),
        PgType::Json => of_text(input, "json"),
        PgType::Jsonb => match input.split_first() {
            Some((&JSONB_VERSION, text)) => of_text(text, "jsonb"),
            _ => Err(DamagedValue::of("jsonb")),
        },
        PgType::Domain(base) => as_is(base, input),
        PgType::Array(_) | PgType::Range(_) | PgType::Multirange(_) | PgType::Composite(_) => {
            Ok(None)
        }
    }
}

/// Appends the canonical bytes of an input for which [`as_is`] gave `None`.
pub(super) fn rebuild(ty: &PgType, input: &[u8], out: &mut Vec<u8>) -> Result<(), DamagedValue> {
    match ty {
        PgType::Float4 => out.extend(f32::NAN.to_be_bytes()),
        PgType::Float8 => out.extend(f64::NAN.to_be_bytes()),
        PgType::Numeric => match numeric_sign(input)? {
            Sign::Special(sign) => put_special_numeric(sign, out),
            Sign::Number => out.extend_from_slice(input),
        },
        PgType::Domain(base) => append(base, input, out)?,
        PgType::Array(element) => {
            let array = Array::read(input)?;
            let dimensions = if array.is_empty() { &[] } else { array.dimensions() };
            out.extend((dimensions.len() as i32).to_be_bytes());
            let flag_place = out.len();
            // The flag may be stale and the oid differs between databases.
            out.extend([0; 8]);
            for dimension in dimensions {
                out.extend((dimension.len as i32).to_be_bytes());
                out.extend(dimension.lower_bound.to_be_bytes());
            }
            for value in array.elements() {
                match value? {
                    None => {
                        out[flag_place + 3] = 1;
                        out.extend((-1i32).to_be_bytes());
                    }
                    Some(value) => append_counted(&element.pg_type, value, out)?,
                }
            }
        }
        PgType::Range(subtype) => {
            let range = Range::read(input)?;
            out.push(input[0]);
            for bound in [range.lower, range.upper].into_iter().flatten() {
                append_counted(subtype, bound, out)?;
            }
        }
        PgType::Multirange(subtype) => {
            let ranges = multirange(input)?;
            out.extend((ranges.len() as i32).to_be_bytes());
            for range in ranges {
                counted(out, |out| {
                    let range = range?;
                    let read = Range::read(range)?;
                    out.push(range[0]);
                    for bound in [read.lower, read.upper].into_iter().flatten() {
                        append_counted(subtype, bound, out)?;
                    }
                    Ok(())
                })?;
            }
        }
        PgType::Composite(fields) => {
            let values = composite(input)?.collect::<Result<Vec<_>, _>>()?;
            let mut fits = values.len() == fields.len();
            out.extend((fields.len() as i32).to_be_bytes());
            for (index, (_, ty)) in fields.iter().enumerate() {
                // The oid of the field's type.
                out.extend([0; 4]);
                let place = out.len();
                let appended = match values.get(index).copied().flatten() {
                    None => {
                        put_null(out);
                        Ok(())
                    }
                    Some(value) => append_counted(ty, value, out),
                };
                // A field of another time: one in front of it came or went, or it took the place of
                // one of another type.
                if appended.is_err() {
                    fits = false;
                    out.truncate(place);
                    put_null(out);
                }
            }
            if !fits {
                super::note_misfit();
            }
        }
        _ => return Err(DamagedValue::of("without a known binary form")),
    }
    Ok(())
}

/// The length that stands for NULL in a container.
pub(super) fn put_null(out: &mut Vec<u8>) {
    out.extend((-1i32).to_be_bytes());
}

fn append(ty: &PgType, input: &[u8], out: &mut Vec<u8>) -> Result<(), DamagedValue> {
    super::canonical_from_binary(ty, input, out)
}

fn append_counted(ty: &PgType, input: &[u8], out: &mut Vec<u8>) -> Result<(), DamagedValue> {
    counted(out, |out| append(ty, input, out))
}

/// Appends what `make` appends, with its length in front.
pub(super) fn counted(
    out: &mut Vec<u8>,
    make: impl FnOnce(&mut Vec<u8>) -> Result<(), DamagedValue>,
) -> Result<(), DamagedValue> {
    let place = out.len();
    out.extend([0; 4]);
    make(out)?;
    let length = (out.len() - place - 4) as i32;
    out[place..place + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

enum Sign {
    Number,
    Special(u16),
}

/// The most digits that a numeric has behind its point (`NUMERIC_DSCALE_MASK`).
const MAX_SCALE: u16 = 0x3FFF;

/// Checks a numeric's shape.
fn numeric_sign(input: &[u8]) -> Result<Sign, DamagedValue> {
    let damaged = DamagedValue::of("numeric");
    let (header, digits) = input.split_first_chunk::<8>().ok_or(damaged)?;
    let sign = u16::from_be_bytes([header[4], header[5]]);
    match sign {
        0 | 0x4000 => {
            let count = usize::from(u16::from_be_bytes([header[0], header[1]]));
            let below = |d: &[u8]| u16::from_be_bytes([d[0], d[1]]) < 10_000;
            let scale = u16::from_be_bytes([header[6], header[7]]);
            let fits = digits.len() == 2 * count && scale <= MAX_SCALE;
            match fits && digits.chunks_exact(2).all(below) {
                true => Ok(Sign::Number),
                false => Err(damaged),
            }
        }
        0xC000 | 0xD000 | 0xF000 => Ok(Sign::Special(sign)),
        _ => Err(damaged),
    }
}

/// NaN and the infinities: no digits, no scale (Postgres leaves flag bits in the scale).
pub(super) fn put_special_numeric(sign: u16, out: &mut Vec<u8>) {
    out.extend([0; 4]);
    out.extend(sign.to_be_bytes());
    out.extend([0; 2]);
}
