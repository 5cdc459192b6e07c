//! `serve` as a process on a real source.

use hw_testkit::server::http_get;
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
        let answer = http_get(process.address(), "/admin/api/status", &[]).await.ok()?;
        answer.body.contains(r#""state":"streaming""#).then_some(())
    })
    .await;
    let metrics = http_get(process.address(), "/metrics", &[]).await.expect("answered").body;
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
        "headwater_page_memory_bytes",
        "headwater_page_memory_limit_bytes",
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
    // The one row of the table, copied, and its operation.
    assert!(metrics.contains("\nheadwater_rows_copied_total 1\n"), "{metrics}");
    assert!(metrics.contains("\nheadwater_operations_total 1\n"), "{metrics}");
    let output = tokio::process::Command::new(process.binary())
        .args(["status", "--url", &process.url()])
        .output()
        .await
        .expect("asked");
    let table = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}");
    assert!(table.contains("state          streaming\n"), "{table}");
    process.stop().await;
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
    options.environment.push(("HEADWATER_API_TOKEN".into(), "operators-token".into()));
    options.environment.push(("HEADWATER_ADMIN_LISTEN".into(), admin.to_string()));
    let mut process = HeadwaterProcess::start(options).await;
    let ask = async |address, headers: &[(&str, &str)]| {
        http_get(address, "/admin/api/status", headers).await.expect("answered").status
    };
    assert_eq!(ask(process.address(), &[]).await, 404);
    assert_eq!(ask(admin, &[]).await, 401);
    assert_eq!(ask(admin, &[("authorization", "Bearer operators-token")]).await, 200);
    process.stop().await;
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
    process.until_log("the new sync configuration is built").await;
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
