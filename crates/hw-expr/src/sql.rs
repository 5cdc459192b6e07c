//! The SQL of sync configurations: tokens, syntax tree, parser.
//!
//! An own front end rather than `sqlparser`: the language is a small part of SQL, its precedence
//! differs from that of Postgres (`sync-rules.md` 5.2), every node needs its place, and what is
//! not in the language should be refused by name.

pub mod ast;
pub mod parse;
pub mod token;

/// Bytes of an SQL text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// First byte.
    pub start: u32,
    /// Behind the last byte.
    pub end: u32,
}

impl Place {
    /// From this place's start to the other's end.
    pub fn to(self, other: Place) -> Place {
        Place { start: self.start, end: other.end }
    }

    /// The text there.
    pub fn of(self, text: &str) -> &str {
        text.get(self.start as usize..self.end as usize).unwrap_or("")
    }
}
