//! Resolves type oids to what their values mean.
//!
//! In: oids of columns; rows of `pg_type`, `pg_range`, `pg_attribute`, `pg_enum`. Out: what the
//! types are made of ([`TypeFacts`]), and [`PgType`]s. Built-in scalars need no query. Whatever is
//! not listed is carried as text.

use crate::error::{Doing, Result};
use crate::internal::{Char, Xid};
use hw_types::PgType;
use hw_types::facts::{EnumLabel, MadeOf, TypeAttribute, TypeFacts};
use hw_types::pgtype::{ElementType, TextKind};
use std::collections::{BTreeSet, HashMap};
use tokio_postgres::GenericClient;
use tokio_postgres::types::{FromSql, Type};

/// The wanted types and all that they are made of, one row each.
///
/// An array is what `array_out` prints: `int2vector` has an element type too, and other text. A domain over an
/// array is printed by it as well, and has no element type.
const TYPES: &str = "\
WITH RECURSIVE wanted(oid) AS (
  SELECT pg_catalog.unnest($1)
  UNION
  SELECT part.oid
  FROM wanted
  JOIN pg_catalog.pg_type t ON t.oid = wanted.oid
  CROSS JOIN LATERAL (
    SELECT t.typelem
    WHERE t.typoutput = 'pg_catalog.array_out'::pg_catalog.regproc AND t.typtype <> 'd'
    UNION ALL
    SELECT t.typbasetype WHERE t.typtype = 'd'
    UNION ALL
    SELECT r.rngsubtype FROM pg_catalog.pg_range r
    WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid
    UNION ALL
    SELECT a.atttypid FROM pg_catalog.pg_attribute a
    WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
  ) part(oid)
)
SELECT t.oid,
       t.typtype,
       t.typoutput = 'pg_catalog.array_out'::pg_catalog.regproc AND t.typtype <> 'd' AS is_array,
       t.typelem,
       pg_catalog.ascii(element.typdelim::pg_catalog.text) AS delimiter,
       t.typbasetype,
       t.typtypmod,
       (SELECT r.rngsubtype FROM pg_catalog.pg_range r
        WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid) AS subtype,
       t.typname = 'citext' AND EXISTS (
         SELECT FROM pg_catalog.pg_depend d
         JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'citext'
         WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid
           AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass) AS is_citext,
       parts.numbers, parts.names, parts.types, parts.modifiers, parts.versions
FROM wanted
JOIN pg_catalog.pg_type t ON t.oid = wanted.oid
LEFT JOIN pg_catalog.pg_type element ON element.oid = t.typelem
LEFT JOIN LATERAL (
  SELECT pg_catalog.array_agg(a.attnum::pg_catalog.int8 ORDER BY a.attnum) AS numbers,
         pg_catalog.array_agg(a.attname::pg_catalog.text ORDER BY a.attnum) AS names,
         pg_catalog.array_agg(a.atttypid ORDER BY a.attnum) AS types,
         pg_catalog.array_agg(a.atttypmod ORDER BY a.attnum) AS modifiers,
         pg_catalog.array_agg(a.xmin ORDER BY a.attnum) AS versions
  FROM pg_catalog.pg_attribute a
  WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
  HAVING t.typtype = 'c'
  UNION ALL
  SELECT pg_catalog.array_agg(e.oid::pg_catalog.int8 ORDER BY e.oid),
         pg_catalog.array_agg(e.enumlabel::pg_catalog.text ORDER BY e.oid), NULL, NULL,
         pg_catalog.array_agg(e.xmin ORDER BY e.oid)
  FROM pg_catalog.pg_enum e
  WHERE t.typtype = 'e' AND e.enumtypid = t.oid
  HAVING t.typtype = 'e') parts ON true
ORDER BY t.oid";

