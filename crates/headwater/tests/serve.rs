//! `serve` as a process on a real source.

use hw_testkit::disk::{SmallDisk, fill};
use hw_testkit::oracle::{Line, SyncClient};
use hw_testkit::server::{API_TOKEN, OPERATOR, http_get};
use hw_testkit::{
    Cluster, ClusterOptions, HeadwaterProcess, ProcessOptions, TestDatabase, poll_until,
};

const SYNC: &str = "config:\n  edition: 3\nstreams:\n  all:\n    auto_subscribe: true\n    query: SELECT * FROM t\n";

struct Rig {
    cluster: Cluster,
    database: TestDatabase,
    directory: tempfile::TempDir,
}

impl Rig {
    async fn start() -> Rig {
        let cluster = Cluster::start_with(ClusterOptions {
            settings: &[("max_slot_wal_keep_size", "20GB")],
            ..ClusterOptions::default()
        });
        let database = cluster.create_database().await;
        let client = cluster.client(&database.name).await;
        client
            .batch_execute(
                "CREATE TABLE t (id text PRIMARY KEY, a text); INSERT INTO t VALUES ('1', 'x')",
            )
            .await
            .expect("made");
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("sync.yaml"), SYNC).expect("written");
        Rig { cluster, database, directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn options(&self) -> ProcessOptions {
        ProcessOptions {
            binary: env!("CARGO_BIN_EXE_headwater").into(),
            arguments: vec!["serve".into()],
            environment: vec![
                ("DATABASE_URL".into(), self.database.url.clone()),
                ("HEADWATER_DATA_DIR".into(), self.path("data")),
                ("HEADWATER_SYNC_CONFIG".into(), self.path("sync.yaml")),
                ("HEADWATER_JWT_SECRET".into(), "a secret of thirty-two characters".into()),
            ],
            allowed_log: Vec::new(),
        }
    }
}

fn without(mut options: ProcessOptions, name: &str) -> ProcessOptions {
    options.environment.retain(|(known, _)| known != name);
    options
}

#[tokio::test]
async fn without_secret_and_key_set_it_refuses_to_start() {
    let rig = Rig::start().await;
    let mut options = without(rig.options(), "HEADWATER_JWT_SECRET");
    options.allowed_log.push("HW4001".into());
    let mut process = HeadwaterProcess::spawn(options);
    assert_eq!(process.wait_exit().await.code(), Some(2));
    assert!(process.log().contains(r#""code":"HW4001""#), "{}", process.log());
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() {
    let rig = Rig::start().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let mut options = rig.options();
    options.arguments.extend(["--listen".into(), address.to_string()]);
    options.allowed_log.push("HW1020".into());
    let mut process = HeadwaterProcess::spawn(options);
    assert_eq!(process.wait_exit().await.code(), Some(2));
    let line = process.until_log("HW1020").await;
    let line: serde_json::Value = serde_json::from_str(&line).expect("one object a line");
    assert_eq!(line["message"], format!("the address {address} is in use"));
    assert_eq!(
        line["mend"],
        "stop what uses it, or choose another with --listen or HEADWATER_LISTEN"
    );
}

#[tokio::test]
async fn an_invalid_sync_configuration_stops_a_first_start_with_its_excerpt() {
    let rig = Rig::start().await;
    std::fs::write(rig.path("sync.yaml"), "streams:\n  a:\n    qery: SELECT 1\n").expect("written");
    let mut options = rig.options();
    options.allowed_log.push("\"code\":\"HW1".into());
    let mut process = HeadwaterProcess::spawn(options);
    assert_eq!(process.wait_exit().await.code(), Some(2));
    let line = process.until_log("HW1221").await;
    let line: serde_json::Value = serde_json::from_str(&line).expect("one object a line");
    let place = line["where"].as_str().expect("a place");
    assert!(place.contains("sync.yaml:2:3"), "{place}");
    assert_eq!(line["excerpt"], "         2 |   a:\n           |   ^^\n",);
}

#[tokio::test]
async fn it_serves_answers_its_operator_and_stops_on_sigterm() {
    let rig = Rig::start().await;
    let mut process = HeadwaterProcess::start(rig.options()).await;
    poll_until("it streams", || async {
        let answer = http_get(process.address(), "/admin/api/status", &OPERATOR).await.ok()?;
        answer.body.contains(r#""state":"streaming""#).then_some(())
    })
    .await;
    let metrics = http_get(process.address(), "/metrics", &OPERATOR).await.expect("answered").body;
    // The page is of `dev` alone (FD-69); whoever looks is told what this is.
    let root =
        http_get(process.address(), "/", &[("accept", "text/html")]).await.expect("answered");
    assert!(root.body.starts_with("Headwater ") && root.body.ends_with(".\n"), "{}", root.body);
    // Issue 6: lag in bytes and seconds, rows and operations applied, checkpoints, clients, bytes
    // sent, store size, bounds in use, retained log.
    for name in [
        "headwater_replication_lag_bytes",
        "headwater_replication_lag_seconds",
        "headwater_rows_replicated_total",
        "headwater_operations_total",
        "headwater_checkpoints_total",
        "headwater_sync_clients",
        "headwater_sync_sent_bytes_total",
        "headwater_store_bytes",
        "headwater_clients",
        "headwater_clients_limit",
        "headwater_store_memtable_bytes",
        "headwater_store_memtable_limit_bytes",
        "headwater_spool_bytes",
        "headwater_spool_limit_bytes",
        "headwater_queue_memory_bytes",
        "headwater_queue_memory_limit_bytes",
        "headwater_retained_log_bytes",
        "headwater_retained_log_limit_bytes",
        "headwater_checkpoint_op_id",
    ] {
        assert!(metrics.contains(&format!("\n{name} ")), "{name} in\n{metrics}");
    }
    for line in metrics.lines() {
        if let Some(named) = line.strip_prefix("# TYPE ") {
            let name = named.split(' ').next().expect("a name");
            assert!(metrics.contains(&format!("# HELP {name} ")), "{name} is described");
        }
    }
    assert!(metrics.contains("\nheadwater_bound_used{"), "{metrics}");
    check_metrics_page(&metrics);
    // The one row of the table, copied, and its operation.
    assert!(metrics.contains("\nheadwater_rows_copied_total 1\n"), "{metrics}");
    assert!(metrics.contains("\nheadwater_operations_total 1\n"), "{metrics}");
    let output = tokio::process::Command::new(process.binary())
        .args(["status", "--url", &process.url()])
        .env("HEADWATER_API_TOKEN", API_TOKEN)
        .output()
        .await
        .expect("asked");
    let table = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}");
    assert!(table.contains("state          streaming\n"), "{table}");
    process.stop().await;
}

/// Compares the list of docs/operations.md with what a server exports (FD-71).
/// `HEADWATER_WRITE_PAGES=1` writes it instead.
fn check_metrics_page(metrics: &str) {
    const BEGIN: &str = "<!-- metrics: made from what a server exports; a test compares -->\n";
    const END: &str = "<!-- end of metrics -->";
    let mut kinds = std::collections::BTreeMap::new();
    let mut table = String::from("\n| name | kind | meaning |\n| --- | --- | --- |\n");
    for line in metrics.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            kinds.insert(name.to_owned(), kind.to_owned());
        }
    }
    let about = metrics.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
    let about: std::collections::BTreeMap<&str, &str> = about.collect();
    for (name, kind) in &kinds {
        table += &format!("| `{name}` | {kind} | {} |\n", about[name.as_str()]);
    }
    table.push('\n');
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
    let page = std::fs::read_to_string(path).expect("there is a page");
    let (before, rest) = page.split_once(BEGIN).expect("the list begins");
    let (found, after) = rest.split_once(END).expect("the list ends");
    if std::env::var_os("HEADWATER_WRITE_PAGES").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{table}{END}{after}")).expect("written");
        return;
    }
    assert!(
        found == table,
        "docs/operations.md differs from what a server exports; write it anew with \
         HEADWATER_WRITE_PAGES=1 cargo nextest run -p headwater it_serves_answers\n{table}"
    );
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_first_copy_is_as_graceful_as_any() {
    let rig = Rig::start().await;
    // The copy waits for this lock, for as long as it is held.
    let holder = rig.cluster.client(&rig.database.name).await;
    holder.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let watcher = rig.cluster.client(&rig.database.name).await;
    let mut process = HeadwaterProcess::spawn(rig.options());
    poll_until("the copy waits", || async {
        let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 't'::regclass";
        let waiting: i64 = watcher.query_one(sql, &[]).await.expect("asked").get(0);
        (waiting > 0).then_some(())
    })
    .await;
    process.stop().await;
    // Neither of the two patiences of a stop, together under five seconds, was used up.
    let said = process.log();
    for forced in ["did not end by themselves", "comes again at the next start"] {
        assert!(!said.contains(forced), "{said}");
    }
    holder.batch_execute("COMMIT").await.expect("unlocked");
    process.spawn_again();
    process.until_ready().await;
    process.stop().await;
}

#[tokio::test]
async fn with_an_api_token_the_figures_need_it_and_a_port_of_their_own_is_honoured() {
    let rig = Rig::start().await;
    let admin = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound")
    };
    let mut options = rig.options();
    options.environment.push(("HEADWATER_ADMIN_LISTEN".into(), admin.to_string()));
    let mut process = HeadwaterProcess::start(options).await;
    let ask = async |address, headers: &[(&str, &str)]| {
        http_get(address, "/admin/api/status", headers).await.expect("answered").status
    };
    assert_eq!(ask(process.address(), &[]).await, 404);
    assert_eq!(ask(admin, &[]).await, 401);
    assert_eq!(ask(admin, &OPERATOR).await, 200);
    // Whoever asks whether the process is alive has no token.
    for address in [admin, process.address()] {
        for path in ["/probes/startup", "/probes/readiness", "/probes/liveness"] {
            assert_eq!(http_get(address, path, &[]).await.expect("answered").status, 200, "{path}");
        }
    }
    process.stop().await;
}

/// What a proxy on the same machine passes on without adding a header (nginx with nothing but
/// `proxy_pass`) looks like a request of that machine, so nothing tells them apart.
#[tokio::test]
async fn fd_47_without_a_token_nothing_for_the_operator_is_on_the_port_of_the_clients() {
    let rig = Rig::start().await;
    let mut bare = rig.options();
    bare.environment.push(("HEADWATER_API_TOKEN".into(), String::new()));
    let mut process = HeadwaterProcess::start(bare.clone()).await;
    for path in ["/admin/api/status", "/metrics"] {
        let answer = http_get(process.address(), path, &[]).await.expect("answered");
        assert_eq!(answer.status, 403, "{path}");
        assert!(answer.body.contains("HW4021"), "{path}: {}", answer.body);
    }
    let made = http_get(process.address(), "/admin/api/dev-token", &[]).await.expect("answered");
    assert_eq!(made.status, 404);
    process.stop().await;

    // With a token metrics need it as status does.
    let mut process = HeadwaterProcess::start(rig.options()).await;
    for (headers, status) in [(&[][..], 401), (&OPERATOR, 200)] {
        for path in ["/admin/api/status", "/metrics"] {
            let answer = http_get(process.address(), path, headers).await.expect("answered");
            assert_eq!(answer.status, status, "{path}");
        }
    }
    process.stop().await;

    // On a port of their own they are for those who reach it.
    let admin = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound")
    };
    let mut own = bare;
    own.environment.push(("HEADWATER_ADMIN_LISTEN".into(), admin.to_string()));
    let mut process = HeadwaterProcess::start(own).await;
    for path in ["/admin/api/status", "/metrics"] {
        let here = http_get(admin, path, &[]).await.expect("answered");
        let there = http_get(process.address(), path, &[]).await.expect("answered");
        assert_eq!((here.status, there.status), (200, 404), "{path}");
    }
    process.stop().await;
}

