//! What one seed is about: tables, a sync configuration, users; and, for each user, the SQL whose
//! answer the user's client must have.
//!
//! Every definition is generated twice from one choice: as the sync configuration that the server
//! gets and as SQL that Postgres answers.

use std::fmt::Write as _;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};

/// Names that need care in SQL and JSON are among them.
pub(super) const USERS: [&str; 4] = ["amy", "bob", "o'neil", "zoë \"z\""];
pub(super) const TAGS: [&str; 4] = ["red", "green", "blue", "it's"];
pub(super) const ROLES: [&str; 2] = ["reader", "editor"];
pub(super) const GROUPS: i64 = 6;
/// Keys of data rows are taken from so many, so that changes meet.
pub(super) const KEYS: i64 = 40;

/// A type of keys or groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Int,
    Big,
}

impl Kind {
    fn any(rng: &mut StdRng) -> Kind {
        *[Kind::Text, Kind::Text, Kind::Int, Kind::Big].choose(rng).expect("not empty")
    }

    fn sql(self) -> &'static str {
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
    fn value(self, prefix: &str, n: i64) -> Value {
        match self {
            Kind::Text => format!("{prefix}{n}").into(),
            Kind::Int => n.into(),
            // Beyond what a double holds exactly.
            Kind::Big => (n + (1 << 53) + 1).into(),
        }
    }
}

/// Which of the two languages a condition is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// Bucket definitions.
    Classic,
    /// Streams of edition 3.
    Stream,
}

/// A table of rows that are synced.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub name: String,
    pub key: Kind,
}

/// A table that says who is in which group.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    pub name: String,
}

/// One user with everything that a request carries.
#[derive(Clone, Debug)]
pub struct User {
    /// The subject of its tokens.
    pub name: String,
    /// Further claims.
    pub claims: Map<String, Value>,
    /// Connection parameters.
    pub parameters: Value,
    /// Explicit subscriptions.
    pub subscriptions: Value,
    team: i64,
    teams: Vec<i64>,
    kind: i64,
    wanted: Vec<(usize, String)>,
}

/// One output: where its rows go, and SQL for them with `{…}` for what belongs to a user.
#[derive(Clone, Debug)]
struct Output {
    table: String,
    sql: String,
    /// Counted only for users who subscribe, with the tag that they ask for as `{tag}`.
    subscription: Option<usize>,
}

/// Everything that a seed decides before the first transaction.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `CREATE TABLE` and what belongs to it.
    pub schema: String,
    /// The sync configuration.
    pub config: String,
    /// Who syncs.
    pub users: Vec<User>,
    pub(super) tables: Vec<Table>,
    pub(super) memberships: Vec<Membership>,
    pub(super) group: Kind,
    outputs: Vec<Output>,
}

pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// All columns as the client gets them.
const WHOLE: &str = "json_build_object('id', t.id, 'owner', t.owner, 'grp', t.grp, 'kind', t.kind, \
    'tag', t.tag, 'flag', t.flag::int, 'amount', t.amount::text, 'meta', t.meta::text, \
    'alt', t.alt::text, 'body', t.body)::text";

/// Some columns, one of them renamed.
const PART: &str =
    "json_build_object('id', t.id, 'grp', t.grp, 'label', t.tag, 'flag', t.flag::int)::text";

impl Plan {
    /// Decides.
    pub fn new(rng: &mut StdRng) -> Plan {
        let group = Kind::any(rng);
        let tables: Vec<Table> = (0..rng.random_range(1..=3))
            .map(|n| Table { name: format!("d{n}"), key: Kind::any(rng) })
            .collect();
        let memberships: Vec<Membership> =
            (0..rng.random_range(1..=2)).map(|n| Membership { name: format!("m{n}") }).collect();
        let mut schema = String::new();
        for table in &tables {
            create(rng, table, group, &mut schema);
        }
        for membership in &memberships {
            create_membership(rng, membership, group, &mut schema);
        }
        let mut plan = Plan {
            schema,
            config: String::new(),
            users: Vec::new(),
            tables,
            memberships,
            group,
            outputs: Vec::new(),
        };
        let streams = rng.random_bool(0.6);
        let count = rng.random_range(2..=5);
        plan.config = match streams {
            true => "config:\n  edition: 3\nstreams:\n".into(),
            false => "bucket_definitions:\n".into(),
        };
        let subscribable: Vec<usize> = (0..count)
            .filter(|number| match streams {
                true => plan.stream(rng, *number),
                false => {
                    plan.classic(rng, *number);
                    false
                }
            })
            .collect();
        plan.users = USERS.iter().map(|name| user(rng, name, group, &subscribable)).collect();
        plan
    }

