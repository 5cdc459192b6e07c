//! 9: many tables, each with a definition of its own.
//!
//! 20, 200 and 2,000 tables of ten rows, and one stream each. The first copy should grow with
//! their number and no faster; what a definition costs on disk is the growth of the settled store
//! from the smallest number to the one measured, so that what every store takes at rest (its
//! journal is laid out in advance) is not counted. Limit of the copy: the same tables' raw `COPY`,
//! one after the other in one session. That everything came is checked by a client.

use std::fmt::Write as _;
use std::time::Instant;

use futures_util::StreamExt as _;

use crate::client::{Asking, SyncClient};
use crate::first_copy::settled;
use crate::options::Options;
use crate::report::{Figure, Report};
use crate::server::Server;
use crate::source::{READER, Source};
use crate::{Failure, Outcome};

/// Rows of each table.
const ROWS: u64 = 10;

/// Measures with three numbers of tables.
pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let mut smallest: Option<(u64, u64)> = None;
    for full in [20, 200, 2_000] {
        let tables = options.scaled(full);
        let source = Source::start(1, 1, report).await?;
        source.sql.batch_execute(&statements(tables)).await?;
        let raw = raw_copies(&source, tables).await?;
        let mut server = Server::start(options, &source.url(), &configuration(tables))?;
        let ready = server.until_ready().await?;
        let usage = server.usage()?;
        complete(&server, tables).await?;
        let disk = settled(&server).await;
        server.account(report).await?;
        server.stop().await;
        server.start_again();
        let again = server.until_ready().await?;
        let used = server.usage()?;

        let label = |what: &str| format!("{tables} tables and definitions: {what}");
        let each = |seconds: f64| seconds * 1e3 / tables as f64;
        report.figure(Figure::new(label("first copy"), "s", ready.as_secs_f64()).limit(raw));
        report.figure(
            Figure::new(label("first copy"), "ms/table", each(ready.as_secs_f64())).at_most(10.0),
        );
        report.figure(Figure::new(label("server CPU"), "ms/table", each(usage.cpu_seconds)));
        if let Some((fewest, least)) = smallest {
            let grown = disk.saturating_sub(least) as f64 / 1024.0;
            let one = grown / tables.saturating_sub(fewest).max(1) as f64;
            report.figure(Figure::new(label("disk"), "KB/table", one).at_most(64.0));
        }
        smallest = smallest.or(Some((tables, disk)));
        report.figure(Figure::new(label("start again"), "s", again.as_secs_f64()).at_most(2.0));
        report.figure(Figure::new(label("start again, CPU"), "s", used.cpu_seconds));
        server.stop().await;
    }
    Ok(())
}

fn statements(tables: u64) -> String {
    (0..tables).fold(String::new(), |mut sql, n| {
        let _ = write!(
            sql,
            "CREATE TABLE t_{n} (id integer PRIMARY KEY, body text NOT NULL);
             INSERT INTO t_{n} SELECT n, repeat('x', 100) FROM generate_series(1, {ROWS}) n;"
        );
        sql
    })
}

fn configuration(tables: u64) -> String {
    (0..tables).fold("config:\n  edition: 3\nstreams:\n".to_owned(), |mut text, n| {
        let _ =
            write!(text, "  s_{n}:\n    auto_subscribe: true\n    query: SELECT * FROM t_{n}\n");
        text
    })
}

/// Seconds that the tables' own `COPY` takes, drained and not looked at.
async fn raw_copies(source: &Source, tables: u64) -> Outcome<f64> {
    let began = Instant::now();
    for n in 0..tables {
        let copy = format!("COPY t_{n} TO STDOUT (FORMAT binary)");
        let mut rows = std::pin::pin!(source.sql.copy_out(&copy).await?);
        while let Some(part) = rows.next().await {
            part?;
        }
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Checks with a client that every row of every table has come.
async fn complete(server: &Server, tables: u64) -> Outcome<()> {
    let asking = Asking::new(server.address(), server.token(READER)?);
    let buckets = SyncClient::open(&asking).await?.first_sync().await?.buckets()?;
    let whole = buckets.iter().filter(|(_, count)| *count == ROWS).count() as u64;
    if whole == tables {
        return Ok(());
    }
    Err(Failure::from(format!("{whole} of {tables} buckets hold their {ROWS} rows")))
}
