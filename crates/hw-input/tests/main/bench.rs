//! What the tests of this crate share: a source in a private cluster, its rows as text, and a
//! replica that applies what the stream delivers.

use hw_input::copy_session::{CopyItem, CopySession, SlotChoice};
use hw_input::source::{Covered, Source, SourceOptions};
use hw_input::transactions::{Item, StreamLimits, Transaction, TransactionStream};
use hw_pg::config::ConnectConfig;
use hw_store::segment::SpoolDir;
use hw_testkit::{Cluster, TestDatabase};
use hw_types::TablePattern;
use hw_types::{Change, ChangeKind, EndLsn, Lsn, Relation, Row};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_postgres::Client;

/// A database with an SQL session and a [`Source`] for it.
pub struct Bench {
    pub database: TestDatabase,
    pub sql: Client,
    pub source: Source,
    pub spool: SpoolDir,
    _folder: tempfile::TempDir,
}

impl Bench {
    pub async fn new(cluster: &Cluster) -> Bench {
        let database = cluster.create_database().await;
        let sql = cluster.client(&database.name).await;
        let (config, _) = ConnectConfig::parse(&database.url).unwrap();
        let source = Source::new(config, SourceOptions::default());
        let folder = tempfile::tempdir().unwrap();
        let spool = SpoolDir::open(folder.path(), 1 << 30).unwrap();
        Bench { database, sql, source, spool, _folder: folder }
    }

    pub async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Publishes tables of schema `public`.
    pub async fn cover(&self, names: &[&str]) -> Covered {
        let patterns: Vec<TablePattern> =
            names.iter().map(|name| TablePattern::new("public", name)).collect();
        self.source.cover(&patterns).await.unwrap()
    }

    pub async fn slot_name(&self) -> String {
        self.source.look().await.unwrap().found.slot_name
    }

    /// Opens a session that makes the main slot and copies nothing yet.
    pub async fn main_session(&self, names: &[&str]) -> CopySession {
        let covered = self.cover(names).await;
        assert!(covered.refused.is_empty(), "{:?}", covered.refused);
        let choice = SlotChoice::Main { name: self.slot_name().await };
        CopySession::open(&self.source, covered.tables, choice, 2, |_| {}).await.unwrap()
    }

    pub async fn stream(&self) -> TransactionStream {
        self.stream_with(StreamLimits::default()).await
    }

    pub async fn stream_with(&self, limits: StreamLimits) -> TransactionStream {
        let slot = self.slot_name().await;
        self.source.stream(&slot, self.spool.clone(), limits).await.unwrap()
    }

    /// Covers the tables, makes the main slot and starts to stream.
    pub async fn streaming(&self, names: &[&str]) -> TransactionStream {
        drop(self.main_session(names).await);
        self.stream().await
    }

    /// Where the log ends now.
    pub async fn position(&self) -> EndLsn {
        let row = self.sql.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await;
        EndLsn(row.unwrap().get::<_, &str>(0).parse().unwrap())
    }

    /// The rows of a query as Postgres prints them, without the quotes of composites, sorted.
    pub async fn oracle(&self, table: &str) -> Vec<String> {
        let sql = format!("SELECT replace(t::text, '\"', '') FROM {table} t");
        let rows = self.sql.query(&sql, &[]).await.unwrap();
        let mut rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        rows.sort();
        rows
    }
}

/// The transactions up to a position that the log had reached.
pub async fn until(stream: &mut TransactionStream, end: EndLsn) -> Vec<Transaction> {
    let mut found = Vec::new();
    loop {
        let item = stream.recv().await.unwrap();
        let reached = item.end_lsn() >= end;
        if let Item::Transaction(transaction) = item {
            found.push(transaction);
        }
        if reached {
            return found;
        }
    }
}

/// Compares rows and shows only where they differ.
pub fn same(found: &[String], expected: &[String], what: &str) {
    let only = |some: &[String], others: &[String]| -> Vec<String> {
        some.iter().filter(|row| !others.contains(row)).take(5).cloned().collect()
    };
    if found != expected {
        let (more, fewer) = (only(found, expected), only(expected, found));
        panic!("{what}: not in Postgres {more:?}, missing here {fewer:?}");
    }
}

/// Everything that is committed now.
pub async fn caught_up(bench: &Bench, stream: &mut TransactionStream) -> Vec<Transaction> {
    until(stream, bench.position().await).await
}

/// A row as `(1,x,)`; `?` is an absent value.
pub fn print(relation: &Relation, row: &Row) -> String {
    let view = row.view();
    let cells: Vec<String> = relation
        .columns
        .iter()
        .enumerate()
        .map(|(number, column)| match view.get(number) {
            hw_types::Cell::Null => String::new(),
            hw_types::Cell::Absent => String::from("?"),
            hw_types::Cell::Value(bytes) => {
                hw_types::text::to_text(&column.pg_type, bytes).unwrap()
            }
        })
        .collect();
    format!("({})", cells.join(","))
}

/// A transaction's changes as short texts: `+t(1,x)`, `-t(1,)`, `t(1,)>t(2,?)`, `t(2,y)`.
pub fn told(transaction: &Transaction) -> Vec<String> {
    let mut out = Vec::new();
    for change in &transaction.changes {
        match change.unwrap() {
            Change::Relation(_) => {}
            Change::Message(message) => out.push(format!("message {}", message.prefix)),
            Change::Truncate { relations } => {
                let mut names: Vec<&str> = relations.iter().map(|r| r.name.name.as_str()).collect();
                names.sort();
                out.push(format!("truncate {}", names.join(" ")));
            }
            Change::Row { relation, kind } => {
                let name = &relation.name.name;
                let text = |row: &Row| print(&relation, row);
                out.push(match kind {
                    ChangeKind::Insert { new } => format!("+{name}{}", text(&new)),
                    ChangeKind::Delete { old } => format!("-{name}{}", text(&old)),
                    ChangeKind::Update { old: None, new } => format!("{name}{}", text(&new)),
                    ChangeKind::Update { old: Some(old), new } => {
                        format!("{name}{}>{}", text(&old), text(&new))
                    }
                });
            }
        }
    }
    out
}

