//! Why an expression has no value.

/// A row or a request cannot be evaluated. The text names what failed, never a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EvalError(pub &'static str);
