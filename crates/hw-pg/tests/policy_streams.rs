//! What the streams made of policies give a client is what Postgres shows the role with the client's claims: for
//! random policies, rows and claims, also such for which Postgres fails, and by hand for what is refused.

use crate::expressions::{PINNED, pg_type, row_of, rows};
use crate::policies::{ME, OTHER, asked, condition, world};
use hw_expr::postgres::{Principal, Type};
use hw_expr::sync_config::{Entries, Limits, LookupError, LookupReader, Request, SyncConfig};
use hw_pg::policies::{PolicyStreams, RowSecurity, TableStream};
use hw_testkit::{Cluster, cases};
use hw_types::{Column, Relation, RelationId, ReplicaIdentity, Row, TableName};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tokio_postgres::Client;

/// All rows of a database, as a store would hold them for a configuration.
struct Replica<'c> {
    config: &'c SyncConfig,
    /// Source, bucket parameters, table on clients, id.
    contents: Vec<(usize, String, String, String)>,
    lookups: HashMap<(usize, Vec<u8>), Vec<Vec<u8>>>,
}

impl LookupReader for Replica<'_> {
    fn lookup(&self, lookup: usize, key: &[u8], out: &mut Entries) -> Result<(), LookupError> {
        let entries = self.lookups.get(&(lookup, key.to_vec()));
        entries.into_iter().flatten().for_each(|value| out.push(value));
        Ok(())
    }
}

/// A table with its rows.
type Stored = (Relation, Vec<Row>);

/// Every row of every table.
async fn stored(client: &Client, security: &RowSecurity) -> Vec<Stored> {
    let mut all = Vec::new();
    for table in security.tables() {
        let known = security.whole(table);
        let ty = |ty: Type| if ty.pg_type().is_some() { ty } else { Type::named("text").unwrap() };
        let types: Vec<Type> = known.columns.iter().map(|(_, of)| ty(*of)).collect();
        let (schema, name) = &known.name;
        let columns = known.columns.iter().zip(&types).map(|((name, _), ty)| Column {
            name: name.clone(),
            type_oid: 0,
            type_modifier: -1,
            pg_type: pg_type(*ty),
            identity: false,
            primary_key: 0,
        });
        let relation = Relation {
            id: RelationId(known.number),
            name: TableName::new(schema.clone(), name.clone()),
            replica_identity: ReplicaIdentity::Full,
            columns: columns.collect(),
        };
        let names: Vec<String> =
            known.columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let query = format!("SELECT {} FROM \"{schema}\".\"{name}\"", names.join(", "));
        let texts = rows(client, &query).await.unwrap();
        all.push((relation, texts.iter().map(|texts| row_of(&types, texts)).collect()));
    }
    all
}

