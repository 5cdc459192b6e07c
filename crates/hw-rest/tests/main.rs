//! Uploads through the router, against a real Postgres.

mod access;
mod bounds;
mod faults;
mod idempotency;
mod keys;
mod operators;
mod requests;
mod rig;
mod silence;
mod values;
mod verdicts;
