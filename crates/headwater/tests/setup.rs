//! `setup` as a process.

use std::process::{Command, Output, Stdio};

use hw_testkit::Cluster;

/// Runs the program, with a database or none.
pub fn headwater(arguments: &[&str], url: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(arguments).stdin(Stdio::null());
    if let Some(url) = url {
        command.env("DATABASE_URL", url);
    }
    command.output().expect("the program runs")
}

/// What it wrote.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn setup_changes_nothing_unasked_and_the_same_twice() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    let there = async || -> bool {
        let sql = "SELECT to_regclass('headwater.rejected_writes') IS NOT NULL";
        client.query_one(sql, &[]).await.expect("asked").get(0)
    };
    let unasked = headwater(&["setup"], Some(&database.url));
    assert_eq!(unasked.status.code(), Some(1));
    assert!(text(&unasked.stderr).contains("CREATE SCHEMA headwater AUTHORIZATION"));
    assert!(!there().await, "nothing is run without a yes");

    let printed = headwater(&["setup", "--print"], Some(&database.url));
    assert_eq!(printed.status.code(), Some(0));
    assert!(!there().await, "printing runs nothing");

    for _ in 0..2 {
        let output = headwater(&["setup", "--yes"], Some(&database.url));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(there().await);
    }
    client
        .batch_execute(
            "DROP SCHEMA headwater CASCADE;
             DROP OWNED BY headwater_authenticated;
             DROP ROLE headwater_authenticated",
        )
        .await
        .expect("dropped");
    client.batch_execute(&text(&printed.stdout)).await.expect("the printed SQL is a script");
    assert!(there().await);
}

/// Statements of a role that is no superuser and serves.
async fn login(cluster: &Cluster, database: &str) -> (String, tokio_postgres::Client) {
    let dba = cluster.client(database).await;
    dba.batch_execute("CREATE ROLE app LOGIN REPLICATION").await.expect("made");
    dba.batch_execute(&format!("GRANT CREATE ON DATABASE \"{database}\" TO app"))
        .await
        .expect("ok");
    (cluster.url_as("app", None, database), dba)
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("connected");
    tokio::spawn(connection);
    client
}

/// What the set-up amounts to: owners, rights, policies, members, indexes, the trigger.
const STATE: &str = "
    SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
      SELECT 'relation ' || relname || ' ' || relkind::text || ' ' || pg_get_userbyid(relowner)
             || ' ' || relrowsecurity || ' ' || coalesce(relacl::text, '') AS line
      FROM pg_class WHERE relnamespace = 'headwater'::regnamespace
      UNION ALL SELECT 'schema ' || pg_get_userbyid(nspowner) || ' ' || coalesce(nspacl::text, '')
      FROM pg_namespace WHERE nspname = 'headwater'
      UNION ALL SELECT 'policy ' || polname || polcmd::text || polroles::text FROM pg_policy
      UNION ALL SELECT 'takes ' || pg_has_role('app', 'headwater_authenticated', 'MEMBER')
    ) lines";

