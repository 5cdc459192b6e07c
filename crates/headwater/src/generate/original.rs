//! The form of IHP's own generator, for its own client.
//!
//! What the client gets is another thing: numbers of 64 bits are declared as texts and are none, and all of
//! it is kept. A schema without a table `users` does not compile, as there. What the original prints for
//! `DEFAULT NULL` is known from a schema file only: Postgres does not keep it.
//!
//! Source: `datasync.md` 20.

use hw_datasync::names::{Fields, Naming};

use super::catalog::{Column, Facts, Filled, Kind, PgType, Table};
use super::names::{self, TypeNames, new_record};
use super::{Choices, in_comment, literal, property};

/// The declarations of `ihp-datasync` that no schema changes, behind the blanks of their first line.
const REST: &str = "\
    function getCurrentUserId(): string;
    function getCurrentUser(): Promise<User | null>;

    interface LogoutOptions {
        redirect?: string;
    }

    function logout(options?: LogoutOptions): Promise<void>;

    /**
     * Leads to the page where users log in. The promise does not resolve: the page is left.
     */
    function loginWithRedirect(): Promise<void>;
    function ensureIsUser(): Promise<void>;
    function initAuth(): Promise<void>;

    function initThinBackend(options: { host: string | undefined; }): void;
}

declare module 'ihp-datasync/react' {
    function useCurrentUser(): User | null;

    /**
     * Whether somebody is logged in; null while that is not known.
     */
    function useIsLoggedIn(): boolean | null;

    interface ThinBackendProps {
        requireLogin?: boolean;
        children: JSX.Element[] | JSX.Element;
    }
    function ThinBackend(props: ThinBackendProps): JSX.Element;
}
";

/// The declarations.
pub fn text(facts: &Facts, names: &TypeNames, choices: &Choices) -> String {
    let tables = || facts.tables.iter();
    let enums = facts.enums.iter().map(|oid| enumeration(facts, names, *oid));
    let records = tables().map(|table| record(facts, names, table));
    let new_records = tables().map(|table| new(facts, names, table));
    let registry = |is_new: bool| {
        let entries = tables().map(move |table| {
            let record = names.table(table.oid);
            let record = if is_new { new_record(record) } else { record.to_owned() };
            format!("{}: {record};", literal(&table.name, '"'))
        });
        indented(8, &joined(entries))
    };
    format!(
        "declare module {} {{\n    {}\n    {}\n    {}\n\n    interface TableRegistry {{\n        {}\n    }}\n\n    \
         interface NewRecordRegistry {{\n        {}\n    }}\n\n    {REST}",
        literal(&choices.module, '\''),
        indented(4, &joined(enums)),
        indented(4, &joined(records)),
        indented(4, &joined(new_records)),
        registry(false),
        registry(true),
    )
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join("\n")
}

/// Every line but the first moved to the right, as the original's templates do it: empty ones, too.
fn indented(by: usize, text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(&format!("\n{}", " ".repeat(by)))
}

fn enumeration(facts: &Facts, names: &TypeNames, oid: u32) -> String {
    match (facts.types.get(&oid).map(|known| &known.kind), names.enumeration(oid)) {
        (Some(Kind::Enum(labels)), Some(name)) if !labels.is_empty() => {
            let labels: Vec<String> = labels.iter().map(|label| format!("'{label}'")).collect();
            format!("type {name} = {};", labels.join(" | "))
        }
        _ => String::new(),
    }
}

fn record(facts: &Facts, names: &TypeNames, table: &Table) -> String {
    let fields = columns(table)
        .map(|(column, field)| format!("    {field}: {};\n", column_type(facts, names, column)));
    format!("interface {} {{\n{}}}", names.table(table.oid), fields.collect::<String>())
}

fn new(facts: &Facts, names: &TypeNames, table: &Table) -> String {
    let name = names.table(table.oid);
    let fields = columns(table).map(|(column, field)| {
        // `serial` is a type there, not a default.
        let is_optional = column.has_default && column.filled != Filled::BySerial;
        let mark = if is_optional { "?" } else { "" };
        format!("    {field}{mark}: {};\n", column_type(facts, names, column))
    });
    format!(
        "/**\n * A {name} object not yet inserted into the `{}` table\n */\ninterface New{name} {{\n{}}}",
        in_comment(&table.name),
        fields.collect::<String>()
    )
}

fn columns(table: &Table) -> impl Iterator<Item = (&Column, String)> {
    let names: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
    let fields = Fields::of(&names, Naming::Camel);
    let columns = table.columns.iter().enumerate();
    columns.map(move |(place, column)| (column, property(fields.field(place))))
}

fn column_type(facts: &Facts, names: &TypeNames, column: &Column) -> String {
    let value = match column.filled {
        Filled::BySerial => "string".to_owned(),
        _ => value(facts, names, column.type_oid),
    };
    if column.nullable { format!("{value} | null") } else { value }
}

fn value(facts: &Facts, names: &TypeNames, oid: u32) -> String {
    let Some(PgType { schema, name, kind }) = facts.types.get(&oid) else {
        return "string".to_owned();
    };
    if let Some(name) = names.enumeration(oid) {
        return name.to_owned();
    }
    match (kind, schema.as_str(), name.as_str()) {
        (Kind::Array(element), ..) => format!("Array<{}>", value(facts, names, *element)),
        (_, "pg_catalog", "text") => "string".to_owned(),
        (_, "pg_catalog", "int2" | "int4" | "float8") => "number".to_owned(),
        (_, "pg_catalog", "bool") => "boolean".to_owned(),
        (_, "pg_catalog", "uuid") => "UUID".to_owned(),
        (_, "pg_catalog", _) | (.., "geometry") => "string".to_owned(),
        (.., name) => names::original(name),
    }
}
