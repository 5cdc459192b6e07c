//! Row literals of a case as rows of a replicated table. Source: `sync-rules.md` 19.

use super::{CaseError, check_keys, error, list, text};
use crate::datetime::{read_time, read_timestamp};
use crate::json::Json;
use crate::nested::write_bool;
use crate::sync_config::{CatalogColumn, CatalogKind, CatalogTable, SyncOptions};
use crate::values::Decoder;
use hw_types::pgtype::{ElementType, PgType, TextKind};
use hw_types::{Cell, Column, Relation, RelationId, ReplicaIdentity, Row, RowBuilder, TableName};

/// A row with the table that it is of.
pub struct CaseRow {
    pub relation: Relation,
    pub row: Row,
}

/// Reads `{table, schema?, row}`.
pub fn case_row(
    json: &Json,
    default_schema: &str,
    options: &SyncOptions,
) -> Result<CaseRow, CaseError> {
    check_keys(json, "a row", &["table", "schema", "row"])?;
    let table = text(json, "table")?.ok_or_else(|| error("a row needs the field table"))?;
    let schema = text(json, "schema")?.unwrap_or(default_schema);
    let Some(Json::Object(members)) = json.get("row") else {
        return Err(error("a row needs the field row, an object"));
    };
    let mut builder = RowBuilder::new();
    let mut columns = Vec::new();
    for (name, literal) in members {
        let (pg_type, bytes) = cell(literal, options)?;
        match &bytes {
            Some(bytes) => builder.push(Cell::Value(bytes)),
            None => builder.push(Cell::Null),
        }
        columns.push(Column {
            name: name.clone(),
            type_oid: 0,
            type_modifier: -1,
            pg_type,
            identity: name == "id",
            primary_key: u16::from(name == "id"),
        });
    }
    let relation = Relation {
        id: RelationId(1),
        name: TableName::new(schema, table),
        replica_identity: ReplicaIdentity::Default,
        columns,
    };
    Ok(CaseRow { relation, row: builder.finish() })
}

/// Type and canonical bytes of a literal; `None` for NULL.
fn cell(literal: &Json, options: &SyncOptions) -> Result<(PgType, Option<Vec<u8>>), CaseError> {
    let (pg_type, bytes) = match literal {
        Json::Null => return Ok((PgType::TEXT, None)),
        Json::Bool(value) => (PgType::Bool, vec![u8::from(*value)]),
        Json::Integer(value) => match i64::try_from(*value) {
            Ok(value) => (PgType::Int8, value.to_be_bytes().to_vec()),
            Err(_) => return Err(error("integers of rows have 64 bits")),
        },
        Json::Real(value) => (PgType::Float8, value.to_be_bytes().to_vec()),
        Json::String(text) => (PgType::TEXT, text.clone().into_bytes()),
        // Elements of one array may differ in type here, which no array of Postgres can; so the
        // array arrives as the text that it would become.
        Json::Array(_) => {
            let mut out = String::new();
            element(literal, options, &mut out)?;
            (PgType::TEXT, out.into_bytes())
        }
        Json::Object(members) => {
            let [(kind, Json::String(value))] = &members[..] else {
                return Err(error("an object in a row must be one of $blob, $json, $pg_…, $real"));
            };
            let micros = |value: Option<i64>| match value {
                Some(value) => Ok(value.to_be_bytes().to_vec()),
                None => Err(error(format!("{kind} does not hold a time"))),
            };
            match kind.as_str() {
                "$blob" => (PgType::Bytea, hex(value)?),
                "$json" => (PgType::Json, value.clone().into_bytes()),
                "$pg_timestamp" => (PgType::Timestamp, micros(read_timestamp(value))?),
                "$pg_timestamptz" => (PgType::Timestamptz, micros(read_timestamp(value))?),
                "$pg_time" => (PgType::Time, micros(read_time(value))?),
                "$real" => match value.parse::<f64>() {
                    Ok(value) => (PgType::Float8, value.to_be_bytes().to_vec()),
                    Err(_) => return Err(error("$real does not hold a number")),
                },
                _ => return Err(error(format!("{kind} is not a kind of value"))),
            }
        }
    };
    Ok((pg_type, Some(bytes)))
}

