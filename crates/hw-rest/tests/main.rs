//! Uploads through the router, against a real Postgres.

mod access;
mod faults;
mod idempotency;
mod requests;
mod rig;
mod values;
mod verdicts;
