//! Metrics and log forms of this surface. Nothing here names a row's value or a token.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hw_http::places::{Full, Place};
use hw_types::{Pace, Sample};
use metrics::{Counter, Gauge};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::source::SourceError;

/// Handles of the surface's metrics, taken once: looking one up costs more than counting.
pub struct Metrics {
    /// Operations written to data lines.
    pub operations: Counter,
    /// Bytes of lines before compression.
    pub bytes: Counter,
    /// Bytes given to sockets.
    pub sent_bytes: Counter,
    /// `checkpoint` and `checkpoint_diff` lines.
    pub checkpoints: Counter,
    /// Streams ended because their client took no line for a minute.
    pub slow_readers: Counter,
    clients: Gauge,
    too_much: Sample,
    no_write_checkpoint: Sample,
    full: Sample,
    full_of_user: Sample,
    ends: Mutex<Ends>,
}

/// Lines about streams that ended: one client can end as many as it likes.
struct Ends {
    pace: Pace,
    /// Lines that were not written since the last one.
    left_out: u64,
}

impl Metrics {
    /// Registers the metrics with the process's recorder.
    pub fn new() -> Arc<Metrics> {
        metrics::describe_gauge!("headwater_sync_clients", "Open sync streams");
        metrics::describe_counter!(
            "headwater_sync_operations_total",
            "Operations sent to sync clients"
        );
        metrics::describe_counter!(
            "headwater_sync_bytes_total",
            metrics::Unit::Bytes,
            "Bytes of sync lines before compression"
        );
        metrics::describe_counter!(
            "headwater_sync_sent_bytes_total",
            metrics::Unit::Bytes,
            "Bytes of sync responses after compression"
        );
        metrics::describe_counter!(
            "headwater_sync_checkpoints_total",
            "Checkpoint and diff lines sent to sync clients"
        );
        metrics::describe_counter!(
            "headwater_sync_slow_readers_total",
            "Sync streams cut because their client took nothing for too long (`limits.reader_patience`)"
        );
        Arc::new(Metrics {
            operations: metrics::counter!("headwater_sync_operations_total"),
            bytes: metrics::counter!("headwater_sync_bytes_total"),
            sent_bytes: metrics::counter!("headwater_sync_sent_bytes_total"),
            checkpoints: metrics::counter!("headwater_sync_checkpoints_total"),
            slow_readers: metrics::counter!("headwater_sync_slow_readers_total"),
            clients: metrics::gauge!("headwater_sync_clients"),
            too_much: Sample::default(),
            no_write_checkpoint: Sample::default(),
            full: Sample::default(),
            full_of_user: Sample::default(),
            ends: Mutex::new(Ends { pace: Pace::new(Duration::from_secs(1), 100), left_out: 0 }),
        })
    }

    /// Logs that a user selects more than he may. His client comes again and again.
    pub fn too_much(&self, user: &str, description: &str, details: &str) {
        if let Some(left_out) = self.too_much.turn() {
            let left_out = (left_out > 0).then_some(left_out);
            tracing::warn!(user, details, left_out, "{description}");
        }
    }

    /// Whether a stream's end is told in the log: a hundred at once, and then one each second.
    ///
    /// - Returns: how many were left out before it; `None` when it is left out, too.
    pub fn tells_end(&self, now: Instant) -> Option<u64> {
        let mut ends = self.ends.lock();
        if ends.pace.try_spend(now) {
            return Some(std::mem::take(&mut ends.left_out));
        }
        ends.left_out += 1;
        None
    }

    /// Logs that a stream found no place: whoever is refused comes again and again.
    pub fn no_place(&self, full: Full, user: &str) {
        let (sample, bound) = match full {
            Full::OfAll => (&self.full, "limits.max_clients"),
            Full::OfUser => (&self.full_of_user, "limits.streams_per_user"),
        };
        if let Some(left_out) = sample.turn() {
            let left_out = (left_out > 0).then_some(left_out);
            tracing::warn!(user, bound, left_out, "a stream is refused: every place is taken");
        }
    }

