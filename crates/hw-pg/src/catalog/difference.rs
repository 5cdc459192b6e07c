//! What has become of a table since it was noted.
//!
//! In: the facts that were noted when a table was copied, and those of now. Out: a
//! [`Difference`]. Invariant: whatever may have changed rows without a trace in the log, or may
//! have kept changes out of the log, is never adopted; in doubt the table is copied again, which
//! compares.

use super::code;
use super::usable::usable;
use crate::error::{Doing as _, Result};
use crate::internal;
use crate::statements::{add_statement_of_others, settings_statement};
use hw_types::facts::{
    Access, Actions, ColumnFacts, Generated, LeafFacts, MadeOf, Membership, Published, RowSecurity,
    SentFacts, TableFacts, TableKind,
};
use hw_types::relation::quote_ident;
use hw_types::{Diagnostic, RelationId, ReplicaIdentity, TableName, Xid};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

/// What follows from a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Nothing is different.
    Same,
    /// The rows are right: the new facts take the place of the noted ones.
    Adopt,
    /// Leaves have other files, or have come, and nothing else: [`settle`] asks more.
    Leaves(Leaves),
    /// Leaves have files that these transactions gave them, and nothing else is different: right if the
    /// log tells that each of them emptied the table, else the table is copied again.
    Rewritten(BTreeSet<Xid>),
    /// The rows may be wrong: the table is copied again and compared.
    CopyAgain(Reason),
    /// The table cannot be followed any more: its rows leave. The finding names it and its mend.
    Gone(Diagnostic),
}

/// Leaves of which the facts alone do not tell whether the rows are right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaves {
    /// They have come: right if they are empty, and what the log told of them is all that happened.
    pub attached: Vec<RelationId>,
    /// Their files are not those that were noted, or that a leaf which has come was made with.
    pub rewritten: Vec<RelationId>,
}

/// Why a table is copied again. Reads on behind "table public.t is copied again: ".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Another table under the same name.
    OtherTable,
    /// Dropped and made again, or another one took its place.
    OtherPublication,
    /// `ALTER PUBLICATION … SET (…)`, also when it was set back.
    PublicationSettings,
    /// It left the publication and came back, or is in it for another reason.
    Membership,
    /// Columns came, went, or have another name or type; or the publication's column list did.
    Columns,
    /// The publication's filter.
    RowFilter,
    /// What a type of a column is made of.
    Types,
    /// A primary key or a replica identity.
    Key,
    /// Something rewrote it.
    Rewritten,
    /// A partition came with rows, went, or went and came.
    Partitions,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::OtherTable => "it is another table than before",
            Reason::OtherPublication => "the publication is another one than before",
            Reason::PublicationSettings => "the publication's settings were changed",
            Reason::Membership => "it left the publication and came back",
            Reason::Columns => "its columns, or those that the publication sends, have changed",
            Reason::RowFilter => "the publication's row filter has changed",
            Reason::Types => "a type of its columns was altered",
            Reason::Key => "its key or replica identity has changed",
            Reason::Rewritten => "it was rewritten",
            Reason::Partitions => "its partitions have changed",
        })
    }
}

/// Compares what was noted of a table with what it is now.
///
/// - Takes: `now`, the table with the noted oid, if it still exists.
pub fn compare(noted: &TableFacts, now: Option<&TableFacts>) -> Difference {
    let Some(now) = now else { return Difference::Gone(dropped(noted)) };
    if noted == now {
        return Difference::Same;
    }
    if noted.id != now.id {
        return Difference::CopyAgain(Reason::OtherTable);
    }
    if noted.name != now.name {
        return Difference::Gone(renamed(noted, now));
    }
    let sent = match followable(now) {
        Ok(sent) => sent,
        Err(finding) => return Difference::Gone(finding),
    };
    // What was never sent has no rows of ours.
    let Some(noted_sent) = noted.published.sent() else {
        return Difference::CopyAgain(Reason::Membership);
    };
    if let Some(reason) = publication(noted_sent, sent, now.kind)
        .or_else(|| columns(noted, now))
        .or_else(|| types(noted, now))
        .or_else(|| keys(noted, now))
    {
        return Difference::CopyAgain(reason);
    }
    leaves(noted, now)
}

