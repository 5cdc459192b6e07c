//! The server is killed: idle, in the middle of a transaction, behind a commit, during the first
//! copy; and who may take its directory then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hw_testkit::oracle::SyncError;
use hw_testkit::{Direction, Fault, FaultProxy, HeadwaterProcess, poll_until};
use serde_json::Value;

use crate::rig::{self, CONFIG, Rig, SCHEMA, caught_up, client};

/// The failpoints say at ERROR that they were reached.
const REACHED: &str = "failpoint reached";

#[tokio::test(flavor = "multi_thread")]
async fn f_1_killed_while_idle_clients_resume_without_a_refetch() {
    let (rig, mut server, mut amy) = rig::served(SCHEMA, CONFIG).await;
    for round in 0..3 {
        let (held, received) = (amy.bucket_names(), amy.operations);
        server.kill();
        server.spawn_again();
        caught_up(&mut amy, &server).await;
        assert_eq!(amy.bucket_names(), held);
        assert_eq!(amy.operations, received, "nothing is sent again");
        rig.execute(&format!("UPDATE todos SET n = {round} WHERE id = 't4'")).await;
        caught_up(&mut amy, &server).await;
        assert_eq!(amy.operations, received + 1);
    }
    rig.check(&mut amy, &server, "amy").await;
    server.stop().await;
}

/// A transaction that needs several commits of the store, with moves, a membership that goes, a
/// TRUNCATE and new rows in it (`engine.md` 7.4).
const LARGE: &str = "
    BEGIN;
    INSERT INTO todos SELECT 'a' || i, 'l' || 1 + i % 4, repeat('a', 300), i FROM generate_series(1, 3000) i;
    UPDATE todos SET list = 'l3' WHERE id LIKE 'a%5';
    DELETE FROM lists WHERE id = 'l2';
    SAVEPOINT s; DELETE FROM todos; ROLLBACK TO s;
    TRUNCATE todos;
    INSERT INTO todos SELECT 'b' || i, 'l' || 1 + i % 4, repeat('b', 500), i FROM generate_series(1, 9000) i;
    UPDATE todos SET list = 'l1', n = -n WHERE id LIKE 'b%7';
    UPDATE todos SET id = 'c' || id WHERE id LIKE 'b%33';
    COMMIT";

/// F-2: before the decision, and behind each commit that follows it; restarted with other bounds.
#[tokio::test(flavor = "multi_thread")]
async fn f_2_killed_while_applying_the_transaction_is_wholly_there_once() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let small = "limits:\n  transaction_memory: 1 MB\n  sort_memory: 1 MB\n";
    let mut server = HeadwaterProcess::start(rig.options_with(small)).await;
    server.allow_log(REACHED);
    let mut amy = client("amy");
    rig.check(&mut amy, &server, "amy").await;
    let before = amy.rows().clone();
    let mut aborts = 0;
    let mut points = vec!["large::before_decision:1".to_owned()];
    points.extend((1..=3).map(|n| format!("large::after_cut:{n}")));
    for (round, point) in points.iter().enumerate() {
        server.kill();
        server.set_environment("HEADWATER_FAILPOINT", point);
        server.spawn_again();
        if round == 0 {
            caught_up(&mut amy, &server).await;
            rig.execute(LARGE).await;
        }
        let status = server.wait_exit().await;
        assert_eq!(status.code(), None, "{point}: aborted by a signal\n{}", server.log());
        aborts += 1;
        // Restarted with another bound in memory: what was decided stays as it is.
        let bound = if round % 2 == 0 { "2 MB" } else { "1 MB" };
        let text = format!("limits:\n  transaction_memory: {bound}\n  sort_memory: 1 MB\n");
        std::fs::write(rig.path("headwater.yaml"), text).expect("written");
    }
    assert_eq!(aborts, points.len());
    server.set_environment("HEADWATER_FAILPOINT", "");
    server.spawn_again();
    amy.history.clear();
    caught_up(&mut amy, &server).await;
    rig.check(&mut amy, &server, "amy").await;
    assert_ne!(*amy.rows(), before);
    let mut bob = client("bob");
    rig.check(&mut bob, &server, "bob").await;
    server.stop().await;
}

