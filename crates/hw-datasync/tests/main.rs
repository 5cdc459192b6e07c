//! Integration tests against a real Postgres.

mod statements;
