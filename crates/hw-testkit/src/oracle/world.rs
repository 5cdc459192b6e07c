//! The world of one seed: tables of every form, memberships, and users; apart from any definition
//! over it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Names that need care in SQL and JSON are among them.
pub(super) const USERS: [&str; 4] = ["amy", "bob", "o'neil", "zoë \"z\""];
pub(super) const TAGS: [&str; 4] = ["red", "green", "blue", "it's"];
pub(super) const ROLES: [&str; 2] = ["reader", "editor"];
pub(super) const GROUPS: i64 = 6;
/// Keys of data rows are taken from so many, so that changes meet.
pub(super) const KEYS: i64 = 40;

/// A type of keys or groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Text,
    Int,
    Big,
}

impl Kind {
    fn any(rng: &mut StdRng) -> Kind {
        *[Kind::Text, Kind::Text, Kind::Int, Kind::Big].choose(rng).expect("not empty")
    }

    pub(super) fn sql(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Int => "int4",
            Kind::Big => "int8",
        }
    }

    /// The n-th value as a literal of SQL.
    pub(super) fn literal(self, prefix: &str, n: i64) -> String {
        match self.value(prefix, n) {
            Value::String(text) => quoted(&text),
            number => number.to_string(),
        }
    }

    /// The n-th value as JSON.
    pub(super) fn value(self, prefix: &str, n: i64) -> Value {
        match self {
            Kind::Text => format!("{prefix}{n}").into(),
            Kind::Int => n.into(),
            // Beyond what a double holds exactly.
            Kind::Big => (n + (1 << 53) + 1).into(),
        }
    }
}

/// How a table of rows is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Form {
    /// A primary key of one column.
    Plain,
    /// A primary key of two columns, of which the client's id is made.
    Composite,
    /// No primary key at all: REPLICA IDENTITY FULL.
    Keyless,
    /// Ranges or hashes of the key.
    Partitioned,
}

/// A table of rows that are synced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Table {
    pub name: String,
    pub key: Kind,
    pub form: Form,
    /// What makes it.
    pub create: String,
}

impl Table {
    /// What a conflict of an insert is over.
    pub(super) fn unique(&self) -> &'static str {
        match self.form {
            Form::Composite => "id, org",
            _ => "id",
        }
    }

    /// Its leaves, of a partitioned one.
    pub(super) fn leaves(&self) -> Vec<String> {
        match self.form {
            Form::Partitioned => (1..=3).map(|n| format!("{}_{n}", self.name)).collect(),
            _ => Vec::new(),
        }
    }

    /// The bounds of a leaf, as `ATTACH PARTITION` wants them.
    pub(super) fn bounds(&self, leaf: usize) -> String {
        match self.key {
            Kind::Text => format!("FOR VALUES WITH (MODULUS 3, REMAINDER {leaf})"),
            kind => {
                let end = |n: usize| match n {
                    0 => "MINVALUE".to_owned(),
                    3 => "MAXVALUE".to_owned(),
                    n => kind.literal("k", n as i64 * KEYS / 3),
                };
                format!("FOR VALUES FROM ({}) TO ({})", end(leaf), end(leaf + 1))
            }
        }
    }
}

/// A table that says who is in which group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Membership {
    pub name: String,
    /// What makes it.
    pub create: String,
}

/// One user with everything that a request carries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct User {
    /// The subject of its tokens.
    pub name: String,
    /// Further claims.
    pub claims: Map<String, Value>,
    /// Connection parameters.
    pub parameters: Value,
    /// Explicit subscriptions.
    pub subscriptions: Value,
    pub(super) team: i64,
    pub(super) teams: Vec<i64>,
    pub(super) kind: i64,
    /// The streams it has subscribed to, with the tag it asks for.
    pub(super) wanted: Vec<(String, String)>,
}

/// Tables and users.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct World {
    /// `CREATE TABLE` and what belongs to it.
    pub schema: String,
    pub tables: Vec<Table>,
    pub memberships: Vec<Membership>,
    pub group: Kind,
    pub users: Vec<User>,
}

pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl World {
    /// Decides; nobody has subscribed to anything yet.
    pub(super) fn new(rng: &mut StdRng) -> World {
        let group = Kind::any(rng);
        let tables: Vec<Table> =
            (0..rng.random_range(1..=3)).map(|n| create(rng, format!("d{n}"), group)).collect();
        let memberships: Vec<Membership> = (0..rng.random_range(1..=2))
            .map(|n| create_membership(rng, format!("m{n}"), group))
            .collect();
        // Rows of writers that never wait for each other: (writer, number), dense by writer.
        let mut schema = "CREATE TYPE mood AS ENUM ('calm', 'wild'); CREATE SCHEMA far;
            CREATE TABLE flood (id int8 PRIMARY KEY);
            INSERT INTO flood SELECT -number FROM generate_series(1, 9) number;
            CREATE PROCEDURE pour(first int8, count int) LANGUAGE plpgsql AS $$ BEGIN
              FOR i IN 0 .. count - 1 LOOP INSERT INTO flood VALUES (first + i); COMMIT; END LOOP;
            END $$;\n"
            .to_owned();
        for table in &tables {
            if table.form == Form::Composite {
                let _ =
                    writeln!(schema, "CREATE TYPE addr_{} AS (street text, zip text);", table.name);
            }
            schema.push_str(&table.create);
        }
        for membership in &memberships {
            schema.push_str(&membership.create);
        }
        let users = USERS.iter().map(|name| user(rng, name, group)).collect();
        World { schema, tables, memberships, group, users }
    }
}

