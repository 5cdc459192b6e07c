//! hw-pg
