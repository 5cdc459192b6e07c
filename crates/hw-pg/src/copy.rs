//! Copies of tables: whole under an exported snapshot, or a key range under a new one.
//!
//! In: a snapshot and a table as it was noted before the snapshot's slot was made.
//! Out: its published rows as [`Row`]s, one buffer each, in batches. Invariants (`engine.md`
//! 6.1): the table has the columns and the storage that were noted, because behind a rewriting
//! ALTER TABLE or a TRUNCATE an older snapshot reads it as empty, without an error; and no row is
//! hidden by row level security, because it is off and the server then refuses instead of
//! filtering.
//!
//! Locks: ACCESS SHARE on one table at a time, given back behind it by a savepoint.

use crate::catalog::{Catalog, CatalogTable, code, followable, relation, see_all};
use crate::config::ConnectConfig;
use crate::error::{Doing as _, PgError, Result};
use crate::sql;
use crate::types::{Fit, Form, binary_select_list, decode, form_of};
use bytes::Bytes;
use futures_util::StreamExt as _;
use hw_types::facts::{RowSecurity, TableFacts, TableKind};
use hw_types::relation::{quote_ident, quote_literal};
use hw_types::text::{DamagedValue, to_text};
use hw_types::{Cell, Diagnostic, PgSnapshot, Relation, ReplicaIdentity, Row, RowBuilder};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::{Client, CopyOutStream};

/// Bytes of rows in a batch, roughly.
pub const BATCH_BYTES: usize = 256 * 1024;

/// Rows in a batch at most: many tiny rows cost more than their bytes.
const BATCH_ROWS: usize = 4096;

/// How long a table's lock may be waited for: somebody rewrites it, or forgot a transaction.
pub const LOCK_LIMIT: Duration = Duration::from_secs(60);

const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// A table as it was noted before the slot was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotedTable {
    /// The catalog's description.
    pub catalog: CatalogTable,
    /// What the rows are decoded to.
    pub relation: Arc<Relation>,
    /// The publication's row filter, as SQL.
    pub row_filter: Option<String>,
}

impl NotedTable {
    /// Notes a table that can be followed.
    ///
    /// - Returns: `None` for one that cannot.
    pub async fn note(client: &Client, catalog: &CatalogTable) -> Result<Option<NotedTable>> {
        const FILTER: &str = "SELECT pg_catalog.pg_get_expr(prqual, prrelid)
            FROM pg_catalog.pg_publication_rel WHERE prpubid = $1 AND prrelid = $2";
        let facts = &catalog.facts;
        let Ok(sent) = followable(facts) else { return Ok(None) };
        let row_filter = match sent.row_filter {
            None => None,
            // Waits for the end of a rewrite; only tables with a filter do.
            Some(_) => {
                let parameters = [&sent.publication as _, &facts.id.0 as _];
                let row = client.query_opt(FILTER, &parameters).await.doing("read a row filter")?;
                row.map(|row| row.try_get(0)).transpose()?.flatten()
            }
        };
        if sent.row_filter.is_some() != row_filter.is_some() {
            return Ok(None);
        }
        let relation = Arc::new(relation(facts));
        Ok(Some(NotedTable { catalog: catalog.clone(), relation, row_filter }))
    }

    /// Whether the table is still what was noted. Who owns it and what else has no part in the
    /// copied rows may differ.
    fn is_still(&self, now: &TableFacts) -> bool {
        let noted = &self.catalog.facts;
        noted.id == now.id
            && noted.name == now.name
            && noted.kind == now.kind
            && noted.columns == now.columns
            && noted.types == now.types
            && noted.leaves == now.leaves
            && noted.primary_key == now.primary_key
            && noted.replica_identity == now.replica_identity
            && noted.identity_index == now.identity_index
            && noted.row_security == now.row_security
            && noted.published == now.published
    }

    /// Whether it can be read in key ranges: its row key is unique, and an index gives its order.
    pub fn has_ranges(&self) -> bool {
        let relation = &self.relation;
        match relation.replica_identity {
            // The columns of an identity index are known, their order in it is not.
            ReplicaIdentity::Index => relation.key_columns().len() == 1,
            _ => !relation.has_multiplicity() && !relation.key_columns().is_empty(),
        }
    }

