//! The source is another one, or the store is (FD-26, FD-27, FD-30, FD-31).

use std::path::Path;
use std::process::Command;

use hw_testkit::oracle::SyncClient;
use hw_testkit::server::http_get;
use hw_testkit::{HeadwaterProcess, Stop};

use super::{Line, Output, loud, soon, streams};
use crate::rig::{self, Rig};

const SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one'), (2, 'two');
";
const T: &[Output] = &[("t", "SELECT * FROM t")];

fn config() -> String {
    streams(&["SELECT * FROM t"])
}

/// Copies a directory with owners and times.
pub(super) fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "copy of {}", from.display());
}

/// The image is put back and its log grows past the stored position before the server looks.
#[tokio::test(flavor = "multi_thread")]
async fn fd_26_a_source_restored_from_an_image_is_compared() {
    for rows in [0, 5, 60, 2000] {
        let mut line = Line::start(SCHEMA, &config(), &["u1"], T).await;
        line.server.kill();
        line.rig.cluster.stop(Stop::Fast);
        let (data, image) = (line.rig.cluster.data_dir(), line.rig.directory.path().join("image"));
        copy(&data, &image);
        line.rig.cluster.start_again();
        line.rig.sql = line.rig.cluster.client(&line.rig.database.name).await;
        line.server.spawn_again();
        line.execute("INSERT INTO t SELECT 100 + i, 'lost history' FROM generate_series(1, 20) i")
            .await;
        line.agree("in the history that is lost").await;
        line.server.kill();
        line.rig.cluster.stop(Stop::Fast);
        copy(&image, &data);
        line.rig.cluster.start_again();
        line.rig.sql = line.rig.cluster.client(&line.rig.database.name).await;
        for row in 0..rows {
            let text = format!("INSERT INTO t VALUES (1000 + {row}, repeat('x', 300))");
            line.execute(&text).await;
        }
        line.server.spawn_again();
        line.agree(&format!("{rows} rows in the new history")).await;
        line.execute("UPDATE t SET v = 'after' WHERE id = 1").await;
        line.agree("later").await;
        line.is_well().await;
        line.stop().await;
    }
}

/// The log that is left ends far before the one that is lost, and it is that one which is followed.
#[tokio::test(flavor = "multi_thread")]
async fn fd_26_lag_behind_a_restored_source_is_that_of_its_own_log() {
    let mut line = Line::start(SCHEMA, &config(), &["u1"], T).await;
    line.rig.cluster.stop(Stop::Fast);
    let (data, image) = (line.rig.cluster.data_dir(), line.rig.directory.path().join("image"));
    copy(&data, &image);
    line.rig.cluster.start_again();
    line.rig.sql = line.rig.cluster.client(&line.rig.database.name).await;
    line.execute("SELECT pg_switch_wal(); INSERT INTO t VALUES (3, 'lost history')").await;
    line.execute("SELECT pg_switch_wal(); INSERT INTO t VALUES (4, 'lost history')").await;
    line.agree("in the history that is lost").await;
    rig::until_status("nothing is left of it", &line.server, has_no_lag).await;
    line.rig.cluster.stop(Stop::Fast);
    copy(&image, &data);
    line.rig.cluster.start_again();
    line.rig.sql = line.rig.cluster.client(&line.rig.database.name).await;
    line.agree("put back").await;
    rig::until_status("nothing is left of this one", &line.server, has_no_lag).await;
    line.is_well().await;
    line.stop().await;
}

fn has_no_lag(status: &serde_json::Value) -> bool {
    status["source"]["lag_bytes"] == 0 && status["source"]["lag_seconds"] == 0.0
}

