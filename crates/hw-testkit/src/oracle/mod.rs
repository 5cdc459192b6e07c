//! The oracle property test of the sync surface (`promises.md`, 2.2).
//!
//! A seed decides a schema, a sync configuration, users, transactions and faults. The real server
//! runs as a process against a real Postgres; minimal clients follow it over HTTP through a proxy.
//! What every client ends with is what SQL answers, and what it was shown on the way were committed
//! states in their order (P1, P2, P3, P4, P8, E-1 to E-3).
//!
//! Reading order: `plan` (what is generated), `traffic` (transactions), `http`, `client`
//! and `follow` (the protocol), `run` (one seed).

mod client;
mod follow;
mod http;
mod plan;
mod run;
mod traffic;

pub use client::{Line, Rows, SyncClient, SyncError, fingerprint};
pub use http::{Request, Response};
pub use plan::{Plan, User};
pub use run::{Issue, Knobs, Oracle, census, difference, run};
