//! The process: allocator, arguments, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use headwater::cli::Cli;
use headwater::{commands, process, report};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    process::without_huge_pages();
    let exit = match Cli::try_parse() {
        Ok(cli) => commands::run(cli),
        Err(mut error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                report::answer(&error.render().to_string());
                report::Exit::Done
            }
            _ => {
                hide_values(&mut error);
                let _ = error.print();
                report::Exit::Failed
            }
        },
    };
    ExitCode::from(exit.code())
}

/// What stands where no option is expected may be a connection string with its password.
fn hide_values(error: &mut clap::Error) {
    for kind in [ContextKind::InvalidArg, ContextKind::InvalidSubcommand] {
        let told = match error.get(kind) {
            Some(ContextValue::String(text)) => text.contains("://") || text.contains('='),
            _ => false,
        };
        if told {
            error.insert(kind, ContextValue::String("…".to_owned()));
        }
    }
}