/// Whether a table's changes arrive, whole and under its own name, and it can be read: how it is
/// sent, else why it cannot be followed.
pub fn followable(table: &TableFacts) -> Result<&SentFacts, Diagnostic> {
    usable(table)?;
    let place = |finding: Diagnostic| finding.at(format!("table {}", table.name));
    let sent = match &table.published {
        Published::Sent(sent) => sent,
        Published::Under(root) => return Err(place(under_root(&table.name, root))),
        Published::No => return Err(place(not_published(table))),
    };
    if sent.actions != Actions::ALL {
        let kinds: Vec<String> =
            sent.actions.left_out().iter().map(|kind| format!("{kind}s")).collect();
        let what = format!(
            "publication \"{}\" does not publish {}",
            table.publication,
            kinds.join(" and ")
        );
        return Err(place(
            Diagnostic::error(code::PUBLISHED_OPERATIONS, what)
                .mend(settings_statement(&table.publication, false)),
        ));
    }
    match unreadable(table, &sent.columns).into_iter().next() {
        Some(finding) => Err(finding),
        None => Ok(sent),
    }
}

/// What keeps our role from reading these columns of every row.
pub(crate) fn unreadable(table: &TableFacts, columns: &[i16]) -> Vec<Diagnostic> {
    let name = &table.name;
    let role = quote_ident(&table.role);
    let usage = format!("GRANT USAGE ON SCHEMA {} TO {role}; ", quote_ident(&name.schema));
    let (what, before) = match &table.access {
        Access::All => (None, String::new()),
        Access::NoSchema => (Some(name.to_string()), usage),
        Access::None => (Some(name.to_string()), String::new()),
        Access::Columns(numbers) => {
            let hidden = columns.iter().find(|number| !numbers.contains(number));
            let hidden = hidden.and_then(|number| table.column_numbered(*number));
            (hidden.map(|c| format!("column \"{}\" of {name}", c.name)), String::new())
        }
    };
    let mut findings = Vec::new();
    findings.extend(what.map(|what| {
        let what = format!("role \"{}\" may not read {what}", table.role);
        let mend = format!("{before}GRANT SELECT ON {} TO {role};", name.quoted());
        Diagnostic::error(code::NOT_READABLE, what).mend(mend)
    }));
    if table.row_security == RowSecurity::Hides {
        let what =
            format!("row level security would hide rows of {name} from role \"{}\"", table.role);
        let mend = see_all(name, &table.role);
        findings.push(Diagnostic::error(code::COPY_FILTERED, what).mend(mend));
    }
    findings.into_iter().map(|finding| finding.at(format!("table {name}"))).collect()
}

/// The statement with which a role sees every row of a table, however many policies it has.
pub(crate) fn see_all(name: &TableName, role: &str) -> String {
    let (table, role) = (name.quoted(), quote_ident(role));
    format!(
        "CREATE POLICY headwater_reads ON {table} FOR SELECT TO {role} USING (true); \
         -- or, where policies are restrictive, ALTER ROLE {role} BYPASSRLS;"
    )
}

fn dropped(noted: &TableFacts) -> Diagnostic {
    Diagnostic::error(code::NO_TABLE, format!("there is no table {} any more", noted.name))
        .at(format!("table {}", noted.name))
        .mend("make it again, and it is synced at once; or correct the sync configuration")
}

fn renamed(noted: &TableFacts, now: &TableFacts) -> Diagnostic {
    Diagnostic::error(code::RENAMED, format!("table {} is now {}", noted.name, now.name))
        .at(format!("table {}", noted.name))
        .mend("name it so in the sync configuration, or give it back its name")
}

/// The finding for a table that the publication lacks.
fn not_published(table: &TableFacts) -> Diagnostic {
    let what = format!("publication \"{}\" does not send {}", table.publication, table.name);
    Diagnostic::error(code::NOT_PUBLISHED, what)
        .mend(add_statement_of_others(&table.publication, &table.name))
}

