//! Gathers the figures of [`super::status`] from engine, store and sockets.
//!
//! In: handles. Out: a [`StatusReport`] at any moment, and a watch that samples once a second,
//! raises the alarms of `limits`, and draws the bars of copies on a terminal.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use hw_engine::Engine;
use hw_engine::status::{EngineStatus, Held, SourceState, Waits};
use hw_http::listen::Connections;
use hw_live::figures::code::{BEHIND, POLLED};
use hw_live::figures::{Figures, Polled};
use hw_live::{Disagreement, Live};
use hw_pg::error::code as pg_code;
use hw_store::Store;
use hw_types::{Code, Diagnostic, TableName};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::lag::LagClock;
use super::pulse::Pulse;
use super::status::{
    AppliedReport, BoundReport, CheckpointReport, ClientsReport, CopyReport, HeldReport,
    LiveReport, SourceReport, StatusReport, StoreReport, SyncReport,
};
use crate::code;
use crate::config::Config;
use crate::config::parse::show_bytes;
use crate::doctor::pooler;
use crate::telemetry::{copies::CopyBars, metrics};

/// Between two samples.
const EVERY: Duration = Duration::from_secs(1);

/// From here on live results are said to be behind.
const LIVE_BEHIND: Duration = Duration::from_secs(10);

/// Between two repetitions of an alarm that still holds.
const ALARM_EVERY: Duration = Duration::from_secs(60);

/// What the figures are gathered from.
pub struct Reporter {
    /// The engine.
    pub engine: Engine,
    /// Its store.
    pub store: Store,
    /// The sockets.
    pub connections: Connections,
    /// What the surfaces use of their bounds, by their names, once they have started.
    pub surfaces: OnceLock<Vec<(&'static str, hw_http::surface::Bounds)>>,
    /// What keeps live results, once it has started, where there are any.
    pub live: OnceLock<Live>,
    /// Name of the source database.
    pub database: String,
    /// Whether a sync configuration was named.
    pub configured: bool,
    /// Whether live queries are served, which need no sync configuration.
    pub live_queries: bool,
    /// The configured bounds.
    pub bounds: Bounds,
    /// When the server started.
    pub started: Instant,
    /// What is remembered between samples.
    pub memory: Mutex<Memory>,
}

/// The bounds of `limits` and `store` that figures are shown against. Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// `limits.retained_log`.
    pub retained: u64,
    /// `limits.spool_bytes`.
    pub spool: u64,
    /// `store.memtable`.
    pub memtable: u64,
    /// `limits.copy_snapshot`.
    pub copy: Duration,
}

impl Bounds {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Bounds {
        Bounds {
            retained: config.limits.retained_log,
            spool: config.limits.spool_bytes,
            memtable: config.store.memtable,
            copy: config.limits.copy_snapshot,
        }
    }
}

/// Counts operations from the ids that are published: they are given without gaps above where the run
/// of the writer, or the epoch, began (E-3).
#[derive(Debug, Default)]
struct OperationCount {
    /// Where they began and the newest id, at the last look; the first look is at the start.
    last: Option<(u64, u64)>,
    total: u64,
}

impl OperationCount {
    fn look(&mut self, began: u64, op_id: u64) -> u64 {
        let from = match self.last {
            Some((known, last)) if known == began => last,
            Some(_) => began,
            None => op_id,
        };
        self.total += op_id.saturating_sub(from);
        self.last = Some((began, op_id));
        self.total
    }
}

/// What is remembered between samples.
#[derive(Default)]
pub struct Memory {
    operations: OperationCount,
    lag: LagClock,
    /// When each copy was first seen, by table.
    copies: HashMap<String, Instant>,
    retained_half: Option<Instant>,
    retained_all: Option<Instant>,
    copy_alarm: Option<Instant>,
    /// Alive is a writer that works, not this clock (FD-60).
    pulse: Pulse,
    /// Whether it was said that live results are behind.
    live_behind: bool,
    /// Tables of which it was seen at the last look that live results cannot follow them, and whether that was said.
    polled: HashMap<TableName, bool>,
}

/// A source that was not heard for so long is not known to be where it was.
const SILENT: Duration = Duration::from_secs(15);

