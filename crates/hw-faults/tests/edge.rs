//! What strangers and single users try at the edge of a real server.

use hw_testkit::server::http_get;
use hw_testkit::{HeadwaterProcess, ProcessOptions, wait};
use serde_json::Map;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rig::{self, CONFIG, Rig, SCHEMA, client, issue};

/// The same server with a limit of open files.
fn with_files(options: ProcessOptions, files: u64) -> ProcessOptions {
    let mut arguments = vec!["-c".to_owned(), format!("ulimit -n {files} && exec \"$0\" \"$@\"")];
    arguments.push(options.binary.display().to_string());
    arguments.extend(options.arguments);
    ProcessOptions { binary: "/bin/sh".into(), arguments, ..options }
}

async fn connect(server: &HeadwaterProcess) -> TcpStream {
    TcpStream::connect(server.address()).await.expect("the kernel takes it")
}

async fn answer(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A refused one may be reset behind its answer.
    let _ = wait::within_limit("it is answered", socket.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A figure of `/proc/…/status` in bytes.
fn memory(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("our own child");
    let line = text.lines().find(|line| line.starts_with(name)).expect("a Linux kernel");
    let kilobytes = line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    kilobytes.expect("a number") << 10
}

/// FD-35: more strangers than fit are told so, and take neither the store's files nor the source's.
#[tokio::test(flavor = "multi_thread")]
async fn fd_35_strangers_cannot_take_the_files_of_the_store_and_of_the_source() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let options = rig::allowing(with_files(rig.options(), 1500), &["HW1022"]);
    let mut server = HeadwaterProcess::start(options).await;
    let mut amy = client("amy");
    rig.check(&mut amy, &server, "amy").await;
    amy.connect(server.address()).await.expect("before them all");
    let mut strangers = Vec::new();
    for _ in 0..300 {
        strangers.push(connect(&server).await);
    }
    let last = strangers.last_mut().expect("there are some");
    assert!(answer(last).await.contains("HW5003"), "one too many is told so");
    let slot = rig.ask("SELECT slot_name FROM pg_replication_slots").await.expect("our slot");
    // A new table needs connections to the source and files of the store.
    for round in 0..20 {
        rig.execute(&format!("INSERT INTO todos VALUES ('s{round}', 'l1', 'x', 1)")).await;
    }
    let shown = async {
        while !amy.table("todos").contains_key("s19") {
            amy.step().await.expect("her stream goes on");
        }
    };
    wait::within_limit("she is shown what is committed", shown).await;
    let end = wait::current_lsn(&rig.sql).await;
    wait::slot_confirmed(&rig.sql, &slot, end).await;
    drop(strangers);
    rig.check(&mut amy, &server, "amy").await;
    assert!(!server.log().contains("Too many open files"), "{}", server.log());
    server.stop().await;
}

/// FD-35: a limit that leaves no room is an error at the start, with its mend.
#[tokio::test(flavor = "multi_thread")]
async fn fd_35_too_low_a_limit_of_open_files_is_an_error_with_its_mend() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let options = rig::allowing(with_files(rig.options(), 256), &["HW1022"]);
    let mut server = HeadwaterProcess::spawn(options);
    let status = server.wait_exit().await;
    assert_eq!(status.code(), Some(2), "{}", server.log());
    let log = server.log();
    assert!(log.contains("HW1022") && log.contains("the process may open 256 files"), "{log}");
    assert!(log.contains("ulimit -n "), "{log}");
}

