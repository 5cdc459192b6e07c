//! The sync service that the official PowerSync clients use unmodified.

pub mod gzip;
pub mod state;
pub mod wire;
