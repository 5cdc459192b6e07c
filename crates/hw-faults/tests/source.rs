//! The source misbehaves: it stops, crashes, loses the slot, has none to give, makes us wait, is
//! idle.

use std::process::{Child, Command, Stdio};

use hw_testkit::server::http_get;
use hw_testkit::{HeadwaterProcess, Stop, poll_until, wait};

use crate::rig::{self, CONFIG, Rig, SCHEMA, caught_up, client};

const SLOT: &str = "SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'headwater%'";

/// Complaints that a source which is away is worth.
const AWAY: &[&str] = &["source:", "HW2", "the source"];

/// F-9, P6: reads go on while Postgres is away, somebody is told, and it is followed again.
#[tokio::test(flavor = "multi_thread")]
async fn f_9_postgres_stops_and_starts_reads_go_on_meanwhile() {
    let mut rig = Rig::new(SCHEMA, CONFIG).await;
    let mut server = HeadwaterProcess::start(rig::allowing(rig.options(), AWAY)).await;
    let mut amy = client("amy");
    rig.check(&mut amy, &server, "amy").await;
    rig.cluster.stop(Stop::Fast);
    rig::until_status("somebody is told", &server, |s| {
        s["state"] != "streaming" && !s["trouble"].is_null()
    })
    .await;
    // FD-61: how much there is behind us nobody knows, and how long ago we knew grows.
    rig::until_status("nobody knows how far behind it is", &server, |s| {
        s["source"]["lag_bytes"].is_null() && s["source"]["lag_seconds"].as_f64() > Some(0.0)
    })
    .await;
    let lag = async || {
        rig::status(&server).await.and_then(|status| status["source"]["lag_seconds"].as_f64())
    };
    let first = lag().await.expect("it is known");
    poll_until("the lag grows", || async { lag().await.filter(|now| *now > first) }).await;
    let mut reader = client("amy");
    let read = reader.follow_until(server.address(), |reader| reader.completed > 0);
    wait::within_limit("what is there is read", read).await.expect("read");
    assert_eq!(reader.table("todos"), amy.table("todos"));
    rig.cluster.start_again();
    rig.sql = rig.cluster.client(&rig.database.name).await;
    rig.execute("INSERT INTO todos VALUES ('back', 'l1', 'x', 1)").await;
    rig.check(&mut amy, &server, "amy").await;
    server.stop().await;
}

/// F-10: a crash of Postgres; what its recovery rolls back was never shown.
#[tokio::test(flavor = "multi_thread")]
async fn f_10_postgres_crashes_what_recovery_rolls_back_was_never_shown() {
    let cluster = rig::cluster_with(&[("logical_decoding_work_mem", "64kB")]);
    let mut rig = Rig::on(cluster, SCHEMA, CONFIG).await;
    let mut server = HeadwaterProcess::start(rig::allowing(rig.options(), AWAY)).await;
    let mut amy = client("amy");
    rig.check(&mut amy, &server, "amy").await;
    for round in 0..3 {
        // Large enough to be sent before its end, and never ended.
        let open = rig.cluster.client(&rig.database.name).await;
        open.batch_execute(&format!(
            "BEGIN; UPDATE todos SET body = 'never'; INSERT INTO todos
             SELECT 'never{round}-' || i, 'l1', repeat('n', 100), i FROM generate_series(1, 3000) i"
        ))
        .await
        .expect("open");
        let lazy = format!(
            "SET synchronous_commit = off; INSERT INTO todos VALUES ('lazy{round}', 'l1', 'x', 1);
             RESET synchronous_commit"
        );
        rig.execute(&lazy).await;
        rig.cluster.stop(Stop::Immediate);
        rig.cluster.start_again();
        rig.sql = rig.cluster.client(&rig.database.name).await;
        rig.execute(&format!("INSERT INTO todos VALUES ('back{round}', 'l1', 'x', 1)")).await;
        rig.check(&mut amy, &server, "amy").await;
        let never = |row: &serde_json::Value| row["body"] == "never";
        assert!(!amy.table("todos").values().any(never));
    }
    server.stop().await;
}

/// F-14: loud, compared, and only differences are sent.
#[tokio::test(flavor = "multi_thread")]
async fn f_14_a_slot_dropped_by_hand_is_noticed_and_only_differences_are_sent() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let loud = "the source cannot be followed from the stored position";
    let mut server = HeadwaterProcess::start(rig::allowing(rig.options(), &[loud])).await;
    let mut amy = client("amy");
    rig.check(&mut amy, &server, "amy").await;
    let received = amy.operations;
    server.kill();
    poll_until("the slot is free and dropped", || async {
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                    WHERE slot_name LIKE 'headwater%' AND NOT active";
        rig.sql.query(drop, &[]).await.ok().filter(|rows| rows.len() == 1).map(drop_rows)
    })
    .await;
    rig.execute(
        "DELETE FROM todos WHERE id = 't4'; INSERT INTO todos VALUES ('hole', 'l1', 'x', 1);
         UPDATE todos SET n = 0 WHERE id = 't8'",
    )
    .await;
    server.spawn_again();
    server.until_log(loud).await;
    caught_up(&mut amy, &server).await;
    assert_eq!(amy.operations, received + 3, "differences and nothing else");
    rig.check(&mut amy, &server, "amy").await;
    server.stop().await;
}

