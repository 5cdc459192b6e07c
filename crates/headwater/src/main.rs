//! The process: allocator, arguments, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;
use headwater::cli::Cli;
use headwater::{commands, process, report};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    process::without_huge_pages();
    let exit = match Cli::try_parse() {
        Ok(cli) => commands::run(cli),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                report::answer(&error.render().to_string());
                report::Exit::Done
            }
            _ => {
                // What was written may hold a password, so only the reason is repeated.
                let _ = error.print();
                report::Exit::Failed
            }
        },
    };
    ExitCode::from(exit.code())
}
