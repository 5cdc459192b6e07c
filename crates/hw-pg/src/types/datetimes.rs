//! Dates, times and intervals in text form (`DateStyle=ISO`, `IntervalStyle=postgres`).

use hw_types::text::DamagedValue;
use hw_types::text::datetime::{CivilDate, MICROS_PER_DAY, days_from_civil};

const MICROS_PER_SECOND: i64 = 1_000_000;

/// Takes text from the front.
struct Reader<'a> {
    rest: &'a str,
    damaged: DamagedValue,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, what: &'static str) -> Reader<'a> {
        Reader { rest: text, damaged: DamagedValue::of(what) }
    }

    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn must_take(&mut self, text: &str) -> Result<(), DamagedValue> {
        if self.take(text) { Ok(()) } else { Err(self.damaged) }
    }

    /// Digits, at least one and so few that they fit.
    fn digits(&mut self) -> Result<&'a str, DamagedValue> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        if (1..=10).contains(&digits.len()) { Ok(digits) } else { Err(self.damaged) }
    }

    fn number(&mut self, most: i64) -> Result<i64, DamagedValue> {
        let number = self.digits()?.parse().map_err(|_| self.damaged)?;
        if number <= most { Ok(number) } else { Err(self.damaged) }
    }

    fn end(&self) -> Result<(), DamagedValue> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.damaged) }
    }

    /// `YYYY-MM-DD`; the era is applied by the caller.
    fn date(&mut self) -> Result<CivilDate, DamagedValue> {
        let year = self.number(i64::from(i32::MAX))?;
        self.must_take("-")?;
        let month = self.number(12)?;
        self.must_take("-")?;
        let day = self.number(31)?;
        if year == 0 || month == 0 || day == 0 {
            return Err(self.damaged);
        }
        Ok(CivilDate { year, month: month as u8, day: day as u8 })
    }

    /// `HH:MM:SS[.ffffff]` in microseconds.
    fn time(&mut self, most_hours: i64) -> Result<i128, DamagedValue> {
        let hours = self.number(most_hours)?;
        self.must_take(":")?;
        let minutes = self.number(59)?;
        self.must_take(":")?;
        let seconds = self.number(59)?;
        let mut micros = 0;
        if self.take(".") {
            let digits = self.digits()?;
            if digits.len() > 6 {
                return Err(self.damaged);
            }
            let fraction: i64 = digits.parse().map_err(|_| self.damaged)?;
            micros = fraction * 10i64.pow(6 - digits.len() as u32);
        }
        let seconds = i128::from(hours) * 3600 + i128::from(minutes * 60 + seconds);
        Ok(seconds * i128::from(MICROS_PER_SECOND) + i128::from(micros))
    }

    /// `+HH[:MM[:SS]]` in seconds west of UTC.
    fn zone(&mut self) -> Result<i32, DamagedValue> {
        let sign = if self.take("-") {
            1
        } else {
            self.must_take("+")?;
            -1
        };
        let mut seconds = self.number(99)? * 3600;
        if self.take(":") {
            seconds += self.number(59)? * 60;
        }
        if self.take(":") {
            seconds += self.number(59)?;
        }
        Ok(sign * seconds as i32)
    }

    /// The date with its era, which ends the text.
    fn days(&mut self, date: CivilDate) -> Result<i64, DamagedValue> {
        let bc = self.take(" BC");
        self.end()?;
        let year = if bc { 1 - date.year } else { date.year };
        Ok(days_from_civil(CivilDate { year, ..date }))
    }
}

pub(super) fn append_date(text: &str, out: &mut Vec<u8>) -> Result<(), DamagedValue> {
    let days = match text {
        "infinity" => i32::MAX,
        "-infinity" => i32::MIN,
        _ => {
            let mut reader = Reader::new(text, "date");
            let date = reader.date()?;
            i32::try_from(reader.days(date)?).map_err(|_| reader.damaged)?
        }
    };
    out.extend(days.to_be_bytes());
    Ok(())
}

