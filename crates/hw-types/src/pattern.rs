//! Which tables a definition means: exact names, and names that begin so.
//!
//! One type for the language, the catalog and the publication, so that `check`, `serve` and
//! `doctor` cannot mean different tables. Source: `sync-rules.md` 5.3.

use crate::relation::TableName;
use std::fmt;

/// A name, or all names with a prefix (`"todos_%"`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamePattern {
    /// The name, or the prefix.
    pub text: String,
    /// Whether it is a prefix.
    pub wildcard: bool,
}

impl NamePattern {
    /// Only the last character is special. An unquoted name cannot contain it.
    pub fn new(name: &str) -> NamePattern {
        match name.strip_suffix('%') {
            Some(prefix) => NamePattern { text: prefix.to_string(), wildcard: true },
            None => NamePattern { text: name.to_string(), wildcard: false },
        }
    }

    /// Whether a name is meant.
    pub fn matches(&self, name: &str) -> bool {
        if self.wildcard { name.starts_with(&self.text) } else { name == self.text }
    }
}

/// Source tables that a definition reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TablePattern {
    /// Schema.
    pub schema: NamePattern,
    /// Table.
    pub table: NamePattern,
}

impl TablePattern {
    /// A pattern from its two parts, each of which may end in `%`.
    pub fn new(schema: &str, table: &str) -> TablePattern {
        TablePattern { schema: NamePattern::new(schema), table: NamePattern::new(table) }
    }

    /// The table of this name, whatever characters it has.
    pub fn exactly(table: &TableName) -> TablePattern {
        let name = |text: &String| NamePattern { text: text.clone(), wildcard: false };
        TablePattern { schema: name(&table.schema), table: name(&table.name) }
    }

    /// Whether a table is meant. System schemas never are by wildcard.
    pub fn matches(&self, name: &TableName) -> bool {
        self.schema.matches(&name.schema)
            && self.table.matches(&name.name)
            && !(self.schema.wildcard && is_system_schema(&name.schema))
    }

    /// Whether more than one table may be meant.
    pub fn is_wildcard(&self) -> bool {
        self.schema.wildcard || self.table.wildcard
    }

    /// The one table that is meant by its whole name.
    pub fn exact(&self) -> Option<TableName> {
        (!self.is_wildcard()).then(|| TableName::new(&self.schema.text, &self.table.text))
    }
}

/// Whether a schema is Postgres's own.
pub fn is_system_schema(schema: &str) -> bool {
    schema.starts_with("pg_") || schema == "information_schema"
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = |p: &NamePattern| if p.wildcard { "%" } else { "" };
        let (schema, table) = (&self.schema, &self.table);
        write!(f, "{}{}.{}{}", schema.text, mark(schema), table.text, mark(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_ends_in_percent_means_every_name_that_begins_so() {
        let pattern = TablePattern::new("public", "events_%");
        assert!(pattern.matches(&TableName::new("public", "events_2024")));
        assert!(pattern.matches(&TableName::new("public", "events_")));
        assert!(!pattern.matches(&TableName::new("public", "events")));
        assert!(!pattern.matches(&TableName::new("other", "events_2024")));
        assert_eq!((pattern.is_wildcard(), pattern.exact()), (true, None));
        let exact = TablePattern::new("public", "events");
        assert!(exact.matches(&TableName::new("public", "events")));
        assert!(!exact.matches(&TableName::new("public", "events_2024")));
        assert_eq!(exact.exact(), Some(TableName::new("public", "events")));
        let odd = TableName::new("public", "100%");
        assert_eq!(TablePattern::exactly(&odd).exact(), Some(odd));
    }

    #[test]
    fn a_schema_wildcard_means_no_schema_of_postgres() {
        let all = TablePattern::new("%", "wo");
        assert!(all.matches(&TableName::new("tenant_1", "wo")));
        assert!(!all.matches(&TableName::new("pg_toast", "wo")));
        assert!(!all.matches(&TableName::new("information_schema", "wo")));
        assert!(TablePattern::new("pg_catalog", "wo").matches(&TableName::new("pg_catalog", "wo")));
        assert_eq!(all.to_string(), "%.wo");
    }
}
