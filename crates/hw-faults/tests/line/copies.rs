//! Copies beside which something happens (FD-4, FD-23, FD-24).

use hw_testkit::oracle::difference;
use hw_testkit::{Direction, Fault, FaultProxy};

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
