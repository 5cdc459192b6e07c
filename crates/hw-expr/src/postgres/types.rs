//! Types as operators tell them apart, and values as they are held while an expression is evaluated.

use hw_types::PgType;
use hw_types::pgtype::{ElementType, TextKind};
use std::borrow::Cow;
use std::fmt;

/// A value: NULL, or canonical bytes of its type (`hw_types::pgtype`).
pub type Datum<'a> = Option<Cow<'a, [u8]>>;

/// A type without parts. `varchar` and `name` are `Text`: Postgres compares them with its operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scalar {
    /// `boolean`.
    Bool,
    /// `smallint`.
    Int2,
    /// `integer`.
    Int4,
    /// `bigint`.
    Int8,
    /// `real`.
    Float4,
    /// `double precision`.
    Float8,
    /// `numeric`.
    Numeric,
    /// `text`, `varchar`, `name`.
    Text,
    /// `character(n)`.
    Bpchar,
    /// `uuid`.
    Uuid,
    /// `bytea`.
    Bytea,
    /// `date`.
    Date,
    /// `time`.
    Time,
    /// `timestamp`.
    Timestamp,
    /// `timestamptz`.
    Timestamptz,
    /// `interval`.
    Interval,
    /// `json`.
    Json,
    /// `jsonb`.
    Jsonb,
    /// An enum, by the oid of its type.
    Enum(u32),
}

/// The type of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// A type without parts.
    Scalar(Scalar),
    /// An array of these.
    Array(Scalar),
    /// A literal in quotes, or NULL, whose type nothing has said yet.
    Unknown,
    /// Any other type, by its oid: it can be tested for NULL.
    Other(u32),
    /// A composite type, by its oid: whether it is NULL depends on its fields.
    Row(u32),
}

/// The oids of types of which `PgType` does not tell whether their operators are those of text.
const TEXTS: [u32; 3] = [25, 1043, 19];
const ARRAYS_OF_TEXT: [u32; 3] = [1009, 1015, 1003];

impl Type {
    /// The type of a column.
    ///
    /// - Takes: the oid of its type in the source, and what its canonical bytes mean.
    pub fn of(oid: u32, pg_type: &PgType) -> Type {
        let other = Type::Other(oid);
        match pg_type.base() {
            PgType::Composite(_) => Type::Row(oid),
            // A type that is carried as text, and citext, has operators of its own.
            PgType::Text { kind: TextKind::Plain } => match TEXTS.contains(&oid) {
                true => Type::Scalar(Scalar::Text),
                false => other,
            },
            // What is below a domain is not told apart by an oid.
            PgType::Text { kind: TextKind::Enum } => match pg_type {
                PgType::Domain(_) => other,
                _ => Type::Scalar(Scalar::Enum(oid)),
            },
            PgType::Array(element) => match &element.pg_type {
                PgType::Text { kind: TextKind::Plain } if ARRAYS_OF_TEXT.contains(&oid) => {
                    Type::Array(Scalar::Text)
                }
                PgType::Text { .. } | PgType::Domain(_) => other,
                scalar => Scalar::of(scalar).map_or(other, Type::Array),
            },
            scalar => Scalar::of(scalar).map_or(other, Type::Scalar),
        }
    }

    /// What its canonical bytes mean; `None` where that is not known here.
    pub fn pg_type(self) -> Option<PgType> {
        match self {
            Type::Scalar(scalar) => Some(scalar.pg_type()),
            Type::Array(element) => {
                let element = ElementType { pg_type: element.pg_type(), delimiter: b',' };
                Some(PgType::Array(Box::new(element)))
            }
            Type::Unknown | Type::Other(_) | Type::Row(_) => None,
        }
    }