    /// The place in the order of keys at which a row stands.
    ///
    /// - Errors: a value of the key that is none of its type.
    pub fn place(&self, row: &Row) -> Result<KeyPlace> {
        let damaged = || PgError::protocol("a copied row with a key that is none");
        let row = row.view();
        let mut values = Vec::new();
        for column in self.relation.key_columns() {
            let bytes = row.get(column).bytes().ok_or_else(damaged)?;
            let text = to_text(&self.relation.columns[column].pg_type, bytes);
            values.push(quote_literal(&text.map_err(|_| damaged())?));
        }
        Ok(KeyPlace(values.join(", ")))
    }

    /// The query whose rows are copied: all, or those of a range in the order of keys.
    fn query(&self, range: Option<Range<'_>>) -> (String, Vec<Form>) {
        let (list, forms) = binary_select_list(&self.relation.columns);
        let only = only(self.catalog.facts.kind);
        let table = self.catalog.facts.name.quoted();
        let mut conditions: Vec<String> = self.row_filter.iter().cloned().collect();
        let mut order = String::new();
        if let Some(Range { behind }) = range {
            // An output column may have a column's name and be its text.
            let table = quote_ident(&self.catalog.facts.name.name);
            let name = |&column: &usize| {
                format!("{table}.{}", quote_ident(&self.relation.columns[column].name))
            };
            let key: Vec<String> = self.relation.key_columns().iter().map(name).collect();
            let key = key.join(", ");
            if let Some(KeyPlace(place)) = behind {
                conditions.push(format!("({key}) > ({place})"));
            }
            order = format!(" ORDER BY {key}");
        }
        let filter = match conditions.is_empty() {
            true => String::new(),
            false => format!(" WHERE {}", conditions.join(" AND ")),
        };
        (format!("SELECT {list} FROM {only}{table}{filter}{order}"), forms)
    }
}

/// A place in the order of a table's keys, as SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlace(String);

/// A key range of a table, without an end: whoever reads it stops.
#[derive(Clone, Copy, Debug)]
pub struct Range<'a> {
    /// The place behind which it begins; `None` for the first one.
    pub behind: Option<&'a KeyPlace>,
}

/// A table's own rows only; those of a partitioned table are in its partitions.
fn only(kind: TableKind) -> &'static str {
    if kind == TableKind::Partitioned { "" } else { "ONLY " }
}

/// Why a table could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The table is not what was noted before the slot was made: a new boundary is needed.
    #[error("{0} changed its form or storage")]
    Overtaken(hw_types::TableName),
    /// Anything else.
    #[error("{0}")]
    Pg(#[from] PgError),
}

impl From<tokio_postgres::Error> for CopyError {
    fn from(error: tokio_postgres::Error) -> CopyError {
        CopyError::Pg(PgError::from(error))
    }
}

/// A session inside a snapshot. Dropping it ends the session at once, in the middle of a copy too, so
/// that the source holds the snapshot no longer.
pub struct SnapshotReader {
    client: Client,
    driver: sql::Driver,
}

impl Drop for SnapshotReader {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl SnapshotReader {
    /// Connects and imports a snapshot. The connection that exported it must do nothing before
    /// this has returned.
    pub async fn open(config: &ConnectConfig, snapshot: &str) -> Result<SnapshotReader> {
        let import = format!("SET TRANSACTION SNAPSHOT {}", quote_literal(snapshot));
        SnapshotReader::begin(config, &import, "import the slot's snapshot").await
    }

    /// Connects and takes a snapshot of its own, for a key range.
    pub async fn fresh(config: &ConnectConfig) -> Result<(SnapshotReader, PgSnapshot)> {
        const WHAT: &str = "take a snapshot";
        // A sort of the whole table would be read before its first row, by each range anew.
        let settings = "SET LOCAL enable_sort = off; SET LOCAL enable_incremental_sort = off";
        let reader = SnapshotReader::begin(config, settings, WHAT).await?;
        let ask = "SELECT pg_catalog.pg_current_snapshot()::text";
        let row = reader.client.query_one(ask, &[]).await.doing(WHAT)?;
        let text: String = row.try_get(0)?;
        let snapshot = text.parse().map_err(|_| PgError::protocol("a snapshot that is none"))?;
        Ok((reader, snapshot))
    }

