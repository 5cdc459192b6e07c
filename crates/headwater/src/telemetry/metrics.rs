//! Prometheus metrics: one recorder for all crates, rendered at `/metrics`.
//!
//! In: counters, gauges and histograms that the crates record under `headwater_…`. Out: the text
//! form. Invariant: names are promises; each is described here, so the page lists them all.

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

fn describe() {
    describe_gauge!(
        "headwater_replication_lag_bytes",
        Unit::Bytes,
        "Write-ahead log of the source that is not published yet"
    );
    describe_gauge!(
        "headwater_replication_lag_seconds",
        Unit::Seconds,
        "Time since what is published was the newest of the source"
    );
    describe_gauge!(
        "headwater_retained_log_bytes",
        Unit::Bytes,
        "Write-ahead log that the slot makes the source keep"
    );
    describe_gauge!(
        "headwater_retained_log_limit_bytes",
        Unit::Bytes,
        "Its configured limit (limits.retained_log)"
    );
    describe_counter!("headwater_rows_replicated_total", "Changes of rows applied");
    describe_counter!("headwater_transactions_total", "Transactions of the source applied");
    describe_counter!("headwater_writer_restarts_total", "Restarts of the writer after a failure");
    describe_counter!("headwater_foreign_markers_total", "Markers in the log that are not ours");
    describe_gauge!("headwater_publications", "States published since the start");
    describe_gauge!("headwater_checkpoint_op_id", "Newest published operation");
    describe_gauge!("headwater_clients", "Open connections of clients");
    describe_gauge!("headwater_clients_limit", "Their limit (limits.max_clients)");
    describe_gauge!("headwater_store_bytes", Unit::Bytes, "Size of the store on disk");
    describe_gauge!("headwater_spool_bytes", Unit::Bytes, "Size of the spools on disk");
    describe_gauge!(
        "headwater_spool_limit_bytes",
        Unit::Bytes,
        "Their configured limit (limits.spool_bytes)"
    );
    describe_gauge!("headwater_copy_rows", "Rows read by the copies in progress");
    describe_gauge!("headwater_copy_bytes", Unit::Bytes, "Bytes read by the copies in progress");
    describe_gauge!("headwater_tables_copying", "Tables whose copy is in progress");
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
    }
}