impl Reporter {
    /// Tables and roles whose live results were not what Postgres shows.
    pub fn disagreements(&self) -> Vec<Disagreement> {
        self.live.get().map(Live::disagreements).unwrap_or_default()
    }

    /// The figures of this moment.
    pub fn report(&self) -> StatusReport {
        let status = self.engine.status();
        let live = self.live.get().map(Live::figures).unwrap_or_default();
        let now = Instant::now();
        let mut memory = self.memory.lock();
        // What was heard of an idle source is durable without a publication of its own.
        let reached = status.published.end_lsn.max(status.durable);
        let lag = memory.lag.observe(status.source.end, reached, now);
        // A table that has entered the replica is no longer of interest.
        let entered = matches!(status.source.state, SourceState::Streaming);
        let open: Vec<_> =
            status.source.copies.iter().filter(|copy| !(copy.done && entered)).collect();
        memory.copies.retain(|table, _| open.iter().any(|copy| copy.table.to_string() == *table));
        let copies: Vec<CopyReport> = open
            .iter()
            .map(|copy| {
                let table = copy.table.to_string();
                let began = *memory.copies.entry(table.clone()).or_insert(now);
                CopyReport {
                    table,
                    rows: copy.rows,
                    bytes: copy.bytes,
                    estimated_rows: copy.estimate,
                    read: copy.done,
                    range: copy.range,
                    one_snapshot: copy.one_snapshot,
                    seconds: now.duration_since(began).as_secs_f64(),
                }
            })
            .collect();
        let operations = memory.operations.look(status.began.0, status.published.op_id.0);
        let bounds = self.bounds_in_use();
        let streams = bounds.iter().filter(|bound| bound.name == "streams");
        let stored = self.store.statistics();
        let counted = |name| metrics::value(name) as u64;
        let heard = status.source.heard_at.is_some();
        let unheard = status.source.heard_at.map_or(Duration::ZERO, |at| at.elapsed());
        let silent = !matches!(status.source.state, SourceState::Streaming) || unheard > SILENT;
        let behind = status.source.end.0.0.saturating_sub(reached.0.0);
        StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            state: self.state(&status, copies.is_empty()).to_owned(),
            trouble: trouble(&status).or_else(|| {
                let polled = live.polled.iter().find(|it| it.is_refused).map(said_of_polled);
                late(&live).or_else(|| Some(format!("{} ({})", polled?, Code(POLLED))))
            }),
            sync: SyncReport {
                waiting_version: status.waiting_version,
                stale_tables: status.stale.iter().map(ToString::to_string).collect(),
                frozen: status.frozen.clone(),
                held: status.held.iter().map(held).collect(),
                withheld: status.withheld.clone(),
                refused: status.source.refused.iter().map(|finding| finding.what.clone()).collect(),
                lost: status.lost.clone(),
            },
            source: SourceReport {
                database: self.database.clone(),
                // Of a source that is away or silent nobody knows how much there is (FD-61).
                lag_bytes: (heard && !silent).then_some(behind),
                lag_seconds: heard.then_some(if silent {
                    lag.max(unheard).as_secs_f64()
                } else {
                    lag.as_secs_f64()
                }),
                retained_bytes: status.source.retained_bytes(),
                retained_limit_bytes: self.bounds.retained,
                catalog_seconds: status.source.catalog_at.map(|at| at.elapsed().as_secs_f64()),
                sent_whole: status.source.sent_whole,
                copy_starved: starved_copy(&status),
            },
            checkpoint: CheckpointReport {
                op_id: status.published.op_id.0.to_string(),
                lsn: status.published.end_lsn.0.to_string(),
                sync_version: status.sync_version.unwrap_or(0),
                published: status.publication,
            },
            copies,
            clients: ClientsReport {
                connections: self.connections.open() as u64,
                limit: self.connections.limit() as u64,
                streams: streams.map(|bound| bound.used).sum(),
            },
            bounds,
            store: StoreReport {
                went_back: status.went_back.as_ref().map(|f| format!("{}: {}", f.code, f.what)),
                restarts: status.restarts,
                bytes: status.store_bytes,
                memtable_bytes: stored.memtable_bytes,
                memtable_limit_bytes: self.bounds.memtable,
                queue_bytes: status.queue_bytes,
                queue_limit_bytes: status.queue_limit_bytes,
                spool_bytes: stored.spool_bytes,
                spool_limit_bytes: self.bounds.spool,
            },
            live: LiveReport {
                results: live.results as u64,
                planned: live.planned as u64,
                waiting: live.waiting as u64,
                behind_seconds: live.behind.map(|behind| behind.as_secs_f64()),
                overtaken: live.overtaken as u64,
                failing: live.failing.as_ref().map(|(_, why)| why.clone()),
                polled: live.polled.iter().map(said_of_polled).collect(),
                disagreements: self.disagreements().iter().map(audited).collect(),
            },
            applied: AppliedReport {
                transactions: counted("headwater_transactions_total"),
                rows: counted("headwater_rows_replicated_total"),
                copied_rows: counted("headwater_rows_copied_total"),
                operations,
            },
        }
    }

    fn bounds_in_use(&self) -> Vec<BoundReport> {
        let surfaces = self.surfaces.get().into_iter().flatten();
        let of = |(surface, bounds): &(&'static str, hw_http::surface::Bounds)| {
            let surface = (*surface).to_owned();
            bounds().into_iter().map(move |bound| BoundReport {
                surface: surface.clone(),
                name: bound.name.to_owned(),
                used: bound.used,
                limit: bound.limit,
            })
        };
        surfaces.flat_map(of).collect()
    }

    /// Samples until the stop.
    pub async fn watch(self: Arc<Reporter>, stop: CancellationToken) {
        let mut bars = CopyBars::default();
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return bars.clear(),
            }
            let report = self.report();
            let beat = self.engine.status().beat;
            self.memory.lock().pulse.look(beat, SystemTime::now());
            self.raise_alarms(&report);
            self.tell_of_live_results();
            bars.show(&report.copies);
            metrics::upkeep();
        }
    }

    /// What the probes say: started with the engine, ready once some of a sync configuration is served,
    /// alive while the engine answers the sampling.
    pub fn health(&self) -> hw_sync::Health {
        let published = self.engine.published();
        let follows = || matches!(self.engine.status().source.state, SourceState::Streaming);
        // A configuration of which nothing is served answers nobody; one without definitions says so itself.
        let serves = published.sync_view().is_some_and(|view| view.config().serves_something());
        let only_live = self.live_queries && !self.configured && published.withheld.is_none();
        hw_sync::Health {
            started: true,
            ready: serves || (only_live && follows()),
            touched_at: self.memory.lock().pulse.at(),
        }
    }

    fn state(&self, status: &EngineStatus, nothing_is_copied: bool) -> &'static str {
        match &status.source.state {
            SourceState::Starting | SourceState::Connecting => "starting",
            SourceState::Waiting { .. } => "waiting",
            SourceState::Failed { .. } => "failed",
            SourceState::Copying => "copying",
            SourceState::Streaming if !nothing_is_copied => "copying",
            SourceState::Streaming
                if status.sync_version.is_none()
                    && (self.configured || status.waiting_version.is_some()) =>
            {
                "building"
            }
            SourceState::Streaming => "streaming",
        }
    }

    /// P7 and E-8: the source is told about before it suffers.
    fn raise_alarms(&self, report: &StatusReport) {
        let mut memory = self.memory.lock();
        // What nobody knows at the moment is no reason to begin anew.
        if let Some(retained) = report.source.retained_bytes {
            let limit = self.bounds.retained;
            let (is_half, is_all) = (retained > limit / 2, retained > limit);
            // The one that is worse does not wait until the other is said again.
            let half = due(&mut memory.retained_half, is_half);
            let all = due(&mut memory.retained_all, is_all);
            if all || half && !is_all {
                let (kept, limit) = (show_bytes(retained), show_bytes(limit));
                let alarm = match is_all {
                    true => {
                        let what =
                            format!("the source keeps {kept} of log for us, more than {limit}");
                        Diagnostic::error(code::SLOT_OVER, what)
                    }
                    false => {
                        let what = format!("the source keeps {kept} of log for us, limit {limit}");
                        Diagnostic::warning(code::SLOT_HALF, what)
                    }
                };
                let mend = "end transactions that have been open for long (pg_stat_activity), see what `headwater status` \
                            says, or raise limits.retained_log";
                alarm.mend(mend).log();
            }
        }
        let oldest = report.copies.iter().filter(|copy| copy.one_snapshot && !copy.read);
        let oldest = oldest.max_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let long = oldest.filter(|copy| copy.seconds > self.bounds.copy.as_secs_f64());
        if due(&mut memory.copy_alarm, long.is_some())
            && let Some(copy) = long
        {
            tracing::warn!(
                table = %copy.table,
                "the copy has held a snapshot in the source for {:.0} minutes, longer than \
                 limits.copy_snapshot",
                copy.seconds / 60.0
            );
        }
    }
}

