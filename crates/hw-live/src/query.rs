//! What is asked, and what is told of it.

use crate::aggregate::Groups;
use hw_expr::postgres::Principal;
use hw_types::{EndLsn, RunAs, Sql, TableName};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is wanted of a result.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wants {
    /// Its rows.
    Rows,
    /// Groups of its rows, which are told as rows are.
    Groups(Groups),
}

/// A query whose result is kept live.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LiveQuery {
    /// The table whose rows it gives.
    pub table: TableName,
    /// The columns of its primary key, in the order in which they stand in keys.
    pub key: Vec<String>,
    /// Gives (key, record) of every row, in the result's order: two texts. The key is the JSON of the
    /// primary key (one value, or an array of several), the record the JSON of an object, both as `jsonb`
    /// prints it. It runs as whoever asks.
    ///
    /// Of groups it gives (key, record, state): the key is the JSON of an array of the values by which rows are
    /// grouped, the state the JSON of an array of how many rows the group has, and for each aggregate of what
    /// [`Function::state`](crate::Function::state) says.
    pub rows: Sql,
    /// What is wanted of it.
    pub wants: Wants,
    /// Which of its rows are in the result, where it is the first ones in an order. `rows` gives (key, record,
    /// place) then, from the very first row on, and [`FirstRows::beyond`] more than there are in the result; the
    /// place is the JSON of an array with the values of the order's columns, as Postgres prints each, or null.
    pub window: Option<FirstRows>,
    /// Columns of the table whose values are told as their texts, in keys and in records of rows.
    pub as_text: Vec<String>,
    /// The same as a condition over single rows; `None` where there is no such form of it.
    pub matcher: Option<Matcher>,
}

/// A window of the rows of a query: so many behind the first ones, in an order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FirstRows {
    /// Columns, and whether they descend, in which nulls come first then, else last. The last ones are those of the
    /// key, so that no two rows stand in one place.
    pub order: Vec<(String, bool)>,
    /// How many stand before the window.
    pub offset: usize,
    /// How many are in it.
    pub limit: usize,
    /// How many more are fetched: as many may go before it has to be asked what follows.
    pub beyond: usize,
}

impl FirstRows {
    /// How many rows there are up to the end of the window.
    pub(crate) fn end(&self) -> usize {
        self.offset + self.limit
    }
}

/// A query as a condition over the rows of its table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Matcher {
    /// What stands behind WHERE, with its own parameters.
    pub filter: Option<Sql>,
    /// The fields of a record with the columns that are in them.
    pub fields: Vec<(String, String)>,
    /// LIMIT, OFFSET or DISTINCT ON: which of the rows that match are in the result depends on others.
    pub is_window: bool,
}

/// The JSON of a primary key, or of the values of a group. No two rows of a result have the same.
pub type Key = Arc<str>;

/// A row as it is told: the JSON of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record(Arc<str>);

impl Record {
    /// Takes the JSON of an object, as `jsonb` prints it: equal ones have equal texts.
    pub fn new(json: impl Into<Arc<str>>) -> Record {
        Record(json.into())
    }

    /// Stands for one that is not known: it is none.
    pub(crate) fn unknown() -> Record {
        Record::new("")
    }

    /// The JSON.
    pub fn json(&self) -> &str {
        &self.0
    }

    /// The JSON of every field. One that is no object has none.
    pub fn fields(&self) -> BTreeMap<String, &RawValue> {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

/// What happened to a row of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is in the result now.
    Insert {
        /// Its key.
        key: Key,
        /// The row.
        record: Record,
    },
    /// It was in the result before, and is.
    Update {
        /// Its key.
        key: Key,
        /// What was told last; `None` where that is not known any more.
        before: Option<Record>,
        /// What it is now; the same when a transaction touched it only.
        after: Record,
    },
    /// It is not in the result any more.
    Delete {
        /// Its key.
        key: Key,
    },
    /// It came into the result and went in another commit, before anybody looked: nothing was told of it, and who
    /// made it waits to hear of it.
    Passed {
        /// Its key.
        key: Key,
    },
}

impl Change {
    /// The row's key.
    pub fn key(&self) -> &Key {
        match self {
            Change::Insert { key, .. }
            | Change::Update { key, .. }
            | Change::Delete { key }
            | Change::Passed { key } => key,
        }
    }
}

/// How a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct First {
    /// Everything up to here is in it, or in what comes.
    pub position: EndLsn,
    /// The rows, or groups, with their keys in the result's order.
    pub result: Vec<(Key, Record)>,
}

/// What has changed since what was told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Everything up to here is in it, or in what comes. Positions never go back.
    pub position: EndLsn,
    /// Of one row at most one change; rows that go come first.
    pub changes: Vec<Change>,
}

/// A query, and as whom it is asked. What equal ones have in common is shared by all of them.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// Without the parameters of its statement and of its filter.
    pub query: Arc<LiveQuery>,
    /// Those of the statement.
    pub parameters: Arc<[String]>,
    /// Those of the filter.
    pub filter_parameters: Arc<[String]>,
    pub who: Arc<Asker>,
}

/// Somebody who asks, as Postgres and as conditions know them.
#[derive(Debug)]
pub(crate) struct Asker {
    pub run_as: Arc<RunAs>,
    settings: Arc<BTreeMap<String, String>>,
}

impl Asker {
    pub fn new(run_as: Arc<RunAs>) -> Asker {
        let settings = run_as.settings().into_iter();
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Asker { settings: Arc::new(settings.collect()), run_as }
    }

    /// As conditions know them.
    pub fn principal(&self, parameters: Arc<[String]>) -> Principal {
        let (role, settings) = (self.run_as.role.clone(), self.settings.clone());
        Principal { role, settings, parameters }
    }
}

impl LiveQuery {
    /// Takes the parameters out: those of the statement, and those of the filter.
    pub(crate) fn take_parameters(&mut self) -> (Arc<[String]>, Arc<[String]>) {
        let statement: Arc<[String]> = std::mem::take(&mut self.rows.parameters).into();
        let filter = self.matcher.as_mut().and_then(|matcher| matcher.filter.as_mut());
        let filter =
            filter.map(|filter| std::mem::take(&mut filter.parameters)).unwrap_or_default();
        // Mostly they are the same.
        let is_same = *statement == *filter;
        let filter = if is_same { statement.clone() } else { filter.into() };
        (statement, filter)
    }
}
