//! hw-input