/// Reads types and all that they are made of, by oid. Built-in scalars are not among them.
///
/// - Takes: a client of the database, in or outside of a transaction; oids, repeated or not.
pub async fn read_types(
    client: &(impl GenericClient + Sync),
    oids: &[u32],
) -> Result<Vec<TypeFacts>> {
    let wanted: BTreeSet<u32> =
        oids.iter().copied().filter(|oid| built_in(*oid).is_none()).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let wanted: Vec<u32> = wanted.into_iter().collect();
    let rows = client
        .query_typed(TYPES, &[(&wanted, Type::OID_ARRAY)])
        .await
        .doing("read types from the catalog")?;
    let mut types = Vec::with_capacity(rows.len());
    for row in &rows {
        let oid = row.try_get(0)?;
        if built_in(oid).is_none() {
            types.push(TypeFacts { oid, made: read_row(row)? });
        }
    }
    Ok(types)
}

/// Whether values of a type print names of other objects: renamed, these print otherwise, and so they do when
/// something of that name comes to stand before them in the search path.
///
/// - Takes: the type, and what types are made of.
pub fn changes_without_a_write(oid: u32, types: &[TypeFacts]) -> bool {
    /// regproc, regprocedure, regoper, regoperator, regclass, regcollation, regtype, regconfig, regdictionary,
    /// regnamespace, regrole; aclitem, which names roles.
    const OF_NAMES: [u32; 12] =
        [24, 2202, 2203, 2204, 2205, 4191, 2206, 3734, 3769, 4089, 4096, 1033];
    let (mut open, mut seen) = (vec![oid], BTreeSet::new());
    while let Some(oid) = open.pop() {
        if OF_NAMES.contains(&oid) {
            return true;
        }
        if seen.insert(oid) {
            let made = types.iter().find(|facts| facts.oid == oid);
            open.extend(made.iter().flat_map(|facts| facts.made.parts()));
        }
    }
    false
}

/// The types of one database that were asked for so far.
#[derive(Debug, Default)]
pub struct TypeCatalog {
    types: HashMap<u32, PgType>,
}

impl TypeCatalog {
    /// Knows the built-in scalars only.
    pub fn new() -> TypeCatalog {
        TypeCatalog::default()
    }

    /// Loads types and all that they are made of.
    ///
    /// - Takes: a client of the database, in or outside of a transaction; oids, repeated or not.
    pub async fn load(client: &(impl GenericClient + Sync), oids: &[u32]) -> Result<TypeCatalog> {
        Ok(TypeCatalog::from_facts(&read_types(client, oids).await?))
    }

    /// Knows these types.
    pub fn from_facts(types: &[TypeFacts]) -> TypeCatalog {
        let made = types.iter().map(|facts| (facts.oid, &facts.made)).collect();
        let resolve = |facts: &TypeFacts| (facts.oid, resolve(&made, facts.oid, 0));
        TypeCatalog { types: types.iter().map(resolve).collect() }
    }

    /// Adds types, in the place of those that were known before.
    pub fn extend(&mut self, others: TypeCatalog) {
        self.types.extend(others.types);
    }

    /// A type, if it is built in or was loaded.
    pub fn get(&self, oid: u32) -> Option<PgType> {
        built_in(oid).or_else(|| self.types.get(&oid).cloned())
    }

    /// A type; one that was never loaded is carried as text.
    pub fn resolve(&self, oid: u32) -> PgType {
        self.get(oid).unwrap_or(FOREIGN)
    }
}

fn resolve(made: &HashMap<u32, &MadeOf>, oid: u32, depth: usize) -> PgType {
    /// Postgres allows no type to contain itself; this only bounds a damaged catalog.
    const MAX_DEPTH: usize = 64;
    if let Some(known) = built_in(oid) {
        return known;
    }
    if depth > MAX_DEPTH {
        return FOREIGN;
    }
    let part = |oid: u32| resolve(made, oid, depth + 1);
    match made.get(&oid) {
        None | Some(MadeOf::Base) => FOREIGN,
        Some(MadeOf::Text) => PgType::TEXT,
        Some(MadeOf::Enum(_)) => PgType::Text { kind: TextKind::Enum },
        Some(MadeOf::Array(element, delimiter)) => PgType::Array(Box::new(ElementType {
            pg_type: part(*element),
            delimiter: u8::try_from(*delimiter).unwrap_or(b','),
        })),
        Some(MadeOf::Range(subtype)) => PgType::Range(Box::new(part(*subtype))),
        Some(MadeOf::Multirange(subtype)) => PgType::Multirange(Box::new(part(*subtype))),
        Some(MadeOf::Domain(base, _)) => PgType::Domain(Box::new(part(*base))),
        Some(MadeOf::Composite(fields)) => PgType::Composite(
            fields.iter().map(|field| (field.name.clone(), part(field.type_oid))).collect(),
        ),
    }
}