/// Applies copies and changes, with the rules of `engine.md` 6.2, by row key.
#[derive(Default)]
pub struct Replica {
    /// Table, key, row. The key of a table with multiplicity ends in a number.
    tables: BTreeMap<String, BTreeMap<String, Row>>,
    relations: BTreeMap<String, Arc<Relation>>,
    pub boundary: Lsn,
}

impl Replica {
    pub async fn copied(session: CopySession) -> Replica {
        let mut replica = Replica { boundary: session.boundary(), ..Replica::default() };
        let relations = session.relations();
        for relation in &relations {
            replica.relations.insert(relation.name.name.clone(), relation.clone());
            replica.tables.insert(relation.name.name.clone(), BTreeMap::new());
        }
        let (sink, mut items) = tokio::sync::mpsc::channel(4);
        let running = tokio::spawn(session.run(sink));
        let mut counts = vec![0u64; relations.len()];
        while let Some(item) = items.recv().await {
            match item {
                CopyItem::Rows { table, rows, .. } => {
                    counts[table] += rows.len() as u64;
                    for row in rows {
                        replica.insert(&relations[table], row);
                    }
                }
                CopyItem::TableDone { table, rows } => assert_eq!(counts[table], rows),
            }
        }
        running.await.unwrap().unwrap();
        replica
    }

    /// A relation of the log with the primary key of the one that was copied.
    fn keyed(&self, relation: &Relation) -> Relation {
        let mut keyed = relation.clone();
        for column in &mut keyed.columns {
            let copied = self.relations.get(&relation.name.name);
            let copied = copied.and_then(|r| r.columns.iter().find(|c| c.name == column.name));
            column.primary_key = copied.map_or(0, |copied| copied.primary_key);
        }
        keyed
    }

    fn key(relation: &Relation, row: &Row) -> String {
        let view = row.view();
        let cells: Vec<_> = relation.key_columns().iter().map(|&c| view.get(c)).collect();
        format!("{cells:?}")
    }

    fn insert(&mut self, relation: &Relation, row: Row) {
        let table = self.tables.entry(relation.name.name.clone()).or_default();
        let key = Replica::key(relation, &row);
        if relation.has_multiplicity() {
            let number = (0..).find(|n| !table.contains_key(&format!("{key}#{n}"))).unwrap();
            table.insert(format!("{key}#{number}"), row);
        } else {
            let before = table.insert(key, row);
            assert!(before.is_none(), "a row of {} was delivered twice", relation.name);
        }
    }

    fn remove(&mut self, relation: &Relation, old: &Row) -> Row {
        let table = self.tables.entry(relation.name.name.clone()).or_default();
        let mut key = Replica::key(relation, old);
        if relation.has_multiplicity() {
            let number = (0..).take_while(|n| table.contains_key(&format!("{key}#{n}"))).last();
            key = format!("{key}#{}", number.unwrap_or(0));
        }
        table.remove(&key).unwrap_or_else(|| panic!("a row of {} is missing", relation.name))
    }

    pub fn apply(&mut self, transaction: &Transaction) {
        if transaction.commit_lsn.0 < self.boundary {
            return;
        }
        for change in &transaction.changes {
            match change.unwrap() {
                Change::Message(_) => {}
                Change::Relation(relation) => {
                    let relation = Arc::new(self.keyed(&relation));
                    self.relations.insert(relation.name.name.clone(), relation);
                }
                Change::Truncate { relations } => {
                    for relation in relations {
                        self.tables.insert(relation.name.name.clone(), BTreeMap::new());
                    }
                }
                Change::Row { relation, kind } => {
                    let relation = self.keyed(&relation);
                    match kind {
                        ChangeKind::Insert { new } => self.insert(&relation, new),
                        ChangeKind::Delete { old } => {
                            self.remove(&relation, &old);
                        }
                        ChangeKind::Update { old, new } => {
                            let before = self.remove(&relation, old.as_ref().unwrap_or(&new));
                            self.insert(&relation, filled(&before, &new));
                        }
                    }
                }
            }
        }
    }

    /// The rows of a table as Postgres prints them, sorted.
    pub fn rows(&self, table: &str) -> Vec<String> {
        let relation = &self.relations[table];
        let mut rows: Vec<String> =
            self.tables[table].values().map(|row| print(relation, row)).collect();
        rows.sort();
        rows
    }
}

/// What the log says of a relation: all but the places in the primary key.
pub fn as_logged(relation: &Relation) -> Relation {
    let mut logged = relation.clone();
    logged.columns.iter_mut().for_each(|column| column.primary_key = 0);
    logged
}

/// The new row with its absent values from the old one.
fn filled(before: &Row, new: &Row) -> Row {
    let (old, new) = (before.view(), new.view());
    let mut builder = hw_types::RowBuilder::new();
    for (number, cell) in new.iter().enumerate() {
        builder.push(match cell {
            hw_types::Cell::Absent => old.get(number),
            cell => cell,
        });
    }
    builder.finish()
}
