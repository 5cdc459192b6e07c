//! 5: a changed sync configuration over replicated rows, built from the replica.
//!
//! The stream of 10,000 buckets gets other columns, so that every one of its operations is made
//! anew; the stream beside it stays as it is. Checked: the source is not asked for a row (by its
//! own statistics), the new buckets are complete, the other bucket keeps its name.

use std::time::Instant;

use crate::Outcome;
use crate::client::{Asking, SyncClient};
use crate::first_copy::{complete, megabytes};
use crate::limits::store_alone;
use crate::options::Options;
use crate::report::{Figure, Report};
use crate::server::{self, Server};
use crate::source::{READER, Source};
use crate::usage;

/// Statements that touch the rows, by whomever but this program's own question.
const ASKED: &str = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
                     WHERE query ~* '\\mitems\\M' AND query NOT LIKE '%pg_stat_statements%'";

/// All statements.
const STATEMENTS: &str = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
                          WHERE query NOT LIKE '%pg_stat_%'";

/// Rows that anybody's scans have read.
const SCANNED: &str = "SELECT coalesce(sum(seq_scan + coalesce(idx_scan, 0)), 0)::bigint
                       FROM pg_stat_user_tables WHERE relname = 'items'";

/// Statistics of other sessions arrive when those have been idle for a second.
const STATISTICS: std::time::Duration = std::time::Duration::from_millis(1500);

/// Switches and checks.
pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let (rows, lists) = (options.scaled(1_000_000), options.scaled(10_000));
    let source = Source::start(rows, lists, report).await?;
    let server = Server::start(options, &source.url(), server::BY_LIST)?;
    server.until_ready().await?;
    complete(&server, rows, lists).await?;
    let ticks = ticks_bucket(&server).await?;
    tokio::time::sleep(STATISTICS).await;

    let version = server.sync_version().await?;
    let asked = [ASKED, STATEMENTS, SCANNED];
    let mut before = [0; 3];
    for (value, sql) in before.iter_mut().zip(asked) {
        *value = source.number(sql).await?;
    }
    usage::forget_peak(server.pid())?;
    let cpu = server.usage()?.cpu_seconds;
    let began = Instant::now();
    server.reconfigure(
        &server::BY_LIST.replace("SELECT * FROM items", "SELECT id, title, done FROM items"),
    )?;
    server
        .until("the new configuration is served", || async {
            server.sync_version().await.is_ok_and(|now| now > version)
        })
        .await?;
    let took = began.elapsed();
    let usage = server.usage()?;
    complete(&server, rows, lists).await?;
    tokio::time::sleep(STATISTICS).await;
    let mut grown = [0; 3];
    for ((value, sql), before) in grown.iter_mut().zip(asked).zip(before) {
        *value = source.number(sql).await? - before;
    }
    if ticks_bucket(&server).await? != ticks {
        return Err("the bucket of the unchanged stream has another name now".into());
    }

    let alone = store_alone::batches(options, rows, 1000)?;
    report.figure(
        Figure::new("from SIGHUP to the switch", "s", took.as_secs_f64())
            .at_most(15.0)
            .limit(alone.time.as_secs_f64()),
    );
    let per_row = |seconds: f64| seconds * 1e6 / rows as f64;
    report.figure(Figure::new("rows evaluated", "rows/s", rows as f64 / took.as_secs_f64()));
    report.figure(Figure::new("server CPU", "us/row", per_row(usage.cpu_seconds - cpu)));
    report.figure(
        Figure::new("server memory, peak", "MB", megabytes(usage.peak_bytes)).at_most(512.0),
    );
    let [statements_on_rows, statements, scans] = grown.map(|count| count as f64);
    report.figure(
        Figure::new("statements on the rows at the source", "calls", statements_on_rows)
            .at_most(0.0),
    );
    report.figure(Figure::new("scans of the table at the source", "scans", scans).at_most(0.0));
    report.figure(Figure::new("statements at the source of any kind", "calls", statements));
    report.note("limit: the store alone writing as many rows and operations");
    report.note(
        "the stream of the lists gets other columns; the bucket of the other stream kept its name",
    );
    server.account(report).await
}

async fn ticks_bucket(server: &Server) -> Outcome<String> {
    let asking = Asking::new(server.address(), server.token(READER)?);
    let synced = SyncClient::open(&asking).await?.first_sync().await?;
    let name = synced.buckets()?.into_iter().map(|(name, _)| name).find(|n| n.contains("#ticks"));
    Ok(name.ok_or("the stream of ticks has no bucket")?)
}
