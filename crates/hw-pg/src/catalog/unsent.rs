//! Columns that definitions read and that do not come: the table does not have them, or the publication
//! does not send them. They would be NULL in every row.
//!
//! A table that lacks one can be followed all the same; what reads the column is not served.

use super::code;
use super::found::is_sent_unlisted;
use super::read::Catalog;
use crate::statements::list_columns_statement;
use hw_types::Diagnostic;
use hw_types::facts::{ColumnFacts, Generated, TableFacts};
use hw_types::relation::quote_ident;
use std::collections::BTreeSet;

/// Which of these columns a table does not have, as a finding.
pub fn absent(table: &TableFacts, columns: &BTreeSet<String>) -> Option<Diagnostic> {
    let has = |name: &String| table.columns.iter().any(|column| column.name == *name);
    let absent: Vec<&str> = columns.iter().filter(|name| !has(name)).map(String::as_str).collect();
    let columns = listed(&absent)?;
    let what = format!("{} has no {columns}: what reads it is not served", table.name);
    Some(Diagnostic::error(code::NO_COLUMN, what).at(format!("table {}", table.name)).mend(
        "name a column that it has in the sync configuration; or add it, and what reads it is served at \
         once",
    ))
}

/// Columns as a text; `None` of none.
fn listed(columns: &[&str]) -> Option<String> {
    let names: Vec<String> = columns.iter().map(|column| format!("\"{column}\"")).collect();
    match &names[..] {
        [] => None,
        [name] => Some(format!("column {name}")),
        names => Some(format!("columns {}", names.join(", "))),
    }
}

/// Which of these columns the publication does not send of a table that it sends, as a finding.
///
/// A column that the table does not have is not meant.
pub fn unsent(table: &TableFacts, columns: &BTreeSet<String>) -> Option<Diagnostic> {
    let sent = table.published.sent()?;
    finding(table, columns, |column| sent.columns.contains(&column.number))
}

impl Catalog {
    /// [`unsent`], also of a table that the publication does not send yet: as it would be added.
    pub fn unsent(&self, table: &TableFacts, columns: &BTreeSet<String>) -> Option<Diagnostic> {
        finding(table, columns, |column| self.sends(table, column))
    }

    /// Whether a column is sent; of a table that is not in the publication, whether it would be.
    pub fn sends(&self, table: &TableFacts, column: &ColumnFacts) -> bool {
        match table.published.sent() {
            Some(sent) => sent.columns.contains(&column.number),
            None => is_sent_unlisted(self.publication.as_ref(), column),
        }
    }
}

/// What somebody left out of a table when he put it into the publication, in words: only rows that pass a
/// filter, not all columns. That may be meant; clients have nothing of the rest.
pub fn narrowed(table: &TableFacts) -> Option<String> {
    let sent = table.published.sent()?;
    let is_left_out = |column: &&ColumnFacts| {
        column.generated == Generated::No && !sent.columns.contains(&column.number)
    };
    let left_out = table.columns.iter().filter(is_left_out).map(|column| column.name.as_str());
    let columns = listed(&left_out.collect::<Vec<_>>());
    let rows = sent.row_filter.map(|_| "only rows that pass its row filter (WHERE)".to_owned());
    let parts: Vec<String> =
        rows.into_iter().chain(columns.map(|columns| format!("not {columns}"))).collect();
    let (name, publication) = (&table.name, &table.publication);
    (!parts.is_empty())
        .then(|| format!("publication \"{publication}\" sends of {name} {}", parts.join(", and ")))
}

fn finding(
    table: &TableFacts,
    columns: &BTreeSet<String>,
    is_sent: impl Fn(&ColumnFacts) -> bool,
) -> Option<Diagnostic> {
    let is_unsent = |column: &&ColumnFacts| columns.contains(&column.name) && !is_sent(column);
    let unsent: Vec<&ColumnFacts> = table.columns.iter().filter(is_unsent).collect();
    let names: Vec<&str> = unsent.iter().map(|column| column.name.as_str()).collect();
    let columns = listed(&names)?;
    let publication = &table.publication;
    let what = format!(
        "publication \"{publication}\" does not send {columns} of {}: what reads it is not served",
        table.name
    );
    let finding = Diagnostic::error(code::COLUMN_NOT_PUBLISHED, what);
    let finding = finding.at(format!("table {}", table.name));
    if unsent.iter().any(|column| column.generated != Generated::No) {
        return Some(finding.mend(format!(
            "compute what is generated in the definition, or, with Postgres 18 and for a stored column of a \
             table without a column list: ALTER PUBLICATION {} SET (publish_generated_columns = stored);",
            quote_ident(publication)
        )));
    }
    let wanted = |column: &&ColumnFacts| is_sent(column) || is_unsent(column);
    let listed = table.columns.iter().filter(wanted).map(|column| column.name.as_str());
    let listed: Vec<&str> = listed.collect();
    let is_filtered = table.published.sent().is_some_and(|sent| sent.row_filter.is_some());
    Some(finding.mend(list_columns_statement(publication, &table.name, &listed, is_filtered)))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{sent, table};
    use super::*;

    fn said(table: &TableFacts, columns: &[&str]) -> Option<String> {
        let finding = unsent(table, &columns.iter().map(|name| (*name).to_owned()).collect())?;
        Some(format!("{} | {}", finding.what, finding.mend.expect("it has one")))
    }

    #[test]
    fn columns_that_are_read_and_not_sent_are_named_with_the_statement_that_sends_them() {
        assert_eq!(
            said(&sent(table(), &[1]), &["a", "b", "no_such"]).as_deref(),
            Some(
                "publication \"headwater\" does not send column \"b\" of public.t: what reads it is \
                 not served | BEGIN; ALTER PUBLICATION \"headwater\" DROP TABLE ONLY \
                 \"public\".\"t\"; ALTER PUBLICATION \"headwater\" ADD TABLE ONLY \
                 \"public\".\"t\" (\"a\", \"b\"); COMMIT;"
            )
        );
        assert_eq!(said(&sent(table(), &[1]), &["a"]), None);
        assert_eq!(said(&sent(table(), &[1, 2]), &["a", "b"]), None);
        assert_eq!(said(&table(), &["a", "b"]), None, "what is not published has its own finding");
    }

    #[test]
    fn a_narrowed_table_is_told_by_what_it_lacks() {
        assert_eq!(narrowed(&table()), None, "it is not published");
        let mut some = sent(table(), &[1]);
        let not_b = "publication \"headwater\" sends of public.t not column \"b\"";
        assert_eq!(narrowed(&some).as_deref(), Some(not_b));
        some.columns[1].generated = Generated::Stored;
        assert_eq!(narrowed(&some), None);
    }

    #[test]
    fn columns_that_are_read_and_not_there_are_named() {
        let read = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let finding = absent(&table(), &read(&["a", "secrt", "x"])).expect("some are not there");
        let what = "public.t has no columns \"secrt\", \"x\": what reads it is not served";
        assert_eq!((finding.what.as_str(), finding.code.0), (what, code::NO_COLUMN));
        assert_eq!(absent(&table(), &read(&["a", "b"])), None);
    }

    #[test]
    fn a_generated_column_is_mended_in_the_definition_or_by_a_setting() {
        let mut table = sent(table(), &[1]);
        table.columns[1].generated = Generated::Stored;
        let said = said(&table, &["b"]).expect("it is not sent");
        assert!(said.contains("publish_generated_columns = stored"), "{said}");
    }
}
