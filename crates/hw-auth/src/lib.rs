//! hw-auth
