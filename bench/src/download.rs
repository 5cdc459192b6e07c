//! 3: operations to new clients, as plain NDJSON and with gzip.
//!
//! 1,000,000 operations to one client from one bucket and from 10,000, and to 50 clients at once
//! from a bucket of their own each. Limit: the same bytes, as they were recorded, through a plain
//! socket to the same client.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::client::{Asking, SyncClient};
use crate::first_copy::megabytes;
use crate::limits::plain_socket;
use crate::options::Options;
use crate::report::{Figure, Report};
use crate::server::{self, Server};
use crate::source::{OWNERS, READER, Source};
use crate::statistics::median;
use crate::usage;

/// Runs that are measured, behind one that is recorded; the middle one counts.
const RUNS: usize = 3;

struct Shape {
    name: &'static str,
    sync_config: &'static str,
    subjects: Vec<String>,
}

/// What all clients of a run received together.
struct Run {
    operations: u64,
    wire_bytes: u64,
    plain_bytes: u64,
    time: Duration,
    recordings: Vec<Vec<u8>>,
}

impl Run {
    fn rate(&self) -> f64 {
        self.operations as f64 / self.time.as_secs_f64()
    }
}

/// Downloads in every shape and encoding.
pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let (rows, lists) = (options.scaled(1_000_000), options.scaled(10_000));
    let source = Source::start(rows, lists, report).await?;
    let shapes = [
        Shape {
            name: "one bucket",
            sync_config: server::ONE_BUCKET,
            subjects: vec![READER.to_owned()],
        },
        Shape {
            name: "10,000 buckets",
            sync_config: server::BY_LIST,
            subjects: vec![READER.to_owned()],
        },
        Shape {
            name: "50 clients",
            sync_config: server::BY_OWNER,
            subjects: (0..OWNERS).map(|n| format!("owner-{n}")).collect(),
        },
    ];
    for shape in shapes {
        // A store of its own for each, so that none holds the operations of another.
        let mut server = Server::start(options, &source.url(), shape.sync_config)?;
        server.until_ready().await?;
        // The copy has its own measurement.
        usage::forget_peak(server.pid())?;
        for gzip in [false, true] {
            measure(&server, &shape, gzip, rows, report).await?;
        }
        let peak = server.usage()?.peak_bytes;
        let name = format!("{}: server memory, peak", shape.name);
        report.figure(Figure::new(name, "MB", megabytes(peak)).at_most(512.0));
        server.account(report).await?;
        server.stop().await;
        source.drop_slots().await?;
    }
    report.note(
        "limit: the recorded bytes through a plain socket to the same client; the client's own \
         work (chunks, gzip, lines) is on the same cores",
    );
    Ok(())
}

async fn measure(
    server: &Server,
    shape: &Shape,
    gzip: bool,
    rows: u64,
    report: &mut Report,
) -> Outcome<()> {
    let tokens: Vec<String> =
        shape.subjects.iter().map(|subject| server.token(subject)).collect::<Outcome<_>>()?;
    let asking = |keep| -> Vec<Asking> {
        let one = |(number, token): (usize, &String)| Asking {
            gzip,
            keep,
            number: number as u64,
            ..Asking::new(server.address(), token.clone())
        };
        tokens.iter().enumerate().map(one).collect()
    };
    let encoding = if gzip { "gzip" } else { "identity" };
    let label = |what: &str| format!("{}, {encoding}: {what}", shape.name);

    let recorded = download(asking(true)).await?;
    if recorded.operations != rows {
        let found = recorded.operations;
        return Err(format!("{}: {found} operations instead of {rows}", shape.name).into());
    }
    let cpu = server.usage()?.cpu_seconds;
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(download(asking(false)).await?);
    }
    let operations: u64 = runs.iter().map(|run| run.operations).sum();
    let cpu = (server.usage()?.cpu_seconds - cpu) * 1e6 / operations as f64;

    let recorded_rate = recorded.rate();
    let (address, thread) = plain_socket::replay(recorded.recordings)?;
    let replayed = asking(false).into_iter().map(|asking| Asking { address, ..asking }).collect();
    let limit = download(replayed).await?;
    thread.join().map_err(|_| "the plain socket broke off")?;

    let rate = Figure::new(
        label("delivered"),
        "operations/s",
        median(runs.iter().map(Run::rate).collect()),
    )
    .limit(limit.rate());
    report.figure(if gzip { rate } else { rate.at_least(500_000.0) });
    report.figure(Figure::new(label("the first time"), "operations/s", recorded_rate));
    report.figure(Figure::new(label("server CPU"), "us/operation", cpu));
    let per_operation = |bytes: u64| bytes as f64 / recorded.operations as f64;
    let bytes = if gzip { recorded.wire_bytes } else { recorded.plain_bytes };
    report.figure(Figure::new(label("sent"), "bytes/operation", per_operation(bytes)));
    Ok(())
}

/// All clients at once, from the first request to the last complete checkpoint.
async fn download(asking: Vec<Asking>) -> Outcome<Run> {
    let began = Instant::now();
    let clients: Vec<_> = asking
        .into_iter()
        .map(|asking| {
            tokio::spawn(async move {
                let mut client = SyncClient::open(&asking).await?;
                let synced = client.first_sync().await?;
                Ok::<_, crate::Failure>((synced, client))
            })
        })
        .collect();
    let mut done = Vec::new();
    for client in clients {
        done.push(client.await??);
    }
    let time = began.elapsed();
    let mut run =
        Run { operations: 0, wire_bytes: 0, plain_bytes: 0, time, recordings: Vec::new() };
    for (synced, client) in done {
        run.operations += synced.operations;
        run.wire_bytes += synced.wire_bytes;
        run.plain_bytes += synced.plain_bytes;
        run.recordings.push(client.into_kept());
    }
    Ok(run)
}
