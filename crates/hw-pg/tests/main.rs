//! Integration tests against a real Postgres.

mod connect;
mod stream;
mod values;
