//! Bodies of requests, within bounds of size, time and memory.
//!
//! In: a body and whose it is. Out: its bytes, counted until they are dropped. Invariants: what all
//! bodies hold together stays within a bound, and one user's within a share of it, so that neither
//! many nor one can fill the memory; of somebody who has not shown a valid token at most
//! [`STRANGER_BYTES`] are kept.
//!
//! Nobody waits for room: half of a body that waits would hold what another half waits for. Who
//! finds none is told to come again.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt;
use parking_lot::Mutex;

use crate::error::Refusal;
use crate::holder::{Full, Held, Holder, Most, Owner};

/// A body must have arrived within this time, so that a client that sends it byte by byte holds
/// nothing for long.
const WITHIN: Duration = Duration::from_secs(30);

/// Longest body that is kept for a caller who has not shown a valid token: enough to tell him what
/// is wrong with an ordinary request.
pub const STRANGER_BYTES: usize = 8 * 1024;

/// Most bytes of a refused body that are taken and thrown away.
const DISCARDED_BYTES: usize = 16 << 20;

/// A user may hold this part of the bound.
const SHARE: usize = 4;

/// The bodies of all requests that are being received or worked on.
#[derive(Debug)]
pub struct Bodies {
    held: Mutex<Held>,
    limit: usize,
}

impl Bodies {
    /// At most `limit` bytes together.
    pub fn new(limit: usize) -> Arc<Bodies> {
        Arc::new(Bodies { held: Mutex::default(), limit })
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held.lock().all()
    }

    /// The bound.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Receives somebody's body, at most `most` bytes of it.
    ///
    /// His share is at least one body of `most` bytes, so that a small bound refuses nobody
    /// for ever.
    pub async fn receive<'k>(
        self: &Arc<Bodies>,
        holder: impl Into<Holder<'k>>,
        body: Body,
        most: usize,
    ) -> Result<Received, Refusal> {
        let share = Share { bodies: self.clone(), owner: holder.into().into(), bytes: 0 };
        let mut received = Received { bytes: Vec::new(), share: Some(share) };
        let mut frames = body.into_data_stream();
        let all = async {
            while let Some(frame) = frames.next().await {
                let frame = frame.map_err(|_| Refusal::BrokenOff)?;
                received.append(&frame, most)?;
            }
            Ok(())
        };
        match tokio::time::timeout(WITHIN, all).await {
            Ok(Ok(())) => Ok(received),
            refused => {
                drop(received);
                let refusal =
                    refused.map_or(Refusal::TooSlow, |end| end.expect_err("not received"));
                if !matches!(refusal, Refusal::TooSlow | Refusal::BrokenOff) {
                    discard(frames).await;
                }
                Err(refusal)
            }
        }
    }
}

/// The body of somebody without a valid token: whole when it is short, else thrown away.
pub async fn of_a_stranger(body: Body) -> Option<Received> {
    let mut frames = body.into_data_stream();
    let mut kept = Vec::new();
    let all = async {
        while let Some(Ok(frame)) = frames.next().await {
            if kept.len() + frame.len() > STRANGER_BYTES {
                return false;
            }
            kept.extend_from_slice(&frame);
        }
        true
    };
    match tokio::time::timeout(WITHIN, all).await {
        Ok(true) => Some(Received { bytes: kept, share: None }),
        Ok(false) => {
            drop(kept);
            discard(frames).await;
            None
        }
        Err(_) => None,
    }
}

/// Takes what a refused caller is still sending and throws it away. A connection that is closed
/// while its client sends is reset, and the client may never see why: it would not fetch the new
/// token that it needs.
pub async fn turn_away(body: Body) {
    discard(body.into_data_stream()).await;
}

