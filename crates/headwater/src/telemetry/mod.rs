//! What the server tells about itself: the log, the metrics, the bars on a terminal.

pub mod copies;
pub mod log;
pub mod metrics;
pub mod screen;