    async fn begin(
        config: &ConnectConfig,
        first: &str,
        what: &'static str,
    ) -> Result<SnapshotReader> {
        // A row filter may let nothing through for minutes.
        let (client, driver) = sql::connect(&config.with_answer_within(None)).await?;
        let reader = SnapshotReader { client, driver };
        let sql = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
             {first}; \
             SET LOCAL row_security = off; \
             SET LOCAL lock_timeout = '{}s'; \
             SET LOCAL idle_in_transaction_session_timeout = 0; \
             SET LOCAL statement_timeout = 0",
            LOCK_LIMIT.as_secs()
        );
        reader.client.batch_execute(&sql).await.doing(what)?;
        Ok(reader)
    }

    /// Locks a table and compares it with what was noted.
    ///
    /// - Takes: `now`, a connection outside of the snapshot: inside it the catalog's tables would
    ///   show what they were.
    /// - Errors: [`CopyError::Overtaken`].
    pub async fn check(
        &self,
        table: &NotedTable,
        publication: &str,
        now: &Client,
    ) -> Result<(), CopyError> {
        let lock = format!(
            "SAVEPOINT table_lock; LOCK TABLE {}{} IN ACCESS SHARE MODE",
            only(table.catalog.facts.kind),
            table.catalog.facts.name.quoted()
        );
        let overtaken = || CopyError::Overtaken(table.catalog.facts.name.clone());
        match self.client.batch_execute(&lock).await {
            Ok(()) => {}
            // The table is gone.
            Err(error) if error.code().is_some_and(|c| c.code() == "42P01") => {
                return Err(overtaken());
            }
            Err(error) => {
                let error = PgError::from(error);
                return Err(CopyError::Pg(match error.sqlstate() {
                    Some(INSUFFICIENT_PRIVILEGE) => PgError::from(not_allowed(&error, table)),
                    _ => error,
                }));
            }
        }
        let found = Catalog::read(now, publication, &[], &[table.catalog.facts.id]).await?;
        match found.tables.first() {
            Some(found) if table.is_still(&found.facts) => {}
            _ => return Err(overtaken()),
        }
        // The lock keeps policies as they are. Where one shows every row, reading under it is
        // complete; where none does, the server refuses instead of filtering.
        let security = match table.catalog.facts.row_security {
            RowSecurity::ShowsAll => "on",
            RowSecurity::Off | RowSecurity::Hides => "off",
        };
        Ok(self.client.batch_execute(&format!("SET LOCAL row_security = {security}")).await?)
    }

    /// Gives back the lock of [`SnapshotReader::check`].
    pub async fn release(&self) -> Result<()> {
        let sql = "ROLLBACK TO SAVEPOINT table_lock; RELEASE SAVEPOINT table_lock";
        Ok(self.client.batch_execute(sql).await?)
    }

    /// Starts to copy a table that was checked.
    pub async fn copy(&self, table: &NotedTable) -> Result<TableCopy> {
        self.start(table, table.query(None)).await
    }

    /// Starts to copy the rows of a key range of a table that was checked, in the order of their keys.
    pub async fn copy_range(&self, table: &NotedTable, range: Range<'_>) -> Result<TableCopy> {
        self.start(table, table.query(Some(range))).await
    }

    async fn start(
        &self,
        table: &NotedTable,
        (query, forms): (String, Vec<Form>),
    ) -> Result<TableCopy> {
        let sql = format!("COPY ({query}) TO STDOUT (FORMAT binary)");
        let stream = self.client.copy_out(&sql).await.map_err(|error| {
            let error = PgError::from(error);
            match error.sqlstate() {
                Some(INSUFFICIENT_PRIVILEGE) => PgError::from(not_allowed(&error, table)),
                _ => error,
            }
        });
        let stream = stream.doing(&format!("copy {}", table.catalog.facts.name))?;
        Ok(TableCopy {
            stream: Box::pin(stream),
            decoder: CopyDecoder::new(table.relation.clone(), forms),
            ended: false,
        })
    }
}

