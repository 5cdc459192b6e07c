//! The one table of operators, casts and functions: name, arity, behaviour on NULL, type set,
//! the dialects that have it, and what it does.
//!
//! A new function is one more entry. Lookup is by name and dialect; the compiler never matches
//! on names of functions. Source: `sync-rules.md` 6, 7, 16.

mod json;
mod operators;
mod text;
mod time;

use crate::error::EvalError;
use crate::value::SqlValue;

pub use operators::fixed;

/// Which language an expression is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `bucket_definitions`.
    Classic,
    /// `streams` in edition 2.
    Alpha,
    /// `streams` in edition 3.
    Streams,
}

/// What a routine does when an argument is NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNull {
    /// The result is NULL and the routine is not called.
    Null,
    /// The routine sees the NULL.
    Call,
}

/// In which dialects a routine can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Available {
    /// Everywhere.
    All,
    /// Not in edition 3.
    NotStreams,
    /// Only the compiler makes calls of it.
    Internal,
}

/// The body of a routine.
pub type Body = for<'a> fn(&mut [SqlValue<'a>]) -> Result<SqlValue<'a>, EvalError>;

/// One entry of the table.
pub struct Routine {
    /// Unambiguous name, part of fingerprints.
    pub key: &'static str,
    /// What users write: a function's name in lower case, or an operator.
    pub name: &'static str,
    /// Least number of arguments.
    pub min: usize,
    /// Greatest number of arguments.
    pub max: usize,
    /// Behaviour on NULL.
    pub on_null: OnNull,
    /// Where it is available.
    pub available: Available,
    body: Body,
    types: TypeRule,
}

impl std::fmt::Debug for Routine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.key)
    }
}

impl Routine {
    /// Calls it. Missing arguments count as NULL.
    pub fn call<'a>(&self, args: &mut [SqlValue<'a>]) -> Result<SqlValue<'a>, EvalError> {
        if self.on_null == OnNull::Null && args.iter().any(SqlValue::is_null) {
            return Ok(SqlValue::Null);
        }
        (self.body)(args)
    }

    /// The classes of the result for classes of the arguments.
    pub fn types(&self, args: &[TypeSet]) -> TypeSet {
        match self.types {
            TypeRule::Is(set) => set,
            TypeRule::Arithmetic => {
                let both = args.iter().copied().fold(TypeSet::NONE, TypeSet::union);
                let numeric = TypeSet::INTEGER.union(TypeSet::REAL);
                if both == TypeSet::INTEGER {
                    TypeSet::INTEGER
                } else if both.within(numeric) {
                    TypeSet::REAL
                } else {
                    numeric
                }
            }
            TypeRule::UnionOfTwo => {
                args.iter().take(2).copied().fold(TypeSet::NONE, TypeSet::union)
            }
        }
    }
}

#[derive(Clone, Copy)]
enum TypeRule {
    Is(TypeSet),
    Arithmetic,
    UnionOfTwo,
}

/// A set of value classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeSet(u8);

impl TypeSet {
    /// No class: NULL only.
    pub const NONE: TypeSet = TypeSet(0);
    /// INTEGER.
    pub const INTEGER: TypeSet = TypeSet(1);
    /// REAL.
    pub const REAL: TypeSet = TypeSet(2);
    /// TEXT.
    pub const TEXT: TypeSet = TypeSet(4);
    /// BLOB.
    pub const BLOB: TypeSet = TypeSet(8);
    /// Everything.
    pub const ANY: TypeSet = TypeSet(15);

    /// The class of a value.
    pub fn of(value: &SqlValue<'_>) -> TypeSet {
        match value {
            SqlValue::Null => TypeSet::NONE,
            SqlValue::Integer(_) => TypeSet::INTEGER,
            SqlValue::Real(_) => TypeSet::REAL,
            SqlValue::Text(_) => TypeSet::TEXT,
            SqlValue::Blob(_) => TypeSet::BLOB,
        }
    }

    /// Both.
    pub const fn union(self, other: TypeSet) -> TypeSet {
        TypeSet(self.0 | other.0)
    }

    /// Whether all of these are in `other`.
    pub fn within(self, other: TypeSet) -> bool {
        self.0 & !other.0 == 0
    }

    /// The column type that a client declares (`sync-rules.md` 16).
    pub fn client_type(self) -> &'static str {
        let has = |set: TypeSet| self.0 & set.0 != 0;
        if has(TypeSet::TEXT) {
            "text"
        } else if has(TypeSet::REAL) {
            "real"
        } else if has(TypeSet::INTEGER) {
            "integer"
        } else {
            "text"
        }
    }
}

/// Shorthand of the tables below.
const fn entry(
    name: &'static str,
    arity: (usize, usize),
    on_null: OnNull,
    types: TypeRule,
    body: Body,
) -> Routine {
    Routine {
        key: name,
        name,
        min: arity.0,
        max: arity.1,
        on_null,
        available: Available::All,
        body,
        types,
    }
}

impl Routine {
    const fn only(mut self, available: Available) -> Routine {
        self.available = available;
        self
    }

    const fn keyed(mut self, key: &'static str) -> Routine {
        self.key = key;
        self
    }
}

/// Whether JSON paths and JSON null follow `fixed_json_extract` (8.1, 8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JsonRules {
    /// Option off, edition 1.
    Legacy,
    /// Option on.
    Fixed,
}

/// Functions of the language whose absence is ours, not the user's.
pub const NOT_YET: [&str; 4] = ["st_asgeojson", "st_astext", "st_x", "st_y"];

/// The function of this name (any case) in a dialect.
pub fn function(name: &str, dialect: Dialect, rules: JsonRules) -> Option<&'static Routine> {
    let name = name.to_ascii_lowercase();
    let tables = match rules {
        JsonRules::Legacy => [&json::LEGACY_FUNCTIONS[..], &text::FUNCTIONS],
        JsonRules::Fixed => [&json::FIXED_FUNCTIONS[..], &text::FUNCTIONS],
    };
    tables
        .into_iter()
        .chain([&json::FUNCTIONS[..], &time::FUNCTIONS])
        .flatten()
        .find(|r| r.name == name && is_available(r, dialect))
}

/// The names of all functions of a dialect, for suggestions.
pub fn function_names(dialect: Dialect) -> impl Iterator<Item = &'static str> {
    json::FIXED_FUNCTIONS
        .iter()
        .chain(text::FUNCTIONS.iter())
        .chain(json::FUNCTIONS.iter())
        .chain(time::FUNCTIONS.iter())
        .filter(move |r| is_available(r, dialect))
        .map(|r| r.name)
        .chain(["iif"])
}

/// The binary operator that is written so in a dialect.
pub fn operator(symbol: &str, dialect: Dialect, rules: JsonRules) -> Option<&'static Routine> {
    let json = match rules {
        JsonRules::Legacy => &json::LEGACY_OPERATORS,
        JsonRules::Fixed => &json::FIXED_OPERATORS,
    };
    operators::BINARY.iter().chain(json).find(|r| r.name == symbol && is_available(r, dialect))
}

fn is_available(routine: &Routine, dialect: Dialect) -> bool {
    match routine.available {
        Available::All => true,
        Available::NotStreams => dialect != Dialect::Streams,
        Available::Internal => false,
    }
}

pub(crate) use json::member as json_member;