impl<'c> Replica<'c> {
    fn of(config: &'c SyncConfig, stored: &[Stored]) -> Replica<'c> {
        let mut replica = Replica { config, contents: Vec::new(), lookups: HashMap::new() };
        for (relation, rows) in stored {
            for (number, source) in config.sources().iter().enumerate() {
                let Some(bound) = source.bind(relation) else { continue };
                for row in rows {
                    let mut found = Vec::new();
                    bound.evaluate(&row.view(), &mut found).expect("rows have no errors");
                    replica.contents.extend(found.into_iter().map(|row| {
                        (number, row.parameters, row.object_type.to_string(), row.object_id)
                    }));
                }
            }
            for (number, lookup) in config.lookups().iter().enumerate() {
                let Some(bound) = lookup.bind(relation) else { continue };
                for row in rows {
                    let mut found = Vec::new();
                    bound.evaluate(&row.view(), &mut found).expect("rows have no errors");
                    for entry in found {
                        replica.lookups.entry((number, entry.key)).or_default().push(entry.value);
                    }
                }
            }
        }
        replica
    }

    /// The ids that somebody with these claims is given of a table.
    fn given(&self, claims: &Value, table: &str) -> Vec<String> {
        let request = Request {
            jwt: claims,
            parameters: &Value::Null,
            subscriptions: &[],
            include_defaults: true,
        };
        let limits = Limits { max_buckets: 100_000, max_results: 100_000 };
        let resolution = self.config.resolve(&request, self, &limits).expect("within the limits");
        let buckets: BTreeSet<(usize, &str)> =
            resolution.buckets.iter().map(|b| (b.source, b.parameters.as_str())).collect();
        let ids = self
            .contents
            .iter()
            .filter(|(source, parameters, of, _)| {
                of == table && buckets.contains(&(*source, parameters.as_str()))
            })
            .map(|(.., id)| id.clone());
        ids.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// What a session of somebody with these claims has.
fn principal(role: &str, claims: &Value) -> Principal {
    let subject = match &claims["sub"] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let claimed = claims["role"].as_str().unwrap_or(role);
    let settings = [
        ("request.jwt.claims", claims.to_string()),
        ("request.jwt.claim.sub", subject.clone()),
        ("request.jwt.claim.role", claimed.to_owned()),
        ("rls.ihp_user_id", subject),
    ];
    let settings = settings.into_iter().map(|(name, value)| (name.to_owned(), value));
    Principal {
        role: role.into(),
        settings: Arc::new(settings.collect()),
        parameters: Arc::default(),
    }
}

/// Claims of every kind. With some of them Postgres fails where a policy reads them.
fn tokens() -> Vec<Value> {
    vec![
        json!({"sub": ME, "email": "me@x", "org": 5, "team": "1", "yes": true,
               "app": {"plan": "pro", "roles": ["admin", "ab"], "org": "5"}, "role": "app"}),
        json!({"sub": OTHER, "email": null, "org": "5", "team": 1, "yes": "off",
               "app": {"roles": {"editor": 1}, "plan": "team", "org": 5}}),
        json!({"sub": ME.to_uppercase(), "email": "admin", "org": 0, "team": null, "yes": "T",
               "app": {"roles": ["editor", null, 1, ["ab"]]}}),
        json!({"sub": OTHER, "email": ["ab"], "org": -1, "team": "5", "yes": 0, "app": [1, {"plan": "pro"}]}),
        json!({"sub": ME, "yes": 1.0}),
        json!({"sub": ME}),
        // Postgres fails to read these as what they should be.
        json!({"sub": "nobody", "email": "ab", "org": "many", "team": "", "yes": "perhaps"}),
        json!({"sub": ME, "email": {"a": 1}, "org": true, "team": "5000000000", "yes": {}, "app": "pro"}),
    ]
}

/// A condition of the kinds that streams are made of.
fn streamable(rng: &mut StdRng, depth: u32) -> String {
    let pick = |rng: &mut StdRng, from: &[&str]| (*from.choose(rng).unwrap()).to_owned();
    if depth > 0 && rng.random_bool(0.6) {
        let (left, right) = (streamable(rng, depth - 1), streamable(rng, depth - 1));
        return match rng.random_range(0..5) {
            0..2 => format!("({left} AND {right})"),
            2..4 => format!("({left} OR {right})"),
            _ => format!("(CASE WHEN b THEN {left} ELSE {right} END)"),
        };
    }
    let equality = pick(rng, &["=", "<>", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]);
    match rng.random_range(0..33) {
        30 => "(i4 IN (SELECT public.my_teams()))".into(),
        31 => "(i2 = ANY (ARRAY(SELECT public.my_teams())))".into(),
        32 => "(public.at_least(i4) AND EXISTS (SELECT 1 FROM m WHERE m.team = i4 LIMIT 1))".into(),
        0 => "(u = auth.uid())".into(),
        1 => "(u = (SELECT auth.uid()))".into(),
        2 => "public.is_mine(u)".into(),
        3 => "(u::text = current_setting('request.jwt.claim.sub', true))".into(),
        4 => "(auth.uid() IS NOT NULL)".into(),
        5 => "(s = (auth.jwt() ->> 'email'))".into(),
        6 => format!("((auth.jwt() ->> 'email') {equality} '{}')", pick(rng, &["admin", "me@x", "ab"])),
        7 => format!("((auth.jwt() -> 'app' ->> 'plan') {equality} 'pro')"),
        8 => "(i4 = (auth.jwt() ->> 'org')::int)".into(),
        9 => "(i8 = (current_setting('request.jwt.claims', true)::json -> 'app' ->> 'org')::bigint)".into(),
        10 => "(i4::text = (auth.jwt() ->> 'team'))".into(),
        11 => format!("((auth.jwt() ->> 'yes')::boolean {})", pick(rng, &["IS TRUE", "IS NOT TRUE", ""])),
        12 => "public.has_role('admin')".into(),
        13 => "((auth.jwt() -> 'app' -> 'roles') ? s)".into(),
        14 => "(auth.uid() = ANY (ua))".into(),
        15 => "((auth.jwt() ->> 'email') = ANY (ta))".into(),
        16 => "(s = ANY (ta))".into(),
        17 => format!("(s {} ('ab', 'é', 'x', ''))", pick(rng, &["IN", "NOT IN"])),
        18 => format!("(e {equality} 'ok')"),
        19 => format!("(b IS {})", pick(rng, &["TRUE", "NOT TRUE", "FALSE", "NOT FALSE", "UNKNOWN"])),
        20 => format!("(i4 {} {})", pick(rng, &["<", ">=", "<>", "="]), pick(rng, &["0", "-1", "i2", "3"])),
        21 => format!("({} IS {})", pick(rng, &["u", "s", "i4", "ta", "b", "n"]), pick(rng, &["NULL", "NOT NULL"])),
        22 => "(EXISTS (SELECT 1 FROM m WHERE m.team = t.i4 AND m.who = auth.uid()))".into(),
        23 => "(i4 IN (SELECT m.team FROM m WHERE m.who = auth.uid()))".into(),
        24 => "(auth.uid() IN (SELECT n.who FROM n WHERE n.role = 'admin'))".into(),
        25 => "(EXISTS (SELECT FROM m JOIN n ON n.who = m.who WHERE m.team = i4 AND n.role = s))".into(),
        26 => "public.in_team(i4)".into(),
        27 => "((SELECT k.role FROM k WHERE k.who = auth.uid()) = s)".into(),
        28 => "COALESCE((SELECT k.role = 'admin' FROM k WHERE k.who = auth.uid()), false)".into(),
        _ => "(EXISTS (SELECT FROM m WHERE m.team IN (SELECT x.team FROM m x WHERE x.who = auth.uid()) AND m.who = u))".into(),
    }
}

/// What all tokens are given, against what Postgres shows.
struct Compared {
    compared: usize,
    failed: usize,
    refused: Vec<String>,
}

async fn compare(client: &mut Client, what: &str, table: &str, compared: &mut Compared) {
    let security = RowSecurity::read(client, "app").await.unwrap();
    let streams = security.streams(&[]);
    let text = streams.text();
    for stream in streams.tables.iter().filter(|stream| stream.table.1 == table) {
        compared.refused.extend(stream.refused.iter().map(|refused| refused.text()));
        if !stream.refused.is_empty() {
            return;
        }
    }
    let loaded = SyncConfig::load(&text, "policies", None);
    let config =
        loaded.config.unwrap_or_else(|| panic!("{what}: {:?}\n{text}", loaded.diagnostics));
    let stored = stored(client, &security).await;
    let replica = Replica::of(&config, &stored);
    for claims in tokens() {
        let mut ours = replica.given(&claims, table);
        ours.sort();
        match asked(client, &principal("app", &claims), table).await {
            Some(theirs) if is_clear(&claims) => {
                assert_eq!(ours, theirs, "{what}\n{claims}\n{text}");
                compared.compared += stored.iter().map(|(_, rows)| rows.len()).max().unwrap_or(0);
            }
            // Postgres may not have come to where it fails.
            Some(theirs) => {
                let more: Vec<_> = ours.iter().filter(|id| !theirs.contains(id)).collect();
                assert!(
                    more.is_empty(),
                    "more than Postgres shows: {more:?}\n{what}\n{claims}\n{text}"
                );
            }
            None => {
                assert!(ours.is_empty(), "Postgres fails: {ours:?}\n{what}\n{claims}\n{text}");
                compared.failed += 1;
            }
        }
    }
}

/// Whether every claim is of a kind that policies have in mind.
fn is_clear(claims: &Value) -> bool {
    // Of numbers it is not known how they are written.
    claims["sub"] != "nobody" && claims["yes"] != json!({}) && !claims["yes"].is_number()
}

#[tokio::test]
async fn e_4_streams_of_random_policies_give_what_postgres_shows() {
    let cluster = Cluster::start();
    let mut client = cluster.client("postgres").await;
    client.batch_execute(PINNED).await.unwrap();
    let seed = std::env::var("HEADWATER_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut rng = StdRng::seed_from_u64(seed.unwrap_or(5));
    world(&client, &mut rng).await;
    client
        .batch_execute(&format!(
            "CREATE TABLE k (who uuid PRIMARY KEY, role text);
             INSERT INTO k VALUES ('{ME}', 'admin'), ('{OTHER}', 'ab'); GRANT SELECT ON k TO app"
        ))
        .await
        .unwrap();
    let mut of = Compared { compared: 0, failed: 0, refused: Vec::new() };
    for number in 0..cases(120) {
        let mut policies = Vec::new();
        for one in 0..rng.random_range(1..4) {
            let text = match number % 4 {
                0 => condition(&mut rng, 1),
                _ => streamable(&mut rng, 2),
            };
            let kind = if one == 2 { "AS RESTRICTIVE " } else { "" };
            policies.push(format!("CREATE POLICY p{one} ON t {kind}USING ({text})"));
        }
        let drops = "DROP POLICY IF EXISTS p0 ON t; DROP POLICY IF EXISTS p1 ON t; DROP POLICY IF EXISTS p2 ON t";
        let what = policies.join(";\n");
        client
            .batch_execute(&format!("{drops}; {what}"))
            .await
            .unwrap_or_else(|error| panic!("{what}: {error:?}"));
        compare(&mut client, &what, "t", &mut of).await;
    }
    of.refused.sort();
    of.refused.dedup();
    eprintln!("{:#?}", of.refused);
    let Compared { compared, failed, refused } = of;
    assert!(
        compared > cases(100_000),
        "{compared} compared, {failed} fail, {} refused",
        refused.len()
    );
    assert!(failed > cases(50), "{failed}");
}

/// Who owns, who is above policies, what has no key, whose name is taken: by hand.
#[tokio::test]
async fn what_has_no_stream_is_refused_with_its_reason_and_what_would_work() {
    let cluster = Cluster::start();
    let mut client = cluster.client("postgres").await;
    client
        .batch_execute(
            "CREATE ROLE app; CREATE SCHEMA other; CREATE SCHEMA shut; GRANT USAGE ON SCHEMA other TO app;
             CREATE FUNCTION me() RETURNS text STABLE LANGUAGE sql
               AS $$ SELECT current_setting('request.jwt.claim.sub', true) $$;
             CREATE TABLE people (id text PRIMARY KEY, team int, admin boolean);
             CREATE TABLE keyed (a int, b text, o text, PRIMARY KEY (a, b));
             CREATE TABLE twice (a text, b text, o text, PRIMARY KEY (a, b));
             CREATE TABLE keyless (o text);
             CREATE TABLE other.invoices (id int PRIMARY KEY, o text);
             CREATE TABLE \"Odd Name\" (\"Id\" int PRIMARY KEY, \"select\" text);
             CREATE TABLE shut.away (id int PRIMARY KEY, o text);
             CREATE TABLE owned (id int PRIMARY KEY, o text); ALTER TABLE owned OWNER TO app;
             CREATE TABLE partly (id int PRIMARY KEY, o text, secret text);
             CREATE TABLE soft (id int PRIMARY KEY, o text, gone timestamptz);
             CREATE TABLE strict (id int PRIMARY KEY, o text);
             CREATE TABLE team (id int PRIMARY KEY, team int);
             CREATE TABLE nobody (id int PRIMARY KEY);
             CREATE TABLE tuned (id int PRIMARY KEY, o text);
             CREATE TABLE parts (id int PRIMARY KEY, o text) PARTITION BY RANGE (id);
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
             GRANT SELECT ON people, keyed, twice, keyless, other.invoices, \"Odd Name\", shut.away, soft, strict,
               team, nobody, tuned, parts, parts_1 TO app;
             GRANT SELECT (id, o) ON partly TO app;
             CREATE POLICY p ON keyed USING (o = me()); CREATE POLICY p ON twice USING (o = me());
             CREATE POLICY p ON keyless USING (o = me()); CREATE POLICY p ON other.invoices USING (o = me());
             CREATE POLICY p ON \"Odd Name\" USING (\"select\" = me()); CREATE POLICY p ON shut.away USING (o = me());
             CREATE POLICY p ON owned USING (o = me()); CREATE POLICY p ON partly USING (o = me());
             CREATE POLICY a ON soft USING (o = me() AND gone IS NULL); CREATE POLICY b ON soft USING (o = me());
             CREATE POLICY a ON strict USING (true);
             CREATE POLICY b ON strict AS RESTRICTIVE USING (o <> me());
             CREATE POLICY a ON team USING (team = (SELECT p.team FROM people p WHERE p.id = me()));
             CREATE POLICY b ON team USING (NOT EXISTS (SELECT FROM people p WHERE p.team = team.team));
             CREATE POLICY c ON team USING (EXISTS (SELECT FROM people p WHERE p.admin));
             CREATE POLICY d ON team USING (EXISTS (SELECT FROM people p, people q WHERE p.id = me()));
             CREATE POLICY a ON tuned USING (o = current_setting('app.owner', true));
             CREATE POLICY b ON tuned USING (o = current_setting('app.owner'));
             CREATE POLICY c ON tuned USING (o = current_setting('request.headers', true));
             CREATE POLICY d ON tuned USING (o = current_setting('rls.tenant', true));
             CREATE POLICY p ON parts USING (o = me()); CREATE POLICY p ON parts_1 USING (true)",
        )
        .await
        .unwrap();
    for (schema, table) in [
        ("public", "keyed"),
        ("public", "twice"),
        ("public", "keyless"),
        ("other", "invoices"),
        ("public", "Odd Name"),
        ("shut", "away"),
        ("public", "owned"),
        ("public", "partly"),
        ("public", "soft"),
        ("public", "strict"),
        ("public", "team"),
        ("public", "nobody"),
        ("public", "tuned"),
        ("public", "parts"),
        ("public", "parts_1"),
    ] {
        let enable = format!("ALTER TABLE {schema}.\"{table}\" ENABLE ROW LEVEL SECURITY");
        client.batch_execute(&enable).await.unwrap();
    }
    let security = RowSecurity::read(&mut client, "app").await.unwrap();
    let streams = security.streams(&["authenticated".to_owned()]);
    let of =
        |name: &str| streams.tables.iter().find(|table| table.table.1 == name).unwrap().clone();
    let clients = "ifnull(auth.parameter('role'), 'app') IN ARRAY['app', 'authenticated']";
    for (table, name, query) in [
        ("keyed", "keyed", "SELECT *, a || '/' || b AS id FROM keyed WHERE o = auth.user_id()"),
        (
            "invoices",
            "other_invoices",
            "SELECT * FROM other.invoices AS other_invoices WHERE o = auth.user_id()",
        ),
        (
            "Odd Name",
            "Odd Name",
            "SELECT *, \"Id\" AS id FROM \"Odd Name\" WHERE \"select\" = auth.user_id()",
        ),
        ("soft", "soft", "SELECT * FROM soft WHERE o = auth.user_id()"),
        (
            "team",
            "team",
            "SELECT * FROM team WHERE team IN (SELECT team FROM people WHERE id = auth.user_id())",
        ),
        ("parts", "parts", "SELECT * FROM parts WHERE o = auth.user_id()"),
    ] {
        let of = of(table);
        assert_eq!(
            (&*of.name, &of.queries[..]),
            (name, &[format!("{query} AND {clients}")][..]),
            "{table}"
        );
    }
    for (table, policy, reason) in [
        ("twice", None, "two rows could have the same key when its columns are put together"),
        ("keyless", None, "it has no primary key"),
        (
            "owned",
            None,
            "the role has the rights of the table's owner, for whom its policies are not",
        ),
        ("partly", None, "the role app may read some columns of public.partly only"),
        (
            "soft",
            Some("a"),
            "the sync language knows no infinite times: to it gone is NULL where it is 'infinity'",
        ),
        (
            "strict",
            None,
            "of a restrictive policy: only equality connects what is in a row with another row or with who asks",
        ),
        (
            "team",
            Some("b"),
            "that there is no row in a sub-select does not connect rows with clients",
        ),
        (
            "team",
            Some("c"),
            "a sub-select is not connected by = with a column of the row or a value of who asks",
        ),
        ("team", Some("d"), "a table of a sub-select is not connected by = with the others"),
        // The database may set them, and clients are not given them.
        (
            "tuned",
            Some("a"),
            "of current_setting('app.owner'::TEXT, true): only the settings request.* and rls.* are known here",
        ),
        (
            "tuned",
            Some("b"),
            "of current_setting('app.owner'::TEXT): only the settings request.* and rls.* are known here",
        ),
        (
            "tuned",
            Some("c"),
            "what the setting request.headers is for clients is known to Postgres alone",
        ),
        (
            "tuned",
            Some("d"),
            "what the setting rls.tenant is for clients is known to Postgres alone",
        ),
    ] {
        let refused = of(table).refused;
        let found = refused.iter().find(|refused| refused.policy.as_deref() == policy);
        let found = found.unwrap_or_else(|| panic!("{table} {policy:?}: {refused:#?}"));
        assert_eq!(found.reason, reason, "{table}");
        assert!(!found.instead.is_empty());
        assert!(streams.text().contains(&found.text()), "{}", streams.text());
    }
    assert_eq!(of("tuned").queries, Vec::<String>::new());
    for (table, nothing) in [
        ("away", "the role may not use the schema shut"),
        ("nobody", "no policy admits the role"),
        ("parts_1", "its rows are those of the table that it is a partition of"),
    ] {
        assert_eq!(of(table).nothing.as_deref(), Some(nothing));
        assert!(of(table).queries.is_empty());
    }
    let loaded = SyncConfig::load(&streams.text(), "policies", None);
    assert!(loaded.config.is_some(), "{:?}", loaded.diagnostics);
    // Nobody above policies is synced by them.
    let all = RowSecurity::read(&mut client, "postgres").await.unwrap().streams(&[]);
    assert!(all.tables.iter().all(|table| table.queries.is_empty()), "{}", all.text());
    assert!(SyncConfig::load(&all.text(), "policies", None).config.is_some(), "{}", all.text());
}

/// Tables of one database, each with policies on it, and what the role `app` is shown of them.
async fn secured(tables: &str, policies: &[(&str, &str)]) -> (Cluster, Client, PolicyStreams) {
    let cluster = Cluster::start();
    let mut client = cluster.client("postgres").await;
    let me = "CREATE ROLE app; CREATE FUNCTION me() RETURNS text STABLE LANGUAGE sql
        AS $$ SELECT current_setting('request.jwt.claim.sub', true) $$;
        CREATE FUNCTION claims() RETURNS json STABLE LANGUAGE sql
        AS $$ SELECT current_setting('request.jwt.claims', true)::json $$";
    client.batch_execute(&format!("{PINNED}; {me}; {tables}")).await.unwrap();
    for (number, (table, policy)) in policies.iter().enumerate() {
        let statements = format!(
            "CREATE POLICY p{number} ON \"{table}\" {policy};
             ALTER TABLE \"{table}\" ENABLE ROW LEVEL SECURITY; GRANT SELECT ON \"{table}\" TO app"
        );
        client.batch_execute(&statements).await.unwrap_or_else(|e| panic!("{policy}: {e:?}"));
    }
    let streams = RowSecurity::read(&mut client, "app").await.unwrap().streams(&[]);
    (cluster, client, streams)
}

fn stream<'s>(streams: &'s PolicyStreams, table: &str) -> &'s TableStream {
    streams.tables.iter().find(|stream| stream.table.1 == table).unwrap()
}

/// A policy with which Postgres refuses every SELECT hides what the others admit.
#[tokio::test]
async fn e_4_streams_give_nothing_of_a_table_whose_policies_fail() {
    let tables = ["unread", "recursive", "uncalled", "hidden", "viewed", "divided", "partly"];
    let mut sql = String::from(
        "CREATE TABLE members (team int, who text); CREATE TABLE round (team int, who text);
         GRANT SELECT (team) ON round TO app; CREATE TABLE few (team int, who text);
         CREATE VIEW seen AS SELECT * FROM members; GRANT SELECT (team) ON few TO app;
         CREATE FUNCTION mine(text) RETURNS boolean STABLE LANGUAGE sql AS $$ SELECT $1 = me() $$;
         REVOKE EXECUTE ON FUNCTION mine(text) FROM PUBLIC;",
    );
    for table in tables {
        sql += &format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, owner text, team int);
             INSERT INTO {table} VALUES (1, 'me', 1);"
        );
    }
    let mut policies: Vec<(&str, &str)> =
        tables.iter().map(|table| (*table, "USING (owner = me())")).collect();
    policies.extend([
        ("round", "USING (team IN (SELECT r.team FROM round r WHERE r.who = me()))"),
        ("unread", "USING (team IN (SELECT m.team FROM members m WHERE m.who = me()))"),
        ("recursive", "USING (team IN (SELECT r.team FROM round r WHERE r.who = me()))"),
        ("uncalled", "USING (mine(owner))"),
        // What is not known here stands before what fails.
        (
            "hidden",
            "USING (lower(owner) = 'x' OR team IN (SELECT m.team FROM members m WHERE m.who = me()))",
        ),
        ("viewed", "USING (team IN (SELECT s.team FROM seen s WHERE s.who = me()))"),
        ("divided", "USING (team = 1 / 0)"),
        ("partly", "USING (team IN (SELECT s.team FROM few s WHERE s.who = me()))"),
    ]);
    let (_cluster, client, streams) = secured(&sql, &policies).await;
    for table in tables {
        let shown = asked(&client, &principal("app", &json!({"sub": "me"})), table).await;
        assert_eq!(shown, None, "{table}");
        let stream = stream(&streams, table);
        assert_eq!(stream.queries, Vec::<String>::new(), "{table}");
        let [refused] = &stream.refused[..] else { panic!("{table}: {:?}", stream.refused) };
        assert_eq!(refused.policy, None, "{table}");
        assert!(refused.reason.starts_with("every SELECT of it fails in Postgres"), "{refused:?}");
    }
}

