//! The SQL that makes and mends a publication.

use hw_types::TableName;
use hw_types::relation::quote_ident;

/// `ONLY "public"."a", ONLY "public"."b"`. Without ONLY the tables that inherit from one would be
/// published with it, whether they have an identity or not; partitions belong to their root
/// either way.
fn list(tables: &[TableName]) -> String {
    let names: Vec<String> =
        tables.iter().map(|table| format!("ONLY {}", table.quoted())).collect();
    names.join(", ")
}

/// The statement that makes the publication.
pub fn create_statement(name: &str, tables: &[TableName]) -> String {
    let contents = match tables.is_empty() {
        true => String::new(),
        false => format!(" FOR TABLE {}", list(tables)),
    };
    format!(
        "CREATE PUBLICATION {}{contents} WITH (publish_via_partition_root = true);",
        quote_ident(name)
    )
}

/// The statement that adds tables.
pub fn add_statement(name: &str, tables: &[TableName]) -> String {
    format!("ALTER PUBLICATION {} ADD TABLE {};", quote_ident(name), list(tables))
}

/// The statement that adds a table to a publication which our role may not alter, with who may.
pub fn add_statement_of_others(name: &str, table: &TableName) -> String {
    let statement = add_statement(name, std::slice::from_ref(table));
    format!("{statement} -- as a superuser, or as a role that owns both")
}

/// The statements that make it send these columns of a table that it sends others of, in one transaction.
///
/// - Takes: whether it sends only rows for which a condition holds, which must be said again.
pub fn list_columns_statement(
    name: &str,
    table: &TableName,
    columns: &[&str],
    is_filtered: bool,
) -> String {
    let (name, table) = (quote_ident(name), list(std::slice::from_ref(table)));
    let columns: Vec<String> = columns.iter().map(|column| quote_ident(column)).collect();
    let columns = columns.join(", ");
    let filter = if is_filtered { " WHERE (…)" } else { "" };
    format!(
        "BEGIN; ALTER PUBLICATION {name} DROP TABLE {table}; \
         ALTER PUBLICATION {name} ADD TABLE {table} ({columns}){filter}; COMMIT;"
    )
}

/// The statement that makes it send every kind of change, and partitions as their root if asked.
pub fn settings_statement(name: &str, via_root: bool) -> String {
    let via_root = if via_root { ", publish_via_partition_root = true" } else { "" };
    format!(
        "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate'{via_root});",
        quote_ident(name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_quote_every_name() {
        let tables = [TableName::new("public", "a"), TableName::new("My", "b\"c")];
        assert_eq!(
            create_statement("headwater", &tables),
            "CREATE PUBLICATION \"headwater\" FOR TABLE ONLY \"public\".\"a\", \
             ONLY \"My\".\"b\"\"c\" \
             WITH (publish_via_partition_root = true);"
        );
        assert_eq!(
            create_statement("headwater", &[]),
            "CREATE PUBLICATION \"headwater\" WITH (publish_via_partition_root = true);"
        );
        assert_eq!(
            add_statement("headwater", &tables[..1]),
            "ALTER PUBLICATION \"headwater\" ADD TABLE ONLY \"public\".\"a\";"
        );
        assert_eq!(
            settings_statement("h\"w", true),
            "ALTER PUBLICATION \"h\"\"w\" SET (publish = 'insert, update, delete, truncate', \
             publish_via_partition_root = true);"
        );
    }
}
