//! The store fails while two connections never stop committing (FD-1, FD-3, FD-5, FD-6), and its files
//! are damaged (FD-7).
//!
//! What is lost in a restart of the writer is what waits in its queue, so the queue must never be
//! empty: the load is as much as Postgres takes, and stops when the fault is over.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hw_testkit::ProcessOptions;
use hw_testkit::disk::{FaultyDisk, SmallDisk, fill};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Line, Output, soon, streams};
use crate::rig::{self, Rig};

/// Rows that do not compress, of which clients are sent the key alone; `o` is what must come.
const SCHEMA: &str = "
    CREATE TABLE t (id int8 PRIMARY KEY, v text); CREATE TABLE o (id int8 PRIMARY KEY, v text);
    INSERT INTO o VALUES (0, 'o');
    CREATE PROCEDURE load(first int8) LANGUAGE plpgsql AS $$ BEGIN
      FOR i IN 0..99 LOOP
        INSERT INTO t VALUES (first + i, md5(random()::text) || md5(random()::text)
          || md5(random()::text) || md5(random()::text) || md5(random()::text));
        COMMIT;
        PERFORM pg_sleep(0.003);
      END LOOP;
    END $$;
";
const OUTPUTS: &[Output] = &[("t", "SELECT id FROM t"), ("o", "SELECT * FROM o")];

fn config() -> String {
    streams(&["SELECT id FROM t", "SELECT * FROM o"])
}

/// Two connections that commit all the time.
pub(super) struct Load {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<i64>>,
}

impl Load {
    pub(super) async fn start(rig: &Rig) -> Load {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        for writer in 1..=2_i64 {
            let sql = rig.cluster.client(&rig.database.name).await;
            let stopped = stopped.clone();
            tasks.push(tokio::spawn(async move {
                let mut rows = 0;
                while !*stopped.borrow() {
                    let call = format!("CALL load({})", writer * 1_000_000_000 + rows);
                    sql.batch_execute(&call).await.expect("written");
                    rows += 100;
                }
                rows
            }));
        }
        Load { stop, tasks }
    }

    /// Returns how many transactions there were.
    pub(super) async fn end(self) -> i64 {
        self.stop.send_replace(true);
        let mut rows = 0;
        for task in self.tasks {
            rows += task.await.expect("it wrote");
        }
        rows
    }
}

/// The client has new rows, so transactions go through while the load is on.
async fn flows(line: &mut Line) {
    let before = line.clients["u1"].rows().len();
    line.follow("u1", "rows flow", |client| client.rows().len() > before + 50).await;
}

/// The status has a trouble.
async fn is_troubled(line: &Line) {
    soon("somebody is told", line.report(), || async {
        rig::status(&line.server).await.filter(|status| !status["trouble"].is_null()).map(drop)
    })
    .await;
}

/// Everything is there, the process is the same, and nobody complains any more.
async fn nothing_is_lost(mut line: Line, load: Load, pid: u32) {
    let rows = load.end().await;
    line.execute("INSERT INTO o VALUES (1, 'behind the load')").await;
    // As long as it takes to come through all of it; the order of the log says that it is the last.
    let address = line.server.address();
    let client = line.clients.get_mut("u1").expect("it is there");
    let last = client.follow_until(address, |client| client.table("o").contains_key("1"));
    let patience = Duration::from_secs(60) + Duration::from_millis(5) * rows as u32;
    if tokio::time::timeout(patience, last).await.is_err() {
        panic!("the last row does not come\n{}", line.report().await);
    }
    line.agree("behind the load").await;
    assert_eq!(line.server.pid(), pid, "the same process");
    line.is_well().await;
    line.stop().await;
}