/// A store from before: nobody is locked out, no op id is given twice, nobody is answered from the
/// past.
#[tokio::test(flavor = "multi_thread")]
async fn fd_27_an_older_copy_of_the_store_begins_above_everything_given() {
    let mut line = Line::start(SCHEMA, &config(), &["u1"], T).await;
    line.server.stop().await;
    let (data, old) =
        (line.rig.directory.path().join("data"), line.rig.directory.path().join("old"));
    copy(&data, &old);
    line.server.spawn_again();
    for row in 10..40 {
        line.execute(&format!("INSERT INTO t VALUES ({row}, 'x')")).await;
    }
    line.execute("UPDATE t SET v = 'y'").await;
    line.agree("further than the copy").await;
    let given = line.clients["u1"].last_op();
    line.server.stop().await;
    copy(&old, &data);
    line.server.spawn_again();
    // On a quiet source: the client that was there is let in and has what is right.
    line.agree("with the older copy").await;
    line.execute("INSERT INTO t VALUES (99, 'later')").await;
    // In the new epoch, where every bucket begins anew.
    line.clients.values_mut().for_each(SyncClient::forget);
    line.agree("later").await;
    let fresh = super::fresh(&line.server, "u1").await;
    assert!(fresh.last_op() > given, "E-3: {} is not above {given}", fresh.last_op());
    line.stop().await;
}

/// E-10: what the store lacks is compared, which waits here for somebody's transaction. Nobody is answered
/// meanwhile, whatever he holds and whatever became of the slot.
#[tokio::test(flavor = "multi_thread")]
async fn fd_27_nobody_is_answered_from_an_older_copy_of_the_store() {
    const DROP: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
        WHERE database = current_database()";
    // Whoever is not answered waits for ten seconds first.
    tokio::join!(put_back_alone(""), put_back_alone(DROP));
}

/// - Takes: what happens to the slot meanwhile.
async fn put_back_alone(slot: &str) {
    let mut line = Line::start(SCHEMA, &config(), &["u1"], T).await;
    line.server.stop().await;
    let directory = line.rig.directory.path();
    let (data, old) = (directory.join("data"), directory.join("old"));
    copy(&data, &old);
    line.server.spawn_again();
    line.execute("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (3, 'three')").await;
    line.agree("further than the copy").await;
    line.server.stop().await;
    nobody_reads(&line).await;
    line.execute(slot).await;
    copy(&old, &data);
    // It has a number, so the copy waits for it.
    let open = line.rig.cluster.client(&line.rig.database.name).await;
    open.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("open");
    for start in 0..2 {
        line.server.spawn_again();
        // Another process of the same store does not forget it.
        nobody_is_answered(&line, &format!("{slot} {start}")).await;
        line.server.kill();
    }
    open.batch_execute("COMMIT").await.expect("ended");
    line.server.spawn_again();
    line.clients.get_mut("u1").expect("it is there").accepts_anew = true;
    line.agree("compared").await;
    line.is_well().await;
    line.stop().await;
}

/// The walsender of a server that has stopped may live a little longer.
async fn nobody_reads(line: &Line) {
    soon("nobody reads the slot", line.report(), || async {
        let reads = "SELECT count(*) FROM pg_replication_slots WHERE active";
        (line.rig.ask(reads).await.as_deref() == Some("0")).then_some(())
    })
    .await;
}

/// The store was put back, or another one was in its place: everything is to be compared.
async fn nobody_is_answered(line: &Line, what: &str) {
    line.names("HW3105").await;
    let address = line.server.address();
    let (mut one, mut other) = (rig::client("u2"), rig::client("u1"));
    let (one, other) = tokio::join!(one.connect(address), other.connect(address));
    for answer in [one, other] {
        let refused = answer.expect_err("nobody is answered").to_string();
        assert!(refused.contains("503"), "{what}: {refused}");
    }
    let ready = http_get(address, "/probes/readiness", &[]).await.expect("answered");
    assert_eq!(ready.status, 400, "{what}");
}

