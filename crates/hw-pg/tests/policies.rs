//! What conditions made of policies admit is what Postgres admits, for random policies and for everything that
//! decides whom a policy is for (`engine.md` 11).

use crate::expressions::{PINNED, pg_type, quoted, row_of, rows};
use hw_expr::postgres::{Condition, Cover, EvalError, Frame, Principal, Tables, Type};
use hw_pg::policies::RowSecurity;
use hw_testkit::{Cluster, cases};
use hw_types::{Row, RowRef};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_postgres::Client;

/// The rows of tables by oid.
struct Stored(BTreeMap<u32, Vec<Row>>);

impl Tables for Stored {
    fn each(
        &self,
        table: u32,
        visit: &mut dyn FnMut(&RowRef<'_>) -> Result<bool, EvalError>,
    ) -> Result<(), EvalError> {
        for row in &self.0[&table] {
            if !visit(&row.view())? {
                break;
            }
        }
        Ok(())
    }
}

impl Stored {
    /// All rows of all tables.
    async fn read(client: &Client, security: &RowSecurity) -> Stored {
        let mut stored = BTreeMap::new();
        for table in security.tables() {
            let Ok(seen) = security.table_of(table) else { continue };
            // Of what is not compared here only matters whether it is NULL.
            let ty =
                |ty: Type| if ty.pg_type().is_some() { ty } else { Type::named("text").unwrap() };
            let types: Vec<Type> = seen.columns.iter().map(|(_, of)| ty(*of)).collect();
            let (schema, name) = &seen.name;
            let columns: Vec<String> =
                seen.columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            let query = format!("SELECT {} FROM \"{schema}\".\"{name}\"", columns.join(", "));
            let texts = rows(client, &query).await.unwrap();
            stored.insert(seen.number, texts.iter().map(|texts| row_of(&types, texts)).collect());
        }
        Stored(stored)
    }

    /// The ids of admitted rows that have none of the values of a cover.
    fn missed(
        &self,
        table: u32,
        condition: &Condition,
        principal: &Principal,
        keys: &[(usize, Vec<u8>)],
    ) -> Vec<String> {
        let is_covered = |row: &RowRef<'_>| {
            keys.iter().any(|(index, value)| row.get(*index).bytes() == Some(&value[..]))
        };
        let admits = |row: &RowRef<'_>| {
            let held = condition.holds(Frame { rows: &[row], principal, tables: self });
            held.ok().flatten() == Some(true)
        };
        let rows = self.0[&table].iter().map(Row::view);
        rows.filter(|row| admits(row) && !is_covered(row)).map(|row| id_of(&row)).collect()
    }

    /// The ids, in the first column, of the rows of a table that a condition admits.
    fn admitted(&self, table: u32, condition: &Condition, principal: &Principal) -> Vec<String> {
        let admits = |row: &RowRef<'_>| {
            let held = condition.holds(Frame { rows: &[row], principal, tables: self });
            held.ok().flatten() == Some(true)
        };
        let mut ids: Vec<String> =
            self.0[&table].iter().map(Row::view).filter(admits).map(|row| id_of(&row)).collect();
        ids.sort();
        ids
    }
}

/// The first column, an integer.
fn id_of(row: &RowRef<'_>) -> String {
    let bytes = row.get(0).bytes().expect("an id");
    hw_types::text::to_text(&pg_type(Type::named("integer").unwrap()), bytes).unwrap()
}

/// What Postgres shows a role of a table; `None` where it fails.
pub(crate) async fn asked(
    client: &Client,
    principal: &Principal,
    table: &str,
) -> Option<Vec<String>> {
    let set: Vec<String> = principal
        .settings
        .iter()
        .map(|(name, value)| format!("set_config('{name}', {}, false)", quoted(value)))
        .collect();
    let role = &principal.role;
    let query = format!(
        "SELECT {}; SET ROLE {role}; SELECT id FROM {table} ORDER BY id::text COLLATE \"C\"; RESET ROLE",
        set.join(", ")
    );
    match rows(client, &query).await {
        Ok(found) => Some(found.into_iter().skip(1).map(|row| row[0].clone().unwrap()).collect()),
        Err(_) => {
            client.batch_execute("RESET ROLE").await.unwrap();
            None
        }
    }
}