/// The finding for a partition whose changes arrive under a table above it.
pub(crate) fn under_root(name: &TableName, root: &TableName) -> Diagnostic {
    let what = format!("changes of partition {name} arrive under {root}");
    Diagnostic::error(code::PARTITION_ROOT, what).mend(format!("name {root} in the definition"))
}

fn publication(noted: &SentFacts, now: &SentFacts, kind: TableKind) -> Option<Reason> {
    if noted.publication != now.publication {
        return Some(Reason::OtherPublication);
    }
    let via_root = kind == TableKind::Partitioned && noted.via_root != now.via_root;
    if noted.version != now.version || noted.actions != now.actions || via_root {
        return Some(Reason::PublicationSettings);
    }
    if noted.membership != now.membership {
        return Some(Reason::Membership);
    }
    (noted.row_filter != now.row_filter).then_some(Reason::RowFilter)
}

/// What is sent. A modifier may change without a rewrite, when it only gets wider; then the values
/// are what they were.
fn columns(noted: &TableFacts, now: &TableFacts) -> Option<Reason> {
    let of = |table: &TableFacts| -> Vec<(i16, String, u32)> {
        table.sent_columns().map(|c| (c.number, c.name.clone(), c.type_oid)).collect()
    };
    (of(noted) != of(now)).then_some(Reason::Columns)
}

/// Enums may get labels; nothing else that a type is made of may change under stored values.
fn types(noted: &TableFacts, now: &TableFacts) -> Option<Reason> {
    let sent =
        |table| types_of(table, TableFacts::sent_columns(table).map(|column| column.type_oid));
    (!keeps_values(&sent(noted), &sent(now))).then_some(Reason::Types)
}

/// Whether values of these types are what they were.
fn keeps_values(before: &BTreeMap<u32, &MadeOf>, after: &BTreeMap<u32, &MadeOf>) -> bool {
    before.iter().all(|(oid, was)| match (was, after.get(oid)) {
        (MadeOf::Enum(was), Some(MadeOf::Enum(is))) => was.iter().all(|label| is.contains(label)),
        (was, is) => Some(was) == is,
    })
}

/// These types, all the way down.
fn types_of(table: &TableFacts, types: impl Iterator<Item = u32>) -> BTreeMap<u32, &MadeOf> {
    let mut open: Vec<u32> = types.collect();
    let mut found = BTreeMap::new();
    while let Some(oid) = open.pop() {
        let Some(facts) = table.types.iter().find(|facts| facts.oid == oid) else { continue };
        if found.insert(oid, &facts.made).is_none() {
            open.extend(facts.made.parts());
        }
    }
    found
}

fn keys(noted: &TableFacts, now: &TableFacts) -> Option<Reason> {
    let key = |table: &TableFacts| {
        (table.replica_identity, table.primary_key.clone(), table.identity_index.clone())
    };
    (key(noted) != key(now)).then_some(Reason::Key)
}

/// Whether the log tells of each row of then what became of it. Where it does not, nobody can say what
/// such a row still grants until the table has been copied again.
///
/// What was written while a table was not sent, or not whole, is not told; nor are rows of partitions that
/// went, or that were emptied by themselves; nor keys that were written anew. What an altered column was
/// given is not told either, and is not meant here.
pub fn is_traced(noted: &TableFacts, now: &TableFacts) -> bool {
    let leaf = |id| now.leaves.iter().find(|is| is.id == id);
    let has_file = |was: &LeafFacts| leaf(was.id).is_some_and(|is| is.filenode == was.filenode);
    keeps_rows(noted, now) && (is_told(noted, now) || noted.leaves.iter().all(has_file))
}

