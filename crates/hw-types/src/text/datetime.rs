//! Dates, times and intervals: their civil parts, and what Postgres prints.
//!
//! In: canonical bytes. Out: civil parts of the proleptic Gregorian calendar, for surfaces that
//! have a form of their own; and the ISO text. Years are astronomical: 0 is 1 BC.
//!
//! Sources: PostgreSQL `datetime.c` (`EncodeDateOnly`, `EncodeTimeOnly`, `EncodeDateTime`,
//! `EncodeInterval`), `timestamp.c`.

use super::{DamagedValue, fixed, put};

/// Microseconds of a day.
pub const MICROS_PER_DAY: i64 = 86_400_000_000;
/// Days from 1970-01-01 to 2000-01-01, where Postgres counts from.
const POSTGRES_EPOCH: i64 = 10_957;

/// A point in time that may be infinitely far away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment<T> {
    /// `-infinity`.
    InfinitePast,
    /// A point on the calendar.
    Finite(T),
    /// `infinity`.
    InfiniteFuture,
}

/// A day of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CivilDate {
    /// Astronomical: 0 is 1 BC, -43 is 44 BC.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

impl CivilDate {
    /// Whether the year is before the common era.
    pub fn is_bc(&self) -> bool {
        self.year <= 0
    }

    /// The year as it is written: 44 for 44 BC.
    pub fn written_year(&self) -> i64 {
        if self.year > 0 { self.year } else { 1 - self.year }
    }
}

/// A time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CivilTime {
    /// 0 to 24: Postgres has 24:00:00.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// 0 to 999,999.
    pub microsecond: u32,
}

/// The three independent parts of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntervalParts {
    /// Months.
    pub months: i32,
    /// Days.
    pub days: i32,
    /// Microseconds.
    pub micros: i64,
}

/// The day of a day number from 2000-01-01.
pub fn civil_from_days(days: i64) -> CivilDate {
    // Howard Hinnant's algorithm: eras of 400 years that start in March.
    let shifted = days + POSTGRES_EPOCH + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = (of_year - (153 * month_from_march + 2) / 5 + 1) as u8;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    CivilDate { year, month: month as u8, day }
}

