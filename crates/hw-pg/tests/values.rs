//! F-30: one value is one sequence of bytes, whichever way it arrived, and prints as Postgres
//! prints it. Every listed type, hundreds of generated values each, against a real server.

use hw_pg::config::ConnectConfig;
use hw_pg::sql;
use hw_pg::types::{
    Fit, TypeCatalog, binary_select_list, canonical_from_text, decode, decode_binary, decode_text,
};
use hw_testkit::{Cluster, ClusterOptions};
use hw_types::pgtype::ElementType;
use hw_types::text::to_text;
use hw_types::{Cell, Column, PgType, RowBuilder};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, SimpleQueryMessage};

/// The bytes of a column as they came.
pub(crate) struct Raw(pub(crate) Option<Vec<u8>>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(Some(raw.to_vec())))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// What a type's literals are made of.
#[derive(Clone)]
pub(crate) enum Make {
    /// One of these words.
    Words(&'static [&'static str]),
    /// An integer of so many bits, with its extremes.
    Int(u32),
    Float,
    Numeric,
    Text,
    Hex,
    Uuid,
    Json,
    Date,
    Time,
    Timetz,
    Timestamp,
    Interval,
    Array(Box<Make>, char),
    Range(Box<Make>),
    Multirange(Box<Make>),
    Composite(Vec<Make>),
}

pub(crate) const NASTY: &[&str] = &[
    "", " ", "NULL", "null", "a b", "\"", "\\", "\\\"", "{}", "{", "}", ",", ";", "()", "(", "[",
    "]", "'", "\t", "\n", "\r\n", "\u{b}", "é", "日本", "🦀", "\u{a0}", "a,b", "x\\y", "\"q\"",
    "  pad  ", "\u{1}", "%s", "empty", "infinity",
];

