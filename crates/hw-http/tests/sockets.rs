//! Clients that take nothing, send too much, or are too many.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Extension;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use hw_http::listen::{Connections, bind};
use hw_http::socket::ConnectionHandle;
use hw_testkit::poll_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

/// Longer than any test takes.
const NEVER: Duration = Duration::from_secs(3600);
/// More than both kernels' buffers hold.
const LARGE: usize = 1 << 20;

struct Server {
    connections: Connections,
    address: SocketAddr,
}

impl Server {
    async fn start(limit: usize, patience: Duration) -> Server {
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/probes/liveness", get(|| async { "alive" }))
            .route("/large", get(|| async { vec![b'x'; LARGE] }))
            .route(
                "/length",
                get(|headers: HeaderMap| async move { headers["authorization"].len().to_string() }),
            )
            .route("/cut", get(endless));
        Server::over(router, limit, patience).await
    }

    async fn over(router: Router, limit: usize, patience: Duration) -> Server {
        let listener = bind(([127, 0, 0, 1], 0).into(), "--listen").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::new(limit, patience, CancellationToken::new());
        tokio::spawn(connections.clone().serve(listener, router));
        Server { connections, address }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn send(&self, request: impl AsRef<[u8]>) -> TcpStream {
        let mut socket = self.connect().await;
        socket.write_all(request.as_ref()).await.unwrap();
        socket
    }

    /// The answer to a request behind which the connection is closed.
    async fn ask(&self, request: &str) -> String {
        let mut socket = self.send(request).await;
        let mut answer = Vec::new();
        // A refused one may be reset behind its answer.
        let _ = socket.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn until_open(&self, count: usize) {
        let open = || async { (self.connections.open() == count).then_some(()) };
        poll_until(&format!("{count} connections are open"), open).await;
    }
}

/// A body that never ends, of a request that gives its connection up in the midst of it.
async fn endless(Extension(cut): Extension<ConnectionHandle>) -> Response {
    let mut chunks = 0;
    let chunk = move || {
        chunks += 1;
        if chunks == 3 {
            cut.cut();
        }
        Ok::<_, std::io::Error>(vec![b'x'; LARGE])
    };
    Response::new(Body::from_stream(futures_util::stream::repeat_with(chunk)))
}

/// F-69: what is sent to clients that read nothing waits in the kernel, where no bound of ours counts it.
#[tokio::test]
async fn f_69_a_kernel_holds_little_for_a_client_that_reads_nothing() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let chunk = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok::<_, std::io::Error>(vec![b'x'; 16 << 10])
    };
    let body = move || async { Body::from_stream(futures_util::stream::repeat_with(chunk)) };
    let server = Server::over(Router::new().route("/", get(body)), 10, NEVER).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut silent = socket.connect(server.address).await.unwrap();
    silent.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let mut before = 0;
    poll_until("nothing more is taken", || {
        let now = taken.load(Ordering::Relaxed);
        let rests = now > 0 && now == std::mem::replace(&mut before, now);
        async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            rests.then_some(())
        }
    })
    .await;
    let bytes = taken.load(Ordering::Relaxed) * (16 << 10);
    assert!(bytes < LARGE, "{bytes} bytes");
}

/// FD-39: a keep-alive connection whose client takes none of its answers is cut, without a token.
#[tokio::test]
async fn fd_39_a_client_that_takes_no_answer_is_cut() {
    let server = Server::start(10, Duration::from_millis(300)).await;
    let pipelined = "GET /large HTTP/1.1\r\nhost: h\r\n\r\n".repeat(64);
    let mut silent = server.send(pipelined).await;
    server.until_open(1).await;
    server.until_open(0).await;
    // What the kernels hold may be read; then it is a reset, not an end.
    let mut buffer = vec![0; LARGE];
    let end = loop {
        match silent.read(&mut buffer).await {
            Ok(0) => break None,
            Ok(_) => {}
            Err(error) => break Some(error.kind()),
        }
    };
    assert_eq!(end, Some(std::io::ErrorKind::ConnectionReset));
}

/// FD-39: one that takes its answers is not, however long it does nothing.
#[tokio::test]
async fn fd_39_a_client_that_takes_its_answers_stays() {
    let server = Server::start(10, Duration::from_millis(300)).await;
    let mut idle = server.connect().await;
    let mut silent = server.send("GET /large HTTP/1.1\r\nhost: h\r\n\r\n".repeat(64)).await;
    for _ in 0..2 {
        idle.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 4096];
        let length = idle.read(&mut answer).await.unwrap();
        assert!(answer[..length].ends_with(b"here"));
        // Time passes here: the silent one is cut.
        server.until_open(1).await;
    }
    silent.shutdown().await.ok();
}

