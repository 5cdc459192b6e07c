//! The binary under faults.

mod access;
mod bounds;
mod changes;
mod edge;
mod killed;
mod line;
mod live;
mod oracle;
mod rig;
mod source;
mod types;
mod uploads;
