//! How writes run, and what is kept of them.

use std::time::Duration;

/// How writes run.
#[derive(Clone, Debug)]
pub struct UploadConfig {
    /// The database role of authors whose token chose none. `None`: the first of
    /// `ihp_authenticated`, `authenticated`, `headwater_authenticated` that exists.
    pub role: Option<String>,
    /// The publication whose lists of columns say what clients are sent. `None`: every column.
    pub publication: Option<String>,
    /// How long one operation may take. Default 30 s.
    pub statement_timeout: Duration,
    /// How long an operation may wait for a lock. Default 5 s.
    pub lock_timeout: Duration,
    /// How long a transaction may take, all its operations together. Default 60 s.
    pub transaction_timeout: Duration,
    /// What is kept of the past.
    pub keep: Keep,
}

/// What is kept of the past, in schema `headwater`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// For how many days records are kept. Default 30.
    pub days: u16,
    /// Records of transactions of one user at most; the oldest go first. Default 10,000.
    pub records: i64,
    /// Rejected transactions of one user at most; the oldest go first. Default 500.
    pub rejected: i64,
    /// Client databases of one user whose newest operation is known, at most. Default 1,000.
    pub clients: i64,
    /// Bytes of a rejected transaction that is kept with its operations. Default 64 KiB.
    pub entries_bytes: usize,
}

impl Default for Keep {
    fn default() -> Keep {
        Keep { days: 30, records: 10_000, rejected: 500, clients: 1_000, entries_bytes: 64 << 10 }
    }
}

impl Default for UploadConfig {
    fn default() -> UploadConfig {
        UploadConfig {
            role: None,
            publication: None,
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(5),
            transaction_timeout: Duration::from_secs(60),
            keep: Keep::default(),
        }
    }
}
