//! What has arrived of a message that is not whole.
//!
//! In: a socket, which hands over whole messages alone. Out: its frames. Invariant: what is half there counts as
//! its sender's, as whole messages do: sockets are many, and each could keep one that never ends.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::extract::ws::{Message, WebSocket};
use hw_http::budget::{Share, Shares};
use hw_http::holder::Full;
use hw_http::socket::ConnectionHandle;

use crate::caller::Caller;

/// Bytes that a socket may keep while it reads, beside a message.
pub(crate) const READ_BUFFER: usize = 8 * 1024;

/// What a socket gives: a frame, or why there is none; `None` when it has ended.
type Frame = Option<Result<Message, axum::Error>>;

/// See the module.
pub(crate) struct Arriving {
    /// `None` where nobody listens but a test: nothing is counted then.
    connection: Option<ConnectionHandle>,
    /// What the peer had sent at the end of the last whole message, and in frames of control since.
    settled: u64,
    share: Option<Share>,
}

impl Arriving {
    pub fn new(connection: Option<ConnectionHandle>) -> Arriving {
        let settled = connection.as_ref().map_or(0, ConnectionHandle::received);
        Arriving { connection, settled, share: None }
    }

    /// The next frame. May be dropped and asked again.
    ///
    /// - Takes: the socket, where its bytes count, and as whose.
    /// - Errors: there is no room for more of a message that is not whole.
    pub async fn frame(
        &mut self,
        socket: &mut WebSocket,
        shares: &Arc<Shares>,
        caller: &Caller,
    ) -> Result<Frame, Full> {
        let mut frame = pin!(socket.recv());
        poll_fn(|context| match frame.as_mut().poll(context) {
            Poll::Ready(frame) => {
                self.settle(&frame);
                Poll::Ready(Ok(frame))
            }
            Poll::Pending => match self.count(shares, caller) {
                Ok(()) => Poll::Pending,
                Err(full) => Poll::Ready(Err(full)),
            },
        })
        .await
    }

    fn received(&self) -> u64 {
        self.connection.as_ref().map_or(0, ConnectionHandle::received)
    }

    fn settle(&mut self, frame: &Frame) {
        match frame {
            // Stands between the pieces of a message: two bytes, four of its mask, and what it carries
            // (RFC 6455 section 5.5).
            Some(Ok(Message::Ping(payload) | Message::Pong(payload))) => {
                self.settled = self.received().min(self.settled + 6 + payload.len() as u64);
            }
            _ => (self.settled, self.share) = (self.received(), None),
        }
    }

    fn count(&mut self, shares: &Arc<Shares>, caller: &Caller) -> Result<(), Full> {
        let bytes = usize::try_from(self.received() - self.settled).unwrap_or(usize::MAX);
        if bytes <= READ_BUFFER {
            return Ok(());
        }
        match &mut self.share {
            Some(share) => share.resize(bytes),
            None => shares.take(caller.holder(), bytes).map(|share| self.share = Some(share)),
        }
    }
}
