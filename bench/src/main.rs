//! The measurements of `docs/performance.md`, one command each.
//!
//! Each measures the real `headwater serve` process against a real Postgres, and in the same run
//! the limit that its figures are compared with. In: a command and a scale. Out: a table on
//! standard output and a JSON file. Invariant: a figure is printed only when it was seen in this
//! run, and what was delivered was counted, so that nothing is fast by being incomplete.
//!
//! In reading order: [`options`], [`report`], the measurements ([`first_copy`], [`stream`], [`download`],
//! [`latency`], [`reconfigure`], [`hot`], [`membership`], [`memory`],
//! [`definitions`], [`live`], [`writers`], [`recovery`]); what they stand on: [`source`] (Postgres and the
//! rows), [`server`] (the process), [`client`] and [`body`] (a raw client), [`ticks`] (commits
//! whose arrival is timed), [`usage`], [`machine`]; and [`limits`].

// Its product is a table on standard output.
#![allow(clippy::print_stdout)]

mod body;
mod client;
mod definitions;
mod download;
mod first_copy;
mod hot;
mod latency;
mod limits;
mod live;
mod machine;
mod membership;
mod memory;
mod options;
mod reconfigure;
mod recovery;
mod report;
mod server;
mod source;
mod statistics;
mod stream;
mod ticks;
mod usage;
mod writers;

use std::process::ExitCode;

use clap::Parser as _;

use options::{Arguments, Which};
use report::Report;

/// Why a measurement came to nothing; for people.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What everything here answers with.
type Outcome<T> = Result<T, Failure>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = match arguments.options.prepared() {
        Ok(options) => options,
        Err(failure) => return failed("prepare", &failure),
    };
    let wanted = match arguments.which {
        Some(which) => vec![which],
        None => Which::ALL.to_vec(),
    };
    for which in wanted {
        let name = which.name();
        let outcome = async {
            let mut report = Report::begin(name, &options)?;
            match which {
                Which::FirstCopy => first_copy::run(&options, &mut report).await?,
                Which::Stream => stream::run(&options, &mut report).await?,
                Which::Download => download::run(&options, &mut report).await?,
                Which::Latency => latency::run(&options, &mut report).await?,
                Which::Reconfigure => reconfigure::run(&options, &mut report).await?,
                Which::Hot => hot::run(&options, &mut report).await?,
                Which::Membership => membership::run(&options, &mut report).await?,
                Which::Memory => memory::run(&options, &mut report).await?,
                Which::Definitions => definitions::run(&options, &mut report).await?,
                Which::LiveChange => live::change::run(&options, &mut report).await?,
                Which::LiveMemory => live::memory::run(&options, &mut report).await?,
                Which::LiveWindows => live::windows::run(&options, &mut report).await?,
                Which::Writers => writers::run(&options, &mut report).await?,
                Which::Recovery => recovery::run(&options, &mut report).await?,
            }
            report.finish(&options)
        };
        if let Err(failure) = outcome.await {
            return failed(name, &failure);
        }
    }
    ExitCode::SUCCESS
}

fn failed(what: &str, failure: &Failure) -> ExitCode {
    eprintln!("hw-bench: {what}: {failure}");
    ExitCode::from(2)
}
