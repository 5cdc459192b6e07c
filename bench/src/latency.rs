//! 4: from the commit to the clients' data lines, and the memory of clients that only listen.
//!
//! 20 commits a second for 30 seconds, each delivered to all clients of one bucket. The clock of
//! a delivery runs from the moment Postgres has confirmed the commit to the moment the client has
//! read the bytes; from the sending of the statement it is printed beside that. Every client must
//! have received every commit once.
//!
//! Limits: for one client, the same commits seen by a raw replication client, plus one durable
//! write, which nothing that is durable before it is shown can do without; for many, a line sent
//! to as many plain sockets.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::Outcome;
use crate::client::{Asking, SyncClient};
use crate::limits::plain_socket::FanOut;
use crate::limits::raw_slot::{self, millis_since};
use crate::options::Options;
use crate::report::{Figure, Report};
use crate::server::{self, Server};
use crate::source::Source;
use crate::statistics::Times;
use crate::ticks::{self, Committed, Finder, Pace};

/// Between two commits.
const EVERY: Duration = Duration::from_millis(50);

/// How long behind the last commit the last delivery may come.
const PATIENCE: Duration = Duration::from_secs(120);

/// Clients that connect at the same time.
const CONNECTING: usize = 64;

/// How long a server is left alone before its memory is read.
const REST: Duration = Duration::from_secs(3);

/// Bytes of one read of one of thousands of clients.
const READ_BYTES: usize = 4096;

/// Measures memory, then latency with growing numbers of clients.
pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let source = Source::start(1000, 10, report).await?;
    memory(options, &source, report).await?;

    let server = Server::start(options, &source.url(), server::BY_LIST)?;
    server.until_ready().await?;
    let commits = ((30.0 * options.scale.min(1.0)).max(2.0) / EVERY.as_secs_f64()) as u64;
    raw_slot::create(&source.sql).await?;
    let raw = raw_slot::latency(&source.url(), EVERY, commits.min(200)).await;
    raw_slot::remove(&source.sql).await?;
    let raw = Times::of_millis(raw?);
    report.figure(Figure::new("commit to a raw replication client, p50", "ms", raw.at(0.5)));
    let floor = |share| raw.at(share) + report.durable_write_millis();
    let floors = [floor(0.5), floor(0.99)];

    for clients in [1, 200, 1000, 3000] {
        let clients = if clients == 1 { 1 } else { options.scaled(clients) };
        let plain = fan_out(clients, commits.min(200)).await?;
        let cpu = server.usage()?.cpu_seconds;
        let deliveries = follow(&server, &source, clients, commits).await?;
        let cpu = server.usage()?.cpu_seconds - cpu;
        let label = |what: &str| match clients {
            1 => format!("1 client: {what}"),
            _ => format!("{clients} clients: {what}"),
        };
        let all = Times::of_millis(deliveries.all);
        let last = Times::of_millis(deliveries.last);
        let mut p50 = Figure::new(label("all deliveries, p50"), "ms", all.at(0.5));
        let mut p99 = Figure::new(label("last client, p99"), "ms", last.at(0.99));
        match clients {
            1 => {
                p50 = p50.at_most(3.0).limit(floors[0]);
                p99 = p99.at_most(10.0).limit(floors[1]);
            }
            _ => p99 = p99.limit(plain.at(0.99)),
        }
        // At other scales the target belongs to the largest number of clients all the same.
        if clients == options.scaled(3000) && clients != 1 {
            p99 = p99.at_most(150.0);
        }
        report.figure(p50);
        report.figure(Figure::new(label("all deliveries, p95"), "ms", all.at(0.95)));
        report.figure(Figure::new(label("all deliveries, p99"), "ms", all.at(0.99)));
        report.figure(
            Figure::new(label("last client, p50"), "ms", last.at(0.5)).limit(plain.at(0.5)),
        );
        report.figure(Figure::new(label("last client, p95"), "ms", last.at(0.95)));
        report.figure(p99);
        let from_sending = Times::of_millis(deliveries.last_from_sending);
        report.figure(Figure::new(
            label("last client, from sending the commit, p50"),
            "ms",
            from_sending.at(0.5),
        ));
        let per_delivery = cpu * 1e6 / all.len() as f64;
        report.figure(Figure::new(label("server CPU"), "us/delivery", per_delivery));
    }
    report.note(format!("{commits} commits for each number of clients, one every 50 ms"));
    report.note(
        "limit with one client: a raw replication client plus one durable write; with more: one \
         line to as many plain sockets, read by the same clients",
    );
    server.account(report).await
}

