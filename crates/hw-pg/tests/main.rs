//! Integration tests against a real Postgres.

mod connect;
mod expressions;
mod facts;
mod json_values;
mod own_connections;
mod policies;
mod policy_streams;
mod publication;
mod rights;
mod snapshots;
mod stream;
mod values;