fn not_allowed(error: &PgError, table: &NotedTable) -> Diagnostic {
    let text = error.diagnostic().what;
    let name = &table.catalog.facts.name;
    if text.contains("row-level security") {
        let what = format!("row level security would hide rows of {name} from the copy");
        return Diagnostic::error(code::COPY_FILTERED, what)
            .mend(see_all(name, &table.catalog.facts.role));
    }
    Diagnostic::error(crate::error::code::PRIVILEGE, text).at(format!("copy table {name}")).mend(
        format!(
            "GRANT USAGE ON SCHEMA {} TO …; GRANT SELECT ON {} TO …; for the role that Headwater \
             connects as",
            quote_ident(&name.schema),
            name.quoted()
        ),
    )
}

/// Rows of a copy.
#[derive(Debug, Default)]
pub struct CopyBatch {
    /// The rows.
    pub rows: Vec<Row>,
    /// Bytes received for them.
    pub bytes: u64,
}

/// A copy that runs; dropping it in the middle leaves its session unusable.
pub struct TableCopy {
    stream: Pin<Box<CopyOutStream>>,
    decoder: CopyDecoder,
    /// The server has said that the copy is complete; its stream must not be asked again.
    ended: bool,
}

impl TableCopy {
    /// The next rows, about [`BATCH_BYTES`] of them; `None` behind the last one.
    ///
    /// - Errors: the connection is lost; a row that is not what the columns say.
    pub async fn next_batch(&mut self) -> Result<Option<CopyBatch>> {
        let mut batch = CopyBatch::default();
        while !self.ended && (batch.bytes as usize) < BATCH_BYTES && batch.rows.len() < BATCH_ROWS {
            match self.stream.next().await {
                Some(chunk) => {
                    let name = &self.decoder.relation.name;
                    let chunk: Bytes = chunk
                        .map_err(|error| PgError::from(error).doing(format!("copy {name}")))?;
                    batch.bytes += chunk.len() as u64;
                    self.decoder.push(&chunk, &mut batch.rows)?;
                }
                None => {
                    self.decoder.finish()?;
                    self.ended = true;
                }
            }
        }
        Ok((!batch.rows.is_empty()).then_some(batch))
    }
}

/// Reads the binary COPY format, however it is cut into chunks.
///
/// Source: PostgreSQL manual, COPY, "Binary Format".
struct CopyDecoder {
    relation: Arc<Relation>,
    forms: Vec<Form>,
    state: CopyState,
    /// The beginning of something whose end has not arrived.
    left: Vec<u8>,
    builder: RowBuilder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CopyState {
    Header,
    Rows,
    End,
}

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// What a piece of input turned out to be.
enum Piece {
    /// Something whole of this many bytes.
    Whole(usize),
    /// Only the beginning of something.
    Part,
}

impl CopyDecoder {
    fn new(relation: Arc<Relation>, forms: Vec<Form>) -> CopyDecoder {
        let builder = RowBuilder::new();
        CopyDecoder { relation, forms, state: CopyState::Header, left: Vec::new(), builder }
    }

    fn push(&mut self, chunk: &[u8], rows: &mut Vec<Row>) -> Result<()> {
        if self.left.is_empty() {
            // The usual case: a chunk is a row.
            let used = self.take_all(chunk, rows)?;
            self.left.extend_from_slice(&chunk[used..]);
            return Ok(());
        }
        let mut left = std::mem::take(&mut self.left);
        left.extend_from_slice(chunk);
        let used = self.take_all(&left, rows)?;
        left.drain(..used);
        self.left = left;
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        match self.state == CopyState::End && self.left.is_empty() {
            true => Ok(()),
            false => Err(PgError::protocol("a copy ended in the middle")),
        }
    }

