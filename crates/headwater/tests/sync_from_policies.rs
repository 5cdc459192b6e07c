//! `sync.from: policies` as a process: what clients hold is what Postgres shows them, whatever happens to rows,
//! memberships and policies, and over restarts.

use std::collections::BTreeSet;
use std::time::Duration;

use hw_auth::Clock;
use hw_testkit::disk::{SmallDisk, fill};
use hw_testkit::oracle::{Line, SyncClient};
use hw_testkit::server::{OPERATOR, http_get};
use hw_testkit::{
    Cluster, ClusterOptions, FaultProxy, HeadwaterProcess, ProcessOptions, TestDatabase, poll_until,
};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;

use super::setup::{headwater, text};

const SECRET: &str = "a secret of thirty-two characters";
const LIMIT: Duration = Duration::from_secs(60);
const ADA: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
const BEN: &str = "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

/// Owner, membership through two tables, a claim, a column that says so, and a policy that has no stream.
const SCHEMA: &str = "
CREATE ROLE authenticated;
CREATE SCHEMA auth; GRANT USAGE ON SCHEMA auth TO authenticated;
CREATE FUNCTION auth.uid() RETURNS uuid STABLE LANGUAGE sql
  AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$;
CREATE FUNCTION auth.jwt() RETURNS jsonb STABLE LANGUAGE sql
  AS $$ SELECT nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