impl Reporter {
    /// Says once when live results begin to be behind, or that a table cannot be followed.
    fn tell_of_live_results(&self) {
        let Some(live) = self.live.get().map(Live::figures) else { return };
        let mut memory = self.memory.lock();
        // Of a source that is away the engine tells.
        let follows = matches!(self.engine.status().source.state, SourceState::Streaming);
        let late = late(&live).filter(|_| follows);
        if let Some(said) = late.as_ref().filter(|_| !memory.live_behind) {
            let mend = "see what the sessions \"headwater live\" of the database wait for";
            tracing::warn!(code = %Code(BEHIND), mend, "{said}");
        }
        memory.live_behind = late.is_some();
        let refused = live.polled.iter().filter(|it| it.is_refused);
        let known = std::mem::take(&mut memory.polled);
        for polled in refused {
            // What was so at the last look as well is not about to change.
            let was_said = known.get(&polled.table).copied();
            if was_said == Some(false) {
                let mend = "let it be replicated: a primary key, LOGGED, in the publication";
                tracing::warn!(code = %Code(POLLED), mend, "{}", said_of_polled(polled));
            }
            memory.polled.insert(polled.table.clone(), was_said.is_some());
        }
    }
}

/// That live results are behind, in a line.
fn late(live: &Figures) -> Option<String> {
    let is_long = |since: &Duration| *since >= LIVE_BEHIND;
    let code = Code(BEHIND);
    if let Some((since, why)) = live.failing.as_ref().filter(|(since, _)| is_long(since)) {
        let seconds = since.as_secs();
        return Some(format!(
            "for {seconds} s Postgres cannot be asked for live results: {why} ({code})"
        ));
    }
    if let Some(behind) = live.behind.filter(is_long) {
        let (seconds, waiting) = (behind.as_secs(), live.waiting);
        return Some(format!(
            "live results are {seconds} s behind what is published: {waiting} of them wait for Postgres to answer ({code})"
        ));
    }
    let overtaken = Some(live.overtaken).filter(|count| *count > 0)?;
    Some(format!(
        "{overtaken} live results are told behind what else their sockets follow: what they lack is not to be seen in \
         Postgres, or has no room ({code})"
    ))
}