/// The directory holds rows of all users, and the key that signs markers.
#[tokio::test]
async fn fd_44_nothing_in_the_data_directory_is_open_to_others_and_doctor_names_an_open_one() {
    use std::os::unix::fs::PermissionsExt as _;
    let rig = Rig::start().await;
    let mut process = HeadwaterProcess::start(rig.options()).await;
    process.stop().await;
    let mut open = Vec::new();
    let mut waiting = vec![std::path::PathBuf::from(rig.path("data"))];
    while let Some(path) = waiting.pop() {
        let metadata = std::fs::symlink_metadata(&path).expect("readable");
        if metadata.permissions().mode() & 0o077 != 0 {
            open.push(path.clone());
        }
        if metadata.is_dir() {
            let entries = std::fs::read_dir(&path).expect("readable");
            waiting.extend(entries.map(|entry| entry.expect("readable").path()));
        }
    }
    assert_eq!(open, Vec::<std::path::PathBuf>::new());
    std::fs::set_permissions(rig.path("data"), std::fs::Permissions::from_mode(0o755))
        .expect("opened");
    let doctor = std::process::Command::new(env!("CARGO_BIN_EXE_headwater"))
        .arg("doctor")
        .envs(rig.options().environment)
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&doctor.stderr);
    assert!(said.contains("warning[HW1061]: the data directory is open to other users"), "{said}");
    assert!(said.contains(&format!("chmod -R go= '{}'", rig.path("data"))), "{said}");
}

