//! Definitions under test, each generated twice from one choice: as the sync configuration that the
//! server gets and as SQL that Postgres answers.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};

use super::world::{Catalog, Form, TAGS, Table, User, World, quoted, whole_row};

/// Which of the two languages a condition is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Dialect {
    /// Bucket definitions.
    Classic,
    /// Streams of edition 3.
    Stream,
}

/// One query of a definition: where its rows go, and SQL of id and row with `{…}` for what belongs to
/// a user or to the catalog of the moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Output {
    table: String,
    sql: String,
}

/// One definition of a sync configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Definition {
    /// Its name, never used for another content.
    pub name: String,
    /// Its lines in the configuration.
    text: String,
    outputs: Vec<Output>,
    /// The tables that it reads.
    pub reads: BTreeSet<String>,
    /// Whether it is given to those who subscribe, with the tag that they ask for as `{tag}`.
    pub on_demand: bool,
}

/// A sync configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Config {
    dialect: Dialect,
    pub definitions: Vec<Definition>,
}

/// What everybody gets of the rows that writers pour in.
pub(super) const FLOOD: &str = "flood";

/// How the names of banners begin.
pub(super) const BANNER: &str = "config";

/// The definition by which a state says of which configuration it is: everybody gets one row of it.
pub(super) fn banner(config: usize) -> String {
    format!("{BANNER}{config}")
}

/// That row's key in the table of what is poured in, where it is below all others.
pub(super) fn banner_key(config: usize) -> i64 {
    -1 - config as i64
}

impl Config {
    /// Decides; users subscribe to what is given on demand.
    pub(super) fn new(rng: &mut StdRng, world: &mut World) -> Config {
        let dialect = if rng.random_bool(0.6) { Dialect::Stream } else { Dialect::Classic };
        let count = rng.random_range(2..=5);
        let definitions: Vec<Definition> =
            (0..count).map(|number| definition(rng, world, dialect, number)).collect();
        for definition in definitions.iter().filter(|definition| definition.on_demand) {
            for user in &mut world.users {
                user.subscribe(rng, &definition.name);
            }
        }
        Config { dialect, definitions }
    }

    /// Another one in the same language: some stay, some go, some are new, numbered from `first`.
    /// They read no other tables than `only`, where it is given.
    pub(super) fn other(
        &self,
        rng: &mut StdRng,
        world: &World,
        first: usize,
        only: Option<&BTreeSet<String>>,
    ) -> Config {
        let mut definitions: Vec<Definition> =
            self.definitions.iter().filter(|_| rng.random_bool(0.6)).cloned().collect();
        for number in first..first + rng.random_range(1..=2) {
            let new = definition(rng, world, self.dialect, number);
            // Nobody has subscribed to what is on demand.
            if !new.on_demand && only.is_none_or(|only| new.reads.is_subset(only)) {
                definitions.push(new);
            }
        }
        Config { dialect: self.dialect, definitions }
    }

    /// The tables that it reads.
    pub(super) fn reads(&self) -> BTreeSet<String> {
        self.definitions.iter().flat_map(|definition| definition.reads.iter().cloned()).collect()
    }

    /// The file.
    ///
    /// - Takes: which of a plan's configurations it is.
    pub(super) fn text(&self, number: usize) -> String {
        let mut text = match self.dialect {
            Dialect::Stream => "config:\n  edition: 3\nstreams:\n".to_owned(),
            Dialect::Classic => "bucket_definitions:\n".to_owned(),
        };
        for definition in &self.definitions {
            text.push_str(&definition.text);
        }
        let mut to_all = |name: &str, query: String| {
            let _ = match self.dialect {
                Dialect::Stream => {
                    writeln!(text, "  {name}:\n    auto_subscribe: true\n    query: {query}")
                }
                Dialect::Classic => writeln!(text, "  {name}:\n    data:\n      - {query}"),
            };
        };
        let (banner, key) = (banner(number), banner_key(number));
        to_all(FLOOD, "SELECT id FROM flood WHERE id > 0".to_owned());
        to_all(&banner, format!("SELECT id FROM flood AS {banner} WHERE id = {key}"));
        text
    }
}