/// Why a table is polled, in a line.
fn said_of_polled(polled: &Polled) -> String {
    let Polled { table, why, .. } = polled;
    format!("live results that depend on {table} are asked each second: {why}")
}

/// Whether an alarm is raised now: when it begins to hold, and again at intervals.
fn due(last: &mut Option<Instant>, holds: bool) -> bool {
    if !holds {
        *last = None;
        return false;
    }
    if last.is_some_and(|last| last.elapsed() < ALARM_EVERY) {
        return false;
    }
    *last = Some(Instant::now());
    true
}

/// What an audit has found, in a line.
pub fn audited(one: &Disagreement) -> String {
    let Disagreement { role, table, policies, difference, .. } = one;
    let policies = policies.join(", ");
    let code = Code(hw_live::code::DISAGREES);
    format!(
        "{table} for {role}: what policies {policies} admit was not what Postgres shows ({difference}); it is asked \
         instead ({code})"
    )
}

fn trouble(status: &EngineStatus) -> Option<String> {
    if let Some(error) = &status.store_error {
        return Some(error.clone());
    }
    if let Some(finding) = &status.behind {
        let said = format!("{} ({})", finding.what, finding.code);
        return Some(match disconnected(status).or_else(|| waiting_copy(status)) {
            Some(waits) => format!("{said}; it has not begun: {waits}"),
            None => said,
        });
    }
    let other = disconnected(status)
        .or_else(|| status.source.stalled.clone())
        .or_else(|| {
            let (catalog, memory) = (&status.source.catalog, &status.source.memory);
            let finding = catalog.trouble.as_ref().or(memory.trouble.as_ref())?;
            Some(format!("{} ({})", finding.what, finding.code))
        })
        .or_else(|| {
            let what =
                "damaged parts of the store are made again, and nothing is served until they are";
            (!status.lost.is_empty()).then(|| format!("{what}: {}", status.lost.join(", ")))
        })
        .or_else(|| {
            let stale = status.stale.first()?;
            let mut what = format!("table {stale} is copied again and compared");
            let mut add = |names: &[String], text: &str| {
                if !names.is_empty() {
                    what.push_str(&format!("; {text}: {}", names.join(", ")));
                }
            };
            add(&status.frozen, "until then these stand still");
            add(&status.shut, "and nobody has access by");
            let waits = waiting_copy(status).into_iter().collect::<Vec<_>>();
            add(&waits, "it has not begun");
            add(&older(status).into_iter().collect::<Vec<_>>(), "and");
            Some(what)
        })
        .or_else(|| match (older(status), waiting_copy(status)) {
            (Some(older), Some(waits)) => {
                Some(format!("{older}; their copy has not begun: {waits}"))
            }
            (older, waits) => older.or(waits),
        })
        .or_else(|| status.source.refused.first().map(|finding| finding.what.clone()));
    match (other, starved_copy(status)) {
        (Some(other), Some(starved)) => Some(format!("{other}; {starved}")),
        (other, starved) => other.or(starved),
    }
}

