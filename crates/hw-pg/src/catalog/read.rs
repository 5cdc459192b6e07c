//! Tables as the catalog has them now, and how the publication sends them: everything that their
//! rows depend on, for many tables in few questions.
//!
//! In: an SQL connection, the publication's name, patterns and oids. Out: [`Catalog`], read in one
//! transaction, so that its parts fit together. Nothing in it takes a lock on a table, so it
//! answers while a table is being rewritten (the functions for sizes, filters and partition trees,
//! and the view `pg_publication_tables`, would wait).
//!
//! Source: PostgreSQL manual, "System Catalogs"; `GetRelationPublications` and `pgoutput.c` for
//! what ALL TABLES, schemas and partitions mean.

use super::found::{
    CatalogTable, Found, Keys, Listed, Place, add_size, kind, persistence, published, relation,
    replica_identity, types_of,
};
use super::wanted::{Parameter, WANTED, Wanted, fingerprint_query, members_query, version};
use crate::error::{Doing as _, PgError, Result};
use crate::internal::{Char, Xid};
use crate::types::read_types;
use foldhash::HashMap;
use hw_types::facts::{
    Actions, ColumnFacts, Generated, LeafFacts, Persistence, PublicationFacts, TableKind, TypeFacts,
};
use hw_types::{RelationId, TableName, TablePattern};
use std::collections::BTreeSet;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// The catalog at one moment, as far as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// `server_version_num`.
    pub version: u32,
    /// Name of the database.
    pub database: String,
    /// Whether our role may create objects in the database, such as a publication.
    pub may_create: bool,
    /// The publication, if there is one of that name.
    pub publication: Option<PublicationFacts>,
    /// The tables, by oid; those that do not exist are left out.
    pub tables: Vec<CatalogTable>,
}

impl Catalog {
    /// A table by name.
    pub fn table(&self, name: &TableName) -> Option<&CatalogTable> {
        self.tables.iter().find(|table| table.facts.name == *name)
    }

    /// A table by oid.
    pub fn table_by_id(&self, id: RelationId) -> Option<&CatalogTable> {
        self.tables.iter().find(|table| table.facts.id == id)
    }

    /// Reads the publication, and the tables that patterns mean or that have these oids: ordinary
    /// and partitioned ones, views and foreign tables; temporary ones by oid only.
    ///
    /// - Takes: a connection outside of a transaction.
    pub async fn read(
        client: &Client,
        publication: &str,
        patterns: &[TablePattern],
        ids: &[RelationId],
    ) -> Result<Catalog> {
        const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        client.batch_execute(BEGIN).await.doing("read the catalog")?;
        let read = Reader { client }.read(publication, patterns, ids).await;
        // Behind a failure too: the connection is used on.
        let ended = client.batch_execute("COMMIT").await;
        let catalog = read.map_err(|error| error.doing("read the catalog"))?;
        ended.doing("read the catalog")?;
        Ok(catalog)
    }

    /// What the publication sends anything of: the tables that are listed in any way, and all
    /// their partitions.
    pub async fn members(client: &Client, publication: &str) -> Result<Vec<RelationId>> {
        let sql = members_query(version(client).await?);
        let rows = client.query_typed(&sql, &[(&publication, Type::TEXT)]).await;
        let rows = rows.doing("read what the publication contains")?;
        rows.iter().map(|row| Ok(RelationId(row.try_get(0)?))).collect()
    }

    /// A fingerprint of everything that [`Catalog::read`] would say of the same, sizes and
    /// estimates left out: as long as it stays, nothing has changed. Versions of rows stand for
    /// their contents, so it may change where nothing that matters has.
    ///
    /// - Takes: the oids of the tables of the last reading as well, so that one that is gone or
    ///   has another name shows.
    pub async fn fingerprint(
        client: &Client,
        publication: &str,
        patterns: &[TablePattern],
        ids: &[RelationId],
    ) -> Result<i64> {
        let wanted = Wanted::new(patterns, ids);
        let sql = fingerprint_query(version(client).await?);
        let mut parameters = wanted.parameters();
        parameters.push((&publication, Type::TEXT));
        let rows = client.query_typed(&sql, &parameters).await;
        let rows = rows.doing("look whether the catalog has changed")?;
        match rows.first() {
            Some(row) => Ok(row.try_get(0)?),
            None => Err(PgError::protocol("an aggregate without an answer")),
        }
    }
}