CREATE TABLE members (team int, who uuid, PRIMARY KEY (team, who));
CREATE TABLE lists (id int PRIMARY KEY, owner uuid, team int, plan text, open boolean);
CREATE TABLE todos (id int PRIMARY KEY, list int, body text);
CREATE TABLE notes (id int PRIMARY KEY, body text);
CREATE TABLE plain (id int PRIMARY KEY);
ALTER TABLE members ENABLE ROW LEVEL SECURITY; ALTER TABLE lists ENABLE ROW LEVEL SECURITY;
ALTER TABLE todos ENABLE ROW LEVEL SECURITY; ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON members, lists, todos, notes, plain TO authenticated;
CREATE POLICY own ON members USING (who = auth.uid());
CREATE POLICY own ON lists USING (owner = auth.uid());
CREATE POLICY team ON lists USING (team IN (SELECT team FROM members WHERE who = auth.uid()));
CREATE POLICY list ON todos USING (EXISTS (SELECT FROM lists WHERE lists.id = todos.list));
CREATE POLICY lowered ON notes USING (lower(body) = 'x');
INSERT INTO members VALUES (1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
INSERT INTO lists VALUES (1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 2, 'pro', false),
  (2, 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 1, 'free', true), (3, NULL, 3, NULL, NULL);
INSERT INTO todos SELECT n, n % 4, 'todo ' || n FROM generate_series(1, 40) n;
INSERT INTO notes VALUES (1, 'x');
";

struct Rig {
    cluster: Cluster,
    database: TestDatabase,
    directory: tempfile::TempDir,
    client: Client,
}

impl Rig {
    async fn start() -> Rig {
        let cluster = Cluster::start_with(ClusterOptions {
            settings: &[("max_slot_wal_keep_size", "20GB")],
            ..ClusterOptions::default()
        });
        let database = cluster.create_database().await;
        let client = cluster.client(&database.name).await;
        client.batch_execute(SCHEMA).await.expect("made");
        Rig { cluster, database, directory: tempfile::tempdir().expect("a directory"), client }
    }

    fn options(&self) -> ProcessOptions {
        ProcessOptions {
            binary: env!("CARGO_BIN_EXE_headwater").into(),
            arguments: vec!["serve".into()],
            environment: vec![
                ("DATABASE_URL".into(), self.database.url.clone()),
                (
                    "HEADWATER_DATA_DIR".into(),
                    self.directory.path().join("data").display().to_string(),
                ),
                ("HEADWATER_SYNC_FROM".into(), "policies".into()),
                ("HEADWATER_JWT_SECRET".into(), SECRET.into()),
            ],
            // Policies that have no stream are warned of.
            allowed_log: vec!["HW1026".into()],
        }
    }

    /// Waits until everything up to now is durable at the server, which shows at once what waits for nothing.
    async fn is_confirmed(&self, process: &HeadwaterProcess) {
        let now = self.client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await;
        let now: String = now.expect("a position").get(0);
        // A log that stands still is confirmed when it next goes on.
        self.sql("SELECT pg_logical_emit_message(true, 'test', 'x')").await;
        let is_there =
            format!("SELECT bool_or(confirmed_flush_lsn >= '{now}') FROM pg_replication_slots");
        let end = Instant::now() + LIMIT;
        while !self.client.query_one(&is_there, &[]).await.expect("slots").get::<_, bool>(0) {
            assert!(Instant::now() < end, "not confirmed\n{}", process.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The tables and ids that Postgres shows somebody with these claims; `notes` is not synced.
    async fn shown(&self, claims: &Value) -> BTreeSet<(String, String)> {
        let mut shown = BTreeSet::new();
        for (table, id) in
            [("members", "team || '/' || who"), ("lists", "id::text"), ("todos", "id::text")]
        {
            let query = format!(
                "BEGIN; SELECT set_config('request.jwt.claims', '{claims}', true), \
                 set_config('request.jwt.claim.sub', '{}', true), set_config('role', 'authenticated', true); \
                 SELECT {id} FROM {table}",
                claims["sub"].as_str().expect("a text")
            );
            let messages = self.client.simple_query(&query).await;
            self.client.batch_execute("ROLLBACK").await.expect("rolled back");
            // A role that lost its grant is shown nothing.
            for message in messages.unwrap_or_default() {
                if let tokio_postgres::SimpleQueryMessage::Row(row) = message
                    && row.len() == 1
                {
                    shown.insert((table.to_owned(), row.get(0).expect("an id").to_owned()));
                }
            }
        }
        shown
    }
}

fn token(claims: &Value) -> String {
    let secret = hw_auth::Secret::parse(SECRET).expect("a secret");
    let extra: Map<String, Value> = claims.as_object().expect("claims").clone();
    let subject = claims["sub"].as_str().expect("a text");
    hw_auth::token::issue(
        &secret,
        subject,
        Duration::from_secs(3600),
        &extra,
        &[],
        &Clock::system(),
    )
}

fn claims() -> [Value; 3] {
    [
        json!({"sub": ADA, "role": "authenticated", "plan": "free"}),
        json!({"sub": BEN, "plan": "pro"}),
        json!({"sub": "c0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}),
    ]
}

/// Somebody who syncs.
struct User {
    claims: Value,
    client: SyncClient,
}

impl User {
    fn new(claims: Value, name: &str) -> User {
        let mut client = SyncClient::new(&token(&claims), name);
        // What is decided otherwise is sent anew.
        client.accepts_anew = true;
        User { claims, client }
    }

    fn held(&self) -> BTreeSet<(String, String)> {
        self.client.rows().keys().cloned().collect()
    }

    /// Reads on until it holds what Postgres shows.
    async fn settles(&mut self, rig: &Rig, process: &HeadwaterProcess) {
        let shown = rig.shown(&self.claims).await;
        let end = Instant::now() + LIMIT;
        while self.held() != shown {
            assert!(
                Instant::now() < end,
                "{} holds {:?}, Postgres shows {shown:?}\n{}",
                self.claims,
                self.held(),
                process.log()
            );
            self.step(process).await;
        }
    }

    async fn step(&mut self, process: &HeadwaterProcess) {
        if !self.client.is_connected() {
            self.client.connect(process.address()).await.expect("connected");
        }
        if let Ok(Err(error)) = timeout(Duration::from_millis(500), self.client.step()).await {
            panic!("{error}\n{}", process.log());
        }
    }

    /// What it is shown first.
    async fn first(&mut self, process: &HeadwaterProcess) -> BTreeSet<(String, String)> {
        self.client.connect(process.address()).await.expect("connected");
        while self.client.step().await.expect("a line") != Line::Complete {}
        self.held()
    }
}

/// What happens, one after the other: rows, memberships, policies, grants, flags.
const HAPPENS: [&str; 16] = [
    "INSERT INTO members VALUES (2, 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11')",
    "UPDATE lists SET owner = 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11' WHERE id = 3",
    "CREATE POLICY open ON lists USING (open)",
    "UPDATE lists SET open = NOT open",
    "ALTER POLICY open ON lists USING (plan = (auth.jwt() ->> 'plan'))",
    "DELETE FROM members WHERE team = 1",
    "DROP POLICY own ON lists",
    "CREATE POLICY calm ON todos AS RESTRICTIVE USING (body <> 'todo 7')",
    "INSERT INTO members VALUES (1, 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'), (3, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11')",
    "REVOKE SELECT ON todos FROM authenticated",
    "GRANT SELECT ON todos TO authenticated",
    "CREATE OR REPLACE FUNCTION auth.jwt() RETURNS jsonb STABLE LANGUAGE sql AS $$ SELECT NULL::jsonb $$",
    "ALTER POLICY own ON members USING (false)",
    "ALTER POLICY own ON members USING (who = auth.uid() AND team <> 2)",
    "DROP POLICY team ON lists; DROP POLICY open ON lists",
    "CREATE POLICY all_ ON lists USING (true)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_clients_hold_what_policies_show_them_while_rows_and_policies_change() {
    let rig = Rig::start().await;
    let mut process = HeadwaterProcess::start(rig.options()).await;
    let mut users: Vec<User> = claims()
        .into_iter()
        .enumerate()
        .map(|(n, of)| User::new(of, &format!("user {n}")))
        .collect();
    for user in &mut users {
        user.settles(&rig, &process).await;
    }
    assert!(users[0].held().len() > 10 && users[2].held().is_empty());
    for happens in HAPPENS {
        rig.sql(happens).await;
        for user in &mut users {
            user.settles(&rig, &process).await;
        }
    }
    // A token of another role is of nobody whose policies these are.
    let mut other = User::new(json!({"sub": BEN, "role": "service"}), "another role");
    assert_eq!(other.first(&process).await, BTreeSet::new());
    process.stop().await;
}

/// A policy that only adds takes nothing meanwhile, also where its rows come into the bucket of another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_only_adds_takes_no_row_from_anybody() {
    let rig = Rig::start().await;
    rig.sql("CREATE POLICY open ON lists USING (open)").await;
    let mut process = HeadwaterProcess::start(rig.options()).await;
    let mut user = User::new(claims()[2].clone(), "user");
    user.settles(&rig, &process).await;
    let list = |id: &str| ("lists".to_owned(), id.to_owned());
    assert!(user.held().contains(&list("2")) && !user.held().contains(&list("3")));
    rig.sql("CREATE POLICY third ON lists USING (id = 3)").await;
    let end = Instant::now() + LIMIT;
    while !user.held().contains(&list("3")) {
        assert!(Instant::now() < end, "{:?}\n{}", user.held(), process.log());
        user.step(&process).await;
        assert!(user.held().contains(&list("2")), "{:?}\n{}", user.held(), process.log());
    }
    assert!(!process.log().contains("is taken back"), "{}", process.log());
    process.stop().await;
}

/// A policy that reads what is not replicated keeps its own table from being served, and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_over_what_cannot_be_replicated_stops_its_table_alone() {
    let rig = Rig::start().await;
    let mut options = rig.options();
    options.allowed_log.push("away".into());
    let mut process = HeadwaterProcess::start(options).await;
    let mut user = User::new(claims()[0].clone(), "user");
    user.settles(&rig, &process).await;
    rig.sql(
        "CREATE UNLOGGED TABLE away (id int PRIMARY KEY, who uuid); GRANT SELECT ON away TO authenticated;
         CREATE POLICY away ON lists USING (id IN (SELECT id FROM away WHERE who = auth.uid()))",
    )
    .await;
    rig.sql("ALTER POLICY own ON members USING (who = auth.uid() AND team > 1)").await;
    rig.sql("INSERT INTO members VALUES (7, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11')").await;
    let end = Instant::now() + LIMIT;
    let members = |user: &User| -> Vec<String> {
        let held = user.held().into_iter().filter(|(table, _)| table == "members");
        held.map(|(_, id)| id).collect()
    };
    while members(&user) != [format!("7/{ADA}")] {
        assert!(Instant::now() < end, "{:?}\n{}", user.held(), process.log());
        user.step(&process).await;
    }
    let shown = rig.shown(&claims()[0]).await;
    assert!(user.held().is_subset(&shown), "{:?} and Postgres shows {shown:?}", user.held());
    process.stop().await;
}

/// Somebody who comes now, and what he is shown first: no more than Postgres shows him.
async fn comes_behind(rig: &Rig, process: &HeadwaterProcess) -> (User, BTreeSet<(String, String)>) {
    let mut late = User::new(claims()[0].clone(), "behind");
    let first = late.first(process).await;
    let shown = rig.shown(&claims()[0]).await;
    assert!(first.is_subset(&shown), "{first:?} and Postgres shows {shown:?}");
    (late, first)
}

/// Whoever comes behind a restart is not shown what policies took meanwhile, not for a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_what_policies_took_while_the_server_was_away_is_never_served_again() {
    let rig = Rig::start().await;
    rig.sql("CREATE POLICY all_ ON lists USING (true)").await;
    let mut process = HeadwaterProcess::start(rig.options()).await;
    let mut user = User::new(claims()[0].clone(), "before");
    user.settles(&rig, &process).await;
    assert_eq!(user.held().iter().filter(|(table, _)| table == "lists").count(), 3);
    process.kill();
    rig.sql("DROP POLICY all_ ON lists; DROP POLICY team ON lists; INSERT INTO lists VALUES (9, NULL, 1)").await;
    process.spawn_again();
    process.until_ready().await;
    let (mut late, _) = comes_behind(&rig, &process).await;
    late.settles(&rig, &process).await;
    process.stop().await;
}

/// Somebody who comes right behind a restart keeps his stream: what is served does not become another once more,
/// whether policies have stayed what they were, or changed and are quickly served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_a_stream_that_comes_right_behind_a_restart_goes_on() {
    let rig = Rig::start().await;
    let mut process = HeadwaterProcess::start(rig.options()).await;
    User::new(claims()[0].clone(), "before").settles(&rig, &process).await;
    let served = |process: &HeadwaterProcess| {
        process.log().matches("the sync configuration is served").count()
    };
    let meanwhile = [
        None,
        Some("CREATE POLICY all_ ON lists USING (true)"),
        None,
        Some("DROP POLICY all_ ON lists; DROP POLICY team ON lists"),
        Some(
            "CREATE POLICY team ON lists USING (team IN (SELECT team FROM members WHERE who = auth.uid()))",
        ),
        Some("DROP POLICY own ON members"),
    ];
    for (id, changes) in (100..).zip(meanwhile) {
        match id % 2 {
            0 => process.kill(),
            _ => process.stop().await,
        }
        if let Some(changes) = changes {
            rig.sql(changes).await;
        }
        let before = served(&process);
        process.spawn_again();
        process.until_ready().await;
        let mut user = User::new(claims()[0].clone(), "behind");
        user.client.connect(process.address()).await.expect("connected");
        rig.sql(&format!("INSERT INTO lists VALUES ({id}, '{ADA}')")).await;
        while !user.held().contains(&("lists".to_owned(), id.to_string())) {
            let line = user.client.step().await.expect("a line");
            assert_ne!(line, Line::End, "{changes:?}\n{}", process.log());
        }
        if changes.is_none() {
            assert_eq!(served(&process), before, "{}", process.log());
        }
    }
    process.stop().await;
}

/// Rights that go and come back, between two looks or not. What is there only meanwhile, or only then as it is, is
/// shown to nobody: Postgres showed it at no moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_nobody_is_shown_what_was_there_only_while_policies_showed_less() {
    let rig = Rig::start().await;
    rig.sql(
        "CREATE TABLE papers (id int PRIMARY KEY, body text); ALTER TABLE papers ENABLE ROW LEVEL SECURITY;
         CREATE TABLE readers (who uuid PRIMARY KEY); ALTER TABLE readers ENABLE ROW LEVEL SECURITY;
         CREATE ROLE staff; GRANT staff TO authenticated; CREATE SCHEMA help; GRANT USAGE ON SCHEMA help TO authenticated;
         CREATE FUNCTION help.is_open() RETURNS boolean STABLE LANGUAGE sql AS $$ SELECT true $$;
         GRANT SELECT ON readers TO authenticated; GRANT SELECT ON papers TO staff;
         CREATE POLICY seen ON readers USING (true);
         CREATE POLICY seen ON papers USING (help.is_open() AND auth.uid() IN (SELECT who FROM readers))",
    )
    .await;
    rig.sql(&format!("INSERT INTO readers VALUES ('{ADA}')")).await;
    let mut process = HeadwaterProcess::start(rig.options()).await;
    let mut user = User::new(claims()[0].clone(), "ada");
    let bodies = |user: &User| -> BTreeSet<String> {
        let rows = user.client.table("papers");
        rows.values().map(|row| row["body"].as_str().expect("a text").to_owned()).collect()
    };
    let is_open = |open: bool| {
        format!(
            "CREATE OR REPLACE FUNCTION help.is_open() RETURNS boolean STABLE LANGUAGE sql AS $$ SELECT {open} $$"
        )
    };
    let (shut, open) = (is_open(false), is_open(true));
    let ways: [(&str, &str); 5] = [
        ("REVOKE SELECT ON papers FROM staff", "GRANT SELECT ON papers TO staff"),
        (
            "ALTER POLICY seen ON papers USING (false)",
            "ALTER POLICY seen ON papers USING (help.is_open() AND auth.uid() IN (SELECT who FROM readers))",
        ),
        ("ALTER POLICY seen ON readers USING (false)", "ALTER POLICY seen ON readers USING (true)"),
        ("REVOKE staff FROM authenticated", "GRANT staff TO authenticated"),
        (&shut, &open),
    ];
    for (round, (take, give)) in ways.iter().enumerate() {
        let insert =
            format!("INSERT INTO papers VALUES ({round}, 'shown'), (100 + {round}, 'shown')");
        rig.sql(&insert).await;
        let is_there =
            |user: &User| user.held().contains(&("papers".to_owned(), (100 + round).to_string()));
        let end = Instant::now() + LIMIT;
        while !is_there(&user) {
            assert!(Instant::now() < end, "{take}: {:?}\n{}", user.held(), process.log());
            user.step(&process).await;
        }
        let hide = format!(
            "INSERT INTO papers VALUES (200 + {round}, 'hidden'); UPDATE papers SET body = 'hidden' WHERE id = {round}"
        );
        let mend = format!(
            "DELETE FROM papers WHERE id = 200 + {round}; UPDATE papers SET body = 'shown' WHERE id = {round}"
        );
        // At first all of it is most likely over before the catalog is looked at.
        for is_slow in [false, false, false, false, true] {
            rig.sql(take).await;
            rig.sql(&hide).await;
            if is_slow {
                rig.is_confirmed(&process).await;
            }
            rig.sql(&mend).await;
            rig.sql(give).await;
        }
        let behind = format!("INSERT INTO papers VALUES (300 + {round}, 'shown')");
        rig.sql(&behind).await;
        let last = ("papers".to_owned(), (300 + round).to_string());
        while !user.held().contains(&last) {
            assert!(Instant::now() < end, "{give}: {:?}\n{}", user.held(), process.log());
            user.step(&process).await;
            assert!(!bodies(&user).contains("hidden"), "{take}");
        }
    }
    process.stop().await;
}

/// A source that is away when the server starts is waited for. Until it says what policies show nobody is answered,
/// and probes say that the server has not started.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_9_e_4_a_server_that_starts_while_the_source_is_away_serves_nothing_by_policies_of_before()
 {
    let rig = Rig::start().await;
    rig.sql("CREATE POLICY all_ ON lists USING (true)").await;
    let source = FaultProxy::start(&format!("127.0.0.1:{}", rig.cluster.port())).await;
    let url = rig.database.url.replace(&rig.cluster.port().to_string(), &source.port().to_string());
    let mut options = rig.options();
    options.environment[0].1 = url;
    for allowed in ["the source", "source:", "HW2", "HW1026"] {
        options.allowed_log.push(allowed.into());
    }
    let mut process = HeadwaterProcess::start(options).await;
    let mut user = User::new(claims()[0].clone(), "before");
    user.settles(&rig, &process).await;
    process.kill();
    source.refuse();
    rig.sql("DROP POLICY all_ ON lists; DROP POLICY team ON lists").await;
    process.spawn_again();
    poll_until("it says why it waits", || async {
        process.log().contains("nothing is served before they have been read").then_some(())
    })
    .await;
    let status = async |probe: &str| {
        http_get(process.address(), probe, &[]).await.expect("an answer").status
    };
    assert_ne!(status("/probes/startup").await, 200);
    assert_ne!(status("/probes/readiness").await, 200);
    assert_eq!(status("/probes/liveness").await, 200);
    source.heal();
    process.until_ready().await;
    let (mut late, _) = comes_behind(&rig, &process).await;
    late.settles(&rig, &process).await;
    process.stop().await;
}

/// Where everything is copied again, which an open transaction may hold up for hours, the server starts all the same,
/// and what policies took, before or meanwhile, is not served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_what_policies_take_is_not_served_while_everything_is_copied_again() {
    let rig = Rig::start().await;
    rig.sql("CREATE POLICY all_ ON lists USING (true)").await;
    let mut options = rig.options();
    for allowed in ["copied again and compared", "HW2123", "the table leaves the replica"] {
        options.allowed_log.push(allowed.into());
    }
    let mut process = HeadwaterProcess::start(options).await;
    let mut user = User::new(claims()[0].clone(), "before");
    user.settles(&rig, &process).await;
    process.kill();
    let open = rig.cluster.client(&rig.database.name).await;
    open.batch_execute("BEGIN; INSERT INTO plain VALUES (1)").await.expect("open");
    rig.sql("DROP POLICY all_ ON lists; DROP POLICY team ON lists").await;
    let end = Instant::now() + LIMIT;
    let drop_slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
    while rig.client.batch_execute(drop_slot).await.is_err() {
        assert!(Instant::now() < end, "somebody uses the slot");
    }
    process.spawn_again();
    process.until_ready().await;
    let (mut late, first) = comes_behind(&rig, &process).await;
    assert!(first.iter().any(|(table, _)| table == "members"), "what they did not take is served");
    rig.sql("ALTER POLICY own ON members USING (false)").await;
    while late.held().iter().any(|(table, _)| table == "members") {
        assert!(Instant::now() < end, "{:?}\n{}", late.held(), process.log());
        late.step(&process).await;
    }
    open.batch_execute("COMMIT").await.expect("ended");
    late.settles(&rig, &process).await;
    process.stop().await;
}

