//! The input against a real Postgres.

mod bench;
mod changes;
mod copies;
mod large;
mod slots;