/// Memory of clients that have synced and listen, with gzip negotiated: of all of them, and of
/// those behind the first third, which find everything set up that many share.
async fn memory(options: &Options, source: &Source, report: &mut Report) -> Outcome<()> {
    let clients = options.scaled(3000);
    let mut server = Server::start(options, &source.url(), server::BY_LIST)?;
    server.until_ready().await?;
    let asking = |numbers: std::ops::Range<u64>| -> Outcome<Vec<Asking>> {
        numbers.map(|number| listener(&server, number, true)).collect()
    };
    let rested = async || {
        tokio::time::sleep(REST).await;
        Ok::<_, crate::Failure>(server.usage()?.resident_bytes as f64 / 1024.0)
    };
    // What the first client of all makes the server set up belongs to nobody in particular.
    drop(connected(asking(0..1)?).await?);
    let none = rested().await?;
    let few = connected(asking(1..clients / 3 + 1)?).await?;
    let third = rested().await?;
    let more = connected(asking(clients / 3 + 1..clients + 1)?).await?;
    let all = rested().await?;
    report.figure(
        Figure::new("idle client with gzip, memory", "KB", (all - none) / clients as f64)
            .at_most(20.0),
    );
    let behind = (all - third) / more.len() as f64;
    report.figure(Figure::new("idle client, each behind the first third", "KB", behind));
    drop((few, more));
    server.account(report).await?;
    server.stop().await;
    source.drop_slots().await
}

/// A client of a user of its own, who has nothing but the shared bucket.
fn listener(server: &Server, number: u64, gzip: bool) -> Outcome<Asking> {
    let token = server.token(&format!("watcher-{number}"))?;
    Ok(Asking { gzip, number, read_bytes: READ_BYTES, ..Asking::new(server.address(), token) })
}

/// Connects and syncs all.
async fn connected(asking: Vec<Asking>) -> Outcome<Vec<SyncClient>> {
    let mut clients = Vec::with_capacity(asking.len());
    let mut connecting = JoinSet::new();
    for asking in asking {
        if connecting.len() == CONNECTING
            && let Some(client) = connecting.join_next().await
        {
            clients.push(client??);
        }
        connecting.spawn(async move {
            let mut client = SyncClient::open(&asking).await?;
            client.first_sync().await?;
            Ok::<_, crate::Failure>(client)
        });
    }
    while let Some(client) = connecting.join_next().await {
        clients.push(client??);
    }
    Ok(clients)
}

/// Milliseconds.
struct Deliveries {
    all: Vec<f64>,
    /// Of each commit, to the last client.
    last: Vec<f64>,
    last_from_sending: Vec<f64>,
}

