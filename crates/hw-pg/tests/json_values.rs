//! DataSync 7.2: what the log gives as JSON is what a query prints. Every listed type, hundreds of generated
//! values each and whole rows, rendered from their canonical bytes and printed by a real server.

use crate::expressions::rows;
use crate::values::{Make, Raw, SCHEMA, seed, session, types};
use hw_expr::postgres::{EvalError, JsonOfDatabase, RowJson, to_jsonb};
use hw_pg::policies::RowSecurity;
use hw_pg::types::{TypeCatalog, binary_select_list, decode};
use hw_testkit::{Cluster, ClusterOptions};
use hw_types::relation::quote_ident;
use hw_types::{Cell, Column, Row, RowBuilder};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio_postgres::Client;

/// Types whose JSON has more to it than that of `values::types`, and `to_jsonb` where it may fail.
const MORE: &str = r#"
CREATE TYPE awkward AS ("é" int4, bb float8, a jsonb, "\" text, """" json, "B" timestamptz, "日本" uuid,
                        "a b" numeric, aa bool, empty date[]);
CREATE TYPE nothing AS ();
CREATE DOMAIN stamp AS timestamptz;
CREATE DOMAIN stamps AS stamp[];
CREATE DOMAIN thing AS awkward;
CREATE FUNCTION json_of(v anyelement) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  RETURN to_jsonb(v)::text;
EXCEPTION WHEN OTHERS THEN
  RETURN 'refused';
END $$;
"#;

/// As [`types`], with those of [`MORE`].
fn all_types() -> Vec<(&'static str, Make)> {
    let array = |make: &Make| Make::Array(Box::new(make.clone()), ',');
    let awkward = Make::Composite(vec![
        Make::Int(32),
        Make::Float,
        Make::Json,
        Make::Text,
        Make::Json,
        Make::Timestamp,
        Make::Uuid,
        Make::Numeric,
        Make::Words(&["t", "f"]),
        array(&Make::Date),
    ]);
    let mut all: Vec<_> = types().into_iter().map(|(name, make, _)| (name, make)).collect();
    all.extend([
        ("awkward", awkward.clone()),
        ("awkward[]", array(&awkward)),
        ("thing", awkward.clone()),
        ("thing[]", array(&awkward)),
        ("nothing", Make::Words(&["()"])),
        ("stamp", Make::Timestamp),
        ("stamps", array(&Make::Timestamp)),
        ("stamps[]", array(&array(&Make::Timestamp))),
        ("oid[]", array(&Make::Words(&["0", "4294967295"]))),
        ("name[]", array(&Make::Text)),
        ("money[]", array(&Make::Int(16))),
        ("tstzmultirange[]", array(&Make::Multirange(Box::new(Make::Timestamp)))),
        ("int2vector[]", Make::Words(&["{1 2,3}"])),
        ("oidvector", Make::Words(&["1 2 3", "7"])),
        ("point", Make::Words(&["(1,2)", "(-0,1e300)"])),
        ("tsquery", Make::Words(&["'a' & 'b'", "!'c\\\\'"])),
        ("jsonpath", Make::Words(&["$.\"a\"[*]", "$ ? (@ > 1)"])),
    ]);
    all
}

/// Documents at the limits of what a `jsonb` holds.
fn documents() -> Vec<String> {
    let few = [
        "1e131071",
        "1e131072",
        "0.1e131072",
        "1e-16383",
        "1e-16384",
        "0e-16383",
        "0e-16384",
        "0e999999",
        "1e9999999999",
        "1e-9223372036854775808",
        "-0.000e-3",
        "1E+05",
        "12.50e1",
        "12.50e2",
        "12.50e3",
        "0.0001e2",
        r#"{"\u0000": 1}"#,
        r#"{"a": "\u0000", "a": 1}"#,
        r#"["\ud83d\ude00", "\uD83D\uDE00"]"#,
        r#""\ud83d""#,
        r#""\ud83d\n""#,
        r#""\ud83d\u0041""#,
        r#""\ude00""#,
        r#""\ud83d\ud83d\ude00""#,
        r#"{"aa":1,"\n":2,"\"":3,"\u0001":4,"":5,"é":6,"\u00e9":7,"zz":8,"\u001f\u001e":9,"a":10,"\t":11}"#,
        r#"{"b":{"bb":1,"b":{"d":1,"c":2,"d":3}},"a":[{"z":1,"y":2}],"b":{"z":[],"y":{}}}"#,
    ];
    let mut all: Vec<String> = few.iter().map(|text| (*text).to_owned()).collect();
    all.extend([131_072, 131_073].map(|digits| "7".repeat(digits)));
    all.extend([16_383, 16_384].map(|digits| format!("0.{}", "3".repeat(digits))));
    let nested =
        |depth: usize| format!("{}{}", "{\"b\":[".repeat(depth), "],\"a\":1}".repeat(depth));
    all.extend([nested(100), "[".repeat(250) + &"]".repeat(250)]);
    all
}

/// What is rendered of a column's value, as `json_of` says it.
fn said(rendered: Result<String, EvalError>) -> String {
    rendered.unwrap_or_else(|_| "refused".into())
}

/// The columns of a table, as the catalog describes them.
async fn columns(client: &Client, table: &str) -> Vec<Column> {
    let query = format!(
        "SELECT attname, atttypid FROM pg_attribute
         WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    );
    let found = client.query(&query, &[]).await.unwrap();
    let oids: Vec<u32> = found.iter().map(|row| row.get(1)).collect();
    let types = TypeCatalog::load(client, &oids).await.unwrap();
    let column = |row: &tokio_postgres::Row| Column {
        name: row.get(0),
        type_oid: row.get(1),
        type_modifier: -1,
        pg_type: types.resolve(row.get(1)),
        identity: false,
        primary_key: 0,
    };
    found.iter().map(column).collect()
}

/// The rows of a table in canonical form, by `id`.
async fn canonical(client: &Client, table: &str, columns: &[Column]) -> Vec<Row> {
    let (list, forms) = binary_select_list(columns);
    let query = format!("SELECT {list} FROM {table} ORDER BY id");
    let mut builder = RowBuilder::new();
    let mut found = Vec::new();
    for row in client.query(&query, &[]).await.unwrap() {
        for (index, column) in columns.iter().enumerate() {
            match row.get::<_, Raw>(index).0 {
                None => builder.push(Cell::Null),
                Some(raw) => {
                    decode(forms[index], &column.pg_type, &raw, &mut builder).map(drop).unwrap();
                }
            }
        }
        found.push(builder.finish());
    }
    found
}

async fn of_database(client: &mut Client) -> JsonOfDatabase {
    RowSecurity::read(client, "postgres").await.unwrap().json()
}

#[tokio::test]
async fn values_and_rows_of_every_type_are_the_json_that_postgres_prints_on_every_major() {
    let mut compared = 0;
    for major in hw_testkit::majors() {
        compared += check_every_type(major).await;
    }
    assert!(compared > 20_000, "{compared}");
}

async fn check_every_type(major: u32) -> usize {
    let options = ClusterOptions { major: Some(major), ..Default::default() };
    let cluster = Cluster::start_with(options);
    let mut client = session(&cluster).await;
    // Some builds come without libxml.
    let has_xml = client.query_one("SELECT '<a/>'::text::xml", &[]).await.is_ok();
    client.batch_execute(SCHEMA).await.unwrap();
    client.batch_execute(MORE).await.unwrap();
    let database = of_database(&mut client).await;
    assert_eq!(database, JsonOfDatabase { is_utf8: true, has_casts: false });
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut compared, mut asked, mut exact) = (0, Vec::new(), Vec::new());
    for (name, make) in all_types() {
        if name == "xml" && !has_xml {
            continue;
        }
        let mut literals: Vec<String> = (0..200).map(|_| make.literal(&mut rng)).collect();
        if name == "json" {
            literals.extend(documents());
        }
        client
            .batch_execute(&format!(
                "DROP TABLE IF EXISTS v; CREATE TABLE v (id serial PRIMARY KEY, v {name});
                 INSERT INTO v(v) VALUES (NULL);"
            ))
            .await
            .unwrap();
        client.execute("SELECT fill($1, $2)", &[&literals, &name]).await.unwrap();
        let columns = &columns(&client, "v").await[1..];
        if !database.is_exact(columns[0].type_oid, &columns[0].pg_type) {
            asked.push(name);
            continue;
        }
        let printed = rows(&client, "SELECT json_of(v), v::text FROM v ORDER BY id").await.unwrap();
        let rows = canonical(&client, "v", columns).await;
        assert_eq!(rows.len(), printed.len());
        assert!(rows.len() > 40, "{major}: {name}: only {} literals are values", rows.len());
        for (row, printed) in rows.iter().zip(&printed) {
            let rendered = row.view().get(0).bytes().map(|bytes| {
                let mut out = String::new();
                said(to_jsonb(&columns[0].pg_type, bytes, &mut out).map(|()| out))
            });
            let context = format!("{major}: {name}: {:?}, seed {seed}", printed[1]);
            assert_eq!(rendered, printed[0], "{context}");
            compared += 1;
        }
        exact.push((name, printed.into_iter().map(|mut texts| texts.swap_remove(1)).collect()));
    }
    // In `mixed` is an inet: below the top a type of Postgres's own is not told from others.
    assert_eq!(asked, ["mixed", "int2vector", "int2vector[]", "oidvector"]);
    let mut compared_rows = 0;
    for _ in 0..20 {
        compared_rows += check_rows(&client, &exact, &mut rng, major, seed).await;
    }
    assert!(compared_rows > 1_000, "{major}: {compared_rows}");
    compared + compared_rows
}

/// Names of columns that stand elsewhere in the object than in the table, or must be escaped.
const NAMES: &[&str] = &[
    "a",
    "B",
    "b",
    "aa",
    "Z",
    "é",
    "e\u{301}",
    "日本",
    "🦀",
    "\"",
    "\\",
    "a\"b",
    " ",
    "a b",
    "\n",
    "\t",
    "\u{1}",
    "\u{7f}",
    "'",
    "$1",
    "select",
    "{}",
    ":",
    "a.b",
    "a, b",
    "zzz",
    "ßß",
    "a23456789012345678901234567890123456789012345678901234567890123",
];

/// Rows of a table with a few of these types under awkward names, and the same under names of which some
/// come twice.
async fn check_rows(
    client: &Client,
    types: &[(&str, Vec<Option<String>>)],
    rng: &mut StdRng,
    major: u32,
    seed: u64,
) -> usize {
    let count = rng.random_range(1..12);
    let names: Vec<&str> = NAMES.choose_multiple(rng, count).copied().collect();
    let chosen: Vec<_> = names.iter().map(|_| types.choose(rng).unwrap()).collect();
    let quoted: Vec<String> = names.iter().map(|name| quote_ident(name)).collect();
    let definitions: Vec<String> =
        quoted.iter().zip(&chosen).map(|(name, (ty, _))| format!("{name} {ty}")).collect();
    client
        .batch_execute(&format!(
            "DROP TABLE IF EXISTS r; CREATE TABLE r (id serial PRIMARY KEY, {})",
            definitions.join(", ")
        ))
        .await
        .unwrap();
    let values: Vec<String> = chosen
        .iter()
        .enumerate()
        .map(|(i, (ty, _))| format!("($1::text[])[{}]::{ty}", i + 1))
        .collect();
    let insert =
        format!("INSERT INTO r({}) SELECT {} RETURNING id", quoted.join(", "), values.join(", "));
    for _ in 0..30 {
        let texts: Vec<Option<&str>> =
            chosen.iter().map(|(_, all)| all.choose(rng).unwrap().as_deref()).collect();
        // A timestamp(2) may be rounded beyond what can be read again.
        let _ = client.query(&insert, &[&texts]).await;
    }
    let columns = columns(client, "r").await;
    let rows_of_table = canonical(client, "r", &columns).await;
    let members = columns.iter().enumerate();
    let members: Vec<_> = members.map(|(i, c)| (c.name.as_str(), i, &c.pg_type)).collect();
    // Every second column under the name of the one before.
    let twice: Vec<_> =
        members.iter().map(|(_, i, pg_type)| (members[i / 2 * 2].0, *i, *pg_type)).collect();
    let list: Vec<String> = twice
        .iter()
        .map(|(name, i, _)| {
            format!("r.{} AS {}", quote_ident(&columns[*i].name), quote_ident(name))
        })
        .collect();
    // What no jsonb holds is refused under one name as under another.
    let query = format!(
        "SELECT json_of(r), CASE WHEN json_of(r) <> 'refused'
                            THEN (SELECT to_jsonb(s)::text FROM (SELECT {}) s) END
         FROM r ORDER BY id",
        list.join(", ")
    );
    let renderings = [RowJson::new(members), RowJson::new(twice)];
    let printed = rows(client, &query).await.unwrap();
    assert_eq!(printed.len(), rows_of_table.len());
    let mut compared = 0;
    for (row, printed) in rows_of_table.iter().zip(printed) {
        for (rendering, printed) in renderings.iter().zip(printed) {
            let Some(printed) = printed else { continue };
            let mut out = String::new();
            let rendered = said(rendering.write(&row.view(), &mut out).map(|()| out));
            assert_eq!(rendered, printed, "{major}: {definitions:?}, seed {seed}");
            compared += 1;
        }
    }
    compared
}

/// What only the database can tell: casts of its own, and the order of keys under another encoding.
#[tokio::test]
async fn what_a_database_adds_to_the_rules_is_read_from_it() {
    let cluster = Cluster::start();
    let mut client = session(&cluster).await;
    client
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('sad', 'ok');
             CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE sql AS $$ SELECT '[1]'::json $$;
             CREATE TABLE t (m mood, plain int4, text text)",
        )
        .await
        .unwrap();
    let found = columns(&client, "t").await;
    let exact = |database: JsonOfDatabase| -> Vec<bool> {
        found.iter().map(|c| database.is_exact(c.type_oid, &c.pg_type)).collect()
    };
    assert_eq!(exact(of_database(&mut client).await), [true, true, true]);
    // Without a function a cast goes through the text, and is not used.
    client.batch_execute("CREATE CAST (mood AS json) WITH INOUT").await.unwrap();
    assert_eq!(exact(of_database(&mut client).await), [true, true, true]);
    client
        .batch_execute(
            "DROP CAST (mood AS json); CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood)",
        )
        .await
        .unwrap();
    let printed = rows(&client, "SELECT to_jsonb('sad'::mood)").await.unwrap();
    assert_eq!(printed, [[Some("[1]".to_owned())]]);
    assert_eq!(exact(of_database(&mut client).await), [false, true, true]);

    client
        .batch_execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        .await
        .unwrap();
    let url = cluster.url("latin");
    let (config, _) = hw_pg::config::ConnectConfig::parse(&url).unwrap();
    let mut latin = hw_pg::sql::connect(&config).await.unwrap().0;
    let printed = rows(&latin, r#"SELECT '{"é": 1, "zz": 2}'::jsonb"#).await.unwrap();
    assert_eq!(printed, [[Some(r#"{"é": 1, "zz": 2}"#.to_owned())]]);
    let database = of_database(&mut latin).await;
    assert_eq!(database, JsonOfDatabase { is_utf8: false, has_casts: false });
}
