//! The stream of a logical slot: frames out, acknowledgements in.
//!
//! One task owns the socket. It answers keepalives and reports status while the consumer is
//! busy: when the byte budget of waiting frames is used up it stops *reading*, never reporting.
//! A consumer that stands still for longer than `wal_sender_timeout` therefore keeps its
//! connection.
//!
//! Positions: `acked <= durable <= received`. `received` is the end of what the server has sent,
//! `durable` what the consumer declared to be on its disk ([`Acknowledger::ack`]), `acked` what
//! the server was told, and that is all it is ever told: write, flush and apply positions are
//! equal. A position that was made durable on an earlier connection can be ahead of `received`
//! for a moment after a reconnect; it is reported only once the server has shown it again.
//!
//! Source: PostgreSQL manual, "Streaming Replication Protocol"; `dependencies.md` (report at
//! least every `wal_sender_timeout` / 4).

use super::second_look;
use super::wire::{Incoming, Socket, Wire, server_error};
use crate::config::ConnectConfig;
use crate::error::{PgError, PgErrorKind, Result};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use hw_types::{EndLsn, Lsn};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// Bytes asked of the socket at once. Large enough that a burst of small changes costs few
/// system calls, small enough that a kept frame does not pin much.
const READ_BYTES: usize = 128 * 1024;

/// What a waiting frame is counted as besides its bytes.
const FRAME_OVERHEAD: usize = 64;

/// Acknowledgements are reported at most this often: each report may cost the server a sync of
/// the slot's file, and the walsender is the bottleneck of the whole path.
const REPORT_GAP: Duration = Duration::from_millis(50);

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// How a stream is read.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// Publications whose changes are wanted.
    pub publications: Vec<String>,
    /// Send changes of open transactions early (protocol 2).
    pub streaming: bool,
    /// Send values in binary form where the type has one.
    pub binary: bool,
    /// Bytes of frames that may wait for the consumer before the socket is no longer read.
    pub budget_bytes: usize,
    /// A server that says nothing for this long, though asked, is taken for lost, unless another
    /// connection sees its walsender at work (majors 14 and 15 say nothing while they skip a large
    /// transaction of unpublished tables): then for at most [`BUSY`] times as long.
    pub silence_limit: Duration,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions {
            publications: vec![String::from("headwater")],
            streaming: true,
            binary: false,
            budget_bytes: 16 << 20,
            // Seen at the next report, at most 5 s later: within half a minute.
            silence_limit: Duration::from_secs(24),
        }
    }
}

/// How many times [`StreamOptions::silence_limit`] a walsender that is at work may be silent.
pub const BUSY: u32 = 12;

/// What the server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// One message of the output plugin, for [`crate::pgoutput::Decoder`].
    Data {
        /// The message.
        payload: Bytes,
    },
    /// The server has sent everything relevant up to this position.
    Keepalive {
        /// The position.
        wal_end: EndLsn,
    },
}

impl Frame {
    fn cost(&self) -> usize {
        match self {
            Frame::Data { payload } => payload.len() + FRAME_OVERHEAD,
            Frame::Keepalive { .. } => FRAME_OVERHEAD,
        }
    }
}

/// What both ends of the stream share. Positions are LSNs as numbers; each only grows.
#[derive(Debug)]
struct Shared {
    /// Bytes of frames that wait; changed by the task (up) and the consumer (down).
    waiting: AtomicUsize,
    /// Rings when the consumer has taken frames.
    room: Notify,
    /// Set by the consumer.
    durable: AtomicU64,
    /// Rings when `durable` has grown.
    ack: Notify,
    /// Set by the task.
    received: AtomicU64,
    /// Set by the task.
    acked: AtomicU64,
    /// When the server last said something.
    heard: Mutex<Instant>,
}

/// Where a stream stands; for metrics and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPositions {
    /// The end of what the server has sent.
    pub received: EndLsn,
    /// What the consumer declared durable.
    pub durable: EndLsn,
    /// What the server was told.
    pub acked: EndLsn,
    /// Bytes of frames that wait for the consumer.
    pub waiting_bytes: usize,
    /// How long the server has said nothing.
    pub silent_for: Duration,
}

