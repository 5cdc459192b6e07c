//! The binary under faults.

mod access;
mod bounds;
mod changes;
mod killed;
mod oracle;
mod rig;
mod source;
mod types;
mod uploads;
