//! What each command does. One file a command; this one chooses and loads the configuration.
//!
//! In: a parsed command line. Out: an exit code. Invariant: answers go to standard output,
//! everything else to standard error.

pub mod check;
pub mod doctor;
pub mod eval;
pub mod generate;
pub mod policies;
pub mod serve;
pub mod setup;
pub mod status;
pub mod teardown;
pub mod token;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use hw_types::Diagnostic;

use crate::cli::{Cli, Command, Generate, Generated};
use crate::config::{self, Config, Sources};
use crate::process;
use crate::report::{self, Exit};

/// Runs the command.
pub fn run(cli: Cli) -> Exit {
    // One crypto provider for the whole process; a second call would only say that there is one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if matches!(cli.command, Command::Version) {
        report::answer(&format!("headwater {}\n", env!("CARGO_PKG_VERSION")));
        return Exit::Done;
    }
    if matches!(cli.command, Command::Serve(_)) {
        process::pass_over_early_hangups();
    }
    let asked = RefCell::new(BTreeSet::new());
    let sources = Sources {
        file: cli.global.config.clone(),
        flags: cli.flags(),
        environment: &|name| {
            asked.borrow_mut().insert(name.to_owned());
            config::process_environment(name)
        },
    };
    let loaded = config::load(&sources);
    let warnings = config::environment::unread(&asked.borrow());
    let config = match loaded {
        Ok(config) => config,
        Err(refused) => {
            let findings = [warnings, refused.findings].concat();
            // What `serve` says is read by machines, from its first line on.
            match cli.command {
                Command::Serve(_) => serve::refused(&findings, "", &refused.log_format),
                _ => report::findings(&findings, ""),
            }
            return Exit::Failed;
        }
    };
    if !matches!(cli.command, Command::Serve(_)) {
        report::findings(&warnings, "");
    }
    // The private Postgres of `dev` runs as another user when this is root, and must get at its
    // files; it closes them itself. So must that of `generate`, whose output is for everybody who reads the
    // sources.
    let is_for_others = match cli.command {
        Command::Dev(_) => process::is_root(),
        Command::Generate(_) => true,
        _ => false,
    };
    if !is_for_others {
        process::create_for_the_owner_alone();
    }
    match &cli.command {
        Command::Token(arguments) => token::run(&config, arguments),
        Command::Status(arguments) => short(status::run(&config, arguments)),
        Command::Doctor(_) => short(doctor::run(&config)),
        Command::Policies(arguments) => short(policies::run(&config, arguments)),
        Command::Generate(Generate { what: Generated::Types(arguments) }) => {
            short(generate::run(&config, arguments))
        }
        Command::Check(arguments) => short(check::run(&config, arguments)),
        Command::Setup(arguments) => short(setup::run(&config, arguments)),
        Command::Teardown(arguments) => short(teardown::run(&config, arguments)),
        Command::Serve(arguments) => {
            let config = Config { take_over: arguments.take_over, ..config };
            long(async { (serve::run(&config, &warnings).await, ()) })
        }
        Command::Dev(arguments) => {
            let config = Config { take_over: arguments.take_over, ..config };
            long(crate::dev::run(config, arguments))
        }
        Command::Eval(arguments) => eval::run(arguments),
        Command::Version => Exit::Done,
    }
}

/// Runs a server: as many threads as there are cores.
///
/// What the work leaves behind (the private Postgres of `dev`) is dropped when no task is left
/// that could miss it.
fn long<T>(work: impl Future<Output = (Exit, T)>) -> Exit {
    // Blocking work (pages of downloads, a copy's sort) waits for a thread rather than start one
    // more: each keeps memory of its own.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    match runtime.enable_all().max_blocking_threads(32).build() {
        Ok(runtime) => {
            let (exit, left) = runtime.block_on(work);
            runtime.shutdown_timeout(Duration::from_millis(200));
            drop(left);
            exit
        }
        Err(error) => {
            report::say(&format!("cannot start: {error}"));
            Exit::Failed
        }
    }
}

/// Runs a command that asks a few questions: one thread is enough.
fn short(work: impl Future<Output = Exit>) -> Exit {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            report::say(&format!("cannot start: {error}"));
            Exit::Failed
        }
    }
}

/// Prints one finding that ends the command.
pub(crate) fn refuse(finding: Diagnostic) -> Exit {
    report::findings(&[finding], "");
    Exit::Failed
}
