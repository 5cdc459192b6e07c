//! Numbers as text: printing as JavaScript prints, reading prefixes as the casts do.
//!
//! Clients and bucket ids depend on this exact spelling. Source: `sync-rules.md` 4.4, 6.3, 13.

use crate::value::SqlValue;

/// Appends a double as JavaScript prints it: `5`, `0.1`, `1e+21`, `1e-7`, `NaN`, `Infinity`.
pub fn write_js(value: f64, out: &mut String) {
    if value.is_nan() {
        return out.push_str("NaN");
    }
    if value.is_infinite() {
        return out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    }
    if value == 0.0 {
        return out.push('0');
    }
    if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
        return out.push_str(itoa::Buffer::new().format(value as i64));
    }
    if value < 0.0 {
        out.push('-');
    }
    let mut buffer = ryu::Buffer::new();
    let (digits, exponent) = digits(buffer.format_finite(value.abs()));
    let digits = digits.as_str();
    let length = digits.len() as i32;
    // `exponent` is that of the first digit: 1.5 has 0.
    match exponent {
        0..=20 if length <= exponent + 1 => {
            out.push_str(digits);
            out.extend(std::iter::repeat_n('0', (exponent + 1 - length) as usize));
        }
        0..=20 => {
            let (whole, part) = digits.split_at(exponent as usize + 1);
            out.push_str(whole);
            out.push('.');
            out.push_str(part);
        }
        -6..=-1 => {
            out.push_str("0.");
            out.extend(std::iter::repeat_n('0', (-exponent - 1) as usize));
            out.push_str(digits);
        }
        _ => {
            let (first, rest) = digits.split_at(1);
            out.push_str(first);
            if !rest.is_empty() {
                out.push('.');
                out.push_str(rest);
            }
            out.push('e');
            out.push(if exponent < 0 { '-' } else { '+' });
            out.push_str(itoa::Buffer::new().format(exponent.abs()));
        }
    }
}

/// Appends a REAL as the row JSON has it: as JavaScript, and always recognisable as a real
/// (`1.0`). NaN and infinities have no spelling in JSON and become `null` (`sync-rules.md`
/// 17.10).
pub fn write_json_real(value: f64, out: &mut String) {
    if !value.is_finite() {
        return out.push_str("null");
    }
    let start = out.len();
    write_js(value, out);
    if out[start..].bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        out.push_str(".0");
    }
}

/// Appends an integer.
pub fn write_integer(value: i128, out: &mut String) {
    match i64::try_from(value) {
        Ok(small) => out.push_str(itoa::Buffer::new().format(small)),
        Err(_) => out.push_str(itoa::Buffer::new().format(value)),
    }
}

/// The significant digits of ryu's output and the exponent of the first one.
fn digits(text: &str) -> (String, i32) {
    let (mantissa, exponent) = match text.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, exponent.parse().unwrap_or(0)),
        None => (text, 0),
    };
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all: String = whole.chars().chain(part.chars()).collect();
    let leading = all.bytes().take_while(|&b| b == b'0').count();
    let significant = all[leading..].trim_end_matches('0').to_string();
    (significant, exponent + whole.len() as i32 - 1 - leading as i32)
}

/// The integer at the front of a text: blanks, a sign, digits; 0 without. Source: 6.2, 6.3.
pub fn leading_integer(text: &str) -> i128 {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let mut value = 0i128;
    for digit in digits.bytes().take_while(u8::is_ascii_digit) {
        value = value.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
    }
    if negative { -value } else { value }
}

/// The number at the front of a text: the longest prefix that is a number (6.3, `numeric`).
/// INTEGER when it has neither dot nor exponent, INTEGER 0 when there is none.
pub fn leading_number(text: &str) -> SqlValue<'static> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
    let bytes = text.as_bytes();
    let run = |at: usize| bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    let sign = usize::from(matches!(bytes.first(), Some(b'-' | b'+')));
    let whole = run(sign);
    let mut end = sign + whole;
    let mut real = false;
    if bytes.get(end) == Some(&b'.') {
        let part = run(end + 1);
        if whole > 0 || part > 0 {
            real = true;
            end += 1 + part;
        }
    }
    if end == sign {
        return SqlValue::Integer(0);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let signed = usize::from(matches!(bytes.get(end + 1), Some(b'-' | b'+')));
        let exponent = if end + 1 + signed <= bytes.len() { run(end + 1 + signed) } else { 0 };
        if exponent > 0 {
            real = true;
            end += 1 + signed + exponent;
        }
    }
    let number = &text[..end];
    if !real && let Ok(value) = number.trim_start_matches('+').parse::<i128>() {
        return SqlValue::Integer(value);
    }
    SqlValue::Real(number.parse().unwrap_or(0.0))
}

/// The double at the front of a text, as JavaScript's `parseFloat`; 0 without.
pub fn leading_real(text: &str) -> f64 {
    let trimmed = text.trim_start();
    let unsigned = trimmed.trim_start_matches(['+', '-']);
    if unsigned.starts_with("Infinity") && trimmed.len() - unsigned.len() <= 1 {
        return if trimmed.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    match leading_number(trimmed) {
        SqlValue::Integer(value) => value as f64,
        SqlValue::Real(value) => value,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn js(value: f64) -> String {
        let mut out = String::new();
        write_js(value, &mut out);
        out
    }

    #[test]
    fn doubles_print_as_javascript_prints_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (5.0, "5"),
            (-2.5, "-2.5"),
            (0.1, "0.1"),
            (1e21, "1e+21"),
            (1e-7, "1e-7"),
            (0.000001, "0.000001"),
            (1.25e-9, "1.25e-9"),
            (123456789012345680000.0, "123456789012345680000"),
            (1.5e300, "1.5e+300"),
            (-1e22, "-1e+22"),
            (4.35, "4.35"),
            (9007199254740993.0, "9007199254740992"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
            (5e-324, "5e-324"),
            (12345.678, "12345.678"),
        ] {
            assert_eq!(js(value), text);
        }
    }

    #[test]
    fn a_real_in_json_is_always_recognisable_and_always_json() {
        for (value, text) in [
            (1.0, "1.0"),
            (-0.0, "0.0"),
            (1e21, "1e+21"),
            (123456789012345680000.0, "123456789012345680000.0"),
            (f64::NAN, "null"),
            (f64::INFINITY, "null"),
        ] {
            let mut out = String::new();
            write_json_real(value, &mut out);
            assert_eq!(out, text);
        }
    }

    #[test]
    fn prefixes_are_read_as_the_casts_want_them() {
        for (text, integer) in
            [("-12.9", -12), ("1e3", 1), (".5", 0), (" +7x", 7), ("abc", 0), ("", 0)]
        {
            assert_eq!(leading_integer(text), integer, "{text}");
        }
        for (text, number) in [
            ("12", SqlValue::Integer(12)),
            ("12.", SqlValue::Real(12.0)),
            (".5x", SqlValue::Real(0.5)),
            ("1e3", SqlValue::Real(1000.0)),
            ("1e", SqlValue::Integer(1)),
            ("-", SqlValue::Integer(0)),
            ("-3abc", SqlValue::Integer(-3)),
        ] {
            assert_eq!(leading_number(text), number, "{text}");
        }
        assert_eq!(leading_real("-Infinityx"), f64::NEG_INFINITY);
        assert_eq!(leading_real("2.5kg"), 2.5);
    }
}
