//! The binary under faults.

mod oracle;
mod rig;
