//! The sockets: accepting, bounding and ending connections.
//!
//! In: an address and a router. Out: one task for each connection. Invariants: never more than
//! the configured number of connections; an idle one holds a few kilobytes; a graceful stop lets
//! answers in progress end and then cuts what is left.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hw_types::Diagnostic;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::code;

/// How long a client may take to send the head of a request (slow-loris, F-69).
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

/// Read buffer of one connection, bytes: the least that hyper accepts, because most connections
/// send one small request and then only listen.
const READ_BUFFER: usize = 8 * 1024;

/// How long the listener rests when the process has no file left for another socket.
const REST: Duration = Duration::from_millis(100);

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
    limit: usize,
    /// Ends answers in progress gracefully when cancelled.
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Connections {
    /// At most `limit` connections at a time.
    pub fn new(limit: usize, stop: CancellationToken) -> Connections {
        Connections {
            places: Arc::new(Semaphore::new(limit)),
            limit,
            stop,
            tasks: TaskTracker::new(),
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
    pub async fn serve(self, listener: TcpListener, router: Router) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((socket, peer)) => self.take(socket, peer, &router),
                Err(error) => {
                    // Out of files: those that wait stay in the kernel's queue meanwhile.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    fn take(&self, socket: TcpStream, peer: SocketAddr, router: &Router) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            refuse(&socket);
            return;
        };
        // Lines are small and wanted at once.
        let _ = socket.set_nodelay(true);
        let router = router.clone();
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let _place = place;
            let router = TowerToHyperService::new(router);
            let service = service_fn(move |mut request: hyper::Request<Incoming>| {
                request.extensions_mut().insert(ConnectInfo(peer));
                router.call(request)
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_PATIENCE)
                .max_buf_size(READ_BUFFER)
                .serve_connection(TokioIo::new(socket), service);
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
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

/// One connection too many: says so in the shortest way, without waiting for the request.
fn refuse(socket: &TcpStream) {
    let body = format!(
        r#"{{"error":{{"code":"HW{:04}","status":503,"description":"Too many clients"}}}}"#,
        code::TOO_MANY_CLIENTS
    );
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nretry-after: 5\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = socket.try_write(answer.as_bytes());
}
