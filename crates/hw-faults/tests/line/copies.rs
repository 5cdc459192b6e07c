//! Copies beside which something happens (FD-4, FD-23, FD-24, FD-25).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hw_testkit::oracle::difference;
use hw_testkit::{Direction, Fault, FaultProxy, HeadwaterProcess};
use tokio::task::JoinSet;

use super::{Line, Output, loud, soon, streams};
use crate::rig::{self, Rig};

/// Drops our slot as soon as nobody uses it.
pub async fn drop_slot(rig: &Rig) {
    hw_testkit::poll_until("the slot is free and dropped", || async {
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                    WHERE slot_name LIKE 'headwater%' AND NOT active";
        rig.sql.query(drop, &[]).await.ok().filter(|rows| !rows.is_empty()).map(|_| ())
    })
    .await;
}

/// The compared copy does not fit its spool beside what it decides, so the writer restarts in it.
#[tokio::test(flavor = "multi_thread")]
async fn fd_4_a_copy_survives_a_restart_of_the_writer_before_it_enters() {
    let schema = "
        CREATE TABLE t (id int PRIMARY KEY, v text);
        INSERT INTO t SELECT i, repeat('a', 200) FROM generate_series(1, 60000) i";
    // Kept for a bucket that nobody here has, so that the step decides more than the spool takes.
    let config = streams(&[
        "SELECT id, v FROM t WHERE id = 60001 OR id = 1",
        "SELECT * FROM t AS whole WHERE auth.user_id() = 'nobody'",
    ]);
    let outputs: &[Output] = &[("t", "SELECT id, v FROM t WHERE id = 60001 OR id = 1")];
    let rig = Rig::new(schema, &config).await;
    let options = rig.options_with("limits:\n  spool_bytes: 16 MB\n");
    let mut line = Line::of(rig, options, &["u1"], outputs).await;
    line.server.kill();
    drop_slot(&line.rig).await;
    line.execute("UPDATE t SET v = repeat('b', 200)").await;
    line.server.spawn_again();
    line.agree("compared").await;
    line.execute("INSERT INTO t VALUES (60001, 'new')").await;
    line.agree("followed").await;
    line.is_well().await;
    line.stop().await;
}