/// With bounds that a test needs, data in `data`.
async fn serve(rig: Rig, data: &Path, limits: &str, more: &[(String, String)]) -> Line {
    let options = if limits.is_empty() { rig.options() } else { rig.options_with(limits) };
    let mut options = rig::with(options, "HEADWATER_DATA_DIR", &data.display().to_string());
    options.environment.extend_from_slice(more);
    Line::of(rig, options, &["u1"], OUTPUTS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_1_a_full_disk_under_load_loses_nothing() {
    let disk = hw_testkit::needs!(SmallDisk::mount(200));
    let rig = Rig::new(SCHEMA, &config()).await;
    let mut line = serve(rig, &disk.path("data"), "", &[]).await;
    let pid = line.server.pid();
    let load = Load::start(&line.rig).await;
    for _ in 0..2 {
        flows(&mut line).await;
        let ballast = disk.path("ballast");
        fill(&ballast, 100 << 10);
        is_troubled(&line).await;
        std::fs::remove_file(&ballast).expect("removed");
        line.is_well().await;
    }
    nothing_is_lost(line, load, pid).await;
}

/// Spools run full beside small commits, without any fault of a disk. The large transaction fits.
#[tokio::test(flavor = "multi_thread")]
async fn fd_1_a_full_spool_under_load_loses_nothing() {
    let cluster = rig::cluster_with(&[("logical_decoding_work_mem", "64kB")]);
    let rig = Rig::on(cluster, SCHEMA, &config()).await;
    let limits = "limits:\n  spool_bytes: 16 MB\n  transaction_memory: 1 MB\n  sort_memory: 1 MB\n";
    let data = rig.directory.path().join("data");
    let mut line = serve(rig, &data, limits, &[]).await;
    let pid = line.server.pid();
    let load = Load::start(&line.rig).await;
    flows(&mut line).await;
    line.execute("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 30000) i").await;
    nothing_is_lost(line, load, pid).await;
}

/// Callers without a token take all files that the process may open.
#[tokio::test(flavor = "multi_thread")]
async fn fd_1_no_files_left_under_load_loses_nothing() {
    let rig = Rig::new(SCHEMA, &config()).await;
    let options = rig.options();
    let binary = options.binary.display().to_string();
    let options = ProcessOptions {
        binary: "/bin/sh".into(),
        arguments: vec!["-c".into(), format!("ulimit -n 1500; exec {binary} serve")],
        ..options
    };
    let mut line = Line::of(rig, options, &["u1"], OUTPUTS).await;
    let pid = line.server.pid();
    let load = Load::start(&line.rig).await;
    for _ in 0..3 {
        flows(&mut line).await;
        let address = line.server.address();
        let mut strangers = Vec::new();
        for _ in 0..400 {
            // Refused, or left waiting in the backlog: both are answers to a stranger.
            let connect = TcpStream::connect(address);
            match tokio::time::timeout(Duration::from_millis(50), connect).await {
                Ok(Ok(stranger)) => strangers.push(stranger),
                _ => break,
            }
        }
        // Long enough for the store to open and make files of its own.
        flows(&mut line).await;
        drop(strangers);
    }
    nothing_is_lost(line, load, pid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_1_syncs_that_fail_under_load_lose_nothing() {
    let rig = Rig::new(SCHEMA, &config()).await;
    let data = rig.directory.path().join("data");
    let disk = FaultyDisk::new(&data);
    let mut line = serve(rig, &data, "", &disk.environment()).await;
    let pid = line.server.pid();
    let load = Load::start(&line.rig).await;
    for _ in 0..3 {
        flows(&mut line).await;
        disk.fail_syncs();
        is_troubled(&line).await;
        disk.heal();
        line.is_well().await;
    }
    nothing_is_lost(line, load, pid).await;
}

/// Slow syncs keep the publisher busy while the writer gives up.
#[tokio::test(flavor = "multi_thread")]
async fn fd_3_a_full_disk_with_slow_syncs_under_load_does_not_stop_for_good() {
    let small = hw_testkit::needs!(SmallDisk::mount(300));
    let rig = Rig::new(SCHEMA, &config()).await;
    let data = small.path("data");
    let disk = FaultyDisk::new(&data);
    let mut line = serve(rig, &data, "", &disk.environment()).await;
    let pid = line.server.pid();
    let load = Load::start(&line.rig).await;
    disk.slow_syncs(300);
    for _ in 0..4 {
        flows(&mut line).await;
        let ballast = small.path("ballast");
        fill(&ballast, 64 << 10);
        is_troubled(&line).await;
        std::fs::remove_file(&ballast).expect("removed");
        line.is_well().await;
    }
    disk.heal();
    nothing_is_lost(line, load, pid).await;
}

/// A transaction that needs a third of the spool once, and all of it with its sorted runs and what it
/// decides.
#[tokio::test(flavor = "multi_thread")]
async fn fd_5_a_transaction_that_fits_the_spool_once_is_applied() {
    let cluster = rig::cluster_with(&[("logical_decoding_work_mem", "64kB")]);
    let rig = Rig::on(cluster, SCHEMA, &config()).await;
    let limits = "limits:\n  spool_bytes: 16 MB\n  transaction_memory: 1 MB\n  sort_memory: 1 MB\n";
    let data = rig.directory.path().join("data");
    let mut line = serve(rig, &data, limits, &[]).await;
    line.execute("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 45000) i").await;
    line.execute("INSERT INTO o VALUES (1, 'behind it')").await;
    line.agree("a transaction of 10 MB").await;
    line.is_well().await;
    line.stop().await;
}

/// One that can never fit is a wait with a name, and no restart.
#[tokio::test(flavor = "multi_thread")]
async fn fd_5_a_transaction_above_the_spool_is_named_and_waits() {
    let cluster = rig::cluster_with(&[("logical_decoding_work_mem", "64kB")]);
    let rig = Rig::on(cluster, SCHEMA, &config()).await;
    let limits = "limits:\n  spool_bytes: 16 MB\n  transaction_memory: 1 MB\n  sort_memory: 1 MB\n";
    let data = rig.directory.path().join("data");
    let mut line = serve(rig, &data, limits, &[]).await;
    line.execute("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 90000) i").await;
    line.names("spool_bytes").await;
    assert!(!line.server.log().contains("the writer stops"), "{}", line.server.log());
    // With more room it is applied.
    line.server.stop().await;
    let path = line.rig.path("headwater.yaml");
    std::fs::write(path, limits.replace("16 MB", "400 MB")).expect("written");
    line.server.spawn_again();
    line.server.until_ready().await;
    line.agree("with room").await;
    line.stop().await;
}

/// What heals in memory heals on disk, too: an update of rows that the replica does not have.
#[tokio::test(flavor = "multi_thread")]
async fn fd_6_a_large_update_of_rows_that_are_missing_heals() {
    let schema = "
        CREATE TABLE o (id int8 PRIMARY KEY, v text); INSERT INTO o VALUES (0, 'o');
        CREATE TABLE p (id int PRIMARY KEY, n int, v text) PARTITION BY RANGE (id);
        ALTER TABLE p ALTER v SET STORAGE EXTERNAL;
        CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10);
        CREATE TABLE p_3 (LIKE p INCLUDING ALL);
        INSERT INTO p VALUES (1, 0, repeat('a', 3000));
        INSERT INTO p_3 SELECT i, 0, repeat('b', 3000) FROM generate_series(10, 20009) i";
    let outputs: &[Output] = &[("p", "SELECT id, n FROM p"), ("o", "SELECT * FROM o")];
    let rig = Rig::new(schema, &streams(&["SELECT id, n FROM p", "SELECT * FROM o"])).await;
    let options = rig.options_with("limits:\n  transaction_memory: 1 MB\n");
    let mut line = Line::of(rig, options, &["u1"], outputs).await;
    line.execute(
        "ALTER TABLE p ATTACH PARTITION p_3 FOR VALUES FROM (10) TO (100000); UPDATE p SET n = n + 1;
         INSERT INTO o VALUES (1, 'behind')",
    )
    .await;
    line.agree("attached and updated").await;
    assert!(!line.server.log().contains("the writer stops"), "{}", line.server.log());
    line.is_well().await;
    line.stop().await;
}

/// The row key is the same by both paths: keyless rows under FULL, and keys stored out of line.
#[tokio::test(flavor = "multi_thread")]
async fn fd_6_rows_have_the_same_key_in_memory_and_on_disk() {
    let schema = "
        CREATE TABLE o (id int8 PRIMARY KEY, v text); INSERT INTO o VALUES (0, 'o');
        CREATE TABLE k (id int, n int, v text); ALTER TABLE k REPLICA IDENTITY FULL;
        ALTER TABLE k ALTER v SET STORAGE EXTERNAL;
        INSERT INTO k SELECT i, 0, repeat('k', 3000) FROM generate_series(1, 1000) i;
        CREATE TABLE e (id text PRIMARY KEY, n int); ALTER TABLE e ALTER id SET STORAGE EXTERNAL;
        INSERT INTO e SELECT i || repeat('e', 2300), 0 FROM generate_series(1, 1000) i";
    let outputs: &[Output] =
        &[("k", "SELECT id, n FROM k"), ("e", "SELECT id, n FROM e"), ("o", "SELECT * FROM o")];
    let config = streams(&["SELECT id, n FROM k", "SELECT id, n FROM e", "SELECT * FROM o"]);
    let rig = Rig::new(schema, &config).await;
    let options = rig.options_with("limits:\n  transaction_memory: 1 MB\n  sort_memory: 1 MB\n");
    let mut line = Line::of(rig, options, &["u1"], outputs).await;
    line.execute("UPDATE k SET n = n + 1; UPDATE e SET n = n + 1").await;
    line.agree("all at once, on disk").await;
    line.execute("DELETE FROM k WHERE id <= 3; DELETE FROM e WHERE id LIKE '7%' AND n = 1").await;
    line.agree("few, in memory").await;
    line.execute("UPDATE k SET n = n + 1; DELETE FROM k WHERE id > 5").await;
    line.agree("again on disk").await;
    line.stop().await;
}

/// Rows, the operations made of them, and a lookup, each of more than one memory table.
const WIDE: &str = "
    CREATE TABLE m (id text PRIMARY KEY, who text);
    CREATE TABLE t (id int8 PRIMARY KEY, m text, n int, v text);
    CREATE TABLE o (id int8 PRIMARY KEY, v text); INSERT INTO o VALUES (0, 'o');
    INSERT INTO m SELECT 'm' || i, CASE WHEN i % 100 = 0 THEN 'u1' ELSE 'u2' END
      FROM generate_series(1, 1000) i;
    INSERT INTO t SELECT i, 'm' || i % 1000, 0, repeat(md5(i::text), 8)
      FROM generate_series(1, 4000) i";
const WIDE_CONFIG: &str = "
config:
  edition: 3
streams:
  todos:
    auto_subscribe: true
    query: SELECT id, m, n FROM t WHERE m IN (SELECT id FROM m WHERE who = auth.user_id())
  others:
    auto_subscribe: true
    query: SELECT * FROM o
";
const WIDE_OUTPUTS: &[Output] = &[
    ("t", "SELECT id, m, n FROM t WHERE m IN (SELECT id FROM m WHERE who = {user})"),
    ("o", "SELECT * FROM o"),
];

/// Serves [`WIDE`] with little memory, so that nearly everything is read from files.
async fn serve_wide() -> Line {
    let rig = Rig::new(WIDE, WIDE_CONFIG).await;
    let options = rig.options_with("store:\n  memtable: 1 MB\n  cache: 1 MB\n");
    let mut line = Line::of(rig, options, &["u1"], WIDE_OUTPUTS).await;
    line.clients.get_mut("u1").expect("it is there").accepts_anew = true;
    line
}

/// Every row changes, so that every row is read.
async fn touch_all(line: &Line, round: usize) {
    line.execute(&format!("UPDATE t SET n = n + 1; INSERT INTO o VALUES ({round}, 'o')")).await;
}

/// The files that hold the store's pairs, the largest first.
fn tables(data: &Path) -> Vec<PathBuf> {
    let mut tables = Vec::new();
    for keyspace in std::fs::read_dir(data.join("store/data/keyspaces")).expect("listed") {
        let Ok(files) = std::fs::read_dir(keyspace.expect("listed").path().join("tables")) else {
            continue;
        };
        for file in files {
            let file = file.expect("listed");
            tables.push((file.metadata().expect("it is there").len(), file.path()));
        }
    }
    tables.sort_by(|a, b| b.cmp(a));
    tables.into_iter().map(|(_, path)| path).collect()
}

/// What a disk does to a file.
const WAYS: [&str; 4] = ["a bit is flipped", "a page is zeroed", "it ends too soon", "it is gone"];

fn damage(file: &Path, way: &str) {
    use std::os::unix::fs::FileExt as _;
    let open = || std::fs::OpenOptions::new().read(true).write(true).open(file).expect("opened");
    let middle = std::fs::metadata(file).expect("it is there").len() / 2;
    match way {
        "a bit is flipped" => {
            let mut byte = [0];
            open().read_exact_at(&mut byte, middle).expect("read");
            open().write_all_at(&[byte[0] ^ 0x10], middle).expect("written");
        }
        "a page is zeroed" => {
            open().write_all_at(&[0; 4096], middle / 4096 * 4096).expect("written");
        }
        "it ends too soon" => open().set_len(middle).expect("cut"),
        _ => std::fs::remove_file(file).expect("removed"),
    }
}

/// Starts the server again; whether it refuses, with the way out.
async fn is_refused(line: &mut Line) -> bool {
    let before = line.server.log().len();
    line.server.spawn_again();
    let address = line.server.address();
    let is_way_out = |line: &str| line.contains("HW3004") && line.contains("remove the directory");
    soon("the server is ready or refuses to start", line.report(), || async {
        if line.server.log()[before..].lines().any(is_way_out) {
            return Some(true);
        }
        let answer = hw_testkit::server::http_get(address, "/probes/readiness", &[]).await;
        answer.is_ok_and(|answer| answer.status == 200).then_some(false)
    })
    .await
}

/// Whatever is damaged while the server is down, in whatever way: clients come to what Postgres has, or
/// the start is refused each time with the way out. Nothing that was not written is ever shown.
#[tokio::test(flavor = "multi_thread")]
async fn fd_7_files_damaged_at_rest_heal_or_are_refused() {
    let mut line = serve_wide().await;
    let data = line.rig.directory.path().join("data");
    let whole = line.rig.directory.path().join("whole");
    let mut healed = 0;
    for round in 1..=6 {
        touch_all(&line, round).await;
        line.agree("before the damage").await;
        line.server.stop().await;
        super::history::copy(&data, &whole);
        let files = tables(&data);
        let (file, way) = (&files[(round * 5) % files.len()], WAYS[round % WAYS.len()]);
        let when = format!("round {round}: {} {way}", file.display());
        damage(file, way);
        touch_all(&line, 100 + round).await;
        let logged = line.server.log().len();
        if !is_refused(&mut line).await {
            line.agree(&when).await;
            line.is_well().await;
            healed += usize::from(line.server.log()[logged..].contains("HW3103"));
            continue;
        }
        assert_eq!(line.server.wait_exit().await.code(), Some(2), "{when}");
        assert!(is_refused(&mut line).await, "{when}, again");
        line.server.wait_exit().await;
        std::fs::remove_dir_all(&data).expect("removed");
        std::fs::rename(&whole, &data).expect("put back");
        assert!(!is_refused(&mut line).await, "{when}, put back");
        line.agree("as it was").await;
    }
    assert!(healed >= 2, "{healed} healed");
    line.stop().await;
}

/// What nobody else knows cannot be made again: the start is refused each time.
#[tokio::test(flavor = "multi_thread")]
async fn fd_7_a_store_whose_files_are_gone_is_refused_each_time() {
    let mut line = serve_wide().await;
    let data = line.rig.directory.path().join("data");
    line.server.stop().await;
    tables(&data).iter().for_each(|file| damage(file, "it is gone"));
    for _ in 0..3 {
        assert!(is_refused(&mut line).await);
        assert_eq!(line.server.wait_exit().await.code(), Some(2));
    }
}

/// Damage that is met while the server runs is named, and what is lost is made again by the same
/// process.
#[tokio::test(flavor = "multi_thread")]
async fn fd_7_files_damaged_under_a_running_server_heal() {
    let mut line = serve_wide().await;
    let (data, pid) = (line.rig.directory.path().join("data"), line.server.pid());
    for round in 1..=3 {
        touch_all(&line, round).await;
        line.agree("before the damage").await;
        damage(&tables(&data)[round - 1], WAYS[round % 2]);
        touch_all(&line, 100 + round).await;
        line.agree(&format!("round {round}")).await;
        line.is_well().await;
    }
    assert!(line.server.log().contains("HW3103"), "{}", line.server.log());
    assert_eq!(line.server.pid(), pid, "the same process");
    line.stop().await;
}