/// A store that cannot be written takes no configuration over, and serves on what it holds: without what policies
/// take meanwhile, each time that they take something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_what_policies_take_one_after_the_other_is_not_served_while_the_disk_is_full() {
    let disk = hw_testkit::needs!(SmallDisk::mount(64));
    let rig = Rig::start().await;
    rig.sql(&format!(
        "CREATE TABLE extra (id int PRIMARY KEY, owner uuid); INSERT INTO extra VALUES (1, '{ADA}');
         ALTER TABLE extra ENABLE ROW LEVEL SECURITY; GRANT SELECT ON extra TO authenticated;
         CREATE POLICY own ON extra USING (owner = auth.uid())"
    ))
    .await;
    let mut options = rig.options();
    options.environment.retain(|(name, _)| name != "HEADWATER_DATA_DIR");
    let data = disk.path("data").display().to_string();
    options.environment.push(("HEADWATER_DATA_DIR".into(), data));
    options.allowed_log.extend(["HW3", "StorageFull", "full", "store"].map(String::from));
    let mut process = HeadwaterProcess::start(options).await;
    let mut user = User::new(claims()[0].clone(), "before");
    user.first(&process).await;
    for table in ["extra", "lists"] {
        assert!(user.held().contains(&(table.to_owned(), "1".to_owned())), "{:?}", user.held());
    }
    let ballast = disk.path("ballast");
    fill(&ballast, 300 << 10);
    // Bytes that do not compress, of nobody's list.
    rig.sql(
        "INSERT INTO todos SELECT 1000 + i, 77, (SELECT string_agg(md5(random()::text || i || j), '')
           FROM generate_series(1, 20) j) FROM generate_series(1, 4000) i",
    )
    .await;
    let is_full = |line: &str| line.contains("it is written again when");
    poll_until("the store cannot be written", || async {
        process.log().lines().any(is_full).then_some(())
    })
    .await;
    let end = Instant::now() + LIMIT;
    // Of `extra` it is not asked what Postgres shows: nothing of it, from the first of these on.
    for takes in ["DROP POLICY own ON extra", "DROP POLICY own ON lists"] {
        rig.sql(takes).await;
        loop {
            let mut late = User::new(claims()[0].clone(), "late");
            let first = late.first(&process).await;
            let shown = rig.shown(&claims()[0]).await;
            if first.is_subset(&shown) {
                break;
            }
            assert!(
                Instant::now() < end,
                "{takes}: {first:?} and Postgres shows {shown:?}\n{}",
                process.log()
            );
        }
    }
    assert_eq!(process.log().matches("the sync configuration is served").count(), 1);
    // Nor behind a restart, which waits for no room on the disk.
    user.client.disconnect();
    process.kill();
    process.spawn_again();
    process.until_ready().await;
    comes_behind(&rig, &process).await;
    std::fs::remove_file(&ballast).expect("removed");
    user.settles(&rig, &process).await;
    process.stop().await;
}

