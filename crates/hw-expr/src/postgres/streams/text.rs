//! Texts of the sync language: names, literals, and conditions put together.

use super::Unstreamable;
use crate::sql::parse::is_reserved;
use std::collections::BTreeSet;

/// A condition as a text that is true exactly where it is meant to be.
#[derive(Clone, Debug)]
pub(super) enum Cond {
    /// Of every row.
    Always,
    /// Of none.
    Never,
    Sql(Sql),
}

#[derive(Clone, Debug)]
pub(super) struct Sql {
    pub text: String,
    pub joint: Joint,
    /// The casts of values of the request that have succeeded where it is true.
    pub implied: BTreeSet<String>,
}

/// What a text is joined by on its outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joint {
    Nothing,
    And,
    Or,
}

impl Cond {
    pub fn of(value: bool) -> Cond {
        if value { Cond::Always } else { Cond::Never }
    }

    /// A comparison or anything else that binds tighter than NOT.
    pub fn term(text: impl Into<String>) -> Cond {
        Cond::implying(text, BTreeSet::new())
    }

    pub fn implying(text: impl Into<String>, implied: BTreeSet<String>) -> Cond {
        Cond::Sql(Sql { text: text.into(), joint: Joint::Nothing, implied })
    }

    /// True where all are.
    pub fn all(parts: Vec<Cond>) -> Cond {
        let mut kept: Vec<Sql> = Vec::new();
        for part in parts {
            match part {
                Cond::Never => return Cond::Never,
                Cond::Always => {}
                Cond::Sql(sql) if kept.iter().any(|known| known.text == sql.text) => {}
                Cond::Sql(sql) => kept.push(sql),
            }
        }
        let implied = kept.iter().flat_map(|part| part.implied.iter().cloned()).collect();
        Cond::joined(kept, Joint::And, implied, Cond::Always)
    }

    /// True where one is.
    pub fn any(parts: Vec<Cond>) -> Cond {
        let mut kept: Vec<Sql> = Vec::new();
        for part in parts {
            match part {
                Cond::Always => return Cond::Always,
                Cond::Never => {}
                Cond::Sql(sql) if kept.iter().any(|known| known.text == sql.text) => {}
                Cond::Sql(sql) => kept.push(sql),
            }
        }
        let sets = kept.iter().map(|part| part.implied.clone());
        let implied = sets.reduce(|one, other| &one & &other).unwrap_or_default();
        Cond::joined(kept, Joint::Or, implied, Cond::Never)
    }

    fn joined(mut parts: Vec<Sql>, joint: Joint, implied: BTreeSet<String>, of_none: Cond) -> Cond {
        if parts.len() < 2 {
            return parts.pop().map_or(of_none, Cond::Sql);
        }
        let between = if joint == Joint::And { " AND " } else { " OR " };
        let texts: Vec<String> = parts
            .into_iter()
            .map(|part| match part.joint == Joint::Nothing || part.joint == joint {
                true => part.text,
                false => format!("({})", part.text),
            })
            .collect();
        Cond::Sql(Sql { text: texts.join(between), joint, implied })
    }

    /// True where it is not. It must not read a sub-select or more than one row.
    pub fn negated(self) -> Cond {
        match self {
            Cond::Always => Cond::Never,
            Cond::Never => Cond::Always,
            Cond::Sql(Sql { text, .. }) => Cond::term(format!("NOT ({text})")),
        }
    }
}

/// A name, in quotes where it needs them.
///
/// - Errors: the sync language cannot write it.
pub(super) fn name(name: &str) -> Result<String, Unstreamable> {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if plain && !is_reserved(name) && !KEYWORDS.contains(&name) {
        return Ok(name.to_owned());
    }
    match name.is_empty() || name.contains(['"', '*', '%']) {
        true => Err(Unstreamable::new(
            format!("the sync language has no form of the name {name:?}"),
            "a name without quotes, * and % in it",
        )),
        false => Ok(format!("\"{name}\"")),
    }
}

/// Words that begin expressions where they stand alone.
const KEYWORDS: [&str; 16] = [
    "not",
    "null",
    "true",
    "false",
    "case",
    "cast",
    "array",
    "row",
    "exists",
    "date",
    "time",
    "timestamp",
    "uuid",
    "json",
    "interval",
    "in",
];

/// A table by schema and name, as it stands in FROM.
pub(super) fn table((schema, table): &(String, String)) -> Result<String, Unstreamable> {
    if schema == "public" {
        return name(table);
    }
    if schema.contains('.') {
        return Err(Unstreamable::new(
            format!("the sync language has no form of the schema name {schema:?}"),
            "a schema whose name has no point in it",
        ));
    }
    Ok(format!("{}.{}", name(schema)?, name(table)?))
}

/// A text in quotes.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
