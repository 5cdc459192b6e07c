//! Arrays, composites, ranges and multiranges as JSON texts. Source: `sync-rules.md` 4.2.

use crate::json::write_string;
use crate::values::{DAMAGED, Decoder, ValueOptions};
use hw_types::pgtype::{PgType, TextKind};
use hw_types::text::DamagedValue;
use hw_types::text::container::{Array, Dimension, Elements, Range, composite, multirange};

/// Deepest nesting of arrays and composites; a row beyond it fails (PSYNC_S1004).
const MAX_DEPTH: u32 = 10;

const TOO_DEEP: &str = "values nested more than 10 levels deep cannot be synced";

/// Whether arrays of the type are decoded without `custom_postgres_types`.
pub fn is_built_in(pg_type: &PgType) -> bool {
    !matches!(
        pg_type,
        PgType::Domain(_)
            | PgType::Composite(_)
            | PgType::Range(_)
            | PgType::Multirange(_)
            | PgType::Text { kind: TextKind::Enum | TextKind::Foreign }
    )
}

fn damaged(_: DamagedValue) -> &'static str {
    DAMAGED
}

/// Appends the JSON of a container; `depth` is 1 for a column's own value.
pub fn write_nested(
    pg_type: &PgType,
    bytes: &[u8],
    options: ValueOptions,
    depth: u32,
    out: &mut String,
) -> Result<(), &'static str> {
    if depth > MAX_DEPTH {
        return Err(TOO_DEEP);
    }
    match pg_type {
        PgType::Array(element) => {
            let array = Array::read(bytes).map_err(damaged)?;
            let mut writer =
                Writer { element: &element.pg_type, elements: array.elements(), options, out };
            writer.dimension(array.dimensions(), depth)
        }
        PgType::Range(subtype) => write_range(subtype, bytes, options, depth, out),
        PgType::Multirange(subtype) => {
            out.push('[');
            for (i, range) in multirange(bytes).map_err(damaged)?.enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_range(subtype, range.map_err(damaged)?, options, depth, out)?;
            }
            out.push(']');
            Ok(())
        }
        PgType::Composite(fields) => {
            let mut values = composite(bytes).map_err(damaged)?;
            out.push('{');
            for (i, (name, field)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_string(name, out);
                out.push(':');
                let value = values.next().ok_or(DAMAGED)?.map_err(damaged)?;
                write_element(field, value, options, depth, out)?;
            }
            out.push('}');
            Ok(())
        }
        _ => Err(DAMAGED),
    }
}

/// Writes the elements of an array, nested as its dimensions are. Lower bounds are dropped.
struct Writer<'w, 'a> {
    element: &'w PgType,
    elements: Elements<'a>,
    options: ValueOptions,
    out: &'w mut String,
}

impl Writer<'_, '_> {
    fn dimension(&mut self, dimensions: &[Dimension], depth: u32) -> Result<(), &'static str> {
        self.out.push('[');
        let length = dimensions.first().map_or(0, |d| d.len);
        for i in 0..length {
            if i > 0 {
                self.out.push(',');
            }
            match dimensions {
                [_, inner @ ..] if !inner.is_empty() => self.dimension(inner, depth)?,
                _ => {
                    let value = self.elements.next().ok_or(DAMAGED)?.map_err(damaged)?;
                    write_element(self.element, value, self.options, depth, self.out)?;
                }
            }
        }
        self.out.push(']');
        Ok(())
    }
}

/// Appends the JSON of a value inside a container: json raw, bytea as null.
fn write_element(
    pg_type: &PgType,
    bytes: Option<&[u8]>,
    options: ValueOptions,
    depth: u32,
    out: &mut String,
) -> Result<(), &'static str> {
    let Some(bytes) = bytes else {
        out.push_str("null");
        return Ok(());
    };
    match pg_type.base() {
        PgType::Json | PgType::Jsonb => out.push_str(&String::from_utf8_lossy(bytes)),
        PgType::Bytea => out.push_str("null"),
        PgType::Bool => write_bool(bytes.first().is_some_and(|b| *b != 0), options, out),
        nested @ (PgType::Array(_)
        | PgType::Range(_)
        | PgType::Multirange(_)
        | PgType::Composite(_)) => write_nested(nested, bytes, options, depth + 1, out)?,
        scalar => {
            if !Decoder::new(scalar, options).write_json(bytes, out)? {
                out.push_str("null");
            }
        }
    }
    Ok(())
}

/// Appends a boolean inside of JSON.
pub fn write_bool(value: bool, options: ValueOptions, out: &mut String) {
    out.push_str(match (value, options.nested_booleans) {
        (true, true) => "true",
        (false, true) => "false",
        (true, false) => "1",
        (false, false) => "0",
    });
}

fn write_range(
    subtype: &PgType,
    bytes: &[u8],
    options: ValueOptions,
    depth: u32,
    out: &mut String,
) -> Result<(), &'static str> {
    let range = Range::read(bytes).map_err(damaged)?;
    if range.empty {
        out.push_str("\"empty\"");
        return Ok(());
    }
    out.push_str("{\"lower\":");
    write_element(subtype, range.lower, options, depth, out)?;
    out.push_str(",\"upper\":");
    write_element(subtype, range.upper, options, depth, out)?;
    out.push_str(",\"lower_exclusive\":");
    write_bool(!range.lower_inclusive, options, out);
    out.push_str(",\"upper_exclusive\":");
    write_bool(!range.upper_inclusive, options, out);
    out.push('}');
    Ok(())
}