impl Definition {
    /// Whether everything that it reads is there.
    pub(super) fn can_be_read(&self, catalog: &Catalog) -> bool {
        self.reads.iter().all(|table| catalog.contains_key(table))
    }

    /// The queries of one user: output table, and SQL of (id, row as JSON).
    ///
    /// - Takes: a catalog that has all tables.
    pub(super) fn queries(
        &self,
        world: &World,
        user: &User,
        catalog: &Catalog,
    ) -> Vec<(String, String)> {
        let teams: Vec<String> =
            user.teams.iter().map(|team| world.group.literal("g", *team)).collect();
        let fill = |sql: &str| {
            let mut sql = sql
                .replace("{user}", &quoted(&user.name))
                .replace("{team}", &world.group.literal("g", user.team))
                .replace("{teams}", &teams.join(", "))
                .replace("{kind}", &user.kind.to_string());
            for table in &self.reads {
                let place = format!("{{row:{table}}}");
                if sql.contains(&place) {
                    sql = sql.replace(&place, &whole_row(&catalog[table]));
                }
            }
            sql
        };
        let mut queries = Vec::new();
        for output in &self.outputs {
            let sql = fill(&output.sql);
            if !self.on_demand {
                queries.push((output.table.clone(), sql));
                continue;
            }
            for (_, tag) in user.wanted.iter().filter(|(wanted, _)| *wanted == self.name) {
                queries.push((output.table.clone(), sql.replace("{tag}", &quoted(tag))));
            }
        }
        queries
    }
}

/// Some columns, one of them renamed.
const PART: &str = "'grp', t.grp, 'label', t.tag, 'flag', t.flag::int";

/// All columns that a table with a composite key always has; its id is made of two.
const NAMED: &str = "'owner', t.owner, 'grp', t.grp, 'kind', t.kind, 'tag', t.tag, \
    'amount', t.amount::text, 'meta', t.meta::text, 'alt', t.alt::text, 'body', t.body";

/// A query of a definition over any table.
struct Query {
    table: String,
    /// What stands between SELECT and WHERE in the configuration.
    text: String,
    output: Output,
}

fn query(rng: &mut StdRng, world: &World, name: &str, condition: &str) -> Query {
    let Table { name: table, form, .. } = world.tables.choose(rng).expect("there is one");
    // A projection goes to a table of its own: one output table has one form of each row.
    let part = rng.random_bool(0.3);
    let composite = *form == Form::Composite;
    let (id, id_sql) = match composite {
        true => ("id || '-' || org AS id", "t.id || '-' || t.org"),
        false => ("id", "t.id"),
    };
    let (text, row, to) = match (part, composite) {
        (true, _) => (
            format!("{id}, grp, tag AS label, flag FROM {table} AS {table}_{name}"),
            format!("json_build_object('id', {id_sql}, {PART})::text"),
            format!("{table}_{name}"),
        ),
        (false, true) => (
            format!("{id}, owner, grp, kind, tag, amount, meta, alt, body FROM {table}"),
            format!("json_build_object('id', {id_sql}, {NAMED})::text"),
            table.clone(),
        ),
        (false, false) => (format!("* FROM {table}"), format!("{{row:{table}}}"), table.clone()),
    };
    let sql = format!("SELECT ({id_sql})::text, {row} FROM {table} t WHERE {condition}");
    Query { table: table.clone(), text, output: Output { table: to, sql } }
}

fn definition(rng: &mut StdRng, world: &World, dialect: Dialect, number: usize) -> Definition {
    let name = format!("def{number}");
    match dialect {
        Dialect::Classic => classic(rng, world, name),
        Dialect::Stream => stream(rng, world, name),
    }
}

fn priority(rng: &mut StdRng, text: &mut String) {
    if rng.random_bool(0.4) {
        let _ = writeln!(text, "    priority: {}", rng.random_range(0..=3));
    }
}

