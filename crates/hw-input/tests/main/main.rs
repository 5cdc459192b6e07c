//! The input against a real Postgres.

mod bench;
mod changes;
