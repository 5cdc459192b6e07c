//! Integration tests against a real Postgres.

mod connect;
mod publication;
mod stream;
mod values;
