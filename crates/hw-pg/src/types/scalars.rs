//! Values in text form: numbers, booleans, bytes; the other kinds are in the neighbour modules.
//!
//! In: what a type's output function printed under the pinned settings. Out: canonical bytes.

use super::binary::put_special_numeric;
use super::{containers, datetimes};
use hw_types::PgType;
use hw_types::text::DamagedValue;
use std::str::FromStr;

/// Appends the canonical bytes of a text.
pub(super) fn append(ty: &PgType, text: &str, out: &mut Vec<u8>) -> Result<(), DamagedValue> {
    match ty {
        PgType::Bool => match text {
            "t" => out.push(1),
            "f" => out.push(0),
            _ => return Err(DamagedValue::of("bool")),
        },
        PgType::Int2 => out.extend(parse::<i16>(text, "int2")?.to_be_bytes()),
        PgType::Int4 => out.extend(parse::<i32>(text, "int4")?.to_be_bytes()),
        PgType::Int8 => out.extend(parse::<i64>(text, "int8")?.to_be_bytes()),
        PgType::Oid => out.extend(parse::<u32>(text, "oid")?.to_be_bytes()),
        PgType::Float4 => out.extend(parse::<f32>(text, "float4")?.to_be_bytes()),
        PgType::Float8 => out.extend(parse::<f64>(text, "float8")?.to_be_bytes()),
        PgType::Numeric => append_numeric(text, out)?,
        PgType::Text { .. } | PgType::Bpchar | PgType::Json | PgType::Jsonb => {
            out.extend_from_slice(text.as_bytes());
        }
        PgType::Uuid => append_uuid(text, out)?,
        PgType::Bytea => {
            let digits = text.strip_prefix("\\x").ok_or(DamagedValue::of("bytea"))?;
            append_hex(digits.as_bytes(), "bytea", out)?;
        }
        PgType::PgLsn => {
            let damaged = DamagedValue::of("pg_lsn");
            let (high, low) = text.split_once('/').ok_or(damaged)?;
            for half in [high, low] {
                let half = u32::from_str_radix(half, 16).map_err(|_| damaged)?;
                out.extend(half.to_be_bytes());
            }
        }
        PgType::Date => datetimes::append_date(text, out)?,
        PgType::Time => datetimes::append_time(text, out)?,
        PgType::Timetz => datetimes::append_timetz(text, out)?,
        PgType::Timestamp => datetimes::append_timestamp(text, out)?,
        PgType::Timestamptz => datetimes::append_timestamptz(text, out)?,
        PgType::Interval => datetimes::append_interval(text, out)?,
        PgType::Array(element) => containers::append_array(element, text, out)?,
        PgType::Range(subtype) => containers::append_range(subtype, text, out)?,
        PgType::Multirange(subtype) => containers::append_multirange(subtype, text, out)?,
        PgType::Composite(fields) => containers::append_composite(fields, text, out)?,
        PgType::Domain(base) => append(base, text, out)?,
    }
    Ok(())
}

fn parse<T: FromStr>(text: &str, what: &'static str) -> Result<T, DamagedValue> {
    text.parse().map_err(|_| DamagedValue::of(what))
}

fn append_hex(digits: &[u8], what: &'static str, out: &mut Vec<u8>) -> Result<(), DamagedValue> {
    if !digits.len().is_multiple_of(2) {
        return Err(DamagedValue::of(what));
    }
    out.reserve(digits.len() / 2);
    for pair in digits.chunks_exact(2) {
        let nibble = |digit: u8| (digit as char).to_digit(16).ok_or(DamagedValue::of(what));
        out.push((nibble(pair[0])? << 4 | nibble(pair[1])?) as u8);
    }
    Ok(())
}

fn append_uuid(text: &str, out: &mut Vec<u8>) -> Result<(), DamagedValue> {
    let damaged = DamagedValue::of("uuid");
    if text.len() != 36 {
        return Err(damaged);
    }
    let mut groups = text.as_bytes().split(|&byte| byte == b'-');
    for length in [8, 4, 4, 4, 12] {
        let group = groups.next().filter(|group| group.len() == length).ok_or(damaged)?;
        append_hex(group, "uuid", out)?;
    }
    groups.next().map_or(Ok(()), |_| Err(damaged))
}

/// Decimal digits to digits of base 10,000, exactly as `numeric_send` has them: no zero digits
/// at either end, the display scale kept.
fn append_numeric(text: &str, out: &mut Vec<u8>) -> Result<(), DamagedValue> {
    let damaged = DamagedValue::of("numeric");
    let special = match text {
        "NaN" => Some(0xC000),
        "Infinity" => Some(0xD000),
        "-Infinity" => Some(0xF000),
        _ => None,
    };
    if let Some(sign) = special {
        put_special_numeric(sign, out);
        return Ok(());
    }
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let (whole, fraction) = (whole.as_bytes(), fraction.as_bytes());
    if whole.is_empty() || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return Err(damaged);
    }
    // The digit of base 10,000 at index i covers the decimal digits from 4 i on, counted from
    // `padding` zeros before the first.
    let padding = 4 * whole.len().div_ceil(4) - whole.len();
    let groups_before_point = whole.len().div_ceil(4);
    let groups = groups_before_point + fraction.len().div_ceil(4);
    let decimal = |position: usize| -> u16 {
        let Some(index) = position.checked_sub(padding) else { return 0 };
        let digit = match whole.get(index) {
            Some(digit) => *digit,
            None => fraction.get(index - whole.len()).copied().unwrap_or(b'0'),
        };
        u16::from(digit - b'0')
    };
    let group = |index: usize| (0..4).fold(0, |sum, i| sum * 10 + decimal(4 * index + i));
    let first = (0..groups).find(|&index| group(index) != 0);
    let last = (0..groups).rfind(|&index| group(index) != 0);
    let scale = i16::try_from(fraction.len()).map_err(|_| damaged)?;
    let (Some(first), Some(last)) = (first, last) else {
        out.extend([0; 6]);
        out.extend(scale.to_be_bytes());
        return Ok(());
    };
    let weight = groups_before_point as i64 - 1 - first as i64;
    out.extend(i16::try_from(last - first + 1).map_err(|_| damaged)?.to_be_bytes());
    out.extend(i16::try_from(weight).map_err(|_| damaged)?.to_be_bytes());
    out.extend(if negative { 0x4000u16 } else { 0 }.to_be_bytes());
    out.extend(scale.to_be_bytes());
    (first..=last).for_each(|index| out.extend(group(index).to_be_bytes()));
    Ok(())
}
