//! What operators choose about this surface.

use std::time::Duration;

use crate::names::Namings;
use crate::statement::BigNumbers;

/// See the module.
#[derive(Clone, Debug)]
pub struct DataSyncOptions {
    /// The schema of the tables.
    pub schema: String,
    /// How columns are named on the wire.
    pub naming: Namings,
    /// What becomes of numbers that JavaScript does not have.
    pub big_numbers: BigNumbers,
    /// Whether those who show no token are let in, and with which database role; `None` inside: with that of
    /// everybody else.
    pub anonymous: Option<Option<String>>,
    /// Subscriptions of one socket at most.
    pub subscriptions: usize,
    /// Open transactions of one socket at most.
    pub transactions: usize,
    /// Open transactions of all sockets at most.
    pub all_transactions: usize,
    /// Bytes of one message, or of the body of a request, at most.
    pub message_bytes: usize,
    /// Bytes of answers that are on their way to sockets, at most; one user's a quarter of it.
    pub answer_bytes: usize,
    /// Bytes that are held of live results, and of changes of them that were not sent yet, at most; one user's a
    /// quarter of it.
    pub live_bytes: usize,
    /// How long a client may take nothing while more than half of either is held.
    pub stuck_for: Duration,
    /// How long subscriptions of a socket that has ended wait for their client to come back.
    pub resume: Duration,
    /// Sockets at most, and those of one user.
    pub sockets: (usize, usize),
    /// The cookie that holds a token, if one may.
    pub cookie: Option<String>,
    /// The origins of pages whose cookie counts.
    pub origins: Vec<String>,
}

impl Default for DataSyncOptions {
    fn default() -> DataSyncOptions {
        DataSyncOptions {
            schema: "public".into(),
            naming: Namings::default(),
            big_numbers: BigNumbers::default(),
            anonymous: None,
            subscriptions: 128,
            transactions: 10,
            all_transactions: 100,
            message_bytes: 1 << 20,
            answer_bytes: 64 << 20,
            live_bytes: 256 << 20,
            stuck_for: Duration::from_secs(10),
            resume: Duration::from_secs(60),
            sockets: (20_000, 1_000),
            cookie: None,
            origins: Vec::new(),
        }
    }
}
