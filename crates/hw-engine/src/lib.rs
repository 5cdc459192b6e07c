//! hw-engine