/// E-10: a store in whose place another one was answers nobody either, also while the slot is not its own
/// to take.
#[tokio::test(flavor = "multi_thread")]
async fn fd_27_nobody_is_answered_from_a_store_that_another_one_has_followed() {
    let mut line = Line::start(SCHEMA, &config(), &["u1"], T).await;
    line.server.stop().await;
    let mut options = rig::with(line.rig.options(), "HEADWATER_DATA_DIR", &line.rig.path("other"));
    options.arguments.push("--take-over".into());
    let mut second = HeadwaterProcess::spawn(loud(options));
    second.until_ready().await;
    line.execute("DELETE FROM t WHERE id = 1").await;
    let mut client = rig::client("u2");
    rig::caught_up(&mut client, &second).await;
    second.stop().await;
    for start in 0..2 {
        line.server.spawn_again();
        nobody_is_answered(&line, &start.to_string()).await;
        line.names("HW3052").await;
        line.server.kill();
    }
    let mut options = line.rig.options();
    options.arguments.push("--take-over".into());
    line.server = HeadwaterProcess::spawn(loud(options));
    line.clients.get_mut("u1").expect("it is there").accepts_anew = true;
    line.agree("compared").await;
    line.is_well().await;
    line.stop().await;
}

/// Who takes a slot over is remembered before anything is copied or shown, however soon it ends.
#[tokio::test(flavor = "multi_thread")]
async fn fd_28_who_takes_a_slot_over_is_remembered_before_anything_is_shown() {
    let mut line = Line::start(SCHEMA, &config(), &["u1"], T).await;
    let store = async |line: &Line| {
        let text = line.rig.ask(REMEMBERED).await?;
        text.split("store ").nth(1)?.split(',').next().map(str::to_owned)
    };
    let first = store(&line).await.expect("it streams, so it is remembered");
    line.server.stop().await;
    // The copy of the second waits for it.
    let open = line.rig.cluster.client(&line.rig.database.name).await;
    open.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("open");
    let mut options = rig::with(line.rig.options(), "HEADWATER_DATA_DIR", &line.rig.path("other"));
    options.arguments.push("--take-over".into());
    let mut second = HeadwaterProcess::spawn(loud(options));
    soon("the second is remembered", line.report(), || async {
        store(&line).await.filter(|now| *now != first).map(drop)
    })
    .await;
    let ready = http_get(second.address(), "/probes/readiness", &[]).await.expect("answered");
    assert_eq!(ready.status, 400, "nothing was shown yet");
    second.kill();
    line.server.spawn_again();
    line.names("HW3105").await;
    open.batch_execute("COMMIT").await.expect("ended");
    line.clients.get_mut("u1").expect("it is there").accepts_anew = true;
    line.server.kill();
    let mut options = line.rig.options();
    options.arguments.push("--take-over".into());
    line.server = HeadwaterProcess::spawn(loud(options));
    line.agree("compared").await;
    line.stop().await;
}

/// Where the source may not remember who uses the slot, it is followed all the same, and that is said. What
/// is mended is noticed soon, also while everything is copied.
#[tokio::test(flavor = "multi_thread")]
async fn fd_28_a_source_that_cannot_remember_a_store_is_followed_and_named() {
    let mut rig = Rig::new(SCHEMA, &config()).await;
    rig.execute("CREATE ROLE app LOGIN REPLICATION; ALTER TABLE t OWNER TO app").await;
    rig.execute(&format!("GRANT CREATE ON DATABASE {} TO app", rig.database.name)).await;
    rig.execute("REVOKE EXECUTE ON FUNCTION lo_create(oid) FROM PUBLIC").await;
    rig.database.url = rig.cluster.url_as("app", None, &rig.database.name);
    let options = rig.options();
    let mut line = Line::of(rig, options, &["u1"], T).await;
    line.names("HW2125").await;
    line.execute("INSERT INTO t VALUES (3, 'three')").await;
    line.agree("it is followed").await;
    let mend = "GRANT EXECUTE ON FUNCTION pg_catalog.lo_create(oid) TO \"app\";";
    line.logs(&mend.replace('"', "\\\"")).await;
    line.execute(mend).await;
    line.is_well().await;
    assert!(line.rig.ask(REMEMBERED).await.is_some());
    line.server.stop().await;
    nobody_reads(&line).await;
    line.execute(
        "SELECT lo_unlink(oid) FROM pg_largeobject_metadata;
         SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots;
         REVOKE EXECUTE ON FUNCTION lo_create(oid) FROM app",
    )
    .await;
    // The copy waits for it.
    let open = line.rig.cluster.client(&line.rig.database.name).await;
    open.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("open");
    line.server.spawn_again();
    line.logs("HW2125").await;
    line.execute(mend).await;
    soon("it is remembered", line.report(), || async { line.rig.ask(REMEMBERED).await.map(drop) })
        .await;
    open.batch_execute("COMMIT").await.expect("ended");
    line.agree("compared").await;
    line.is_well().await;
    line.stop().await;
}