/// Tells the server what is durable; can be cloned and used from any thread.
#[derive(Clone, Debug)]
pub struct Acknowledger(Arc<Shared>);

impl Acknowledger {
    /// Declares everything up to `end` durable. The server hears it within 50 ms, as soon as it
    /// has itself shown that position on this connection. Going back is ignored.
    pub fn ack(&self, end: EndLsn) {
        // One ring until the next report: it will tell whatever is durable by then. Sequentially
        // consistent with the task's look at `durable` behind a report, so that one of both sees
        // the other's step.
        let before = self.0.durable.fetch_max(end.0.0, Ordering::SeqCst);
        if before < end.0.0 && before <= self.0.acked.load(Ordering::SeqCst) {
            self.0.ack.notify_one();
        }
    }

    /// Where the stream stands.
    pub fn positions(&self) -> StreamPositions {
        let load = |a: &AtomicU64| EndLsn(Lsn(a.load(Ordering::Acquire)));
        // Read in the order in which the invariant grows, so that a reader never sees it broken.
        let acked = load(&self.0.acked);
        let durable = load(&self.0.durable);
        StreamPositions {
            acked,
            durable,
            received: load(&self.0.received),
            waiting_bytes: self.0.waiting.load(Ordering::Relaxed),
            silent_for: self.0.heard.lock().expect("no panic under this lock").elapsed(),
        }
    }
}

/// A running stream. Dropping it ends the connection in the background.
#[derive(Debug)]
pub struct ReplicationStream {
    frames: mpsc::UnboundedReceiver<Result<Vec<Frame>>>,
    ready: VecDeque<Frame>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    backend_pid: u32,
}

impl ReplicationStream {
    /// Takes over a connection on which CopyBothResponse has arrived. `other_way` leads to the
    /// same server by another connection.
    pub(crate) fn start<S: Socket + 'static>(
        wire: Wire<S>,
        wal_sender_timeout: Duration,
        options: &StreamOptions,
        other_way: Option<ConnectConfig>,
    ) -> ReplicationStream {
        let (sender, frames) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            waiting: AtomicUsize::new(0),
            room: Notify::new(),
            durable: AtomicU64::new(0),
            ack: Notify::new(),
            received: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            heard: Mutex::new(Instant::now()),
        });
        let backend_pid = wire.backend_pid;
        let mut wire = wire;
        let pump = Pump {
            incoming: Incoming::from(std::mem::take(&mut wire.incoming)),
            wire,
            shared: shared.clone(),
            frames: sender,
            budget: options.budget_bytes,
            interval: report_interval(wal_sender_timeout),
            silence_limit: options.silence_limit,
            other_way,
            seen_at_work: None,
            reported: Instant::now(),
        };
        let task = tokio::spawn(pump.run());
        ReplicationStream { frames, ready: VecDeque::new(), shared, task, backend_pid }
    }

    /// Process id of the walsender that feeds this stream.
    pub fn backend_pid(&self) -> u32 {
        self.backend_pid
    }

    /// A handle that acknowledges and tells positions.
    pub fn acknowledger(&self) -> Acknowledger {
        Acknowledger(self.shared.clone())
    }

    /// The next frame, in the server's order. Cancel-safe.
    ///
    /// - Errors: the connection is lost or the server ended it; every later call says so again.
    pub async fn recv(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = self.take_ready() {
                return Ok(frame);
            }
            let batch = self.frames.recv().await;
            self.accept(batch)?;
        }
    }

    /// The same for a thread that is not part of the runtime.
    ///
    /// - Panics: when called from within an async context (tokio's rule).
    pub fn blocking_recv(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = self.take_ready() {
                return Ok(frame);
            }
            let batch = self.frames.blocking_recv();
            self.accept(batch)?;
        }
    }

    fn take_ready(&mut self) -> Option<Frame> {
        let frame = self.ready.pop_front()?;
        let cost = frame.cost();
        self.shared.waiting.fetch_sub(cost, Ordering::AcqRel);
        if self.ready.is_empty() {
            self.shared.room.notify_one();
        }
        Some(frame)
    }

    fn accept(&mut self, batch: Option<Result<Vec<Frame>>>) -> Result<()> {
        match batch {
            Some(Ok(frames)) => {
                self.ready = frames.into();
                Ok(())
            }
            Some(Err(error)) => Err(error),
            None => {
                Err(PgError::new(PgErrorKind::Lost(String::from("the stream has ended before"))))
            }
        }
    }

    /// Reports the last acknowledgement, ends the stream and waits until the server has let go,
    /// at most two seconds.
    pub async fn close(self) {
        let ReplicationStream { frames, task, .. } = self;
        drop(frames);
        let _ = timeout(GOODBYE * 2, task).await;
    }
}