/// A follower of policies that is dead would let everybody keep what is revoked from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_the_process_ends_with_the_follower_of_policies() {
    let rig = Rig::start().await;
    let mut options = rig.options();
    let failpoint = "policies::look:2:panic".to_owned();
    options.environment.push(("HEADWATER_FAILPOINT".into(), failpoint));
    options
        .allowed_log
        .extend(["failpoint", "panicked at", "a defect has ended a part"].map(String::from));
    let mut process = HeadwaterProcess::spawn(options);
    assert_eq!(process.wait_exit().await.code(), Some(70), "{}", process.log());
    assert!(process.log().contains("the follower of policies"), "{}", process.log());
}

/// What policies take is taken whatever else changes with it: here something comes that cannot be followed. That
/// comes when it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_what_policies_take_waits_for_nothing_that_they_give() {
    let rig = Rig::start().await;
    rig.sql(
        "CREATE TABLE loose (team int, who uuid); CREATE TABLE extra (id int PRIMARY KEY, owner uuid);
         ALTER TABLE extra ENABLE ROW LEVEL SECURITY; GRANT SELECT ON loose, extra TO authenticated;
         CREATE POLICY own ON extra USING (owner = auth.uid())",
    )
    .await;
    let mut options = rig.options();
    options.allowed_log.push("HW2106".into());
    let mut process = HeadwaterProcess::start(options).await;
    let mut user = User::new(claims()[0].clone(), "ada");
    user.settles(&rig, &process).await;
    assert!(user.held().iter().any(|(table, _)| table == "lists"));
    rig.sql(
        "BEGIN; DROP POLICY own ON lists; DROP POLICY team ON lists;
         CREATE POLICY loose ON extra USING (id IN (SELECT team FROM loose WHERE who = auth.uid())); COMMIT",
    )
    .await;
    user.settles(&rig, &process).await;
    assert!(!user.held().iter().any(|(table, _)| table == "lists"));
    // Nobody can be of a role that is gone.
    rig.sql("ALTER ROLE authenticated RENAME TO gone").await;
    user.settles(&rig, &process).await;
    assert_eq!(user.held(), BTreeSet::new());
    rig.sql("ALTER ROLE gone RENAME TO authenticated").await;
    user.settles(&rig, &process).await;
    rig.sql(&format!(
        "ALTER TABLE loose ADD PRIMARY KEY (team, who); INSERT INTO extra VALUES (7, NULL);
         INSERT INTO loose VALUES (7, '{ADA}')"
    ))
    .await;
    let end = Instant::now() + LIMIT;
    while !user.held().contains(&("extra".to_owned(), "7".to_owned())) {
        assert!(Instant::now() < end, "{}", process.log());
        user.step(&process).await;
    }
    process.stop().await;
}