/// The day number from 2000-01-01 of a day, which must exist.
pub fn days_from_civil(date: CivilDate) -> i64 {
    let (month, day) = (i64::from(date.month), i64::from(date.day));
    let year = if month <= 2 { date.year - 1 } else { date.year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    days - 719_468 - POSTGRES_EPOCH
}

/// A moment in whole seconds since 1970: `2026-11-20 02:54:42 UTC`.
pub fn utc(since_1970: u64) -> String {
    let days = i64::try_from(since_1970 / 86_400).unwrap_or(i64::MAX / 2) - POSTGRES_EPOCH;
    let (CivilDate { year, month, day }, second) = (civil_from_days(days), since_1970 % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// A canonical `date`.
pub fn date(bytes: &[u8]) -> Result<Moment<CivilDate>, DamagedValue> {
    Ok(match i32::from_be_bytes(fixed(bytes, "date")?) {
        i32::MIN => Moment::InfinitePast,
        i32::MAX => Moment::InfiniteFuture,
        days => Moment::Finite(civil_from_days(i64::from(days))),
    })
}

/// A canonical `timestamp`, or a `timestamptz` in UTC.
pub fn timestamp(bytes: &[u8]) -> Result<Moment<(CivilDate, CivilTime)>, DamagedValue> {
    Ok(match i64::from_be_bytes(fixed(bytes, "timestamp")?) {
        i64::MIN => Moment::InfinitePast,
        i64::MAX => Moment::InfiniteFuture,
        micros => {
            let of_day = micros.rem_euclid(MICROS_PER_DAY);
            let date = civil_from_days(micros.div_euclid(MICROS_PER_DAY));
            Moment::Finite((date, time_of_day(of_day)))
        }
    })
}

/// A canonical `time`.
pub fn time(bytes: &[u8]) -> Result<CivilTime, DamagedValue> {
    let micros = i64::from_be_bytes(fixed(bytes, "time")?);
    match (0..=MICROS_PER_DAY).contains(&micros) {
        true => Ok(time_of_day(micros)),
        false => Err(DamagedValue::of("time")),
    }
}

/// A canonical `timetz`: the local time, and the zone in seconds **west** of UTC.
pub fn timetz(bytes: &[u8]) -> Result<(CivilTime, i32), DamagedValue> {
    let damaged = DamagedValue::of("timetz");
    let bytes: [u8; 12] = fixed(bytes, "timetz")?;
    let (micros, zone) = bytes.split_at(8);
    let time = time(micros).map_err(|_| damaged)?;
    let zone = i32::from_be_bytes(fixed(zone, "timetz")?);
    match zone.unsigned_abs() < 100 * 3600 {
        true => Ok((time, zone)),
        false => Err(damaged),
    }
}

/// A canonical `interval`.
pub fn interval(bytes: &[u8]) -> Result<Moment<IntervalParts>, DamagedValue> {
    let bytes: [u8; 16] = fixed(bytes, "interval")?;
    let parts = IntervalParts {
        micros: i64::from_be_bytes(fixed(&bytes[..8], "interval")?),
        days: i32::from_be_bytes(fixed(&bytes[8..12], "interval")?),
        months: i32::from_be_bytes(fixed(&bytes[12..], "interval")?),
    };
    Ok(match (parts.months, parts.days, parts.micros) {
        // The infinities of version 17. Before, these were finite values that nobody stores.
        (i32::MIN, i32::MIN, i64::MIN) => Moment::InfinitePast,
        (i32::MAX, i32::MAX, i64::MAX) => Moment::InfiniteFuture,
        _ => Moment::Finite(parts),
    })
}

fn time_of_day(micros: i64) -> CivilTime {
    let seconds = micros / 1_000_000;
    CivilTime {
        hour: (seconds / 3600) as u8,
        minute: (seconds / 60 % 60) as u8,
        second: (seconds % 60) as u8,
        microsecond: (micros % 1_000_000) as u32,
    }
}

pub(super) fn write_date(bytes: &[u8], out: &mut String) -> Result<(), DamagedValue> {
    if let Some(date) = finite(date(bytes)?, out) {
        put_date(date, out);
        put_era(date, out);
    }
    Ok(())
}

/// Appends a canonical `timestamp`, with `zone` behind its time.
///
/// - Takes: what stands between date and time, a space in ISO text and `T` in JSON.
pub fn write_timestamp(
    bytes: &[u8],
    separator: char,
    zone: &str,
    out: &mut String,
) -> Result<(), DamagedValue> {
    if let Some((date, time)) = finite(timestamp(bytes)?, out) {
        put_date(date, out);
        out.push(separator);
        put_time(time, out);
        out.push_str(zone);
        put_era(date, out);
    }
    Ok(())
}

pub(super) fn write_time(bytes: &[u8], out: &mut String) -> Result<(), DamagedValue> {
    put_time(time(bytes)?, out);
    Ok(())
}

pub(super) fn write_timetz(bytes: &[u8], out: &mut String) -> Result<(), DamagedValue> {
    let (time, west) = timetz(bytes)?;
    put_time(time, out);
    out.push(if west > 0 { '-' } else { '+' });
    let seconds = west.unsigned_abs();
    put(out, format_args!("{:02}", seconds / 3600));
    if seconds % 3600 != 0 {
        put(out, format_args!(":{:02}", seconds / 60 % 60));
    }
    if seconds % 60 != 0 {
        put(out, format_args!(":{:02}", seconds % 60));
    }
    Ok(())
}

pub(super) fn write_interval(bytes: &[u8], out: &mut String) -> Result<(), DamagedValue> {
    let Some(parts) = finite(interval(bytes)?, out) else { return Ok(()) };
    let start = out.len();
    // A part behind a negative one carries its plus sign.
    let mut behind_negative = false;
    for (value, unit) in
        [(parts.months / 12, "year"), (parts.months % 12, "mon"), (parts.days, "day")]
    {
        if value == 0 {
            continue;
        }
        let space = if out.len() > start { " " } else { "" };
        let plus = if behind_negative && value > 0 { "+" } else { "" };
        let plural = if value == 1 { "" } else { "s" };
        put(out, format_args!("{space}{plus}{value} {unit}{plural}"));
        behind_negative = value < 0;
    }
    if out.len() > start && parts.micros == 0 {
        return Ok(());
    }
    if out.len() > start {
        out.push(' ');
    }
    if parts.micros < 0 {
        out.push('-');
    } else if behind_negative {
        out.push('+');
    }
    let micros = parts.micros.unsigned_abs();
    let seconds = micros / 1_000_000;
    put(out, format_args!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60));
    put_fraction((micros % 1_000_000) as u32, out);
    Ok(())
}

/// The finite part, or writes the infinity.
fn finite<T>(moment: Moment<T>, out: &mut String) -> Option<T> {
    match moment {
        Moment::Finite(value) => return Some(value),
        Moment::InfinitePast => out.push_str("-infinity"),
        Moment::InfiniteFuture => out.push_str("infinity"),
    }
    None
}

fn put_date(date: CivilDate, out: &mut String) {
    put(out, format_args!("{:04}-{:02}-{:02}", date.written_year(), date.month, date.day));
}

fn put_era(date: CivilDate, out: &mut String) {
    if date.is_bc() {
        out.push_str(" BC");
    }
}

fn put_time(time: CivilTime, out: &mut String) {
    put(out, format_args!("{:02}:{:02}:{:02}", time.hour, time.minute, time.second));
    put_fraction(time.microsecond, out);
}

/// Up to six digits without trailing zeros.
fn put_fraction(micros: u32, out: &mut String) {
    if micros != 0 {
        put(out, format_args!(".{micros:06}"));
        out.truncate(out.trim_end_matches('0').len());
    }
}