impl Make {
    pub(crate) fn literal(&self, rng: &mut StdRng) -> String {
        match self {
            Make::Words(words) => words.choose(rng).unwrap().to_string(),
            Make::Int(bits) => {
                let value = rng.next_u64() as i64 >> (64 - bits) >> rng.random_range(0..*bits);
                let (min, max) = (i64::MIN >> (64 - bits), i64::MAX >> (64 - bits));
                let extremes = [min, max, 0, 1, -1, min + 1, max - 1, value, value, value];
                extremes.choose(rng).unwrap().to_string()
            }
            Make::Float => {
                let exponent = rng.random_range(-330..310);
                match rng.random_range(0..6) {
                    0 => "NaN".into(),
                    1 => (*["Infinity", "-Infinity", "-0", "0", "1e23", "5e-324", "1e15", "1e6"]
                        .choose(rng)
                        .unwrap())
                    .into(),
                    2 => format!("{}", rng.random_range(-10_000_000..10_000_000)),
                    3 => format!("{}.{}", rng.random_range(-99_999..99_999), rng.next_u32()),
                    _ => format!("{}e{exponent}", rng.random_range(-9_999_999..9_999_999)),
                }
            }
            Make::Numeric => {
                let digits = |rng: &mut StdRng, most: usize| -> String {
                    let count = rng.random_range(0..=most);
                    let zeros = rng.random_bool(0.3);
                    (0..count)
                        .map(|_| match zeros {
                            true => *['0', '0', '0', '7'].choose(rng).unwrap(),
                            false => rng.random_range(b'0'..=b'9') as char,
                        })
                        .collect()
                };
                let sign = if rng.random_bool(0.4) { "-" } else { "" };
                match rng.random_range(0..10) {
                    0 => {
                        (*["NaN", "Infinity", "-Infinity", "0", "0.00", "-0", "1e1000", "1e-1000"]
                            .choose(rng)
                            .unwrap())
                        .into()
                    }
                    1 => format!("{sign}{}e{}", digits(rng, 4), rng.random_range(-60..60)),
                    2 => format!("{sign}{}1.{}", digits(rng, 200), digits(rng, 200)),
                    _ => format!("{sign}{}0.{}", digits(rng, 12), digits(rng, 12)),
                }
            }
            Make::Text => match rng.random_range(0..3) {
                0 => (*NASTY.choose(rng).unwrap()).into(),
                _ => (0..rng.random_range(1..4)).map(|_| *NASTY.choose(rng).unwrap()).collect(),
            },
            Make::Hex => {
                let bytes = rng.random_range(0..20);
                let hex: String =
                    (0..bytes).map(|_| format!("{:02x}", rng.next_u32() as u8)).collect();
                format!("\\x{hex}")
            }
            Make::Uuid => {
                let (a, b) = (rng.next_u64(), rng.next_u64());
                let hex = format!("{a:016x}{b:016x}");
                let (x, y) = (&hex[..8], &hex[8..]);
                format!("{x}-{}-{}-{}-{}", &y[..4], &y[4..8], &y[8..12], &y[12..])
            }
            Make::Json => {
                let mut text = String::new();
                document(rng, 0, &mut text);
                text
            }
            Make::Date => {
                if rng.random_bool(0.1) {
                    return (*["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"]
                        .choose(rng)
                        .unwrap())
                    .into();
                }
                let year = match rng.random_range(0..3) {
                    0 => rng.random_range(1..400_000),
                    _ => rng.random_range(1..2_400),
                };
                let era = if rng.random_bool(0.2) { " BC" } else { "" };
                let (month, day) = (rng.random_range(1..=12), rng.random_range(1..=28));
                format!("{year:04}-{month:02}-{day:02}{era}")
            }
            Make::Time => {
                if rng.random_bool(0.1) {
                    return "24:00:00".into();
                }
                let fraction = match rng.random_range(0..3) {
                    0 => String::new(),
                    1 => format!(".{:06}", rng.random_range(0..1_000_000)),
                    _ => format!(".{}", rng.random_range(0..1_000)),
                };
                let mut part = |most: u32| rng.random_range(0..most);
                format!("{:02}:{:02}:{:02}{fraction}", part(24), part(60), part(60))
            }
            Make::Timetz => {
                let time = Make::Time.literal(rng);
                let mut part = |most: u32| rng.random_range(0..most);
                let sign = if part(2) == 0 { '-' } else { '+' };
                match part(3) {
                    0 => format!("{time}{sign}{:02}", part(15)),
                    1 => format!("{time}{sign}{:02}:{:02}", part(15), part(60)),
                    _ => format!("{time}{sign}{:02}:{:02}:{:02}", part(15), part(60), part(60)),
                }
            }
            Make::Timestamp => {
                if rng.random_bool(0.1) {
                    return (*[
                        "infinity",
                        "-infinity",
                        "4714-11-24 00:00:00 BC",
                        "294276-12-31 23:59:59.999999",
                        "1969-12-31 23:59:59.999999",
                        "10000-01-01 00:00:00",
                    ]
                    .choose(rng)
                    .unwrap())
                    .into();
                }
                let (date, time) = (Make::Date.literal(rng), Make::Time.literal(rng));
                match date.strip_suffix(" BC") {
                    Some(date) => format!("{date} {time} BC"),
                    None => format!("{date} {time}"),
                }
            }
            Make::Interval => {
                if rng.random_bool(0.1) {
                    return (*[
                        "0",
                        "178956970 years 7 mons",
                        "-178956970 years -8 mons",
                        "2147483647 days",
                        "-2147483648 days",
                        "2562047788:00:54.775807",
                        "infinity",
                        "-infinity",
                        "-2562047788:00:54.775807",
                    ]
                    .choose(rng)
                    .unwrap())
                    .into();
                }
                let mut part = |most: i64| match rng.random_range(0..3) {
                    0 => 0,
                    _ => rng.random_range(-most..=most),
                };
                format!(
                    "{} mons {} days {} seconds {} microseconds",
                    part(40),
                    part(5),
                    part(100_000),
                    part(1_000_000)
                )
            }
            Make::Array(element, delimiter) => array(element, *delimiter, rng),
            Make::Range(bound) => range(bound, rng),
            Make::Multirange(bound) => {
                let count = rng.random_range(0..4);
                let ranges: Vec<String> = (0..count).map(|_| range(bound, rng)).collect();
                format!("{{{}}}", ranges.join(","))
            }
            Make::Composite(fields) => {
                let fields: Vec<String> = fields
                    .iter()
                    .map(|field| match rng.random_bool(0.2) {
                        true => String::new(),
                        false => doubled(&field.literal(rng)),
                    })
                    .collect();
                format!("({})", fields.join(","))
            }
        }
    }
}