/// A slot that nobody reads fills the disk of the source.
#[tokio::test]
async fn fd_71_teardown_removes_what_a_server_left_and_nothing_that_one_uses() {
    let rig = Rig::start().await;
    let run = |arguments: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_headwater"))
            .args(arguments)
            .envs(rig.options().environment)
            .output()
            .expect("runs")
    };
    let left = async || {
        let client = rig.cluster.client(&rig.database.name).await;
        let sql = "SELECT (SELECT count(*) FROM pg_replication_slots), \
                   (SELECT count(*) FROM pg_publication), \
                   (SELECT count(*) FROM pg_event_trigger), \
                   (SELECT count(*) FROM pg_namespace WHERE nspname = 'headwater')";
        let row = client.query_one(sql, &[]).await.expect("asked");
        [0, 1, 2, 3].map(|column| row.get::<_, i64>(column))
    };
    assert!(run(&["setup", "--yes"]).status.success());
    let mut options = rig.options();
    // Set up, but without rights for clients to write.
    options.allowed_log.push("HW4304".into());
    let mut process = HeadwaterProcess::start(options).await;
    let client = rig.cluster.client(&rig.database.name).await;
    let readers = async || {
        let sql = "SELECT count(*) FROM pg_replication_slots WHERE active";
        client.query_one(sql, &[]).await.expect("asked").get::<_, i64>(0)
    };
    poll_until("the slot is read", || async { (readers().await == 1).then_some(()) }).await;
    let refused = run(&["teardown", "--yes"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("error[HW1060]"), "{said}");
    // What is only shown may be shown while the server goes on.
    let printed = run(&["teardown", "--print"]);
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    assert!(String::from_utf8_lossy(&printed.stdout).contains("DROP SCHEMA headwater CASCADE;"));
    let said = String::from_utf8_lossy(&printed.stderr);
    assert!(said.contains("a server reads slot") && said.contains("stop it before"), "{said}");
    assert_eq!(left().await, [1, 1, 1, 1]);
    process.stop().await;
    poll_until("the slot is free", || async { (readers().await == 0).then_some(()) }).await;

    let printed = run(&["teardown", "--print"]);
    let script = String::from_utf8_lossy(&printed.stdout);
    assert!(script.contains("pg_drop_replication_slot('headwater_"), "{script}");
    assert!(script.contains("DROP SCHEMA headwater CASCADE;"), "{script}");
    assert_eq!(left().await, [1, 1, 1, 1], "printing changes nothing");

    let done = run(&["teardown", "--yes"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(left().await, [0, 0, 0, 0]);
    let again = run(&["teardown", "--yes"]);
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success() && said.contains("nothing of instance"), "{said}");
    // Whoever begins anew waits for nobody.
    let mut options = without(rig.options(), "HEADWATER_DATA_DIR");
    options.environment.push(("HEADWATER_DATA_DIR".into(), rig.path("other")));
    HeadwaterProcess::start(options).await.stop().await;
}

#[tokio::test]
async fn sighup_takes_a_new_sync_configuration_and_an_invalid_one_leaves_the_old_serving() {
    let rig = Rig::start().await;
    let mut options = rig.options();
    options.allowed_log.extend(["\"code\":\"HW1".into(), "the old one serves on".into()]);
    let mut process = HeadwaterProcess::start(options).await;
    std::fs::write(rig.path("sync.yaml"), "streams: 7\n").expect("written");
    process.signal(libc::SIGHUP);
    process.until_log("the old one serves on").await;
    let answer = http_get(process.address(), "/probes/readiness", &[]).await.expect("answered");
    assert_eq!(answer.status, 200);
    std::fs::write(rig.path("sync.yaml"), SYNC.replace("all:", "every:")).expect("written");
    process.signal(libc::SIGHUP);
    poll_until("the new one is served", || async {
        let served = process.log().matches("the sync configuration is served").count();
        (served == 2).then_some(())
    })
    .await;
    // It was read before it was served (FD-61).
    let said = process.log();
    assert!(said.rfind("is read again") < said.rfind("is served"), "{said}");
    process.stop().await;
}

/// FD-61: a reload that comes while the program starts is none that ends it.
#[tokio::test]
async fn sighup_before_the_server_listens_does_not_end_it() {
    let rig = Rig::start().await;
    // The program waits here for its configuration, before it has done anything else.
    let pipe = rig.path("headwater.yaml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    let mut options = rig.options();
    options.arguments.extend(["--config".into(), pipe.clone()]);
    let mut process = HeadwaterProcess::spawn(options);
    // Opening it waits for a reader: the program has begun.
    let file = tokio::fs::OpenOptions::new().write(true).open(&pipe).await.expect("opened");
    process.signal(libc::SIGHUP);
    drop(file);
    process.until_ready().await;
    process.stop().await;
}

/// The probes: startup, liveness, readiness. None where nobody answers.
async fn probes(process: &HeadwaterProcess) -> [Option<u16>; 3] {
    let ask = async |name: &str| {
        let path = format!("/probes/{name}");
        let answer = http_get(process.address(), &path, &[]).await;
        answer.ok().map(|answer| answer.status)
    };
    [ask("startup").await, ask("liveness").await, ask("readiness").await]
}

/// FD-60: to finish what was under way at a crash may take longer than an orchestrator waits for a process that
/// answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn fd_60_probes_are_answered_and_a_stop_is_heard_while_the_engine_is_opened() {
    let rig = Rig::start().await;
    let mut options = rig.options();
    options.environment.push(("HEADWATER_FAILPOINT".into(), "writer::open:1:hang".into()));
    options.allowed_log.push("failpoint".into());
    let mut process = HeadwaterProcess::spawn(options);
    process.until_log("failpoint reached").await;
    assert_eq!(probes(&process).await, [Some(400), Some(200), Some(400)]);
    let answer = http_get(process.address(), "/write-checkpoint2.json", &[]).await;
    let answer = answer.expect("answered");
    assert!(answer.status == 503 && answer.body.contains("Server is starting"), "{answer:?}");
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait_exit().await.code(), Some(0), "{}", process.log());
    // Who asked while it was opened is not remembered by who serves then.
    process.set_environment("HEADWATER_FAILPOINT", "");
    process.spawn_again();
    process.until_ready().await;
    assert_eq!(probes(&process).await, [Some(200); 3]);
    process.stop().await;
}