/// A quarter of the server's patience, at most five seconds: a look at how long the server has
/// been silent is taken with each report.
fn report_interval(wal_sender_timeout: Duration) -> Duration {
    const LONGEST: Duration = Duration::from_secs(5);
    match wal_sender_timeout {
        Duration::ZERO => LONGEST,
        patience => (patience / 4).clamp(Duration::from_millis(10), LONGEST),
    }
}

/// The task's state: it alone touches the socket.
struct Pump<S> {
    wire: Wire<S>,
    incoming: Incoming,
    shared: Arc<Shared>,
    frames: mpsc::UnboundedSender<Result<Vec<Frame>>>,
    budget: usize,
    interval: Duration,
    silence_limit: Duration,
    other_way: Option<ConnectConfig>,
    /// When another connection last saw the silent walsender at work.
    seen_at_work: Option<Instant>,
    reported: Instant,
}

/// What the task woke up for.
enum Event {
    Report,
    Acknowledged,
    /// So many bytes; 0 at the end.
    Read(std::io::Result<usize>),
    Room,
    ConsumerGone,
}

/// Reads what is there, up to the buffer's capacity, and waits for the first of it. A single read of an
/// encrypted connection gives one record, and so one message, however much has arrived. Cancel-safe.
async fn read_all<S: Socket>(socket: &mut S, buffer: &mut BytesMut) -> std::io::Result<usize> {
    let mut bytes = 0;
    poll_fn(|context| {
        while bytes == 0 || buffer.len() < buffer.capacity() {
            let read = std::pin::pin!(socket.read_buf(buffer));
            match read.poll(context) {
                // An error or the end comes again with the next reading.
                Poll::Pending | Poll::Ready(Ok(0) | Err(_)) if bytes > 0 => {
                    return Poll::Ready(Ok(bytes));
                }
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(bytes)),
                Poll::Ready(Ok(more)) => bytes += more,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(bytes))
    })
    .await
}

impl<S: Socket> Pump<S> {
    async fn run(mut self) {
        match self.pump().await {
            // The consumer has gone: what it acknowledged last still counts.
            Ok(()) => {
                let _ = timeout(GOODBYE, async {
                    let _ = self.report(ReplyWish::None).await;
                    self.wire.end_copy().await;
                })
                .await;
            }
            Err(error) => {
                let _ = self.frames.send(Err(error));
            }
        }
    }