/// Somebody's lock on what the source remembers holds up nobody: it is followed all the same, and named
/// when it lasts.
#[tokio::test(flavor = "multi_thread")]
async fn fd_28_a_lock_on_what_the_source_remembers_holds_up_nobody() {
    let mut line = Line::start(SCHEMA, &config(), &["u1"], T).await;
    line.is_well().await;
    line.server.stop().await;
    let locker = line.rig.cluster.client(&line.rig.database.name).await;
    locker.batch_execute(&format!("BEGIN; {}", remember("\\1"))).await.expect("locked");
    line.server.spawn_again();
    line.execute("INSERT INTO t VALUES (3, 'three')").await;
    line.agree("it is followed").await;
    line.names("HW2125").await;
    locker.batch_execute("ROLLBACK").await.expect("ended");
    line.is_well().await;
    line.stop().await;
}

/// SQL that makes the source remember another store; `\1` is the same.
fn remember(store: &str) -> String {
    format!(
        "DO $$ DECLARE place oid; said text; BEGIN
           SELECT oid, obj_description(oid, 'pg_largeobject') INTO STRICT place, said
             FROM pg_largeobject_metadata;
           EXECUTE format('COMMENT ON LARGE OBJECT %s IS %L', place,
             regexp_replace(said, 'store ([0-9a-f]+)', 'store {store}'));
         END $$"
    )
}

/// What the source remembers of the store.
const REMEMBERED: &str = "SELECT pg_catalog.obj_description(oid, 'pg_largeobject')
    FROM pg_catalog.pg_largeobject_metadata";

/// Whether the store is an older one nobody can say then.
#[tokio::test(flavor = "multi_thread")]
async fn f_9_a_server_that_starts_while_the_source_is_away_serves_what_it_holds() {
    let mut line = Line::start(SCHEMA, &config(), &["u1"], T).await;
    line.server.kill();
    line.rig.cluster.stop(Stop::Fast);
    line.server.spawn_again();
    line.server.until_ready().await;
    let mut client = rig::client("u2");
    client.connect(line.server.address()).await.expect("it is answered");
    while client.table("t").is_empty() {
        client.step().await.expect("a state");
    }
    assert_eq!(client.table("t").len(), 2);
    line.rig.cluster.start_again();
    line.rig.sql = line.rig.cluster.client(&line.rig.database.name).await;
    line.agree("with the source").await;
    line.stop().await;
}

/// `--take-over` counts once: a store that took the slot since is not the one which was said to be gone.
#[tokio::test(flavor = "multi_thread")]
async fn fd_30_a_server_that_took_a_slot_over_notices_who_took_it_since_and_stays_away() {
    let rig = Rig::new(SCHEMA, &config()).await;
    let mut options = rig.options();
    options.arguments.push("--take-over".into());
    let line = Line::of(rig, options, &["u1"], T).await;
    line.is_well().await;
    let another = "f".repeat(32);
    line.execute(&remember(&another)).await;
    line.names("HW3052").await;
    nobody_is_answered(&line, "overtaken").await;
    let remembered = line.rig.ask(REMEMBERED).await.expect("it is remembered");
    assert!(remembered.contains(&another), "{remembered}");
    let read = line.rig.ask("SELECT count(*) FROM pg_replication_slots WHERE active").await;
    assert_eq!(read.as_deref(), Some("0"));
    line.stop().await;
}

