//! Commits whose arrival at clients is timed.
//!
//! A tick is one inserted row of `ticks` whose text carries its number. Whoever sees a tick has
//! been shown everything that was committed before it, so a tick is also how a run knows that the
//! server is through with its work.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::sync::watch;
use tokio_postgres::{Client, NoTls};

use crate::Outcome;
use crate::client::{Asking, SyncClient};

/// In front of a tick's number.
const MARK: &[u8] = b"tick:";

/// Digits of a tick's number.
const DIGITS: usize = 9;

/// How long a tick may be on its way before the run is given up.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Between two attempts to reach a server that starts.
const PAUSE: Duration = Duration::from_millis(10);

const INSERT: &str = "INSERT INTO ticks (id, body) VALUES ($1, $2)";

/// The next tick of this process: no two have the same number.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// The text that a tick's row carries.
pub fn mark(number: u64) -> String {
    format!("tick:{number:0DIGITS$}")
}

/// Finds the ticks in bytes from the log or a data line. One finder serves many lines.
pub struct Finder(memmem::Finder<'static>);

impl Finder {
    /// A finder.
    pub fn new() -> Finder {
        Finder(memmem::Finder::new(MARK))
    }

    /// Names every tick in `bytes`, in their order.
    pub fn each(&self, bytes: &[u8], mut found: impl FnMut(u64)) {
        for at in self.0.find_iter(bytes) {
            let digits = bytes.get(at + MARK.len()..at + MARK.len() + DIGITS).unwrap_or_default();
            if let Ok(number) = std::str::from_utf8(digits).unwrap_or_default().parse() {
                found(number);
            }
        }
    }
}

/// A tick that was committed.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    /// Its number.
    pub number: u64,
    /// When the statement was sent.
    pub sent: Instant,
    /// When Postgres had confirmed the commit.
    pub confirmed: Instant,
}

/// Commits the next tick.
pub async fn commit(sql: &Client) -> Outcome<Committed> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let id = number.to_string();
    let body = format!("{}: something about as long as a short message in a chat", mark(number));
    let sent = Instant::now();
    sql.execute(INSERT, &[&id, &body]).await?;
    Ok(Committed { number, sent, confirmed: Instant::now() })
}

/// Commits ticks at a steady pace on a thread of its own, so that busy clients in this process do
/// not hold back the clock.
pub struct Pace {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome<Vec<Committed>>>,
}

impl Pace {
    /// One tick `every` so often, `most` of them, until it is stopped.
    pub fn start(url: String, every: Duration, most: u64) -> Pace {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let (sql, connection) = tokio_postgres::connect(&url, NoTls).await?;
                    tokio::spawn(connection);
                    // One round trip for each tick instead of two.
                    let statement = sql.prepare(INSERT).await?;
                    let mut pace = tokio::time::interval(every);
                    let mut committed = Vec::new();
                    while (committed.len() as u64) < most && !stop.load(Ordering::Relaxed) {
                        pace.tick().await;
                        let number = NEXT.fetch_add(1, Ordering::Relaxed);
                        let id = number.to_string();
                        let body = format!("{}: a short message in a chat, or so", mark(number));
                        let sent = Instant::now();
                        sql.execute(&statement, &[&id, &body]).await?;
                        committed.push(Committed { number, sent, confirmed: Instant::now() });
                    }
                    Ok(committed)
                })
            }
        });
        Pace { stop, thread }
    }

    /// Waits for its end without holding a thread of the runtime.
    pub async fn finished(self) -> Outcome<Vec<Committed>> {
        tokio::task::spawn_blocking(|| self.thread.join().map_err(|_| "the pace broke off")?)
            .await?
    }

    /// Ends it and returns what was committed.
    pub async fn stopped(self) -> Outcome<Vec<Committed>> {
        self.stop.store(true, Ordering::Relaxed);
        self.finished().await
    }
}

/// A client that follows the ticks and notes when it saw each first.
pub struct Follower {
    seen: watch::Receiver<HashMap<u64, Instant>>,
    task: tokio::task::JoinHandle<()>,
}

impl Follower {
    /// Follows, as soon as the server answers.
    pub fn start(asking: Asking) -> Follower {
        let (sender, seen) = watch::channel(HashMap::new());
        let task = tokio::spawn(async move {
            let finder = Finder::new();
            let mut client = loop {
                match SyncClient::open(&asking).await {
                    Ok(client) => break client,
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            };
            loop {
                let arrived = Instant::now();
                let mut found = Vec::new();
                client.lines(|line| {
                    if line.starts_with(b"{\"data\"") {
                        finder.each(line, |number| found.push(number));
                    }
                });
                if !found.is_empty() {
                    sender.send_modify(|seen| {
                        for number in found {
                            seen.entry(number).or_insert(arrived);
                        }
                    });
                }
                if !matches!(client.pull().await, Ok(true)) {
                    return;
                }
            }
        });
        Follower { seen, task }
    }

    /// Waits for a tick.
    ///
    /// - Returns: when it was seen first.
    /// - Errors: the stream ended, or it does not come.
    pub async fn seen(&mut self, number: u64) -> Outcome<Instant> {
        let wait = self.seen.wait_for(|seen| seen.contains_key(&number));
        let seen = tokio::time::timeout(PATIENCE, wait)
            .await
            .map_err(|_| format!("tick {number} has not arrived"))?
            .map_err(|_| format!("the stream ended before tick {number} arrived"))?;
        Ok(seen[&number])
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_in_any_bytes() {
        let line = format!("{{\"data\":\"{{\\\"body\\\":\\\"{}: x\\\"}}\"}} {}", mark(7), mark(12));
        let mut found = Vec::new();
        Finder::new().each(line.as_bytes(), |number| found.push(number));
        Finder::new().each(b"tick:12", |number| found.push(number));
        assert_eq!(found, [7, 12]);
    }
}