/// [`is_traced`], but for partitions that were emptied, which the log may have told.
pub fn keeps_rows(noted: &TableFacts, now: &TableFacts) -> bool {
    let is_sent_as_then = match (noted.published.sent(), now.published.sent()) {
        (Some(was), Some(is)) => publication(was, is, now.kind).is_none(),
        _ => false,
    };
    let stays = |was: &LeafFacts| {
        let is = now.leaves.iter().find(|is| is.id == was.id);
        is.is_some_and(|is| is.attachment == was.attachment)
    };
    is_sent_as_then && noted.leaves.iter().all(stays) && same_keys(noted, now)
}

/// Whether a row that has the key of a row of then is the same one: false where keys may have been written
/// anew without a trace in the log. Key columns of another name or type are described in the log.
fn same_keys(noted: &TableFacts, now: &TableFacts) -> bool {
    let was = key_columns(noted);
    let as_described = |was: &&ColumnFacts| {
        now.columns.iter().find(|is| is.name == was.name && is.type_oid == was.type_oid)
    };
    let Some(is) = was.iter().map(as_described).collect::<Option<Vec<_>>>() else { return true };
    let leaf = |id| now.leaves.iter().find(|leaf| leaf.id == id);
    let goes = noted.leaves.iter().any(|was| leaf(was.id).is_none());
    // Where there is no partition, the table itself stands for them.
    let has_come = |id| id != now.id && noted.leaves.iter().all(|was| was.id != id);
    let comes = now.leaves.iter().any(|is| has_come(is.id));
    let stays = |was: &LeafFacts| leaf(was.id).is_none_or(|is| is.attachment == was.attachment);
    if goes && comes || !noted.leaves.iter().all(stays) {
        return false;
    }
    let is_file = |was: &LeafFacts| leaf(was.id).is_none_or(|is| is.filenode == was.filenode);
    let are_files = noted.leaves.iter().all(is_file);
    // What writes a column anew changes its row in the catalog, and the table's files.
    let is_column = |(was, is): (&&ColumnFacts, &&ColumnFacts)| {
        was.number == is.number && (are_files || was.version == is.version)
    };
    let types = |table| types_of(table, was.iter().map(|column| column.type_oid));
    was.iter().zip(&is).all(is_column) && keeps_values(&types(noted), &types(now))
}

/// The columns by which the log names a row that has a key.
fn key_columns(table: &TableFacts) -> Vec<&ColumnFacts> {
    let numbers = match table.replica_identity {
        ReplicaIdentity::Default | ReplicaIdentity::Full => &table.primary_key[..],
        ReplicaIdentity::Index => &table.identity_index[..],
        ReplicaIdentity::Nothing => &[],
    };
    numbers.iter().filter_map(|number| table.column_numbered(*number)).collect()
}

/// Where the rows are.
fn leaves(noted: &TableFacts, now: &TableFacts) -> Difference {
    let mut leaves = Leaves::default();
    for was in &noted.leaves {
        match now.leaves.iter().find(|is| is.id == was.id) {
            Some(is) if is.attachment == was.attachment => {
                leaves.rewritten.extend((is.filenode != was.filenode).then_some(is.id));
            }
            _ => return Difference::CopyAgain(Reason::Partitions),
        }
    }
    let before: BTreeSet<RelationId> = noted.leaves.iter().map(|leaf| leaf.id).collect();
    for new in now.leaves.iter().filter(|leaf| !before.contains(&leaf.id)) {
        leaves.attached.push(new.id);
        // A file is made under its table's oid. Rows that the log told may have been in another one.
        leaves.rewritten.extend((new.filenode != new.id.0).then_some(new.id));
    }
    if !leaves.rewritten.is_empty() && !same_columns(noted, now) {
        return Difference::CopyAgain(Reason::Rewritten);
    }
    if is_told(noted, now) {
        leaves.rewritten.clear();
    }
    match leaves == Leaves::default() {
        true => Difference::Adopt,
        false => Difference::Leaves(leaves),
    }
}

/// What rewrites rows changes a column's row in the catalog.
fn same_columns(noted: &TableFacts, now: &TableFacts) -> bool {
    let versions = |table: &TableFacts| -> Vec<(i16, u32)> {
        table.columns.iter().map(|column| (column.number, column.version)).collect()
    };
    versions(noted) == versions(now)
}