/// E-10: who lost the slot while it was paused is not ready, and its streams do not go on as if. That
/// is so too for one that was told to take the slot over when it started.
#[tokio::test(flavor = "multi_thread")]
async fn fd_30_a_server_that_lost_its_slot_while_it_was_paused_is_not_ready() {
    tokio::join!(overtaken_while_paused(&[]), overtaken_while_paused(&["--take-over"]));
}

/// - Takes: how the first one was started.
async fn overtaken_while_paused(arguments: &[&str]) {
    let rig = Rig::new(SCHEMA, &config()).await;
    let mut options = rig.options();
    options.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    let line = Line::of(rig, options, &["u1"], T).await;
    line.is_well().await;
    line.server.signal(libc::SIGSTOP);
    line.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
        .await;
    let mut options = rig::with(line.rig.options(), "HEADWATER_DATA_DIR", &line.rig.path("other"));
    options.arguments.push("--take-over".into());
    let mut second = HeadwaterProcess::spawn(loud(options));
    second.until_ready().await;
    line.execute("INSERT INTO t VALUES (3, 'by the second')").await;
    line.server.signal(libc::SIGCONT);
    let address = line.server.address();
    soon("the first is not ready", line.report(), || async {
        let answer = http_get(address, "/probes/readiness", &[]).await.ok()?;
        (answer.status != 200).then_some(())
    })
    .await;
    let status = rig::status(&line.server).await.expect("a report");
    assert!(!status["trouble"].is_null(), "{status}");
    // What it has is not what clients are shown by the second.
    nobody_is_answered(&line, "overtaken").await;
    line.names("HW3052").await;
    second.stop().await;
    line.stop().await;
}

/// E-10: who wakes while another one makes its first copy, and has no slot at that moment, leaves it the slot. Nobody
/// is answered by two servers, and nothing is numbered twice.
#[tokio::test(flavor = "multi_thread")]
async fn fd_30_a_server_that_wakes_while_another_one_makes_its_slot_stays_away() {
    let line = Line::start(SCHEMA, &config(), &["u1"], T).await;
    line.is_well().await;
    let given = line.clients["u1"].last_op();
    line.server.signal(libc::SIGSTOP);
    let terminate =
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
    line.execute(terminate).await;
    // The slot of the second waits for it.
    let open = line.rig.cluster.client(&line.rig.database.name).await;
    open.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("open");
    let mut options = rig::with(line.rig.options(), "HEADWATER_DATA_DIR", &line.rig.path("other"));
    options.arguments.push("--take-over".into());
    let mut second = HeadwaterProcess::spawn(loud(options));
    soon("the second makes a slot", line.report(), || async {
        let made = "SELECT count(*) FROM pg_replication_slots WHERE active AND confirmed_flush_lsn IS NULL";
        (line.rig.ask(made).await.as_deref() == Some("1")).then_some(())
    })
    .await;
    // It comes to nothing, and is not begun again yet.
    second.signal(libc::SIGSTOP);
    line.execute(terminate).await;
    soon("there is no slot", line.report(), || async {
        let slots = line.rig.ask("SELECT count(*) FROM pg_replication_slots").await;
        (slots.as_deref() == Some("0")).then_some(())
    })
    .await;
    let remembered = line.rig.ask(REMEMBERED).await.expect("it is remembered");
    line.server.signal(libc::SIGCONT);
    line.names("HW3052").await;
    nobody_is_answered(&line, "overtaken").await;
    assert_eq!(line.rig.ask(REMEMBERED).await, Some(remembered));
    second.signal(libc::SIGCONT);
    open.batch_execute("COMMIT").await.expect("ended");
    second.until_ready().await;
    let fresh = super::fresh(&second, "u1").await;
    assert!(fresh.last_op() > given, "E-3: {} is not above {given}", fresh.last_op());
    nobody_is_answered(&line, "and for good").await;
    line.names("HW3052").await;
    second.stop().await;
    line.stop().await;
}

