//! hw-testkit