/// FD-56: whoever runs it, however often, it leads to the same state, in which `app` can serve.
#[tokio::test]
async fn fd_56_setup_leads_to_the_same_working_state_whoever_runs_it_and_however_often() {
    let mut states = Vec::new();
    // By a DBA; as a script by a DBA, printed by the role that serves; by the role itself, once a
    // DBA has made the role of writes; by an older version for another login, then by a DBA.
    for way in ["dba", "script", "owner", "older"] {
        let cluster = Cluster::start();
        let database = cluster.create_database().await;
        let (app, dba) = login(&cluster, &database.name).await;
        let dba_url = database.url.as_str();
        let print = headwater(&["setup", "--print"], Some(&app));
        assert_eq!(print.status.code(), Some(0), "{}", text(&print.stderr));
        let run = |arguments: &[&str], url: &str| {
            for _ in 0..2 {
                let output = headwater(arguments, Some(url));
                assert_eq!(output.status.code(), Some(0), "{way}: {}", text(&output.stderr));
            }
        };
        match way {
            "dba" => run(&["setup", "--yes", "--role", "app"], dba_url),
            "script" => {
                for _ in 0..2 {
                    dba.batch_execute(&text(&print.stdout)).await.expect("the script runs");
                }
            }
            "owner" => {
                dba.batch_execute(
                    "CREATE ROLE headwater_authenticated; \
                     GRANT USAGE ON SCHEMA public TO headwater_authenticated; \
                     GRANT headwater_authenticated TO app",
                )
                .await
                .expect("made");
                run(&["setup", "--yes"], &app);
            }
            _ => {
                dba.batch_execute(
                    "CREATE ROLE headwater_authenticated; CREATE SCHEMA headwater;
                     CREATE TABLE headwater.upload_high_water
                       (sub text, client_id text, op_id bigint NOT NULL, PRIMARY KEY (sub, client_id));
                     INSERT INTO headwater.upload_high_water VALUES ('7', 'c', 5), ('ada', 'c', 6),
                       ('[7]', 'c', 8);
                     CREATE TABLE headwater.uploads (sub text NOT NULL, client_id text NOT NULL,
                       tx_id bigint NOT NULL, first_op_id bigint NOT NULL, contents bytea NOT NULL,
                       verdict text NOT NULL CHECK (verdict IN ('applied', 'rejected')),
                       rejection json, at timestamptz NOT NULL DEFAULT now(),
                       PRIMARY KEY (sub, client_id, tx_id, first_op_id));
                     CREATE INDEX uploads_sub_at ON headwater.uploads (sub, at);
                     CREATE INDEX uploads_at ON headwater.uploads (at);
                     INSERT INTO headwater.uploads VALUES ('-2.5', 'c', 1, 1, '\\x00', 'applied');
                     CREATE TABLE headwater.rejected_writes (id uuid PRIMARY KEY, sub text NOT NULL,
                       client_id text NOT NULL, tx_id bigint NOT NULL, op_id bigint NOT NULL,
                       sqlstate text NOT NULL, message text NOT NULL, table_name text,
                       column_name text, constraint_name text, entries json NOT NULL,
                       rejected_at timestamptz NOT NULL DEFAULT now());
                     ALTER TABLE headwater.rejected_writes ENABLE ROW LEVEL SECURITY;
                     CREATE POLICY server ON headwater.rejected_writes TO postgres USING (true);",
                )
                .await
                .expect("made");
                run(&["setup", "--yes", "--role", "app"], dba_url);
                // Nobody knows whether a subject was a text: what was applied stays so for both.
                let keys = "SELECT string_agg(user_key || ' ' || op_id, ' ' ORDER BY user_key)
                            FROM headwater.upload_high_water
                            UNION ALL
                            SELECT string_agg(user_key || ' ' || verdict, ' ' ORDER BY user_key)
                            FROM headwater.uploads";
                let keys = dba.query(keys, &[]).await.expect("asked");
                let keys: Vec<String> = keys.iter().map(|row| row.get(0)).collect();
                assert_eq!(keys[0], "j3:[7] 8 n1:7 5 t1:7 5 t3:[7] 8 t3:ada 6");
                assert_eq!(keys[1], "n4:-2.5 applied t4:-2.5 applied");
                dba.batch_execute(
                    "DELETE FROM headwater.uploads; DELETE FROM headwater.upload_high_water",
                )
                .await
                .expect("forgotten");
            }
        }
        // And again by the other one: nothing to do.
        run(&["setup", "--yes"], &app);
        run(&["setup", "--yes", "--role", "app"], dba_url);
        let app = connect(&app).await;
        app.batch_execute(
            "BEGIN; INSERT INTO headwater.uploads
               (user_key, client_id, tx_id, first_op_id, contents, verdict)
               VALUES ('t1:a', 'c', 1, 1, '', 'applied');
             INSERT INTO headwater.upload_high_water (user_key, client_id, op_id)
               VALUES ('t1:a', 'c', 1);
             INSERT INTO headwater.rejected_writes VALUES
               (gen_random_uuid(), 'a', 'c', 1, 1, '', '', NULL, NULL, NULL, 'null');
             SELECT set_config('role', 'headwater_authenticated', true); ROLLBACK",
        )
        .await
        .unwrap_or_else(|error| panic!("{way}: {error}"));
        states.push(dba.query_one(STATE, &[]).await.expect("asked").get::<_, String>(0));
        // The trigger's function is nobody's who could put other code into it.
        let owner = "SELECT pg_get_userbyid(proowner) FROM pg_proc JOIN pg_event_trigger e
                     ON e.evtfoid = pg_proc.oid WHERE evtname = 'headwater_ddl'";
        let owner: String = dba.query_one(owner, &[]).await.expect("a trigger").get(0);
        assert_ne!(owner, "app", "{way}");
    }
    assert!(states[0].contains("app"), "{}", states[0]);
    for state in &states[1..] {
        assert_eq!(*state, states[0]);
    }
}