impl Deliveries {
    /// - Errors: a client has missed a commit, or seen one twice.
    fn of(committed: &[Committed], seen: &[Vec<(u64, Instant)>]) -> Outcome<Deliveries> {
        let by_number: HashMap<u64, &Committed> =
            committed.iter().map(|tick| (tick.number, tick)).collect();
        let mut all = Vec::new();
        let mut last: HashMap<u64, Instant> = HashMap::new();
        for seen in seen {
            let ours: Vec<_> =
                seen.iter().filter_map(|(n, at)| Some((by_number.get(n)?, *at))).collect();
            if ours.len() != committed.len() {
                let (found, wanted) = (ours.len(), committed.len());
                return Err(format!("a client has seen {found} commits, not {wanted}").into());
            }
            for (tick, at) in ours {
                all.push(millis_since(tick.confirmed, at));
                let latest = last.entry(tick.number).or_insert(at);
                *latest = at.max(*latest);
            }
        }
        let to_last = |from: fn(&Committed) -> Instant| {
            committed.iter().map(|tick| millis_since(from(tick), last[&tick.number])).collect()
        };
        let (confirmed, sent) = (to_last(|tick| tick.confirmed), to_last(|tick| tick.sent));
        Ok(Deliveries { all, last: confirmed, last_from_sending: sent })
    }
}

/// Commits to this many listening clients.
async fn follow(
    server: &Server,
    source: &Source,
    clients: u64,
    commits: u64,
) -> Outcome<Deliveries> {
    let asking = (0..clients).map(|number| listener(server, number, false));
    let listening = connected(asking.collect::<Outcome<_>>()?).await?;
    let tasks = listen(listening, commits);
    let committed = Pace::start(source.url(), EVERY, commits).finished().await?;
    Deliveries::of(&committed, &collected(tasks).await?)
}

/// Each client notes when it sees which tick, until it has seen so many.
fn listen(clients: Vec<SyncClient>, ticks: u64) -> JoinSet<Outcome<Vec<(u64, Instant)>>> {
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            let finder = Finder::new();
            let mut seen = Vec::with_capacity(ticks as usize);
            while (seen.len() as u64) < ticks {
                if !client.pull().await? {
                    return Err("the stream ended".into());
                }
                let now = Instant::now();
                client.lines(|line| {
                    if line.starts_with(b"{\"data\"") {
                        finder.each(line, |number| seen.push((number, now)));
                    }
                });
            }
            Ok(seen)
        });
    }
    tasks
}

async fn collected(
    mut tasks: JoinSet<Outcome<Vec<(u64, Instant)>>>,
) -> Outcome<Vec<Vec<(u64, Instant)>>> {
    let mut seen = Vec::new();
    let all = async {
        while let Some(client) = tasks.join_next().await {
            seen.push(client??);
        }
        Ok::<_, crate::Failure>(())
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .map_err(|_| "a client still waits for a commit")??;
    Ok(seen)
}

/// The same lines from a thread that does nothing but write them to every socket.
async fn fan_out(clients: u64, ticks: u64) -> Outcome<Times> {
    let (address, accepting) = FanOut::start(clients as usize)?;
    let asking = (0..clients).map(|number| plain_listener(address, number)).collect();
    let listening = connected(asking).await?;
    let tasks = listen(listening, ticks);
    let sending = tokio::task::spawn_blocking(move || {
        let mut sockets = accepting.join().map_err(|_| "the plain socket broke off")??;
        let mut sent = Vec::new();
        for number in 0..ticks {
            let line = format!(
                "{{\"checkpoint_diff\":{{\"updated_buckets\":[],\"removed_buckets\":[]}}}}\n\
                 {{\"data\":{{\"data\":[{{\"data\":\"{}\"}}]}}}}\n\
                 {{\"checkpoint_complete\":{{\"last_op_id\":\"1\"}}}}\n",
                ticks::mark(number)
            );
            let now = Instant::now();
            sockets.send(&line)?;
            sent.push(Committed { number, sent: now, confirmed: now });
            std::thread::sleep(EVERY.saturating_sub(now.elapsed()));
        }
        Ok::<_, crate::Failure>((sent, sockets))
    });
    let seen = collected(tasks).await?;
    let (sent, _sockets) = sending.await??;
    Ok(Times::of_millis(Deliveries::of(&sent, &seen)?.last))
}

fn plain_listener(address: SocketAddr, number: u64) -> Asking {
    Asking { number, read_bytes: READ_BYTES, ..Asking::new(address, "nobody asks".to_owned()) }
}
