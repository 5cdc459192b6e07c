//! One connection's socket: what hyper reads from and writes to.
//!
//! In: a stream of TCP. Out: the same bytes, within bounds of time and memory that hold for every
//! connection, with a token or without. Invariants: a peer that takes nothing of what waits for it
//! is cut; only a few connections at a time may send a long head.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The connection that a request came over. The listener puts one into each request's extensions.
///
/// It ends the connection, whatever still waits for its socket: a body alone cannot end one whose socket
/// takes nothing. And it tells what only the socket knows: whether it was given up, whether its peer takes
/// what waits for it, and how much the peer has sent.
#[derive(Clone, Debug, Default)]
pub struct ConnectionHandle {
    cut: CancellationToken,
    /// Since when the peer takes nothing of what waits for it.
    stuck_since: Arc<Mutex<Option<Instant>>>,
    received: Arc<AtomicU64>,
}

impl ConnectionHandle {
    /// Ends the connection.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// Whether it was ended, by a request or because its peer took nothing.
    pub fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    /// Waits until it is.
    pub async fn ended(&self) {
        self.cut.cancelled().await;
    }

    /// How long the peer has taken nothing although something waits.
    pub fn stuck_for(&self) -> Duration {
        self.stuck_since.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Bytes that the peer has sent. Whoever is handed whole messages learns from this how much is there of one
    /// that is not whole.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    fn note_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn note_stuck(&self, since: Option<Instant>) {
        *self.stuck_since.lock() = since;
    }
}

/// Bytes that a kernel may hold for a peer that has not taken them. Linux takes it twice, for its own needs; a
/// line of 100 ms round trip time still carries some 5 MB a second.
const UNREAD: usize = 256 << 10;

/// Bytes of a head that everybody may send. Tokens of ordinary size fit.
const ORDINARY_HEAD: usize = 16 * 1024;

/// What the two halves of a connection tell each other: the service that has begun a request, and
/// the socket that counts the bytes before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stage(Arc<AtomicU8>);

impl Stage {
    const HEAD: u8 = 0;
    const REQUEST: u8 = 1;
    const UPGRADED: u8 = 2;

    /// A request has begun.
    pub fn in_request(&self) {
        self.0.store(Stage::REQUEST, Ordering::Relaxed);
    }

    /// What follows is no HTTP any more: there will never be another head.
    pub fn upgraded(&self) {
        self.0.store(Stage::UPGRADED, Ordering::Relaxed);
    }

    fn answered(&self) {
        let (from, to) = (Stage::REQUEST, Stage::HEAD);
        let _ = self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn is_head(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Stage::HEAD
    }
}

/// See the module.
pub(crate) struct Socket {
    stream: TcpStream,
    patience: Duration,
    handle: ConnectionHandle,
    /// Runs while something waits that the peer does not take. Boxed: most sockets never wait.
    stuck: Option<Pin<Box<Sleep>>>,
    head: Head,
    /// Held until the socket is closed, also when it has left the task that accepted it.
    _held: Held,
}

/// What counts a connection: its place, and its mark among those that a stop waits for.
pub(crate) struct Held {
    pub _place: OwnedSemaphorePermit,
    pub _open: TaskTrackerToken,
}

impl Socket {
    /// - Takes: how long the peer may take nothing, the handle of its connection, whether a request
    ///   has begun, the places for long heads, and what counts the connection.
    pub fn new(
        stream: TcpStream,
        patience: Duration,
        handle: ConnectionHandle,
        stage: Stage,
        long_heads: Arc<Semaphore>,
        held: Held,
    ) -> Socket {
        // Lines are small and wanted at once.
        let _ = stream.set_nodelay(true);
        // Nobody counts what a kernel holds for those that read nothing: by itself it lets each have megabytes.
        let _ = socket2::SockRef::from(&stream).set_send_buffer_size(UNREAD);
        // What the kernel has taken off our hands is not delivered yet: it gives up on a peer that
        // is gone or takes nothing, which our own clock below does not see.
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(patience));
        let head = Head { bytes: 0, stage, long: None, long_heads };
        Socket { stream, patience, handle, stuck: None, head, _held: held }
    }

    /// Starts or stops the clock of a peer that takes nothing.
    fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(done) = polled {
            let done = done.inspect_err(|error| self.note(error))?;
            if self.stuck.take().is_some() {
                self.handle.note_stuck(None);
            }
            self.head.answered();
            return Poll::Ready(Ok(done));
        }
        let patience = self.patience;
        let handle = &self.handle;
        let stuck = self.stuck.get_or_insert_with(|| {
            handle.note_stuck(Some(Instant::now()));
            Box::pin(sleep(patience))
        });
        ready!(stuck.as_mut().poll(context));
        let error = io::ErrorKind::TimedOut.into();
        self.note(&error);
        Poll::Ready(Err(error))
    }

    /// Tells the requests when their peer was given up, by the clock or by the kernel.
    fn note(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::TimedOut {
            self.handle.cut();
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.stuck.is_some() {
            // The kernel would keep what it holds for a peer that does not want it.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(context, buffer));
        read.inspect_err(|error| this.note(error))?;
        let bytes = buffer.filled().len() - before;
        this.handle.note_received(bytes);
        Poll::Ready(this.head.read(bytes))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.written(context, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(context, buffers);
        this.written(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Counts what was read since the last answer and before the request began: the head, which nobody
/// has vouched for yet.
struct Head {
    bytes: usize,
    stage: Stage,
    long: Option<OwnedSemaphorePermit>,
    long_heads: Arc<Semaphore>,
}

impl Head {
    fn read(&mut self, bytes: usize) -> io::Result<()> {
        if !self.stage.is_head() {
            // A body, or frames: whoever asks for them bounds them.
            self.forget();
            return Ok(());
        }
        self.bytes += bytes;
        if self.bytes > ORDINARY_HEAD && self.long.is_none() {
            let Ok(place) = Arc::clone(&self.long_heads).try_acquire_owned() else {
                return Err(io::Error::other("too many long heads at a time"));
            };
            self.long = Some(place);
        }
        Ok(())
    }

    fn answered(&mut self) {
        self.stage.answered();
        self.forget();
    }

    fn forget(&mut self) {
        self.bytes = 0;
        self.long = None;
    }
}
