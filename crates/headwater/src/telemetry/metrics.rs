//! Prometheus metrics: one recorder for all crates, rendered at `/metrics`.
//!
//! In: counters, gauges and histograms that the crates record under `headwater_…`. Out: the text
//! form. Invariant: names are promises; each is described, here or beside where it is recorded.

use std::sync::OnceLock;

use metrics::{Unit, describe_counter, describe_gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Bounds of latency histograms, seconds.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Starts recording for the rest of the process. A second call changes nothing.
///
/// - Errors: what the recorder refused.
pub fn start() -> Result<(), String> {
    if HANDLE.get().is_some() {
        return Ok(());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets(SECONDS)
        .map_err(|error| error.to_string())?
        .build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_ok() {
        let _ = HANDLE.set(handle);
        describe();
    }
    Ok(())
}

/// The text form of everything recorded. Empty before [`start`].
pub fn render() -> String {
    HANDLE.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// The sum of a counter or gauge over all its labels; 0 when it was never recorded.
pub fn value(name: &str) -> f64 {
    render()
        .lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let labelled = rest.starts_with('{') || rest.starts_with(' ');
            rest.rsplit(' ').next().filter(|_| labelled)?.parse::<f64>().ok()
        })
        .sum()
}

/// Folds what histograms have collected. Called every few seconds, so that they stay small when
/// nobody scrapes.
pub fn upkeep() {
    if let Some(handle) = HANDLE.get() {
        handle.run_upkeep();
    }
}

/// Counters of the crates without a metrics file of their own, and of this one. They are there
/// from the start, at 0: a rate over a series that begins in the middle misses its first step.
const COUNTERS: &[(&str, &str)] = &[
    ("headwater_rows_replicated_total", "Changes of rows applied"),
    ("headwater_rows_copied_total", "Rows that copies of tables brought"),
    (
        "headwater_rows_not_evaluated_total",
        "Evaluations of a row that failed, so that a definition does not have it",
    ),
    ("headwater_transactions_total", "Transactions of the source applied"),
    ("headwater_operations_total", "Operations of buckets published"),
    ("headwater_checkpoints_total", "States published, each a checkpoint for clients"),
    ("headwater_writer_restarts_total", "Restarts of the writer after a failure"),
    ("headwater_source_sessions_ended_total", "Connections to the source that ended"),
    ("headwater_compared_recopies_total", "Times that all tables were copied again and compared"),
    (
        "headwater_lost_positions_total",
        "Streams of clients that hold operations which this store has never had (HW3104)",
    ),
    ("headwater_foreign_markers_total", "Markers in the log that are not ours"),
    ("headwater_live_rounds_total", "Rounds in which the source was asked for live results"),
    ("headwater_live_questions_total", "Results that were asked for in them"),
    (
        "headwater_live_rounds_thrown_away_total",
        "Rounds during which policies or grants changed, so that they were begun anew",
    ),
    (
        "headwater_live_forgotten_total",
        "Changes of live results that there was no room for (limits.live_memory), so that they are asked for later",
    ),
    (
        "headwater_live_audits_total",
        "Results that were computed here and compared with what Postgres shows",
    ),
    (
        "headwater_live_audit_disagreements_total",
        "Audits that found live results to be other than what Postgres shows (HW4306); stays 0",
    ),
    (
        "headwater_datasync_resumed_total",
        "Subscriptions that went on with what their client had missed",
    ),
    (
        "headwater_datasync_cut_total",
        "Sockets of live queries cut because they took nothing while memory for answers was wanted, or because there \
         was no room for more of a message that was not whole",
    ),
];

/// Counters with one label, and the values that it has from the start.
const LABELLED: &[(&str, &str, &str, &[&str])] = &[
    (
        "headwater_upload_transactions_total",
        "Transactions that clients sent, by verdict",
        "verdict",
        &["applied", "rejected", "retry"],
    ),
    (
        "headwater_tokens_refused_total",
        "Requests refused for their token, by code",
        "code",
        &["PSYNC_S2101", "PSYNC_S2103", "PSYNC_S2104", "PSYNC_S2105", "PSYNC_S2106", "PSYNC_S2204"],
    ),
];

/// Gauges that [`StatusReport::record`](crate::server::status::StatusReport::record) sets, and one of
/// the engine's. What is bounded stands before its bound. What is not known yet is left out.
const GAUGES: &[(&str, Unit, &str)] = &[
    (
        "headwater_replication_lag_bytes",
        Unit::Bytes,
        "Write-ahead log of the source that is not published yet; NaN while it is not heard",
    ),
    (
        "headwater_replication_lag_seconds",
        Unit::Seconds,
        "Time since what is published was the newest of the source",
    ),
    (
        "headwater_retained_log_bytes",
        Unit::Bytes,
        "Write-ahead log that the slot makes the source keep; NaN while the source does not tell",
    ),
    (
        "headwater_catalog_age_seconds",
        Unit::Seconds,
        "Time since the source's catalog was compared with what is known of its tables and no news was found",
    ),
    (
        "headwater_retained_log_limit_bytes",
        Unit::Bytes,
        "Its configured limit (limits.retained_log)",
    ),
    ("headwater_checkpoint_op_id", Unit::Count, "Newest published operation"),
    (
        "headwater_sync_version",
        Unit::Count,
        "Number of the sync configuration that is served; 0: none",
    ),
    (
        "headwater_sync_waiting",
        Unit::Count,
        "1 while a sync configuration waits for its tables or is being built",
    ),
    (
        "headwater_tables_stale",
        Unit::Count,
        "Tables that are copied again and compared, because their changes could not be followed",
    ),
    (
        "headwater_tables_refused",
        Unit::Count,
        "Tables that cannot be replicated, or lack a column that is read",
    ),
    (
        "headwater_definitions_frozen",
        Unit::Count,
        "Definitions that stand still until their tables have entered again",
    ),
    (
        "headwater_definitions_withheld",
        Unit::Count,
        "Definitions that are not served, because a table that they read cannot be replicated, or a column is not there or not sent; or not yet, because they are new and a table has to be copied",
    ),
    ("headwater_clients", Unit::Count, "Open connections of clients"),
    (
        "headwater_clients_limit",
        Unit::Count,
        "Their limit (limits.max_clients, or what the limit of open files leaves)",
    ),
    (
        "headwater_bound_used",
        Unit::Count,
        "What a surface, or the edge that all share, uses of something bounded; bytes where the \
         name of the bound says so",
    ),
    ("headwater_bound_limit", Unit::Count, "The bound"),
    ("headwater_state", Unit::Count, "1 for the state that the server is in, 0 for every other"),
    ("headwater_build_info", Unit::Count, "1, with the version of the server"),
    ("headwater_uptime_seconds", Unit::Seconds, "Since the server started"),
    (
        "headwater_process_memory_bytes",
        Unit::Bytes,
        "Resident memory of the process, pages of mapped files among it",
    ),
    ("headwater_store_bytes", Unit::Bytes, "Size of the store on disk"),
    (
        "headwater_store_memtable_bytes",
        Unit::Bytes,
        "Memory of writes that are not in the store's tables yet",
    ),
    (
        "headwater_store_memtable_limit_bytes",
        Unit::Bytes,
        "Above so much (store.memtable) they are written to tables; meanwhile they are more",
    ),
    (
        "headwater_queue_memory_bytes",
        Unit::Bytes,
        "Memory of transactions that wait to be written to the store",
    ),
    (
        "headwater_queue_memory_limit_bytes",
        Unit::Bytes,
        "Its limit: half of limits.queue_memory, whose other half is for the log's side",
    ),
    ("headwater_spool_bytes", Unit::Bytes, "Size of the spools on disk"),
    ("headwater_spool_limit_bytes", Unit::Bytes, "Their configured limit (limits.spool_bytes)"),
    ("headwater_copy_rows", Unit::Count, "Rows read by the copies in progress"),
    ("headwater_copy_bytes", Unit::Bytes, "Bytes read by the copies in progress"),
    ("headwater_tables_copying", Unit::Count, "Tables whose copy is in progress"),
    (
        "headwater_copy_starved",
        Unit::Count,
        "1 while copies of tables begin again and again, because there is no room for one",
    ),
    (
        "headwater_write_checkpoints",
        Unit::Count,
        "Write checkpoints kept: one for each client that asked for one within 30 days",
    ),
    (
        "headwater_write_checkpoints_held",
        Unit::Count,
        "Write checkpoints that came since a definition stands still: who uses it is told them when it goes on",
    ),
];

/// Gauges of live queries, 0 while nobody has any.
const LIVE: &[(&str, &str)] = &[
    ("headwater_live_results", "Live results that are kept"),
    ("headwater_live_waiting", "Live results that are being asked, or wait for it"),
    (
        "headwater_live_behind_seconds",
        "How long the oldest question of a live result waits for its answer",
    ),
    (
        "headwater_live_overtaken",
        "Live results for which others of their socket do not wait any more",
    ),
    ("headwater_live_failing", "1 while the source cannot be asked for live results"),
    (
        "headwater_live_polled_tables",
        "Tables whose changes are not followed, so that live results that depend on them are asked each second",
    ),
    (
        "headwater_live_planned",
        "Values by which changed rows find the results that they concern, without the source being asked",
    ),
    ("headwater_live_unindexed", "Results that every changed row of their table is looked at for"),
    ("headwater_datasync_sockets", "Open sockets of live queries"),
];

fn describe() {
    for (name, about) in LIVE {
        describe_gauge!(*name, Unit::Count, *about);
        metrics::gauge!(*name).increment(0.0);
    }
    for (name, about) in COUNTERS {
        describe_counter!(*name, *about);
        metrics::counter!(*name).increment(0);
    }
    for (name, about, label, values) in LABELLED {
        describe_counter!(*name, *about);
        for value in *values {
            metrics::counter!(*name, *label => *value).increment(0);
        }
    }
    for (name, unit, about) in GAUGES {
        describe_gauge!(*name, *unit, *about);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_rendered_under_its_name() {
        start().expect("the first recorder of this process");
        start().expect("a second start changes nothing");
        metrics::gauge!("headwater_store_bytes").set(5.0);
        upkeep();
        assert_eq!(value("headwater_store_bytes"), 5.0);
        assert_eq!(value("headwater_store"), 0.0);
        let page = render();
        assert!(page.contains("# TYPE headwater_store_bytes gauge"), "{page}");
        assert!(page.contains("headwater_store_bytes 5"), "{page}");
        for (name, _) in COUNTERS {
            assert!(
                page.contains(&format!("\n{name} 0\n")),
                "{name} counts from the start: {page}"
            );
        }
        let applied = "headwater_upload_transactions_total{verdict=\"applied\"} 0\n";
        assert!(page.contains(applied), "{page}");
    }

    #[test]
    fn every_metric_that_a_crate_records_is_described() {
        let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut sources = String::new();
        let mut directories = vec![crates];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("readable") {
                let path = entry.expect("readable").path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|end| end == "rs") {
                    sources.push_str(&std::fs::read_to_string(path).expect("text"));
                }
            }
        }
        // Layout does not matter, so that a name on a line of its own is found.
        sources.retain(|c| !c.is_whitespace());
        let named = |macros: &[&str]| -> std::collections::BTreeSet<String> {
            let starts = macros.iter().flat_map(|start| sources.split(*start).skip(1));
            let names = starts.filter_map(|rest| rest.strip_prefix("(\"")?.split('"').next());
            names.filter(|name| name.starts_with("headwater_")).map(str::to_owned).collect()
        };
        let described = named(&["describe_counter!", "describe_gauge!", "describe_histogram!"]);
        let counters = COUNTERS.iter().map(|c| c.0).chain(LABELLED.iter().map(|l| l.0));
        let gauges = GAUGES.iter().map(|g| g.0).chain(LIVE.iter().map(|g| g.0));
        let here: Vec<&str> = counters.chain(gauges).collect();
        let recorded = named(&["counter!", "gauge!", "histogram!"]);
        assert!(recorded.len() > 10, "{recorded:?}");
        for name in recorded {
            let known = described.contains(&name) || here.contains(&name.as_str());
            assert!(known, "{name} is recorded and not described");
        }
    }
}