/// FD-56: a database that is set up for another login says so, and what a stranger made beforehand
/// is not taken over.
#[tokio::test]
async fn fd_56_doctor_names_the_login_and_a_strangers_schema_is_not_taken_over() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let (app, dba) = login(&cluster, &database.name).await;
    let doctor = |url: &str| {
        let output = headwater(&["doctor"], Some(url));
        format!("{}{}", text(&output.stdout), text(&output.stderr))
    };
    assert!(doctor(&app).contains("this database is not set up for writes"), "{}", doctor(&app));
    let output = headwater(&["setup", "--yes"], Some(&database.url));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = doctor(&app);
    assert!(said.contains("set up for writes of another role than \"app\""), "{said}");
    assert!(said.contains("headwater setup --role \"app\""), "{said}");
    let output = headwater(&["setup", "--yes", "--role", "app"], Some(&database.url));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(!doctor(&app).contains("set up for"), "{}", doctor(&app));

    let missing = headwater(&["setup", "--print", "--role", "nobody"], Some(&database.url));
    assert!(text(&missing.stderr).contains("error[HW4301]: database role \"nobody\""));

    dba.batch_execute(
        "CREATE ROLE stranger; ALTER TABLE headwater.uploads OWNER TO stranger; \
         GRANT USAGE ON SCHEMA headwater TO stranger",
    )
    .await
    .expect("made");
    let refused = headwater(&["setup", "--yes", "--role", "app"], Some(&database.url));
    let said = text(&refused.stderr);
    assert!(
        said.contains("HW5303") && said.contains("table headwater.uploads belongs to"),
        "{said}"
    );
    // The printed script looks for itself.
    let script = "DO $do$ DECLARE";
    let printed = {
        dba.batch_execute("ALTER TABLE headwater.uploads OWNER TO app").await.expect("back");
        text(&headwater(&["setup", "--print", "--role", "app"], Some(&database.url)).stdout)
    };
    assert!(printed.contains(script));
    dba.batch_execute("ALTER TABLE headwater.uploads OWNER TO stranger").await.expect("again");
    let error = dba.batch_execute(&printed).await.expect_err("refused");
    assert!(error.as_db_error().expect("an error").message().contains("HW5303"), "{error:?}");
}

/// What the role that serves may remove goes, a superuser's event trigger with the schema that its
/// function lies in; what it may not is named with who may, as often as it is asked.
#[tokio::test]
async fn teardown_by_the_role_that_serves_removes_what_it_may_and_names_what_is_left() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let (app, dba) = login(&cluster, &database.name).await;
    let output = headwater(&["setup", "--yes", "--role", "app"], Some(&database.url));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    dba.batch_execute("CREATE PUBLICATION headwater").await.expect("a publication of a DBA");
    let left = "SELECT (SELECT count(*) FROM pg_publication) || ' ' ||
                       (SELECT count(*) FROM pg_event_trigger) || ' ' ||
                       (SELECT count(*) FROM pg_namespace WHERE nspname = 'headwater')";
    let left = async || dba.query_one(left, &[]).await.expect("asked").get::<_, String>(0);
    assert_eq!(left().await, "1 1 1");
    for _ in 0..2 {
        let output = headwater(&["teardown", "--yes"], Some(&app));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("error[HW1062]: publication \"headwater\" is left"), "{said}");
        let mend = "as its owner \"postgres\" or a superuser: DROP PUBLICATION \"headwater\";";
        assert!(said.contains(mend), "{said}");
        assert_eq!(left().await, "1 0 0", "{said}");
    }
    let output = headwater(&["teardown", "--yes"], Some(&database.url));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(left().await, "0 0 0");
    // A trigger whose function is elsewhere is its owner's to drop.
    dba.batch_execute(
        "CREATE FUNCTION mark() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
         CREATE EVENT TRIGGER headwater_ddl ON ddl_command_end EXECUTE FUNCTION mark()",
    )
    .await
    .expect("made");
    let said = text(&headwater(&["teardown", "--yes"], Some(&app)).stderr);
    assert!(said.contains("must be owner of event trigger headwater_ddl"), "{said}");
    assert!(said.contains("a superuser: DROP EVENT TRIGGER IF EXISTS headwater_ddl;"), "{said}");
}

/// A role that may not do all of it says which part, and who does the rest.
#[tokio::test]
async fn setup_by_a_role_that_may_not_make_roles_says_what_to_give_to_whom() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let (app, _dba) = login(&cluster, &database.name).await;
    let said = text(&headwater(&["setup", "--yes"], Some(&app)).stderr);
    let role = "where: statement: CREATE ROLE \"headwater_authenticated\" NOLOGIN;";
    assert!(said.contains(role) && said.contains("headwater setup --print > setup.sql"), "{said}");
}

