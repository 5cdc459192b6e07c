//! Statements as they are sent to the source.

/// A statement with numbered parameters, all of them texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sql {
    /// With `$1` and so on, all of type text.
    pub text: String,
    /// Their values; none of them is NULL.
    pub parameters: Vec<String>,
}