/// FD-60: a writer that hangs in the middle of its work.
#[tokio::test(flavor = "multi_thread")]
async fn fd_60_liveness_fails_when_the_writer_stands_still() {
    let rig = Rig::start().await;
    let mut process = HeadwaterProcess::start(rig.options()).await;
    process.stop().await;
    process.set_environment("HEADWATER_FAILPOINT", "sequencer::signal:20:hang");
    process.allow_log("failpoint");
    process.spawn_again();
    process.until_ready().await;
    process.until_log("failpoint reached").await;
    poll_until("its supervisor is told", || async {
        (probes(&process).await[1] == Some(400)).then_some(())
    })
    .await;
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait_exit().await.code(), Some(0), "{}", process.log());
}

/// A server whose disk is full, behind the start and a change that did not fit.
async fn full(rig: &Rig) -> Option<(HeadwaterProcess, std::path::PathBuf, SmallDisk)> {
    let disk = SmallDisk::mount(64)?;
    let mut options = without(rig.options(), "HEADWATER_DATA_DIR");
    let data = disk.path("data").display().to_string();
    options.environment.push(("HEADWATER_DATA_DIR".into(), data));
    options.allowed_log.extend(["HW3", "StorageFull", "full", "store"].map(String::from));
    let process = HeadwaterProcess::start(options).await;
    let ballast = disk.path("ballast");
    fill(&ballast, 300 << 10);
    let client = rig.cluster.client(&rig.database.name).await;
    let bytes =
        "INSERT INTO t SELECT i::text, (SELECT string_agg(md5(random()::text || i || j), '')
                   FROM generate_series(1, 20) j) FROM generate_series(100, 4100) i";
    client.batch_execute(bytes).await.expect("written");
    process.until_log("it is written again when").await;
    Some((process, ballast, disk))
}