pub(crate) const ME: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
pub(crate) const OTHER: &str = "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

/// Four who ask: with claims, with others, with none, and without any.
fn principals(role: &str) -> Vec<Principal> {
    let claims = [
        format!(
            "{{\"sub\": \"{ME}\", \"email\": \"me@x\", \
             \"app\": {{\"plan\": \"pro\", \"roles\": [\"admin\", \"ab\"]}}}}"
        ),
        format!(
            "{{\"sub\": \"{OTHER}\", \"email\": null, \"app\": {{\"roles\": {{\"editor\": 1}}}}}}"
        ),
        "{}".to_owned(),
        String::new(),
    ];
    let of = |(number, claims): (usize, &String)| Principal {
        role: role.into(),
        settings: Arc::new(BTreeMap::from([
            ("request.jwt.claims".to_owned(), claims.clone()),
            ("rls.ihp_user_id".to_owned(), if number == 0 { ME.into() } else { String::new() }),
        ])),
        parameters: Arc::default(),
    };
    claims.iter().enumerate().map(of).collect()
}

/// Schema, name, parameters, result, body and attributes of functions that policies call.
const HELPERS: &[[&str; 6]] = &[
    [
        "auth",
        "uid",
        "",
        "uuid",
        "select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''), \
         (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'))::uuid",
        "LANGUAGE sql",
    ],
    [
        "auth",
        "jwt",
        "",
        "jsonb",
        "select coalesce(nullif(current_setting('request.jwt.claim', true), ''), \
         nullif(current_setting('request.jwt.claims', true), ''))::jsonb;",
        "LANGUAGE sql",
    ],
    [
        "public",
        "ihp_user_id",
        "",
        "uuid",
        "SELECT NULLIF(current_setting('rls.ihp_user_id'), '')::uuid",
        "LANGUAGE sql",
    ],
    [
        "public",
        "is_mine",
        "owner uuid",
        "boolean",
        "select owner = auth.uid()",
        "LANGUAGE sql STRICT",
    ],
    [
        "public",
        "in_team",
        "wanted integer",
        "boolean",
        "begin return exists (select 1 from m where m.team = wanted and who = auth.uid()); end;",
        "LANGUAGE plpgsql SECURITY DEFINER",
    ],
    [
        "public",
        "in_role",
        "text",
        "boolean",
        "select (select role from n where who = auth.uid()) = $1",
        "LANGUAGE sql SECURITY DEFINER SET search_path = public",
    ],
    [
        "public",
        "my_teams",
        "",
        "SETOF integer",
        "-- all; of mine\nselect team /* it's */ from m where who = auth.uid()",
        "LANGUAGE sql SECURITY DEFINER SET search_path = public",
    ],
    [
        "public",
        "at_least",
        "value integer, bound integer DEFAULT 1",
        "boolean",
        "select value >= bound",
        "LANGUAGE sql",
    ],
    [
        "public",
        "has_role",
        "wanted text",
        "boolean",
        "select (auth.jwt() -> 'app' -> 'roles') ? wanted",
        "LANGUAGE sql",
    ],
];