fn drop_rows(_: Vec<tokio_postgres::Row>) {}

/// F-16: the second waits and says for whom; it takes over when the first dies, above everything
/// that the first gave.
#[tokio::test(flavor = "multi_thread")]
async fn f_16_a_second_server_on_the_slot_waits_and_takes_over() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let mut first = rig.start().await;
    let mut amy = client("amy");
    rig.check(&mut amy, &first, "amy").await;
    let mut options = rig::with(rig.options(), "HEADWATER_DATA_DIR", &rig.path("other"));
    options.arguments.push("--take-over".into());
    let allowed = &["HW2", "a slot of a store that is gone"];
    let mut second = HeadwaterProcess::spawn(rig::allowing(options, allowed));
    rig::until_status("the second waits", &second, |status| {
        status["state"] == "waiting" && !status["trouble"].is_null()
    })
    .await;
    let pid = second.pid();
    let holder = rig.ask("SELECT active_pid FROM pg_replication_slots").await.expect("held");
    let report = rig::status(&second).await.expect("a report");
    let trouble = report["trouble"].as_str().unwrap_or_default();
    assert!(trouble.contains(&holder), "it names the process {holder}: {trouble}");
    assert!(trouble.contains("HW2120"), "{trouble}");
    second.until_log("\"code\":\"HW2120\"").await;
    // One that nobody told to take over has to be mended by somebody.
    let options = rig::with(rig.options(), "HEADWATER_DATA_DIR", &rig.path("third"));
    let third = HeadwaterProcess::spawn(rig::allowing(options, &["HW3052"]));
    rig::until_status("the third waits", &third, |status| {
        status["trouble"].as_str().is_some_and(|why| why.contains("HW3052"))
    })
    .await;
    third.until_log("\"code\":\"HW3052\"").await;
    drop(third);
    rig.execute("UPDATE todos SET n = 7 WHERE id = 't4'").await;
    rig.check(&mut amy, &first, "amy").await;
    let given = amy.last_op();
    first.kill();
    rig.execute("UPDATE todos SET n = 8 WHERE id = 't8'").await;
    second.until_ready().await;
    assert_eq!(second.pid(), pid, "no crash loop");
    let mut other = client("amy");
    rig.check(&mut other, &second, "amy").await;
    assert!(other.last_op() > given, "E-3: {} is not above {given}", other.last_op());
    second.stop().await;
}

/// F-17: no slot left; a clear error, retries, no orphans.
#[tokio::test(flavor = "multi_thread")]
async fn f_17_slots_exhausted_are_named_and_waited_for() {
    let cluster = rig::cluster_with(&[("max_replication_slots", "1")]);
    let rig = Rig::on(cluster, SCHEMA, CONFIG).await;
    rig.execute("SELECT pg_create_physical_replication_slot('taken')").await;
    let mut server = HeadwaterProcess::spawn(rig::allowing(rig.options(), &["HW2", "slots"]));
    rig::until_status("it says what is missing", &server, |status| {
        status["trouble"].as_str().is_some_and(|text| text.contains("replication slots"))
    })
    .await;
    let count = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(rig.ask(count).await.as_deref(), Some("1"));
    rig.execute("SELECT pg_drop_replication_slot('taken')").await;
    server.until_ready().await;
    let mut amy = client("amy");
    rig.check(&mut amy, &server, "amy").await;
    assert_eq!(rig.ask(count).await.as_deref(), Some("1"), "no orphans");
    server.stop().await;
}

/// Sessions that take walsenders.
struct Senders(Vec<Child>);