/// Whether all that a table's file may have become with the same columns is in the log, or nothing that
/// matters: TRUNCATE is told, and VACUUM FULL, CLUSTER, SET TABLESPACE and their like change no row.
///
/// TRUNCATE of a partition that is sent as its root is not told, and a table that is not listed by itself
/// can be made unlogged, written to, and be made logged again.
fn is_told(noted: &TableFacts, now: &TableFacts) -> bool {
    let listed =
        now.published.sent().is_some_and(|sent| matches!(sent.membership, Membership::Listed(_)));
    let is_alone = now.ancestors.is_empty() && !may_have_been_below(noted, now);
    now.kind == TableKind::Ordinary && is_alone && listed
}

/// Whether the table may have been attached to a partitioned one and detached: both write the rows of all
/// its columns in the catalog anew, and hardly anything else does.
fn may_have_been_below(noted: &TableFacts, now: &TableFacts) -> bool {
    let via_root = now.published.sent().is_some_and(|sent| sent.via_root);
    // The version of a generated column is that of its expression.
    let written = noted.columns.iter().filter(|column| column.generated == Generated::No);
    let mut still = written.filter_map(|was| Some((was, now.column_numbered(was.number)?)));
    via_root && still.all(|(was, is)| was.version != is.version)
}

/// How long the size of a partition may be waited for.
const PATIENCE: Duration = Duration::from_millis(200);

/// Settles [`Difference::Leaves`], as far as the catalog can. Everything else stays as it is.
///
/// - Partitions that are empty are right; others came with rows that the log did not carry, as far as
///   can be told.
/// - Files that a TRUNCATE made are right, if the log told it. TRUNCATE of a partition that is sent as
///   its root is not told; one of the root is, and empties all its partitions. The version of a leaf's
///   row in the catalog is the transaction that changed it last: where that is another than the one that
///   made the file, the table is copied again for nothing, and never the other way round. So it is behind
///   a savepoint, where the version is the sub-transaction: the log tells of the whole one alone, nothing
///   that can be asked of the source tells which of both belong together once they are over, and a
///   TRUNCATE of a partition that runs beside that of the root has a number of the same span. Two things
///   leave no trace: a file that is emptied in the transaction that made it, and a transaction that has
///   the number of one that was 2^32 before it, of which nobody remembers the log.
/// - A file that an ALTER TABLE made is not right, whatever the log told of its transaction: the table may
///   have been unlogged meanwhile. [`File::is_emptied`] tells both apart.
///
/// - Takes: a connection outside of a transaction. A partition that is being rewritten is not
///   waited for; it counts as one with rows. `told`: the transactions in which the log has emptied
///   the table, the latest ones.
/// - Errors: those of a connection.
pub async fn settle(client: &Client, difference: Difference, told: &[Xid]) -> Result<Difference> {
    let Difference::Leaves(Leaves { attached, rewritten }) = difference else {
        return Ok(difference);
    };
    if !attached.is_empty() && !matches!(are_empty(client, &attached).await, Ok(true)) {
        return Ok(Difference::CopyAgain(Reason::Partitions));
    }
    let files = files(client, &rewritten).await.doing("look who emptied partitions")?;
    if !files.iter().all(File::is_emptied) {
        return Ok(Difference::CopyAgain(Reason::Rewritten));
    }
    let by = files.iter().map(|file| file.by).filter(|xid| !told.contains(xid));
    Ok(match by.collect::<BTreeSet<Xid>>() {
        untold if untold.is_empty() => Difference::Adopt,
        untold => Difference::Rewritten(untold),
    })
}