/// A condition over the columns of `t`.
pub(crate) fn condition(rng: &mut StdRng, depth: u32) -> String {
    let pick = |rng: &mut StdRng, from: &[&str]| (*from.choose(rng).unwrap()).to_owned();
    if depth > 0 && rng.random_bool(0.6) {
        let (left, right) = (condition(rng, depth - 1), condition(rng, depth - 1));
        return match rng.random_range(0..8) {
            0..3 => format!("({left} AND {right})"),
            3..6 => format!("({left} OR {right})"),
            6 => format!("(NOT {left})"),
            _ => format!("(CASE WHEN {left} THEN {right} ELSE (b) END)"),
        };
    }
    let comparison = pick(rng, &["=", "<>", "<", "<=", ">", ">="]);
    let equality = pick(rng, &["=", "<>", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]);
    match rng.random_range(0..39) {
        26 => "(EXISTS (SELECT 1 FROM m WHERE m.team = t.i4 AND m.who = auth.uid()))".into(),
        27 => "(i4 IN (SELECT m.team FROM m WHERE m.who = auth.uid()))".into(),
        28 => "(i2 NOT IN (SELECT x.team FROM m x WHERE x.who <> u OR x.who = auth.uid()))".into(),
        29 => format!("((SELECT n.role FROM n WHERE n.who = auth.uid()) {equality} s)"),
        30 => "(EXISTS (SELECT FROM m JOIN n ON n.who = m.who WHERE m.team = i4 AND n.role = s))"
            .into(),
        31 => {
            "(s = ANY (SELECT role FROM n, m WHERE n.who = m.who AND team IN (SELECT team FROM m)))"
                .into()
        }
        32 => "public.in_team(i4)".into(),
        34 => format!("(i4 {} IN (SELECT public.my_teams()))", pick(rng, &["", "NOT"])),
        35 => format!(
            "(i2 {} (ARRAY(SELECT {})))",
            pick(rng, &["= ANY", "<> ALL"]),
            pick(rng, &["public.my_teams()", "m.team FROM m", "m.team FROM m WHERE m.who = u"])
        ),
        36 => format!("public.at_least({})", pick(rng, &["i4", "i4, 0", "i4, i4"])),
        37 => "(EXISTS (SELECT 1 FROM m WHERE m.team = t.i4 LIMIT 1))".into(),
        38 => "(s = (SELECT n.role FROM n WHERE n.who = auth.uid() LIMIT 1))".into(),
        33 => format!("public.in_role({})", pick(rng, &["'admin'", "s"])),
        0 => format!("(u {equality} auth.uid())"),
        1 => "(u = (select auth.uid()))".into(),
        2 => "public.is_mine(u)".into(),
        3 => format!("public.has_role({})", pick(rng, &["'admin'", "'editor'", "s", "v"])),
        4 => format!("(s {equality} (auth.jwt() ->> 'email'))"),
        5 => "((auth.jwt() -> 'app' ->> 'plan') = ANY (ARRAY['pro', 'team']))".into(),
        6 => "(s = ANY (ta))".into(),
        7 => "(auth.uid() = ANY (ua))".into(),
        8 => format!("(i4 {comparison} {})", pick(rng, &["0", "-1", "i2", "i8", "3", "(i2 + 1)"])),
        9 => format!("(i8 {comparison} {})", pick(rng, &["0", "i4", "9000000000", "i2"])),
        10 => format!("(n {comparison} {})", pick(rng, &["0", "1.5", "i4", "-0.25", "n"])),
        11 => format!("(f {comparison} {})", pick(rng, &["0", "'NaN'", "i4", "f"])),
        12 => format!("(d {comparison} {})", pick(rng, &["'2024-01-01'", "'infinity'", "d"])),
        13 => format!("(tz {comparison} {})", pick(rng, &["'2024-01-01 00:00:00+00'", "tz"])),
        14 => format!("(ts {comparison} {})", pick(rng, &["'2024-01-01 00:00:00'", "d"])),
        15 => format!("(e {equality} {})", pick(rng, &["'ok'", "'sad'", "e"])),
        16 => format!("(c {equality} {})", pick(rng, &["'ab'", "'ab  '", "v"])),
        17 => format!("(v {equality} {})", pick(rng, &["'ab'", "s", "''"])),
        18 => format!("({} IS NULL)", pick(rng, &["u", "s", "i4", "j", "ta", "b", "(j ->> 'k')"])),
        19 => format!(
            "(b IS {})",
            pick(rng, &["TRUE", "NOT TRUE", "FALSE", "NOT FALSE", "UNKNOWN", "NOT UNKNOWN"])
        ),
        20 => format!(
            "((j ->> 'k') {equality} {})",
            pick(rng, &["'ab'", "s", "(auth.jwt() ->> 'email')"])
        ),
        21 => format!("(coalesce(s, v, 'ab') {equality} nullif(v, ''))"),
        22 => format!("(i4 BETWEEN {} AND 5)", pick(rng, &["0", "i2"])),
        23 => format!(
            "(s {} ('ab', {}, 'x'))",
            pick(rng, &["IN", "NOT IN"]),
            pick(rng, &["v", "NULL", "'é'"])
        ),
        24 => {
            format!("(i4 {comparison} {} (ARRAY[1, NULL, i2::int4]))", pick(rng, &["ANY", "ALL"]))
        }
        _ => pick(
            rng,
            &[
                "b",
                "true",
                "false",
                "(current_user = 'app')",
                "(public.ihp_user_id() = u)",
                "NULL::bool",
            ],
        ),
    }
}

