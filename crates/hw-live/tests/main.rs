//! Live results against a real Postgres and the real engine.

mod aggregates;
mod audit;
mod bounds;
mod ddl;
mod differential;
mod edges;
mod hostile;
mod lanes;
mod late;
mod order;
mod windows;
mod world;