async fn are_empty(client: &Client, leaves: &[RelationId]) -> Result<bool, tokio_postgres::Error> {
    const QUERY: &str = "
        SELECT coalesce(bool_and(pg_catalog.pg_relation_size(oid) = 0), false)
        FROM pg_catalog.unnest($1) AS l(oid)";
    let oids: Vec<u32> = leaves.iter().map(|leaf| leaf.0).collect();
    let begin = format!("BEGIN READ ONLY; SET LOCAL lock_timeout = {}", PATIENCE.as_millis());
    client.batch_execute(&begin).await?;
    let rows = client.query_typed(QUERY, &[(&oids, Type::OID_ARRAY)]).await;
    client.batch_execute("COMMIT").await?;
    match rows?.first() {
        Some(row) => row.try_get(0),
        None => Ok(false),
    }
}

/// What the catalog says of how a leaf came to its file.
struct File {
    /// The transaction that changed the leaf's row in `pg_class` last.
    by: Xid,
    /// Whether that was the first command of its transaction.
    is_first: bool,
    /// The transaction that made its TOAST table, if it has one.
    toast: Option<Xid>,
    /// The first transaction that has not begun.
    next: Xid,
    /// How far the file of each index is from the leaf's, as numbers are given.
    indexes: Vec<u32>,
}

impl File {
    /// Whether a TRUNCATE made it or something that leaves every row as it is, and no ALTER TABLE that
    /// rewrites. In doubt it does not.
    ///
    /// - ALTER TABLE makes another TOAST table, with columns of its own; everything else gives the one that
    ///   there is another file. It is made in the transaction that changed the leaf's row last, or in a
    ///   sub-transaction of it, whose number is greater.
    /// - Without a TOAST table: ALTER TABLE makes a whole table, whose types take the next numbers, before
    ///   it makes the files of the indexes; TRUNCATE makes these at once. Where others take numbers in
    ///   between, it cannot be told.
    /// - What is the first command of its transaction has nothing before it that the log could have told.
    fn is_emptied(&self) -> bool {
        /// The types of a table: its rows and their array.
        const TYPES: u32 = 2;
        let since = |xid: Xid| xid.0.wrapping_sub(self.by.0);
        match self.toast {
            Some(made) => since(made) >= since(self.next),
            None => self.is_first || self.indexes.iter().any(|far| (1..=TYPES).contains(far)),
        }
    }
}

/// How these leaves came to their files. One that is gone by now is left out: the next look misses it.
async fn files(client: &Client, leaves: &[RelationId]) -> Result<Vec<File>, tokio_postgres::Error> {
    // A change that was rolled back leaves the place of its command in the row, and its number.
    const QUERY: &str = "
        SELECT c.xmin, c.cmin::text = '0' AND c.xmax::text = '0', toast.xmin,
               (pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::numeric
                 % 4294967296)::int8,
               c.relfilenode,
               ARRAY(SELECT index.relfilenode FROM pg_catalog.pg_index i
                     JOIN pg_catalog.pg_class index ON index.oid = i.indexrelid
                     WHERE i.indrelid = c.oid)
        FROM pg_catalog.pg_class c
        LEFT JOIN pg_catalog.pg_attribute toast
          ON c.reltoastrelid <> 0 AND toast.attrelid = c.reltoastrelid AND toast.attnum = 1
        WHERE c.oid = ANY ($1)";
    if leaves.is_empty() {
        return Ok(Vec::new());
    }
    let oids: Vec<u32> = leaves.iter().map(|leaf| leaf.0).collect();
    let rows = client.query_typed(QUERY, &[(&oids, Type::OID_ARRAY)]).await?;
    let file = |row: &Row| -> Result<File, tokio_postgres::Error> {
        let xid = |xid: internal::Xid| Xid(xid.0);
        let own: u32 = row.try_get(4)?;
        let indexes: Vec<u32> = row.try_get(5)?;
        Ok(File {
            by: xid(row.try_get(0)?),
            is_first: row.try_get(1)?,
            toast: row.try_get::<_, Option<internal::Xid>>(2)?.map(xid),
            // Of 32 bits, as the versions are.
            next: Xid(row.try_get::<_, i64>(3)? as u32),
            indexes: indexes.into_iter().map(|index| index.wrapping_sub(own)).collect(),
        })
    };
    rows.iter().map(file).collect()
}
