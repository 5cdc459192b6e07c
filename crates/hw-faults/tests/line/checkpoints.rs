//! Write checkpoints beside tables that cannot be followed (FD-32, FD-33).

use super::{Line, Output, soon, streams};
use crate::rig;

const SCHEMA: &str = "
    CREATE TABLE etl (v text);
    CREATE TABLE a (id text PRIMARY KEY, v text); CREATE TABLE b (id text PRIMARY KEY, v text);
    INSERT INTO a VALUES ('1', '1'); INSERT INTO b VALUES ('1', '1');
";
const BOTH: &[Output] = &[("a", "SELECT * FROM a"), ("b", "SELECT * FROM b")];

fn both() -> String {
    streams(&["SELECT * FROM a", "SELECT * FROM b"])
}

/// A write checkpoint arrives.
async fn arrives(line: &Line, when: &str) {
    let mut client = rig::client("u1");
    let caught = tokio::time::timeout(super::SOON, client.catch_up(line.server.address())).await;
    match caught {
        Ok(caught) => caught.expect("followed"),
        Err(_) => panic!("{when}: the write checkpoint does not come\n{}", line.report().await),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_32_a_table_that_nobody_reads_any_more_holds_back_nobody() {
    let mut line = Line::start(SCHEMA, &both(), &["u1"], BOTH).await;
    line.configure(&streams(&["SELECT * FROM a"]));
    line.follow("u1", "b is gone", |client| client.table("b").is_empty()).await;
    line.execute("ALTER TABLE b ADD COLUMN w text; INSERT INTO b VALUES ('2', '2', '2')").await;
    arrives(&line, "b is stale and unnamed").await;
    line.server.kill();
    line.server.spawn_again();
    line.server.until_ready().await;
    arrives(&line, "behind a restart").await;
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_32_a_table_that_is_gone_holds_back_nobody() {
    for gone in [
        "BEGIN; ALTER TABLE b ADD COLUMN w text; UPDATE b SET w = 'x'; COMMIT; DROP TABLE b",
        "UPDATE b SET v = 'x'; ALTER TABLE b RENAME TO c; INSERT INTO c VALUES ('9', 'x')",
        "ALTER TABLE b DROP CONSTRAINT b_pkey; INSERT INTO b VALUES ('9', 'x')",
        "ALTER TABLE b REPLICA IDENTITY NOTHING; INSERT INTO b VALUES ('9', 'x')",
    ] {
        let line = Line::start(SCHEMA, &streams(&["SELECT * FROM b"]), &[], &[]).await;
        line.configure(&streams(&["SELECT * FROM a"]));
        arrives(&line, "before").await;
        line.execute(gone).await;
        arrives(&line, gone).await;
        line.execute("INSERT INTO a VALUES ('2', 'x')").await;
        arrives(&line, "later").await;
        line.stop().await;
    }
}

/// Dropped while it is served: its rows leave, and what waited for it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn fd_32_a_served_table_that_is_dropped_holds_back_nobody() {
    let line = Line::start(SCHEMA, &both(), &["u1"], BOTH).await;
    line.execute(
        "BEGIN; ALTER TABLE b ADD COLUMN w text; UPDATE b SET w = 'x'; COMMIT; DROP TABLE b",
    )
    .await;
    line.names("public.b").await;
    arrives(&line, "b is dropped").await;
    line.stop().await;
}

/// The unrelated open transaction keeps `b` from entering until the write checkpoint is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn fd_33_a_held_write_checkpoint_survives_a_crash_behind_the_entering_step() {
    for at in 1..=3 {
        let mut line = Line::start(SCHEMA, &both(), &["u1"], BOTH).await;
        line.server.kill();
        line.server.set_environment("HEADWATER_FAILPOINT", &format!("large::after_cut:{at}"));
        line.server.spawn_again();
        line.server.until_ready().await;
        let open = line.rig.cluster.client(&line.rig.database.name).await;
        open.batch_execute("BEGIN; INSERT INTO etl VALUES ('x')").await.expect("open");
        line.execute("ALTER TABLE b ADD COLUMN w text; INSERT INTO b VALUES ('2', '2', '2')").await;
        line.server.until_log("copied again").await;
        let mut asker = rig::client("u1");
        let address = line.server.address();
        let asked = asker.ask_write_checkpoint(address).await.expect("asked");
        open.batch_execute("COMMIT").await.expect("ended");
        let died = soon("it dies, or b has entered", line.report(), || async {
            if !hw_testkit::server::is_listening(address) {
                return Some(true);
            }
            let status = rig::status(&line.server).await?;
            let well = status["trouble"].is_null() && status["copies"] == serde_json::json!([]);
            let entered = line.server.log().matches("tables have entered").count() > 1;
            (well && entered).then_some(false)
        })
        .await;
        line.server.kill();
        line.server.set_environment("HEADWATER_FAILPOINT", "");
        line.server.spawn_again();
        line.server.until_ready().await;
        let follow = asker.follow_until(address, |client| client.write_checkpoint >= Some(asked));
        if tokio::time::timeout(super::SOON, follow).await.is_err() {
            panic!("cut {at} (died: {died}): {asked} never comes\n{}", line.report().await);
        }
        line.agree("behind the crash").await;
        line.stop().await;
    }
}

/// How many write checkpoints wait, for which definition, stands in status and metrics while they do.
#[tokio::test(flavor = "multi_thread")]
async fn fd_32_write_checkpoints_that_are_held_back_are_counted_by_definition() {
    let mut line = Line::start(SCHEMA, &both(), &["u1"], BOTH).await;
    let held = async |line: &Line| {
        let status = rig::status(&line.server).await?;
        let held = status["sync"]["held"].as_array()?.iter();
        let held = held.map(|one| (one["definition"].clone(), one["write_checkpoints"].as_u64()));
        let metric = rig::metric(&line.server, "headwater_write_checkpoints_held").await?;
        Some((held.collect::<Vec<_>>(), metric))
    };
    let open = line.rig.cluster.client(&line.rig.database.name).await;
    open.batch_execute("BEGIN; INSERT INTO etl VALUES ('x')").await.expect("open");
    line.execute("ALTER TABLE b ADD COLUMN w text; INSERT INTO b VALUES ('2', '2', '2')").await;
    line.server.until_log("copied again").await;
    let mut askers = [rig::client("u1"), rig::client("u2")];
    for asker in &mut askers {
        asker.ask_write_checkpoint(line.server.address()).await.expect("asked");
    }
    soon("both are counted", line.report(), || async {
        (held(&line).await? == (vec![("s1".into(), Some(2))], 2.0)).then_some(())
    })
    .await;
    open.batch_execute("COMMIT").await.expect("ended");
    soon("none waits any more", line.report(), || async {
        (held(&line).await? == (vec![], 0.0)).then_some(())
    })
    .await;
    line.agree("b has entered").await;
    line.stop().await;
}
