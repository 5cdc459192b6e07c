//! Integration tests against a real Postgres.

mod connect;
mod values;
