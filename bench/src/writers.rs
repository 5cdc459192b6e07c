//! 13: what writers pay for being followed: `pgbench` with and without Headwater attached.
//!
//! Ten alternating pairs. Counted is the CPU of pgbench's backends alone, which the postmaster is told when they
//! end; the walsender goes on meanwhile and is not among them. The figure is the mean of the pairs'
//! differences with the half width of its 95 % interval (Student's t, 9 degrees of freedom).

use std::process::Command;

use crate::options::Options;
use crate::report::{Figure, Report};
use crate::server::Server;
use crate::source::Source;
use crate::{Outcome, usage};

const PAIRS: usize = 10;
/// Transactions of a run.
const TRANSACTIONS: u64 = 20_000;
const CLIENTS: u64 = 4;
/// Of Student's t at 97.5 % with 9 degrees of freedom.
const T: f64 = 2.262;

/// All tables that pgbench writes.
const FOLLOWED: &str = "config:
  edition: 3
streams:
  accounts:
    query: SELECT * FROM pgbench_accounts WHERE bid = auth.user_id()
  tellers:
    query: SELECT * FROM pgbench_tellers
  branches:
    query: SELECT * FROM pgbench_branches
";

/// Measures the pairs.
pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let source = Source::start(1, 1, report).await?;
    pgbench(&source, &["--initialize", "--quiet", "--scale=10"])?;
    let each = (options.scaled(TRANSACTIONS) / CLIENTS).max(1).to_string();
    let clients = CLIENTS.to_string();
    let run = ["--no-vacuum", "--client", &clients, "--transactions", &each, "--random-seed=1"];
    let postmaster = source.cluster.postmaster().ok_or("Postgres is not running")?;
    let backends = || -> Outcome<f64> {
        let before = usage::of_children(postmaster)?;
        pgbench(&source, &run)?;
        Ok(usage::of_children(postmaster)? - before)
    };
    // Everything is in memory, and nothing is new, before the first pair.
    backends()?;
    let mut server = Server::start(options, &source.url(), FOLLOWED)?;
    server.until_ready().await?;
    let mut differences = Vec::new();
    let mut alone = Vec::new();
    for pair in 0..PAIRS {
        let followed = backends()?;
        server.stop().await;
        let without = backends()?;
        server.start_again();
        server.until_ready().await?;
        eprintln!("hw-bench:   pair {}: {followed:.2} s followed, {without:.2} s alone", pair + 1);
        differences.push((followed / without - 1.0) * 100.0);
        alone.push(without);
    }
    let mean = differences.iter().sum::<f64>() / PAIRS as f64;
    let squares: f64 = differences.iter().map(|difference| (difference - mean).powi(2)).sum();
    let half = T * (squares / (PAIRS - 1) as f64).sqrt() / (PAIRS as f64).sqrt();
    let cpu = alone.iter().sum::<f64>() * 1e6 / PAIRS as f64 / options.scaled(TRANSACTIONS) as f64;
    report.figure(Figure::new("backends alone", "us CPU/transaction", cpu));
    report.figure(Figure::new("more CPU of backends when followed", "%", mean).at_most(3.0));
    report.figure(Figure::new("half width of its 95 % interval", "%", half));
    server.account(report).await
}

fn pgbench(source: &Source, arguments: &[&str]) -> Outcome<()> {
    let program = source.cluster.bin_dir().join("pgbench");
    let output = Command::new(&program).args(arguments).arg(source.url()).output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("pgbench: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}
