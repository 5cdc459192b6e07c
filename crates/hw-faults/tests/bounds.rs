//! Bounds: a transaction far above memory, a disk that runs full.

use std::time::Duration;

use hw_testkit::disk::{SmallDisk, fill};
use hw_testkit::{HeadwaterProcess, wait};

use crate::rig::{self, CONFIG, Rig, SCHEMA, caught_up, client};

/// The most resident memory that the process ever had, in bytes.
pub fn peak_memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("our own child");
    let line = text.lines().find(|line| line.starts_with("VmHWM:")).expect("a Linux kernel");
    let kilobytes = line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    kilobytes.expect("a number") << 10
}

/// Any login may write a message of the log of up to 1 GB, under any prefix and in any transaction.
/// None of it is gathered, and what stands beside it arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_huge_message_of_the_log_is_not_gathered() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let mut server = HeadwaterProcess::start(rig.options()).await;
    let mut amy = client("amy");
    rig.execute("INSERT INTO lists (id, owner) VALUES ('1', 'amy')").await;
    caught_up(&mut amy, &server).await;
    let before = peak_memory(server.pid());
    for (number, prefix) in ["theirs", "headwater", "headwater_ddl"].into_iter().enumerate() {
        rig.execute(&format!(
            "BEGIN;
             SELECT pg_logical_emit_message(true, '{prefix}', repeat('x', 200000000));
             INSERT INTO lists (id, owner) VALUES ('beside {number}', 'amy');
             COMMIT;
             SELECT pg_logical_emit_message(false, '{prefix}', repeat('x', 100000000))"
        ))
        .await;
    }
    caught_up(&mut amy, &server).await;
    assert_eq!(amy.table("lists").len(), 6, "two of the schema, one before, three beside");
    let more = peak_memory(server.pid()).saturating_sub(before);
    assert!(more < 64 << 20, "the process needed {} MB more", more >> 20);
    server.stop().await;
}

/// F-19 in short, P2: one UPDATE of every row; whole or not at all, in bounded memory.
#[tokio::test(flavor = "multi_thread")]
async fn f_19_a_huge_transaction_is_one_step_in_bounded_memory() {
    let rows = if std::env::var_os("HEADWATER_SOAK").is_some() { 5_000_000 } else { 100_000 };
    let config = "config:\n  edition: 3\nstreams:\n  some:\n    auto_subscribe: true\n    \
                  query: SELECT id, list, n FROM todos WHERE list = 'l1'\n  mine:\n    \
                  auto_subscribe: true\n    query: SELECT id, n FROM todos AS mine WHERE list = auth.user_id()\n";
    let cluster = rig::cluster_with(&[("logical_decoding_work_mem", "1MB")]);
    let rig = Rig::on(cluster, SCHEMA, config).await;
    rig.execute(&format!(
        "INSERT INTO todos SELECT 'h' || i, 'h' || i % 1000, repeat('x', 200), 0
         FROM generate_series(1, {rows}) i; ANALYZE"
    ))
    .await;
    let bounds = "limits:\n  transaction_memory: 4 MB\n  sort_memory: 4 MB\n  queue_memory: 4 MB\n  \
                  page_memory: 16 MB\nstore:\n  cache: 16 MB\n  memtable: 16 MB\n";
    let mut server = HeadwaterProcess::start(rig.options_with(bounds)).await;
    let mut amy = client("h7");
    let patience = Duration::from_secs(240);
    tokio::time::timeout(patience, amy.catch_up(server.address()))
        .await
        .expect("copied")
        .expect("followed");
    let sum = |amy: &hw_testkit::oracle::SyncClient| -> (usize, i64) {
        let rows = amy.table("mine");
        (rows.len(), rows.values().filter_map(|row| row["n"].as_i64()).sum())
    };
    assert_eq!(sum(&amy), (rows / 1000, 0));
    amy.history.clear();
    let update = rig.execute(
        "UPDATE todos SET n = n + 1, list = CASE WHEN list = 'l2' THEN 'l1' ELSE list END",
    );
    update.await;
    let caught = tokio::time::timeout(patience, amy.catch_up(server.address())).await;
    caught.expect("applied").expect("followed");
    assert_eq!(sum(&amy), (rows / 1000, (rows / 1000) as i64));
    amy.history.dedup();
    assert!(amy.history.len() <= 2, "P2: {} states", amy.history.len());
    let peak = peak_memory(server.pid());
    // What is configured is about 80 MB; the rest is the program, its stacks and the allocator.
    assert!(peak < 400 << 20, "the process needed {} MB", peak >> 20);
    server.stop().await;
}