const FOREIGN: PgType = PgType::Text { kind: TextKind::Foreign };

fn read_row(row: &tokio_postgres::Row) -> Result<MadeOf> {
    let kind: Char = row.try_get(1)?;
    if row.try_get(2)? {
        let delimiter: Option<i32> = row.try_get(4)?;
        let delimiter = delimiter.and_then(|code| u32::try_from(code).ok());
        return Ok(MadeOf::Array(row.try_get(3)?, delimiter.unwrap_or(u32::from(b','))));
    }
    let subtype: Option<u32> = row.try_get(7)?;
    Ok(match (kind.0, subtype) {
        (b'd', _) => MadeOf::Domain(row.try_get(5)?, row.try_get(6)?),
        (b'e', _) => MadeOf::Enum(labels(row)?),
        (b'r', Some(subtype)) => MadeOf::Range(subtype),
        (b'm', Some(subtype)) => MadeOf::Multirange(subtype),
        (b'c', _) => MadeOf::Composite(attributes(row)?),
        _ if row.try_get(8)? => MadeOf::Text,
        _ => MadeOf::Base,
    })
}

/// An aggregate over nothing is NULL.
fn list<'a, T: FromSql<'a>>(row: &'a tokio_postgres::Row, column: usize) -> Result<Vec<T>> {
    Ok(row.try_get::<_, Option<Vec<T>>>(column)?.unwrap_or_default())
}

fn labels(row: &tokio_postgres::Row) -> Result<Vec<EnumLabel>> {
    let (numbers, labels) = (list::<i64>(row, 9)?, list::<String>(row, 10)?);
    let parts = numbers.into_iter().zip(labels).zip(list::<Xid>(row, 13)?);
    let label = |((oid, label), Xid(version))| {
        let oid = u32::try_from(oid).unwrap_or_default();
        EnumLabel { oid, label, version }
    };
    Ok(parts.map(label).collect())
}

fn attributes(row: &tokio_postgres::Row) -> Result<Vec<TypeAttribute>> {
    let (numbers, names) = (list::<i64>(row, 9)?, list::<String>(row, 10)?);
    let (types, modifiers) = (list::<u32>(row, 11)?, list::<i32>(row, 12)?);
    let parts = numbers.into_iter().zip(names).zip(types.into_iter().zip(modifiers));
    let attribute = |(((number, name), (type_oid, type_modifier)), Xid(version))| {
        let number = i16::try_from(number).unwrap_or_default();
        TypeAttribute { number, name, type_oid, type_modifier, version }
    };
    Ok(parts.zip(list::<Xid>(row, 13)?).map(attribute).collect())
}

/// The scalars with fixed oids (`pg_type.dat`).
fn built_in(oid: u32) -> Option<PgType> {
    Some(match oid {
        16 => PgType::Bool,
        17 => PgType::Bytea,
        // name, text, varchar; xml prints the same in both forms when the client's encoding is
        // UTF-8, because neither then names an encoding.
        19 | 25 | 1043 | 142 => PgType::TEXT,
        20 => PgType::Int8,
        21 => PgType::Int2,
        23 => PgType::Int4,
        // oid, xid, cid.
        26 | 28 | 29 => PgType::Oid,
        114 => PgType::Json,
        700 => PgType::Float4,
        701 => PgType::Float8,
        1042 => PgType::Bpchar,
        1082 => PgType::Date,
        1083 => PgType::Time,
        1114 => PgType::Timestamp,
        1184 => PgType::Timestamptz,
        1186 => PgType::Interval,
        1266 => PgType::Timetz,
        1700 => PgType::Numeric,
        2950 => PgType::Uuid,
        3220 => PgType::PgLsn,
        3802 => PgType::Jsonb,
        _ => return None,
    })
}
