//! The bounds of this surface (`powersync-protocol.md` 2.5, 4.7; `design/engine.md` 15).

use std::time::Duration;

use crate::source::UserLimits;

/// How much this surface may use. Every bound has a default that suits a server of 512 MB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncOptions {
    /// Streams that may be open at once; more are answered with 429.
    pub max_streams: usize,
    /// Those of one user; more are answered with 429.
    pub max_streams_per_user: usize,
    /// Write checkpoint requests that may be waiting at once; more are answered with 429. They
    /// share markers, so the number costs the source nothing.
    pub max_checkpoint_requests: usize,
    /// Those of one user.
    pub max_checkpoint_requests_per_user: usize,
    /// Requests of the oldest form, which wait for the state that contains them.
    pub max_checkpoint_waits: usize,
    /// Those of one user.
    pub max_checkpoint_waits_per_user: usize,
    /// Bounds on one user.
    pub user: UserLimits,
    /// Longest request body in bytes: a client with thousands of buckets sends them all.
    pub max_body_bytes: usize,
    /// Plain bytes of recent data lines kept to be sent to other clients.
    pub page_cache_bytes: usize,
    /// Bytes of data lines, cached or on their way to sockets, above which new ones become small.
    pub page_budget_bytes: usize,
    /// Large reads that may run at once.
    pub max_reads: usize,
    /// Those of one user: his others wait, and keep nobody waiting.
    pub max_reads_per_user: usize,
    /// How long a client that is ahead of this server is made to wait (E-10).
    pub ahead_wait: Duration,
    /// Least time between two checkpoints of one stream. It grows with the number of streams.
    pub checkpoint_pause: Duration,
}

impl Default for SyncOptions {
    fn default() -> SyncOptions {
        SyncOptions {
            max_streams: 20_000,
            max_streams_per_user: 1000,
            max_checkpoint_requests: 10_000,
            max_checkpoint_requests_per_user: 1000,
            max_checkpoint_waits: 1000,
            max_checkpoint_waits_per_user: 16,
            user: UserLimits::default(),
            max_body_bytes: 16 << 20,
            page_cache_bytes: 32 << 20,
            page_budget_bytes: 96 << 20,
            max_reads: 10,
            max_reads_per_user: 5,
            ahead_wait: Duration::from_secs(10),
            checkpoint_pause: Duration::from_millis(10),
        }
    }
}
