//! Numbers as Postgres prints them.
//!
//! Sources: PostgreSQL `numeric.c` (`numeric_out`, `get_str_from_var`), `float.c`, `common/d2s.c`
//! and `common/f2s.c` (shortest digits that give the same number back, never a boundary between
//! two numbers; fixed point from 1e-4 up to 1e15, or 1e6 for float4).

use super::{DamagedValue, put};
use std::fmt::Write;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

pub(super) fn write_numeric(bytes: &[u8], out: &mut String) -> Result<(), DamagedValue> {
    let damaged = || DamagedValue::of("numeric");
    let short = |index: usize| {
        bytes.get(2 * index..2 * index + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    };
    let (Some(count), Some(weight), Some(sign), Some(scale)) =
        (short(0), short(1), short(2), short(3))
    else {
        return Err(damaged());
    };
    let special = match sign {
        0 => None,
        NEGATIVE => {
            out.push('-');
            None
        }
        NAN => Some("NaN"),
        INFINITY => Some("Infinity"),
        NEGATIVE_INFINITY => Some("-Infinity"),
        _ => return Err(damaged()),
    };
    if let Some(word) = special {
        out.push_str(word);
        return Ok(());
    }
    if bytes.len() != 8 + 2 * usize::from(count) || scale > 0x3fff {
        return Err(damaged());
    }
    let weight = i32::from(weight as i16);
    let digit = |position: i32| -> Result<u16, DamagedValue> {
        match usize::try_from(position).ok().filter(|index| *index < usize::from(count)) {
            None => Ok(0),
            Some(index) => short(4 + index).filter(|digit| *digit < 10_000).ok_or_else(damaged),
        }
    };
    if weight < 0 {
        out.push('0');
    } else {
        put(out, digit(0)?);
        for position in 1..=weight {
            put(out, format_args!("{:04}", digit(position)?));
        }
    }
    if scale > 0 {
        out.push('.');
        let end = out.len() + usize::from(scale);
        let mut position = weight + 1;
        while out.len() < end {
            put(out, format_args!("{:04}", digit(position)?));
            position += 1;
        }
        out.truncate(end);
    }
    Ok(())
}

/// Digits from which on the exact value can lie in the middle of two candidates.
const TIES_FROM_FLOAT8: usize = 16;
const TIES_FROM_FLOAT4: usize = 7;
/// Digits that always give the number back.
const MOST_FLOAT8: usize = 17;
const MOST_FLOAT4: usize = 9;

pub(super) fn write_float8(value: f64, out: &mut String) {
    if write_special(
        value.is_nan(),
        value.is_infinite(),
        value.is_sign_negative(),
        value == 0.0,
        out,
    ) {
        return;
    }
    let value = value.abs();
    let bits = value.to_bits();
    let (fraction, exponent) = (bits & ((1 << 52) - 1), (bits >> 52) as i32);
    let interval = match exponent {
        0 => Interval { mantissa: fraction, exponent: -1074, narrow_below: false },
        _ => Interval {
            mantissa: fraction | 1 << 52,
            exponent: exponent - 1075,
            narrow_below: fraction == 0 && exponent > 1,
        },
    };
    let mut digits = Digits::of(format_args!("{value:e}"));
    let gives_value_back = |text: &str| text.parse() == Ok(value);
    let exact = |more: usize| Digits::of(format_args!("{value:.more$e}"));
    digits.choose(&interval, TIES_FROM_FLOAT8, MOST_FLOAT8, gives_value_back, exact);
    digits.write(15, out);
}

pub(super) fn write_float4(value: f32, out: &mut String) {
    if write_special(
        value.is_nan(),
        value.is_infinite(),
        value.is_sign_negative(),
        value == 0.0,
        out,
    ) {
        return;
    }
    let value = value.abs();
    let bits = u64::from(value.to_bits());
    let (fraction, exponent) = (bits & ((1 << 23) - 1), (bits >> 23) as i32);
    let interval = match exponent {
        0 => Interval { mantissa: fraction, exponent: -149, narrow_below: false },
        _ => Interval {
            mantissa: fraction | 1 << 23,
            exponent: exponent - 150,
            narrow_below: fraction == 0 && exponent > 1,
        },
    };
    let mut digits = Digits::of(format_args!("{value:e}"));
    let gives_value_back = |text: &str| text.parse() == Ok(value);
    let exact = |more: usize| Digits::of(format_args!("{value:.more$e}"));
    digits.choose(&interval, TIES_FROM_FLOAT4, MOST_FLOAT4, gives_value_back, exact);
    digits.write(6, out);
}

/// The decimals that read back as `mantissa * 2^exponent`.
struct Interval {
    mantissa: u64,
    exponent: i32,
    /// Whether the neighbour below is half as far away as the one above.
    narrow_below: bool,
}

/// Writes what has no digits, or the sign of what has.
fn write_special(nan: bool, infinite: bool, negative: bool, zero: bool, out: &mut String) -> bool {
    if nan {
        out.push_str("NaN");
        return true;
    }
    if negative {
        out.push('-');
    }
    if infinite {
        out.push_str("Infinity");
    } else if zero {
        out.push('0');
    }
    infinite || zero
}

/// Catches `1.2345e-7` of the standard library without allocating.
#[derive(Default)]
struct Digits {
    bytes: [u8; 32],
    len: usize,
}

impl Write for Digits {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        let place = self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

impl Digits {
    fn of(text: std::fmt::Arguments<'_>) -> Digits {
        let mut digits = Digits::default();
        digits.write_fmt(text).expect("a float in scientific form has at most 32 bytes");
        digits
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("formatted numbers are ASCII")
    }

    /// Replaces the digits that the standard library chose by those that Postgres chooses, where
    /// they differ: of two candidates at the same distance the even one, and never a decimal
    /// that lies exactly between two floats.
    fn choose(
        &mut self,
        interval: &Interval,
        ties_from: usize,
        most: usize,
        gives_value_back: impl Fn(&str) -> bool,
        exact: impl Fn(usize) -> Digits,
    ) {
        let count = self.count();
        let boundary = self.is_boundary(interval);
        if !boundary && count < ties_from {
            return;
        }
        let first = if boundary { count + 1 } else { count };
        for wanted in first..=most {
            let candidate = exact(wanted - 1);
            if gives_value_back(candidate.text()) && !candidate.is_boundary(interval) {
                *self = candidate;
                return;
            }
            if !boundary {
                // The nearest decimal of this length is not in the interval: keep the other one.
                return;
            }
        }
    }

    /// The digits without the point, and the power of ten of the first.
    fn parts(&self) -> (impl Iterator<Item = u8> + '_, i32) {
        let text = &self.bytes[..self.len];
        let split = text.iter().position(|&b| b == b'e').unwrap_or(text.len());
        let exponent = std::str::from_utf8(text.get(split + 1..).unwrap_or(b""))
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        (text[..split].iter().copied().filter(u8::is_ascii_digit), exponent)
    }

    fn count(&self) -> usize {
        self.parts().0.count()
    }

    /// Whether the decimal lies exactly between the number and a neighbour. The standard library
    /// accepts such a decimal because reading rounds it to the even mantissa.
    fn is_boundary(&self, interval: &Interval) -> bool {
        let &Interval { mantissa, exponent, narrow_below } = interval;
        let (digits, first) = self.parts();
        let (mut decimal, mut count) = (0u128, 0);
        for digit in digits {
            decimal = decimal * 10 + u128::from(digit - b'0');
            count += 1;
        }
        // decimal * 10^power is what was printed: its odd part and its power of two are
        // compared with those of the two boundaries, in exact integers.
        let mut power = first - (count - 1);
        let twos = power + decimal.trailing_zeros() as i32;
        decimal >>= decimal.trailing_zeros();
        while power > 0 {
            let Some(product) = decimal.checked_mul(5) else { return false };
            decimal = product;
            power -= 1;
        }
        while power < 0 {
            if decimal % 5 != 0 {
                return false;
            }
            decimal /= 5;
            power += 1;
        }
        let above = (u128::from(mantissa) * 2 + 1, exponent - 1);
        let below = match narrow_below {
            true => (u128::from(mantissa) * 4 - 1, exponent - 2),
            false => (u128::from(mantissa) * 2 - 1, exponent - 1),
        };
        (decimal, twos) == above || (decimal, twos) == below
    }

    fn write(&self, fixed_below: i32, out: &mut String) {
        let (digits, exponent) = self.parts();
        let count = self.count() as i32;
        if !(-4..fixed_below).contains(&exponent) {
            for (index, digit) in digits.enumerate() {
                if index == 1 {
                    out.push('.');
                }
                out.push(digit as char);
            }
            let sign = if exponent < 0 { '-' } else { '+' };
            put(out, format_args!("e{sign}{:02}", exponent.abs()));
            return;
        }
        if exponent < 0 {
            out.push_str("0.");
            (exponent..-1).for_each(|_| out.push('0'));
        }
        for (index, digit) in (0i32..).zip(digits) {
            out.push(digit as char);
            if index == exponent && index + 1 < count {
                out.push('.');
            }
        }
        (count..=exponent).for_each(|_| out.push('0'));
    }
}