/// E-3: a store that is begun in the place of one that was lost gives numbers above all that were shown, however soon
/// the one before was lost.
#[tokio::test(flavor = "multi_thread")]
async fn e_3_stores_that_are_lost_one_after_the_other_begin_each_above_the_one_before() {
    let mut line = Line::start(SCHEMA, &config(), &["u1"], T).await;
    let mut given = line.clients["u1"].last_op();
    for lost in 0..4 {
        lose(&mut line).await;
        let now = super::fresh(&line.server, "u1").await.last_op();
        assert!(now > given, "{lost}: {now} is not above {given}");
        // Of the first the source is reminded by two processes; the others are lost at once.
        if lost == 0 {
            line.server.stop().await;
            line.server.spawn_again();
            line.server.until_ready().await;
        }
        given = super::fresh(&line.server, "u1").await.last_op();
    }
    line.stop().await;
}

/// The data directory is lost, and another one is begun in its place.
async fn lose(line: &mut Line) {
    line.server.kill();
    std::fs::remove_dir_all(line.rig.path("data")).expect("it was there");
    let mut options = line.rig.options();
    options.arguments.push("--take-over".into());
    line.server = HeadwaterProcess::start(loud(options)).await;
}

/// E-3: numbers of write checkpoints do not go back with a store that was lost: whoever waits for one sees what is
/// served now.
#[tokio::test(flavor = "multi_thread")]
async fn e_3_whoever_waits_for_a_write_checkpoint_of_a_lost_store_waits_no_longer() {
    let mut line = Line::start(SCHEMA, &config(), &["u1"], T).await;
    // Numbers are those of the process, too.
    line.server.stop().await;
    line.server.spawn_again();
    line.agree("by another process").await;
    let asked = line.clients["u1"].ask_write_checkpoint(line.server.address()).await;
    let waits_for = asked.expect("a number");
    lose(&mut line).await;
    line.clients.get_mut("u1").expect("it is there").accepts_anew = true;
    line.follow("u1", "it waits no longer", |c| c.write_checkpoint >= Some(waits_for)).await;
    line.agree("at the end").await;
    line.stop().await;
}

/// The slot is there, its log is not: as a slot that was lost.
#[tokio::test(flavor = "multi_thread")]
async fn fd_31_log_that_is_gone_without_a_lost_slot_is_a_compared_copy() {
    let rig = Rig::new(SCHEMA, &config()).await;
    let options = rig.options();
    let mut line = Line::of(rig, options, &["u1"], T).await;
    line.server.kill();
    line.execute("UPDATE t SET v = 'unseen'; DELETE FROM t WHERE id = 2").await;
    line.rig.cluster.stop(Stop::Fast);
    // A new segment far ahead, as `pg_resetwal -l` makes it; the slot's own is removed.
    let data = line.rig.cluster.data_dir();
    let owner = std::fs::metadata(&data).expect("it is there");
    let mut reset = Command::new(line.rig.cluster.bin_dir().join("pg_resetwal"));
    reset.args(["-f", "-l", "000000010000000000000040"]).arg(&data);
    {
        use std::os::unix::fs::MetadataExt;
        use std::os::unix::process::CommandExt;
        reset.uid(owner.uid()).gid(owner.gid());
    }
    let done = reset.output().expect("pg_resetwal is beside postgres");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    line.rig.cluster.start_again();
    line.rig.sql = line.rig.cluster.client(&line.rig.database.name).await;
    line.server.spawn_again();
    line.agree("compared").await;
    line.execute("INSERT INTO t VALUES (3, 'later')").await;
    line.agree("later").await;
    line.is_well().await;
    line.stop().await;
}

