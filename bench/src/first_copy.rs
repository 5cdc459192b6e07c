//! 1: a table into an empty store, up to the first checkpoint.
//!
//! 1,000,000 rows of about 200 bytes into 10,000 buckets. Limits: the same table's raw COPY
//! drained, and the copied bytes loaded into the store alone. That the copy is whole is checked
//! by a client who owns every list.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::client::{Asking, SyncClient};
use crate::limits::{raw_copy, store_alone};
use crate::options::Options;
use crate::report::{Figure, Report};
use crate::server::{self, Server};
use crate::source::{READER, Source};
use crate::usage;

/// Between two looks at the size of the store.
const LOOK: Duration = Duration::from_millis(250);

/// How long the store may take to merge what the copy left behind.
const SETTLE: Duration = Duration::from_secs(20);

/// Copies and compares.
pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let (rows, lists) = (options.scaled(1_000_000), options.scaled(10_000));
    let source = Source::start(rows, lists, report).await?;
    let table = source.number("SELECT pg_table_size('items')").await?;
    let per_second = |time: Duration| rows as f64 / time.as_secs_f64();

    // Once to warm the source's memory, which the server then finds as warm as the limit did.
    raw_copy::drain(&source.sql).await?;
    let (bytes, raw) = raw_copy::drain(&source.sql).await?;
    let tuples = raw_copy::Tuples::read(&source.sql).await?;
    let loaded = store_alone::bulk(options, &tuples)?;
    drop(tuples);
    report.figure(Figure::new("raw COPY, drained", "rows/s", per_second(raw)));
    report.figure(Figure::new("raw COPY", "bytes/row", bytes as f64 / rows as f64));
    report.figure(Figure::new("the store alone", "rows/s", per_second(loaded.time)));
    let micros = loaded.cpu_seconds * 1e6 / rows as f64;
    report.figure(Figure::new("the store alone, CPU", "us/row", micros));

    let server = Server::start(options, &source.url(), server::BY_LIST)?;
    let mut largest = 0;
    let ready = {
        let mut ready = std::pin::pin!(server.until_ready());
        loop {
            match tokio::time::timeout(LOOK, &mut ready).await {
                Ok(ready) => break ready?,
                Err(_) => largest = largest.max(usage::disk_bytes(&server.data())),
            }
        }
    };
    let usage = server.usage()?;
    largest = largest.max(usage::disk_bytes(&server.data()));
    complete(&server, rows, lists).await?;
    let settled = settled(&server).await;

    report.figure(
        Figure::new("first copy to the first checkpoint", "rows/s", per_second(ready))
            .at_least(120_000.0)
            .limit(per_second(raw).min(per_second(loaded.time))),
    );
    report.figure(Figure::new("first copy", "s", ready.as_secs_f64()));
    report.figure(
        Figure::new("server CPU", "us/row", usage.cpu_seconds * 1e6 / rows as f64).at_most(15.0),
    );
    report.figure(
        Figure::new("server memory, peak", "MB", megabytes(usage.peak_bytes)).at_most(512.0),
    );
    let times = |bytes: u64| bytes as f64 / table as f64;
    report.figure(Figure::new("store when settled", "x table", times(settled)).at_most(3.0));
    report.figure(Figure::new("store at its largest", "x table", times(largest.max(settled))));
    report.note(format!(
        "the table takes {:.0} MB, indexes not counted; the time begins with the start of the \
         process and an empty directory",
        megabytes(table)
    ));
    server.account(report).await
}

/// Checks with a client that every row has come.
pub async fn complete(server: &Server, rows: u64, lists: u64) -> Outcome<()> {
    let asking = Asking::new(server.address(), server.token(READER)?);
    let synced = SyncClient::open(&asking).await?.first_sync().await?;
    let buckets = synced.buckets()?;
    let of_lists = || buckets.iter().filter(|(name, _)| name.contains("#lists"));
    let counted: u64 = of_lists().map(|(_, count)| count).sum();
    let wanted = rows.min(lists) as usize;
    if counted < rows || of_lists().filter(|(_, count)| *count > 0).count() != wanted {
        let found = of_lists().count();
        return Err(
            format!("{counted} operations in {found} buckets, not {rows} in {wanted}").into()
        );
    }
    Ok(())
}

/// Waits until the store has kept its size for two seconds.
pub async fn settled(server: &Server) -> u64 {
    let began = Instant::now();
    let (mut size, mut same) = (0, 0);
    while same < 8 && began.elapsed() < SETTLE {
        let now = usage::disk_bytes(&server.data());
        same = if now == size { same + 1 } else { 0 };
        size = now;
        tokio::time::sleep(LOOK).await;
    }
    size
}

/// Bytes in MB of 2^20, as the targets count.
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