/// Tables, functions and rows for random policies of `t`.
pub(crate) async fn world(client: &Client, rng: &mut StdRng) {
    client
        .batch_execute(&format!(
            "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
             CREATE TABLE t (id int4 PRIMARY KEY, b bool, i2 int2, i4 int4, i8 int8, f float8, n numeric, s text,
               v varchar(9), u uuid, d date, ts timestamp, tz timestamptz, j jsonb, c char(4), ta text[],
               ua uuid[], e mood);
             CREATE TABLE m (team int4, who uuid);
             CREATE TABLE n (who uuid, role text);
             INSERT INTO m VALUES (1, '{ME}'), (5, '{ME}'), (0, '{OTHER}'), (NULL, '{OTHER}'), (-1, NULL),
               (5, '{OTHER}');
             INSERT INTO n VALUES ('{ME}', 'admin'), ('{OTHER}', NULL);
             CREATE ROLE app; CREATE ROLE others; CREATE SCHEMA auth; GRANT USAGE ON SCHEMA auth TO app;
             GRANT SELECT ON t, m, n TO app; ALTER TABLE t ENABLE ROW LEVEL SECURITY"
        ))
        .await
        .unwrap();
    for [schema, name, parameters, result, body, attributes] in HELPERS {
        let create = format!(
            "CREATE FUNCTION {schema}.{name}({parameters}) RETURNS {result} STABLE {attributes} AS {}",
            quoted(body)
        );
        client.batch_execute(&create).await.unwrap();
    }
    client
        .batch_execute(
            "ALTER TABLE m ENABLE ROW LEVEL SECURITY;
             CREATE POLICY a ON m USING (who = auth.uid());
             CREATE POLICY b ON m FOR SELECT TO app USING (team < 1);
             CREATE POLICY c ON m AS RESTRICTIVE USING (who IS NOT NULL);
             CREATE POLICY d ON m TO others USING (true);
             CREATE POLICY e ON m FOR UPDATE USING (true)",
        )
        .await
        .unwrap();
    let any: &[(&str, &[&str])] = &[
        ("b", &["t", "f"]),
        ("i2", &["0", "1", "3"]),
        ("i4", &["0", "1", "-1", "5"]),
        ("i8", &["0", "9000000000"]),
        ("f", &["0", "NaN", "1.5"]),
        ("n", &["0", "1.50", "-0.25", "3"]),
        ("s", &["", "ab", "admin", "me@x", "é", "ab "]),
        ("v", &["", "ab", "editor", "ab "]),
        ("u", &[ME, OTHER]),
        ("d", &["2024-01-01", "infinity", "1999-12-31"]),
        ("ts", &["2024-01-01 00:00:00", "2023-05-05 05:05:05"]),
        ("tz", &["2024-01-01 00:00:00+00", "2020-01-01 00:00:00+00"]),
        ("j", &["{\"k\": \"ab\"}", "{}", "null", "[\"k\"]", "{\"k\": \"me@x\"}"]),
        ("c", &["ab", "b"]),
        ("ta", &["{ab,admin}", "{}", "{NULL,é}"]),
        ("e", &["sad", "ok"]),
    ];
    for id in 0..400 {
        let (mut names, mut values) = (vec!["id"], vec![id.to_string()]);
        for (name, choices) in any {
            if rng.random_bool(0.75) {
                names.push(name);
                values.push(quoted(choices.choose(rng).unwrap()));
            }
        }
        if rng.random_bool(0.5) {
            names.push("ua");
            values.push(quoted(&format!("{{{OTHER},{}}}", if id % 2 == 0 { ME } else { "NULL" })));
        }
        let insert = format!("INSERT INTO t ({}) VALUES ({})", names.join(", "), values.join(", "));
        client.batch_execute(&insert).await.unwrap();
    }
}

