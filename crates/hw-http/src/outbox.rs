//! What waits for one socket: a queue bounded in bytes between a stream's task and its HTTP body.
//!
//! The task pushes chunks of whole lines and waits for room; the body hands them to the HTTP
//! connection, which asks only when its socket takes more. Invariant: the queue holds at most
//! [`Outbox::LIMIT`] bytes and one chunk, so a slow client costs a bounded amount (E-5).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::time::Instant;

/// The task's end.
#[derive(Debug)]
pub struct Outbox(Arc<Mutex<Queue>>);

/// The body's end: a stream of chunks.
#[derive(Debug)]
pub struct OutboxBody(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    end: Option<End>,
    /// The body has seen the end.
    ended: bool,
    /// The body was dropped: the client hung up, or the connection failed.
    gone: bool,
    /// Since when the oldest chunk has been waiting; moved each time a chunk is taken.
    waiting_since: Option<Instant>,
    body: Option<Waker>,
    task: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Cut,
}

/// A new pair.
pub fn outbox() -> (Outbox, OutboxBody) {
    let queue = Arc::new(Mutex::new(Queue::default()));
    (Outbox(queue.clone()), OutboxBody(queue))
}

impl Outbox {
    /// Bytes that may wait before the task has to.
    pub const LIMIT: usize = 256 * 1024;

    /// Appends a chunk of whole lines. The caller has seen room.
    pub fn push(&self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        let mut queue = self.0.lock();
        if queue.gone || queue.end.is_some() {
            return;
        }
        queue.bytes += chunk.len();
        queue.chunks.push_back(chunk);
        queue.waiting_since.get_or_insert_with(Instant::now);
        wake(&mut queue.body);
    }

    /// Whether the next chunk may be made.
    pub fn has_room(&self) -> bool {
        let queue = self.0.lock();
        queue.gone || queue.bytes < Outbox::LIMIT
    }

    /// Whether the client hung up.
    pub fn is_gone(&self) -> bool {
        self.0.lock().gone
    }

    /// Waits until the client hung up, or with `room` also until there is room.
    pub async fn room_or_gone(&self, room: bool) {
        self.until(|queue| room && queue.bytes < Outbox::LIMIT).await;
    }

    /// Waits until the body has seen the end, or the client hung up.
    pub async fn ended(&self) {
        self.until(|queue| queue.ended).await;
    }

    /// How long the socket has taken nothing although something waits.
    pub fn stalled(&self) -> Duration {
        self.0.lock().waiting_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Ends the response behind what was pushed.
    pub fn finish(&self) {
        self.end(End::Whole);
    }

    /// Breaks the response off, so that the client sees an error rather than an end.
    pub fn cut(&self) {
        self.end(End::Cut);
    }

    fn end(&self, end: End) {
        let mut queue = self.0.lock();
        queue.end.get_or_insert(end);
        if end == End::Cut {
            queue.chunks = VecDeque::new();
            queue.bytes = 0;
            queue.end = Some(end);
        }
        wake(&mut queue.body);
    }

    /// Only the stream's one task waits here, so one waker is enough.
    async fn until(&self, done: impl Fn(&Queue) -> bool) {
        poll_fn(|context| {
            let mut queue = self.0.lock();
            if queue.gone || done(&queue) {
                return Poll::Ready(());
            }
            queue.task = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Outbox {
    /// A task that ends without a word (a panic) must not leave its client waiting.
    fn drop(&mut self) {
        if self.0.lock().end.is_none() {
            self.cut();
        }
    }
}

impl Stream for OutboxBody {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut queue = self.0.lock();
        if let Some(chunk) = queue.chunks.pop_front() {
            queue.bytes -= chunk.len();
            queue.waiting_since = (!queue.chunks.is_empty()).then(Instant::now);
            if queue.chunks.is_empty() {
                // An idle client keeps no queue.
                queue.chunks = VecDeque::new();
            }
            wake(&mut queue.task);
            return Poll::Ready(Some(Ok(chunk)));
        }
        match queue.end {
            None => {
                queue.body = Some(context.waker().clone());
                Poll::Pending
            }
            Some(End::Whole) => {
                queue.ended = true;
                wake(&mut queue.task);
                Poll::Ready(None)
            }
            Some(End::Cut) => {
                queue.end = Some(End::Whole);
                queue.ended = true;
                wake(&mut queue.task);
                Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())))
            }
        }
    }
}

impl Drop for OutboxBody {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.gone = true;
        queue.chunks = VecDeque::new();
        queue.bytes = 0;
        queue.waiting_since = None;
        wake(&mut queue.task);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn chunk(length: usize) -> Bytes {
        Bytes::from(vec![b'x'; length])
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_waits_until_the_socket_takes_its_bytes() {
        let (outbox, mut body) = outbox();
        assert!(outbox.has_room());
        outbox.push(chunk(Outbox::LIMIT));
        outbox.push(chunk(1));
        assert!(!outbox.has_room());
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(outbox.stalled(), Duration::from_secs(61));
        let (_, taken) = tokio::join!(outbox.room_or_gone(true), body.next());
        assert_eq!(taken.unwrap().unwrap().len(), Outbox::LIMIT);
        assert_eq!(outbox.stalled(), Duration::ZERO, "progress starts the clock again");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(outbox.stalled(), Duration::from_secs(1));
        body.next().await.unwrap().unwrap();
        assert_eq!(outbox.stalled(), Duration::ZERO);
        outbox.finish();
        assert!(tokio::join!(outbox.ended(), body.next()).1.is_none());
    }

    #[tokio::test]
    async fn a_whole_end_comes_behind_the_bytes_and_a_cut_before_them() {
        let (outbox, mut body) = super::outbox();
        outbox.push(chunk(3));
        outbox.finish();
        assert_eq!(body.next().await.unwrap().unwrap().len(), 3);
        assert!(body.next().await.is_none());

        let (outbox, mut body) = super::outbox();
        outbox.push(chunk(3));
        outbox.cut();
        assert!(body.next().await.unwrap().is_err());

        let (outbox, mut body) = super::outbox();
        drop(outbox);
        assert!(body.next().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_is_noticed() {
        let (outbox, body) = outbox();
        outbox.push(chunk(Outbox::LIMIT));
        let hang_up = async { drop(body) };
        tokio::join!(outbox.room_or_gone(false), hang_up);
        assert!(outbox.is_gone() && outbox.has_room());
    }
}
