//! hw-expr