#[tokio::test]
async fn random_policies_admit_what_postgres_admits() {
    let cluster = Cluster::start();
    let mut client = cluster.client("postgres").await;
    client.batch_execute(PINNED).await.unwrap();
    let mut rng = StdRng::seed_from_u64(11);
    world(&client, &mut rng).await;
    let security = RowSecurity::read(&mut client, "app").await.unwrap();
    let stored = Stored::read(&client, &security).await;
    let (mut compared, mut covered, mut refused, mut failed) = (0, 0, 0, 0);
    for number in 0..cases(130) {
        let text = condition(&mut rng, 3);
        let policy = format!("DROP POLICY IF EXISTS p ON t; CREATE POLICY p ON t USING ({text})");
        client.batch_execute(&policy).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
        let security = RowSecurity::read(&mut client, "app").await.unwrap();
        let table = security.tables().find(|table| table.name.1 == "t").unwrap();
        let condition = match security.condition(table) {
            Ok(condition) => condition,
            Err(refusal) => {
                assert!(!refusal.reason.contains("cannot be read"), "{refusal}");
                refused += 1;
                continue;
            }
        };
        for principal in principals("app") {
            let Some(theirs) = asked(&client, &principal, "t").await else {
                failed += 1;
                continue;
            };
            let ours = stored.admitted(table.id, &condition, &principal);
            assert_eq!(ours, theirs, "policy {number}: {:?}, {principal:?}", table.policies);
            compared += stored.0[&table.id].len();
            let columns = security.table_of(table).unwrap().columns;
            if let Cover::OneOf(keys) = condition.cover(&columns, &principal, &stored) {
                let missed = stored.missed(table.id, &condition, &principal, &keys);
                assert_eq!(missed, [""; 0], "policy {number}: {:?}, {keys:?}", table.policies);
                covered += 1;
            }
        }
    }
    assert!(
        compared >= cases(100_000),
        "{compared} compared, {refused} refused, {failed} fail in Postgres"
    );
    assert!(covered > cases(60), "{covered} have a cover");
    assert!(refused < 10, "{refused} were refused");
    assert!(failed < 60, "{failed}");
}

