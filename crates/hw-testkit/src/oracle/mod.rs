//! The oracle property test (`promises.md`, 2.2).
//!
//! A seed decides a world, sync configurations over it, transactions, and what goes wrong among them.
//! The real server runs as a process against a real Postgres; minimal clients follow it through a
//! proxy. What every client ends with is what SQL answers, and what it was shown on the way were
//! committed states in their order, its own (P1 to P4, P6, P8, E-1 to E-4).
//!
//! Reading order: `world` (tables and users), `definitions` (generated twice), `traffic`
//! (transactions), `disturb` (what goes wrong, with switches), `plan` (steps, as text), `run` (one
//! plan; `sessions`, `savepoints`), `committed` (which states may be shown), `shrink`; `follower` (what a surface's client can
//! do), `http`, `client` and `follow` (that of the sync surface);
//! `live` (the same for live queries).

mod client;
mod committed;
mod definitions;
mod disturb;
mod follow;
mod follower;
mod http;
mod live;
mod plan;
mod run;
mod savepoints;
mod sessions;
mod shrink;
mod traffic;
mod world;

pub use client::{Line, Part, Rows, Shown, SyncClient, SyncError, fingerprint};
pub use disturb::Disturbance;
pub use follower::Follower;
pub use http::{Request, Response};
pub use live::{Asked, ComesBack, LiveClient, LivePlan};
pub use plan::{Plan, census};
pub use run::{Issue, Oracle, difference};
pub use shrink::{Case, shrink};
pub use world::User;
