//! Operators, casts and functions of Postgres whose results are known here for all values, each with the
//! types that it takes. Tests of `hw-pg` compare every entry with the real server.
//!
//! All of them are strict: with a NULL among the arguments the result is NULL. What is not (AND,
//! COALESCE) is a form of the tree of its own.
//!
//! What is not listed is refused. Missing on purpose: order of texts and of enums (a collation, or the
//! order of labels), upper and lower case (a locale), paths into `json` (keys that are named twice),
//! everything that reads a clock or the session's time zone.

use super::compare::{Comparison, comparison, float, integer, unpadded};
use super::json::{self, Step};
use super::jsonb;
use super::types::{Scalar, Type};
use crate::error::EvalError;
use hw_types::text::container::Array;
use hw_types::text::to_text;
use std::cmp::Ordering;
use std::fmt::Write;

/// Appends the result to the buffer; false where it is NULL.
pub(super) type Run = fn(&[&[u8]], &mut Vec<u8>) -> Result<bool, EvalError>;

/// An operator, cast or function.
pub(super) struct Routine {
    /// As SQL names it; for a cast `::`.
    pub name: &'static str,
    pub arguments: &'static [Type],
    pub result: Type,
    pub run: Run,
}

/// What a call runs.
#[derive(Clone, Copy)]
pub(super) enum Operation {
    /// A comparison, and whether its outcome makes it true.
    Compare(Comparison, Holds),
    /// Anything else.
    Run(&'static Routine),
    /// The bytes mean the same in both types.
    Relabel,
}

pub(super) const BOOL: Type = Type::Scalar(Scalar::Bool);
const INT2: Type = Type::Scalar(Scalar::Int2);
const INT4: Type = Type::Scalar(Scalar::Int4);
const INT8: Type = Type::Scalar(Scalar::Int8);
const FLOAT4: Type = Type::Scalar(Scalar::Float4);
const FLOAT8: Type = Type::Scalar(Scalar::Float8);
const NUMERIC: Type = Type::Scalar(Scalar::Numeric);
pub(super) const TEXT: Type = Type::Scalar(Scalar::Text);
const BPCHAR: Type = Type::Scalar(Scalar::Bpchar);
const UUID: Type = Type::Scalar(Scalar::Uuid);
const DATE: Type = Type::Scalar(Scalar::Date);
const TIMESTAMP: Type = Type::Scalar(Scalar::Timestamp);
const JSON: Type = Type::Scalar(Scalar::Json);
const JSONB: Type = Type::Scalar(Scalar::Jsonb);
const TEXTS: Type = Type::Array(Scalar::Text);

/// Whether an order of two values makes a comparison true.
pub(super) type Holds = fn(Ordering) -> bool;

/// The names of comparisons, and what makes them true.
pub(super) const COMPARISONS: [(&str, Holds); 6] = [
    ("=", Ordering::is_eq),
    ("<>", Ordering::is_ne),
    ("<", Ordering::is_lt),
    ("<=", Ordering::is_le),
    (">", Ordering::is_gt),
    (">=", Ordering::is_ge),
];

macro_rules! routines {
    ($($name:literal ($($argument:ident),*) -> $result:ident = $run:expr;)*) => {
        &[$(Routine { name: $name, arguments: &[$($argument),*], result: $result, run: $run }),*]
    };
}

/// All that is no comparison.
pub(super) static ROUTINES: &[Routine] = routines! {
    "+" (INT2, INT2) -> INT2 = |a, out| arithmetic(a, out, i64::checked_add, 2);
    "+" (INT4, INT4) -> INT4 = |a, out| arithmetic(a, out, i64::checked_add, 4);
    "+" (INT8, INT8) -> INT8 = |a, out| arithmetic(a, out, i64::checked_add, 8);
    "-" (INT2, INT2) -> INT2 = |a, out| arithmetic(a, out, i64::checked_sub, 2);
    "-" (INT4, INT4) -> INT4 = |a, out| arithmetic(a, out, i64::checked_sub, 4);
    "-" (INT8, INT8) -> INT8 = |a, out| arithmetic(a, out, i64::checked_sub, 8);
    "*" (INT2, INT2) -> INT2 = |a, out| arithmetic(a, out, i64::checked_mul, 2);
    "*" (INT4, INT4) -> INT4 = |a, out| arithmetic(a, out, i64::checked_mul, 4);
    "*" (INT8, INT8) -> INT8 = |a, out| arithmetic(a, out, i64::checked_mul, 8);
    "/" (INT2, INT2) -> INT2 = |a, out| arithmetic(a, out, i64::checked_div, 2);
    "/" (INT4, INT4) -> INT4 = |a, out| arithmetic(a, out, i64::checked_div, 4);
    "/" (INT8, INT8) -> INT8 = |a, out| arithmetic(a, out, i64::checked_div, 8);
    "%" (INT2, INT2) -> INT2 = |a, out| arithmetic(a, out, remainder, 2);
    "%" (INT4, INT4) -> INT4 = |a, out| arithmetic(a, out, remainder, 4);
    "%" (INT8, INT8) -> INT8 = |a, out| arithmetic(a, out, remainder, 8);

    "||" (TEXT, TEXT) -> TEXT = |a, out| { out.extend_from_slice(a[0]); out.extend_from_slice(a[1]); Ok(true) };
    "^@" (TEXT, TEXT) -> BOOL = |a, out| boolean(a[0].starts_with(a[1]), out);
    "starts_with" (TEXT, TEXT) -> BOOL = |a, out| boolean(a[0].starts_with(a[1]), out);
    "length" (TEXT) -> INT4 = |a, out| int4(utf8(a[0])?.chars().count(), out);
    "split_part" (TEXT, TEXT, INT4) -> TEXT = split_part;

    "->" (JSON, TEXT) -> JSON = |a, out| found(json::step(utf8(a[0])?, Step::Key(utf8(a[1])?))?, out);
    "->" (JSON, INT4) -> JSON = |a, out| found(json::step(utf8(a[0])?, Step::Index(integer(a[1])?))?, out);
    "->" (JSONB, TEXT) -> JSONB = |a, out| found(json::step(utf8(a[0])?, Step::Key(utf8(a[1])?))?, out);
    "->" (JSONB, INT4) -> JSONB = |a, out| found(json::step(utf8(a[0])?, Step::IndexOfJsonb(integer(a[1])?))?, out);
    "->>" (JSON, TEXT) -> TEXT = |a, out| text_of(json::step(utf8(a[0])?, Step::Key(utf8(a[1])?))?, out);
    "->>" (JSON, INT4) -> TEXT = |a, out| text_of(json::step(utf8(a[0])?, Step::Index(integer(a[1])?))?, out);
    "->>" (JSONB, TEXT) -> TEXT = |a, out| text_of(json::step(utf8(a[0])?, Step::Key(utf8(a[1])?))?, out);
    "->>" (JSONB, INT4) -> TEXT = |a, out| text_of(json::step(utf8(a[0])?, Step::IndexOfJsonb(integer(a[1])?))?, out);
    "#>" (JSONB, TEXTS) -> JSONB = |a, out| found(path(a)?, out);
    "#>>" (JSONB, TEXTS) -> TEXT = |a, out| text_of(path(a)?, out);
    "?" (JSONB, TEXT) -> BOOL = |a, out| boolean(json::has(utf8(a[0])?, utf8(a[1])?)?, out);

    "::" (INT2) -> INT4 = |a, out| sized(integer(a[0])?, 4, out);
    "::" (INT2) -> INT8 = |a, out| sized(integer(a[0])?, 8, out);
    "::" (INT4) -> INT2 = |a, out| sized(integer(a[0])?, 2, out);
    "::" (INT4) -> INT8 = |a, out| sized(integer(a[0])?, 8, out);
    "::" (INT8) -> INT2 = |a, out| sized(integer(a[0])?, 2, out);
    "::" (INT8) -> INT4 = |a, out| sized(integer(a[0])?, 4, out);
    "::" (INT2) -> NUMERIC = |a, out| numeric(integer(a[0])?, out);
    "::" (INT4) -> NUMERIC = |a, out| numeric(integer(a[0])?, out);
    "::" (INT8) -> NUMERIC = |a, out| numeric(integer(a[0])?, out);
    "::" (INT2) -> FLOAT8 = |a, out| float8(integer(a[0])? as f64, out);
    "::" (INT4) -> FLOAT8 = |a, out| float8(integer(a[0])? as f64, out);
    "::" (INT8) -> FLOAT8 = |a, out| float8(integer(a[0])? as f64, out);
    "::" (FLOAT4) -> FLOAT8 = |a, out| float8(float(a[0])?, out);
    "::" (BOOL) -> INT4 = |a, out| sized((a[0] == [1]).into(), 4, out);
    "::" (INT4) -> BOOL = |a, out| boolean(integer(a[0])? != 0, out);
    "::" (DATE) -> TIMESTAMP = date_to_timestamp;
    "::" (BPCHAR) -> TEXT = |a, out| { out.extend_from_slice(unpadded(a[0])); Ok(true) };
    "::" (BOOL) -> TEXT = |a, out| { out.extend_from_slice(if a[0] == [1] { b"true" } else { b"false" }); Ok(true) };
    "::" (INT2) -> TEXT = |a, out| printed(Scalar::Int2, a[0], out);
    "::" (INT4) -> TEXT = |a, out| printed(Scalar::Int4, a[0], out);
    "::" (INT8) -> TEXT = |a, out| printed(Scalar::Int8, a[0], out);
    "::" (NUMERIC) -> TEXT = |a, out| printed(Scalar::Numeric, a[0], out);
    "::" (UUID) -> TEXT = |a, out| printed(Scalar::Uuid, a[0], out);
    "::" (JSON) -> TEXT = |a, out| { out.extend_from_slice(a[0]); Ok(true) };
    "::" (JSONB) -> TEXT = |a, out| { out.extend_from_slice(a[0]); Ok(true) };
    "::" (TEXT) -> BOOL = |a, out| boolean(read_bool(utf8(a[0])?)?, out);
    "::" (TEXT) -> INT2 = |a, out| sized(read_integer(utf8(a[0])?)?, 2, out);
    "::" (TEXT) -> INT4 = |a, out| sized(read_integer(utf8(a[0])?)?, 4, out);
    "::" (TEXT) -> INT8 = |a, out| sized(read_integer(utf8(a[0])?)?, 8, out);
    "::" (TEXT) -> UUID = |a, out| { out.extend_from_slice(&read_uuid(utf8(a[0])?)?); Ok(true) };
    "::" (TEXT) -> JSONB = text_to_jsonb;
    "::" (TEXT) -> JSON = |a, out| match json::is_valid(utf8(a[0])?) {
        true => { out.extend_from_slice(a[0]); Ok(true) }
        false => Err(EvalError("a text is not valid JSON")),
    };
    "::" (JSON) -> JSONB = text_to_jsonb;
    "::" (JSONB) -> JSON = |a, out| { out.extend_from_slice(a[0]); Ok(true) };
    "::" (JSONB) -> BOOL = |a, out| match a[0] {
        b"true" => boolean(true, out),
        b"false" => boolean(false, out),
        _ => Err(EvalError("a JSON value is no boolean")),
    };
};

/// Every comparison, operator, function and cast (`::`): its name, what it takes, what it returns.
pub(super) fn all() -> Vec<(&'static str, Vec<Type>, Type)> {
    let mut all: Vec<_> =
        ROUTINES.iter().map(|r| (r.name, r.arguments.to_vec(), r.result)).collect();
    for (left, right) in
        SCALARS.iter().flat_map(|left| SCALARS.iter().map(move |right| (left, right)))
    {
        let (left, right) = (Type::Scalar(*left), Type::Scalar(*right));
        let known =
            COMPARISONS.iter().filter_map(|(name, _)| binary(name, left, right).map(|_| *name));
        all.extend(known.map(|name| (name, vec![left, right], BOOL)));
    }
    all
}

const SCALARS: [Scalar; 18] = [
    Scalar::Bool,
    Scalar::Int2,
    Scalar::Int4,
    Scalar::Int8,
    Scalar::Float4,
    Scalar::Float8,
    Scalar::Numeric,
    Scalar::Text,
    Scalar::Bpchar,
    Scalar::Uuid,
    Scalar::Bytea,
    Scalar::Date,
    Scalar::Time,
    Scalar::Timestamp,
    Scalar::Timestamptz,
    Scalar::Interval,
    Scalar::Json,
    Scalar::Jsonb,
];

/// Finds a comparison or operator for two types.
///
/// - Returns: what it runs, and the type of its result.
pub(super) fn binary(name: &str, left: Type, right: Type) -> Option<(Operation, Type)> {
    if let Some((_, holds)) = COMPARISONS.iter().find(|(known, _)| *known == name) {
        let (Type::Scalar(left), Type::Scalar(right)) = (left, right) else { return None };
        return match comparison(left, right)? {
            Comparison::Equality(_) if !matches!(name, "=" | "<>") => None,
            comparison => Some((Operation::Compare(comparison, *holds), BOOL)),
        };
    }
    function(name, &[left, right])
}

/// Finds a function, or an operator that is no comparison.
pub(super) fn function(name: &str, arguments: &[Type]) -> Option<(Operation, Type)> {
    let found = ROUTINES.iter().find(|r| r.name == name && r.arguments == arguments)?;
    Some((Operation::Run(found), found.result))
}

/// Finds a cast that the author wrote.
pub(super) fn cast(from: Type, to: Type) -> Option<Operation> {
    let found =
        || ROUTINES.iter().find(|r| r.name == "::" && r.arguments == [from] && r.result == to);
    match (from, to) {
        (from, to) if from == to => Some(Operation::Relabel),
        (Type::Scalar(Scalar::Enum(_)), TEXT) | (TEXT, BPCHAR) => Some(Operation::Relabel),
        _ => Some(Operation::Run(found()?)),
    }
}

/// Appends a boolean.
pub(super) fn boolean(value: bool, out: &mut Vec<u8>) -> Result<bool, EvalError> {
    out.push(value.into());
    Ok(true)
}

fn utf8(bytes: &[u8]) -> Result<&str, EvalError> {
    std::str::from_utf8(bytes).map_err(|_| EvalError("a text is not UTF-8"))
}

fn arithmetic(
    arguments: &[&[u8]],
    out: &mut Vec<u8>,
    compute: fn(i64, i64) -> Option<i64>,
    width: usize,
) -> Result<bool, EvalError> {
    let (left, right) = (integer(arguments[0])?, integer(arguments[1])?);
    sized(compute(left, right).ok_or(OUT_OF_RANGE)?, width, out)
}

const OUT_OF_RANGE: EvalError = EvalError("a number is out of range, or divided by zero");

/// As in C, and 0 by -1 also where that overflows.
fn remainder(left: i64, right: i64) -> Option<i64> {
    if right == -1 { Some(0) } else { left.checked_rem(right) }
}

/// Appends an integer of `width` bytes.
fn sized(value: i64, width: usize, out: &mut Vec<u8>) -> Result<bool, EvalError> {
    let fits = match width {
        2 => i16::try_from(value).is_ok(),
        4 => i32::try_from(value).is_ok(),
        _ => true,
    };
    if !fits {
        return Err(OUT_OF_RANGE);
    }
    out.extend_from_slice(&value.to_be_bytes()[8 - width..]);
    Ok(true)
}

fn int4(value: usize, out: &mut Vec<u8>) -> Result<bool, EvalError> {
    sized(i64::try_from(value).map_err(|_| OUT_OF_RANGE)?, 4, out)
}

fn float8(value: f64, out: &mut Vec<u8>) -> Result<bool, EvalError> {
    out.extend_from_slice(&value.to_be_bytes());
    Ok(true)
}

/// Appends an integer as `numeric`: digits of base 10,000 without zeros at the end.
fn numeric(value: i64, out: &mut Vec<u8>) -> Result<bool, EvalError> {
    let mut digits = Vec::new();
    let mut rest = value.unsigned_abs();
    while rest > 0 {
        digits.push((rest % 10_000) as u16);
        rest /= 10_000;
    }
    let weight = (digits.len() as i16 - 1).max(0);
    digits.reverse();
    while digits.last() == Some(&0) {
        digits.pop();
    }
    let sign: u16 = if value < 0 { 0x4000 } else { 0 };
    out.extend_from_slice(&(digits.len() as i16).to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    digits.iter().for_each(|digit| out.extend_from_slice(&digit.to_be_bytes()));
    Ok(true)
}

fn printed(scalar: Scalar, bytes: &[u8], out: &mut Vec<u8>) -> Result<bool, EvalError> {
    let text = to_text(&scalar.pg_type(), bytes);
    out.extend_from_slice(
        text.map_err(|_| EvalError("a value is not one of its type"))?.as_bytes(),
    );
    Ok(true)
}

fn date_to_timestamp(arguments: &[&[u8]], out: &mut Vec<u8>) -> Result<bool, EvalError> {
    const DAY: i64 = 86_400_000_000;
    let days = integer(arguments[0])?;
    let micros = match i32::try_from(days) {
        Ok(i32::MAX) => i64::MAX,
        Ok(i32::MIN) => i64::MIN,
        // Postgres knows no timestamp behind the year 294276.
        _ if days >= 106_751_983 => return Err(OUT_OF_RANGE),
        _ => days.checked_mul(DAY).ok_or(OUT_OF_RANGE)?,
    };
    sized(micros, 8, out)
}

fn split_part(arguments: &[&[u8]], out: &mut Vec<u8>) -> Result<bool, EvalError> {
    let (text, separator) = (utf8(arguments[0])?, utf8(arguments[1])?);
    let number = integer(arguments[2])?;
    let parts: Vec<&str> = match separator {
        "" => vec![text],
        _ if text.is_empty() => Vec::new(),
        _ => text.split(separator).collect(),
    };
    let length = parts.len() as i64;
    let at = match number {
        0 => return Err(EvalError("split_part counts from 1, or from -1 at the end")),
        1.. => number - 1,
        _ => length + number,
    };
    if (0..length).contains(&at) {
        out.extend_from_slice(parts[at as usize].as_bytes());
    }
    Ok(true)
}

fn found(part: Option<&str>, out: &mut Vec<u8>) -> Result<bool, EvalError> {
    let Some(part) = part else { return Ok(false) };
    out.extend_from_slice(part.as_bytes());
    Ok(true)
}

fn text_of(part: Option<&str>, out: &mut Vec<u8>) -> Result<bool, EvalError> {
    let Some(part) = part else { return Ok(false) };
    let Some(text) = json::text(part)? else { return Ok(false) };
    out.extend_from_slice(text.as_bytes());
    Ok(true)
}

/// What a path leads to; a NULL in it leads nowhere.
fn path<'a>(arguments: &[&'a [u8]]) -> Result<Option<&'a str>, EvalError> {
    let mut at = utf8(arguments[0])?.trim();
    let steps = Array::read(arguments[1]).map_err(|_| EvalError("an array is damaged"))?;
    for step in steps.elements() {
        let step = step.map_err(|_| EvalError("an array is damaged"))?;
        let Some(step) = step else { return Ok(None) };
        match json::step(at, Step::Either(utf8(step)?))? {
            Some(part) => at = part,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

fn text_to_jsonb(arguments: &[&[u8]], out: &mut Vec<u8>) -> Result<bool, EvalError> {
    let mut document = String::new();
    jsonb::canonical(utf8(arguments[0])?, &mut document)?;
    out.extend_from_slice(document.as_bytes());
    Ok(true)
}

/// A boolean as `boolin` reads it: any beginning of the words, in any case.
fn read_bool(text: &str) -> Result<bool, EvalError> {
    let text = trimmed(text).to_ascii_lowercase();
    let begins = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    match () {
        _ if begins("true", 1) || begins("yes", 1) || text == "on" || text == "1" => Ok(true),
        _ if begins("false", 1) || begins("no", 1) || begins("off", 2) || text == "0" => Ok(false),
        _ => Err(EvalError("a text is no boolean")),
    }
}

/// A decimal integer. (Newer servers read other bases and digit groups, too; those are errors here.)
fn read_integer(text: &str) -> Result<i64, EvalError> {
    let text = trimmed(text);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    match !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().map_err(|_| OUT_OF_RANGE),
        false => Err(EvalError("a text is no integer")),
    }
}

/// A UUID as `uuid_in` reads it: hyphens behind any group of four digits, or none; braces around it.
fn read_uuid(text: &str) -> Result<[u8; 16], EvalError> {
    const NO_UUID: EvalError = EvalError("a text is no UUID");
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').ok_or(NO_UUID)?,
        None => text,
    };
    let mut bytes = [0; 16];
    let mut rest = inner.as_bytes();
    for (number, byte) in bytes.iter_mut().enumerate() {
        let [high, low, behind @ ..] = rest else { return Err(NO_UUID) };
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(NO_UUID);
        *byte = (digit(*high)? << 4 | digit(*low)?) as u8;
        rest = match behind {
            [b'-', behind @ ..] if number % 2 == 1 && number < 15 => behind,
            behind => behind,
        };
    }
    if rest.is_empty() { Ok(bytes) } else { Err(NO_UUID) }
}

/// Without the white space that C's `isspace` knows.
fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c'])
}

/// What an operation is, for its place in a text.
pub(super) fn describe(name: &str, arguments: &[Type]) -> String {
    let mut text = String::new();
    match arguments {
        [left, right] if !name.starts_with(|c: char| c.is_alphabetic()) => {
            let _ = write!(text, "{left} {name} {right}");
        }
        _ => {
            let list: Vec<String> = arguments.iter().map(Type::to_string).collect();
            let _ = write!(text, "{name}({})", list.join(", "));
        }
    }
    text
}