/// A JSON document, also one that is `json` and no `jsonb`.
fn document(rng: &mut StdRng, depth: u32, out: &mut String) {
    let space = |rng: &mut StdRng, out: &mut String| {
        out.push_str(["", "", "", " ", "\n\t", "  \r"].choose(rng).unwrap());
    };
    let string = |rng: &mut StdRng, out: &mut String| match rng.random_range(0..4) {
        0 => {
            let escaped = [
                r#""\u00e9""#,
                r#""\ud83D\uDE00""#,
                r#""\/\b\f\n\r\t\"\\""#,
                r#""\u0041\u001f\u007f""#,
                r#""\u0022\u005C\u000a\u0009""#,
                r#""\u2028\u20ac""#,
            ];
            out.push_str(escaped.choose(rng).unwrap());
        }
        1 if rng.random_bool(0.05) => {
            let refused = [r#""\u0000""#, r#""\ud83d""#, r#""\ude00x""#, r#""\ud83d\ud83d""#];
            out.push_str(refused.choose(rng).unwrap());
        }
        1 => out.push_str(["\"a\"", "\"b\"", "\"aa\"", "\"\""].choose(rng).unwrap()),
        _ => {
            let text: String =
                (0..rng.random_range(0..3)).map(|_| *NASTY.choose(rng).unwrap()).collect();
            out.push_str(&serde_json::to_string(&text).unwrap());
        }
    };
    space(rng, out);
    match rng.random_range(0..if depth < 4 { 12 } else { 7 }) {
        0 => out.push_str(["null", "true", "false"].choose(rng).unwrap()),
        1 | 2 => string(rng, out),
        3 => out.push_str(
            [
                "0",
                "-0",
                "-0.00",
                "1e3",
                "1.50",
                "1.5E+3",
                "12e-3",
                "0e-2",
                "1e-7",
                "-1.25e40",
                "0.10e1",
                "1E400",
                "9007199254740993",
                "123456789012345678901234567890.0900",
            ]
            .choose(rng)
            .unwrap(),
        ),
        4 if rng.random_bool(0.02) => out.push_str(
            [
                "1e131071",
                "1e131072",
                "1e-16383",
                "1e-16384",
                "0e-16384",
                "0e999999",
                "1e9999999999",
            ]
            .choose(rng)
            .unwrap(),
        ),
        4 => *out += &format!("{}e{}", rng.next_u32() as i32, rng.random_range(-30..30)),
        5 => *out += &format!("-{}.{}", rng.next_u32(), rng.next_u32()),
        6 => *out += &rng.next_u64().to_string(),
        7 | 8 => {
            out.push('[');
            for index in 0..rng.random_range(0..4) {
                out.push_str(if index > 0 { "," } else { "" });
                document(rng, depth + 1, out);
            }
            space(rng, out);
            out.push(']');
        }
        _ => {
            out.push('{');
            for index in 0..rng.random_range(0..6) {
                out.push_str(if index > 0 { "," } else { "" });
                space(rng, out);
                string(rng, out);
                space(rng, out);
                out.push(':');
                document(rng, depth + 1, out);
            }
            space(rng, out);
            out.push('}');
        }
    }
    space(rng, out);
}

fn doubled(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\"\""))
}

fn array(element: &Make, delimiter: char, rng: &mut StdRng) -> String {
    let depth = *[0, 1, 1, 1, 2, 3].choose(rng).unwrap();
    if depth == 0 {
        return "{}".into();
    }
    let lengths: Vec<usize> = (0..depth).map(|_| rng.random_range(1..4)).collect();
    let mut text = String::new();
    if rng.random_bool(0.3) {
        for length in &lengths {
            let lower = rng.random_range(-3i64..4);
            text += &format!("[{lower}:{}]", lower + *length as i64 - 1);
        }
        text.push('=');
    }
    fn nested(
        lengths: &[usize],
        element: &Make,
        delimiter: char,
        rng: &mut StdRng,
        text: &mut String,
    ) {
        text.push('{');
        for index in 0..lengths[0] {
            if index > 0 {
                text.push(delimiter);
            }
            if lengths.len() > 1 {
                nested(&lengths[1..], element, delimiter, rng, text);
            } else if rng.random_bool(0.15) {
                text.push_str("NULL");
            } else {
                let item = element.literal(rng).replace('\\', "\\\\").replace('"', "\\\"");
                *text += &format!("\"{item}\"");
            }
        }
        text.push('}');
    }
    nested(&lengths, element, delimiter, rng, &mut text);
    text
}

