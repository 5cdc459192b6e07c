//! Fixed examples; the full comparison with a real Postgres is in `hw-pg/tests/values.rs`.

use super::*;
use crate::pgtype::{ElementType, TextKind};

fn check(ty: &PgType, bytes: &[u8], expected: &str) {
    assert_eq!(to_text(ty, bytes).as_deref(), Ok(expected), "{ty:?}");
}

fn float8(value: f64, expected: &str) {
    check(&PgType::Float8, &value.to_be_bytes(), expected);
}

fn float4(value: f32, expected: &str) {
    check(&PgType::Float4, &value.to_be_bytes(), expected);
}

#[test]
fn f30_floats_print_as_postgres_prints_them() {
    float8(0.0, "0");
    float8(-0.0, "-0");
    float8(1.0, "1");
    float8(-1.5, "-1.5");
    float8(0.0001, "0.0001");
    float8(0.00001, "1e-05");
    float8(1e14, "100000000000000");
    float8(1e15, "1e+15");
    float8(123456789012345.0, "123456789012345");
    float8(1.2345e20, "1.2345e+20");
    float8(5e-324, "5e-324");
    float8(f64::MAX, "1.7976931348623157e+308");
    float8(f64::NAN, "NaN");
    float8(f64::NEG_INFINITY, "-Infinity");
    float4(100_000.0, "100000");
    float4(1_000_000.0, "1e+06");
    float4(3.4028235e38, "3.4028235e+38");
    float4(1e-45, "1e-45");
}

#[test]
fn f30_numerics_keep_their_display_scale() {
    let numeric = |weight: i16, sign: u16, scale: u16, digits: &[u16]| {
        let mut bytes = (digits.len() as u16).to_be_bytes().to_vec();
        bytes.extend(weight.to_be_bytes());
        bytes.extend(sign.to_be_bytes());
        bytes.extend(scale.to_be_bytes());
        digits.iter().for_each(|digit| bytes.extend(digit.to_be_bytes()));
        bytes
    };
    check(&PgType::Numeric, &numeric(0, 0, 2, &[1, 5000]), "1.50");
    check(&PgType::Numeric, &numeric(0, 0, 0, &[]), "0");
    check(&PgType::Numeric, &numeric(0, 0, 3, &[]), "0.000");
    check(&PgType::Numeric, &numeric(1, 0x4000, 0, &[1]), "-10000");
    check(&PgType::Numeric, &numeric(-2, 0, 8, &[42]), "0.00000042");
    check(&PgType::Numeric, &numeric(1, 0, 1, &[1, 2, 3000]), "10002.3");
    check(&PgType::Numeric, &numeric(0, 0xC000, 0, &[]), "NaN");
    check(&PgType::Numeric, &numeric(0, 0xF000, 0, &[]), "-Infinity");
    assert!(to_text(&PgType::Numeric, &numeric(0, 0, 0, &[10_000])).is_err());
}

#[test]
fn f30_dates_and_times_print_in_iso_form() {
    let date = |days: i32, expected| check(&PgType::Date, &days.to_be_bytes(), expected);
    date(0, "2000-01-01");
    date(-730_119, "0001-01-01");
    date(-730_120, "0001-12-31 BC");
    date(2_921_940, "10000-01-01");
    date(i32::MAX, "infinity");
    date(i32::MIN, "-infinity");
    check(&PgType::Time, &86_400_000_000i64.to_be_bytes(), "24:00:00");
    check(&PgType::Timestamp, &(-1i64).to_be_bytes(), "1999-12-31 23:59:59.999999");
    check(&PgType::Timestamptz, &1_500_000i64.to_be_bytes(), "2000-01-01 00:00:01.5+00");
    let timetz = |west: i32, expected| {
        let bytes = [&0i64.to_be_bytes()[..], &west.to_be_bytes()].concat();
        check(&PgType::Timetz, &bytes, expected);
    };
    timetz(0, "00:00:00+00");
    timetz(-19_800, "00:00:00+05:30");
    timetz(3_601, "00:00:00-01:00:01");
}

#[test]
fn f30_interval_signs_follow_the_part_before() {
    let interval = |months: i32, days: i32, micros: i64, expected| {
        let bytes =
            [&micros.to_be_bytes()[..], &days.to_be_bytes(), &months.to_be_bytes()].concat();
        check(&PgType::Interval, &bytes, expected);
    };
    interval(0, 0, 0, "00:00:00");
    interval(14, 3, 14_706_500_000, "1 year 2 mons 3 days 04:05:06.5");
    interval(-14, 3, 1_000_000, "-1 years -2 mons +3 days 00:00:01");
    interval(-1, 0, 1_000_000, "-1 mons +00:00:01");
    interval(0, 1, -1, "1 day -00:00:00.000001");
    interval(i32::MAX, i32::MAX, i64::MAX, "infinity");
}

#[test]
fn f30_containers_quote_as_their_type_does() {
    let text = ElementType { pg_type: PgType::TEXT, delimiter: b',' };
    let mut array = Vec::new();
    for int in [1i32, 1, 0, 6, 0] {
        array.extend(int.to_be_bytes());
    }
    for value in [Some("a"), None, Some("null"), Some(""), Some("a b"), Some("\"\\")] {
        match value {
            None => array.extend((-1i32).to_be_bytes()),
            Some(value) => {
                array.extend((value.len() as i32).to_be_bytes());
                array.extend(value.as_bytes());
            }
        }
    }
    let ty = PgType::Array(Box::new(text));
    check(&ty, &array, r#"[0:5]={a,NULL,"null","","a b","\"\\"}"#);
    check(&ty, &[0; 12], "{}");

    let range = PgType::Range(Box::new(PgType::TEXT));
    check(&range, &[0x02, 0, 0, 0, 1, b'"', 0, 0, 0, 1, b'z'], r#"["""",z)"#);
    check(&range, &[0x18], "(,)");
    check(&range, &[0x01], "empty");

    let kind = TextKind::Enum;
    let fields = vec![("a".into(), PgType::Text { kind }), ("b".into(), PgType::Int4)];
    let row = [&[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3][..], b"x,y", &[0, 0, 0, 0], &[255; 4]];
    check(&PgType::Composite(fields), &row.concat(), r#"("x,y",)"#);
}

#[test]
fn damaged_bytes_are_an_error_and_never_a_panic() {
    let int = || Box::new(PgType::Int4);
    let types = [
        PgType::Bool,
        PgType::Int2,
        PgType::Float8,
        PgType::Numeric,
        PgType::TEXT,
        PgType::Uuid,
        PgType::Date,
        PgType::Time,
        PgType::Timetz,
        PgType::Timestamp,
        PgType::Interval,
        PgType::PgLsn,
        PgType::Array(Box::new(ElementType { pg_type: PgType::Int4, delimiter: b',' })),
        PgType::Range(int()),
        PgType::Multirange(int()),
        PgType::Composite(vec![("a".into(), PgType::Int4)]),
        PgType::Domain(int()),
    ];
    // A small generator of its own keeps this test without dependencies and repeatable.
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for ty in &types {
        for round in 0..4_000 {
            let len = (next() % 40) as usize;
            let mask = if round % 2 == 0 { 0xff } else { 0x07 };
            let bytes: Vec<u8> = (0..len).map(|_| next() as u8 & mask).collect();
            let _ = to_text(ty, &bytes);
        }
    }
}
