//! From a client's id to the columns that identify the row.
//!
//! In: the id's parts as the mapping has them, the table. Out: the key's columns with their texts.
//! Invariant: an id that could be split in more than one way identifies no row; nothing is guessed.

// A rejection is large and rare: it ends its transaction.
#![allow(clippy::result_large_err)]

use hw_types::PgType;

use crate::catalog::{Column, Table};
use crate::map::{ID, IdPart, MappedTable, Target};
use crate::verdict::{Rejection, Unwritable};

/// A column of a row's key, and the text that the id has for it.
pub(crate) struct KeyColumn<'a> {
    pub(crate) name: &'a str,
    pub(crate) column: &'a Column,
    pub(crate) text: String,
}

/// A part of an id, its column found.
#[derive(Clone, Copy)]
pub(crate) enum Part<'a> {
    Column(&'a str, &'a Column),
    Text(&'a str),
}

/// The parts of a table's ids, if they lead to a unique index.
pub(crate) fn parts<'a>(
    mapping: &'a MappedTable,
    table: &'a Table,
) -> Result<Vec<Part<'a>>, Unwritable> {
    if !table.is_table {
        return Err(Rejection::ours("42809", "only tables can be written, and this is none").into());
    }
    let column = |name: &'a str| {
        let missing = || Unwritable::Waits(format!("the database has no column \"{name}\" yet"));
        table.column(name).map(|column| Part::Column(name, column)).ok_or_else(missing)
    };
    let parts: Vec<Part<'a>> = match (mapping.id.as_slice(), mapping.columns.target(ID)) {
        (_, _) if mapping.id_yields && table.column(ID).is_some() => vec![column(ID)?],
        ([], Some(Target::Column(name))) => vec![column(name)?],
        ([], _) => {
            return Err(Rejection::ours(
                "42P10",
                "its \"id\" is neither a column nor columns with texts between them",
            )
            .into());
        }
        (parts, _) => parts
            .iter()
            .map(|part| match part {
                IdPart::Column(name) => column(name),
                IdPart::Text(text) => Ok(Part::Text(text)),
            })
            .collect::<Result<_, _>>()?,
    };
    let columns = || {
        parts.iter().filter_map(|part| match part {
            Part::Column(name, column) => Some((*name, *column)),
            Part::Text(_) => None,
        })
    };
    if table.is_unique(columns().map(|(_, column)| column)) {
        return Ok(parts);
    }
    let names: Vec<String> = columns().map(|(name, _)| format!("\"{name}\"")).collect();
    Err(Rejection::ours(
        "42P10",
        match names.as_slice() {
            [name] => format!("its id column {name} has no unique index of its own"),
            names => format!("its id columns {} have no unique index", names.join(", ")),
        },
    )
    .into())
}

/// The key that an id means.
pub(crate) fn read<'a>(parts: &[Part<'a>], id: &str) -> Result<Vec<KeyColumn<'a>>, Rejection> {
    // What a column alone takes is for Postgres to say.
    if let [Part::Column(name, column)] = *parts {
        return Ok(vec![KeyColumn { name, column, text: id.to_owned() }]);
    }
    let mut ways = Vec::new();
    split(parts, id, &mut Vec::new(), &mut ways);
    match (ways.pop(), ways.is_empty()) {
        (Some(texts), true) => Ok(parts
            .iter()
            .filter_map(|part| match part {
                Part::Column(name, column) => Some((*name, *column)),
                Part::Text(_) => None,
            })
            .zip(texts)
            .map(|((name, column), text)| KeyColumn { name, column, text: written(column, text) })
            .collect()),
        (None, _) => {
            Err(Rejection::ours("22023", "the id is not made as the configuration says").column(ID))
        }
        (Some(_), false) => Err(Rejection::ours(
            "22023",
            "the id can be split into the columns of its key in more than one way",
        )
        .column(ID)),
    }
}

/// Collects the ways to read `rest`, two at most: a second one is one too many.
fn split<'t>(
    parts: &[Part<'_>],
    rest: &'t str,
    taken: &mut Vec<&'t str>,
    ways: &mut Vec<Vec<&'t str>>,
) {
    if ways.len() > 1 {
        return;
    }
    match parts {
        [] if rest.is_empty() => ways.push(taken.clone()),
        [] => {}
        [Part::Text(text), parts @ ..] => {
            if let Some(rest) = rest.strip_prefix(text) {
                split(parts, rest, taken, ways);
            }
        }
        [Part::Column(_, column)] if could_be(column, rest) => {
            taken.push(rest);
            ways.push(taken.clone());
            taken.pop();
        }
        [Part::Column(..)] => {}
        [Part::Column(_, column), parts @ ..] => {
            let Part::Text(separator) = parts[0] else { return };
            for (at, _) in rest.match_indices(separator) {
                if could_be(column, &rest[..at]) {
                    taken.push(&rest[..at]);
                    split(parts, &rest[at..], taken, ways);
                    taken.pop();
                }
            }
        }
    }
}

/// Whether a text may be a value of this column, as far as its form says.
fn could_be(column: &Column, text: &str) -> bool {
    match column.pg_type.base() {
        PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        }
        PgType::Uuid => {
            text.len() == 36 && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
        }
        _ => true,
    }
}

/// The text that Postgres reads: clients have booleans as 1 and 0.
fn written(column: &Column, text: &str) -> String {
    match (column.pg_type.base(), text) {
        (PgType::Bool, "1") => "true".to_owned(),
        (PgType::Bool, "0") => "false".to_owned(),
        _ => text.to_owned(),
    }
}