/// FD-57: the rejected writes are published by whoever sets up, where the configuration reads them.
#[tokio::test]
async fn fd_57_rejected_writes_can_be_published_and_read_whole_by_who_serves() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let (app, dba) = login(&cluster, &database.name).await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("sync.yaml");
    std::fs::write(
        &file,
        "config:\n  edition: 3\nstreams:\n  mine:\n    auto_subscribe: true\n    query: SELECT * \
         FROM headwater.rejected_writes WHERE sub = auth.user_id()\n",
    )
    .expect("written");
    let file = file.to_str().expect("unicode");
    dba.batch_execute("CREATE PUBLICATION headwater").await.expect("a publication of a DBA");
    let setup = ["setup", "--yes", "--role", "app", "--sync-config", file];
    for _ in 0..2 {
        let output = headwater(&setup, Some(&database.url));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    let published = "SELECT tablename::text FROM pg_publication_tables WHERE pubname = 'headwater'";
    let published: String = dba.query_one(published, &[]).await.expect("published").get(0);
    assert_eq!(published, "rejected_writes");
    let app_client = connect(&app).await;
    let filtered = "SELECT row_security_active('headwater.rejected_writes')";
    assert!(!app_client.query_one(filtered, &[]).await.expect("asked").get::<_, bool>(0));
    let doctor = headwater(&["doctor", "--sync-config", file], Some(&app));
    let said = text(&doctor.stderr);
    assert!(!said.contains("HW2131") && !said.contains("HW2103"), "{said}");
}

/// FD-52: what clients need is told before the first write of a client runs into it.
#[tokio::test]
async fn fd_52_setup_doctor_and_check_list_what_the_synced_tables_lack() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client
        .batch_execute(
            "CREATE TABLE orders (id serial PRIMARY KEY, a text);
             CREATE TABLE pairs (a text, b text, PRIMARY KEY (a, b))",
        )
        .await
        .expect("made");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("sync.yaml");
    std::fs::write(
        &file,
        "config:\n  edition: 3\nstreams:\n  s:\n    auto_subscribe: true\n    queries:\n      \
         - SELECT * FROM orders\n      - SELECT a || b AS id, * FROM pairs\n",
    )
    .expect("written");
    let file = file.to_str().expect("unicode");
    let url = Some(database.url.as_str());
    let setup = text(&headwater(&["setup", "--yes", "--sync-config", file], url).stderr);
    let doctor = text(&headwater(&["doctor", "--sync-config", file], url).stdout);
    let check = headwater(&["check", file], url);
    assert_eq!(check.status.code(), Some(0), "{}", text(&check.stdout));
    for said in [setup, doctor, text(&check.stdout)] {
        for part in [
            "GRANT SELECT, INSERT, UPDATE, DELETE ON \"public\".\"orders\" TO \"headwater_authenticated\"",
            "GRANT USAGE ON SEQUENCE public.orders_id_seq",
            "ALTER TABLE \"public\".\"orders\" ENABLE ROW LEVEL SECURITY",
            "table \"pairs\" is read only for clients",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}

/// What a session has for itself leaves none.
#[tokio::test]
async fn a_change_of_a_table_leaves_a_marker_in_the_log_after_setup() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let output = headwater(&["setup", "--yes"], Some(&database.url));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let client = cluster.client(&database.name).await;
    client
        .batch_execute(
            "SELECT pg_create_logical_replication_slot('probe', 'test_decoding');
             CREATE TEMP TABLE own (id serial PRIMARY KEY, a text UNIQUE);
             CREATE TEMP VIEW shown AS SELECT id FROM own;
             CREATE INDEX ON own (id, a);
             ALTER TABLE own ADD COLUMN b text;
             CREATE TABLE t (id int PRIMARY KEY);
             ALTER TABLE t ADD COLUMN a text;
             GRANT SELECT ON t TO PUBLIC;
             CREATE TEMP TABLE copied AS SELECT * FROM t;
             DROP TABLE t",
        )
        .await
        .expect("changed");
    let sql = "SELECT count(*) FROM pg_logical_slot_get_changes('probe', NULL, NULL)
               WHERE data LIKE '%prefix: headwater_ddl%'";
    let markers: i64 = client.query_one(sql, &[]).await.expect("read").get(0);
    assert_eq!(markers, 4);
}
