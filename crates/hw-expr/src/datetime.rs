//! Dates and times of rows as texts: from canonical numbers straight to the form that the
//! options ask for.
//!
//! Source: `sync-rules.md` 4.2, 4.3; `powersync-protocol.md` 11.2.

/// Days from 1970-01-01 to 2000-01-01, where Postgres counts from.
const POSTGRES_EPOCH_DAYS: i64 = 10_957;
const DAY_MICROS: i64 = 86_400_000_000;

/// How date-times are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeStyle {
    /// As Postgres prints: a blank, and as many digits as there are.
    Legacy,
    /// `T`, and exactly this many digits (0 to 6), cut and never rounded.
    Iso {
        /// Digits of the fraction.
        digits: u8,
    },
}

/// Year (astronomical: 0 is 1 BC), month and day of a number of days since 1970-01-01.
pub fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil_from_days`].
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let yoe = year.rem_euclid(400);
    let mp = i64::from(month + 9) % 12;
    let doy = (153 * mp + 2) / 5 + i64::from(day) - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

/// Appends a `date`: as Postgres prints it, infinities as the last and first day of four-digit
/// years.
pub fn write_date(days: i32, out: &mut String) {
    match days {
        i32::MAX => out.push_str("9999-12-31"),
        i32::MIN => out.push_str("0000-01-01"),
        _ => {
            let (year, month, day) = civil_from_days(i64::from(days) + POSTGRES_EPOCH_DAYS);
            write_civil(year, month, day, out);
            if year <= 0 {
                out.push_str(" BC");
            }
        }
    }
}

/// Appends a `time`.
pub fn write_time(micros: i64, style: TimeStyle, out: &mut String) {
    let seconds = micros.div_euclid(1_000_000);
    pair(seconds / 3600, out);
    out.push(':');
    pair(seconds / 60 % 60, out);
    out.push(':');
    pair(seconds % 60, out);
    write_fraction(micros.rem_euclid(1_000_000) as u32, style, out);
}

/// Appends a `timestamp` or, with `zone`, a `timestamptz`. `false`, and nothing is appended,
/// when the value has no text: BC, and with a zone a year beyond 9999; it is NULL then.
pub fn write_timestamp(micros: i64, zone: bool, style: TimeStyle, out: &mut String) -> bool {
    let separator = if style == TimeStyle::Legacy { ' ' } else { 'T' };
    let (date, time) = match micros {
        i64::MAX => ((9999, 12, 31), 86_399_000_000),
        i64::MIN => ((0, 1, 1), 0),
        _ => {
            let days = micros.div_euclid(DAY_MICROS) + POSTGRES_EPOCH_DAYS;
            let date = civil_from_days(days);
            if date.0 <= 0 || (zone && date.0 > 9999) {
                return false;
            }
            (date, micros.rem_euclid(DAY_MICROS))
        }
    };
    write_civil(date.0, date.1, date.2, out);
    if micros == i64::MIN {
        // Year 0 is written as such here, not as 1 BC.
        let start = out.len() - 10;
        out.replace_range(start..start + 4, "0000");
    }
    out.push(separator);
    write_time(time, style, out);
    if zone {
        out.push('Z');
    }
    true
}

fn write_civil(year: i64, month: u32, day: u32, out: &mut String) {
    let shown = if year <= 0 { 1 - year } else { year };
    if shown < 1000 {
        out.push_str(
            &"000"[..if shown < 10 {
                3
            } else if shown < 100 {
                2
            } else {
                1
            }],
        );
    }
    out.push_str(itoa::Buffer::new().format(shown));
    out.push('-');
    pair(i64::from(month), out);
    out.push('-');
    pair(i64::from(day), out);
}

fn pair(value: i64, out: &mut String) {
    out.push((b'0' + (value / 10 % 10) as u8) as char);
    out.push((b'0' + (value % 10) as u8) as char);
}

fn write_fraction(micros: u32, style: TimeStyle, out: &mut String) {
    let mut digits = [0u8; 6];
    let mut rest = micros;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let keep = match style {
        TimeStyle::Iso { digits } => usize::from(digits.min(6)),
        TimeStyle::Legacy => 6 - digits.iter().rev().take_while(|&&d| d == b'0').count(),
    };
    if keep > 0 {
        out.push('.');
        out.extend(digits[..keep].iter().map(|&d| d as char));
    }
}

/// Reads what Postgres prints for a `timestamp` or `timestamptz` (`2030-01-02 03:04:05.5+01`):
/// microseconds since 2000-01-01, in UTC when there is a zone. For rows that are written by hand
/// in tests of a configuration; `None` when it is not one.
pub fn read_timestamp(text: &str) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let (text, bc) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (date, time) = text.split_once([' ', 'T']).unwrap_or((text, "00:00:00"));
    let mut parts = date.splitn(3, '-');
    let year: i64 = parts.next()?.parse().ok()?;
    let month: u32 = parts.next()?.parse().ok().filter(|m| (1..=12).contains(m))?;
    let day: u32 = parts.next()?.parse().ok().filter(|d| (1..=31).contains(d))?;
    let year = if bc { 1 - year } else { year };
    let zone = time.find(['+', '-', 'Z']);
    let (clock, zone) = time.split_at(zone.unwrap_or(time.len()));
    let mut micros = days_from_civil(year, month, day)
        .checked_sub(POSTGRES_EPOCH_DAYS)?
        .checked_mul(DAY_MICROS)?
        .checked_add(read_time(clock)?)?;
    if let Some(sign) = zone.chars().next().filter(|c| *c != 'Z') {
        let mut parts = zone[1..].split(':');
        let mut offset = 0;
        for unit in [3600, 60, 1] {
            offset += parts.next().map_or(Some(0), |p| p.parse::<i64>().ok())? * unit;
        }
        micros -= if sign == '-' { -offset } else { offset } * 1_000_000;
    }
    Some(micros)
}

/// Reads a `time` (`10:11:12.5`): microseconds of the day.
pub fn read_time(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, ':');
    let hours: i64 = parts.next()?.parse().ok().filter(|h| (0..=24).contains(h))?;
    let minutes: i64 = parts.next()?.parse().ok().filter(|m| (0..60).contains(m))?;
    let (whole, part) = match parts.next() {
        None => ("0", ""),
        Some(seconds) => seconds.split_once('.').unwrap_or((seconds, "")),
    };
    let seconds: i64 = whole.parse().ok().filter(|s| (0..=60).contains(s))?;
    if !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let fraction: i64 = format!("{part:0<6}").get(..6)?.parse().ok()?;
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str, zone: bool, style: TimeStyle) -> Option<String> {
        let mut out = String::new();
        write_timestamp(read_timestamp(text).unwrap(), zone, style, &mut out).then_some(out)
    }

    #[test]
    fn timestamps_print_in_both_styles() {
        let iso = TimeStyle::Iso { digits: 6 };
        let legacy = TimeStyle::Legacy;
        for (text, zone, style, expected) in [
            ("2030-01-02 03:04:05.5", false, legacy, Some("2030-01-02 03:04:05.5")),
            ("2030-01-02 03:04:05.5", false, iso, Some("2030-01-02T03:04:05.500000")),
            ("2030-01-02 03:04:05+01", true, legacy, Some("2030-01-02 02:04:05Z")),
            ("2030-01-02 03:04:05+01", true, iso, Some("2030-01-02T02:04:05.000000Z")),
            ("1970-01-01 00:00:00-05:30", true, legacy, Some("1970-01-01 05:30:00Z")),
            ("0044-03-15 10:00:00 BC", false, iso, None),
            ("10000-01-01 00:00:00", false, legacy, Some("10000-01-01 00:00:00")),
            ("10000-01-01 00:00:00+00", true, legacy, None),
            ("infinity", false, legacy, Some("9999-12-31 23:59:59")),
            ("-infinity", true, iso, Some("0000-01-01T00:00:00.000000Z")),
            (
                "1999-12-31 23:59:59.999999",
                false,
                TimeStyle::Iso { digits: 3 },
                Some("1999-12-31T23:59:59.999"),
            ),
            (
                "1999-12-31 23:59:59.999999",
                false,
                TimeStyle::Iso { digits: 0 },
                Some("1999-12-31T23:59:59"),
            ),
        ] {
            assert_eq!(written(text, zone, style).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn dates_and_times_print_as_postgres_prints_them() {
        let date = |y, m, d| (days_from_civil(y, m, d) - POSTGRES_EPOCH_DAYS) as i32;
        for (days, text) in [
            (date(2023, 3, 6), "2023-03-06"),
            (date(-43, 3, 15), "0044-03-15 BC"),
            (date(12345, 1, 1), "12345-01-01"),
            (i32::MAX, "9999-12-31"),
            (i32::MIN, "0000-01-01"),
        ] {
            let mut out = String::new();
            write_date(days, &mut out);
            assert_eq!(out, text);
        }
        let mut out = String::new();
        write_time(read_time("10:11:12.5").unwrap(), TimeStyle::Iso { digits: 6 }, &mut out);
        out.push(' ');
        write_time(read_time("24:00:00").unwrap(), TimeStyle::Legacy, &mut out);
        assert_eq!(out, "10:11:12.500000 24:00:00");
    }

    #[test]
    fn days_and_civil_dates_are_inverse() {
        for days in (-800_000..800_000).step_by(97) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }
}