    fn take_all(&mut self, input: &[u8], rows: &mut Vec<Row>) -> Result<usize> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let piece = match self.state {
                CopyState::Header => self.header(rest)?,
                CopyState::Rows => self.row(rest, rows)?,
                CopyState::End if rest.is_empty() => return Ok(used),
                CopyState::End => return Err(PgError::protocol("bytes behind the end of a copy")),
            };
            match piece {
                Piece::Whole(len) => used += len,
                Piece::Part => return Ok(used),
            }
        }
    }

    fn header(&mut self, input: &[u8]) -> Result<Piece> {
        const FIXED: usize = SIGNATURE.len() + 8;
        let Some(fixed) = input.get(..FIXED) else { return Ok(Piece::Part) };
        let number = |at: usize| {
            u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        // Bits 16 to 31 are critical: what they mean must be known.
        if &fixed[..SIGNATURE.len()] != SIGNATURE || number(SIGNATURE.len()) >> 16 != 0 {
            return Err(PgError::protocol("a copy in an unknown format"));
        }
        let len = FIXED + number(SIGNATURE.len() + 4) as usize;
        if input.len() < len {
            return Ok(Piece::Part);
        }
        self.state = CopyState::Rows;
        Ok(Piece::Whole(len))
    }

    fn row(&mut self, input: &[u8], rows: &mut Vec<Row>) -> Result<Piece> {
        let Some((count, mut rest)) = input.split_first_chunk::<2>() else {
            return Ok(Piece::Part);
        };
        match i16::from_be_bytes(*count) {
            -1 => {
                self.state = CopyState::End;
                return Ok(Piece::Whole(2));
            }
            count if usize::try_from(count) == Ok(self.relation.columns.len()) => {}
            count => {
                return Err(PgError::protocol(format!("a copied row with {count} columns")));
            }
        }
        // A row that is not whole yet is walked again when more has arrived; the server sends
        // whole rows, so that is rare.
        for _ in 0..self.relation.columns.len() {
            let Some((len, after)) = rest.split_first_chunk::<4>() else { return Ok(Piece::Part) };
            let len = match i32::from_be_bytes(*len) {
                -1 => 0,
                len => usize::try_from(len)
                    .map_err(|_| PgError::protocol("a copied value of negative length"))?,
            };
            let Some(after) = after.get(len..) else { return Ok(Piece::Part) };
            rest = after;
        }
        let whole = input.len() - rest.len();
        let mut values = &input[2..whole];
        for (column, form) in self.relation.columns.iter().zip(&self.forms) {
            let (len, after) = values.split_first_chunk::<4>().expect("the row was walked");
            values = after;
            match i32::from_be_bytes(*len) {
                -1 => self.builder.push(Cell::Null),
                len => {
                    let (value, after) = values.split_at(len as usize);
                    values = after;
                    let decoded = decode(*form, &column.pg_type, value, &mut self.builder);
                    // The table was locked and compared: its types are those of its rows.
                    let misfit = || DamagedValue::of("composite");
                    let fit = decoded.and_then(|fit| match fit {
                        Fit::Exact => Ok(()),
                        Fit::OtherTime => Err(misfit()),
                    });
                    if let Err(error) = fit {
                        self.builder.finish();
                        return Err(PgError::from(error)
                            .doing(format!("read column \"{}\"", column.name))
                            .doing(format!("copy {}", self.relation.name)));
                    }
                }
            }
        }
        rows.push(self.builder.finish());
        Ok(Piece::Whole(whole))
    }
}

