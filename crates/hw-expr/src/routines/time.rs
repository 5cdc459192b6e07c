//! `unixepoch` and `datetime`. There is no clock: `'now'` is NULL. Source: `sync-rules.md` 7.2.

use super::{OnNull, Routine, TypeRule, TypeSet, entry};
use crate::datetime::{civil_from_days, days_from_civil};
use crate::error::EvalError;
use crate::value::SqlValue;
use std::fmt::Write;

pub(super) static FUNCTIONS: [Routine; 2] = [
    entry(
        "unixepoch",
        (1, usize::MAX),
        OnNull::Call,
        TypeRule::Is(TypeSet::INTEGER.union(TypeSet::REAL)),
        unixepoch,
    ),
    entry("datetime", (1, usize::MAX), OnNull::Call, TypeRule::Is(TypeSet::TEXT), datetime),
];

fn unixepoch<'a>(args: &mut [SqlValue<'a>]) -> Result<SqlValue<'a>, EvalError> {
    Ok(match moment(args) {
        None => SqlValue::Null,
        Some((millis, true)) => SqlValue::Real(millis as f64 / 1000.0),
        Some((millis, false)) => SqlValue::Integer(i128::from(millis.div_euclid(1000))),
    })
}

fn datetime<'a>(args: &mut [SqlValue<'a>]) -> Result<SqlValue<'a>, EvalError> {
    let Some((millis, subsecond)) = moment(args) else { return Ok(SqlValue::Null) };
    let (days, rest) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    let (year, month, day) = civil_from_days(days);
    let seconds = rest / 1000;
    let mut out = String::new();
    let _ = if year < 0 { write!(out, "{year}") } else { write!(out, "{year:04}") };
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let _ = write!(out, "-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}");
    if subsecond {
        let _ = write!(out, ".{:03}", rest % 1000);
    }
    Ok(SqlValue::text(out))
}

/// Milliseconds since 1970 in UTC, and whether fractions are wanted.
fn moment(args: &[SqlValue<'_>]) -> Option<(i64, bool)> {
    let subsec =
        |v: &SqlValue<'_>| matches!(v, SqlValue::Text(t) if t == "subsec" || t == "subsecond");
    let epoch = |v: &SqlValue<'_>| matches!(v, SqlValue::Text(t) if t == "unixepoch");
    let (unix, fractions) = match args.get(1..)? {
        [] => (false, false),
        [a] if epoch(a) => (true, false),
        [a] if subsec(a) => (false, true),
        [a, b] if epoch(a) && subsec(b) => (true, true),
        _ => return None,
    };
    let number = match args.first()? {
        SqlValue::Null | SqlValue::Blob(_) => return None,
        SqlValue::Integer(value) => *value as f64,
        SqlValue::Real(value) => *value,
        SqlValue::Text(text) => {
            let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            match text.parse::<f64>() {
                // A text of digits is a Julian day, whatever the modifier says.
                Ok(day) if digits => return julian(day).map(|millis| (millis, fractions)),
                _ => return parse_iso(text).map(|millis| (millis, fractions)),
            }
        }
    };
    let millis = if unix { whole(number * 1000.0) } else { julian(number) };
    millis.map(|millis| (millis, fractions))
}

fn julian(day: f64) -> Option<i64> {
    whole(((day - 2_440_587.5) * 86_400_000.0).round())
}

/// Bounded as JavaScript's dates are: 100 million days around 1970.
fn whole(millis: f64) -> Option<i64> {
    (millis.abs() <= 8.64e15).then_some(millis.floor() as i64)
}

/// `YYYY-MM-DD[( |T)HH:MM[:SS[.fff]]][Z|±HH:MM]`, without a zone in UTC.
fn parse_iso(text: &str) -> Option<i64> {
    let mut input = text.trim();
    let negative = input.strip_prefix('-').map(|rest| input = rest).is_some();
    let number = |digits: usize, input: &mut &str| -> Option<i64> {
        let head = input.get(..digits)?;
        if !head.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *input = &input[digits..];
        head.parse().ok()
    };
    let expect = |c: char, input: &mut &str| -> Option<()> {
        *input = input.strip_prefix(c)?;
        Some(())
    };
    let year_digits = if negative { 6 } else { 4 };
    let year = number(year_digits, &mut input)? * if negative { -1 } else { 1 };
    expect('-', &mut input)?;
    let month = number(2, &mut input)?;
    expect('-', &mut input)?;
    let day = number(2, &mut input)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=longest).contains(&day) {
        return None;
    }
    let mut millis = days_from_civil(year, month as u32, day as u32) * 86_400_000;
    if input.starts_with([' ', 'T', 't']) {
        input = &input[1..];
        let hour = number(2, &mut input)?;
        expect(':', &mut input)?;
        let minute = number(2, &mut input)?;
        let mut second = 0;
        let mut fraction = 0;
        if expect(':', &mut input).is_some() {
            second = number(2, &mut input)?;
            if expect('.', &mut input).is_some() {
                let digits = input.bytes().take_while(u8::is_ascii_digit).count();
                if digits == 0 {
                    return None;
                }
                let padded = format!("{:0<3}", &input[..digits.min(3)]);
                fraction = padded.parse().ok()?;
                input = &input[digits..];
            }
        }
        if hour > 24 || minute > 59 || second > 59 || (hour == 24 && minute + second > 0) {
            return None;
        }
        millis += ((hour * 60 + minute) * 60 + second) * 1000 + fraction;
        match input.bytes().next() {
            None => {}
            Some(b'Z' | b'z') => input = &input[1..],
            Some(sign @ (b'+' | b'-')) => {
                input = &input[1..];
                let hours = number(2, &mut input)?;
                expect(':', &mut input)?;
                let minutes = number(2, &mut input)?;
                let offset = (hours * 60 + minutes) * 60_000;
                millis -= if sign == b'-' { -offset } else { offset };
            }
            Some(_) => return None,
        }
    }
    input.is_empty().then_some(millis)
}