/// Owners, FORCE, BYPASSRLS, roles and what they inherit, grants, commands, no policy at all, policies that
/// read their own table.
#[tokio::test]
async fn policies_apply_to_whom_postgres_applies_them() {
    let cluster = Cluster::start();
    let mut client = cluster.client("postgres").await;
    client.batch_execute(PINNED).await.unwrap();
    client
        .batch_execute(
            "CREATE ROLE app; CREATE ROLE editor; CREATE ROLE heir IN ROLE editor;
             CREATE ROLE stranger NOINHERIT IN ROLE editor; CREATE ROLE owner_of; CREATE ROLE heir_of IN ROLE owner_of;
             CREATE ROLE exempt BYPASSRLS; CREATE ROLE nobody;
             CREATE TABLE a (id int4, v text); CREATE TABLE b (id int4, v text); CREATE TABLE c (id int4, v text);
             CREATE TABLE d (id int4, v text); CREATE TABLE e (id int4, v text); CREATE TABLE f (id int4, v text);
             CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             CREATE TABLE g (id int4, v text COLLATE loose);
             INSERT INTO a SELECT n, n % 3 FROM generate_series(1, 9) n;
             INSERT INTO b TABLE a; INSERT INTO c TABLE a; INSERT INTO d TABLE a; INSERT INTO e TABLE a;
             INSERT INTO f TABLE a; INSERT INTO g TABLE a;
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO app, editor, heir, stranger, owner_of, heir_of, exempt;
             ALTER TABLE a OWNER TO owner_of; ALTER TABLE b OWNER TO owner_of;
             ALTER TABLE a ENABLE ROW LEVEL SECURITY; ALTER TABLE b ENABLE ROW LEVEL SECURITY;
             ALTER TABLE b FORCE ROW LEVEL SECURITY; ALTER TABLE c ENABLE ROW LEVEL SECURITY;
             ALTER TABLE e ENABLE ROW LEVEL SECURITY; ALTER TABLE f ENABLE ROW LEVEL SECURITY;
             ALTER TABLE g ENABLE ROW LEVEL SECURITY;
             CREATE POLICY all_ ON a USING (v = '1'); CREATE POLICY edits ON a TO editor USING (v = '2');
             CREATE POLICY writes ON a FOR UPDATE USING (true); CREATE POLICY inserts ON a FOR INSERT WITH CHECK (true);
             CREATE POLICY one ON b USING (id < 8); CREATE POLICY two ON b AS RESTRICTIVE TO app, editor USING (id > 2);
             CREATE POLICY three ON b AS RESTRICTIVE FOR DELETE USING (false);
             CREATE POLICY solely ON c AS RESTRICTIVE USING (true);
             CREATE POLICY through ON e USING (id IN (SELECT id FROM a) OR EXISTS (SELECT FROM c WHERE c.id = e.id));
             CREATE POLICY itself ON f USING (id IN (SELECT id FROM f));
             CREATE POLICY loosely ON g USING (v = '1')",
        )
        .await
        .unwrap();
    let mut compared = 0;
    for role in ["app", "editor", "heir", "stranger", "owner_of", "heir_of", "exempt", "nobody"] {
        let security = RowSecurity::read(&mut client, role).await.unwrap();
        let everything = RowSecurity::read(&mut client, "postgres").await.unwrap();
        let stored = Stored::read(&client, &everything).await;
        let principal = principals(role).remove(2);
        for table in security.tables() {
            let name = &table.name.1;
            let theirs = asked(&client, &principal, name).await;
            match security.condition(table) {
                Ok(condition) => {
                    let ours = stored.admitted(table.id, &condition, &principal);
                    assert_eq!(Some(ours), theirs, "{role} reads {name}");
                    compared += 1;
                }
                Err(refusal) => {
                    let known = theirs.is_none() || name == "g";
                    assert!(known, "{role} reads {name}: {refusal}, and Postgres shows {theirs:?}");
                }
            }
        }
    }
    assert!(compared > 35, "{compared}");
}

