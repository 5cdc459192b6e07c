//! The input against a real Postgres.

mod bench;
mod changes;
mod copies;
mod damage;
mod large;
mod slots;
mod xids;