/// Claims and arrays that the sync language sees otherwise than Postgres.
#[tokio::test]
async fn e_4_streams_of_odd_values_give_what_postgres_shows() {
    let mut sql = String::new();
    let values = "(1, 'me', 42, '{me,b}'), (2, '[\"a\"]', 1234567890123456789, '{{a},{a}}')";
    for table in ["negated", "unlike", "other", "large", "texts", "nested", "listed"] {
        sql += &format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, s text, n bigint, ta text[]);
             INSERT INTO {table} VALUES {values};"
        );
    }
    let (_cluster, mut client, streams) = secured(
        &sql,
        &[
            ("negated", "USING (true)"),
            ("negated", "AS RESTRICTIVE USING ((claims() ->> 'sub') <> '42')"),
            ("unlike", "USING (me() IS DISTINCT FROM '42')"),
            ("other", "USING ((claims() ->> 'org') <> me())"),
            ("large", "USING ((claims() ->> 'org')::bigint = n)"),
            ("texts", "USING (n::text = (claims() ->> 'org'))"),
            ("nested", "USING (s = ANY (ta))"),
            ("listed", "USING ('[\"a\"]' = ANY (ta))"),
        ],
    )
    .await;
    for (table, reason) in [
        (
            "other",
            "a claim that is no text is not equal to the sync language where it is to Postgres",
        ),
        ("listed", "a text that looks like JSON is equal to arrays"),
    ] {
        assert_eq!(stream(&streams, table).refused[0].reason, reason);
    }
    let text = streams.text();
    let config = SyncConfig::load(&text, "policies", None).config.unwrap();
    let security = RowSecurity::read(&mut client, "app").await.unwrap();
    let stored = stored(&client, &security).await;
    let replica = Replica::of(&config, &stored);
    for claims in [
        json!({"sub": 42, "org": 42}),
        json!({"sub": "42", "org": 1_234_567_890_123_456_789_i64}),
        json!({"sub": "me", "org": "42"}),
        json!({"sub": "me", "org": true}),
    ] {
        for table in ["negated", "unlike", "large", "texts", "nested"] {
            assert!(!stream(&streams, table).queries.is_empty(), "{table} {text}");
            let theirs = asked(&client, &principal("app", &claims), table).await;
            let ours = replica.given(&claims, table);
            assert_eq!(ours, theirs.unwrap_or_default(), "{table} {claims}\n{text}");
        }
    }
}