fn range(bound: &Make, rng: &mut StdRng) -> String {
    if rng.random_bool(0.1) {
        return "empty".into();
    }
    let side = |rng: &mut StdRng| match rng.random_bool(0.2) {
        true => String::new(),
        false => doubled(&bound.literal(rng)),
    };
    let (lower, upper) = (side(rng), side(rng));
    let (open, close) = (["[", "("].choose(rng).unwrap(), ["]", ")"].choose(rng).unwrap());
    format!("{open}{lower},{upper}{close}")
}

pub(crate) const SCHEMA: &str = "
CREATE EXTENSION IF NOT EXISTS citext;
CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy,\"ish\"', 'NULL');
CREATE DOMAIN posint AS int4 CHECK (VALUE > 0);
CREATE DOMAIN words AS text[];
CREATE DOMAIN amount AS numeric(12, 3);
CREATE TYPE textrange AS RANGE (subtype = text);
CREATE TYPE floatrange AS RANGE (subtype = float8);
CREATE TYPE pair AS (a int4, b text);
CREATE TYPE zoo AS (a int8, b text, c numeric, gone int4, d text[], e pair, f mood, g posint, h words);
ALTER TYPE zoo DROP ATTRIBUTE gone;
CREATE TYPE mixed AS (a inet, b bpchar);
CREATE FUNCTION fill(literals text[], type text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE literal text;
BEGIN
  FOREACH literal IN ARRAY literals LOOP
    BEGIN
      EXECUTE 'INSERT INTO v(v) VALUES ($1::text::' || type || ')' USING literal;
    EXCEPTION WHEN OTHERS THEN NULL; -- Not every generated literal is a value.
    END;
  END LOOP;
END $$;
";

/// Whether `v::text` is something else than what the type's output function prints.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Cast {
    Same,
    Differs,
}

