//! text

/// Bytes that are not a value of their type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is damaged")]
pub struct DamagedValue {
    /// What was being read, for example `numeric` or `array`. Never the value.
    pub what: &'static str,
}
