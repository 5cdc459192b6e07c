//! 2: changes, while they are made and from a backlog.
//!
//! Over 5,000,000 replicated rows in 10,000 buckets: single-row transactions by 1, 8 and 32 writers
//! while the server follows; then, each with the server stopped first, so that it starts with
//! all of it waiting: up to 100,000 single-row transactions, 100 of 10,000 rows, one of 200,000, and one
//! UPDATE of every row. The clock of a backlog runs from the start of the process until a client
//! has seen what was committed last.
//!
//! Limit of each: the smaller of draining an equal slot with a client that decodes nothing, and
//! the store alone writing as many rows and operations.

use std::time::Duration;

use crate::Outcome;
use crate::client::Asking;
use crate::first_copy::megabytes;
use crate::limits::{raw_slot, store_alone};
use crate::options::Options;
use crate::report::{Figure, Report};
use crate::server::{self, Server};
use crate::source::{Source, WATCHER};
use crate::statistics::Times;
use crate::ticks::{self, Committed, Follower, Pace};

/// Sessions that commit at the same time: the points of the curve, and those that targets are about.
const WRITERS: [u64; 3] = [1, 8, 32];
const FULL_SPEED: u64 = 8;

/// Between two ticks that measure how far the server is behind the writers.
const PROBE: Duration = Duration::from_millis(100);

/// Behind by more than this at the end counts as behind.
const BEHIND: f64 = 1000.0;

/// One kind of work.
struct Work {
    name: &'static str,
    /// Transactions that insert this many rows each; none for the single-row and the last kind.
    inserts: u64,
    transactions: u64,
    /// Rows per second.
    target: f64,
    /// Microseconds of CPU a row.
    cpu: f64,
}

/// Streams all kinds of work.
pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let (rows, lists) = (options.scaled(5_000_000), options.scaled(10_000));
    let singles = options.scaled(100_000);
    let mut source = Source::start(rows, lists, report).await?;
    let mut server = Server::start(options, &source.url(), server::BY_LIST)?;
    let copied = server.until_ready().await?;
    let peak = server.usage()?.peak_bytes;
    eprintln!("hw-bench:   {rows} rows copied in {:.1} s", copied.as_secs_f64());
    report.figure(
        Figure::new("the copy before: server memory, peak", "MB", megabytes(peak)).at_most(512.0),
    );

    for writers in WRITERS {
        // One alone commits a few hundred times a second.
        let count = if writers == 1 { singles / 8 } else { singles };
        live(options, &mut source, &server, writers, count, report).await?;
    }

    let single =
        |name, transactions| Work { name, inserts: 0, transactions, target: 20_000.0, cpu: 25.0 };
    let large = |name, inserts, transactions| Work {
        name,
        inserts,
        transactions,
        target: 50_000.0,
        cpu: 20.0,
    };
    let work = [
        single("an eighth of the single rows, backlog", singles / 8),
        single("half of the single rows, backlog", singles / 2),
        single("single rows, backlog", singles),
        large("100 of 10,000", options.scaled(10_000), 100),
        large("one of 200,000", options.scaled(200_000), 1),
        large("one UPDATE of all", 0, 1),
    ];
    for work in work {
        server.account(report).await?;
        server.stop().await;
        raw_slot::create(&source.sql).await?;
        let (rows, last) = make(&mut source, &work).await?;
        backlog(options, &source, &mut server, &work, rows, last, report).await?;
    }
    report.note(
        "limit: the smaller of draining an equal slot and the store alone; a backlog's time begins \
         with the start of the process and ends when a client has seen the last commit",
    );
    server.account(report).await
}

