//! Integration tests against a real Postgres.

mod connect;
mod facts;
mod publication;
mod stream;
mod values;
