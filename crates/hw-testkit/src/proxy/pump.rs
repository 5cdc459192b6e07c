//! One proxied connection: two directions, each read, mistreated and written by its own loop.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

use super::{Direction, Ending, Rules, Shared, Strike, reset_on_close};

/// Large enough for speed, small enough that a throttled line trickles.
const CHUNK: usize = 64 * 1024;

/// Runs until both directions have ended or a fault ends the connection.
pub(super) async fn connection(mut client: TcpStream, mut server: TcpStream, shared: &Shared) {
    // Pieces are meant to arrive as they were cut.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let ending = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let both = async {
            // The first cut ends the whole connection; an ordinary end only its own direction.
            tokio::try_join!(
                one_way(client_read, server_write, Direction::ToServer, shared),
                one_way(server_read, client_write, Direction::ToClient, shared),
            )
        };
        tokio::select! {
            ending = ordered_ending(shared) => ending,
            ended = both => ended.err().unwrap_or(Ending::Close),
        }
    };
    if ending == Ending::Reset {
        reset_on_close(&client);
        reset_on_close(&server);
    }
}

/// Resolves when the test orders every connection to end.
async fn ordered_ending(shared: &Shared) -> Ending {
    let mut rules = shared.rules.subscribe();
    let before = rules.borrow_and_update().endings;
    match rules.wait_for(|rules| rules.endings != before).await {
        Ok(rules) => rules.ending.unwrap_or(Ending::Close),
        Err(_) => Ending::Close,
    }
}

/// Passes one direction on until its source closes; the error is the manner of a cut that struck.
async fn one_way(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    shared: &Shared,
) -> Result<(), Ending> {
    let mut rules = shared.rules.subscribe();
    let mut buffer = vec![0; CHUNK];
    let mut progress = Progress { armed_id: 0, seen: 0 };
    loop {
        let fault = rules.borrow_and_update().fault(direction).clone();
        if fault.pause {
            if rules.changed().await.is_err() {
                return Ok(());
            }
            continue;
        }
        let most = match fault.bytes_per_second {
            Some(rate) => CHUNK.min(usize::try_from(rate / 20).unwrap_or(CHUNK)).max(1),
            None => CHUNK,
        };
        let read = tokio::select! {
            read = from.read(&mut buffer[..most]) => read,
            changed = rules.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                continue;
            }
        };
        let length = match read {
            Ok(length) if length > 0 => length,
            _ if fault.swallow => {
                // Silence: the end is noticed by the other side only once the line is well again.
                let _ = rules.wait_for(|rules| !rules.fault(direction).swallow).await;
                let _ = to.shutdown().await;
                return Ok(());
            }
            _ => {
                let _ = to.shutdown().await;
                return Ok(());
            }
        };
        if fault.swallow {
            shared.swallowed.fetch_add(length as u64, Ordering::Relaxed);
            continue;
        }
        pause_for(fault.delay, &mut rules).await;
        let chunk = &mut buffer[..length];
        let cut = progress.strike(chunk, direction, shared);
        let passing = cut.map_or(length, |(at, _)| at);
        let pieces = chunk[..passing].chunks(fault.split.unwrap_or(CHUNK).max(1));
        for piece in pieces {
            if to.write_all(piece).await.is_err() {
                return Ok(());
            }
            shared.passed(direction).fetch_add(piece.len() as u64, Ordering::Relaxed);
            if fault.split.is_some() {
                // Lets the receiver read this piece before the next is written.
                tokio::task::yield_now().await;
            }
        }
        if let Some((_, ending)) = cut {
            return Err(ending);
        }
        if let Some(rate) = fault.bytes_per_second {
            let seconds = length as f64 / rate.max(1) as f64;
            pause_for(Duration::from_secs_f64(seconds), &mut rules).await;
        }
    }
}

/// Sleeps unless the rules change meanwhile: a healed line is quick at once.
async fn pause_for(duration: Duration, rules: &mut watch::Receiver<Rules>) {
    if duration.is_zero() {
        return;
    }
    tokio::select! {
        () = tokio::time::sleep(duration) => {}
        _ = rules.changed() => rules.mark_changed(),
    }
}

/// How many bytes this direction of this connection has passed since the armed fault was armed.
struct Progress {
    armed_id: u64,
    seen: u64,
}

impl Progress {
    /// Flips the bit that is due within `chunk`, or tells after how many of its bytes to cut.
    fn strike(
        &mut self,
        chunk: &mut [u8],
        direction: Direction,
        shared: &Shared,
    ) -> Option<(usize, Ending)> {
        let armed = (*shared.armed()).filter(|armed| armed.direction == direction)?;
        if self.armed_id != armed.id {
            *self = Progress { armed_id: armed.id, seen: 0 };
        }
        let left = armed.after - self.seen;
        let length = chunk.len() as u64;
        // A cut after k bytes strikes as soon as k have passed; a flip needs the byte itself.
        let due = match armed.strike {
            Strike::End(_) => left <= length,
            Strike::FlipBit => left < length,
        };
        if !due {
            self.seen += length;
            return None;
        }
        shared.take(armed.id)?;
        let at = usize::try_from(left).expect("at most the chunk's length");
        match armed.strike {
            Strike::End(ending) => Some((at, ending)),
            Strike::FlipBit => {
                chunk[at] ^= 1;
                None
            }
        }
    }
}
