//! Sync configurations compiled to pure functions over rows and requests.
//!
//! In: YAML with SQL. Out: which buckets a row is in and with which payload, which entries of
//! parameter indexes it makes, and which buckets a request may read. No I/O, no clock, no
//! randomness: equal inputs give equal bytes, which checksums and restarts depend on.
//!
//! Reading order: [`sync_config`] is the entry; `sql` and `yaml` are the front end, `expr`,
//! `routines` and `value` the expression language, `values` and `datetime` the rendering of
//! Postgres values, `report` the findings.

mod datetime;
mod error;
pub mod eval;
mod expr;
mod json;
mod nested;
mod number;
pub mod postgres;
mod report;
mod routines;
mod sql;
pub mod sync_config;
mod value;
mod values;
mod yaml;

pub use error::EvalError;