/// Every listed type, and what is made of it.
pub(crate) fn types() -> Vec<(&'static str, Make, Cast)> {
    use Cast::*;
    use Make::*;
    let bool = || Words(&["t", "f"]);
    let mood = || Words(&["sad", "so so", "happy,\"ish\"", "NULL"]);
    let lsn = || Words(&["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/1", "A/0"]);
    let xml = || {
        Words(&[
            "<a>1</a>",
            "plain, &amp;",
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><a>\u{e9}</a>",
            "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\n<a/>",
        ])
    };
    let inet = || Words(&["1.2.3.4", "10.0.0.0/8", "::1", "fe80::/10"]);
    let array = |make| Array(Box::new(make), ',');
    let range = |make| Range(Box::new(make));
    let multirange = |make| Multirange(Box::new(make));
    let pair = || Composite(vec![Int(32), Text]);
    vec![
        ("bool", bool(), Differs),
        ("int2", Int(16), Same),
        ("int4", Int(32), Same),
        ("int8", Int(64), Same),
        ("oid", Words(&["0", "1", "4294967295", "2147483648"]), Same),
        ("xid", Words(&["0", "1", "4294967295"]), Same),
        ("float4", Float, Same),
        ("float8", Float, Same),
        ("numeric", Numeric, Same),
        ("numeric(20,5)", Numeric, Same),
        ("text", Text, Same),
        ("varchar(5)", Text, Same),
        ("bpchar(8)", Text, Differs),
        ("bpchar", Text, Differs),
        ("name", Text, Same),
        ("citext", Text, Same),
        ("uuid", Uuid, Same),
        ("bytea", Hex, Same),
        ("json", Json, Same),
        ("jsonb", Json, Same),
        ("xml", xml(), Differs),
        ("date", Date, Same),
        ("time", Time, Same),
        ("timetz", Timetz, Same),
        ("timestamp", Timestamp, Same),
        ("timestamp(2)", Timestamp, Same),
        ("timestamptz", Timestamp, Same),
        ("interval", Interval, Same),
        ("pg_lsn", lsn(), Same),
        ("mood", mood(), Same),
        ("posint", Int(32), Same),
        ("words", array(Text), Same),
        ("amount", Numeric, Same),
        ("bool[]", array(bool()), Same),
        ("int2[]", array(Int(16)), Same),
        ("int4[]", array(Int(32)), Same),
        ("int8[]", array(Int(64)), Same),
        ("float4[]", array(Float), Same),
        ("float8[]", array(Float), Same),
        ("numeric[]", array(Numeric), Same),
        ("text[]", array(Text), Same),
        ("varchar[]", array(Text), Same),
        ("bpchar(4)[]", array(Text), Same),
        ("citext[]", array(Text), Same),
        ("uuid[]", array(Uuid), Same),
        ("bytea[]", array(Hex), Same),
        ("json[]", array(Json), Same),
        ("jsonb[]", array(Json), Same),
        ("date[]", array(Date), Same),
        ("time[]", array(Time), Same),
        ("timetz[]", array(Timetz), Same),
        ("timestamp[]", array(Timestamp), Same),
        ("timestamptz[]", array(Timestamp), Same),
        ("interval[]", array(Interval), Same),
        ("pg_lsn[]", array(lsn()), Same),
        ("mood[]", array(mood()), Same),
        ("posint[]", array(Int(32)), Same),
        ("words[]", array(array(Text)), Same),
        ("int4range", range(Int(32)), Same),
        ("int8range", range(Int(64)), Same),
        ("numrange", range(Numeric), Same),
        ("daterange", range(Date), Same),
        ("tsrange", range(Timestamp), Same),
        ("tstzrange", range(Timestamp), Same),
        ("textrange", range(Text), Same),
        ("floatrange", range(Float), Same),
        ("int4range[]", array(range(Int(32))), Same),
        ("textrange[]", array(range(Text)), Same),
        ("int4multirange", multirange(Int(32)), Same),
        ("nummultirange", multirange(Numeric), Same),
        ("datemultirange", multirange(Date), Same),
        ("tstzmultirange", multirange(Timestamp), Same),
        ("textmultirange", multirange(Text), Same),
        ("pair", pair(), Same),
        ("pair[]", array(pair()), Same),
        (
            "zoo",
            Composite(vec![
                Int(64),
                Text,
                Numeric,
                array(Text),
                pair(),
                mood(),
                Int(31),
                array(Text),
            ]),
            Same,
        ),
        // Without a binary form of ours: carried in text form.
        ("inet", inet(), Differs),
        ("cidr", Words(&["10.0.0.0/8", "::/0"]), Differs),
        ("inet[]", array(inet()), Same),
        ("mixed", Composite(vec![inet(), Text]), Same),
        ("macaddr", Words(&["08:00:2b:01:02:03"]), Same),
        ("money", Int(32), Same),
        ("bit(5)", Words(&["10101", "00000"]), Same),
        ("varbit", Words(&["", "1", "10101"]), Same),
        ("tsvector", Text, Same),
        ("box", Words(&["(1,1),(0,0)", "(2.5,3),(1e300,0)"]), Same),
        ("box[]", Array(Box::new(Words(&["(1,1),(0,0)", "(2,3),(1,0)"])), ';'), Same),
        ("int2vector", Words(&["1 2 3", "7"]), Same),
        ("\"char\"", Words(&["a", "\\"]), Same),
        ("regtype", Words(&["integer", "text[]"]), Same),
        ("xid8", Words(&["0", "18446744073709551615"]), Same),
    ]
}

pub(crate) async fn session(cluster: &Cluster) -> Client {
    let (config, _) = ConnectConfig::parse(&cluster.url("postgres")).unwrap();
    sql::connect(&config).await.unwrap().0
}

pub(crate) fn seed() -> u64 {
    let seed = std::env::var("HEADWATER_TEST_SEED").ok().and_then(|text| text.parse().ok());
    seed.unwrap_or_else(rand::random)
}

fn cell(row: &hw_types::Row) -> Option<Vec<u8>> {
    match row.view().get(0) {
        Cell::Value(bytes) => Some(bytes.to_vec()),
        Cell::Null | Cell::Absent => None,
    }
}

#[tokio::test]
async fn f30_both_forms_of_every_type_give_equal_bytes_and_print_as_postgres_prints_on_every_major()
{
    for major in hw_testkit::majors() {
        check_every_type(major).await;
    }
}

