//! The oracle property test of live queries (`datasync.md` 10.5; P1 to P4, P6, P8).
//!
//! A seed decides a world of tables under policies, what users subscribe to (rows, counts, groups), transactions
//! of others, writes and transactions over sockets, statements that change who may see what, and what goes wrong.
//! What every subscription ends with is what Postgres answers this user, and what it showed on the way were states
//! that Postgres would have shown this user, in their order; every request is answered once.
//!
//! Reading order: `queries` (generated twice), `access` (policies), `plan` (steps, as text), `client`, `run`.

mod access;
mod client;
mod plan;
mod queries;
mod run;

pub use client::{ComesBack, LiveClient};
pub use plan::LivePlan;
pub use queries::Asked;
