//! The sync service that the official PowerSync clients use unmodified.

pub mod burst;
pub mod gzip;
pub mod outbox;
pub mod page;
pub mod source;
pub mod state;
pub mod wire;
