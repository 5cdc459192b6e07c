//! A TCP proxy that misbehaves on demand (promises.md section 2, point 3).
//!
//! Stands between two parties: server and Postgres, or client and server. Bytes pass untouched until
//! a test asks for a fault. Lasting faults ([`Fault`]) hold until [`FaultProxy::heal`]; one-shot
//! faults strike after a counted number of bytes, on the first connection that gets there, and
//! disarm themselves, so that the reconnect which follows finds a healthy line.
//!
//! Bytes are counted from the moment of arming, per connection and direction, so that a test can cut
//! after the k-th byte for every k.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

mod pump;

/// Which way bytes travel through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the party that connected to the party that listens.
    ToServer,
    /// From the party that listens to the party that connected.
    ToClient,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order (FIN), as when the other process closes its socket.
    Close,
    /// By reset (RST), as when the other machine restarts.
    Reset,
}

/// What lastingly happens to the bytes of one direction. The default passes everything on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Each chunk is passed on this much later.
    pub delay: Duration,
    /// At most this many bytes a second pass.
    pub bytes_per_second: Option<u64>,
    /// Bytes pass in pieces of at most this size, each its own packet.
    pub split: Option<usize>,
    /// Bytes are read and thrown away, and an end of the stream is not passed on: the other side
    /// sees a peer that is connected and silent.
    pub swallow: bool,
    /// Nothing is read, so that the sender's buffers fill: a reader that has stopped reading.
    pub pause: bool,
}

#[derive(Clone, Debug, Default)]
struct Rules {
    to_server: Fault,
    to_client: Fault,
    refuse: bool,
    // Counts the orders to end every connection; the last one's manner stands beside it.
    endings: u64,
    ending: Option<Ending>,
}

impl Rules {
    fn fault(&self, direction: Direction) -> &Fault {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Strike {
    End(Ending),
    FlipBit,
}

#[derive(Clone, Copy, Debug)]
struct Armed {
    id: u64,
    direction: Direction,
    after: u64,
    strike: Strike,
}

struct Shared {
    rules: watch::Sender<Rules>,
    upstream: Mutex<String>,
    armed: Mutex<Option<Armed>>,
    arms: AtomicU64,
    open: watch::Sender<usize>,
    accepted: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    swallowed: AtomicU64,
}

impl Shared {
    fn armed(&self) -> MutexGuard<'_, Option<Armed>> {
        self.armed.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn passed(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }

    /// Takes the armed strike if it is still that one: of several connections only one is struck.
    fn take(&self, id: u64) -> Option<Armed> {
        let mut armed = self.armed();
        if armed.is_some_and(|one| one.id == id) { armed.take() } else { None }
    }
}

/// A running proxy on a port of its own; dropping it ends every connection.
pub struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and passes connections on to `upstream`
    /// (`127.0.0.1:5432`).
    pub async fn start(upstream: &str) -> FaultProxy {
        let listener =
            TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port can be had");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared {
            rules: watch::Sender::new(Rules::default()),
            upstream: Mutex::new(upstream.to_owned()),
            armed: Mutex::new(None),
            arms: AtomicU64::new(0),
            open: watch::Sender::new(0),
            accepted: AtomicU64::new(0),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            swallowed: AtomicU64::new(0),
        });
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&shared)));
        FaultProxy { port, shared, acceptor }
    }

    /// The port to connect to on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address to connect to, for example `127.0.0.1:40123`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sends connections made from now on to another address, as a failover does.
    pub fn redirect(&self, upstream: &str) {
        *self.shared.upstream.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) =
            upstream.to_owned();
    }

    /// Sets the lasting fault of one direction, for open connections too.
    pub fn set(&self, direction: Direction, fault: Fault) {
        self.shared.rules.send_modify(|rules| match direction {
            Direction::ToServer => rules.to_server = fault,
            Direction::ToClient => rules.to_client = fault,
        });
    }

    /// Both sides keep a connection on which nothing ever arrives, as when a router forgets it.
    pub fn half_open(&self) {
        let silent = Fault { swallow: true, ..Fault::default() };
        self.set(Direction::ToServer, silent.clone());
        self.set(Direction::ToClient, silent);
    }

    /// New connections are reset at once until [`FaultProxy::heal`]; open ones go on.
    pub fn refuse(&self) {
        self.shared.rules.send_modify(|rules| rules.refuse = true);
    }

    /// Ends every open connection now.
    pub fn end_all(&self, ending: Ending) {
        self.shared.rules.send_modify(|rules| {
            rules.endings += 1;
            rules.ending = Some(ending);
        });
    }

    /// Ends the first connection that passes `bytes` bytes in `direction`, exactly after them.
    pub fn cut_after(&self, direction: Direction, bytes: u64, ending: Ending) {
        self.arm(direction, bytes, Strike::End(ending));
    }

    /// Inverts the lowest bit of the byte that follows `bytes` passed ones.
    pub fn flip_after(&self, direction: Direction, bytes: u64) {
        self.arm(direction, bytes, Strike::FlipBit);
    }

    /// Whether a one-shot fault still waits for its byte.
    pub fn is_armed(&self) -> bool {
        self.shared.armed().is_some()
    }

    /// Passes everything on again. Bytes that were swallowed stay lost.
    pub fn heal(&self) {
        *self.shared.armed() = None;
        self.shared.rules.send_modify(|rules| {
            *rules = Rules { endings: rules.endings, ending: rules.ending, ..Rules::default() };
        });
    }

    /// Bytes passed on so far in this direction, over all connections.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.shared.passed(direction).load(Ordering::Relaxed)
    }

    /// Bytes thrown away so far, over both directions and all connections.
    pub fn swallowed(&self) -> u64 {
        self.shared.swallowed.load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        *self.shared.open.borrow()
    }

    /// Waits until exactly `count` connections are open.
    pub async fn until_open(&self, count: usize) {
        let mut open = self.shared.open.subscribe();
        let reached = open.wait_for(|now| *now == count);
        crate::wait::within_limit(&format!("{count} connections are open"), reached)
            .await
            .expect("the proxy outlives the wait");
    }

    fn arm(&self, direction: Direction, after: u64, strike: Strike) {
        let id = self.shared.arms.fetch_add(1, Ordering::Relaxed) + 1;
        *self.shared.armed() = Some(Armed { id, direction, after, strike });
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.end_all(Ending::Close);
        self.acceptor.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        if shared.rules.borrow().refuse {
            reset_on_close(&client);
            continue;
        }
        let upstream =
            shared.upstream.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A listener that is down looks to the client as if it had reset the connection.
            let Ok(server) = TcpStream::connect(&upstream).await else {
                reset_on_close(&client);
                return;
            };
            shared.open.send_modify(|open| *open += 1);
            pump::connection(client, server, &shared).await;
            shared.open.send_modify(|open| *open -= 1);
        });
    }
}

/// Makes the close that follows send RST and throw away what is not sent yet.
fn reset_on_close(socket: &TcpStream) {
    // A socket that is dead already needs no reset.
    let _ = socket.set_zero_linger();
}
