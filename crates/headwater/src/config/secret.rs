//! A value that must never be shown: passwords, signing secrets, API tokens.
//!
//! In: text from a flag, the environment or the configuration file. Out: the text itself, but
//! only through [`Secret::expose`]. Invariant: no formatting of a `Secret`, or of anything that
//! contains one, prints it.

use std::fmt;

/// Text that is left out of every formatted form.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself. Every call site is a place where a secret leaves: keep them few.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some((secret))");
    }
}