    /// The queries of one user: output table, and SQL of (id, row as JSON).
    pub(super) fn oracle(&self, user: &User) -> Vec<(String, String)> {
        let teams: Vec<String> =
            user.teams.iter().map(|team| self.group.literal("g", *team)).collect();
        let fill = |sql: &str| {
            sql.replace("{user}", &quoted(&user.name))
                .replace("{team}", &self.group.literal("g", user.team))
                .replace("{teams}", &teams.join(", "))
                .replace("{kind}", &user.kind.to_string())
        };
        let mut queries = Vec::new();
        for output in &self.outputs {
            match output.subscription {
                None => queries.push((output.table.clone(), fill(&output.sql))),
                Some(stream) => {
                    for (_, tag) in user.wanted.iter().filter(|(wanted, _)| *wanted == stream) {
                        let sql = fill(&output.sql).replace("{tag}", &quoted(tag));
                        queries.push((output.table.clone(), sql));
                    }
                }
            }
        }
        queries
    }

    /// Adds an output; returns what stands between SELECT and WHERE in the configuration.
    fn output(
        &mut self,
        rng: &mut StdRng,
        number: usize,
        condition: &str,
        subscription: Option<usize>,
    ) -> (String, String) {
        let table = self.tables.choose(rng).expect("there is one").name.clone();
        // A projection goes to a table of its own: one output table has one form of each row.
        let part = rng.random_bool(0.3);
        let (columns, name) = match part {
            true => (PART, format!("{table}_{number}")),
            false => (WHOLE, table.clone()),
        };
        let sql = format!("SELECT t.id::text, {columns} FROM {table} t WHERE {condition}");
        self.outputs.push(Output { table: name.clone(), sql, subscription });
        match part {
            true => ("id, grp, tag AS label, flag".into(), format!("{table} AS {name}")),
            false => ("*".into(), table),
        }
    }

    fn classic(&mut self, rng: &mut StdRng, number: usize) {
        let membership = self.memberships.choose(rng).expect("there is one").name.clone();
        let (role, role_sql) = match rng.random_bool(0.5) {
            true => (" AND role = 'editor'", " AND m.role = 'editor'"),
            false => ("", ""),
        };
        // The parameter query, the row's condition, and the same in SQL.
        let (parameters, condition, sql) = match rng.random_range(0..6) {
            0 => (None, String::new(), "true".to_owned()),
            1 => (
                Some("SELECT request.user_id() AS p".to_owned()),
                "owner = bucket.p".to_owned(),
                "t.owner = {user}".to_owned(),
            ),
            2 | 3 => (
                Some(format!(
                    "SELECT grp AS p FROM {membership} WHERE member = request.user_id(){role}"
                )),
                "grp = bucket.p".to_owned(),
                format!(
                    "t.grp IN (SELECT m.grp FROM {membership} m WHERE m.member = {{user}}{role_sql})"
                ),
            ),
            4 => (
                Some("SELECT request.jwt() ->> 'team' AS p".to_owned()),
                "grp = bucket.p".to_owned(),
                "t.grp = {team}".to_owned(),
            ),
            _ => (
                Some("SELECT request.parameters() ->> 'kind' AS p".to_owned()),
                "kind = bucket.p".to_owned(),
                "t.kind = {kind}".to_owned(),
            ),
        };
        let config = &mut self.config;
        let _ = writeln!(config, "  def{number}:");
        if rng.random_bool(0.4) {
            let _ = writeln!(config, "    priority: {}", rng.random_range(0..=3));
        }
        if let Some(parameters) = &parameters {
            let _ = writeln!(config, "    parameters: {parameters}");
        }
        config.push_str("    data:\n");
        for query in 0..rng.random_range(1..=2) {
            let (filter, filter_sql) = filter(rng, Dialect::Classic);
            let whole = format!("({sql}) AND ({filter_sql})");
            let (columns, from) = self.output(rng, number * 2 + query, &whole, None);
            let conditions: Vec<&str> = [condition.as_str(), filter.as_str()]
                .into_iter()
                .filter(|c| !c.is_empty())
                .collect();
            let clause = match conditions.is_empty() {
                true => String::new(),
                false => format!(" WHERE {}", conditions.join(" AND ")),
            };
            let _ = writeln!(self.config, "      - SELECT {columns} FROM {from}{clause}");
        }
    }