/// So many writers while the server follows.
async fn live(
    options: &Options,
    source: &mut Source,
    server: &Server,
    writers: u64,
    count: u64,
    report: &mut Report,
) -> Outcome<()> {
    let asking = Asking::new(server.address(), server.token(WATCHER)?);
    let mut follower = Follower::start(asking);
    let first = ticks::commit(&source.sql).await?;
    follower.seen(first.number).await?;
    crate::usage::forget_peak(server.pid())?;
    raw_slot::create(&source.sql).await?;
    let cpu = server.usage()?.cpu_seconds;

    let pace = Pace::start(source.url(), PROBE, u64::MAX);
    let (count, wrote) = source.write_singles(writers, count).await?;
    let probes = pace.stopped().await?;
    let last = ticks::commit(&source.sql).await?;
    let end = behind(&mut follower, &last).await?;
    let mut delays = Vec::new();
    for probe in &probes {
        delays.push(behind(&mut follower, probe).await?);
    }
    let usage = server.usage()?;
    let limit = limit(options, source, count, last.number, 100).await?;

    let delays = Times::of_millis(delays);
    let label = |what: &str| format!("{writers} writers, live: {what}");
    let aimed = |figure: Figure, at_most: f64| match writers == FULL_SPEED {
        true => figure.at_most(at_most),
        false => figure,
    };
    let rate = count as f64 / wrote.as_secs_f64();
    report.figure(Figure::new(label("written"), "transactions/s", rate).limit(limit));
    report.figure(Figure::new(label("behind at the end"), "ms", end).at_most(BEHIND));
    report.figure(Figure::new(label("behind, p50"), "ms", delays.at(0.5)));
    report.figure(aimed(Figure::new(label("behind, p99"), "ms", delays.at(0.99)), 50.0));
    report.figure(Figure::new(label("behind, longest"), "ms", delays.longest()));
    let cpu = (usage.cpu_seconds - cpu) * 1e6 / count as f64;
    report.figure(aimed(Figure::new(label("server CPU"), "us/row", cpu), 50.0));
    let peak = megabytes(usage.peak_bytes);
    report.figure(Figure::new(label("server memory, peak"), "MB", peak).at_most(512.0));
    Ok(())
}

/// Milliseconds from a commit to its arrival.
async fn behind(follower: &mut Follower, tick: &Committed) -> Outcome<f64> {
    Ok(raw_slot::millis_since(tick.confirmed, follower.seen(tick.number).await?))
}

/// Makes the work while nobody reads.
///
/// - Returns: the rows it changed, and the tick behind it.
async fn make(source: &mut Source, work: &Work) -> Outcome<(u64, Committed)> {
    let rows = match (work.inserts, work.transactions) {
        (0, 1) => source.sql.execute("UPDATE items SET done = NOT done", &[]).await?,
        (0, count) => source.write_singles(FULL_SPEED, count).await?.0,
        (inserts, count) => {
            for _ in 0..count {
                let insert = source.insert_next(inserts);
                source.sql.batch_execute(&insert).await?;
            }
            inserts * count
        }
    };
    Ok((rows, ticks::commit(&source.sql).await?))
}

/// Starts the server on what waits, and drains the equal slot for comparison.
async fn backlog(
    options: &Options,
    source: &Source,
    server: &mut Server,
    work: &Work,
    rows: u64,
    last: Committed,
    report: &mut Report,
) -> Outcome<()> {
    server.start_again();
    let mut follower = Follower::start(Asking::new(server.address(), server.token(WATCHER)?));
    follower.seen(last.number).await?;
    let took = server.age();
    let usage = server.usage()?;
    drop(follower);
    let group = if work.inserts == 0 && work.transactions > 1 { 100 } else { 1000 };
    let limit = limit(options, source, rows, last.number, group).await?;

    let label = |what: &str| format!("{}: {what}", work.name);
    let rate = rows as f64 / took.as_secs_f64();
    report.figure(Figure::new(label("applied"), "rows/s", rate).at_least(work.target).limit(limit));
    report.figure(Figure::new(label("until seen"), "s", took.as_secs_f64()));
    let cpu = usage.cpu_seconds * 1e6 / rows as f64;
    report.figure(Figure::new(label("server CPU"), "us/row", cpu).at_most(work.cpu));
    let peak = megabytes(usage.peak_bytes);
    report.figure(Figure::new(label("server memory, peak"), "MB", peak).at_most(512.0));
    Ok(())
}

/// Rows per second: the smaller of draining the equal slot and the store alone.
async fn limit(
    options: &Options,
    source: &Source,
    rows: u64,
    last: u64,
    group: u64,
) -> Outcome<f64> {
    let drained = raw_slot::drain(&source.url(), &source.sql, last).await?;
    let alone = store_alone::batches(options, rows, group)?;
    let per_second = |time: Duration| rows as f64 / time.as_secs_f64();
    eprintln!(
        "hw-bench:   slot alone {:.0} rows/s ({} messages of rows, {} bytes each), store alone {:.0} rows/s",
        per_second(drained.time),
        drained.rows,
        drained.bytes / drained.rows.max(1),
        per_second(alone.time),
    );
    Ok(per_second(drained.time).min(per_second(alone.time)))
}