    async fn pump(&mut self) -> Result<()> {
        let mut report_at = self.reported + self.interval;
        // Set again only when it must ring earlier: most turns leave it as it is.
        let mut alarm = std::pin::pin!(sleep_until(report_at));
        let mut unheard_bytes = 0;
        // Frames that came together with CopyBothResponse.
        self.deliver()?;
        loop {
            let full = self.shared.waiting.load(Ordering::Acquire) >= self.budget;
            let incoming = &mut self.incoming.bytes;
            if incoming.capacity() - incoming.len() < READ_BYTES / 8 {
                incoming.reserve(READ_BYTES);
            }
            if alarm.deadline() != report_at {
                alarm.as_mut().reset(report_at);
            }
            let event = tokio::select! {
                () = &mut alarm => Event::Report,
                () = self.shared.ack.notified() => Event::Acknowledged,
                read = read_all(&mut self.wire.socket, incoming), if !full => Event::Read(read),
                () = self.shared.room.notified(), if full => Event::Room,
                () = self.frames.closed() => Event::ConsumerGone,
            };
            match event {
                Event::Read(Ok(0)) => {
                    return Err(lost("closed by the server"));
                }
                Event::Read(Ok(bytes)) => {
                    unheard_bytes += bytes;
                    // A server that stops asks again and again until all is confirmed: the gap
                    // keeps that from becoming a storm.
                    let (frames, wish) = self.deliver()?;
                    // A damaged length may announce what never comes, while keepalives trickle
                    // in as its body: only whole frames, or bytes in earnest, are a sign of life.
                    if frames > 0 || unheard_bytes >= READ_BYTES {
                        unheard_bytes = 0;
                        self.heard();
                    }
                    if wish == ReplyWish::Wanted || self.has_news() {
                        report_at = report_at.min(self.reported + REPORT_GAP.min(self.interval));
                    }
                }
                // Also what TLS calls invalid: bytes were damaged on their way.
                Event::Read(Err(error)) => return Err(lost(&error.to_string())),
                Event::Acknowledged => report_at = report_at.min(self.reported + REPORT_GAP),
                Event::Report => {
                    let silent = self.silent_for(full);
                    if silent >= self.silence_limit && !self.is_excused(silent).await {
                        return Err(silence("the server has fallen silent"));
                    }
                    // Asked for in time for an answer: at the latest at half of the limit.
                    let wish = if silent >= self.silence_limit / 3 {
                        ReplyWish::Wanted
                    } else {
                        ReplyWish::None
                    };
                    self.report(wish).await?;
                    let pause = if self.has_news() { REPORT_GAP } else { self.interval };
                    report_at = self.reported + pause.min(self.interval);
                }
                // Silence counts from when the socket is read again.
                Event::Room => self.heard(),
                Event::ConsumerGone => return Ok(()),
            }
        }
    }

    /// Whether the server may be silent for longer.
    async fn is_excused(&mut self, silent: Duration) -> bool {
        if silent >= self.silence_limit * BUSY {
            return false;
        }
        if self.seen_at_work.is_some_and(|seen| seen.elapsed() < self.silence_limit) {
            return true;
        }
        let Some(other_way) = &self.other_way else { return false };
        let busy = second_look::is_busy(other_way, self.wire.backend_pid).await;
        self.seen_at_work = busy.then(Instant::now);
        busy
    }

    fn heard(&self) {
        *self.shared.heard.lock().expect("no panic under this lock") = Instant::now();
    }

    fn silent_for(&self, full: bool) -> Duration {
        if full {
            return Duration::ZERO;
        }
        self.shared.heard.lock().expect("no panic under this lock").elapsed()
    }

    /// Hands over every whole frame that has arrived. Tells how many, and whether the server wants
    /// a reply.
    fn deliver(&mut self) -> Result<(usize, ReplyWish)> {
        let mut batch = Vec::new();
        let mut cost = 0;
        let mut wish = ReplyWish::None;
        let mut received = 0;
        let mut end = None;
        loop {
            // Frames in front of a damaged one are delivered; the error follows them.
            let message = match self.incoming.take() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => {
                    end = Some(error);
                    break;
                }
            };
            let parsed = match message.tag {
                b'd' => parse_copy_data(message.body),
                b'E' => Err(server_error(&message.body)),
                b'N' | b'S' => continue,
                // CopyDone and CommandComplete: what a server sends that is shut down.
                b'c' | b'C' => Err(lost("the server has ended the stream; it may be stopping")),
                tag => Err(lost(&format!("an unexpected message ({tag:#04x}) in the stream"))),
            };
            match parsed {
                Ok((frame, position, wanted)) => {
                    received = received.max(position.0);
                    if wanted == ReplyWish::Wanted {
                        wish = wanted;
                    }
                    cost += frame.cost();
                    batch.push(frame);
                }
                Err(error) => {
                    end = Some(error);
                    break;
                }
            }
        }
        let frames = batch.len();
        self.shared.received.fetch_max(received, Ordering::AcqRel);
        if !batch.is_empty() {
            self.shared.waiting.fetch_add(cost, Ordering::AcqRel);
            // A consumer that has gone is noticed by the loop.
            let _ = self.frames.send(Ok(batch));
        }
        end.map_or(Ok((frames, wish)), Err)
    }

    /// The position that may be told now.
    fn tellable(&self) -> u64 {
        let durable = self.shared.durable.load(Ordering::SeqCst);
        durable.min(self.shared.received.load(Ordering::Acquire))
    }

    fn has_news(&self) -> bool {
        self.tellable() > self.shared.acked.load(Ordering::Acquire)
    }

    /// Sends a standby status update.
    async fn report(&mut self, wish: ReplyWish) -> Result<()> {
        let before = self.shared.acked.load(Ordering::Acquire);
        let acked = self.tellable().max(before);
        assert!(
            acked <= self.shared.durable.load(Ordering::Acquire)
                && acked <= self.shared.received.load(Ordering::Acquire),
            "invariant: acked <= durable and acked <= received"
        );
        let mut message = BytesMut::with_capacity(39);
        message.put_u8(b'd');
        message.put_u32(38);
        message.put_u8(b'r');
        for _ in ["write", "flush", "apply"] {
            message.put_u64(acked);
        }
        message.put_i64(micros_since_2000());
        message.put_u8(u8::from(wish == ReplyWish::Wanted));
        let sent = timeout(self.silence_limit, async {
            self.wire.socket.write_all(&message).await?;
            self.wire.socket.flush().await
        });
        match sent.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(lost(&error.to_string())),
            Err(_) => return Err(silence("the server takes no status report")),
        }
        self.shared.acked.store(acked, Ordering::SeqCst);
        self.reported = Instant::now();
        Ok(())
    }
}