/// Row by row: what is decided here of a policy that was made to be misread is what Postgres decides. Where it
/// fails, nothing is admitted.
#[tokio::test]
async fn policies_that_can_be_misread_are_refused_or_read_as_postgres_reads_them() {
    let cluster = Cluster::start();
    let mut client = cluster.client("postgres").await;
    client.batch_execute(PINNED).await.unwrap();
    let mut failed = Vec::new();
    for group in groups(include_str!("hostile_policies.sql")) {
        if let Err(error) = client.batch_execute(&group).await {
            failed.push(format!("{error:?} in {group}"));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    let (decided, refused) = decides_as_postgres(&mut client).await;
    eprintln!("{refused:#?}");
    assert!(decided > 15, "{decided} decided, {refused:#?}");
}

/// Compares what the role `app` is shown of every table with policies, row by row.
///
/// - Returns: of how many tables it is decided here, and why not of the others.
async fn decides_as_postgres(client: &mut Client) -> (usize, Vec<String>) {
    let everything = RowSecurity::read(client, "postgres").await.unwrap();
    let stored = Stored::read(client, &everything).await;
    let security = RowSecurity::read(client, "app").await.unwrap();
    let principal = principals("app").remove(0);
    let (mut decided, mut refused) = (0, Vec::new());
    for table in security.tables().filter(|table| !table.policies.is_empty()) {
        let (schema, name) = &table.name;
        let condition = match security.condition(table) {
            Ok(condition) => condition,
            Err(refusal) => {
                refused.push(format!("{schema}.{name}: {refusal}"));
                continue;
            }
        };
        decided += 1;
        for row in &stored.0[&table.id] {
            let view = row.view();
            let ours =
                condition.holds(Frame { rows: &[&view], principal: &principal, tables: &stored });
            let id = id_of(&view);
            let alone = format!("\"{schema}\".\"{name}\" WHERE id = {id}");
            let theirs = asked(client, &principal, &alone).await.is_some_and(|ids| !ids.is_empty());
            // What cannot be told admits nothing.
            if let Ok(ours) = ours {
                assert_eq!(
                    ours == Some(true),
                    theirs,
                    "{schema}.{name} {id}: {:?}",
                    table.policies
                );
            }
        }
    }
    (decided, refused)
}

/// What is printed of these forms does not say by which `=` they compare.
#[tokio::test]
async fn an_equality_that_is_not_printed_is_asked_where_the_database_has_one_of_its_own() {
    const TYPES: [(&str, &str, &str); 4] =
        [("varchar", "a", "b"), ("mood", "a", "b"), ("amount", "1", "2"), ("name", "a", "b")];
    const FORMS: [&str; 5] = [
        "a IS NOT DISTINCT FROM b",
        "NULLIF(a, b) IS NULL",
        "CASE a WHEN b THEN true ELSE false END",
        "a = b",
        "a IN (SELECT b)",
    ];
    let cluster = Cluster::start();
    cluster.client("postgres").await.batch_execute("CREATE ROLE app").await.unwrap();
    for has_own in [true, false] {
        let mut sql = String::from(
            "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE DOMAIN amount AS int;
             CREATE SCHEMA odd; GRANT USAGE ON SCHEMA odd TO app;",
        );
        for (ty, one, other) in TYPES {
            if has_own {
                sql += &format!(
                    "CREATE FUNCTION odd.always({ty}, {ty}) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
                     CREATE OPERATOR odd.= (LEFTARG = {ty}, RIGHTARG = {ty}, FUNCTION = odd.always);"
                );
            }
            sql += &format!(
                "CREATE FUNCTION in_body_{ty}(a {ty}, b {ty}) RETURNS bool LANGUAGE sql IMMUTABLE
                   SET search_path = odd, public AS $$ SELECT nullif(a, b) IS NULL $$;"
            );
            let in_body = format!("in_body_{ty}(a, b)");
            for (number, form) in FORMS.into_iter().chain([&*in_body]).enumerate() {
                let table = format!("{ty}_{number}");
                sql += &format!(
                    "CREATE TABLE {table} (id int, a {ty}, b {ty}); GRANT SELECT ON {table} TO app;
                     INSERT INTO {table} VALUES (1, '{one}', '{one}'), (2, '{one}', '{other}');
                     SET search_path = odd, pg_catalog, public; CREATE POLICY p ON {table} USING ({form});
                     RESET search_path; ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
                );
            }
        }
        let database = cluster.create_database().await;
        let mut client = cluster.client(&database.name).await;
        client.batch_execute(&sql).await.unwrap();
        let (decided, refused) = decides_as_postgres(&mut client).await;
        match has_own {
            true => assert_eq!(decided, 0),
            // A function over a domain is not known.
            false => assert_eq!(refused.len(), 1, "{refused:#?}"),
        }
    }
}

/// A cast of an enum that the database made is printed as the one that it has without.
#[tokio::test]
async fn a_cast_of_an_enum_that_is_not_printed_is_asked() {
    let cluster = Cluster::start();
    let mut client = cluster.client("postgres").await;
    client
        .batch_execute(
            "CREATE ROLE app; CREATE TYPE mood AS ENUM ('a', 'b');
             CREATE FUNCTION other(mood) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'b'::text $$;
             CREATE CAST (mood AS text) WITH FUNCTION other(mood);
             CREATE TABLE t (id int, m mood); INSERT INTO t VALUES (1, 'a'); GRANT SELECT ON t TO app;
             CREATE POLICY p ON t USING (m::text = 'a'); ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        )
        .await
        .unwrap();
    let (decided, refused) = decides_as_postgres(&mut client).await;
    assert_eq!((decided, refused.len()), (0, 1), "{refused:?}");
}

/// Statements between comments.
fn groups(sql: &str) -> Vec<String> {
    let mut groups = vec![String::new()];
    for line in sql.lines() {
        match line.starts_with("--") {
            true => groups.push(String::new()),
            false => *groups.last_mut().expect("one") += &format!("{line}\n"),
        }
    }
    groups.retain(|group| !group.trim().is_empty());
    groups
}