async fn discard(mut frames: BodyDataStream) {
    let mut left = DISCARDED_BYTES;
    let all = async {
        while let Some(Ok(frame)) = frames.next().await {
            left = left.saturating_sub(frame.len());
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(WITHIN, all).await;
}

/// A body that has arrived. Its bytes count until it is dropped.
#[derive(Debug)]
pub struct Received {
    bytes: Vec<u8>,
    /// None for the short body of a stranger.
    share: Option<Share>,
}

impl Received {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Drops the bytes. What was made of them goes on counting, until this is dropped.
    pub fn spend(&mut self) {
        self.bytes = Vec::new();
    }

    fn append(&mut self, frame: &[u8], most: usize) -> Result<(), Refusal> {
        if self.bytes.len() + frame.len() > most {
            return Err(Refusal::TooLarge { limit: most });
        }
        if let Some(share) = &mut self.share {
            share.grow(frame.len(), most)?;
        }
        self.bytes.extend_from_slice(frame);
        Ok(())
    }
}

/// What one body holds of the bound.
#[derive(Debug)]
struct Share {
    bodies: Arc<Bodies>,
    owner: Owner,
    bytes: usize,
}

impl Share {
    fn grow(&mut self, bytes: usize, most: usize) -> Result<(), Refusal> {
        let mut held = self.bodies.held.lock();
        // One body alone always fits.
        let is_alone = held.all() == self.bytes;
        let all = if is_alone { usize::MAX } else { self.bodies.limit };
        let most = Most { all, each: (self.bodies.limit / SHARE).max(most) };
        let now = self.bytes + bytes;
        held.change(&self.owner, (self.bytes, now), most).map_err(|full| match full {
            Full::Own => Refusal::UserBusy,
            Full::Strangers | Full::All => Refusal::BodiesFull,
        })?;
        self.bytes = now;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.bodies.held.lock().give_back(&self.owner, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(length: usize) -> Body {
        Body::from(vec![b'x'; length])
    }

    /// FD-36: what is in flight is bounded for all together and for each user, and given back.
    #[tokio::test]
    async fn fd_36_bodies_in_flight_are_bounded_for_all_and_for_each_user() {
        let bodies = Bodies::new(4000);
        let amy = bodies.receive("amy", body(1000), 1000).await.unwrap();
        assert_eq!((amy.bytes().len(), bodies.held()), (1000, 1000));
        let refused = bodies.receive("amy", body(1), 1000).await.unwrap_err();
        assert_eq!(refused, Refusal::UserBusy);
        let mut others = Vec::new();
        for user in ["bob", "cleo", "dan"] {
            others.push(bodies.receive(user, body(1000), 1000).await.unwrap());
        }
        let refused = bodies.receive("eve", body(1), 1000).await.unwrap_err();
        assert_eq!(refused, Refusal::BodiesFull);
        drop((amy, others));
        assert_eq!(bodies.held(), 0);
        assert!(bodies.held.lock().is_empty());
        let refused = bodies.receive("eve", body(1001), 1000).await.unwrap_err();
        assert_eq!(refused, Refusal::TooLarge { limit: 1000 });
        assert_eq!(bodies.held(), 0);
    }

    #[tokio::test]
    async fn one_body_alone_is_taken_whatever_the_bound() {
        let bodies = Bodies::new(10);
        assert!(bodies.receive("amy", body(1000), 1000).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up_and_what_it_held_is_given_back() {
        let bodies = Bodies::new(4000);
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>("half")]);
        let never = Body::from_stream(first.chain(futures_util::stream::pending()));
        let refused = bodies.receive("amy", never, 1000).await.unwrap_err();
        assert_eq!((refused, bodies.held()), (Refusal::TooSlow, 0));
    }

    /// FD-36: what a caller without a token sends is kept only when it is short.
    #[tokio::test]
    async fn fd_36_long_bodies_of_strangers_are_not_kept() {
        assert_eq!(
            of_a_stranger(body(STRANGER_BYTES)).await.unwrap().bytes().len(),
            STRANGER_BYTES
        );
        assert!(of_a_stranger(body(STRANGER_BYTES + 1)).await.is_none());
    }
}