/// A policy names labels by what they are, whatever they are called by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e_4_a_row_with_a_label_that_its_transaction_renamed_is_shown_to_nobody() {
    let rig = Rig::start().await;
    rig.sql(
        "CREATE TYPE status AS ENUM ('open', 'hidden'); CREATE TABLE cases (id int PRIMARY KEY, status status);
         ALTER TABLE cases ENABLE ROW LEVEL SECURITY; GRANT SELECT ON cases TO authenticated;
         CREATE POLICY seen ON cases USING (status <> 'hidden'); INSERT INTO cases VALUES (1, 'open'), (2, 'hidden')",
    )
    .await;
    let mut options = rig.options();
    options.allowed_log.push("the table is copied again and compared".into());
    let mut process = HeadwaterProcess::start(options).await;
    let mut user = User::new(claims()[0].clone(), "ada");
    let cases = |user: &User| -> Vec<String> {
        user.held().into_iter().filter(|(table, _)| table == "cases").map(|(_, id)| id).collect()
    };
    let mut holds = async |expected: &[&str], also: &str| {
        let end = Instant::now() + LIMIT;
        while cases(&user) != expected || !process.log().contains(also) {
            let held = cases(&user);
            assert!(!held.contains(&"2".to_owned()) && !held.contains(&"3".to_owned()), "{held:?}");
            assert!(Instant::now() < end, "{held:?}\n{}", process.log());
            user.step(&process).await;
        }
    };
    holds(&["1"], "").await;
    rig.sql(
        "BEGIN; ALTER TYPE status RENAME VALUE 'hidden' TO 'secret'; INSERT INTO cases VALUES (3, 'secret'); COMMIT;
         INSERT INTO cases VALUES (4, 'open')",
    )
    .await;
    holds(&["1", "4"], "a type of its columns was altered").await;
    rig.sql("INSERT INTO cases VALUES (5, 'open'), (6, 'secret')").await;
    holds(&["1", "4", "5"], "").await;
    process.stop().await;
}

