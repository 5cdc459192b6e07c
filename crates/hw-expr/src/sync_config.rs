//! Sync configurations: YAML with SQL in it, compiled to pure functions.
//!
//! 1. [`BucketSource::bind`] and [`BoundSource::evaluate`]: a row to the buckets that it is in.
//! 2. [`LookupDef::bind`] and [`BoundLookup::evaluate`]: a row to entries of parameter indexes.
//! 3. [`SyncConfig::resolve`]: a request to its buckets, reading those indexes;
//!    [`SyncConfig::difference`]: which of them come and go with entries of indexes.
//!
//! Invariant: only equality connects rows with requests, so each of the three can be computed
//! without the others. Reading order: `load`, `classic`, `streams`, `plan`, `data`, `lookup`,
//! `querier`, `resolve`, `difference`. Source: `sync-rules.md`.

mod classic;
mod data;
mod difference;
mod infer;
mod load;
mod lookup;
mod names;
mod options;
mod outputs;
mod plan;
mod querier;
mod request;
mod resolve;
mod streams;
mod table;

pub use crate::report::{checked_against_source, excerpt, render};
pub use data::{BoundSource, BucketRow};
pub use difference::{Difference, Moved};
pub use infer::ClientTable;
pub use load::Loaded;
pub use lookup::{BoundLookup, LookupDef, LookupRow};
pub use options::SyncOptions;
pub use outputs::{OutputColumn, OutputOrigin, OutputPart, OutputStar, OutputTable};
pub use request::{Request, Subscription};
pub use resolve::{
    Cost, Entries, ErrorSubject, Limits, LookupError, LookupReader, Reason, Resolution,
    ResolveError, ResolvedBucket, ResolvedStream, StreamError,
};
pub use table::{CatalogColumn, CatalogKind, CatalogTable, TableRead, Withheld};

use data::DataQuery;
use hw_types::{Relation, TableName, TablePattern};
use querier::Querier;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// The code of a finding that a part of a query has no effect.
pub const PASSED_OVER: hw_types::Code = hw_types::Code(crate::report::code::IGNORED);

/// Version of everything that turns a row into bytes. A change of the output of any query raises
/// it, which makes all fingerprints new and builds all buckets again.
pub const EVALUATOR_VERSION: u32 = 1;

/// A compiled sync configuration.
#[derive(Clone, Debug)]
pub struct SyncConfig {
    pub(crate) options: SyncOptions,
    pub(crate) definitions: Vec<Definition>,
    pub(crate) sources: Vec<BucketSource>,
    pub(crate) lookups: Vec<LookupDef>,
    pub(crate) queriers: Vec<Querier>,
}

/// What the user wrote under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Bucket definition or stream.
    pub kind: DefinitionKind,
    /// 0 is first, 3 last.
    pub priority: u8,
    /// Whether every client is subscribed; always so for bucket definitions.
    pub auto_subscribe: bool,
    /// What it reads, for data and for lookups.
    pub reads: Vec<TableRead>,
}

impl Definition {
    /// Whether it reads this table.
    pub fn reads_table(&self, table: &TableName) -> bool {
        self.reads.iter().any(|read| read.table.matches(table))
    }

    /// The columns that it needs of a table (see [`TableRead::columns`]).
    pub fn columns_of(&self, table: &TableName) -> BTreeSet<String> {
        let reads = self.reads.iter().filter(|read| read.table.matches(table));
        reads.flat_map(|read| read.columns.iter().cloned()).collect()
    }

    /// The columns that a table must have (see [`TableRead::required`]).
    pub fn required_of(&self, table: &TableName) -> BTreeSet<String> {
        let reads = self.reads.iter().filter(|read| read.table.matches(table));
        reads.flat_map(|read| read.required().cloned()).collect()
    }
}

/// The two kinds of definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefinitionKind {
    /// Under `bucket_definitions`.
    Classic,
    /// Under `streams`.
    Stream,
}

/// A family of buckets that differ in their parameters only.
#[derive(Clone, Debug)]
pub struct BucketSource {
    /// What bucket names start with: `by_user`, `tasks|0`.
    pub name: String,
    /// Hash of everything that decides which rows are in which of its buckets, and with which
    /// bytes: evaluator version, options, name, data queries, parameters. Not the queries that
    /// give users their parameters, and not the priority.
    pub fingerprint: [u8; 32],
    /// The definition that named it, by index.
    pub definition: usize,
    pub(crate) queries: Vec<DataQuery>,
    pub(crate) options: SyncOptions,
}

impl BucketSource {
    /// Binds the source to a table; `None` when it does not read it. Again for every change of
    /// the table's columns.
    pub fn bind(&self, relation: &Relation) -> Option<BoundSource> {
        let queries: Vec<_> = self
            .queries
            .iter()
            .filter(|query| query.table.matches(&relation.name))
            .map(|query| query.bind(relation, self.options.values()))
            .collect();
        (!queries.is_empty()).then_some(BoundSource { queries })
    }

