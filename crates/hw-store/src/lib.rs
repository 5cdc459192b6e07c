//! hw-store