/// F-53: the disk runs full while the log is applied: the slot is not confirmed any further, what
/// is there is read, and it heals in the same process when space returns.
#[tokio::test(flavor = "multi_thread")]
async fn f_53_a_full_disk_stops_confirmations_reads_go_on_and_it_heals() {
    let disk = hw_testkit::needs!(SmallDisk::mount(64));
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let data = disk.path("data").display().to_string();
    let options = rig::with(rig.options(), "HEADWATER_DATA_DIR", &data);
    let allowed = &["HW3", "StorageFull", "full", "store"];
    let mut server = HeadwaterProcess::start(rig::allowing(options, allowed)).await;
    let pid = server.pid();
    let mut amy = client("amy");
    rig.check(&mut amy, &server, "amy").await;
    let ballast = disk.path("ballast");
    fill(&ballast, 300 << 10);
    let slot = rig.ask("SELECT slot_name FROM pg_replication_slots").await.expect("our slot");
    // Bytes that do not compress, far more than there is room for.
    for part in 0..20 {
        rig.execute(&format!(
            "INSERT INTO todos SELECT 'x{part}-' || i, 'l1',
               (SELECT string_agg(md5(random()::text || i || j), '') FROM generate_series(1, 20) j), i
             FROM generate_series(1, 200) i"
        ))
        .await;
    }
    let end = wait::current_lsn(&rig.sql).await;
    let store = disk.path("data/store");
    rig::until_status("somebody is told which directory it is", &server, |status| {
        let trouble = status["trouble"].as_str().unwrap_or_default();
        trouble.contains("(HW3002)") && trouble.contains(&store.display().to_string())
    })
    .await;
    for line in ["\"code\":\"HW3002\"", "it is written again when 32 MB are free"] {
        assert!(server.log().contains(line), "{line} in {}", server.log());
    }
    let confirmed = format!(
        "SELECT (confirmed_flush_lsn - '0/0')::int8 FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    let confirmed = rig.ask(&confirmed).await.and_then(|text| text.parse::<u64>().ok());
    assert!(confirmed.expect("a position") < end, "it is not confirmed");
    let mut reader = client("amy");
    let read = reader.follow_until(server.address(), |reader| reader.completed > 0);
    wait::within_limit("what is there is read", read).await.expect("read");
    assert!(reader.table("todos").contains_key("t4"));
    std::fs::remove_file(&ballast).expect("removed");
    caught_up(&mut amy, &server).await;
    rig.check(&mut amy, &server, "amy").await;
    assert_eq!(server.pid(), pid, "the same process");
    let status = rig::status(&server).await.expect("a status");
    assert!(status["store"]["restarts"].as_u64() > Some(0), "{status}");
    wait::slot_confirmed(&rig.sql, &slot, end).await;
    server.stop().await;
}

/// F-53: the disk runs full during the first copy; nothing half is served, and it heals.
#[tokio::test(flavor = "multi_thread")]
async fn f_53_a_disk_full_in_the_first_copy_serves_nothing_half_and_heals() {
    let disk = hw_testkit::needs!(SmallDisk::mount(64));
    let rig = Rig::new(SCHEMA, CONFIG).await;
    rig.execute(
        "INSERT INTO todos SELECT 'x' || i, 'l1',
           (SELECT string_agg(md5(random()::text || i || j), '') FROM generate_series(1, 10) j), i
         FROM generate_series(1, 10000) i",
    )
    .await;
    let ballast = disk.path("ballast");
    fill(&ballast, 3 << 20);
    let data = disk.path("data").display().to_string();
    let options = rig::with(rig.options(), "HEADWATER_DATA_DIR", &data);
    let mut server =
        HeadwaterProcess::spawn(rig::allowing(options, &["HW3", "StorageFull", "full", "store"]));
    rig::until_status("somebody is told", &server, |s| !s["trouble"].is_null()).await;
    let mut amy = client("amy");
    if amy.connect(server.address()).await.is_ok() {
        panic!("nothing half may be served");
    }
    std::fs::remove_file(&ballast).expect("removed");
    server.until_ready().await;
    rig.check(&mut amy, &server, "amy").await;
    server.stop().await;
}

/// FD-38: whoever is refused a stream comes again and again, and the operator reads why.
#[tokio::test(flavor = "multi_thread")]
async fn fd_38_a_stream_that_finds_no_place_leaves_a_line_with_the_bound() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let options = rig.options_with("limits:\n  streams_per_user: 1\n");
    let mut server =
        HeadwaterProcess::start(rig::allowing(options, &["a stream is refused"])).await;
    let mut amy = client("amy");
    amy.connect(server.address()).await.expect("there is a place");
    let refused = client("amy").connect(server.address()).await.expect_err("there is none");
    assert!(refused.to_string().contains("429"), "{refused}");
    let line = server.until_log("a stream is refused: every place is taken").await;
    let line: serde_json::Value = serde_json::from_str(&line).expect("one object a line");
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["bound"], "limits.streams_per_user");
    drop(amy);
    server.stop().await;
}