/// Rows that come with a label of which a query knows nothing may be those that its policy hides: it was renamed.
#[tokio::test]
async fn e_4_streams_give_no_row_with_a_label_that_was_renamed_behind_them() {
    let tables = ["unlike", "apart", "picked", "either", "through", "alike"];
    let mut sql = String::from(
        "CREATE TYPE status AS ENUM ('open', 'it''s', 'hidden');
         CREATE TABLE members (id int PRIMARY KEY, team int, who text, of status);
         ALTER TABLE members ENABLE ROW LEVEL SECURITY; GRANT SELECT ON members TO app;
         CREATE POLICY every ON members USING (true);
         INSERT INTO members VALUES (1, 1, 'me', 'open'), (2, 2, 'me', 'hidden');",
    );
    for table in tables {
        sql += &format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, of status, team int);
             INSERT INTO {table} VALUES (1, 'open', 1), (2, 'it''s', 1), (3, 'hidden', 2), (4, NULL, 2);"
        );
    }
    let (_cluster, mut client, streams) = secured(
        &sql,
        &[
            ("unlike", "USING (of <> 'hidden')"),
            ("apart", "USING (of IS DISTINCT FROM 'hidden')"),
            ("picked", "USING (of NOT IN ('hidden', 'open') OR NOT (of = 'hidden'))"),
            ("either", "USING (CASE WHEN of = 'hidden' THEN false ELSE true END)"),
            (
                "through",
                "USING (team IN (SELECT m.team FROM members m WHERE m.who = me() AND m.of <> 'hidden'))",
            ),
            ("alike", "USING (of = 'open')"),
        ],
    )
    .await;
    let text = streams.text();
    let config = SyncConfig::load(&text, "policies", None).config.expect("compiled");
    let claims = json!({"sub": "me"});
    let given = async |client: &mut Client, table: &str| {
        let security = RowSecurity::read(client, "app").await.unwrap();
        let stored = stored(client, &security).await;
        Replica::of(&config, &stored).given(&claims, table)
    };
    for table in tables {
        assert!(!stream(&streams, table).queries.is_empty(), "{table} {text}");
        let theirs = asked(&client, &principal("app", &claims), table).await;
        assert_eq!(given(&mut client, table).await, theirs.expect("shown"), "{table}\n{text}");
    }
    client.batch_execute("ALTER TYPE status RENAME VALUE 'hidden' TO 'secret'").await.unwrap();
    for table in tables {
        let theirs = asked(&client, &principal("app", &claims), table).await;
        assert_eq!(given(&mut client, table).await, theirs.expect("shown"), "{table}\n{text}");
    }
}

