//! 8: memory of clients that have downloaded rows of their own, and of rows that are large.
//!
//! Up to 1,000 clients download 100 rows each and then listen; the server's resident memory is
//! read before, and again after a minute. Then a row of up to 50 MB is written, sent to one client
//! and removed; the peak is what is above the memory at rest.

use std::time::Duration;

use crate::Outcome;
use crate::client::{Asking, SyncClient};
use crate::options::Options;
use crate::report::{Figure, Report};
use crate::server::{self, Server};
use crate::source::Source;
use crate::ticks;
use crate::usage;

/// How long memory has to be given back.
const MINUTE: Duration = Duration::from_secs(60);
/// Rows of each client.
const ROWS: u64 = 100;

/// Measures clients, then rows.
pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    for full in [10, 100, 1_000] {
        clients(options, options.scaled(full), report).await?;
    }
    rows(options, report).await
}

async fn clients(options: &Options, count: u64, report: &mut Report) -> Outcome<()> {
    let source = Source::start(count * ROWS, count, report).await?;
    source.sql.execute("UPDATE lists SET owner_id = 'own-' || id", &[]).await?;
    let mut server = Server::start(options, &source.url(), server::BY_LIST)?;
    server.until_ready().await?;
    let asking = |number: u64| -> Outcome<Asking> {
        let token = server.token(&format!("own-{number}"))?;
        Ok(Asking { gzip: true, number, read_bytes: 4096, ..Asking::new(server.address(), token) })
    };
    // What the first client makes the server set up belongs to nobody in particular.
    SyncClient::open(&asking(0)?).await?.first_sync().await?;
    tokio::time::sleep(MINUTE).await;
    let none = server.usage()?.resident_bytes;
    let mut listening = Vec::new();
    for number in 0..count {
        let mut client = SyncClient::open(&asking(number)?).await?;
        let synced = client.first_sync().await?;
        if synced.operations != ROWS {
            return Err(format!("{} rows instead of {ROWS}", synced.operations).into());
        }
        listening.push(client);
    }
    let at_once = server.usage()?.resident_bytes;
    tokio::time::sleep(MINUTE).await;
    let later = server.usage()?.resident_bytes;
    let each = |bytes: u64| bytes.saturating_sub(none) as f64 / 1024.0 / count as f64;
    let label = |what: &str| format!("{count} clients with {ROWS} rows of their own: {what}");
    report.figure(Figure::new(label("at once"), "KB/client", each(at_once)));
    let later = Figure::new(label("a minute later"), "KB/client", each(later));
    report.figure(if count >= 1_000 { later.at_most(40.0) } else { later });
    drop(listening);
    server.account(report).await?;
    server.stop().await;
    Ok(())
}

async fn rows(options: &Options, report: &mut Report) -> Outcome<()> {
    let source = Source::start(1_000, 10, report).await?;
    let server = Server::start(options, &source.url(), server::BY_LIST)?;
    server.until_ready().await?;
    let mut follower =
        ticks::Follower::start(Asking::new(server.address(), server.token("follower")?));
    for megabytes in [10, 20, 50] {
        tokio::time::sleep(MINUTE).await;
        usage::forget_peak(server.pid())?;
        let rest = server.usage()?.resident_bytes;
        let digests = megabytes * 1_000_000 / 32;
        let write = format!(
            "INSERT INTO ticks SELECT 'large', string_agg(md5(n::text), '') \
             FROM generate_series(1, {digests}) n"
        );
        source.sql.execute(&write, &[]).await?;
        let tick = ticks::commit(&source.sql).await?;
        follower.seen(tick.number).await?;
        let peak = server.usage()?.peak_bytes.saturating_sub(rest);
        source.sql.execute("DELETE FROM ticks WHERE id = 'large'", &[]).await?;
        tokio::time::sleep(MINUTE).await;
        let kept = server.usage()?.resident_bytes.saturating_sub(rest);
        let size = (megabytes * 1_000_000) as f64;
        let label = |what: &str| format!("a row of {megabytes} MB: {what}");
        let peak = Figure::new(label("peak above rest"), "times its size", peak as f64 / size);
        report.figure(peak.at_most(5.0));
        let kept = Figure::new(label("kept a minute behind its end"), "MB", kept as f64 / 1e6);
        report.figure(kept);
    }
    server.account(report).await
}