/// F-3: what Postgres sends again behind a restart is known, and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn f_3_killed_between_commit_and_confirmation_changes_are_applied_once() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let mut server = rig.start().await;
    server.allow_log(REACHED);
    let mut amy = client("amy");
    caught_up(&mut amy, &server).await;
    for n in 1..=4 {
        let received = amy.operations;
        server.kill();
        server.set_environment("HEADWATER_FAILPOINT", &format!("writer::after_commit:{n}"));
        server.spawn_again();
        // Commits are shared by transactions that wait together, so that it takes some to get there.
        let over = AtomicBool::new(false);
        let writing = async {
            let mut rows = 0;
            while !over.load(Ordering::Relaxed) {
                let id = format!("f{n}-{rows}");
                rig.execute(&format!("INSERT INTO todos VALUES ('{id}', 'l1', 'x', {rows})")).await;
                rows += 1;
            }
            rows
        };
        let dying = async {
            let status = server.wait_exit().await;
            over.store(true, Ordering::Relaxed);
            status
        };
        let (rows, status) = tokio::join!(writing, dying);
        assert_eq!(status.code(), None, "aborted by a signal\n{}", server.log());
        server.set_environment("HEADWATER_FAILPOINT", "");
        server.spawn_again();
        rig.check(&mut amy, &server, "amy").await;
        assert_eq!(amy.operations, received + rows, "each change once");
    }
    server.stop().await;
}

/// FD-60: whoever is dead must not look well from outside. The process ends and says which part it was; started
/// again, it has lost nothing.
#[tokio::test(flavor = "multi_thread")]
async fn fd_60_a_panic_in_the_background_ends_the_process_which_says_where() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let mut server = HeadwaterProcess::spawn(rig::with(
        rig.options(),
        "HEADWATER_FAILPOINT",
        "loader::batch:1:panic",
    ));
    server.allow_log(REACHED);
    server.allow_log("a defect has ended a part");
    server.allow_log("panicked at");
    let parts = [
        ("loader::batch", "the loader of copies"),
        ("input::item", "headwater-input"),
        ("sequencer::signal", "headwater-writer"),
        ("publisher::job", "headwater-publish"),
        ("hub::dispatch", "the dispatcher of publications"),
    ];
    for (round, (point, part)) in parts.into_iter().enumerate() {
        let mut before = 0;
        if round > 0 {
            before = server.log().len();
            server.set_environment("HEADWATER_FAILPOINT", &format!("{point}:1:panic"));
            server.spawn_again();
            rig.execute("UPDATE todos SET n = n + 1 WHERE id = 't4'").await;
        }
        let status = server.wait_exit().await;
        let said = server.log()[before..].to_owned();
        assert_eq!(status.code(), Some(70), "{point}\n{said}");
        let is_it = |line: &str| line.contains("a defect has ended a part") && line.contains(part);
        assert!(said.lines().any(is_it), "{point}\n{said}");
        assert!(said.contains(&format!("failpoint {point}")), "the panic's own words\n{said}");
        // Its supervisor starts it again.
        server.set_environment("HEADWATER_FAILPOINT", "");
        server.spawn_again();
        server.until_ready().await;
        let mut amy = client("amy");
        rig.check(&mut amy, &server, "amy").await;
        server.kill();
    }
}

/// F-4 (confirmed before durable) is impossible by construction and asserted where the loss of
/// unsynced writes can be simulated: `hw-engine`'s
/// `clients_equal_the_oracle_whatever_crashes` feeds again only what lies behind the acknowledged
/// position and loses everything unsynced. Here: at a SIGKILL at any moment the slot has confirmed
/// no more than what the server knows afterwards, or its start would find a hole.
#[tokio::test(flavor = "multi_thread")]
async fn f_4_nothing_is_confirmed_before_it_is_kept() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let mut server = rig.start().await;
    let mut amy = client("amy");
    caught_up(&mut amy, &server).await;
    for round in 0..6 {
        for row in 0..20 {
            rig.execute(&format!("INSERT INTO todos VALUES ('r{round}-{row}', 'l1', 'x', 1)"))
                .await;
        }
        server.kill();
        server.spawn_again();
    }
    rig.check(&mut amy, &server, "amy").await;
    // A hole would have been reported as an error and healed by a copy.
    server.check_log();
    assert!(!server.log().contains("copied again"), "{}", server.log());
    server.stop().await;
}