    /// What it reads, for each of its queries.
    pub fn reads(&self) -> Vec<TableRead> {
        self.queries.iter().map(DataQuery::reads).collect()
    }

    fn write_canonical(&self, out: &mut String) {
        let mut queries: Vec<String> = self
            .queries
            .iter()
            .map(|query| {
                let mut text = String::new();
                query.write_canonical(&mut text);
                text
            })
            .collect();
        // The order of queries decides nothing; a query that is there twice neither.
        queries.sort();
        queries.dedup();
        queries.iter().for_each(|query| out.push_str(query));
    }

    /// The text that two sources share when they put the same rows into the same buckets.
    pub(crate) fn canonical(&self) -> String {
        let mut out = String::new();
        self.write_canonical(&mut out);
        out
    }
}

impl SyncConfig {
    /// The families of buckets.
    pub fn sources(&self) -> &[BucketSource] {
        &self.sources
    }

    /// The parameter indexes.
    pub fn lookups(&self) -> &[LookupDef] {
        &self.lookups
    }

    /// What the user wrote.
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// The sources and the lookups that a definition uses, each ascending by index.
    pub fn parts(&self, definition: usize) -> (Vec<usize>, Vec<usize>) {
        let queriers = || self.queriers.iter().filter(|querier| querier.definition == definition);
        let mut sources: Vec<usize> = queriers().map(|querier| querier.source).collect();
        let mut lookups: Vec<usize> = queriers().flat_map(Querier::lookups).collect();
        for parts in [&mut sources, &mut lookups] {
            parts.sort_unstable();
            parts.dedup();
        }
        (sources, lookups)
    }

    /// Whether a definition gives clients at least what one of its name gives them in another configuration: for the
    /// same requests the same rows by the same conditions, in whatever buckets. Without one of this name there it
    /// gives all of it.
    pub fn gives_all_of(&self, other: &SyncConfig, name: &str) -> bool {
        self.ways(name).is_superset(&other.ways(name))
    }

    /// Texts of the ways from requests to rows of a definition; equal ones give the same rows to the same requests.
    fn ways(&self, name: &str) -> BTreeSet<String> {
        let is_of = |querier: &&Querier| self.definitions[querier.definition].name == name;
        let mut options = String::new();
        self.options.values().write_canonical(&mut options);
        let ways = |querier: &Querier| {
            let of = &self.definitions[querier.definition];
            let mut text = format!("{options}\n{} {}\n", of.priority, of.auto_subscribe);
            querier.write_canonical_by(&mut text, |lookup| {
                format!("{:?}", self.lookups[lookup].fingerprint)
            });
            // Queries that come to the same parameters share a source, whose fingerprint changes with each that comes.
            let queries = self.sources[querier.source].queries.iter();
            let rows = queries.flat_map(DataQuery::canonical_ways);
            rows.map(|rows| format!("{text}{rows}")).collect::<Vec<_>>()
        };
        self.queriers.iter().filter(is_of).flat_map(ways).collect()
    }

    /// The options in effect.
    pub fn options(&self) -> &SyncOptions {
        &self.options
    }

    /// Every source table that data queries or lookups read, each once.
    pub fn tables(&self) -> Vec<TablePattern> {
        let mut tables: Vec<TablePattern> = self
            .sources
            .iter()
            .flat_map(|source| source.queries.iter().map(|query| &query.table))
            .chain(self.lookups.iter().map(|lookup| &lookup.table))
            .cloned()
            .collect();
        tables.sort();
        tables.dedup();
        tables
    }

    /// Computes what is read and the fingerprints, once all parts are there.
    fn seal(&mut self) {
        for querier in &self.queriers {
            let reads = &mut self.definitions[querier.definition].reads;
            reads.extend(self.sources[querier.source].queries.iter().map(DataQuery::reads));
            reads.extend(querier.lookups().map(|lookup| self.lookups[lookup].reads()));
        }
        for definition in &mut self.definitions {
            definition.reads.sort();
            definition.reads.dedup();
        }
        let mut prefix = format!("evaluator {EVALUATOR_VERSION}\n");
        self.options.values().write_canonical(&mut prefix);
        prefix.push('\n');
        for source in &mut self.sources {
            let text = format!("{prefix}source {:?}\n{}", source.name, source.canonical());
            source.fingerprint = Sha256::digest(text.as_bytes()).into();
        }
        for lookup in &mut self.lookups {
            let mut text = prefix.clone();
            lookup.write_canonical(&mut text);
            lookup.fingerprint = Sha256::digest(text.as_bytes()).into();
        }
    }
}

/// The values of an encoded lookup key or output; none when the bytes are damaged.
pub(crate) fn stored_values(bytes: &[u8]) -> Vec<crate::value::SqlValue<'static>> {
    let mut values = Vec::new();
    lookup::read_outputs(bytes, &mut values).map(|()| values).unwrap_or_default()
}
