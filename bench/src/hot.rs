//! 6: a hot bucket: 1,000 rows with up to 1,000,000 operations of history.
//!
//! At each of three lengths of history: the first new client behind a commit, and 50 clients that
//! come back at different places of the history all at once, while others go on to commit and to
//! listen. Checked: a new client is sent each row once, and nobody more than that.

use std::time::{Duration, Instant};

use memchr::memmem;

use crate::body::{self, Kind};
use crate::client::{Asking, SyncClient};
use crate::options::Options;
use crate::report::{Figure, Report};
use crate::server::{self, Server};
use crate::source::{READER, Source};
use crate::statistics::{Times, median};
use crate::ticks::{self, Follower, Pace};
use crate::{Failure, Outcome, usage};

/// Rows of the bucket.
const ROWS: u64 = 1000;
/// Clients that come back at once.
const RETURNING: u64 = 50;
/// New clients, each behind a commit of its own; the middle one counts.
const NEW: usize = 5;
/// Between two commits that are timed meanwhile.
const EVERY: Duration = Duration::from_millis(20);
/// Changes a part of the rows, so that what is behind a commit is not all of the bucket.
const CHANGE: &str = "UPDATE items SET title = 'Item at ' || clock_timestamp() WHERE ";

/// What one client received.
struct Received {
    puts: u64,
    plain_bytes: u64,
    place: (String, u64),
}

/// Lets history grow and measures on the way.
pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let source = Source::start(ROWS, 10, report).await?;
    let server = Server::start(options, &source.url(), server::ONE_BUCKET_AND_TICKS)?;
    server.until_ready().await?;
    let mut follower = Follower::start(Asking::new(server.address(), server.token("follower")?));
    let mut places = Vec::new();
    let mut history = 0;
    for full in [10_000, 100_000, 1_000_000] {
        let length = options.scaled(full);
        let step = (length / RETURNING).max(1);
        let mut noted = history;
        let cpu = server.usage()?.cpu_seconds;
        let before = history;
        while history < length {
            // A hundred operations a transaction, ten of them for each row in turn.
            let tenth = history / 100 % 10;
            source.sql.execute(&format!("{CHANGE} list_id = {tenth}"), &[]).await?;
            history += ROWS / 10;
            if history >= noted + step {
                noted = history;
                places.push(caught_up(&server, &source, &mut follower).await?.place);
            }
        }
        settled(&source, &mut follower).await?;
        let cpu = (server.usage()?.cpu_seconds - cpu) * 1e6 / (history - before).max(1) as f64;
        let label = |what: &str| format!("{length} operations: {what}");
        report.figure(Figure::new(label("server CPU"), "us/operation", cpu));

        let mut times = Vec::new();
        for _ in 0..NEW {
            source.sql.execute(&format!("{CHANGE} list_id = 3"), &[]).await?;
            settled(&source, &mut follower).await?;
            let began = Instant::now();
            let received = receive(new_client(&server, 0, &[])?).await?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
            if received.puts != ROWS {
                return Err(format!("a new client was sent {} rows", received.puts).into());
            }
        }
        let new = Figure::new(label("first new client behind a commit"), "ms", median(times));
        report.figure(new.at_most(20.0));

        usage::forget_peak(server.pid())?;
        let pace = Pace::start(source.url(), EVERY, u64::MAX);
        let wanted = RETURNING.min(places.len() as u64);
        let began = Instant::now();
        let clients: Vec<_> = (0..wanted)
            .map(|number| {
                let at = places.len() as u64 * number / wanted;
                let asking = new_client(&server, number + 1, &places[at as usize..][..1])?;
                Ok::<_, Failure>(tokio::spawn(receive(asking)))
            })
            .collect::<Outcome<_>>()?;
        let (mut bytes, mut puts) = (0, 0);
        for client in clients {
            let received = client.await??;
            bytes += received.plain_bytes;
            puts = puts.max(received.puts);
        }
        let all = began.elapsed();
        if puts > ROWS {
            return Err(format!("a returning client was sent {puts} rows").into());
        }
        // A second of it, so that the percentile is one.
        tokio::time::sleep(Duration::from_secs(1).saturating_sub(all)).await;
        let mut delays = Vec::new();
        for tick in pace.stopped().await? {
            let seen = follower.seen(tick.number).await?;
            delays.push(seen.saturating_duration_since(tick.confirmed));
        }
        let of = |what: &str| label(&format!("{wanted} clients back at different places, {what}"));
        report.figure(Figure::new(of("all complete"), "s", all.as_secs_f64()).at_most(1.0));
        report.figure(Figure::new(of("sent"), "KB/client", bytes as f64 / 1e3 / wanted as f64));
        let live = Figure::new(of("live latency p99"), "ms", Times::of(delays).at(0.99));
        report.figure(live.at_most(20.0));
    }
    let disk = usage::disk_bytes(&server.data()) as f64 / 1e6;
    report.figure(Figure::new("store behind all of it", "MB", disk));
    report.note("each operation changes one of 1,000 rows; a hundred of them are one transaction");
    server.account(report).await
}

fn new_client(server: &Server, number: u64, held: &[(String, u64)]) -> Outcome<Asking> {
    let token = server.token(READER)?;
    Ok(Asking { number, held: held.to_vec(), ..Asking::new(server.address(), token) })
}

/// Waits until everything that was committed is shown.
async fn settled(source: &Source, follower: &mut Follower) -> Outcome<()> {
    let tick = ticks::commit(&source.sql).await?;
    follower.seen(tick.number).await.map(drop)
}

/// A client of everything that was committed.
async fn caught_up(server: &Server, source: &Source, follower: &mut Follower) -> Outcome<Received> {
    settled(source, follower).await?;
    receive(new_client(server, 0, &[])?).await
}

/// Reads up to the first complete checkpoint, and counts the rows of the hot bucket.
async fn receive(asking: Asking) -> Outcome<Received> {
    let mut client = SyncClient::open(&asking).await?;
    let finder = memmem::Finder::new(b"\"op\":\"PUT\"");
    let (mut checkpoint, mut puts, mut plain_bytes, mut complete) = (Vec::new(), 0, 0, false);
    while !complete {
        client.lines(|line| {
            plain_bytes += line.len() as u64;
            match body::kind(line) {
                Kind::Checkpoint => checkpoint = line.to_vec(),
                Kind::Data
                    if memmem::find(&line[..line.len().min(200)], b"#everything").is_some() =>
                {
                    puts += finder.find_iter(line).count() as u64;
                }
                Kind::Complete => complete = true,
                Kind::Data | Kind::Other => {}
            }
        });
        if !complete && !client.pull().await? {
            return Err("the stream ended before the first checkpoint was complete".into());
        }
    }
    let line: serde_json::Value = serde_json::from_slice(&checkpoint)?;
    let op_id = line["checkpoint"]["last_op_id"].as_str().and_then(|text| text.parse().ok());
    let buckets = line["checkpoint"]["buckets"].as_array().ok_or("no buckets")?;
    let mut names = buckets.iter().filter_map(|bucket| bucket["bucket"].as_str());
    let name = names.find(|name| name.contains("#everything")).ok_or("no hot bucket")?;
    Ok(Received { puts, plain_bytes, place: (name.to_owned(), op_id.ok_or("no position")?) })
}