fn role(rng: &mut StdRng) -> (&'static str, &'static str) {
    match rng.random_bool(0.5) {
        true => (" AND role = 'editor'", " AND m.role = 'editor'"),
        false => ("", ""),
    }
}

fn classic(rng: &mut StdRng, world: &World, name: String) -> Definition {
    let membership = &world.memberships.choose(rng).expect("there is one").name;
    let (role, role_sql) = role(rng);
    // The parameter query, the row's condition, and the same in SQL.
    let choice = rng.random_range(0..6);
    let (parameters, condition, sql) = match choice {
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
    let mut text = format!("  {name}:\n");
    priority(rng, &mut text);
    if let Some(parameters) = &parameters {
        let _ = writeln!(text, "    parameters: {parameters}");
    }
    text.push_str("    data:\n");
    let mut reads = BTreeSet::new();
    if matches!(choice, 2 | 3) {
        reads.insert(membership.clone());
    }
    let mut outputs = Vec::new();
    for part in 0..rng.random_range(1..=2) {
        let (filter, filter_sql) = filter(rng, Dialect::Classic, &name);
        let whole = format!("({sql}) AND ({filter_sql})");
        let query = query(rng, world, &format!("{name}_{part}"), &whole);
        let clause = match condition.is_empty() {
            true => format!(" WHERE {filter}"),
            false => format!(" WHERE {condition} AND {filter}"),
        };
        let _ = writeln!(text, "      - SELECT {}{clause}", query.text);
        reads.insert(query.table);
        outputs.push(query.output);
    }
    Definition { name, text, outputs, reads, on_demand: false }
}

fn stream(rng: &mut StdRng, world: &World, name: String) -> Definition {
    let membership = &world.memberships.choose(rng).expect("there is one").name;
    let (role, role_sql) = role(rng);
    let member =
        format!("grp IN (SELECT grp FROM {membership} WHERE member = auth.user_id(){role})");
    let member_sql =
        format!("t.grp IN (SELECT m.grp FROM {membership} m WHERE m.member = {{user}}{role_sql})");
    let own = ("owner = auth.user_id()".to_owned(), "t.owner = {user}".to_owned());
    let subscribed = ("tag = subscription.parameter('tag')".to_owned(), "t.tag = {tag}".to_owned());
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
    let (filter, filter_sql) = filter(rng, Dialect::Stream, &name);
    let whole = format!("({sql}) AND ({filter_sql})");
    let query = query(rng, world, &name, &whole);
    let clause = match condition.is_empty() {
        true => format!(" WHERE {filter}"),
        false => format!(" WHERE ({condition}) AND {filter}"),
    };
    let mut text = format!("  {name}:\n");
    if !on_demand {
        text.push_str("    auto_subscribe: true\n");
    }
    priority(rng, &mut text);
    let _ = writeln!(text, "    query: SELECT {}{clause}", query.text);
    let mut reads = BTreeSet::from([query.table]);
    if matches!(choice, 2 | 3 | 4 | 8) {
        reads.insert(membership.clone());
    }
    Definition { name, text, outputs: vec![query.output], reads, on_demand }
}

/// A condition over the row alone: as the configuration says it, and as SQL does. It always holds its
/// own name in what is true of every row, because definitions that give the same share their buckets
/// under one of their names.
///
/// The language has its own ways with NULL (`sync-rules.md` 6): a condition is true or not, so
/// `NOT` of NULL is true, and streams read `a != b` as `NOT (a = b)`.
fn filter(rng: &mut StdRng, dialect: Dialect, name: &str) -> (String, String) {
    let own = format!("alt != '{name}'");
    if !rng.random_bool(0.6) {
        return (own, "true".into());
    }
    let (text, sql) = any_filter(rng, dialect);
    (format!("{text} AND {own}"), sql)
}

fn any_filter(rng: &mut StdRng, dialect: Dialect) -> (String, String) {
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
