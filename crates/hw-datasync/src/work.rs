//! What a message or a request does with the database.
//!
//! In: a caller and a [`Work`]. Out: records as JSON texts, or a [`Failure`]. Invariant: one user's work holds
//! only some of the connections at a time.

use std::sync::Arc;

use hw_http::places::Places;
use hw_live::{First, Live, Subscription, Wants};
use hw_types::TableName;
use hw_write::{Access, Author, End, Interactive, Make, Statements};

use crate::change::{self, Change};
use crate::code;
use crate::failure::Failure;
use crate::live::live_query;
use crate::options::DataSyncOptions;
use crate::statement::{self, Shape};
use crate::wire::{Literal, Query};

/// Reads or writes one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// The rows of a query.
    Query(Query),
    /// The rows with these ids, whole.
    Find(String, Vec<Literal>),
    /// A write; gives the rows that it wrote.
    Change(String, Change),
}

/// Whoever does the work. Cheap to clone.
#[derive(Clone)]
pub struct Worker {
    statements: Statements,
    live: Option<Live>,
    options: Arc<DataSyncOptions>,
    /// Connections to the database that are in use.
    pub(crate) connections: Arc<Places>,
    /// Open transactions.
    pub(crate) transactions: Arc<Places>,
}

impl Worker {
    /// - Takes: who runs statements, who keeps results live, and what operators chose.
    pub fn new(
        statements: Statements,
        live: Option<Live>,
        options: Arc<DataSyncOptions>,
    ) -> Worker {
        let all = options.all_transactions;
        let connections = Places::new(statements.connections(), statements.connections_per_user());
        let transactions = Places::new(all, (all / 4).max(1));
        Worker { statements, live, connections, transactions, options }
    }

    fn table(&self, work: &Work) -> TableName {
        let name = match work {
            Work::Query(query) => &query.table,
            Work::Find(table, _) | Work::Change(table, _) => table,
        };
        TableName::new(self.options.schema.clone(), name.clone())
    }

    fn make(&self, work: Work) -> Make {
        let (naming, big) = (self.options.naming, self.options.big_numbers);
        Arc::new(move |table| {
            let shape = Shape::of(table, naming, big);
            Ok(match &work {
                Work::Query(query) => vec![statement::rows(query, &shape)?],
                Work::Find(_, ids) => change::found(ids, &shape)?,
                Work::Change(_, change) => change.statements(&shape)?,
            })
        })
    }

    /// Does the work as one transaction of its author.
    ///
    /// - Returns: the records of all rows.
    pub async fn run(&self, author: &Author, work: Work) -> Result<Vec<String>, Failure> {
        let access = match work {
            Work::Query(_) | Work::Find(..) => Access::Read,
            Work::Change(..) => Access::Write,
        };
        let (table, make) = (self.table(&work), self.make(work));
        let _place = self.connections.wait(&author.user).await;
        let (rows, _) = self.statements.run(author, &table, access, &make).await?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// Does the work in an open transaction.
    pub async fn run_in(
        &self,
        transaction: &Interactive,
        work: Work,
    ) -> Result<Vec<String>, Failure> {
        let (table, make) = (self.table(&work), self.make(work));
        let rows = transaction.run(&table, make).await?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// Begins to keep the result of a query live.
    pub async fn subscribe(
        &self,
        author: &Author,
        query: &Query,
        wants: Wants,
    ) -> Result<(First, Subscription), Failure> {
        let Some(live) = &self.live else {
            let message = "This server does not keep results live";
            return Err(Failure::new(code::NOT_LIVE, message));
        };
        let table = TableName::new(self.options.schema.clone(), query.table.clone());
        let (who, table) = {
            let _place = self.connections.wait(&author.user).await;
            self.statements.table(author, &table).await?
        };
        let shape = Shape::of(&table, self.options.naming, self.options.big_numbers);
        let query = live_query(query, &shape, wants)?;
        Ok(live.subscribe(query, Arc::new(who)).await?)
    }

    /// Opens a transaction.
    pub async fn begin(&self, author: &Author) -> Result<Interactive, Failure> {
        let place = self.transactions.take(&author.user).map_err(|_| {
            let message = "There are as many open transactions as there may be; come again";
            Failure::new(code::TRANSACTIONS, message)
        })?;
        let transaction = self.statements.begin(author).await?;
        // The place is free as soon as it is over, also when time has ended it and its socket stays.
        let over = transaction.over();
        tokio::spawn(async move {
            over.await;
            drop(place);
        });
        Ok(transaction)
    }

    /// Ends one.
    pub async fn end(&self, open: &Interactive, how: End) -> Result<(), Failure> {
        open.end(how).await.map_err(Failure::from)
    }
}