/// F-53: a configuration that the store cannot take over keeps nobody from stopping the server, with all that its
/// other parts have to end.
#[tokio::test(flavor = "multi_thread")]
async fn f_53_a_reload_that_waits_for_a_full_disk_keeps_nobody_from_stopping_the_server() {
    let rig = Rig::start().await;
    let (mut process, _ballast, _disk) = hw_testkit::needs!(full(&rig).await);
    std::fs::write(rig.path("sync.yaml"), SYNC.replace("all:", "every:")).expect("written");
    process.signal(libc::SIGHUP);
    process.until_log("the sync configuration is read again").await;
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait_exit().await.code(), Some(0), "{}", process.log());
    assert!(process.log().contains("stopping"), "{}", process.log());
}

/// F-53: it is not forgotten either; of several the newest one is served.
#[tokio::test(flavor = "multi_thread")]
async fn f_53_the_newest_configuration_of_a_full_disk_is_served_when_it_is_written_again() {
    let rig = Rig::start().await;
    let (mut process, ballast, _disk) = hw_testkit::needs!(full(&rig).await);
    let reads = |process: &HeadwaterProcess| process.log().matches("is read again").count();
    for (number, name) in ["older:", "newest:"].into_iter().enumerate() {
        std::fs::write(rig.path("sync.yaml"), SYNC.replace("all:", name)).expect("written");
        process.signal(libc::SIGHUP);
        poll_until("it is read", || async { (reads(&process) > number).then_some(()) }).await;
    }
    // One that is refused takes nobody's place.
    process.allow_log("\"code\":\"HW1");
    process.allow_log("the old one serves on");
    std::fs::write(rig.path("sync.yaml"), "streams: 7\n").expect("written");
    process.signal(libc::SIGHUP);
    process.until_log("the old one serves on").await;
    std::fs::remove_file(&ballast).expect("removed");
    let secret = hw_auth::Secret::parse("a secret of thirty-two characters").expect("a secret");
    let claims = serde_json::Map::new();
    let clock = hw_auth::Clock::system();
    let hour = std::time::Duration::from_secs(3600);
    let token = hw_auth::token::issue(&secret, "ada", hour, &claims, &[], &clock);
    poll_until("the newest one is served", || async {
        let mut client = SyncClient::new(&token, "client");
        client.connect(process.address()).await.ok()?;
        while client.step().await.ok()? != Line::Complete {}
        let names = client.bucket_names();
        assert!(!names.iter().any(|name| name.contains("older")), "{names:?}");
        names.iter().any(|name| name.contains("newest")).then_some(())
    })
    .await;
    process.stop().await;
}

