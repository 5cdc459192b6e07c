//! What a table's rows depend on, as the source's catalog has it at one moment.
//!
//! Remembered with a table when it is copied, and compared with what the catalog says later: a
//! difference is either one that leaves the rows right, or the table is copied again, or it is
//! gone (`engine.md` 7). Plain data, with a byte form for the store.
//!
//! *Versions* are transaction ids of catalog rows (`xmin`): they differ when something was changed
//! and changed back between two looks, which the contents cannot tell.

mod codec;

pub use codec::DamagedFacts;

use crate::relation::{RelationId, ReplicaIdentity, TableName};

/// What a relation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableKind {
    /// A table with rows of its own.
    Ordinary,
    /// A table whose rows are in its partitions.
    Partitioned,
    /// A view.
    View,
    /// A materialised view.
    MaterializedView,
    /// A table of a foreign server.
    Foreign,
    /// Anything else: an index, a sequence, a composite type.
    Other,
}

/// Whether a relation's changes are in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Persistence {
    /// They are.
    Permanent,
    /// An unlogged table's are not.
    Unlogged,
    /// A temporary table's are not.
    Temporary,
}

/// How a column gets its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generated {
    /// It is written.
    No,
    /// Computed when the row is written.
    Stored,
    /// Computed when the row is read (major 18 and newer).
    Virtual,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ColumnFacts {
    /// Its number, `attnum`. A column that is dropped and added again has another.
    pub number: i16,
    /// Name, unquoted.
    pub name: String,
    /// Oid of its type.
    pub type_oid: u32,
    /// Type modifier, -1 without.
    pub type_modifier: i32,
    /// How it gets its value.
    pub generated: Generated,
    /// Whether NULL is refused.
    pub not_null: bool,
    /// False for a nondeterministic collation.
    pub deterministic: bool,
    /// What rows from before the column show, as the catalog prints it (`attmissingval`): a
    /// constant default that was added without a rewrite.
    pub missing: Option<String>,
    /// Version of the column's row in the catalog; of its expression's, if it is generated.
    pub version: u32,
}

/// A type that can change under a column: everything but the built-in scalars.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TypeFacts {
    /// Its oid.
    pub oid: u32,
    /// What it is made of.
    pub made: MadeOf,
}

/// What a type is made of. Parts are named by oid and described by facts of their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MadeOf {
    /// Labels.
    Enum(Vec<EnumLabel>),
    /// Attributes.
    Composite(Vec<TypeAttribute>),
    /// A base type and its modifier.
    Domain(u32, i32),
    /// A subtype.
    Range(u32),
    /// Ranges over a subtype.
    Multirange(u32),
    /// Elements, and the character (as a number) between them in text form.
    Array(u32, u32),
    /// Text under another name (citext).
    Text,
    /// Nothing that can be changed, and nothing that we read but as text.
    Base,
}

impl MadeOf {
    /// The types that it is made of.
    pub fn parts(&self) -> Vec<u32> {
        match self {
            MadeOf::Domain(part, _)
            | MadeOf::Range(part)
            | MadeOf::Multirange(part)
            | MadeOf::Array(part, _) => vec![*part],
            MadeOf::Composite(fields) => fields.iter().map(|field| field.type_oid).collect(),
            MadeOf::Enum(_) | MadeOf::Text | MadeOf::Base => Vec::new(),
        }
    }
}

/// A label of an enum.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnumLabel {
    /// Its oid, which stays when it is renamed.
    pub oid: u32,
    /// The label.
    pub label: String,
    /// Version of its row in the catalog.
    pub version: u32,
}

/// An attribute of a composite type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TypeAttribute {
    /// Its number.
    pub number: i16,
    /// Name.
    pub name: String,
    /// Oid of its type.
    pub type_oid: u32,
    /// Type modifier, -1 without.
    pub type_modifier: i32,
    /// Version of its row in the catalog.
    pub version: u32,
}

/// A place where rows are: the table itself, or one leaf of its partition tree.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeafFacts {
    /// The leaf's oid.
    pub id: RelationId,
    /// Its name.
    pub name: TableName,
    /// What it is.
    pub kind: TableKind,
    /// Whether its changes are in the log.
    pub persistence: Persistence,
    /// Its file; another one after TRUNCATE and everything that rewrites a table.
    pub filenode: u32,
    /// Fingerprint of the partitioned tables and of the versions of the entries through which it
    /// belongs to the table: another one after DETACH and ATTACH. 0 for the table itself.
    pub attachment: u64,
    /// What the log carries of old rows.
    pub replica_identity: ReplicaIdentity,
    /// Attribute numbers of its primary key (its own numbers).
    pub primary_key: Vec<i16>,
    /// Attribute numbers of the index that REPLICA IDENTITY USING INDEX names.
    pub identity_index: Vec<i16>,
}

/// What our role may read of a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// All columns.
    All,
    /// These columns, by attribute number.
    Columns(Vec<i16>),
    /// Nothing of it.
    None,
    /// Nothing of its whole schema.
    NoSchema,
}

/// What row level security does to a copy that our role makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowSecurity {
    /// It is off, or does not apply to our role.
    Off,
    /// It applies, and a policy shows every row to our role (`USING (true)`).
    ShowsAll,
    /// It would hide rows.
    Hides,
}

/// The kinds of change that a publication sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Actions {
    /// INSERT.
    pub insert: bool,
    /// UPDATE.
    pub update: bool,
    /// DELETE.
    pub delete: bool,
    /// TRUNCATE.
    pub truncate: bool,
}

