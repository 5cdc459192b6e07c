//! Integration tests against a real Postgres.

mod connect;
mod facts;
mod own_connections;
mod publication;
mod stream;
mod values;