/// A server that has read `small` of a new file and is still reading `big`.
async fn copying(small: &str, query: &str, outputs: &[Output]) -> (Line, FaultProxy) {
    let schema = format!(
        "CREATE TABLE a (id text PRIMARY KEY, v text); INSERT INTO a VALUES ('1', 'x');
         {small};
         CREATE TABLE z_big (id int PRIMARY KEY, v text);
         INSERT INTO z_big SELECT i, repeat('x', 100) FROM generate_series(1, 30000) i; ANALYZE"
    );
    let rig = Rig::new(&schema, &streams(&["SELECT * FROM a"])).await;
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", rig.cluster.port())).await;
    let url = rig.database.url.replace(&rig.cluster.port().to_string(), &proxy.port().to_string());
    let options = rig::with(rig.options(), "DATABASE_URL", &url);
    let mut line = Line::of(rig, loud(options), &["u1"], &[("a", "SELECT * FROM a")]).await;
    let slow = Fault { bytes_per_second: Some(1 << 20), ..Fault::default() };
    proxy.set(Direction::ToClient, slow);
    line.configure(&streams(&["SELECT * FROM a", query, "SELECT id FROM z_big WHERE id = 3"]));
    soon("small is read and big is not", line.report(), || async {
        let status = rig::status(&line.server).await?;
        let copies = status["copies"].as_array()?;
        let of = |name: &str| copies.iter().find(|c| c["table"] == name);
        let small_is = of("public.small").is_none_or(|copy| copy["read"] == true);
        let big = of("public.z_big")?;
        (small_is && big["read"] == false && big["rows"].as_u64()? > 0).then_some(())
    })
    .await;
    line.outputs.extend_from_slice(outputs);
    line.outputs.push(("z_big", "SELECT id FROM z_big WHERE id = 3"));
    (line, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_23_a_column_dropped_during_the_copy_shifts_nothing() {
    let outputs: &[Output] = &[("small", "SELECT * FROM small")];
    let (mut line, proxy) = copying(
        "CREATE TABLE small (id text PRIMARY KEY, a text, b text, c text);
         INSERT INTO small VALUES ('old', 'A', 'B', 'C')",
        "SELECT * FROM small",
        outputs,
    )
    .await;
    line.execute(
        "ALTER TABLE small DROP COLUMN a; INSERT INTO small VALUES ('new', 'B-new', 'C-new')",
    )
    .await;
    proxy.heal();
    line.agree("entered").await;
    line.execute("INSERT INTO small VALUES ('later', 'B-later', 'C-later')").await;
    line.agree("later").await;
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_23_a_column_that_was_not_selected_is_never_sent() {
    let (mut line, proxy) = copying(
        "CREATE TABLE small (id text PRIMARY KEY, nick text, password text);
         INSERT INTO small VALUES ('old', 'nick', 'SECRET')",
        "SELECT id, nick FROM small",
        &[],
    )
    .await;
    line.execute("ALTER TABLE small DROP COLUMN nick; INSERT INTO small VALUES ('new', 'SECRET')")
        .await;
    proxy.heal();
    // The column is gone, so the definition is refused or gives null, and what it gives is never the
    // other column: neither in the first state of the new file nor later.
    line.follow("u1", "the new file is served", |client| !client.table("z_big").is_empty()).await;
    let mut seen = super::fresh(&line.server, "u1").await;
    for client in [&line.clients["u1"], &seen] {
        assert!(!client.rows().values().any(|row| row.to_string().contains("SECRET")));
    }
    line.execute("INSERT INTO small VALUES ('more', 'SECRET'); INSERT INTO a VALUES ('last', 'x')")
        .await;
    let address = line.server.address();
    let last = seen.follow_until(address, |client| client.table("a").contains_key("last"));
    hw_testkit::wait::within_limit("the last", last).await.expect("followed");
    assert!(!seen.rows().values().any(|row| row.to_string().contains("SECRET")));
    line.stop().await;
}

/// The same while a table that is served is copied again: a second ALTER in its copy.
#[tokio::test(flavor = "multi_thread")]
async fn fd_23_a_stale_table_that_is_altered_again_in_its_copy_is_copied_again() {
    let schema = "
        CREATE TABLE t (id int PRIMARY KEY, a text, b text, c text);
        INSERT INTO t SELECT i, 'a', repeat('b', 100), 'c' FROM generate_series(1, 20000) i";
    let query = "SELECT * FROM t WHERE id < 5 OR id > 20000";
    let rig = Rig::new(schema, &streams(&[query])).await;
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", rig.cluster.port())).await;
    let url = rig.database.url.replace(&rig.cluster.port().to_string(), &proxy.port().to_string());
    let options = rig::with(rig.options(), "DATABASE_URL", &url);
    let mut line = Line::of(rig, options, &["u1"], &[("t", query)]).await;
    let slow = Fault { bytes_per_second: Some(1 << 20), ..Fault::default() };
    proxy.set(Direction::ToClient, slow);
    line.execute(
        "ALTER TABLE t ADD COLUMN d text; INSERT INTO t VALUES (20001, 'a', 'b', 'c', 'd')",
    )
    .await;
    soon("it is being copied", line.report(), || async {
        let status = rig::status(&line.server).await?;
        let copy = status["copies"].as_array()?.first()?.clone();
        (copy["read"] == false && copy["rows"].as_u64()? > 0).then_some(())
    })
    .await;
    line.execute("ALTER TABLE t DROP COLUMN a; INSERT INTO t VALUES (20002, 'b', 'c', 'd')").await;
    proxy.heal();
    line.agree("entered").await;
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_24_a_rollback_behind_a_new_history_serves_no_hole() {
    let schema = "
        CREATE TABLE a (id text PRIMARY KEY, v text); CREATE TABLE b (id text PRIMARY KEY, v text);
        INSERT INTO a VALUES ('1', '1'); INSERT INTO b VALUES ('1', '1'), ('2', '2')";
    let both = streams(&["SELECT * FROM a", "SELECT * FROM b"]);
    let outputs: &[Output] = &[("a", "SELECT * FROM a"), ("b", "SELECT * FROM b")];
    let mut line = Line::start(schema, &both, &["u1"], outputs).await;
    line.configure(&streams(&["SELECT * FROM a"]));
    line.follow("u1", "b is gone", |client| client.table("b").is_empty()).await;
    line.server.stop().await;
    drop_slot(&line.rig).await;
    line.execute("INSERT INTO b VALUES ('3', '3'); DELETE FROM b WHERE id = '1'").await;
    line.server.spawn_again();
    line.server.until_ready().await;
    line.outputs = vec![("a", "SELECT * FROM a")];
    line.agree("with the slot made anew").await;
    line.configure(&both);
    line.outputs = outputs.to_vec();
    // Already the first state with b.
    line.follow("u1", "b is served", |client| !client.table("b").is_empty()).await;
    let expected = line.expected("u1").await;
    let shown = difference(&expected, line.clients["u1"].rows());
    assert!(shown.is_ok(), "a hole was served: {shown:?}");
    line.agree("back to both").await;
    line.stop().await;
}

/// Writes beside a copy until it is told to stop: rows that come, change and go, keys that move to the
/// other end of the table and back, and a transaction that is open while others come and go.
///
/// - Takes: which of two writers this is; they leave each other's rows alone.
async fn write(sql: tokio_postgres::Client, writer: i32, open: Duration, stop: Arc<AtomicBool>) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        // All over the table, and again and again the same rows.
        let id = |n: i32| 1 + writer + 2 * ((round * 7_919 + n * 1_013) % 10_000);
        let (moved, back, changed, gone, large) = (id(0), id(1), id(2), id(3), id(4));
        let new = 300_000 + 2 * round + writer;
        let sql_of = [
            format!("BEGIN; INSERT INTO t VALUES ({new}, 0, 'new'), (-{new}, 0, 'new')"),
            format!("UPDATE t SET id = 200000 - id WHERE id = {moved} AND doc IS NULL"),
            format!("UPDATE t SET id = 200000 - id WHERE id = 200000 - {back} AND doc IS NULL"),
            format!("UPDATE t SET n = n + 1 WHERE id IN ({changed}, 200000 - {changed}, {large})"),
            format!("UPDATE t SET n = n + 1 WHERE id % 500 = 0 AND id % 2 = 1 - {writer}"),
            format!("DELETE FROM t WHERE id IN ({gone}, 200000 - {gone})"),
        ];
        sql.batch_execute(&sql_of.join("; ")).await.expect("written");
        tokio::time::sleep(open).await;
        sql.batch_execute("COMMIT").await.expect("committed");
    }
}

/// The key range that is read of `t`, once it is at least this one.
async fn range(line: &Line, least: u64) -> u64 {
    soon(&format!("range {least} is read"), line.report(), || async {
        let status = rig::status(&line.server).await?;
        let copy = status["copies"].as_array()?.iter().find(|c| c["table"] == "public.t")?.clone();
        copy["range"].as_u64().filter(|range| *range >= least && copy["read"] == false)
    })
    .await
}

/// A table that is read slowly, a small `limits.copy_snapshot`, and traffic beside it.
///
/// - Takes: whether the table is there when the server starts for the first time.
async fn copied_in_ranges(from_the_start: bool) {
    let schema = "
        CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a VALUES (1, 'x');
        CREATE TABLE t (id int PRIMARY KEY, n int, pad text, doc text);
        ALTER TABLE t ALTER COLUMN doc SET STORAGE EXTERNAL;
        INSERT INTO t SELECT i, 0, repeat('x', 300), CASE WHEN i % 500 = 0 THEN repeat('d', 4000) END
            FROM generate_series(1, 30000) i;
        ANALYZE";
    let queries = ["SELECT * FROM a", "SELECT id, n, doc FROM t"];
    let outputs: &[Output] = &[("a", queries[0]), ("t", queries[1])];
    let config = streams(if from_the_start { &queries } else { &queries[..1] });
    let rig = Rig::new(schema, &config).await;
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", rig.cluster.port())).await;
    let url = rig.database.url.replace(&rig.cluster.port().to_string(), &proxy.port().to_string());
    let options = rig.options_with("limits:\n  copy_snapshot: 800 ms\n");
    let options = loud(rig::with(options, "DATABASE_URL", &url));
    let slow = Fault { bytes_per_second: Some(1 << 20), ..Fault::default() };
    if from_the_start {
        proxy.set(Direction::ToClient, slow.clone());
    }
    let server = HeadwaterProcess::spawn(options);
    let clients = [("u1", rig::client("u1"))].into();
    let mut line = Line { rig, server, outputs: outputs[..1].to_vec(), clients };
    if !from_the_start {
        line.agree("without the table").await;
        proxy.set(Direction::ToClient, slow);
        line.configure(&streams(&queries));
    }
    line.outputs = outputs.to_vec();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for (writer, open) in [(0, 20), (1, 400)] {
        let sql = line.rig.cluster.client(&line.rig.database.name).await;
        writers.spawn(write(sql, writer, Duration::from_millis(open), stop.clone()));
    }
    for kill in [true, false] {
        let first = range(&line, 1).await;
        let next = line.rig.ask("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").await;
        let next: i64 = next.expect("a number").parse().expect("a number");
        range(&line, first + 4).await;
        // What was running when the first range was read is not held back by us any more.
        let held = "SELECT min(xmin)::text FROM (
                SELECT backend_xmin::text::int8 AS xmin FROM pg_stat_activity
                WHERE application_name LIKE 'headwater%'
                UNION ALL SELECT xmin::text::int8 FROM pg_replication_slots) held
            WHERE xmin IS NOT NULL";
        let held = soon("a range is read", line.report(), || line.rig.ask(held)).await;
        let held: i64 = held.parse().expect("a number");
        assert!(held > next, "transactions behind {held} are held back, as {next} was");
        if kill {
            line.server.kill();
            line.server.spawn_again();
        }
    }
    proxy.heal();
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = writers.join_next().await {
        ended.expect("the writer ends");
    }
    line.agree("entered").await;
    assert!(!line.server.log().contains("copy is thrown away"), "{}", line.report().await);
    line.execute("UPDATE t SET n = -1 WHERE id % 100 = 0; DELETE FROM t WHERE id % 100 = 1").await;
    line.agree("followed").await;
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_25_a_table_that_takes_long_is_copied_in_key_ranges_beside_the_stream() {
    copied_in_ranges(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_25_a_first_copy_leaves_out_what_takes_long_and_copies_it_in_key_ranges() {
    copied_in_ranges(true).await;
}

/// A copy that begins again and again, because what is written beside it does not fit, is named with the way out;
/// with less to write it enters.
#[tokio::test(flavor = "multi_thread")]
async fn fd_42_a_copy_that_does_not_fit_beside_what_is_written_is_named_with_its_mend() {
    let schema = "
        CREATE TABLE etl (v text);
        CREATE TABLE t (id int PRIMARY KEY, n int, v text);
        INSERT INTO t SELECT i, 0, repeat('a', 900) FROM generate_series(1, 3000) i";
    let outputs: &[Output] = &[("t", "SELECT id, n FROM t")];
    let rig = Rig::new(schema, &streams(&["SELECT id, n FROM t"])).await;
    let options = rig.options_with("limits:\n  spool_bytes: 16 MB\n");
    let mut line = Line::of(rig, options, &["u1"], outputs).await;
    // The copy does not begin before this has ended.
    let open = line.rig.cluster.client(&line.rig.database.name).await;
    open.batch_execute("BEGIN; INSERT INTO etl VALUES ('x')").await.expect("open");
    line.execute("ALTER TABLE t ADD COLUMN w text; UPDATE t SET n = n + 1 WHERE id = 1").await;
    line.server.until_log("tables are copied").await;
    for _ in 0..10 {
        line.execute("UPDATE t SET n = n + 1").await;
    }
    line.names("limits.spool_bytes").await;
    line.names("HW3055").await;
    let status = rig::status(&line.server).await.expect("a status");
    assert!(status["source"]["copy_starved"].is_string(), "{status}");
    soon("the metric says it", line.report(), || async {
        (rig::metric(&line.server, "headwater_copy_starved").await? == 1.0).then_some(())
    })
    .await;
    open.batch_execute("COMMIT").await.expect("ended");
    line.agree("with less to write").await;
    line.is_well().await;
    soon("the metric is well", line.report(), || async {
        (rig::metric(&line.server, "headwater_copy_starved").await? == 0.0).then_some(())
    })
    .await;
    line.stop().await;
}
