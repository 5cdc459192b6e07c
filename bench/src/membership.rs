//! 7: one membership of a user who has up to 10,000.
//!
//! A list comes, is given away, and comes back; the user's client is told which bucket came or
//! went. The clock runs from the moment Postgres has confirmed the commit to the moment the client
//! has read the bytes of the `checkpoint_diff` line. Between two changes the stream rests for longer
//! than it pauses between two checkpoints.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::client::{Asking, SyncClient};
use crate::options::Options;
use crate::report::{Figure, Report};
use crate::server::{self, Server};
use crate::source::{READER, Source};
use crate::statistics::median;

/// Changes that are timed; the middle one counts.
const CHANGES: usize = 21;

/// Between two changes.
const REST: Duration = Duration::from_millis(50);

/// Measures with three numbers of memberships.
pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    for full in [100, 1_000, 10_000] {
        let lists = options.scaled(full);
        let source = Source::start(lists, lists, report).await?;
        let mut server = Server::start(options, &source.url(), server::BY_LIST)?;
        server.until_ready().await?;
        let mut client =
            SyncClient::open(&Asking::new(server.address(), server.token(READER)?)).await?;
        client.first_sync().await?;
        let cpu = server.usage()?.cpu_seconds;
        let mut times = Vec::new();
        for change in 0..CHANGES {
            tokio::time::sleep(REST).await;
            let owner = if change % 2 == 0 { "somebody" } else { READER };
            let give = format!("UPDATE lists SET owner_id = '{owner}' WHERE id = 0");
            source.sql.execute(&give, &[]).await?;
            let confirmed = Instant::now();
            let mut told = false;
            while !told {
                client.lines(|line| told |= line.starts_with(b"{\"checkpoint_diff\""));
                if !told && !client.pull().await? {
                    return Err("the stream ended".into());
                }
            }
            times.push(confirmed.elapsed().as_secs_f64() * 1e3);
        }
        let cpu = (server.usage()?.cpu_seconds - cpu) * 1e3 / CHANGES as f64;
        let label = |what: &str| format!("one of {lists} memberships: {what}");
        report.figure(Figure::new(label("told"), "ms", median(times)).at_most(5.0));
        report.figure(Figure::new(label("server CPU"), "ms/change", cpu));
        server.account(report).await?;
        server.stop().await;
    }
    Ok(())
}
