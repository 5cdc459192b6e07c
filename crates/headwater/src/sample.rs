//! The sample: a schema, policies, a sync configuration and data that are the same on every machine.
//!
//! `headwater dev`, the benchmarks and the tests all start from it; `docs/sample-data.md` describes
//! it. The SQL lies in `crates/headwater/sample/` and is compiled into the binary. Rows are made
//! inside Postgres, so that any scale loads at the database's own speed. Invariant: every value is a
//! function of the row's number; nothing depends on clock, chance or locale, and the rows of a
//! smaller scale are among those of a larger one.

/// Creates the tables in the schema `public`, where none of these names may exist yet.
pub const SCHEMA: &str = include_str!("../sample/schema.sql");

/// Creates helper functions (schema `app`), the role `headwater_authenticated` if it is missing, its
/// grants and the policies of row level security. Runs after [`SCHEMA`], before or after the data.
pub const POLICIES: &str = include_str!("../sample/policies.sql");

/// The sync configuration of the sample.
pub const SYNC_CONFIG: &str = include_str!("../sample/sync.yaml");

/// The user (`sub`) of examples and of the demo page: owner of the first list, which is public, and
/// administrator of the first organisation.
pub const USER: &str = "ada";

/// The sample's tables in schema `public`, in an order that foreign keys allow.
pub const TABLES: [&str; 14] = [
    "organisations",
    "members",
    "projects",
    "labels",
    "issues",
    "issue_labels",
    "comments",
    "companies",
    "people",
    "phone_numbers",
    "albums",
    "photos",
    "lists",
    "todos",
];

const DATA: &str = include_str!("../sample/data.sql");

/// One statement that fills one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The table that it fills, in schema `public`; `None` for preparations.
    pub table: Option<&'static str>,
    /// The SQL, without a semicolon at its end.
    pub sql: String,
}

/// The statements that fill the tables. They run in one session, because the first ones prepare
/// temporary functions for the others; in one transaction they are all there or not at all.
///
/// - Takes: `scale`; 1 is about 1,000 rows over all tables, growth is linear, 0 counts as 1.
pub fn statements(scale: u32) -> Vec<Statement> {
    let scale = scale.max(1).to_string();
    DATA.split_inclusive(";\n")
        .map(|part| part.trim().trim_end_matches(';'))
        .filter(|part| !part.is_empty())
        .map(|part| Statement { table: filled_table(part), sql: part.replace(":scale", &scale) })
        .collect()
}

/// The table behind `INSERT INTO public.` at the start of a line.
fn filled_table(sql: &'static str) -> Option<&'static str> {
    let line = sql.lines().find_map(|line| line.strip_prefix("INSERT INTO public."))?;
    line.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_is_filled_once_and_in_the_order_of_the_list() {
        let filled: Vec<&str> = statements(1).iter().filter_map(|one| one.table).collect();
        assert_eq!(filled, TABLES);
    }

    #[test]
    fn the_scale_is_written_into_every_statement_that_fills_a_table() {
        for statement in statements(3) {
            assert!(!statement.sql.contains(":scale"), "{}", statement.sql);
            assert_eq!(
                statement.sql.contains(" * 3)"),
                statement.table.is_some(),
                "{}",
                statement.sql
            );
        }
    }
}
