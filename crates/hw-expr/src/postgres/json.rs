//! `json` and `jsonb`: what their operators find in a document, and what text becomes as `jsonb`.
//!
//! A document is its text. That of a `jsonb` is what Postgres prints of it, so that any part of it is in
//! the same form; numbers keep their digits.

use crate::error::EvalError;
use crate::json::write_string;
use serde::de::{MapAccess, Visitor};
use serde_json::Deserializer;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

const NUL: EvalError = EvalError("neither a text nor a jsonb holds \\u0000");
const NOT_JSON: EvalError = EvalError("a text is not valid JSON");

/// The part of a document under a key of an object, or under a place of an array.
#[derive(Clone, Copy)]
pub(super) enum Step<'a> {
    /// A member of an object.
    Key(&'a str),
    /// An element of an array, from the end if negative.
    Index(i64),
    /// The same of a `jsonb`, in which a scalar counts as an array of itself.
    IndexOfJsonb(i64),
    /// Whichever the document is, as the operators with paths have it.
    Either(&'a str),
}

/// The members of an object in the order of the text, or the elements of an array.
enum Parts<'a> {
    Object(Vec<(Cow<'a, str>, &'a str)>),
    Array(Vec<&'a str>),
    Scalar,
}

struct Members<'a>(Vec<(Cow<'a, str>, &'a str)>);

/// A key, borrowed where nothing in it is escaped.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push((key.0, value.get()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

fn parts(document: &str) -> Result<Parts<'_>, EvalError> {
    let mut reader = Deserializer::from_str(document);
    Ok(match document.trim_start().bytes().next() {
        Some(b'{') => {
            let Members(members) =
                serde::Deserialize::deserialize(&mut reader).map_err(|_| NOT_JSON)?;
            Parts::Object(members)
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> =
                serde::Deserialize::deserialize(&mut reader).map_err(|_| NOT_JSON)?;
            Parts::Array(elements.into_iter().map(RawValue::get).collect())
        }
        _ => Parts::Scalar,
    })
}

/// One step into a document: `->`. `None` where there is nothing.
pub(super) fn step<'a>(document: &'a str, step: Step<'_>) -> Result<Option<&'a str>, EvalError> {
    Ok(match (parts(document)?, step) {
        // Where a `json` names a key several times, the last one counts.
        (Parts::Object(members), Step::Key(key) | Step::Either(key)) => {
            members.into_iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
        }
        (Parts::Scalar, Step::IndexOfJsonb(0 | -1)) => Some(document),
        (Parts::Array(elements), Step::Index(index) | Step::IndexOfJsonb(index)) => {
            place(index, elements.len()).map(|at| elements[at])
        }
        (Parts::Array(elements), Step::Either(text)) => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            match text.parse::<i32>() {
                Ok(index) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                    place(index.into(), elements.len()).map(|at| elements[at])
                }
                _ if text.bytes().any(|byte| byte.is_ascii_digit()) => {
                    return Err(EvalError("a step of a path is an unusual number"));
                }
                _ => None,
            }
        }
        _ => None,
    })
}

fn place(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    let at = if index < 0 { index + length } else { index };
    (0..length).contains(&at).then_some(at as usize)
}

/// A document as text: what `->>` makes of what it finds. `None` for a JSON null.
pub(super) fn text(document: &str) -> Result<Option<Cow<'_, str>>, EvalError> {
    let document = document.trim();
    match document.bytes().next() {
        Some(b'"') => {
            let Key(text) = serde_json::from_str(document).map_err(|_| NOT_JSON)?;
            if text.contains('\0') {
                return Err(NUL);
            }
            Ok(Some(text))
        }
        Some(b'n') => Ok(None),
        _ => Ok(Some(Cow::Borrowed(document))),
    }
}