    /// The type that SQL names so in `pg_catalog`, without modifiers.
    pub fn named(name: &str) -> Option<Type> {
        let scalar = Type::Scalar;
        Some(match name {
            "boolean" | "bool" => scalar(Scalar::Bool),
            "smallint" | "int2" => scalar(Scalar::Int2),
            "integer" | "int" | "int4" => scalar(Scalar::Int4),
            "bigint" | "int8" => scalar(Scalar::Int8),
            "real" | "float4" => scalar(Scalar::Float4),
            "double precision" | "float8" => scalar(Scalar::Float8),
            "numeric" | "decimal" => scalar(Scalar::Numeric),
            "text" | "character varying" | "varchar" => scalar(Scalar::Text),
            "bpchar" => scalar(Scalar::Bpchar),
            "uuid" => scalar(Scalar::Uuid),
            "bytea" => scalar(Scalar::Bytea),
            "date" => scalar(Scalar::Date),
            "time without time zone" | "time" => scalar(Scalar::Time),
            "timestamp without time zone" | "timestamp" => scalar(Scalar::Timestamp),
            "timestamp with time zone" | "timestamptz" => scalar(Scalar::Timestamptz),
            "interval" => scalar(Scalar::Interval),
            "json" => scalar(Scalar::Json),
            "jsonb" => scalar(Scalar::Jsonb),
            _ => match Type::named(name.strip_suffix("[]")?)? {
                Type::Scalar(element) => Type::Array(element),
                _ => return None,
            },
        })
    }
}

impl Scalar {
    fn of(pg_type: &PgType) -> Option<Scalar> {
        Some(match pg_type {
            PgType::Bool => Scalar::Bool,
            PgType::Int2 => Scalar::Int2,
            PgType::Int4 => Scalar::Int4,
            PgType::Int8 => Scalar::Int8,
            PgType::Float4 => Scalar::Float4,
            PgType::Float8 => Scalar::Float8,
            PgType::Numeric => Scalar::Numeric,
            PgType::Bpchar => Scalar::Bpchar,
            PgType::Uuid => Scalar::Uuid,
            PgType::Bytea => Scalar::Bytea,
            PgType::Date => Scalar::Date,
            PgType::Time => Scalar::Time,
            PgType::Timestamp => Scalar::Timestamp,
            PgType::Timestamptz => Scalar::Timestamptz,
            PgType::Interval => Scalar::Interval,
            PgType::Json => Scalar::Json,
            PgType::Jsonb => Scalar::Jsonb,
            _ => return None,
        })
    }

    /// What its canonical bytes mean.
    pub fn pg_type(self) -> PgType {
        match self {
            Scalar::Bool => PgType::Bool,
            Scalar::Int2 => PgType::Int2,
            Scalar::Int4 => PgType::Int4,
            Scalar::Int8 => PgType::Int8,
            Scalar::Float4 => PgType::Float4,
            Scalar::Float8 => PgType::Float8,
            Scalar::Numeric => PgType::Numeric,
            Scalar::Text => PgType::TEXT,
            Scalar::Bpchar => PgType::Bpchar,
            Scalar::Uuid => PgType::Uuid,
            Scalar::Bytea => PgType::Bytea,
            Scalar::Date => PgType::Date,
            Scalar::Time => PgType::Time,
            Scalar::Timestamp => PgType::Timestamp,
            Scalar::Timestamptz => PgType::Timestamptz,
            Scalar::Interval => PgType::Interval,
            Scalar::Json => PgType::Json,
            Scalar::Jsonb => PgType::Jsonb,
            Scalar::Enum(_) => PgType::Text { kind: TextKind::Enum },
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scalar::Bool => "boolean",
            Scalar::Int2 => "smallint",
            Scalar::Int4 => "integer",
            Scalar::Int8 => "bigint",
            Scalar::Float4 => "real",
            Scalar::Float8 => "double precision",
            Scalar::Numeric => "numeric",
            Scalar::Text => "text",
            Scalar::Bpchar => "character",
            Scalar::Uuid => "uuid",
            Scalar::Bytea => "bytea",
            Scalar::Date => "date",
            Scalar::Time => "time",
            Scalar::Timestamp => "timestamp",
            Scalar::Timestamptz => "timestamptz",
            Scalar::Interval => "interval",
            Scalar::Json => "json",
            Scalar::Jsonb => "jsonb",
            Scalar::Enum(_) => "enum",
        })
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Scalar(scalar) => scalar.fmt(f),
            Type::Array(element) => write!(f, "{element}[]"),
            Type::Unknown => f.write_str("unknown"),
            Type::Other(oid) | Type::Row(oid) => write!(f, "type {oid}"),
        }
    }
}
