//! Postgres types, resolved to what the canonical bytes of a value mean.
//!
//! The canonical form of a value (`design/engine.md` 13) is independent of session settings and
//! of how the value arrived. For every type named here it is the type's binary *send* form,
//! big-endian, with these differences:
//! jsonb is its text without the version byte; arrays, ranges, multiranges and composites hold
//! their elements in canonical form inside the binary container of Postgres; a domain is its
//! base. Any other type is its text form under pinned settings (`DateStyle=ISO`,
//! `IntervalStyle=postgres`, `TimeZone=UTC`, `bytea_output=hex`, `extra_float_digits=1`).

/// A resolved type. `Clone` is cheap for scalars; containers box their parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PgType {
    /// `bool`: one byte, 0 or 1.
    Bool,
    /// `int2`: 2 bytes.
    Int2,
    /// `int4`: 4 bytes.
    Int4,
    /// `int8`: 8 bytes.
    Int8,
    /// `oid` and its aliases that print as a number: 4 bytes, unsigned.
    Oid,
    /// `float4`: 4 bytes IEEE.
    Float4,
    /// `float8`: 8 bytes IEEE.
    Float8,
    /// `numeric`: ndigits, weight, sign, dscale as int16, then base-10000 digits as int16.
    Numeric,
    /// Any type whose binary form *is* its text: text, varchar, name, xml, enum labels, citext,
    /// and types that are carried as text because no binary decoder of ours knows them.
    Text {
        /// What the text is.
        kind: TextKind,
    },
    /// `bpchar`: text with its padding.
    Bpchar,
    /// `uuid`: 16 bytes.
    Uuid,
    /// `bytea`: the bytes.
    Bytea,
    /// `json`: the text exactly as stored.
    Json,
    /// `jsonb`: the text that Postgres prints.
    Jsonb,
    /// `date`: days since 2000-01-01 as int32; extremes are the infinities.
    Date,
    /// `time`: microseconds as int64.
    Time,
    /// `timetz`: microseconds as int64, zone west of UTC in seconds as int32.
    Timetz,
    /// `timestamp`: microseconds since 2000-01-01 as int64; extremes are the infinities.
    Timestamp,
    /// `timestamptz`: the same, in UTC.
    Timestamptz,
    /// `interval`: microseconds int64, days int32, months int32.
    Interval,
    /// `pg_lsn`: 8 bytes.
    PgLsn,
    /// An array of these elements, in the binary container of `array_send`.
    Array(Box<ElementType>),
    /// A range over this subtype, in the container of `range_send`.
    Range(Box<PgType>),
    /// A multirange over ranges of this subtype, in the container of `multirange_send`.
    Multirange(Box<PgType>),
    /// A composite, in the container of `record_send`.
    Composite(Vec<(String, PgType)>),
    /// A domain: bytes are those of the base. Kept apart because one surface renders it apart.
    Domain(Box<PgType>),
}

/// Element of an array.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ElementType {
    /// The element's type.
    pub pg_type: PgType,
    /// The character between elements in the array's text form: `,`, or `;` for `box`.
    pub delimiter: u8,
}

/// What a [`PgType::Text`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TextKind {
    /// text, varchar, name, xml, citext: text by nature.
    Plain,
    /// The label of an enum.
    Enum,
    /// Another type in its text form; it reaches us as text only, so a stream that carries such
    /// a column runs without the `binary` option.
    Foreign,
}

impl PgType {
    /// Plain text, the most frequent type.
    pub const TEXT: PgType = PgType::Text { kind: TextKind::Plain };

    /// The type below any domains.
    pub fn base(&self) -> &PgType {
        match self {
            PgType::Domain(base) => base.base(),
            other => other,
        }
    }

    /// Whether canonical bytes can be made from the binary form that Postgres sends; if not, the
    /// column must be read as text.
    pub fn has_binary(&self) -> bool {
        match self {
            PgType::Text { kind: TextKind::Foreign } => false,
            PgType::Array(element) => element.pg_type.has_binary(),
            PgType::Range(t) | PgType::Multirange(t) | PgType::Domain(t) => t.has_binary(),
            PgType::Composite(fields) => fields.iter().all(|(_, t)| t.has_binary()),
            _ => true,
        }
    }
}