/// Whether a text is a key of the object, an element of the array, or the string itself: `?`.
pub(super) fn has(document: &str, wanted: &str) -> Result<bool, EvalError> {
    let is = |value: &str| match value.starts_with('"') {
        true => Ok(text(value)?.as_deref() == Some(wanted)),
        false => Ok(false),
    };
    match parts(document)? {
        Parts::Object(members) => Ok(members.iter().any(|(key, _)| key == wanted)),
        Parts::Array(elements) => {
            for element in elements {
                if is(element)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Parts::Scalar => is(document),
    }
}

/// Whether a text is JSON.
pub(super) fn is_valid(document: &str) -> bool {
    serde_json::from_str::<&RawValue>(document).is_ok()
}

/// Appends what Postgres prints of a text that becomes `jsonb`.
///
/// - Errors: the text is not JSON, or JSON that a `jsonb` does not hold.
pub(super) fn canonical(document: &str, out: &mut String) -> Result<(), EvalError> {
    let whole: &RawValue = serde_json::from_str(document).map_err(|_| NOT_JSON)?;
    write(whole.get(), 0, out)
}

/// How deep a document may nest.
const MAX_DEPTH: usize = 100;

fn write(document: &str, depth: usize, out: &mut String) -> Result<(), EvalError> {
    if depth > MAX_DEPTH {
        return Err(EvalError("a JSON document nests too deep"));
    }
    match parts(document)? {
        Parts::Object(members) => {
            let mut sorted = members;
            sorted.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
            // Of several values under one key the last one stays.
            sorted.reverse();
            sorted.dedup_by(|(later, _), (kept, _)| later == kept);
            sorted.reverse();
            out.push('{');
            for (number, (key, value)) in sorted.iter().enumerate() {
                out.push_str(if number > 0 { ", " } else { "" });
                write_string_of(key, out)?;
                out.push_str(": ");
                write(value, depth + 1, out)?;
            }
            out.push('}');
        }
        Parts::Array(elements) => {
            out.push('[');
            for (number, element) in elements.iter().enumerate() {
                out.push_str(if number > 0 { ", " } else { "" });
                write(element, depth + 1, out)?;
            }
            out.push(']');
        }
        Parts::Scalar => match document.bytes().next() {
            Some(b'"') => {
                let Key(text) = serde_json::from_str(document).map_err(|_| NOT_JSON)?;
                write_string_of(&text, out)?;
            }
            Some(b't' | b'f' | b'n') => out.push_str(document),
            _ => write_number(document, out)?,
        },
    }
    Ok(())
}

fn write_string_of(text: &str, out: &mut String) -> Result<(), EvalError> {
    if text.contains('\0') {
        return Err(NUL);
    }
    write_string(text, out);
    Ok(())
}

/// The largest exponent that is written out; Postgres goes further, and nobody writes such claims.
const MAX_EXPONENT: u64 = 1000;

/// Appends a JSON number as `numeric` prints it: without an exponent, with the digits behind the point
/// that it has.
fn write_number(number: &str, out: &mut String) -> Result<(), EvalError> {
    let (negative, rest) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().map_err(|_| NOT_JSON)?),
        None => (rest, 0),
    };
    if exponent.unsigned_abs() > MAX_EXPONENT {
        return Err(EvalError("a JSON number is too large"));
    }
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = format!("{whole}{fraction}");
    // Where the point stands in `digits`, and how many digits are behind it.
    let mut point = whole.len() as i64 + exponent;
    let behind = (fraction.len() as i64 - exponent).max(0);
    if point < 1 {
        digits.insert_str(0, &"0".repeat((1 - point) as usize));
        point = 1;
    }
    let missing = point + behind - digits.len() as i64;
    digits.push_str(&"0".repeat(missing.max(0) as usize));
    let (whole, fraction) = digits.split_at(point as usize);
    let whole = whole.trim_start_matches('0');
    let is_zero = whole.is_empty() && fraction.bytes().all(|digit| digit == b'0');
    if negative && !is_zero {
        out.push('-');
    }
    out.push_str(if whole.is_empty() { "0" } else { whole });
    if behind > 0 {
        out.push('.');
        out.push_str(fraction);
    }
    Ok(())
}