#[tokio::test]
async fn no_secret_appears_in_anything_that_a_run_says() {
    let rig = Rig::start().await;
    let client = rig.cluster.client(&rig.database.name).await;
    client
        .batch_execute("CREATE ROLE shop SUPERUSER LOGIN PASSWORD 'pw-4d1f77'")
        .await
        .expect("made");
    let secrets = ["pw-4d1f77", "jwt-93ab01-secret-of-the-test-run", "api-77e0c2-token"];
    let mut options = rig.options();
    options
        .environment
        .retain(|(name, _)| name != "DATABASE_URL" && name != "HEADWATER_JWT_SECRET");
    options.environment.extend([
        ("DATABASE_URL".into(), rig.cluster.url_as("shop", Some(secrets[0]), &rig.database.name)),
        ("HEADWATER_JWT_SECRET".into(), secrets[1].into()),
        ("HEADWATER_API_TOKEN".into(), secrets[2].into()),
        ("HEADWATER_LOG".into(), "trace".into()),
    ]);
    // Everything that goes wrong here is expected: only what is said counts.
    options.allowed_log.push(String::new());
    let mut process = HeadwaterProcess::start(options).await;
    let token = std::process::Command::new(process.binary())
        .args(["token", "--sub", "u"])
        .env("HEADWATER_JWT_SECRET", secrets[1])
        .output()
        .expect("made");
    let token = String::from_utf8_lossy(&token.stdout).trim().to_owned();
    let bearer = format!("Bearer {token}");
    for authorization in [bearer.as_str(), "Bearer api-77e0c2-token", "Bearer nonsense"] {
        for path in ["/write-checkpoint2.json?client_id=c", "/admin/api/status", "/sync/stream"] {
            let headers = [("authorization", authorization)];
            http_get(process.address(), path, &headers).await.expect("answered");
        }
    }
    rig.cluster.stop(hw_testkit::Stop::Fast);
    process.until_log("source:").await;
    rig.cluster.start_again();
    process.signal(libc::SIGTERM);
    process.wait_exit().await;
    let said = process.log();
    assert!(said.len() > 1000, "the run said something");
    for secret in secrets.iter().copied().chain([token.as_str()]) {
        let line = said.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}

/// E-4: what a table shows beside its own rows is not told under its name, so it leaves while another inherits from it.
#[tokio::test]
async fn e_4_rows_leave_while_another_table_inherits_from_theirs() {
    let rig = Rig::start().await;
    let sql = rig.cluster.client(&rig.database.name).await;
    let mut options = rig.options();
    let told = ["HW2118", "the table's description changed", "the table leaves the replica"];
    options.allowed_log.extend(told.map(str::to_owned));
    let mut process = HeadwaterProcess::start(options).await;
    let secret = hw_auth::Secret::parse("a secret of thirty-two characters").expect("a secret");
    let hour = std::time::Duration::from_secs(3600);
    let clock = hw_auth::Clock::system();
    let token = hw_auth::token::issue(&secret, "ada", hour, &serde_json::Map::new(), &[], &clock);
    let mut client = SyncClient::new(&token, "ada");
    client.accepts_anew = true;
    client.connect(process.address()).await.expect("connected");
    let mut holds = async |expected: &[&str]| loop {
        let rows: Vec<String> = client.rows().keys().map(|(_, id)| id.clone()).collect();
        if rows == *expected {
            break;
        }
        client.step().await.expect("a line");
    };
    holds(&["1"]).await;
    sql.batch_execute("CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (t)").await.expect("made");
    holds(&[]).await;
    process.until_log("public.t shows the rows of public.heir as its own").await;
    sql.batch_execute("DROP TABLE heir; INSERT INTO t VALUES ('2', 'y')").await.expect("dropped");
    holds(&["1", "2"]).await;
    process.stop().await;
}
