//! The form for our SDK.
//!
//! The file is a module of its own, so that it adds to that of the SDK and does not stand in its place. Types
//! are those of the JSON that the wire carries (`datasync.md` 7.2); a new record may leave out what the
//! database fills, and cannot give what only the database may.

use std::fmt::Write as _;

use hw_datasync::names::Fields;
use hw_datasync::statement::BigNumbers;

use super::catalog::{Column, Facts, Filled, Kind, Table};
use super::names::{TypeNames, declared_enums, new_record};
use super::{Choices, Form, in_comment, literal, property};

const JSON: &str = "type JsonValue = string | number | boolean | null | JsonValue[] | \
                    { [key: string]: JsonValue };\n\n";

/// The declarations.
pub fn text(facts: &Facts, names: &TypeNames, choices: &Choices) -> String {
    let mut body = String::new();
    for oid in declared_enums(facts, Form::Corrected) {
        let known = facts.types.get(&oid).map(|known| &known.kind);
        if let (Some(Kind::Enum(labels)), Some(name)) = (known, names.enumeration(oid)) {
            let _ = writeln!(body, "    type {name} = {};", union(labels));
        }
    }
    let mut tables: Vec<&Table> = facts.tables.iter().collect();
    tables.sort_by(|left, right| left.name.cmp(&right.name));
    let types = Types { facts, names, big_numbers: choices.big_numbers };
    for table in &tables {
        let _ = writeln!(body, "    interface {} {{", names.table(table.oid));
        for (column, field) in columns(table, choices) {
            let _ = writeln!(body, "        {field}: {};", types.column(column));
        }
        body.push_str("    }\n");
    }
    for table in &tables {
        let new = new_record(names.table(table.oid));
        let _ = writeln!(
            body,
            "    /**\n     * A new record of the table `{}`.\n     */\n    interface {new} {{",
            in_comment(&table.name)
        );
        let given = columns(table, choices);
        for (column, field) in given.filter(|(column, _)| column.filled != Filled::Always) {
            let mark = if types.may_be_left_out(column) { "?" } else { "" };
            let _ = writeln!(body, "        {field}{mark}: {};", types.column(column));
        }
        body.push_str("    }\n");
    }
    for (registry, is_new) in [("TableRegistry", false), ("NewRecordRegistry", true)] {
        let _ = writeln!(body, "\n    interface {registry} {{");
        for table in &tables {
            let record = names.table(table.oid);
            let record = if is_new { new_record(record) } else { record.to_owned() };
            let _ = writeln!(body, "        {}: {record};", literal(&table.name, '"'));
        }
        body.push_str("    }\n");
    }
    let module = literal(&choices.module, '\'');
    let json = if body.contains("JsonValue") { JSON } else { "" };
    // Without an import or export the file would declare the module anew.
    format!(
        "// Made by `headwater generate types`. What is changed here is lost.\n\
         import type {{ UUID }} from {module};\n\n{json}declare module {module} {{\n{body}}}\n"
    )
}

fn union(labels: &[String]) -> String {
    let labels: Vec<String> = labels.iter().map(|label| literal(label, '\'')).collect();
    if labels.is_empty() { "never".to_owned() } else { labels.join(" | ") }
}

/// Its columns with their fields.
fn columns<'a>(
    table: &'a Table,
    choices: &Choices,
) -> impl Iterator<Item = (&'a Column, String)> + use<'a> {
    let names: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
    let fields = Fields::of(&names, choices.naming.of(&table.name));
    let columns = table.columns.iter().enumerate();
    columns.map(move |(place, column)| (column, property(fields.field(place))))
}

struct Types<'a> {
    facts: &'a Facts,
    names: &'a TypeNames,
    big_numbers: BigNumbers,
}

impl Types<'_> {
    fn column(&self, column: &Column) -> String {
        let (oid, refuses_null, _) = self.facts.below_domains(column.type_oid);
        let is_big = self.facts.types.get(&oid).is_some_and(|known| {
            known.schema == "pg_catalog" && matches!(known.name.as_str(), "int8" | "numeric")
        });
        // Only whole columns are sent as texts, as in `hw_datasync::statement`.
        let value = match self.big_numbers {
            BigNumbers::Texts if is_big => "string".to_owned(),
            _ => self.value(oid),
        };
        if column.nullable && !refuses_null { format!("{value} | null") } else { value }
    }

    fn may_be_left_out(&self, column: &Column) -> bool {
        let (_, refuses_null, type_has_default) = self.facts.below_domains(column.type_oid);
        column.has_default
            || type_has_default
            || column.filled != Filled::No
            || (column.nullable && !refuses_null)
    }

    fn value(&self, oid: u32) -> String {
        let (oid, ..) = self.facts.below_domains(oid);
        let Some(known) = self.facts.types.get(&oid) else { return "JsonValue".to_owned() };
        match &known.kind {
            Kind::Array(element) => format!("Array<{}>", self.value(*element)),
            Kind::Enum(labels) => {
                self.names.enumeration(oid).map_or_else(|| union(labels), str::to_owned)
            }
            Kind::Composite(attributes) => self.object(attributes),
            Kind::CastToJson => "JsonValue".to_owned(),
            Kind::Base | Kind::Domain { .. } if known.schema != "pg_catalog" => "string".to_owned(),
            Kind::Base | Kind::Domain { .. } => match known.name.as_str() {
                "bool" => "boolean",
                "int2" | "int4" | "int8" | "float4" | "float8" | "numeric" => "number",
                "json" | "jsonb" => "JsonValue",
                "uuid" => "UUID",
                _ => "string",
            }
            .to_owned(),
        }
    }

    /// A composite value: its attributes keep their names, and each may be NULL.
    fn object(&self, attributes: &[(String, u32)]) -> String {
        let attribute = |(name, oid): &(String, u32)| {
            format!("{}: {} | null", property(name), self.value(*oid))
        };
        let attributes: Vec<String> = attributes.iter().map(attribute).collect();
        if attributes.is_empty() {
            return "Record<string, never>".to_owned();
        }
        format!("{{ {} }}", attributes.join("; "))
    }
}
