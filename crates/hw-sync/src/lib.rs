//! hw-sync
