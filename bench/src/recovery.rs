//! 14: a store of several sizes opens behind `kill -9`.
//!
//! Stores of 1, 2 and 4 GB, each killed while single rows were being written to it. The clock runs from the start of
//! the process until the readiness probe answers: everything that was acknowledged is served. Limit: the same
//! store opened behind an orderly stop.

use crate::Outcome;
use crate::client::Asking;
use crate::first_copy::settled;
use crate::options::Options;
use crate::report::{Figure, Report};
use crate::server::{self, Server};
use crate::source::{Source, WATCHER};
use crate::ticks::{self, Follower};
use crate::usage;

/// Rows of 1 GB of store, and the sizes in these.
const ROWS: u64 = 3_000_000;
const SIZES: [u64; 3] = [1, 2, 4];

/// Transactions of one row before each kill: more than memory tables hold, so that there is a journal to replay.
const SINGLES: u64 = 100_000;
const WRITERS: u64 = 8;

/// Kills, starts and looks.
pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let mut source = Source::start(options.scaled(ROWS), options.scaled(10_000), report).await?;
    let mut server = Server::start(options, &source.url(), server::BY_LIST)?;
    server.until_ready().await?;
    for size in SIZES {
        let missing = options.scaled(ROWS * size).saturating_sub(source.rows());
        if missing > 0 {
            let insert = source.insert_next(missing);
            source.sql.batch_execute(&insert).await?;
            arrived(&source, &server).await?;
        }
        settled(&server).await;
        source.write_singles(WRITERS, options.scaled(SINGLES)).await?;
        arrived(&source, &server).await?;
        let bytes = usage::disk_bytes(&server.data());

        server.kill();
        server.start_again();
        let killed = server.until_ready().await?;
        arrived(&source, &server).await?;
        server.stop().await;
        server.start_again();
        let stopped = server.until_ready().await?;

        let label = |what: &str| format!("size {size} of {}: {what}", SIZES[SIZES.len() - 1]);
        let bytes = bytes as f64 / f64::from(1 << 30);
        report.figure(Figure::new(label("the store"), "GB", bytes));
        let seconds = killed.as_secs_f64();
        report.figure(
            Figure::new(label("ready behind a kill"), "s", seconds)
                .at_most(5.0)
                .limit(stopped.as_secs_f64()),
        );
    }
    report.note("limit: the same store opened behind an orderly stop");
    server.account(report).await
}

/// Waits until a client has seen all that was committed.
async fn arrived(source: &Source, server: &Server) -> Outcome<()> {
    let mut follower = Follower::start(Asking::new(server.address(), server.token(WATCHER)?));
    let last = ticks::commit(&source.sql).await?;
    follower.seen(last.number).await?;
    Ok(())
}