impl Actions {
    /// All four.
    pub const ALL: Actions = Actions { insert: true, update: true, delete: true, truncate: true };

    /// The kinds that are left out, as `publish` spells them.
    pub fn left_out(self) -> Vec<&'static str> {
        let kinds = [
            ("insert", self.insert),
            ("update", self.update),
            ("delete", self.delete),
            ("truncate", self.truncate),
        ];
        kinds.iter().filter(|(_, sent)| !sent).map(|(kind, _)| *kind).collect()
    }
}

/// A publication, whatever its tables.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublicationFacts {
    /// Its oid: another one after DROP and CREATE.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Version of its row in the catalog: another one when its settings were changed, also when
    /// they were changed back. Adding and removing tables leaves it.
    pub version: u32,
    /// Whether it belongs to our role.
    pub owned: bool,
    /// Whether it is FOR ALL TABLES.
    pub all_tables: bool,
    /// Whether it sends stored generated columns of tables without a column list.
    pub generated: bool,
    /// Whether changes of partitions are sent as those of the root.
    pub via_root: bool,
    /// The kinds of change that it sends.
    pub actions: Actions,
}

/// Through what a table is in a publication, with all that is another when it left and came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Membership {
    /// It is listed: the oid of that `pg_publication_rel`, another one after DROP TABLE and ADD
    /// TABLE.
    Listed(u32),
    /// Its schema is listed: the oid of that `pg_publication_namespace`, and the version of the
    /// entry that the table is in this schema, another one after SET SCHEMA.
    Schema(u32, u32),
    /// The publication is FOR ALL TABLES.
    AllTables,
    /// A partitioned table above it is listed: as there, and its [attachment](LeafFacts::attachment)
    /// to that one.
    AncestorListed(u32, u64),
    /// The schema of a partitioned table above it is listed: the same of that one.
    AncestorSchema(u32, u32, u64),
}

/// How a publication sends a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SentFacts {
    /// Oid of the publication.
    pub publication: u32,
    /// Version of the publication's settings.
    pub version: u32,
    /// Through what the table is in it.
    pub membership: Membership,
    /// Whether changes of partitions are sent as those of the root.
    pub via_root: bool,
    /// The kinds of change that are sent.
    pub actions: Actions,
    /// The columns that are sent, by attribute number, in table order.
    pub columns: Vec<i16>,
    /// Fingerprint of the row filter.
    pub row_filter: Option<u64>,
}

/// Whether and how a publication sends a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Published {
    /// It does not.
    No,
    /// Under the name of this partitioned table above it.
    Under(TableName),
    /// Under its own name.
    Sent(SentFacts),
}

impl Published {
    /// How it is sent under its own name.
    pub fn sent(&self) -> Option<&SentFacts> {
        match self {
            Published::Sent(sent) => Some(sent),
            Published::No | Published::Under(_) => None,
        }
    }
}

/// A table, and everything that its rows depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableFacts {
    /// Oid.
    pub id: RelationId,
    /// Schema and name.
    pub name: TableName,
    /// What it is.
    pub kind: TableKind,
    /// Whether its changes are in the log.
    pub persistence: Persistence,
    /// The columns in table order, generated ones included.
    pub columns: Vec<ColumnFacts>,
    /// The types that the columns are made of, all the way down, by oid.
    pub types: Vec<TypeFacts>,
    /// What the log carries of old rows.
    pub replica_identity: ReplicaIdentity,
    /// Attribute numbers of the primary key in its order; empty without, or if it is deferrable.
    pub primary_key: Vec<i16>,
    /// Attribute numbers of the index that REPLICA IDENTITY USING INDEX names.
    pub identity_index: Vec<i16>,
    /// Where the rows are, by oid.
    pub leaves: Vec<LeafFacts>,
    /// The partitioned tables above this one, the root last.
    pub ancestors: Vec<TableName>,
    /// Our role, which access, row security and ownership are about.
    pub role: String,
    /// What our role may read of it.
    pub access: Access,
    /// What row level security does to a copy.
    pub row_security: RowSecurity,
    /// Whether it belongs to our role, which may then publish it.
    pub owned: bool,
    /// Name of the publication.
    pub publication: String,
    /// Whether and how the publication sends it.
    pub published: Published,
}

impl TableFacts {
    /// The file of each leaf: what differs after TRUNCATE, a rewrite, ATTACH and DETACH.
    pub fn storage(&self) -> Vec<(RelationId, u32)> {
        self.leaves.iter().map(|leaf| (leaf.id, leaf.filenode)).collect()
    }

    /// A column by its attribute number.
    pub fn column_numbered(&self, number: i16) -> Option<&ColumnFacts> {
        self.columns.iter().find(|column| column.number == number)
    }

    /// The columns that the publication sends, in table order; none when it sends nothing under
    /// this name.
    pub fn sent_columns(&self) -> impl Iterator<Item = &ColumnFacts> {
        let numbers = self.published.sent().map_or(&[][..], |sent| &sent.columns);
        self.columns.iter().filter(|column| numbers.contains(&column.number))
    }

    /// The byte form, for the store.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads the byte form.
    ///
    /// - Errors: bytes that [`TableFacts::encode`] of this or an older version did not make.
    pub fn decode(bytes: &[u8]) -> Result<TableFacts, DamagedFacts> {
        codec::decode(bytes)
    }
}