/// Whether an answer is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyWish {
    None,
    Wanted,
}

fn lost(why: &str) -> PgError {
    PgError::new(PgErrorKind::Lost(why.to_owned()))
}

fn silence(why: &str) -> PgError {
    PgError::new(PgErrorKind::Silent(why.to_owned()))
}

/// Microseconds since 2000-01-01 UTC, the protocol's clock.
fn micros_since_2000() -> i64 {
    const SECONDS_1970_TO_2000: u64 = 946_684_800;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_micros() as i64 - (SECONDS_1970_TO_2000 * 1_000_000) as i64
}

/// Reads the body of a CopyData message: the frame, the position up to which it says the server
/// has sent, and whether a reply is wanted.
pub(super) fn parse_copy_data(mut body: Bytes) -> Result<(Frame, Lsn, ReplyWish)> {
    match body.first() {
        Some(b'w') if body.len() >= 25 => {
            body.advance(1);
            let start = body.get_u64();
            let _wal_end = body.get_u64();
            let _sent_at = body.get_i64();
            // For a commit message, `start` is the end of the commit record.
            Ok((Frame::Data { payload: body }, Lsn(start), ReplyWish::None))
        }
        Some(b'k') if body.len() == 18 => {
            body.advance(1);
            let wal_end = Lsn(body.get_u64());
            let _sent_at = body.get_i64();
            let wish = if body.get_u8() == 1 { ReplyWish::Wanted } else { ReplyWish::None };
            Ok((Frame::Keepalive { wal_end: EndLsn(wal_end) }, wal_end, wish))
        }
        _ => Err(lost("a damaged frame in the stream")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tokio::io::DuplexStream;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    fn data(position: u64, payload: &[u8]) -> Vec<u8> {
        let mut body = vec![b'w'];
        body.extend_from_slice(&position.to_be_bytes());
        body.extend_from_slice(&position.to_be_bytes());
        body.extend_from_slice(&0i64.to_be_bytes());
        body.extend_from_slice(payload);
        frame(b'd', &body)
    }

    fn keepalive(position: u64, reply: u8) -> Vec<u8> {
        let mut body = vec![b'k'];
        body.extend_from_slice(&position.to_be_bytes());
        body.extend_from_slice(&0i64.to_be_bytes());
        body.push(reply);
        frame(b'd', &body)
    }

    fn start(budget_bytes: usize) -> (DuplexStream, ReplicationStream) {
        let (server, client) = tokio::io::duplex(1 << 20);
        let wire = Wire::new(client, HashMap::new(), 7);
        let options = StreamOptions { budget_bytes, ..StreamOptions::default() };
        (server, ReplicationStream::start(wire, Duration::from_millis(200), &options, None))
    }

    /// Reads status reports until one tells `position`.
    async fn reported(server: &mut DuplexStream, position: u64) {
        loop {
            let mut report = [0u8; 39];
            server.read_exact(&mut report).await.unwrap();
            assert_eq!(&report[..6], b"d\0\0\0\x26r");
            let told = u64::from_be_bytes(report[6..14].try_into().unwrap());
            assert!(told <= position, "told {told} though only {position} is durable");
            if told == position {
                return;
            }
        }
    }

    #[tokio::test]
    async fn only_what_was_acknowledged_and_received_is_told() {
        let (mut server, mut stream) = start(1 << 20);
        stream.acknowledger().ack(EndLsn(Lsn(50)));
        reported(&mut server, 0).await;
        server.write_all(&data(40, b"x")).await.unwrap();
        assert_eq!(stream.recv().await.unwrap(), Frame::Data { payload: Bytes::from("x") });
        reported(&mut server, 40).await;
        server.write_all(&keepalive(90, 1)).await.unwrap();
        assert_eq!(stream.recv().await.unwrap(), Frame::Keepalive { wal_end: EndLsn(Lsn(90)) });
        reported(&mut server, 50).await;
        let positions = stream.acknowledger().positions();
        assert_eq!((positions.acked.0.0, positions.durable.0.0), (50, 50));
    }

    #[tokio::test]
    async fn a_full_budget_stops_reading_but_not_reporting() {
        let (mut server, mut stream) = start(1000);
        let big = vec![7u8; 900];
        let total = 64;
        for i in 0..total {
            server.write_all(&data(i, &big)).await.unwrap();
        }
        for _ in 0..5 {
            reported(&mut server, 0).await;
        }
        for _ in 0..total {
            let Frame::Data { payload } = stream.recv().await.unwrap() else { panic!() };
            assert_eq!(payload.len(), 900);
        }
        assert_eq!(stream.acknowledger().positions().waiting_bytes, 0);
    }

    /// A socket that gives one message with each read, as an encrypted connection does.
    struct Records(VecDeque<Vec<u8>>);

    impl tokio::io::AsyncRead for Records {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _context: &mut std::task::Context<'_>,
            into: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            let Some(record) = self.0.pop_front() else { return Poll::Pending };
            into.put_slice(&record);
            Poll::Ready(Ok(()))
        }
    }

    impl tokio::io::AsyncWrite for Records {
        fn poll_write(
            self: std::pin::Pin<&mut Self>,
            _context: &mut std::task::Context<'_>,
            bytes: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _context: &mut std::task::Context<'_>,
        ) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(
            self: std::pin::Pin<&mut Self>,
            _context: &mut std::task::Context<'_>,
        ) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What has arrived over an encrypted connection is taken at once, not a record at a time.
    #[tokio::test]
    async fn one_reading_takes_all_records_that_have_arrived() {
        let records = (0..500).map(|i| data(i, b"x")).collect::<VecDeque<_>>();
        let all: usize = records.iter().map(Vec::len).sum();
        let mut socket = Records(records);
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        let arrived = read_all(&mut socket, &mut buffer).await.unwrap();
        assert_eq!((arrived, buffer.len()), (all, all));

        socket.0 = (0..500).map(|i| data(i, b"x")).collect();
        let mut small = BytesMut::with_capacity(all / 2);
        let arrived = read_all(&mut socket, &mut small).await.unwrap();
        assert!(arrived == small.len() && !socket.0.is_empty());
    }

    #[tokio::test]
    async fn a_damaged_frame_ends_the_stream_behind_the_good_ones() {
        let (mut server, mut stream) = start(1 << 20);
        let mut bytes = data(1, b"good");
        bytes.extend(frame(b'd', b"x"));
        server.write_all(&bytes).await.unwrap();
        assert!(stream.recv().await.is_ok());
        let error = stream.recv().await.unwrap_err();
        assert_eq!(error.policy(), crate::error::Policy::RetryWithBackoff);
        assert!(stream.recv().await.is_err(), "the end stays the end");
    }

    #[tokio::test]
    async fn closing_tells_the_last_acknowledgement() {
        let (mut server, mut stream) = start(1 << 20);
        server.write_all(&keepalive(90, 0)).await.unwrap();
        stream.recv().await.unwrap();
        stream.acknowledger().ack(EndLsn(Lsn(80)));
        let closing = tokio::spawn(stream.close());
        reported(&mut server, 80).await;
        drop(server);
        closing.await.unwrap();
    }
}
