//! Functions over texts and blobs. Lengths and positions count UTF-16 code units, as the
//! reference does. Source: `sync-rules.md` 7.

use super::{OnNull, Routine, TypeRule, TypeSet, entry};
use crate::error::EvalError;
use crate::value::SqlValue;
use std::borrow::Cow;

const TEXT: TypeRule = TypeRule::Is(TypeSet::TEXT);
const INTEGER: TypeRule = TypeRule::Is(TypeSet::INTEGER);

pub(super) static FUNCTIONS: [Routine; 10] = [
    entry("upper", (1, 1), OnNull::Null, TEXT, |a| {
        Ok(SqlValue::text(a[0].to_text().unwrap_or_default().to_uppercase()))
    }),
    entry("lower", (1, 1), OnNull::Null, TEXT, |a| {
        Ok(SqlValue::text(a[0].to_text().unwrap_or_default().to_lowercase()))
    }),
    entry("length", (1, 1), OnNull::Null, INTEGER, |a| {
        Ok(SqlValue::Integer(match &a[0] {
            SqlValue::Blob(bytes) => bytes.len() as i128,
            other => units(&other.to_text().unwrap_or_default()) as i128,
        }))
    }),
    entry("substring", (2, 3), OnNull::Call, TEXT, substring),
    entry("instr", (2, 2), OnNull::Null, INTEGER, |a| {
        if let (SqlValue::Blob(hay), SqlValue::Blob(needle)) = (&a[0], &a[1]) {
            let at = if needle.is_empty() {
                Some(0)
            } else {
                hay.windows(needle.len()).position(|w| w == &needle[..])
            };
            return Ok(SqlValue::Integer(at.map_or(0, |i| i as i128 + 1)));
        }
        let hay = a[0].to_text().unwrap_or_default();
        let needle = a[1].to_text().unwrap_or_default();
        let at = hay.find(&*needle).map_or(0, |i| units(&hay[..i]) as i128 + 1);
        Ok(SqlValue::Integer(at))
    }),
    entry("hex", (1, 1), OnNull::Call, TEXT, |a| {
        let mut out = String::new();
        for byte in bytes(&a[0]).iter() {
            out.push_str(&format!("{byte:02X}"));
        }
        Ok(SqlValue::text(out))
    }),
    entry("base64", (1, 1), OnNull::Call, TEXT, |a| Ok(SqlValue::text(base64(&bytes(&a[0]))))),
    entry("uuid_blob", (1, 1), OnNull::Null, TypeRule::Is(TypeSet::BLOB), uuid_blob),
    entry("typeof", (1, 1), OnNull::Call, TEXT, |a| Ok(SqlValue::text(a[0].type_name()))),
    entry("ifnull", (2, usize::MAX), OnNull::Call, TypeRule::UnionOfTwo, |a| {
        let first = std::mem::replace(&mut a[0], SqlValue::Null);
        Ok(if first.is_null() { std::mem::replace(&mut a[1], SqlValue::Null) } else { first })
    }),
];

fn units(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.encode_utf16().count() }
}

/// The bytes of a blob, or of the value's text; none for NULL.
fn bytes<'b>(value: &'b SqlValue<'_>) -> Cow<'b, [u8]> {
    match value {
        SqlValue::Blob(bytes) => Cow::Borrowed(bytes),
        other => Cow::Owned(other.to_text().unwrap_or_default().into_owned().into_bytes()),
    }
}

/// Section 7.1. A cut inside a surrogate pair leaves U+FFFD (17.8).
fn substring<'a>(args: &mut [SqlValue<'a>]) -> Result<SqlValue<'a>, EvalError> {
    let length = match args.get(2) {
        None => None,
        Some(SqlValue::Null) => return Ok(SqlValue::Null),
        Some(value) => value.to_integer(),
    };
    let (Some(text), Some(start)) = (args[0].to_text(), args[1].to_integer()) else {
        return Ok(SqlValue::Null);
    };
    let count = units(&text) as i128;
    let begin = match start {
        0 => 0,
        s if s > 0 => s - 1,
        s => (count + s).max(0),
    };
    let (from, to) = match length {
        None => (begin, count),
        Some(length) if length < 0 => (begin + length, begin),
        Some(length) => (begin, begin + length - i128::from(start == 0)),
    };
    let from = from.clamp(0, count) as usize;
    let to = to.clamp(from as i128, count) as usize;
    if text.is_ascii() {
        return Ok(SqlValue::text(text[from..to].to_string()));
    }
    let part: Vec<u16> = text.encode_utf16().skip(from).take(to - from).collect();
    Ok(SqlValue::text(String::from_utf16_lossy(&part)))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |w, &b| w << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            if i <= chunk.len() {
                out.push(ALPHABET[(word >> (18 - 6 * i)) as usize & 63] as char);
            } else {
                out.push('=');
            }
        }
    }
    out
}

fn uuid_blob<'a>(args: &mut [SqlValue<'a>]) -> Result<SqlValue<'a>, EvalError> {
    const ERROR: EvalError = EvalError("Cannot call uuid_blob on a non UUID value");
    let text = args[0].to_text().unwrap_or_default();
    let dashes = [8, 13, 18, 23];
    let shaped = text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(i, b)| if dashes.contains(&i) { b == b'-' } else { b.is_ascii_hexdigit() });
    if !shaped {
        return Err(ERROR);
    }
    let digits = text.replace('-', "");
    let number = u128::from_str_radix(&digits, 16).map_err(|_| ERROR)?;
    Ok(SqlValue::Blob(Cow::Owned(number.to_be_bytes().to_vec())))
}