/// FD-39: a request can end its connection, whatever still waits for the socket.
#[tokio::test]
async fn fd_39_a_request_can_cut_its_connection() {
    let server = Server::start(10, NEVER).await;
    let _silent = server.send("GET /cut HTTP/1.1\r\nhost: h\r\n\r\n").await;
    server.until_open(0).await;
}

/// A token as long as `hw-auth` looks at is let through; a head that is longer than that is not.
#[tokio::test]
async fn a_head_may_be_as_long_as_the_longest_token() {
    let server = Server::start(10, NEVER).await;
    let ask = |length: usize| {
        let token = "x".repeat(length);
        format!(
            "GET /length HTTP/1.1\r\nhost: h\r\nauthorization: {token}\r\nconnection: close\r\n\r\n"
        )
    };
    for length in [100, 8 * 1024, 20_000, 64 * 1024 + 7] {
        let answer = server.ask(&ask(length)).await;
        assert!(answer.ends_with(&format!("\r\n\r\n{length}")), "{length}: {answer}");
    }
    assert!(server.ask(&ask(300_000)).await.starts_with("HTTP/1.1 431 "));
}

/// FD-36's neighbour: heads that never end hold a bounded amount together.
#[tokio::test]
async fn only_a_few_connections_at_a_time_may_send_a_long_head() {
    let server = Server::start(1000, NEVER).await;
    let unfinished = format!("GET / HTTP/1.1\r\nhost: h\r\nx: {}", "x".repeat(40_000));
    let mut strangers = Vec::new();
    for _ in 0..300 {
        let mut socket = server.connect().await;
        // One that is refused is reset while it sends.
        let _ = socket.write_all(unfinished.as_bytes()).await;
        strangers.push(socket);
    }
    server.until_open(256).await;
    let ordinary = server.ask("GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
    assert!(ordinary.ends_with("here"));
    drop(strangers);
    server.until_open(0).await;
}

#[tokio::test]
async fn a_request_names_its_host_once() {
    let server = Server::start(10, NEVER).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n", "200"),
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: h\r\nhost: i\r\nconnection: close\r\n\r\n", "400"),
        ("GET / HTTP/1.0\r\n\r\n", "200"),
        ("GET / HTTP/1.0\r\nhost: h\r\nhost: i\r\n\r\n", "400"),
    ] {
        let answer = server.ask(request).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request:?}");
        assert!(status == "200" || answer.contains("HW5008"), "{answer}");
    }
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let server = Server::start(1, NEVER).await;
    let _first = server.connect().await;
    server.until_open(1).await;
    let mut second = server.connect().await;
    let mut answer = String::new();
    second.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("HW5003"), "{answer}");
}

/// FD-60: strangers who take every place, and those who wait for one, do not let the server look dead.
#[tokio::test]
async fn a_probe_is_answered_when_all_places_are_taken_and_gives_its_own_back() {
    let server = Server::start(1, NEVER).await;
    let _first = server.connect().await;
    server.until_open(1).await;
    for _ in 0..40 {
        let answer = server.ask("GET /probes/liveness HTTP/1.1\r\nhost: h\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("alive"), "{answer}");
    }
    let answer = server.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(!answer.ends_with("here"), "{answer}");
}

/// FD-35: also when the process has no file left, whoever comes is refused rather than left in the
/// queue of the kernel, and it is well again when files come back.
#[tokio::test]
async fn fd_35_a_connection_without_a_file_for_it_is_refused() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let server = Server::start(1000, NEVER).await;
    let request = "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    assert!(server.ask(request).await.ends_with("here"));
    // The clients of this test have a file each, too: made beforehand, connected behind.
    let client = || tokio::net::TcpSocket::new_v4().unwrap();
    let (refused, served) = (client(), client());
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let limit = rustix::process::getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(open), ..limit }).unwrap();
    let mut held = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        held.push(file);
    }
    let mut refused = refused.connect(server.address).await.unwrap();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("HW5003"), "{answer}");
    drop(held);
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut served = served.connect(server.address).await.unwrap();
    served.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    served.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("here"), "{answer}");
}