/// The door for the fuzz target: reads bytes as the copy of a table with these columns, in pieces of up to so many
/// bytes each.
///
/// - Returns: the rows up to where they made sense, and whether that was the end of a copy.
#[doc(hidden)]
pub fn fuzz(relation: Arc<Relation>, bytes: &[u8], piece: usize) -> (Vec<Row>, bool) {
    let forms = relation.columns.iter().map(|column| form_of(&column.pg_type)).collect();
    let mut decoder = CopyDecoder::new(relation, forms);
    let mut rows = Vec::new();
    let all = bytes.chunks(piece.max(1)).try_for_each(|chunk| decoder.push(chunk, &mut rows));
    (rows, all.and_then(|()| decoder.finish()).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw_types::{Column, PgType, RelationId, ReplicaIdentity, TableName};
    use proptest::prelude::*;

    fn relation() -> Arc<Relation> {
        let column = |name: &str, pg_type| Column {
            name: name.into(),
            type_oid: 0,
            type_modifier: -1,
            pg_type,
            identity: false,
            primary_key: 0,
        };
        Arc::new(Relation {
            id: RelationId(1),
            name: TableName::new("public", "t"),
            replica_identity: ReplicaIdentity::Full,
            columns: vec![column("a", PgType::Int4), column("b", PgType::TEXT)],
        })
    }

    fn decoder() -> CopyDecoder {
        CopyDecoder::new(relation(), vec![Form::Binary, Form::Text])
    }

    fn copied(rows: &[(i32, Option<&str>)]) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend([0; 4]);
        out.extend([0, 0, 0, 2, 9, 9]);
        for (a, b) in rows {
            out.extend([0, 2, 0, 0, 0, 4]);
            out.extend(a.to_be_bytes());
            match b {
                Some(text) => {
                    out.extend((text.len() as i32).to_be_bytes());
                    out.extend(text.as_bytes());
                }
                None => out.extend((-1i32).to_be_bytes()),
            }
        }
        out.extend([0xff, 0xff]);
        out
    }

    fn decode_chunks(bytes: &[u8], chunk: usize) -> Result<Vec<Row>> {
        let mut decoder = decoder();
        let mut rows = Vec::new();
        for piece in bytes.chunks(chunk) {
            decoder.push(piece, &mut rows)?;
        }
        decoder.finish()?;
        Ok(rows)
    }

    #[test]
    fn rows_are_the_same_however_the_copy_is_cut() {
        let bytes = copied(&[(1, Some("x")), (-2, None), (3, Some(""))]);
        let whole = decode_chunks(&bytes, bytes.len()).unwrap();
        assert_eq!(whole.len(), 3);
        assert_eq!(whole[0].view().get(0), Cell::Value(&1i32.to_be_bytes()));
        assert_eq!(whole[1].view().get(1), Cell::Null);
        assert_eq!(whole[2].view().get(1), Cell::Value(b""));
        for chunk in 1..bytes.len() {
            assert_eq!(decode_chunks(&bytes, chunk).unwrap(), whole, "chunks of {chunk}");
        }
    }

    #[test]
    fn a_copy_that_breaks_off_is_an_error() {
        let bytes = copied(&[(1, Some("x"))]);
        for cut in 0..bytes.len() {
            assert!(decode_chunks(&bytes[..cut], 7).is_err(), "cut at {cut}");
        }
        let mut more = bytes.clone();
        more.push(0);
        assert!(decode_chunks(&more, 1000).is_err());
    }

    proptest! {
        #[test]
        fn damaged_copies_never_panic(at in 0usize..200, byte: u8, chunk in 1usize..50) {
            let mut bytes = copied(&[(1, Some("x")), (2, None), (3, Some("long enough text"))]);
            let place = at % bytes.len();
            bytes[place] = byte;
            let _ = decode_chunks(&bytes, chunk);
        }
    }

    #[test]
    fn the_query_reads_what_the_publication_sends() {
        let catalog = CatalogTable {
            facts: crate::catalog::samples::table(),
            estimated_rows: None,
            bytes: 0,
        };
        let mut table =
            NotedTable { catalog, relation: relation(), row_filter: Some("(a > 1)".into()) };
        assert!(!table.has_ranges(), "equal rows may exist more than once");
        Arc::make_mut(&mut table.relation).columns[0].primary_key = 1;
        assert!(table.has_ranges());
        let query = |table: &NotedTable| table.query(None).0;
        assert_eq!(query(&table), "SELECT \"a\", \"b\" FROM ONLY \"public\".\"t\" WHERE (a > 1)");
        let range = |table: &NotedTable, behind| table.query(Some(Range { behind })).0;
        let place =
            table.place(&decode_chunks(&copied(&[(7, Some("x"))]), 1000).unwrap()[0]).unwrap();
        assert_eq!(
            range(&table, Some(&place)),
            "SELECT \"a\", \"b\" FROM ONLY \"public\".\"t\" WHERE (a > 1) AND (\"t\".\"a\") > ('7') \
             ORDER BY \"t\".\"a\""
        );
        table.catalog.facts.kind = TableKind::Partitioned;
        table.row_filter = None;
        assert_eq!(query(&table), "SELECT \"a\", \"b\" FROM \"public\".\"t\"");
        assert_eq!(
            range(&table, None),
            "SELECT \"a\", \"b\" FROM \"public\".\"t\" ORDER BY \"t\".\"a\""
        );
    }
}