/// Appends a literal as an element of a JSON array.
fn element(literal: &Json, options: &SyncOptions, out: &mut String) -> Result<(), CaseError> {
    if let Json::Array(items) = literal {
        out.push('[');
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            element(item, options, out)?;
        }
        out.push(']');
        return Ok(());
    }
    let (pg_type, bytes) = cell(literal, options)?;
    match (pg_type, bytes) {
        (_, None) | (PgType::Bytea, _) => out.push_str("null"),
        (PgType::Bool, Some(bytes)) => write_bool(bytes == [1], options.values(), out),
        (PgType::Json, Some(bytes)) => out.push_str(&String::from_utf8_lossy(&bytes)),
        (pg_type, Some(bytes)) => {
            let decoder = Decoder::new(&pg_type, options.values());
            decoder.write_json(&bytes, out).map_err(error)?;
        }
    }
    Ok(())
}

fn hex(text: &str) -> Result<Vec<u8>, CaseError> {
    let digits = text.as_bytes();
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok().filter(|_| pair.len() == 2)
    };
    digits
        .chunks(2)
        .map(byte)
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(|| error("$blob does not hold hexadecimal digits"))
}

/// Reads `schema`: a list of `{table, schema?, columns: [{name, pg_type}]}`.
pub fn catalog(tables: &Json, default_schema: &str) -> Result<Vec<CatalogTable>, CaseError> {
    let Json::Array(tables) = tables else { return Err(error("schema must be a list")) };
    let mut out = Vec::new();
    for table in tables {
        check_keys(table, "a table", &["table", "schema", "columns"])?;
        let name = text(table, "table")?.ok_or_else(|| error("a table needs the field table"))?;
        let schema = text(table, "schema")?.unwrap_or(default_schema);
        let mut columns = Vec::new();
        for column in list(table, "columns")? {
            check_keys(column, "a column", &["name", "pg_type"])?;
            let name = text(column, "name")?.ok_or_else(|| error("a column needs a name"))?;
            let pg_type = pg_type(text(column, "pg_type")?.unwrap_or("text"));
            columns.push(CatalogColumn::new(name, pg_type));
        }
        let name = TableName::new(schema, name);
        out.push(CatalogTable { name, kind: CatalogKind::Table, columns });
    }
    Ok(out)
}

/// A type by its name; what is not known is text.
fn pg_type(name: &str) -> PgType {
    let element = name.strip_suffix("[]").or_else(|| name.strip_prefix('_'));
    if let Some(element) = element {
        let element = ElementType { pg_type: pg_type(element), delimiter: b',' };
        return PgType::Array(Box::new(element));
    }
    match name {
        "bool" | "boolean" => PgType::Bool,
        "int2" | "smallint" => PgType::Int2,
        "int4" | "integer" | "int" | "serial" => PgType::Int4,
        "int8" | "bigint" | "bigserial" => PgType::Int8,
        "oid" => PgType::Oid,
        "float4" | "real" => PgType::Float4,
        "float8" | "double precision" => PgType::Float8,
        "numeric" | "decimal" => PgType::Numeric,
        "bytea" => PgType::Bytea,
        "uuid" => PgType::Uuid,
        "json" => PgType::Json,
        "jsonb" => PgType::Jsonb,
        "date" => PgType::Date,
        "time" => PgType::Time,
        "timestamp" => PgType::Timestamp,
        "timestamptz" => PgType::Timestamptz,
        "text" | "varchar" | "name" | "citext" | "xml" => PgType::TEXT,
        _ => PgType::Text { kind: TextKind::Foreign },
    }
}
