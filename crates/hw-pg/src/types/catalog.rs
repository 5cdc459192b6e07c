//! Resolves type oids to what their values mean.
//!
//! In: oids of columns; rows of `pg_type`, `pg_range`, `pg_attribute`. Out: [`PgType`]s. Built-in
//! scalars need no query. Whatever is not listed is carried as text.

use crate::error::{Doing, Result};
use hw_types::PgType;
use hw_types::pgtype::{ElementType, TextKind};
use std::collections::{HashMap, HashSet};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

/// The wanted types and all that they are made of, one row each.
///
/// An array is what `array_out` prints: `int2vector` has an element type too, and other text.
const TYPES: &str = "\
WITH RECURSIVE wanted(oid) AS (
  SELECT pg_catalog.unnest($1)
  UNION
  SELECT part.oid
  FROM wanted
  JOIN pg_catalog.pg_type t ON t.oid = wanted.oid
  CROSS JOIN LATERAL (
    SELECT t.typelem WHERE t.typoutput = 'pg_catalog.array_out'::pg_catalog.regproc
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
       t.typtype::pg_catalog.text,
       t.typoutput = 'pg_catalog.array_out'::pg_catalog.regproc AS is_array,
       t.typelem,
       pg_catalog.ascii(element.typdelim::pg_catalog.text) AS delimiter,
       t.typbasetype,
       (SELECT r.rngsubtype FROM pg_catalog.pg_range r
        WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid) AS subtype,
       t.typname = 'citext' AND EXISTS (
         SELECT FROM pg_catalog.pg_depend d
         JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'citext'
         WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid
           AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass) AS is_citext,
       ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
             WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0
               AND NOT a.attisdropped ORDER BY a.attnum) AS names,
       ARRAY(SELECT a.atttypid FROM pg_catalog.pg_attribute a
             WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0
               AND NOT a.attisdropped ORDER BY a.attnum) AS types
FROM wanted
JOIN pg_catalog.pg_type t ON t.oid = wanted.oid
LEFT JOIN pg_catalog.pg_type element ON element.oid = t.typelem";

/// What an oid stands for, before its parts are looked up.
#[derive(Debug)]
enum Made {
    Known(PgType),
    Array { element: u32, delimiter: u8 },
    Range(u32),
    Multirange(u32),
    Composite(Vec<(String, u32)>),
    Domain(u32),
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
        let mut catalog = TypeCatalog::new();
        catalog.add(client, oids).await?;
        Ok(catalog)
    }

    /// Loads those that are not known yet; asks nothing if all are.
    pub async fn add(&mut self, client: &(impl GenericClient + Sync), oids: &[u32]) -> Result<()> {
        let missing: HashSet<u32> =
            oids.iter().copied().filter(|oid| self.get(*oid).is_none()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<u32> = missing.into_iter().collect();
        let rows = client
            .query_typed(TYPES, &[(&missing, Type::OID_ARRAY)])
            .await
            .doing("read types from the catalog")?;
        let mut made = HashMap::new();
        for row in &rows {
            made.insert(row.try_get(0)?, read_row(row)?);
        }
        for oid in missing {
            let resolved = self.resolve_made(&made, oid, 0);
            self.types.insert(oid, resolved);
        }
        Ok(())
    }

    /// A type, if it is built in or was loaded.
    pub fn get(&self, oid: u32) -> Option<PgType> {
        built_in(oid).or_else(|| self.types.get(&oid).cloned())
    }

    /// A type; one that was never loaded is carried as text.
    pub fn resolve(&self, oid: u32) -> PgType {
        self.get(oid).unwrap_or(FOREIGN)
    }

    fn resolve_made(&self, made: &HashMap<u32, Made>, oid: u32, depth: usize) -> PgType {
        /// Postgres allows no type to contain itself; this only bounds a damaged catalog.
        const MAX_DEPTH: usize = 64;
        if let Some(known) = built_in(oid) {
            return known;
        }
        if depth > MAX_DEPTH {
            return FOREIGN;
        }
        let part = |oid: u32| self.resolve_made(made, oid, depth + 1);
        match made.get(&oid) {
            None => self.types.get(&oid).cloned().unwrap_or(FOREIGN),
            Some(Made::Known(ty)) => ty.clone(),
            Some(Made::Array { element, delimiter }) => PgType::Array(Box::new(ElementType {
                pg_type: part(*element),
                delimiter: *delimiter,
            })),
            Some(Made::Range(subtype)) => PgType::Range(Box::new(part(*subtype))),
            Some(Made::Multirange(subtype)) => PgType::Multirange(Box::new(part(*subtype))),
            Some(Made::Domain(base)) => PgType::Domain(Box::new(part(*base))),
            Some(Made::Composite(fields)) => PgType::Composite(
                fields.iter().map(|(name, oid)| (name.clone(), part(*oid))).collect(),
            ),
        }
    }
}

const FOREIGN: PgType = PgType::Text { kind: TextKind::Foreign };

fn read_row(row: &tokio_postgres::Row) -> Result<Made> {
    let kind: String = row.try_get(1)?;
    if row.try_get(2)? {
        let delimiter: Option<i32> = row.try_get(4)?;
        let delimiter = delimiter.and_then(|code| u8::try_from(code).ok()).unwrap_or(b',');
        return Ok(Made::Array { element: row.try_get(3)?, delimiter });
    }
    let subtype: Option<u32> = row.try_get(6)?;
    Ok(match (kind.as_str(), subtype) {
        ("d", _) => Made::Domain(row.try_get(5)?),
        ("e", _) => Made::Known(PgType::Text { kind: TextKind::Enum }),
        ("r", Some(subtype)) => Made::Range(subtype),
        ("m", Some(subtype)) => Made::Multirange(subtype),
        ("c", _) => {
            let names: Vec<String> = row.try_get(8)?;
            let types: Vec<u32> = row.try_get(9)?;
            Made::Composite(names.into_iter().zip(types).collect())
        }
        _ if row.try_get(7)? => Made::Known(PgType::TEXT),
        _ => Made::Known(FOREIGN),
    })
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