/// The page of the administration says of each table what the role sees of it, what is synced of it and why not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_told_how_each_table_is_decided() {
    let rig = Rig::start().await;
    let mut process = HeadwaterProcess::start(rig.options()).await;
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        let answer = http_get(process.address(), path, headers).await.expect("answered");
        (answer.status, serde_json::from_str::<Value>(&answer.body).expect("JSON"))
    };
    let (status, page) = ask("/admin/api/policies", &OPERATOR).await;
    assert_eq!((status, &page["role"]), (200, &json!("authenticated")));
    let of = |name: &str| {
        let tables = page["tables"].as_array().expect("tables");
        tables.iter().find(|table| table["table"] == name).expect("listed").clone()
    };
    assert_eq!(of("members")["tier"], "compiled");
    assert_eq!(of("lists")["tier"], "with_lookup");
    assert_eq!(of("lists")["policies"][0]["using"], "(owner = auth.uid())");
    assert_eq!(of("notes")["because"]["expression"], "lower(body)");
    assert!(of("notes")["lifted_by"].is_string() && of("notes")["stream"] == json!([]));
    assert_eq!(of("plain")["tier"], "fixed");
    assert_eq!(ask("/admin/api/policies?role=nobody", &OPERATOR).await.0, 404);
    assert_eq!(ask("/admin/api/policies", &[]).await.0, 401);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_served_is_what_the_command_prints() {
    let rig = Rig::start().await;
    let output = headwater(&["policies", "--as-streams"], Some(&rig.database.url));
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "notes have no stream: {printed}");
    for line in [
        "  lists:",
        "      - SELECT * FROM lists WHERE owner = lower(auth.user_id()) AND ifnull(auth.parameter('role'), 'authenticated') = 'authenticated'",
        "      - SELECT *, team || '/' || who AS id FROM members WHERE who = lower(auth.user_id()) AND ifnull(auth.parameter('role'), 'authenticated') = 'authenticated'",
    ] {
        assert!(printed.lines().any(|said| said == line), "{line} in\n{printed}");
    }
    assert!(
        printed.contains("# public.notes: policy lowered: (lower(body) = 'x'::text) is not synced"),
        "{printed}"
    );
    std::fs::write(rig.directory.path().join("printed.yaml"), &*printed).expect("written");
    // As a file it is served as well.
    let mut options = rig.options();
    options.environment.retain(|(name, _)| name != "HEADWATER_SYNC_FROM");
    let path = rig.directory.path().join("printed.yaml").display().to_string();
    options.environment.push(("HEADWATER_SYNC_CONFIG".into(), path));
    let mut process = HeadwaterProcess::start(options).await;
    let mut user = User::new(claims()[0].clone(), "of the file");
    user.settles(&rig, &process).await;
    process.stop().await;
}