/// F-3, the other side: what was applied, and of which Postgres was never told, is no moved history,
/// also when it is the first transaction behind the first copy.
#[tokio::test(flavor = "multi_thread")]
async fn f_3_a_first_transaction_that_was_never_confirmed_is_recognised() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let mut server = rig.start().await;
    server.allow_log(REACHED);
    rig::until_status("it streams", &server, |status| status["state"] == "streaming").await;
    server.kill();
    // Waits in the log, so that it is what the next start receives first.
    rig.execute("INSERT INTO todos VALUES ('first', 'l1', 'x', 1)").await;
    server.set_environment("HEADWATER_FAILPOINT", "writer::after_commit:1");
    server.spawn_again();
    assert_eq!(server.wait_exit().await.code(), None, "aborted by a signal\n{}", server.log());
    server.set_environment("HEADWATER_FAILPOINT", "");
    server.spawn_again();
    let mut amy = client("amy");
    rig.check(&mut amy, &server, "amy").await;
    assert!(!server.log().contains("copied again"), "{}", server.log());
    server.stop().await;
}

/// F-5: at 10, 50 and 90 % of the first copy.
#[tokio::test(flavor = "multi_thread")]
async fn f_5_killed_during_the_first_copy_no_half_table_is_served() {
    const ROWS: u64 = 30_000;
    let rig = Rig::new(SCHEMA, CONFIG).await;
    rig.execute(&format!(
        "INSERT INTO todos SELECT 'f' || i, 'l1', md5(i::text) || md5('x' || i), i
         FROM generate_series(1, {ROWS}) i; ANALYZE"
    ))
    .await;
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", rig.cluster.port())).await;
    let url = rig.database.url.replace(&rig.cluster.port().to_string(), &proxy.port().to_string());
    let slow = Fault { bytes_per_second: Some(3 << 20), ..Fault::default() };
    proxy.set(Direction::ToClient, slow);
    let options = rig::with(rig.options(), "DATABASE_URL", &url);
    let mut server = HeadwaterProcess::spawn(options);
    let mut amy = client("amy");
    for percent in [10, 50, 90] {
        // Reached, unless the copy was quicker than our looks.
        poll_until("the copy has come so far", || async {
            let status = rig::status(&server).await?;
            let rows: u64 =
                status["copies"].as_array()?.iter().filter_map(|c| c["rows"].as_u64()).sum();
            let over = status["state"] == "streaming";
            (over || rows >= (ROWS + 200) * percent / 100).then_some(())
        })
        .await;
        match amy.connect(server.address()).await {
            Ok(()) => amy.disconnect(),
            Err(SyncError::Refused { status, .. }) => assert!(status >= 500, "{status}"),
            Err(SyncError::Cut(_)) => {}
            Err(other) => panic!("{other}"),
        }
        server.kill();
        let change = format!("UPDATE todos SET n = n + 1, list = 'l2' WHERE id LIKE 'f{percent}%'");
        rig.execute(&change).await;
        server.spawn_again();
    }
    proxy.heal();
    caught_up(&mut amy, &server).await;
    // P2: the first state shown was already whole.
    assert_eq!(amy.completed, 1, "one state, the complete one");
    rig.check(&mut amy, &server, "amy").await;
    let slots = rig.ask("SELECT count(*) FROM pg_replication_slots").await;
    assert_eq!(slots.as_deref(), Some("1"), "no slot is left behind");
    server.stop().await;
}

/// F-72: the lock of the directory belongs to the process that ingests, and to nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn f_72_the_lock_dies_with_the_process_and_no_child_can_inherit_it() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let mut server = rig.start().await;
    let mut second = HeadwaterProcess::spawn(rig::allowing(rig.options(), &["\"code\":\"HW3"]));
    assert_eq!(second.wait_exit().await.code(), Some(2), "{}", second.log());
    assert!(
        second.log().contains(&server.pid().to_string()),
        "it names the holder:\n{}",
        second.log()
    );
    // Whatever a child would be, it gets none of our files.
    let inheritable = inheritable_files(server.pid(), &rig.path("data"));
    assert_eq!(inheritable, BTreeMap::new());
    server.kill();
    second.spawn_again();
    second.until_ready().await;
    let mut amy = client("amy");
    rig.check(&mut amy, &second, "amy").await;
    second.stop().await;
}