/// Which sync configuration is served in place of a newer one, or which of its definitions are not, and
/// until when.
fn older(status: &EngineStatus) -> Option<String> {
    let served = status.sync_version?;
    let Waits { tables, definitions, standing } = &status.waits_for;
    let tables: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let said = match status.waiting_version {
        Some(waiting) => {
            format!("sync configuration {served} is served, and not yet {waiting}, until")
        }
        None => "not all that the sync configuration defines is served: until".to_owned(),
    };
    let copied = (!tables.is_empty()).then(|| {
        let (tables, definitions) = (tables.join(", "), definitions.join(", "));
        format!("these have been copied: {tables}, for {definitions}")
    });
    let gone_on = (!standing.is_empty()).then(|| {
        format!("what they share with others that stand still goes on: {}", standing.join(", "))
    });
    let until: Vec<String> = copied.into_iter().chain(gone_on).collect();
    (!until.is_empty()).then(|| format!("{said} {}", until.join("; and until ")))
}

/// Why the source is not followed.
fn disconnected(status: &EngineStatus) -> Option<String> {
    match &status.source.state {
        SourceState::Failed { finding } if finding.code.0 == pg_code::POOLER => {
            Some(pooler::IN_SHORT.to_owned())
        }
        SourceState::Waiting { finding } | SourceState::Failed { finding } => {
            Some(format!("{} ({})", finding.what, finding.code))
        }
        _ => None,
    }
}

/// Whose open transaction keeps a copy from beginning.
fn waiting_copy(status: &EngineStatus) -> Option<String> {
    let finding = status.source.copy_waits.as_ref()?;
    Some(format!("{} ({})", finding.what, finding.code))
}

fn held(one: &Held) -> HeldReport {
    HeldReport {
        definition: one.definition.clone(),
        since: one.since.0.to_string(),
        write_checkpoints: one.write_checkpoints,
    }
}

/// Why copies begin again and again, and how to mend that.
fn starved_copy(status: &EngineStatus) -> Option<String> {
    let finding = status.source.copy_starved.as_ref()?;
    let mend = finding.mend.iter().map(|mend| format!(": {mend}")).collect::<String>();
    Some(format!("{} ({}){mend}", finding.what, finding.code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_from_the_start_over_epochs() {
        let mut count = OperationCount::default();
        assert_eq!(count.look(7 << 20, (7 << 20) + 100), 0, "what earlier runs did is not counted");
        assert_eq!(count.look(7 << 20, (7 << 20) + 130), 30);
        assert_eq!(count.look(9 << 20, (9 << 20) + 5), 35);
        assert_eq!(count.look(9 << 20, (9 << 20) + 6), 36);

        let mut count = OperationCount::default();
        assert_eq!(count.look(0, 0), 0, "a new store has given none");
        assert_eq!(count.look(7 << 20, (7 << 20) + 4), 4);
    }
}
