//! `headwater serve`: the server until a signal ends it.
//!
//! In: the configuration, signals. Out: a running server. SIGTERM and SIGINT stop it gracefully,
//! a second one at once; SIGHUP reads the sync configuration again.

use std::time::Duration;

use hw_types::Diagnostic;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::code;
use crate::config::{Config, Log};
use crate::doctor;
use crate::report::{self, Exit};
use crate::server::start;
use crate::telemetry;

/// How long the examination of the source at the start may take.
const EXAMINATION: Duration = Duration::from_secs(20);

/// Starts, serves, stops.
///
/// - Takes: what was odd about where the configuration came from; it is logged first.
pub async fn run(config: &Config, warnings: &[Diagnostic]) -> Exit {
    if let Err(why) = begin_telemetry(config) {
        refused(&[*why], "", &config.log.format);
        return Exit::Failed;
    }
    report::log(warnings, "");
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            report::say(&format!("cannot listen to signals: {error}"));
            return Exit::Failed;
        }
    };
    let started = tokio::select! {
        started = start::start(config, None) => started,
        // To finish what was under way at a crash may take long; it goes on with the next start.
        () = signals.end() => {
            tracing::info!("stopping before the store is open");
            return Exit::Done;
        }
    };
    let server = match started {
        Ok(server) => server,
        Err(start) => {
            refused(&start.findings, &start.text, &config.log.format);
            return Exit::Failed;
        }
    };
    let examination = tokio::spawn(examine(config.clone()));
    while let Asked::Reload = signals.next().await {
        server.reload(config);
    }
    examination.abort();
    signals.end_at_once_on_a_second_one();
    server.stop().await;
    Exit::Done
}

/// Tells why there is no start: a person at a terminal with the lines of the file, else one object
/// a line.
pub fn refused(findings: &[Diagnostic], text: &str, format: &str) {
    if telemetry::log::is_for_people(format) {
        return report::findings(findings, text);
    }
    let log = Log { format: format.to_owned(), level: "info".to_owned() };
    // The log may run already; then this changes nothing.
    let _ = telemetry::log::start(&log, &[]);
    report::log(findings, text);
}

/// Log and metrics, before anything that could be worth logging.
///
/// - Errors: HW1006 for a filter that is none, HW1051 for metrics that cannot be recorded.
pub fn begin_telemetry(config: &Config) -> Result<(), Box<Diagnostic>> {
    telemetry::log::start(&config.log, &config.secrets())?;
    telemetry::metrics::start().map_err(|error| {
        Box::new(Diagnostic::error(code::TELEMETRY, format!("metrics cannot be recorded: {error}")))
    })
}

/// Logs what `doctor` finds. The server goes on in any case: the source may be away for a moment,
/// and what was copied before is served all the same. What stops replication is an error in the
/// engine's own words.
async fn examine(config: Config) {
    match tokio::time::timeout(EXAMINATION, doctor::examine(&config)).await {
        Ok(Ok(examination)) => {
            report::log(&examination.findings, &examination.sync_text);
        }
        Ok(Err(finding)) => tracing::info!("the source was not examined: {}", finding.what),
        Err(_) => tracing::info!("the source was not examined: it does not answer"),
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM, SIGINT: stop.
    End,
    /// SIGHUP: read the sync configuration again.
    Reload,
}

/// The signals that a server listens to.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes them over from the system's defaults.
    pub fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// Waits until somebody asks for the end; who asks to reload is heard by [`Signals::next`].
    pub async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Somebody who asks twice does not want to wait for the graceful end.
    pub fn end_at_once_on_a_second_one(mut self) {
        tokio::spawn(async move {
            while let Asked::Reload = self.next().await {}
            std::process::exit(i32::from(Exit::Failed.code()));
        });
    }
}