/// The files of a process below a directory that a child would inherit.
fn inheritable_files(pid: u32, below: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let entries = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("our own child");
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|f| i32::from_str_radix(f.trim(), 8).ok()).unwrap_or(0);
        let target = std::fs::read_link(format!("/proc/{pid}/fd/{name}")).unwrap_or_default();
        if target.starts_with(below) && flags & libc::O_CLOEXEC == 0 {
            found.insert(name, target.display().to_string());
        }
    }
    found
}

/// F-6: two writers are busy while the first copy is made to last.
#[tokio::test(flavor = "multi_thread")]
async fn f_6_writes_during_the_first_copy_are_neither_lost_nor_doubled() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    rig.execute(
        "INSERT INTO todos SELECT 'f' || i, 'l' || 1 + i % 4, repeat('f', 100), i
         FROM generate_series(1, 20000) i",
    )
    .await;
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", rig.cluster.port())).await;
    let url = rig.database.url.replace(&rig.cluster.port().to_string(), &proxy.port().to_string());
    let slow = Fault { bytes_per_second: Some(4 << 20), ..Fault::default() };
    proxy.set(Direction::ToClient, slow);
    let mut server = HeadwaterProcess::spawn(rig::with(rig.options(), "DATABASE_URL", &url));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut writers = Vec::new();
    for writer in 0..2_usize {
        let sql = rig.cluster.client(&rig.database.name).await;
        let stopped = stopped.clone();
        writers.push(tokio::spawn(async move {
            for i in (0..).take_while(|_| !*stopped.borrow()) {
                let text = format!(
                    "BEGIN; INSERT INTO todos VALUES ('w{writer}-{i}', 'l{}', 'w', 0);
                     UPDATE todos SET list = 'l{}', n = n + 1 WHERE id = 'f{}';
                     DELETE FROM todos WHERE id = 'f{}'; COMMIT",
                    1 + i % 4,
                    1 + i % 3,
                    writer * 10_000 + 1 + (i * 7) % 10_000,
                    writer * 10_000 + 1 + (i * 13) % 10_000
                );
                sql.batch_execute(&text).await.expect("written");
            }
        }));
    }
    server.until_ready().await;
    // The copy has entered. Writers that went on behind a slow connection would stay ahead of it
    // for as long as anybody waits.
    stop.send_replace(true);
    for writer in writers {
        writer.await.expect("it wrote");
    }
    proxy.heal();
    let mut amy = client("amy");
    rig.check(&mut amy, &server, "amy").await;
    let mut bob = client("bob");
    rig.check(&mut bob, &server, "bob").await;
    server.stop().await;
}

/// F-8 in short: killed again and again at moments that nobody chose, under load.
#[tokio::test(flavor = "multi_thread")]
async fn f_8_killed_again_and_again_nothing_is_lost() {
    let rounds = if std::env::var_os("HEADWATER_SOAK").is_some() { 50 } else { 8 };
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let mut server = rig.start().await;
    let mut amy = client("amy");
    caught_up(&mut amy, &server).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let sql = rig.cluster.client(&rig.database.name).await;
    let writer = tokio::spawn(async move {
        for i in (0..).take_while(|_| !*stopped.borrow()) {
            let text =
                format!("UPDATE todos SET n = n + 1, body = 'b{i}' WHERE id = 't{}'", i % 200);
            sql.batch_execute(&text).await.expect("written");
            tokio::task::yield_now().await;
        }
    });
    for round in 0..rounds {
        let seen = amy.completed;
        let wanted = seen + 1 + round % 3;
        let followed = amy.follow_until(server.address(), |amy| amy.completed >= wanted);
        hw_testkit::wait::within_limit("new states arrive", followed).await.expect("followed");
        server.kill();
        server.spawn_again();
    }
    stop.send_replace(true);
    writer.await.expect("it wrote");
    rig.check(&mut amy, &server, "amy").await;
    let report: Value = rig::status(&server).await.expect("a report");
    let bytes = report["store"]["bytes"].as_u64().expect("bytes");
    assert!(bytes < 256 << 20, "the store has not grown without end: {bytes}");
    let stopped = tokio::time::timeout(Duration::from_secs(60), server.stop());
    stopped.await.expect("it stops");
}