fn form(rng: &mut StdRng) -> Form {
    match rng.random_range(0..10) {
        0..5 => Form::Plain,
        5 | 6 => Form::Composite,
        7 => Form::Keyless,
        _ => Form::Partitioned,
    }
}

/// Whether the plans alter a column, or make it.
pub(super) fn is_altered(column: &str) -> bool {
    let made = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit());
    matches!(column, "num" | "mood" | "addr") || column.strip_prefix('x').is_some_and(made)
}

/// The columns behind the key, in the order of `traffic`'s inserts.
fn columns(group: Kind) -> String {
    format!(
        "owner text, grp {}, kind int4, tag text, flag boolean, amount numeric(12,2), meta jsonb, \
         alt uuid NOT NULL, body text, num int4 DEFAULT 7, mood mood DEFAULT 'calm'",
        group.sql()
    )
}

fn create(rng: &mut StdRng, name: String, group: Kind) -> Table {
    let (key, form) = (Kind::any(rng), form(rng));
    let mut table = Table { name, key, form, create: String::new() };
    let (name, key_sql, columns) = (&table.name, key.sql(), columns(group));
    let mut create = match form {
        Form::Plain => format!("CREATE TABLE {name} (id {key_sql} PRIMARY KEY, {columns});\n"),
        Form::Composite => format!(
            "CREATE TABLE {name} (id {key_sql}, org int4 NOT NULL DEFAULT 0, {columns}, \
             addr addr_{name} DEFAULT ROW('s', 'z'), PRIMARY KEY (id, org));\n"
        ),
        Form::Keyless => format!(
            "CREATE TABLE {name} (id {key_sql}, {columns});\n\
             CREATE UNIQUE INDEX {name}_id ON {name} (id);\n\
             ALTER TABLE {name} REPLICA IDENTITY FULL;\n"
        ),
        Form::Partitioned => {
            let by = if key == Kind::Text { "HASH" } else { "RANGE" };
            let mut text = format!(
                "CREATE TABLE {name} (id {key_sql} PRIMARY KEY, {columns}) PARTITION BY {by} (id);\n"
            );
            for (number, leaf) in table.leaves().iter().enumerate() {
                let bounds = table.bounds(number);
                let _ = writeln!(text, "CREATE TABLE {leaf} PARTITION OF {name} {bounds};");
            }
            text
        }
    };
    if rng.random_bool(0.5) {
        let _ = writeln!(create, "ALTER TABLE {name} ALTER body SET STORAGE EXTERNAL;");
    }
    if matches!(form, Form::Plain | Form::Composite) {
        let _ = writeln!(create, "CREATE UNIQUE INDEX {name}_alt ON {name} (alt);");
        let _ = match rng.random_range(0..6) {
            0 => writeln!(create, "ALTER TABLE {name} REPLICA IDENTITY FULL;"),
            1 => writeln!(create, "ALTER TABLE {name} REPLICA IDENTITY USING INDEX {name}_alt;"),
            _ => Ok(()),
        };
    }
    table.create = create;
    table
}

fn create_membership(rng: &mut StdRng, name: String, group: Kind) -> Membership {
    let group = group.sql();
    let create = match rng.random_bool(0.5) {
        true => format!(
            "CREATE TABLE {name} (member text, grp {group}, role text, PRIMARY KEY (member, grp));\n"
        ),
        false => format!(
            "CREATE TABLE {name} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
             member text, grp {group}, role text);\n"
        ),
    };
    Membership { name, create }
}

fn user(rng: &mut StdRng, name: &str, group: Kind) -> User {
    let team = rng.random_range(0..GROUPS);
    let teams: Vec<i64> =
        (0..rng.random_range(1..4)).map(|_| rng.random_range(0..GROUPS)).collect();
    let kind = rng.random_range(0..4);
    let mut claims = Map::new();
    claims.insert("team".into(), group.value("g", team));
    claims.insert("teams".into(), teams.iter().map(|team| group.value("g", *team)).collect());
    User {
        name: name.to_owned(),
        claims,
        parameters: json!({"kind": kind}),
        subscriptions: json!([]),
        team,
        teams,
        kind,
        wanted: Vec::new(),
    }
}

impl User {
    /// Subscribes to some tags of a stream.
    pub(super) fn subscribe(&mut self, rng: &mut StdRng, stream: &str) {
        for _ in 0..rng.random_range(0..3) {
            let tag = (*TAGS.choose(rng).expect("not empty")).to_owned();
            let wanted = (stream.to_owned(), tag.clone());
            if !self.wanted.contains(&wanted) {
                self.wanted.push(wanted);
                let subscription = json!({"stream": stream, "parameters": {"tag": tag}, "override_priority": null});
                self.subscriptions.as_array_mut().expect("it is one").push(subscription);
            }
        }
    }
}

/// The columns that tables have at a moment, in order, with the names of their types.
pub(super) type Catalog = BTreeMap<String, Vec<(String, String)>>;

/// SQL of the catalog of the schema `public`.
pub(super) const CATALOG: &str = "
    SELECT c.relname::text, a.attname::text, t.typname::text
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
      AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY 1, a.attnum";

/// The JSON object that a client gets of a whole row `t`, as SQL.
pub(super) fn whole_row(columns: &[(String, String)]) -> String {
    let pair = |(name, kind): &(String, String)| {
        let value = match kind.as_str() {
            "bool" => format!("t.{name}::int"),
            "text" | "int4" | "int8" => format!("t.{name}"),
            _ => format!("t.{name}::text"),
        };
        format!("'{name}', {value}")
    };
    let pairs: Vec<String> = columns.iter().map(pair).collect();
    format!("json_build_object({})::text", pairs.join(", "))
}