/// A policy's expression that is the constant `true`, as the catalog stores it.
const CONSTANT_TRUE: &str = r"'^\{CONST :consttype 16 .* :constvalue 1 \[ 1( 0)* \]\}$'";

/// The version of the entry that relation `c` is in its schema: SET SCHEMA writes it anew, also there and
/// back, and nothing else does. A partition key may depend on a schema as well.
const IN_SCHEMA: &str = "coalesce((
    SELECT pg_catalog.max(d.xmin::text::int8) FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
      AND d.refclassid = 'pg_catalog.pg_namespace'::regclass), 0)::text::xid";

/// Asks the questions.
struct Reader<'a> {
    client: &'a Client,
}

impl Reader<'_> {
    async fn read(
        &self,
        publication: &str,
        patterns: &[TablePattern],
        ids: &[RelationId],
    ) -> Result<Catalog> {
        let version = version(self.client).await?;
        let name = publication;
        let (database, may_create) = self.database().await?;
        let publication = self.publication(name).await?;
        let mut found = self.relations(patterns, ids).await?;
        let oids: Vec<u32> = found.iter().map(|found| found.table.facts.id.0).collect();
        self.leaves(&mut found).await?;
        self.ancestors(&mut found).await?;
        let mut columns = self.columns(&oids).await?;
        let mut keys = self.keys(&found).await?;
        let membership = match &publication {
            Some(publication) => self.membership(publication, version, &found).await?,
            None => (HashMap::default(), HashMap::default()),
        };
        let types: BTreeSet<u32> =
            columns.values().flatten().map(|column| column.type_oid).collect();
        let types = read_types(self.client, &types.into_iter().collect::<Vec<u32>>()).await?;
        let types: HashMap<u32, TypeFacts> = types.into_iter().map(|t| (t.oid, t)).collect();
        let tables = found.into_iter().map(|found| {
            let mut table = found.table;
            let facts = &mut table.facts;
            facts.columns = columns.remove(&facts.id.0).unwrap_or_default();
            facts.types = types_of(&facts.columns, &types);
            facts.publication = name.to_owned();
            for leaf in facts.leaves.iter_mut() {
                // A leaf may be asked for by itself as well, so it is left for that.
                if let Some(found) = keys.get(&leaf.id.0) {
                    (leaf.primary_key, leaf.identity_index) =
                        (found.primary.clone(), found.identity.clone());
                }
            }
            if let Some(found) = keys.get_mut(&facts.id.0) {
                (facts.primary_key, facts.identity_index) =
                    (found.primary.clone(), found.identity.clone());
            }
            if let Some(publication) = &publication {
                facts.published = published(publication, facts, &found.line, &membership);
            }
            table
        });
        let tables = tables.collect();
        Ok(Catalog { version, database, may_create, publication, tables })
    }

    /// The database's name, and whether our role may create objects in it.
    async fn database(&self) -> Result<(String, bool)> {
        const QUERY: &str = "
            SELECT pg_catalog.current_database()::text,
                   pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')";
        let row = self.client.query_typed_one(QUERY, &[]).await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    async fn publication(&self, name: &str) -> Result<Option<PublicationFacts>> {
        const QUERY: &str = "
            SELECT p.oid, p.xmin, p.puballtables, p.pubviaroot, p.pubinsert, p.pubupdate,
                   p.pubdelete, p.pubtruncate,
                   coalesce(pg_catalog.to_jsonb(p) ->> 'pubgencols' = 's', false),
                   -- A superuser has every role, which does not make everything ours.
                   CASE WHEN r.rolsuper THEN p.pubowner = r.oid
                        ELSE pg_catalog.pg_has_role(p.pubowner, 'USAGE') END
            FROM pg_catalog.pg_publication p
            JOIN pg_catalog.pg_roles r ON r.rolname = current_user
            WHERE p.pubname = $1";
        let rows = self.client.query_typed(QUERY, &[(&name, Type::TEXT)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let facts = PublicationFacts {
            oid: row.try_get(0)?,
            name: name.to_owned(),
            version: row.try_get::<_, Xid>(1)?.0,
            all_tables: row.try_get(2)?,
            generated: row.try_get(8)?,
            via_root: row.try_get(3)?,
            actions: Actions {
                insert: row.try_get(4)?,
                update: row.try_get(5)?,
                delete: row.try_get(6)?,
                truncate: row.try_get(7)?,
            },
            owned: row.try_get(9)?,
        };
        Ok(Some(facts))
    }

    async fn relations(&self, patterns: &[TablePattern], ids: &[RelationId]) -> Result<Vec<Found>> {
        let query = format!(
            "WITH {WANTED}
            SELECT c.oid, n.oid, n.nspname, c.relname, c.relkind, c.relpersistence,
                   c.relreplident, c.relfilenode, c.relispartition, c.reltuples,
                   c.relpages + coalesce(toast.relpages, 0),
                   pg_catalog.pg_has_role(c.relowner, 'USAGE'),
                   CASE WHEN NOT may.use_schema THEN 's'
                        WHEN may.read THEN 'a'
                        WHEN may.read_any THEN 'c'
                        ELSE 'n' END::\"char\",
                   may.read_columns,
                   CASE WHEN NOT c.relrowsecurity THEN 'o'
                        WHEN NOT pg_catalog.row_security_active(c.oid) THEN 'o'
                        ELSE (
                     SELECT CASE WHEN bool_or(policy.permissive AND policy.every)
                                  AND NOT bool_or(NOT policy.permissive AND NOT policy.every)
                            THEN 'a' ELSE 'h' END
                     FROM (SELECT l.polpermissive AS permissive,
                                  coalesce(l.polqual::text ~ {CONSTANT_TRUE}, false) AS every
                           FROM pg_catalog.pg_policy l
                           WHERE l.polrelid = c.oid AND l.polcmd IN ('r', '*')
                             AND (0 = ANY (l.polroles) OR EXISTS (
                               SELECT FROM pg_catalog.unnest(l.polroles) AS r(oid)
                               WHERE pg_catalog.pg_has_role(r.oid, 'USAGE')))) policy)
                   END::\"char\",
                   current_user, {IN_SCHEMA}
            FROM wanted
            JOIN pg_catalog.pg_class c ON c.oid = wanted.oid
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN pg_catalog.pg_class toast ON toast.oid = c.reltoastrelid
            -- These ask about now, not about the snapshot: of a table that was dropped since, the last
            -- one says NULL, whatever those before it said. It is left out, as the next look would.
            CROSS JOIN LATERAL (
              SELECT CASE WHEN pg_catalog.has_table_privilege(c.oid, 'SELECT') THEN NULL ELSE
                       ARRAY(SELECT a.attnum FROM pg_catalog.pg_attribute a
                             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                               AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')
                             ORDER BY a.attnum) END AS read_columns,
                     pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS use_schema,
                     pg_catalog.has_any_column_privilege(c.oid, 'SELECT') AS read_any,
                     pg_catalog.has_table_privilege(c.oid, 'SELECT') AS read
              OFFSET 0) may
            WHERE may.read IS NOT NULL
            ORDER BY c.oid"
        );
        let wanted = Wanted::new(patterns, ids);
        let rows = self.client.query_typed(&query, &wanted.parameters()).await?;
        rows.iter().map(relation).collect()
    }

    /// Where the rows of tables are, beside themselves: in partitions, and in tables that inherit.
    async fn leaves(&self, found: &mut [Found]) -> Result<()> {
        // A temporary heir is seen by its own session alone. An heir may come through several parents.
        const QUERY: &str = "
            WITH RECURSIVE tree(root, relid, path) AS (
              SELECT root, root, ''::text FROM pg_catalog.unnest($1) AS r(root)
              UNION ALL
              SELECT tree.root, i.inhrelid,
                     tree.path || i.inhparent::text || ' ' || i.xmin::text || ' '
              FROM tree
              JOIN pg_catalog.pg_class parent
                ON parent.oid = tree.relid AND parent.relkind IN ('p', 'r')
              JOIN pg_catalog.pg_inherits i
                ON i.inhparent = tree.relid AND NOT i.inhdetachpending)
            SELECT DISTINCT ON (tree.root, c.oid)
                   tree.root, c.oid, n.nspname, c.relname, c.relkind, c.relpersistence,
                   c.relreplident, c.relfilenode,
                   pg_catalog.hashtextextended(tree.path, 0), c.reltuples,
                   c.relpages + coalesce(toast.relpages, 0)
            FROM tree
            JOIN pg_catalog.pg_class c
              ON c.oid = tree.relid AND c.oid <> tree.root AND c.relkind <> 'p' AND c.relpersistence <> 't'
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN pg_catalog.pg_class toast ON toast.oid = c.reltoastrelid
            ORDER BY tree.root, c.oid, tree.path";
        let has_rows = |found: &&Found| {
            matches!(found.table.facts.kind, TableKind::Partitioned | TableKind::Ordinary)
        };
        let roots: Vec<u32> =
            found.iter().filter(has_rows).map(|found| found.table.facts.id.0).collect();
        if roots.is_empty() {
            return Ok(());
        }
        let rows = self.client.query_typed(QUERY, &[(&roots, Type::OID_ARRAY)]).await?;
        for row in &rows {
            let root: u32 = row.try_get(0)?;
            let Ok(at) = found.binary_search_by_key(&root, |found| found.table.facts.id.0) else {
                continue;
            };
            let attachment: i64 = row.try_get(8)?;
            let table = &mut found[at].table;
            table.facts.leaves.push(LeafFacts {
                id: RelationId(row.try_get(1)?),
                name: TableName::new(row.try_get::<_, &str>(2)?, row.try_get::<_, &str>(3)?),
                kind: kind(row.try_get(4)?),
                persistence: persistence(row.try_get(5)?),
                replica_identity: replica_identity(row.try_get(6)?),
                filenode: row.try_get(7)?,
                attachment: attachment.cast_unsigned(),
                primary_key: Vec::new(),
                identity_index: Vec::new(),
            });
            add_size(table, row.try_get(9)?, row.try_get(10)?);
        }
        // A table itself may have come later than what inherits from it.
        found.iter_mut().for_each(|found| found.table.facts.leaves.sort_by_key(|leaf| leaf.id));
        Ok(())
    }

    /// The partitioned tables above partitions.
    async fn ancestors(&self, found: &mut [Found]) -> Result<()> {
        let query = format!(
            "WITH RECURSIVE line(leaf, relid, level, path) AS (
              SELECT leaf, leaf, 0, ''::text FROM pg_catalog.unnest($1) AS r(leaf)
              UNION ALL
              SELECT line.leaf, i.inhparent, line.level + 1,
                     line.path || i.inhparent::text || ' ' || i.xmin::text || ' '
              FROM line
              JOIN pg_catalog.pg_inherits i ON i.inhrelid = line.relid AND NOT i.inhdetachpending
              JOIN pg_catalog.pg_class parent ON parent.oid = i.inhparent AND parent.relkind = 'p')
            SELECT line.leaf, c.oid, n.oid, n.nspname, c.relname, c.relpersistence, {IN_SCHEMA},
                   pg_catalog.hashtextextended(line.path, 0)
            FROM line
            JOIN pg_catalog.pg_class c ON c.oid = line.relid
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE line.level > 0
            ORDER BY line.leaf, line.level"
        );
        let partitions: Vec<u32> = found
            .iter()
            .filter(|found| found.is_partition)
            .map(|found| found.table.facts.id.0)
            .collect();
        if partitions.is_empty() {
            return Ok(());
        }
        let rows = self.client.query_typed(&query, &[(&partitions, Type::OID_ARRAY)]).await?;
        for row in &rows {
            let leaf: u32 = row.try_get(0)?;
            let Ok(at) = found.binary_search_by_key(&leaf, |found| found.table.facts.id.0) else {
                continue;
            };
            let name = TableName::new(row.try_get::<_, &str>(3)?, row.try_get::<_, &str>(4)?);
            let attachment: i64 = row.try_get(7)?;
            found[at].table.facts.ancestors.push(name.clone());
            found[at].line.push(Place {
                oid: row.try_get(1)?,
                schema: row.try_get(2)?,
                in_schema: row.try_get::<_, Xid>(6)?.0,
                attachment: Some(attachment.cast_unsigned()),
                name,
                permanent: persistence(row.try_get(5)?) == Persistence::Permanent,
            });
        }
        Ok(())
    }

    async fn columns(&self, tables: &[u32]) -> Result<HashMap<u32, Vec<ColumnFacts>>> {
        const QUERY: &str = "
            SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated,
                   a.attnotnull, coalesce(l.collisdeterministic, true),
                   CASE WHEN a.atthasmissing THEN a.attmissingval::text END,
                   coalesce(d.xmin, a.xmin)
            FROM pg_catalog.pg_attribute a
            LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
            LEFT JOIN pg_catalog.pg_attrdef d
              ON a.attgenerated <> '' AND d.adrelid = a.attrelid AND d.adnum = a.attnum
            WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
            ORDER BY a.attrelid, a.attnum";
        let mut columns: HashMap<u32, Vec<ColumnFacts>> = HashMap::default();
        let rows = self.client.query_typed(QUERY, &[(&tables, Type::OID_ARRAY)]).await?;
        for row in &rows {
            let column = ColumnFacts {
                number: row.try_get(1)?,
                name: row.try_get(2)?,
                type_oid: row.try_get(3)?,
                type_modifier: row.try_get(4)?,
                generated: match row.try_get::<_, Char>(5)?.0 {
                    b's' => Generated::Stored,
                    b'v' => Generated::Virtual,
                    _ => Generated::No,
                },
                not_null: row.try_get(6)?,
                deterministic: row.try_get(7)?,
                missing: row.try_get(8)?,
                version: row.try_get::<_, Xid>(9)?.0,
            };
            columns.entry(row.try_get(0)?).or_default().push(column);
        }
        Ok(columns)
    }

    /// Keys of tables and of their leaves.
    async fn keys(&self, found: &[Found]) -> Result<HashMap<u32, Keys>> {
        const QUERY: &str = "
            SELECT i.indrelid, i.indisprimary AND i.indimmediate,
                   i.indisreplident AND i.indisvalid,
                   (i.indkey::pg_catalog.int2[])[0:i.indnkeyatts - 1]
            FROM pg_catalog.pg_index i
            WHERE i.indrelid = ANY ($1) AND (i.indisprimary OR i.indisreplident)";
        let of = |found: &Found| {
            let facts = &found.table.facts;
            let leaves: Vec<u32> = facts.leaves.iter().map(|leaf| leaf.id.0).collect();
            std::iter::once(facts.id.0).chain(leaves)
        };
        let oids: BTreeSet<u32> = found.iter().flat_map(of).collect();
        let oids: Vec<u32> = oids.into_iter().collect();
        let rows = self.client.query_typed(QUERY, &[(&oids, Type::OID_ARRAY)]).await?;
        let mut keys: HashMap<u32, Keys> = HashMap::default();
        for row in &rows {
            let columns: Vec<i16> = row.try_get(3)?;
            let entry = keys
                .entry(row.try_get(0)?)
                .or_insert(Keys { primary: Vec::new(), identity: Vec::new() });
            if row.try_get(2)? {
                entry.identity = columns.clone();
            }
            if row.try_get(1)? {
                entry.primary = columns;
            }
        }
        Ok(keys)
    }

    /// What the publication lists: tables by oid, and schemas by oid.
    async fn membership(
        &self,
        publication: &PublicationFacts,
        version: u32,
        found: &[Found],
    ) -> Result<(HashMap<u32, Listed>, HashMap<u32, u32>)> {
        let (columns, filter) = match version < 150_000 {
            true => ("NULL::int2[]", "NULL::int8"),
            false => ("r.prattrs::int2[]", "pg_catalog.hashtextextended(r.prqual::text, 0)"),
        };
        let query = format!(
            "SELECT r.prrelid, r.oid, {columns}, {filter} FROM pg_catalog.pg_publication_rel r
             WHERE r.prpubid = $1 AND r.prrelid = ANY ($2)"
        );
        let oids: BTreeSet<u32> =
            found.iter().flat_map(|found| found.line.iter().map(|place| place.oid)).collect();
        let oids: Vec<u32> = oids.into_iter().collect();
        let parameters: [Parameter<'_>; 2] =
            [(&publication.oid, Type::OID), (&oids, Type::OID_ARRAY)];
        let mut tables = HashMap::default();
        for row in &self.client.query_typed(&query, &parameters).await? {
            let filter: Option<i64> = row.try_get(3)?;
            let listed = Listed {
                oid: row.try_get(1)?,
                columns: row.try_get(2)?,
                filter: filter.map(i64::cast_unsigned),
            };
            tables.insert(row.try_get(0)?, listed);
        }
        let mut schemas = HashMap::default();
        if version >= 150_000 {
            const QUERY: &str = "SELECT pnnspid, oid FROM pg_catalog.pg_publication_namespace
                                 WHERE pnpubid = $1";
            for row in &self.client.query_typed(QUERY, &parameters[..1]).await? {
                schemas.insert(row.try_get(0)?, row.try_get(1)?);
            }
        }
        Ok((tables, schemas))
    }
}

/// Decodes an answer of the catalog that the server built as JSON.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| PgError::protocol(format!("an answer of the catalog: {error}")))
}