    /// Returns whether the stream must be subscribed to.
    fn stream(&mut self, rng: &mut StdRng, number: usize) -> bool {
        let membership = self.memberships.choose(rng).expect("there is one").name.clone();
        let (role, role_sql) = match rng.random_bool(0.5) {
            true => (" AND role = 'editor'", " AND m.role = 'editor'"),
            false => ("", ""),
        };
        let member =
            format!("grp IN (SELECT grp FROM {membership} WHERE member = auth.user_id(){role})");
        let member_sql = format!(
            "t.grp IN (SELECT m.grp FROM {membership} m WHERE m.member = {{user}}{role_sql})"
        );
        let own = ("owner = auth.user_id()".to_owned(), "t.owner = {user}".to_owned());
        let subscribed =
            ("tag = subscription.parameter('tag')".to_owned(), "t.tag = {tag}".to_owned());
        let both = |a: &(String, String), b: (&str, &str), word: &str| {
            (format!("{} {word} {}", a.0, b.0), format!("{} {word} {}", a.1, b.1))
        };
        let member = (member, member_sql);
        let choice = rng.random_range(0..10);
        let (condition, sql) = match choice {
            0 => (String::new(), "true".to_owned()),
            1 => own,
            2 | 3 => member,
            4 => both(&own, (&member.0, &member.1), "OR"),
            5 => ("grp = auth.parameter('team')".into(), "t.grp = {team}".into()),
            6 => ("grp IN auth.parameter('teams')".into(), "t.grp IN ({teams})".into()),
            7 => ("kind = connection.parameter('kind')".into(), "t.kind = {kind}".into()),
            8 => both(&subscribed, (&member.0, &member.1), "AND"),
            _ => both(&subscribed, (&own.0, &own.1), "AND"),
        };
        let on_demand = choice >= 8;
        let (filter, filter_sql) = filter(rng, Dialect::Stream);
        let whole = format!("({sql}) AND ({filter_sql})");
        let (columns, from) = self.output(rng, number, &whole, on_demand.then_some(number));
        let clause = match (condition.is_empty(), filter.is_empty()) {
            (true, true) => String::new(),
            (true, false) => format!(" WHERE {filter}"),
            (false, true) => format!(" WHERE {condition}"),
            (false, false) => format!(" WHERE ({condition}) AND {filter}"),
        };
        let config = &mut self.config;
        let _ = writeln!(config, "  def{number}:");
        if !on_demand {
            config.push_str("    auto_subscribe: true\n");
        }
        if rng.random_bool(0.4) {
            let _ = writeln!(config, "    priority: {}", rng.random_range(0..=3));
        }
        let _ = writeln!(config, "    query: SELECT {columns} FROM {from}{clause}");
        on_demand
    }
}

fn create(rng: &mut StdRng, table: &Table, group: Kind, schema: &mut String) {
    let Table { name, key } = table;
    let _ = writeln!(
        schema,
        "CREATE TABLE {name} (id {} PRIMARY KEY, owner text, grp {}, kind int4, tag text, \
         flag boolean, amount numeric(12,2), meta jsonb, alt uuid NOT NULL, body text);
         CREATE UNIQUE INDEX {name}_alt ON {name} (alt);",
        key.sql(),
        group.sql()
    );
    if rng.random_bool(0.5) {
        let _ = writeln!(schema, "ALTER TABLE {name} ALTER body SET STORAGE EXTERNAL;");
    }
    match rng.random_range(0..6) {
        0 => {
            let _ = writeln!(schema, "ALTER TABLE {name} REPLICA IDENTITY FULL;");
        }
        1 => {
            let _ = writeln!(schema, "ALTER TABLE {name} REPLICA IDENTITY USING INDEX {name}_alt;");
        }
        _ => {}
    }
}