/// E-3, E-10: data directory and database go back together, so that nothing but the clients knows
/// more. They come to what SQL answers, no op id is given twice, and the status says what happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_put_back_from_a_snapshot_is_recognised_by_what_clients_hold() {
    // The second table's bucket has no row in the snapshot.
    const TABLES: &[Output] = &[("t", "SELECT * FROM t"), ("u", "SELECT * FROM u")];
    let schema = format!("{SCHEMA} CREATE TABLE u (id int PRIMARY KEY, v text);");
    let config = streams(&["SELECT * FROM t", "SELECT * FROM u"]);
    let mut line = Line::start(&schema, &config, &["u1", "u2"], TABLES).await;
    line.server.stop().await;
    line.rig.cluster.stop(Stop::Fast);
    let directory = line.rig.directory.path();
    let postgres = (line.rig.cluster.data_dir(), directory.join("image"));
    let store = (directory.join("data"), directory.join("old"));
    for (from, to) in [&postgres, &store] {
        copy(from, to);
    }
    start(&mut line).await;
    for row in 10..40 {
        line.execute(&format!("INSERT INTO t VALUES ({row}, 'lost')")).await;
    }
    line.execute("UPDATE t SET v = 'lost'; INSERT INTO u VALUES (1, 'lost')").await;
    line.agree("in the history that is lost").await;
    let given = line.clients["u1"].last_op();
    // Of a write that is lost.
    let asked = line.clients["u1"].ask_write_checkpoint(line.server.address()).await;
    let waits_for = asked.expect("a number");
    // One that was not there in the history that is lost.
    let mut absent = rig::client("u3");
    for times in 0..2 {
        line.server.kill();
        line.rig.cluster.stop(Stop::Fast);
        for (to, from) in [&postgres, &store] {
            copy(from, to);
        }
        start(&mut line).await;
        // Another history, of as many operations and of one.
        line.execute("INSERT INTO t VALUES (10, 'found')").await;
        line.agree("put back").await;
        line.follow("u1", "it waits no longer", |c| c.write_checkpoint >= Some(waits_for)).await;
        for row in 11..60 {
            line.execute(&format!("INSERT INTO t VALUES ({row}, 'found')")).await;
        }
        line.execute("UPDATE t SET v = 'found' || id").await;
        line.agree("later").await;
        rig::caught_up(&mut absent, &line.server).await;
        assert!(absent.last_op() > given, "E-3: {} is not above {given}", absent.last_op());
        let status = rig::status(&line.server).await.expect("a report");
        let said = status["store"]["went_back"].as_str().unwrap_or_default();
        assert!(said.starts_with("HW3104"), "{times}: {status}");
        assert!(line.server.log().contains("HW3104"));
        line.is_well().await;
    }
    line.stop().await;
}

async fn start(line: &mut Line) {
    line.rig.cluster.start_again();
    line.rig.sql = line.rig.cluster.client(&line.rig.database.name).await;
    line.server.spawn_again();
}