/// FD-36: bodies without a token are not kept, and their senders read why.
#[tokio::test(flavor = "multi_thread")]
async fn fd_36_bodies_without_a_token_take_no_memory() {
    const BODY: usize = 1 << 20;
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let mut server = rig.start().await;
    rig.check(&mut client("amy"), &server, "amy").await;
    let before = memory(server.pid(), "VmRSS:");
    let mut strangers = Vec::new();
    for _ in 0..400 {
        let mut socket = connect(&server).await;
        let head = format!(
            "POST /sync/stream HTTP/1.1\r\nhost: h\r\ncontent-length: {BODY}\r\n\
             connection: close\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.expect("sent");
        strangers.push(socket);
    }
    for socket in &mut strangers {
        socket.write_all(&vec![b'x'; BODY - 1]).await.expect("it is taken");
    }
    for socket in &mut strangers {
        socket.write_all(b"x").await.expect("it is taken");
        let answer = answer(socket).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
    let peak = memory(server.pid(), "VmHWM:").saturating_sub(before);
    assert!(peak < 100 << 20, "400 bodies of strangers took {} MB", peak >> 20);
    server.stop().await;
}

/// FD-39: connections whose clients take nothing are cut, with a token and without.
#[tokio::test(flavor = "multi_thread")]
async fn fd_39_connections_whose_clients_take_nothing_are_cut() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    rig.execute(
        "INSERT INTO todos SELECT 'x' || i, 'l1', repeat('x', 1000), i
         FROM generate_series(1, 20000) i",
    )
    .await;
    let options = rig.options_with("limits:\n  reader_patience: 2 s\n");
    let mut server = HeadwaterProcess::start(options).await;
    let token = issue("amy", &Map::new());
    let mut silent = Vec::new();
    for _ in 0..10 {
        let mut socket = connect(&server).await;
        let request = format!(
            "POST /sync/stream HTTP/1.1\r\nhost: h\r\nauthorization: Token {token}\r\n\
             content-length: 2\r\n\r\n{{}}"
        );
        socket.write_all(request.as_bytes()).await.expect("sent");
        silent.push(socket);
    }
    for _ in 0..10 {
        let mut socket = connect(&server).await;
        // It stops being read when its answers are not taken, so not all of it may be sent.
        let requests = "GET /metrics HTTP/1.1\r\nhost: h\r\n\r\n".repeat(2000);
        socket.write_all(requests.as_bytes()).await.expect("sent");
        silent.push(socket);
    }
    // The one connection is the question's.
    rig::until_status("all are cut", &server, |status| status["clients"]["connections"] == 1).await;
    server.until_log("client took no line").await;
    rig.check(&mut client("amy"), &server, "amy").await;
    server.stop().await;
    drop(silent);
}

/// FD-2, FD-43: requests whose keys cannot be stored are refused, and nothing stops for them.
#[tokio::test(flavor = "multi_thread")]
async fn fd_2_and_fd_43_requests_that_no_key_can_hold_stop_nobody() {
    let (rig, mut server, mut amy) = rig::served(SCHEMA, CONFIG).await;
    let ask = async |sub: &str, path: &str| {
        let token = format!("Bearer {}", issue(sub, &Map::new()));
        let answer = http_get(server.address(), path, &[("authorization", &token)]).await;
        answer.expect("answered").status
    };
    assert_eq!(ask("", "/write-checkpoint2.json").await, 401);
    assert_eq!(ask(&"x".repeat(257), "/write-checkpoint2.json").await, 401);
    let long = format!("/write-checkpoint2.json?client_id={}", "x".repeat(6000));
    assert_eq!(ask("amy", &long).await, 400);
    assert_eq!(ask("amy", "/write-checkpoint2.json?client_id=").await, 200);
    rig.execute("INSERT INTO todos VALUES ('later', 'l1', 'x', 1)").await;
    rig.check(&mut amy, &server, "amy").await;
    server.stop().await;
}

/// Section 8: a token as long as is promised is read, whatever is before us.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_token_is_read_and_a_request_without_host_is_not() {
    let rig = Rig::new(SCHEMA, CONFIG).await;
    let mut server = rig.start().await;
    let mut claims = Map::new();
    claims.insert("groups".into(), "g".repeat(40_000).into());
    let token = issue("amy", &claims);
    assert!(token.len() > 50_000);
    let one = format!("Bearer {token}");
    let two = format!("Bearer  {token}");
    for (value, status) in [(one, 200), (two, 401)] {
        let headers = [("authorization", value.as_str())];
        let answer = http_get(server.address(), "/write-checkpoint2.json", &headers).await;
        assert_eq!(answer.expect("answered").status, status);
    }
    let mut socket = connect(&server).await;
    let request = b"GET /probes/startup HTTP/1.1\r\nconnection: close\r\n\r\n";
    socket.write_all(request).await.expect("sent");
    assert!(answer(&mut socket).await.starts_with("HTTP/1.1 400 "));
    server.stop().await;
}