pub(super) fn append_time(text: &str, out: &mut Vec<u8>) -> Result<(), DamagedValue> {
    let mut reader = Reader::new(text, "time");
    let micros = time_of_day(&mut reader)?;
    reader.end()?;
    out.extend(micros.to_be_bytes());
    Ok(())
}

pub(super) fn append_timetz(text: &str, out: &mut Vec<u8>) -> Result<(), DamagedValue> {
    let mut reader = Reader::new(text, "timetz");
    let micros = time_of_day(&mut reader)?;
    let zone = reader.zone()?;
    reader.end()?;
    out.extend(micros.to_be_bytes());
    out.extend(zone.to_be_bytes());
    Ok(())
}

fn time_of_day(reader: &mut Reader<'_>) -> Result<i64, DamagedValue> {
    let micros = i64::try_from(reader.time(24)?).map_err(|_| reader.damaged)?;
    if micros <= MICROS_PER_DAY { Ok(micros) } else { Err(reader.damaged) }
}

pub(super) fn append_timestamp(text: &str, out: &mut Vec<u8>) -> Result<(), DamagedValue> {
    append_point(text, "timestamp", false, out)
}

pub(super) fn append_timestamptz(text: &str, out: &mut Vec<u8>) -> Result<(), DamagedValue> {
    append_point(text, "timestamptz", true, out)
}

fn append_point(
    text: &str,
    what: &'static str,
    zoned: bool,
    out: &mut Vec<u8>,
) -> Result<(), DamagedValue> {
    let micros = match text {
        "infinity" => i64::MAX,
        "-infinity" => i64::MIN,
        _ => {
            let mut reader = Reader::new(text, what);
            let date = reader.date()?;
            reader.must_take(" ")?;
            let time = reader.time(24)?;
            let west = if zoned { i128::from(reader.zone()?) } else { 0 };
            let days = i128::from(reader.days(date)?);
            let micros =
                days * i128::from(MICROS_PER_DAY) + time + west * i128::from(MICROS_PER_SECOND);
            i64::try_from(micros).map_err(|_| reader.damaged)?
        }
    };
    out.extend(micros.to_be_bytes());
    Ok(())
}

/// `1 year 2 mons -3 days +04:05:06.789`, each part optional.
pub(super) fn append_interval(text: &str, out: &mut Vec<u8>) -> Result<(), DamagedValue> {
    let damaged = DamagedValue::of("interval");
    let (mut months, mut days, mut micros) = (0i64, 0i64, 0i128);
    match text {
        // From version 17 on.
        "infinity" => (months, days, micros) = (i32::MAX.into(), i32::MAX.into(), i64::MAX.into()),
        "-infinity" => {
            (months, days, micros) = (i32::MIN.into(), i32::MIN.into(), i64::MIN.into());
        }
        _ => {
            let mut words = text.split(' ');
            while let Some(word) = words.next() {
                let (sign, unsigned) = match word.strip_prefix('-') {
                    Some(rest) => (-1, rest),
                    None => (1, word.strip_prefix('+').unwrap_or(word)),
                };
                if unsigned.contains(':') {
                    let mut reader = Reader::new(unsigned, "interval");
                    micros = reader.time(i64::MAX)? * i128::from(sign);
                    reader.end()?;
                    continue;
                }
                let mut reader = Reader::new(unsigned, "interval");
                let number = reader.number(i64::MAX)? * sign;
                reader.end()?;
                match words.next() {
                    Some("year" | "years") => months += number * 12,
                    Some("mon" | "mons") => months += number,
                    Some("day" | "days") => days += number,
                    _ => return Err(damaged),
                }
            }
        }
    }
    out.extend(i64::try_from(micros).map_err(|_| damaged)?.to_be_bytes());
    out.extend(i32::try_from(days).map_err(|_| damaged)?.to_be_bytes());
    out.extend(i32::try_from(months).map_err(|_| damaged)?.to_be_bytes());
    Ok(())
}