async fn check_every_type(major: u32) {
    let options = ClusterOptions { major: Some(major), ..Default::default() };
    let cluster = Cluster::start_with(options);
    let client = session(&cluster).await;
    // Some builds come without libxml.
    let has_xml = client.query_one("SELECT '<a/>'::text::xml", &[]).await.is_ok();
    client.batch_execute(SCHEMA).await.unwrap();
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    for (name, make, cast) in types() {
        if name == "xml" && !has_xml {
            continue;
        }
        let mut literals: Vec<String> = (0..300).map(|_| make.literal(&mut rng)).collect();
        if matches!(make, Make::Text) {
            literals.extend(NASTY.iter().map(|text| (*text).to_owned()));
        }
        client
            .batch_execute(&format!(
                "DROP TABLE IF EXISTS v; CREATE TABLE v (id serial PRIMARY KEY, v {name});
                 INSERT INTO v(v) VALUES (NULL);"
            ))
            .await
            .unwrap();
        client.execute("SELECT fill($1, $2)", &[&literals, &name]).await.unwrap();

        let oid: u32 = client
            .query_one(
                "SELECT atttypid FROM pg_attribute WHERE attrelid = 'v'::regclass AND attname = 'v'",
                &[],
            )
            .await
            .unwrap()
            .get(0);
        let ty = TypeCatalog::load(&client, &[oid]).await.unwrap().resolve(oid);
        let column = Column {
            name: "v".into(),
            type_oid: oid,
            type_modifier: -1,
            pg_type: ty.clone(),
            identity: false,
            primary_key: 0,
        };
        let (list, forms) = binary_select_list(&[column]);
        let binary = client.query(&format!("SELECT {list} FROM v ORDER BY id"), &[]).await.unwrap();
        let text = client.simple_query("SELECT v, v::text FROM v ORDER BY id").await.unwrap();
        let text: Vec<_> = text
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .collect();
        assert_eq!(binary.len(), text.len());
        assert!(
            binary.len() > 60,
            "{major}: {name}: only {} literals are values, seed {seed}",
            binary.len()
        );

        let mut builder = RowBuilder::new();
        for (binary, text) in binary.iter().zip(text) {
            let (printed, cast_text) = (text.get(0), text.get(1));
            let context = format!("{major}: {name}: {printed:?}, seed {seed}");
            match binary.get::<_, Raw>(0).0 {
                None => builder.push(Cell::Null),
                Some(raw) => {
                    let fit = decode(forms[0], &ty, &raw, &mut builder)
                        .unwrap_or_else(|error| panic!("{context}: binary form: {error}"));
                    assert_eq!(fit, Fit::Exact, "{context}");
                }
            }
            let from_binary = cell(&builder.finish());
            match printed {
                None => builder.push(Cell::Null),
                Some(printed) => decode_text(&ty, printed, &mut builder)
                    .unwrap_or_else(|error| panic!("{context}: text form: {error}")),
            }
            let from_text = cell(&builder.finish());
            assert_eq!(from_binary, from_text, "{context}");
            let shown = from_binary.map(|bytes| to_text(&ty, &bytes).expect(&context));
            assert_eq!(shown.as_deref(), printed, "{context}");
            if cast == Cast::Same {
                assert_eq!(shown.as_deref(), cast_text, "{context}: cast to text");
            }
        }
    }
}

/// The digits of floats are the one place where the standard library and Postgres can differ by
/// design, so they get many more values: all powers of two and ten with their neighbours,
/// integers beyond 2^53, decimals between two floats, and random bits.
#[tokio::test]
async fn f30_floats_print_the_digits_that_postgres_chooses() {
    let cluster = Cluster::start();
    let client = session(&cluster).await;
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);

    let mut doubles: Vec<f64> = Vec::new();
    let around = |value: f64| [value.next_down(), value, value.next_up()];
    (-1074..1024).for_each(|power| doubles.extend(around(2f64.powi(power))));
    (-323..309).for_each(|power| doubles.extend(around(format!("1e{power}").parse().unwrap())));
    for _ in 0..20_000 {
        doubles.push(f64::from_bits(rng.next_u64()));
        doubles.push((rng.next_u64() >> rng.random_range(0..12)) as f64);
        let decimal = rng.random_range(1..100_000_000u64);
        doubles.push(format!("{decimal}e{}", rng.random_range(0..40)).parse().unwrap());
    }
    let printed: Vec<String> = client
        .query_one("SELECT array_agg(v::text ORDER BY n) FROM unnest($1::float8[]) WITH ORDINALITY u(v, n)", &[&doubles])
        .await
        .unwrap()
        .get(0);
    for (value, printed) in doubles.iter().zip(printed) {
        let shown = to_text(&PgType::Float8, &value.to_be_bytes()).unwrap();
        assert_eq!(shown, printed, "bits {:#018x}, seed {seed}", value.to_bits());
    }

    let mut singles: Vec<f32> = Vec::new();
    let around = |value: f32| [value.next_down(), value, value.next_up()];
    (-149..128).for_each(|power| singles.extend(around(2f32.powi(power))));
    (-45..39).for_each(|power| singles.extend(around(format!("1e{power}").parse().unwrap())));
    for _ in 0..20_000 {
        singles.push(f32::from_bits(rng.next_u32()));
        singles.push((rng.next_u32() >> rng.random_range(0..9)) as f32);
        let decimal = rng.random_range(1..100_000u32);
        singles.push(format!("{decimal}e{}", rng.random_range(0..30)).parse().unwrap());
    }
    let printed: Vec<String> = client
        .query_one("SELECT array_agg(v::text ORDER BY n) FROM unnest($1::float4[]) WITH ORDINALITY u(v, n)", &[&singles])
        .await
        .unwrap()
        .get(0);
    for (value, printed) in singles.iter().zip(printed) {
        let shown = to_text(&PgType::Float4, &value.to_be_bytes()).unwrap();
        assert_eq!(shown, printed, "bits {:#010x}, seed {seed}", value.to_bits());
    }
}

