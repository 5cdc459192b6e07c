//! hw-rest