/// What would be too much, and what clients would not tell apart.
#[tokio::test]
async fn one_table_that_has_no_stream_leaves_the_others_theirs() {
    let deep = format!("USING ({}flag{})", "(".repeat(40), " IS NULL)".repeat(40));
    let many: Vec<String> =
        (0..101).map(|number| format!("USING (s = (claims() ->> 'c{number}'))")).collect();
    let mut policies = vec![("deep", &*deep)];
    policies.extend(many.iter().map(|policy| ("many", &**policy)));
    for table in ["docs", "docs ", "bytes", "times", "days", "pair"] {
        policies.push((table, "USING (s = me())"));
    }
    let (_cluster, _client, streams) = secured(
        "CREATE TABLE deep (id int PRIMARY KEY, flag boolean); CREATE TABLE many (id int PRIMARY KEY, s text, n int);
         CREATE TABLE docs (id int PRIMARY KEY, s text); CREATE TABLE \"docs \" (id int PRIMARY KEY, s text);
         CREATE TABLE bytes (id bytea PRIMARY KEY, s text); CREATE TABLE times (id timestamptz PRIMARY KEY, s text);
         CREATE TABLE days (id date PRIMARY KEY, s text);
         CREATE TABLE pair (team int, who text, id int, s text, PRIMARY KEY (team, who))",
        &policies,
    )
    .await;
    for (table, policy, reason) in [
        ("deep", Some("p0"), "its query would be too long"),
        ("many", None, "the sync language refuses its query"),
        ("bytes", None, "values of its key id are not told apart on clients"),
        ("times", None, "values of its key id are not told apart on clients"),
        ("days", None, "values of its key id are not told apart on clients"),
        ("pair", None, "its column id would be overwritten on clients"),
    ] {
        let stream = stream(&streams, table);
        assert_eq!(stream.queries, Vec::<String>::new(), "{table}");
        let [refused] = &stream.refused[..] else { panic!("{table}: {:?}", stream.refused) };
        assert_eq!(refused.policy.as_deref(), policy, "{table}");
        assert!(refused.reason.starts_with(reason), "{refused:?}");
    }
    let text = streams.text();
    let loaded = SyncConfig::load(&text, "policies", None);
    assert!(loaded.config.is_some(), "{:?}\n{text}", loaded.diagnostics);
    assert!(text.contains("  docs:\n") && text.contains("  \"docs \":\n"), "{text}");
}

