//! The sockets: accepting, bounding and ending connections.
//!
//! In: an address and a router. Out: one task for each connection. Invariants: never more than
//! the configured number of connections; an idle one holds a few kilobytes; one more than fits is
//! told so, also when the process has no file left for it; a probe is answered all the same, so that
//! strangers who take every place do not have the server restarted; a graceful stop lets answers in
//! progress end and then cuts what is left.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{StatusCode, Version, header};
use axum::response::{IntoResponse as _, Response};
use hw_types::{Code, Diagnostic};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::code;
use crate::error::ApiError;
use crate::socket::{ConnectionHandle, Held, Socket, Stage};

/// How long a client may take to send the head of a request (slow-loris, F-69).
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

/// Most bytes of a head: the longest token that is looked at (64 kB, `hw-auth`) and what stands
/// around it. The buffer of a connection begins with 8 kB and grows only for who sends more.
const HEAD_BYTES: usize = 80 * 1024;

/// Connections that may send a head above 16 kB at the same time, so that strangers cannot fill
/// the memory with heads that never end.
const LONG_HEADS: usize = 256;

/// What paths of probes begin with; the surface that answers them is not known here.
const PROBES: &str = "/probes/";

/// Connections of probes at a time that are answered when all other places are taken.
const PROBE_PLACES: usize = 16;

/// How long such a connection may take to show that it is a probe, and to send its head.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// How long the listener rests when the process has no file left for another socket and none to
/// refuse with.
const REST: Duration = Duration::from_millis(100);

/// Between two lines of the log about the same trouble.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Opens the port.
///
/// - Errors: HW1020 when it is in use, HW1021 otherwise, with what to do.
pub async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener, Box<Diagnostic>> {
    TcpListener::bind(address).await.map_err(|error| {
        let finding = match error.kind() {
            io::ErrorKind::AddrInUse => {
                Diagnostic::error(code::ADDRESS_IN_USE, format!("the address {address} is in use"))
                    .mend(format!("stop what uses it, or choose another with {flag}"))
            }
            _ => Diagnostic::error(code::ADDRESS, format!("cannot listen on {address}: {error}"))
                .mend(format!("choose an address of this machine with {flag}")),
        };
        Box::new(finding)
    })
}