/// Its output function is that of arrays, and it has no element type of its own.
#[tokio::test]
async fn a_domain_over_an_array_is_one_over_the_array_that_it_is_made_of() {
    let cluster = Cluster::start();
    let client = session(&cluster).await;
    client.batch_execute("CREATE DOMAIN ints AS int4[]; CREATE DOMAIN more AS ints").await.unwrap();
    let oid = |name: &str| format!("SELECT '{name}'::regtype::oid");
    let ints = PgType::Array(Box::new(ElementType { pg_type: PgType::Int4, delimiter: b',' }));
    let ints = PgType::Domain(Box::new(ints));
    for (name, expected) in [("ints", ints.clone()), ("more", PgType::Domain(Box::new(ints)))] {
        let oid = client.query_one(&oid(name), &[]).await.unwrap().get(0);
        let found = TypeCatalog::load(&client, &[oid]).await.unwrap().resolve(oid);
        assert_eq!(found, expected, "{name}");
    }
}

#[tokio::test]
async fn a_type_that_was_never_loaded_is_carried_as_text() {
    assert_eq!(TypeCatalog::new().resolve(23), PgType::Int4);
    assert!(!TypeCatalog::new().resolve(999_999).has_binary());
}

#[test]
fn damaged_input_is_an_error_and_never_a_panic() {
    let int = || Box::new(PgType::Int4);
    let element = |pg_type| Box::new(ElementType { pg_type, delimiter: b',' });
    let scalars = [
        PgType::Bool,
        PgType::Int2,
        PgType::Int8,
        PgType::Float4,
        PgType::Float8,
        PgType::Numeric,
        PgType::Uuid,
        PgType::Bytea,
        PgType::Jsonb,
        PgType::Date,
        PgType::Time,
        PgType::Timetz,
        PgType::Timestamp,
        PgType::Timestamptz,
        PgType::Interval,
        PgType::PgLsn,
        PgType::Array(element(PgType::Int4)),
        PgType::Array(element(PgType::Array(element(PgType::TEXT)))),
        PgType::Range(int()),
        PgType::Multirange(int()),
        PgType::Composite(vec![("a".into(), PgType::Int4), ("b".into(), PgType::TEXT)]),
        PgType::Domain(int()),
    ];
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let alphabet: Vec<char> =
        "0123456789-+:. ,;()[]{}\"\\=eENUL BCinfty x/adsmorty".chars().collect();
    let mut builder = RowBuilder::new();
    for ty in &scalars {
        for round in 0..3_000 {
            let mask = if round % 2 == 0 { 0xff } else { 0x03 };
            let length = rng.random_range(0..40);
            let bytes: Vec<u8> = (0..length).map(|_| rng.next_u32() as u8 & mask).collect();
            let _ = decode_binary(ty, &bytes, &mut builder);
            let text: String = (0..length).map(|_| *alphabet.choose(&mut rng).unwrap()).collect();
            let mut canonical = Vec::new();
            if canonical_from_text(ty, &text, &mut canonical).is_ok() {
                let shown = to_text(ty, &canonical);
                assert!(shown.is_ok(), "{ty:?}: {text:?} was taken, seed {seed}");
            }
            builder.finish();
        }
    }
}