/// What streams were made of tells whether it stood all the time, whatever it is now; and of nothing else.
#[tokio::test]
async fn e_4_what_streams_were_made_of_stood_unless_any_of_it_was_written_again() {
    let cluster = Cluster::start();
    let mut client = cluster.client("postgres").await;
    let open =
        "CREATE OR REPLACE FUNCTION is_open() RETURNS boolean STABLE LANGUAGE sql AS 'SELECT true'";
    let shut = "CREATE OR REPLACE FUNCTION is_open() RETURNS boolean STABLE LANGUAGE sql AS 'SELECT false'";
    client
        .batch_execute(&format!(
            "{open}; CREATE ROLE reader; CREATE ROLE staff; GRANT staff TO reader;
             CREATE TABLE readers (who text PRIMARY KEY); ALTER TABLE readers ENABLE ROW LEVEL SECURITY;
             CREATE TABLE papers (id int PRIMARY KEY); ALTER TABLE papers ENABLE ROW LEVEL SECURITY;
             CREATE TABLE plain (who text PRIMARY KEY);
             GRANT SELECT ON papers TO staff; GRANT SELECT ON readers, plain TO reader;
             CREATE POLICY seen ON readers USING (who IN (SELECT who FROM plain));
             CREATE POLICY seen ON papers
               USING (is_open() AND current_setting('rls.ihp_user_id', true) IN (SELECT who FROM readers))"
        ))
        .await
        .unwrap();
    let read = async |client: &mut Client| {
        RowSecurity::read(client, "reader").await.unwrap().streams_read(&[])
    };
    let (streams, mut before) = read(&mut client).await;
    assert!(streams.tables.iter().all(|table| !table.queries.is_empty()), "{streams:?}");
    for (stands, statements) in [
        (
            true,
            vec![
                "CREATE TABLE other (id int)",
                "GRANT SELECT ON other TO reader",
                "DROP TABLE other",
            ],
        ),
        (true, vec!["INSERT INTO papers VALUES (1)", "ANALYZE papers"]),
        (false, vec!["REVOKE SELECT ON papers FROM staff", "GRANT SELECT ON papers TO staff"]),
        (false, vec!["REVOKE SELECT ON plain FROM reader", "GRANT SELECT ON plain TO reader"]),
        (false, vec!["REVOKE staff FROM reader", "GRANT staff TO reader"]),
        (false, vec![shut, open]),
        (
            false,
            vec![
                "ALTER POLICY seen ON readers USING (false)",
                "ALTER POLICY seen ON readers USING (who IN (SELECT who FROM plain))",
            ],
        ),
        (
            false,
            vec![
                "ALTER TABLE plain ENABLE ROW LEVEL SECURITY",
                "ALTER TABLE plain DISABLE ROW LEVEL SECURITY",
            ],
        ),
        (false, vec!["DROP POLICY seen ON readers"]),
    ] {
        for statement in &statements {
            client.batch_execute(statement).await.unwrap();
        }
        let (_, now) = read(&mut client).await;
        assert_eq!(now.stood_since(&before), stands, "{statements:?}");
        before = now;
    }
}