    /// Logs that a write checkpoint could not be issued: mostly because of the source, to all who ask.
    pub fn no_write_checkpoint(&self, user: &str, error: &SourceError) {
        if let Some(left_out) = self.no_write_checkpoint.turn() {
            let left_out = (left_out > 0).then_some(left_out);
            tracing::warn!(user, left_out, %error, "cannot issue a write checkpoint");
        }
    }

    /// Counts a stream as open until the answer is dropped.
    pub fn open_stream(self: &Arc<Metrics>, place: Place) -> OpenStream {
        self.clients.increment(1.0);
        OpenStream { metrics: self.clone(), _place: place }
    }
}

/// One open stream.
pub struct OpenStream {
    metrics: Arc<Metrics>,
    _place: Place,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.metrics.clients.decrement(1.0);
    }
}

/// A JSON object for the log: at most 20 keys, cut at 100 characters, and of values their kind.
/// Values stay out of the log: parameters of clients name customers, searches and places.
pub fn for_log<'a>(entries: impl ExactSizeIterator<Item = (&'a String, LogValue<'a>)>) -> String {
    let mut out = String::from("{");
    for (i, (key, value)) in entries.take(20).enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        let _ = match value {
            LogValue::Text(text) => write!(out, "{}: text of {}", cut(key), text.len()),
            LogValue::Json(Value::String(text)) => {
                write!(out, "{}: text of {}", cut(key), text.len())
            }
            LogValue::Json(Value::Array(list)) => {
                write!(out, "{}: array of {}", cut(key), list.len())
            }
            LogValue::Json(Value::Object(map)) => {
                write!(out, "{}: object of {}", cut(key), map.len())
            }
            LogValue::Json(Value::Number(_)) => write!(out, "{}: number", cut(key)),
            LogValue::Json(Value::Bool(_)) => write!(out, "{}: boolean", cut(key)),
            LogValue::Json(Value::Null) => write!(out, "{}: null", cut(key)),
        };
    }
    out.push('}');
    out
}

/// A value to be logged.
pub enum LogValue<'a> {
    /// Any JSON value.
    Json(&'a Value),
    /// A string.
    Text(&'a str),
}

/// [`for_log`] of a JSON object.
pub fn object_for_log(object: &Map<String, Value>) -> String {
    for_log(object.iter().map(|(key, value)| (key, LogValue::Json(value))))
}

fn cut(text: &str) -> &str {
    match text.char_indices().nth(100) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F-69: whoever opens streams in a loop writes a line a second, and not 60 GB a day.
    #[test]
    fn f_69_streams_that_end_all_the_time_do_not_fill_the_log() {
        let (metrics, start) = (Metrics::new(), Instant::now());
        let told = |millis| metrics.tells_end(start + Duration::from_millis(millis));
        let lines = (0..60_000).filter_map(told).collect::<Vec<_>>();
        assert_eq!((lines.len(), lines[99]), (159, 0), "a hundred, and one each second");
        assert_eq!(lines.iter().sum::<u64>() + lines.len() as u64, 59_001, "none is forgotten");
    }

    #[test]
    fn fd_48_parameters_are_logged_by_name_and_kind_only() {
        let mut object = Map::new();
        for i in 10..40 {
            object.insert(format!("k{i}{}", "é".repeat(300)), Value::from(1));
        }
        let text = object_for_log(&object);
        assert_eq!(text.matches("k").count(), 20);
        assert_eq!(text.matches('é').count(), 20 * 97);
        let object = serde_json::json!({
            "a": ["hush", 2], "b": {"x": "hush"}, "c": 4711, "d": null, "e": "hush", "f": true,
        });
        let text = object_for_log(object.as_object().unwrap());
        assert_eq!(
            text,
            "{a: array of 2, b: object of 1, c: number, d: null, e: text of 4, f: boolean}"
        );
    }
}