impl Drop for Senders {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// F-17: no walsender left.
#[tokio::test(flavor = "multi_thread")]
async fn f_17_walsenders_exhausted_are_named_and_waited_for() {
    let cluster = rig::cluster_with(&[("max_wal_senders", "2")]);
    let rig = Rig::on(cluster, SCHEMA, CONFIG).await;
    let psql = rig.cluster.bin_dir().join("psql");
    let psql = hw_testkit::needs!(psql.exists().then_some(psql), "psql beside this Postgres");
    let take = || {
        let mut command = Command::new(&psql);
        command.arg(format!("{}?replication=database", rig.database.url));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("psql starts")
    };
    let senders = Senders((0..2).map(|_| take()).collect());
    poll_until("both walsenders are taken", || async {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'";
        rig.ask(sql).await.filter(|count| count == "2").map(drop)
    })
    .await;
    let mut server = HeadwaterProcess::spawn(rig::allowing(
        rig.options(),
        &["HW2", "walsender", "max_wal_senders"],
    ));
    rig::until_status("it says what is missing", &server, |status| {
        status["trouble"].as_str().is_some_and(|text| text.contains("walsenders"))
    })
    .await;
    assert_eq!(rig.ask("SELECT count(*) FROM pg_replication_slots").await.as_deref(), Some("0"));
    drop(senders);
    server.until_ready().await;
    let mut amy = client("amy");
    rig.check(&mut amy, &server, "amy").await;
    server.stop().await;
}

/// F-18: a slot cannot be made while an older transaction is open.
#[tokio::test(flavor = "multi_thread")]
async fn f_18_an_idle_transaction_that_blocks_the_slot_is_named_and_waited_for() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let open = rig.cluster.client(&rig.database.name).await;
    open.batch_execute("BEGIN; INSERT INTO todos VALUES ('open', 'l1', 'x', 1)")
        .await
        .expect("open");
    let pid = rig::ask(&open, "SELECT pg_backend_pid()").await.expect("a pid");
    let mut server = HeadwaterProcess::spawn(rig::allowing(rig.options(), &["HW2"]));
    rig::until_status("it says who blocks", &server, |status| {
        status["trouble"].as_str().is_some_and(|text| text.contains(&pid))
    })
    .await;
    let health = http_get(server.address(), "/probes/liveness", &[]).await.expect("answered");
    assert_eq!(health.status, 200);
    open.batch_execute("COMMIT").await.expect("ended");
    server.until_ready().await;
    let mut amy = client("amy");
    rig.check(&mut amy, &server, "amy").await;
    assert!(amy.table("todos").contains_key("open"));
    server.stop().await;
}

/// E-8, F-68 in short: a busy database whose published tables are idle; the slot advances.
#[tokio::test(flavor = "multi_thread")]
async fn e_8_the_slot_of_an_idle_source_advances() {
    let (rig, mut server, mut amy) = rig::served(SCHEMA, CONFIG).await;
    let slot = rig.ask(SLOT).await.expect("our slot");
    rig.execute("CREATE TABLE elsewhere (id int8, body text)").await;
    for _ in 0..3 {
        rig.execute(
            "INSERT INTO elsewhere SELECT i, repeat('x', 200) FROM generate_series(1, 5000) i",
        )
        .await;
        let position = wait::current_lsn(&rig.sql).await;
        wait::slot_confirmed(&rig.sql, &slot, position).await;
    }
    // And what was confirmed is durable: a restart finds no hole.
    server.kill();
    server.spawn_again();
    rig.check(&mut amy, &server, "amy").await;
    assert!(!server.log().contains("copied again"), "{}", server.log());
    server.stop().await;
}

/// P6: a walsender that has not come to what is committed is behind, whether it says something or not.
#[tokio::test(flavor = "multi_thread")]
async fn p_6_lag_grows_while_the_walsender_is_behind_the_log() {
    let (rig, mut server, mut amy) = rig::served(SCHEMA, CONFIG).await;
    let walsender = "SELECT active_pid FROM pg_replication_slots WHERE active";
    let pid = rig.ask(walsender).await.and_then(|pid| pid.parse().ok()).expect("a walsender");
    rig.cluster.signal_process(pid, libc::SIGSTOP);
    rig.execute("UPDATE todos SET body = 'not decoded yet'").await;
    rig::until_status("lag grows", &server, |status| {
        let source = &status["source"];
        let seconds = source["lag_seconds"].as_f64().unwrap_or(0.0);
        status["state"] == "streaming" && seconds > 1.0 && source["lag_bytes"] != 0
    })
    .await;
    rig.cluster.signal_process(pid, libc::SIGCONT);
    rig.check(&mut amy, &server, "amy").await;
    rig::until_status("nothing is left", &server, |s| s["source"]["lag_bytes"] == 0).await;
    server.stop().await;
}

/// P6: a Postgres that hangs is named, from the start and later, with the moment it was heard last.
#[tokio::test(flavor = "multi_thread")]
async fn p_6_a_source_that_does_not_answer_is_named_and_waited_for() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let mut server = HeadwaterProcess::start(rig::allowing(rig.options(), AWAY)).await;
    let mut amy = client("amy");
    rig.check(&mut amy, &server, "amy").await;
    let is_named = |status: &serde_json::Value| {
        let trouble = status["trouble"].as_str().unwrap_or_default();
        status["state"] == "waiting" && trouble.contains("has not answered since")
    };
    rig.cluster.signal_all(libc::SIGSTOP);
    rig::until_status("it is named while it is followed", &server, is_named).await;
    server.kill();
    server.spawn_again();
    rig::until_status("it is named from the start", &server, is_named).await;
    rig.cluster.signal_all(libc::SIGCONT);
    rig::until_status("it is followed", &server, |status| status["state"] == "streaming").await;
    rig.execute("INSERT INTO todos VALUES ('back', 'l1', 'x', 1)").await;
    rig.check(&mut amy, &server, "amy").await;
    server.stop().await;
}