/// What all connections share.
#[derive(Clone)]
pub struct Connections {
    places: Arc<Semaphore>,
    probe_places: Arc<Semaphore>,
    limit: usize,
    /// How long a client may take nothing of what waits for it.
    reader_patience: Duration,
    long_heads: Arc<Semaphore>,
    /// Ends answers in progress gracefully when cancelled.
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Connections {
    /// At most `limit` connections at a time, each of which is cut when its client takes nothing of
    /// what waits for it for `reader_patience`.
    pub fn new(limit: usize, reader_patience: Duration, stop: CancellationToken) -> Connections {
        Connections {
            places: Arc::new(Semaphore::new(limit)),
            probe_places: Arc::new(Semaphore::new(PROBE_PLACES)),
            limit,
            reader_patience,
            long_heads: Arc::new(Semaphore::new(LONG_HEADS)),
            stop,
            tasks: TaskTracker::new(),
        }
    }

    /// The same with places of its own, for a port that strangers must not be able to fill.
    pub fn apart(&self, limit: usize) -> Connections {
        Connections {
            places: Arc::new(Semaphore::new(limit)),
            probe_places: Arc::new(Semaphore::new(PROBE_PLACES)),
            limit,
            ..self.clone()
        }
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.limit.saturating_sub(self.places.available_permits())
    }

    /// The most there may be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Accepts on `listener` until the stop.
    ///
    /// - Returns: the listener, for somebody else.
    pub async fn serve(self, listener: TcpListener, router: Router) -> TcpListener {
        let mut spare = Spare::open();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return listener,
            };
            match accepted {
                Ok((socket, peer)) => self.take(socket, peer, &router),
                Err(error) if is_out_of_files(&error) => {
                    if let Some((socket, peer)) = spare.accept(&listener, &error).await {
                        self.take(socket, peer, &router);
                    }
                }
                // The client went away before we came to it.
                Err(error) => tracing::debug!(%error, "cannot accept a connection"),
            }
        }
    }

    fn take(&self, socket: TcpStream, peer: SocketAddr, router: &Router) {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return self.answer(socket, peer, router, (place, Life::Long));
        }
        let Ok(place) = Arc::clone(&self.probe_places).try_acquire_owned() else {
            return refuse(&socket);
        };
        let (connections, router) = (self.clone(), router.clone());
        self.tasks.spawn(async move {
            match tokio::time::timeout(PROBE_PATIENCE, is_probe(&socket)).await {
                Ok(true) => connections.answer(socket, peer, &router, (place, Life::OneRequest)),
                _ => refuse(&socket),
            }
        });
    }

    fn answer(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        router: &Router,
        (place, life): (OwnedSemaphorePermit, Life),
    ) {
        let (handle, stage) = (ConnectionHandle::default(), Stage::default());
        let held = Held { _place: place, _open: self.tasks.token() };
        let socket = Socket::new(
            socket,
            self.reader_patience,
            handle.clone(),
            stage.clone(),
            self.long_heads.clone(),
            held,
        );
        let router = router.clone();
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let router = TowerToHyperService::new(router);
            let for_requests = handle.clone();
            let service = service_fn(move |mut request: Request<Incoming>| {
                stage.in_request();
                let stage = stage.clone();
                let answer = match names_one_host(&request) {
                    true => {
                        let extensions = request.extensions_mut();
                        extensions.insert(ConnectInfo(peer));
                        extensions.insert(for_requests.clone());
                        Ok(router.call(request))
                    }
                    false => Err(no_host()),
                };
                async move {
                    let answer = match answer {
                        Ok(answer) => answer.await,
                        Err(refused) => Ok(refused),
                    };
                    if let Ok(answer) = &answer
                        && answer.status() == StatusCode::SWITCHING_PROTOCOLS
                    {
                        stage.upgraded();
                    }
                    answer
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(match life {
                    Life::Long => HEAD_PATIENCE,
                    Life::OneRequest => PROBE_PATIENCE,
                })
                .keep_alive(life == Life::Long)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(TokioIo::new(socket), service)
                .with_upgrades();
            tokio::pin!(connection);
            let mut stopping = false;
            let ended = loop {
                tokio::select! {
                    ended = connection.as_mut() => break ended,
                    () = handle.ended() => return,
                    () = stop.cancelled(), if !stopping => {
                        stopping = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            };
            if let Err(error) = ended {
                // A client that hangs up is nobody's fault.
                tracing::debug!(%error, "connection ended");
            }
        });
    }

    /// Waits until every connection has ended, at most `patience`.
    ///
    /// - Returns: how many were still open.
    pub async fn drain(&self, patience: Duration) -> usize {
        self.tasks.close();
        let _ = tokio::time::timeout(patience, self.tasks.wait()).await;
        self.tasks.len()
    }
}

/// How long a connection is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// For as long as its client likes.
    Long,
    /// Until its first request is answered.
    OneRequest,
}

/// Whether the first bytes that came are those of a probe. They are left where they are.
async fn is_probe(socket: &TcpStream) -> bool {
    let mut head = [0; 32];
    let Ok(bytes) = socket.peek(&mut head).await else { return false };
    let path = head[..bytes].strip_prefix(b"GET ");
    path.is_some_and(|path| path.starts_with(PROBES.as_bytes()))
}

/// RFC 9112 section 3.2: a request of HTTP/1.1 names its host, once. One that does not may be read
/// in two ways by us and by what stands before us.
fn names_one_host(request: &Request<Incoming>) -> bool {
    let mut named = request.headers().get_all(header::HOST).iter();
    match (named.next(), named.next()) {
        (Some(_), None) => true,
        (None, _) => request.version() < Version::HTTP_11,
        (Some(_), Some(_)) => false,
    }
}

fn no_host() -> Response {
    let description = "A request names its host, once";
    ApiError::new(StatusCode::BAD_REQUEST, Code(code::HOST), description).into_response()
}

/// A file that is held for the moment when there is no other, so that those who wait are told
/// rather than left in the queue of the kernel.
struct Spare {
    file: Option<File>,
    said: Option<Instant>,
}

impl Spare {
    fn open() -> Spare {
        Spare { file: null_file(), said: None }
    }

    /// Gives the spare file to the connection at the head of the queue, takes another one, and
    /// refuses the connection when there is none.
    ///
    /// - Returns: the connection when files have come back.
    async fn accept(
        &mut self,
        listener: &TcpListener,
        error: &io::Error,
    ) -> Option<(TcpStream, SocketAddr)> {
        if self.file.take().is_none() {
            tokio::time::sleep(REST).await;
            self.file = null_file();
            return None;
        }
        // The kernel looks for a file before it looks for a connection, so there may be none.
        let accepted = tokio::time::timeout(REST, listener.accept()).await;
        self.file = null_file();
        let (socket, peer) = accepted.ok()?.ok()?;
        if self.file.is_some() {
            return Some((socket, peer));
        }
        if self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            self.said = Some(Instant::now());
            let code = Code(code::NO_FILES);
            tracing::warn!(%code, %error, "no file is left for another connection; it is refused");
        }
        refuse(&socket);
        drop(socket);
        self.file = null_file();
        None
    }
}

fn null_file() -> Option<File> {
    File::open("/dev/null").ok()
}

/// EMFILE, of this process, or ENFILE, of the whole machine.
fn is_out_of_files(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// One connection too many: says so in the shortest way, without waiting for the request.
fn refuse(socket: &TcpStream) {
    let description = "Too many clients";
    let error =
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, Code(code::TOO_MANY_CLIENTS), description);
    let body = error.to_json();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nretry-after: 5\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = socket.try_write(answer.as_bytes());
}