/// A transaction that Postgres cannot send before its end: its walsender fails at the same place for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_cannot_be_sent_early_is_sent_behind_its_end() {
    let cluster = rig::cluster_with(&[("logical_decoding_work_mem", "64kB")]);
    let mut line = Line::on(cluster, SCHEMA, &config(), T).await;
    line.execute("INSERT INTO t SELECT i, 'many' FROM generate_series(3, 3000) i").await;
    line.execute(
        "BEGIN; SAVEPOINT one; ALTER TABLE t ADD COLUMN note text; ALTER TABLE t ALTER v TYPE varchar(9);
         ROLLBACK TO one; UPDATE t SET v = 'y' || id; ALTER TABLE t ALTER v TYPE char(20);
         UPDATE t SET v = 'z' || id WHERE id > 5; COMMIT",
    )
    .await;
    line.agree("behind its end").await;
    assert_eq!(line.server.log().matches("HW3054").count(), 1, "{}", line.server.log());
    line.is_well().await;
    rig::until_status("it says so", &line.server, |s| s["source"]["sent_whole"] == true).await;
    line.execute("UPDATE t SET v = 'w' || id").await;
    line.agree("and goes on").await;
    line.server.kill();
    line.server.spawn_again();
    line.execute("UPDATE t SET v = 'x' || id").await;
    line.agree("early again, by a new process").await;
    rig::until_status("it says so", &line.server, |s| s["source"]["sent_whole"] == false).await;
    line.stop().await;
}

/// A walsender that hangs keeps the slot: it is named as our own, and what the source keeps for the slot is
/// asked for all the while.
#[tokio::test(flavor = "multi_thread")]
async fn fd_61_a_walsender_that_hangs_is_named_and_the_log_kept_for_it_is_measured() {
    let schema = "CREATE TABLE t (id text PRIMARY KEY)";
    let outputs: &[Output] = &[("t", "SELECT * FROM t")];
    let mut line = Line::on(rig::cluster(), schema, &streams(&["SELECT * FROM t"]), outputs).await;
    let walsender = "SELECT active_pid FROM pg_replication_slots WHERE active";
    let pid: i32 = line.rig.sql.query_one(walsender, &[]).await.expect("asked").get(0);
    let retained = async || rig::status(&line.server).await?["source"]["retained_bytes"].as_u64();
    let before = soon("it is known", line.report(), &retained).await;
    let signal = |signal: &str| {
        let sent = Command::new("kill").args([signal, &pid.to_string()]).status();
        assert!(sent.expect("kill runs").success());
    };
    signal("-STOP");
    line.names("HW2126").await;
    line.names(&format!("pid {pid} ")).await;
    line.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 4000000))").await;
    soon("what is kept grows", line.report(), || async {
        retained().await.filter(|now| *now > before + 3_000_000).map(drop)
    })
    .await;
    signal("-CONT");
    line.execute("INSERT INTO t VALUES ('later')").await;
    line.agree("it goes on").await;
    line.is_well().await;
    line.stop().await;
}

/// Somebody's open transaction makes the source keep its log for our slot: that is measured, and said before and when
/// it is more than it may be.
#[tokio::test(flavor = "multi_thread")]
async fn fd_59_the_alarm_for_retained_log_fires() {
    let schema = "CREATE TABLE t (id text PRIMARY KEY); CREATE TABLE other (id text)";
    let rig = Rig::on(rig::cluster(), schema, &streams(&["SELECT * FROM t"])).await;
    let options = rig.options_with("limits:\n  retained_log: 16 MB\n");
    let mut line = Line::of(rig, options, &["u1"], &[("t", "SELECT * FROM t")]).await;
    let idle = line.rig.cluster.client(&line.rig.database.name).await;
    idle.batch_execute("BEGIN; INSERT INTO other VALUES ('open')").await.expect("open");
    let said = line.server.log().contains("of log for us");
    assert!(!said, "nothing is kept yet: {}", line.report().await);
    // One checkpoint behind it, so that the slot could move on but for the transaction.
    for _ in 0..3 {
        line.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 4000000))").await;
    }
    line.logs("of log for us, limit 16").await;
    for _ in 0..3 {
        line.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 4000000))").await;
    }
    line.logs("of log for us, more than 16").await;
    rig::until_status("it is measured", &line.server, |status| {
        status["source"]["retained_bytes"].as_u64() > Some(16 << 20)
    })
    .await;
    idle.batch_execute("ROLLBACK").await.expect("over");
    line.execute("INSERT INTO t VALUES ('later')").await;
    line.agree("it goes on").await;
    line.stop().await;
}
