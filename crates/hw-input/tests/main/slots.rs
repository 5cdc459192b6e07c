//! Slots that are taken, used up, held back or gone.

use crate::bench::Bench;
use hw_input::copy_session::{CopySession, SlotChoice};
use hw_input::identity::{self, Identity, Recopy, Stored, Verdict};
use hw_pg::slot::{self, Session};
use hw_testkit::{Cluster, ClusterOptions, poll_until};
use hw_types::Diagnostic;
use std::process::Command;
use std::sync::{Arc, Mutex};

async fn slots(bench: &Bench) -> Vec<String> {
    let sql = "SELECT slot_name::text FROM pg_replication_slots ORDER BY 1";
    bench.sql.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn f_16_a_busy_slot_is_waited_for_and_its_holder_named() {
    let cluster = Cluster::start();
    let bench = Bench::new(&cluster).await;
    bench.run("CREATE TABLE t (a int PRIMARY KEY)").await;
    let first = bench.streaming(&["t"]).await;
    let name = bench.slot_name().await;
    let state = slot::SlotState::read(&bench.sql, &name).await.unwrap().unwrap();
    let pid = state.active_pid.unwrap();
    // A second instance that does not wait is told who holds it.
    let refused = bench
        .source
        .stream(&name, bench.spool.clone(), Default::default())
        .await
        .expect_err("the slot is in use");
    assert_eq!(refused.policy(), hw_pg::error::Policy::RetryWithBackoff);
    assert_eq!(refused.diagnostic().code.0, hw_pg::catalog::code::SLOT_BUSY);

    let reports: Arc<Mutex<Vec<Diagnostic>>> = Arc::default();
    let waiting = {
        let (source, name, reports) = (bench.source.clone(), name.clone(), reports.clone());
        tokio::spawn(async move {
            source
                .wait_for_slot(&name, |holder| {
                    reports.lock().unwrap().push(slot::busy(&name, holder));
                })
                .await
        })
    };
    poll_until("the wait was reported", || async {
        (!reports.lock().unwrap().is_empty()).then_some(())
    })
    .await;
    assert!(!waiting.is_finished());
    first.close().await;
    waiting.await.unwrap().unwrap();
    let reports = reports.lock().unwrap().clone();
    assert_eq!(reports.len(), 1, "once for one holder");
    assert!(reports[0].what.contains(&format!("pid {pid}")), "{}", reports[0]);
    drop(bench.stream().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn f_17_used_up_slots_are_a_clear_error_and_leave_nothing_behind() {
    let cluster = Cluster::start_with(ClusterOptions {
        settings: &[("max_replication_slots", "1")],
        ..ClusterOptions::default()
    });
    let bench = Bench::new(&cluster).await;
    bench.run("CREATE TABLE t (a int PRIMARY KEY)").await;
    bench.run("SELECT pg_create_physical_replication_slot('taken', true)").await;
    let covered = bench.cover(&["t"]).await;
    for choice in [SlotChoice::Temporary, SlotChoice::Main { name: bench.slot_name().await }] {
        let opened =
            CopySession::open(&bench.source, covered.tables.clone(), choice, 1, |_| {}).await;
        let error = opened.err().expect("no slot is free");
        assert_eq!(error.policy(), hw_pg::error::Policy::RetryWithBackoff);
        assert_eq!(error.diagnostic().code.0, hw_pg::catalog::code::NO_FREE_SLOT);
    }
    assert_eq!(slots(&bench).await, ["taken"]);
    bench.run("SELECT pg_drop_replication_slot('taken')").await;
    let session =
        CopySession::open(&bench.source, covered.tables, SlotChoice::Temporary, 1, |_| {}).await;
    drop(session.unwrap());
    poll_until("no temporary slot is left", || async {
        slots(&bench).await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f_17_used_up_walsenders_are_a_clear_error() {
    let cluster = Cluster::start_with(ClusterOptions {
        settings: &[("max_wal_senders", "1")],
        ..ClusterOptions::default()
    });
    let bench = Bench::new(&cluster).await;
    bench.run("CREATE TABLE t (a int PRIMARY KEY)").await;
    let stream = bench.streaming(&["t"]).await;
    let error = bench.source.look().await.unwrap_err();
    assert_eq!(error.policy(), hw_pg::error::Policy::RetryWithBackoff);
    assert_eq!(error.diagnostic().code.0, hw_pg::catalog::code::NO_FREE_SENDER);
    stream.close().await;
    bench.source.look().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f_18_a_transaction_that_holds_back_the_slot_is_named_and_its_end_heals() {
    let cluster = Cluster::start();
    let bench = Bench::new(&cluster).await;
    bench.run("CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE other (a int)").await;
    let covered = bench.cover(&["t"]).await;
    let blocker = cluster.client(&bench.database.name).await;
    let pid: i32 = blocker.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    blocker.batch_execute("BEGIN; INSERT INTO other VALUES (1)").await.unwrap();

    let reports: Arc<Mutex<Vec<Vec<Session>>>> = Arc::default();
    let opening = {
        let (source, reports) = (bench.source.clone(), reports.clone());
        tokio::spawn(async move {
            let report = |blockers: &[Session]| reports.lock().unwrap().push(blockers.to_vec());
            CopySession::open(&source, covered.tables, SlotChoice::Temporary, 1, report).await
        })
    };
    poll_until("the blocking process was reported", || async {
        let reports = reports.lock().unwrap();
        let named = reports.iter().flatten().any(|session| session.pid == Some(pid as u32));
        named.then_some(())
    })
    .await;
    assert!(!opening.is_finished());
    // Nobody is waited for any more, although the server has not come to make the slot.
    let walsender = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender'";
    let walsender: i32 = blocker.query_one(walsender, &[]).await.unwrap().get(0);
    signal("STOP", walsender);
    blocker.batch_execute("COMMIT").await.unwrap();
    poll_until("nobody is named any more", || async {
        reports.lock().unwrap().last().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    signal("CONT", walsender);
    opening.await.unwrap().unwrap();
}

fn signal(name: &str, pid: i32) {
    let done = Command::new("kill").args(["-s", name, &pid.to_string()]).status();
    assert!(done.is_ok_and(|status| status.success()), "{name} to {pid}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f_14_verdicts_follow_what_happened_to_the_slot_on_every_major() {
    for major in hw_testkit::majors() {
        let cluster =
            Cluster::start_with(ClusterOptions { major: Some(major), ..ClusterOptions::default() });
        let bench = Bench::new(&cluster).await;
        bench.run("CREATE TABLE t (a int PRIMARY KEY)").await;
        let look = bench.source.look().await.unwrap();
        assert_eq!(look.server.major(), major);
        assert_eq!(identity::check(None, &look.found), Verdict::FirstCopy { drop_slot: false });

        let session = bench.main_session(&["t"]).await;
        let stored = Stored {
            identity: Identity {
                system_id: look.found.system_id,
                timeline: look.found.timeline,
                database_oid: look.found.database_oid,
                slot: look.found.slot_name.clone(),
                slot_mark: session.boundary(),
            },
            end_lsn: hw_types::EndLsn(session.boundary()),
            tail_start: None,
        };
        drop(session);
        let verdict = |found: &identity::Found| identity::check(Some(&stored), found);
        let found = bench.source.look().await.unwrap().found;
        assert_eq!(verdict(&found), Verdict::Stream, "major {major}");

        // Somebody advances the slot: a hole.
        bench.run("INSERT INTO t VALUES (1)").await;
        let advance = "SELECT pg_replication_slot_advance($1::text::name, pg_current_wal_lsn())";
        bench.sql.query(advance, &[&found.slot_name]).await.unwrap();
        let hole = Verdict::ComparedRecopy { reason: Recopy::Hole, drop_slot: true };
        assert_eq!(verdict(&bench.source.look().await.unwrap().found), hole);

        // Somebody drops it, and somebody makes another of the same name.
        assert!(bench.source.drop_slot(&found.slot_name).await.unwrap());
        assert!(!bench.source.drop_slot(&found.slot_name).await.unwrap());
        let gone = Verdict::ComparedRecopy { reason: Recopy::SlotGone, drop_slot: false };
        assert_eq!(verdict(&bench.source.look().await.unwrap().found), gone);
        let create = "SELECT pg_create_logical_replication_slot($1::text::name, 'pgoutput')";
        bench.sql.query(create, &[&found.slot_name]).await.unwrap();
        assert_eq!(verdict(&bench.source.look().await.unwrap().found), hole);
        bench.source.drop_slot(&found.slot_name).await.unwrap();

        // A slot of another plugin is nobody's to drop.
        let foreign = "SELECT pg_create_physical_replication_slot($1::text::name)";
        bench.sql.query(foreign, &[&found.slot_name]).await.unwrap();
        let refused = verdict(&bench.source.look().await.unwrap().found);
        assert!(matches!(refused, Verdict::Refuse(_)), "{refused:?}");
    }
}