fn create_membership(rng: &mut StdRng, membership: &Membership, group: Kind, schema: &mut String) {
    let name = &membership.name;
    let group = group.sql();
    let _ = match rng.random_bool(0.5) {
        true => writeln!(
            schema,
            "CREATE TABLE {name} (member text, grp {group}, role text, PRIMARY KEY (member, grp));"
        ),
        false => writeln!(
            schema,
            "CREATE TABLE {name} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
             member text, grp {group}, role text);"
        ),
    };
}

fn user(rng: &mut StdRng, name: &str, group: Kind, subscribable: &[usize]) -> User {
    let team = rng.random_range(0..GROUPS);
    let teams: Vec<i64> =
        (0..rng.random_range(1..4)).map(|_| rng.random_range(0..GROUPS)).collect();
    let kind = rng.random_range(0..4);
    let mut wanted: Vec<(usize, String)> = Vec::new();
    for stream in subscribable {
        for _ in 0..rng.random_range(0..3) {
            let tag = TAGS.choose(rng).expect("not empty");
            if !wanted.contains(&(*stream, (*tag).to_owned())) {
                wanted.push((*stream, (*tag).to_owned()));
            }
        }
    }
    let mut claims = Map::new();
    claims.insert("team".into(), group.value("g", team));
    claims.insert("teams".into(), teams.iter().map(|team| group.value("g", *team)).collect());
    let subscriptions = wanted.iter().map(|(stream, tag)| {
        json!({"stream": format!("def{stream}"), "parameters": {"tag": tag}, "override_priority": null})
    });
    User {
        name: name.to_owned(),
        claims,
        parameters: json!({"kind": kind}),
        subscriptions: subscriptions.collect(),
        team,
        teams,
        kind,
        wanted,
    }
}

/// A condition over the row alone: as the configuration says it, and as SQL does. Empty and `true`
/// where there is none.
///
/// The language has its own ways with NULL (`sync-rules.md` 6): a condition is true or not, so
/// `NOT` of NULL is true, and streams read `a != b` as `NOT (a = b)`.
fn filter(rng: &mut StdRng, dialect: Dialect) -> (String, String) {
    if !rng.random_bool(0.6) {
        return (String::new(), "true".into());
    }
    let (one, one_sql) = atom(rng, dialect);
    match rng.random_range(0..5) {
        0 => {
            let (other, other_sql) = atom(rng, dialect);
            (format!("({one} OR {other})"), format!("({one_sql} OR {other_sql})"))
        }
        1 => {
            let (other, other_sql) = atom(rng, dialect);
            (format!("({one} AND {other})"), format!("({one_sql} AND {other_sql})"))
        }
        2 => (format!("(NOT ({one}))"), format!("(NOT coalesce({one_sql}, false))")),
        _ => (one, one_sql),
    }
}

fn atom(rng: &mut StdRng, dialect: Dialect) -> (String, String) {
    let kind = rng.random_range(0..4);
    let tag = quoted(TAGS[rng.random_range(0..3)]);
    let same = |text: String| (text.clone(), text);
    match rng.random_range(0..8) {
        0 => same(format!("kind = {kind}")),
        1 => same(format!("kind < {kind}")),
        2 => same(format!("kind >= {kind}")),
        3 if dialect == Dialect::Stream => {
            (format!("kind != {kind}"), format!("kind IS DISTINCT FROM {kind}"))
        }
        3 => same(format!("kind != {kind}")),
        4 => same(format!("tag = {tag}")),
        5 => same("tag IS NULL".into()),
        6 => ("flag = 1".into(), "flag".into()),
        _ => same("meta ->> 'k' = 'v1'".into()),
    }
}
