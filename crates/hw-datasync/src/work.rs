//! What a message or a request does with the database.
//!
//! In: a caller and a [`Work`]. Out: records as JSON texts, or a [`Failure`]. Invariant: one user's work holds
//! only some of the connections at a time.

use std::sync::Arc;

use hw_http::budget::{Budget, Share, Shares};
use hw_http::places::Places;
use hw_live::{Commit, First, Group, Live, Room, Subscription};
use hw_types::TableName;
use hw_write::{Access, End, Interactive, Make, Statements, TableShape, Tally};
use parking_lot::Mutex;

use crate::aggregate;
use crate::caller::Caller;
use crate::change::{self, Change};
use crate::code;
use crate::failure::Failure;
use crate::live::live_query;
use crate::options::DataSyncOptions;
use crate::statement::{self, Shape};
use crate::wire::{Aggregation, Literal, Query, Wanted};

/// Reads or writes one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// The rows of a query.
    Query(Query),
    /// Groups of its rows.
    Groups(Query, Aggregation),
    /// The rows with these ids, whole.
    Find(String, Vec<Literal>),
    /// A write; gives the rows that it wrote.
    Change(String, Change),
}

/// Bytes that count until the last clone goes: those of an answer until it was sent, those of a message until it
/// is done.
#[derive(Clone, Debug)]
pub struct Kept(Arc<Mutex<Share>>);

impl From<Share> for Kept {
    fn from(share: Share) -> Kept {
        Kept(Arc::new(Mutex::new(share)))
    }
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
    /// Bytes of answers that were not sent yet, and of messages that are not done.
    pub(crate) answers: Arc<Shares>,
    /// Bytes of live results.
    pub(crate) results: Arc<Shares>,
}

impl Worker {
    /// - Takes: who runs statements, who keeps results live, and what operators chose.
    pub fn new(
        statements: Statements,
        live: Option<Live>,
        options: Arc<DataSyncOptions>,
    ) -> Worker {
        // Whatever people do here leaves connections for uploads, and for looks at the catalog.
        let connections = (statements.connections() * 3 / 4).max(1);
        let of_user = statements.connections_per_user();
        let connections = Places::with_further(connections, of_user, connections / 4);
        let all = options.all_transactions;
        let transactions = Places::new(all, (all / 4).max(1));
        // One message and its answer always fit, also into the half that strangers have: what never had room
        // would wait for ever.
        let one = statements.max_result_bytes() + options.message_bytes;
        let of_user = (options.answer_bytes / 4).max(one);
        let most = options.answer_bytes.max(2 * of_user);
        let answers = Shares::new(Budget::new(most), most, of_user);
        let most = options.live_bytes;
        let results = Shares::new(Budget::new(most), most, most / 4);
        Worker { statements, live, connections, transactions, answers, results, options }
    }

    fn table(&self, work: &Work) -> TableName {
        let name = match work {
            Work::Query(query) | Work::Groups(query, _) => &query.table,
            Work::Find(table, _) | Work::Change(table, _) => table,
        };
        TableName::new(self.options.schema.clone(), name.clone())
    }

    /// Whether the work writes, and what makes its statements.
    fn make(&self, work: Work) -> (Access, Make) {
        let access = match work {
            Work::Query(_) | Work::Groups(..) | Work::Find(..) => Access::Read,
            Work::Change(..) => Access::Write,
        };
        let options = self.options.clone();
        let make: Make = Arc::new(move |table| {
            let shape = shape_of(table, &options);
            Ok(match &work {
                Work::Query(query) => vec![statement::rows(query, &shape)?],
                Work::Groups(query, groups) => vec![aggregate::groups(query, groups, &shape)?],
                Work::Find(_, ids) => change::found(ids, &shape)?,
                Work::Change(_, change) => change.statements(&shape)?,
            })
        });
        (access, make)
    }

    /// Counts bytes of somebody's message, or of an answer to him.
    ///
    /// - Errors: he, or all, have too many that are not done or not read.
    pub fn keep(&self, caller: &Caller, bytes: usize) -> Result<Kept, Failure> {
        let share = self.answers.take(caller.holder(), bytes);
        share.map(Kept::from).map_err(|_| Failure::unread())
    }

    fn tally(&self, caller: &Caller) -> Result<(Kept, Tally), Failure> {
        let kept = self.keep(caller, 0)?;
        let counted = kept.clone();
        Ok((kept, Arc::new(move |bytes| counted.0.lock().grow(bytes).is_ok())))
    }

    /// Does the work as one transaction of its author. It ends in the database when nobody waits for it any
    /// more, and keeps its place until then.
    ///
    /// - Takes: what counts the message.
    /// - Returns: the records of all rows, and what counts them.
    pub async fn run(
        &self,
        caller: &Caller,
        work: Work,
        message: Kept,
    ) -> Result<(Vec<String>, Kept), Failure> {
        let (table, statements) = (self.table(&work), self.make(work));
        let place = self.connections.wait(caller.holder()).await;
        let (kept, tally) = self.tally(caller)?;
        let held = (place, message);
        let running = self.statements.run(&caller.author, &table, statements, tally, held);
        Ok((running.await?.into_iter().flatten().collect(), kept))
    }

    /// Does the work in an open transaction.
    pub async fn run_in(
        &self,
        transaction: &Interactive,
        caller: &Caller,
        work: Work,
    ) -> Result<(Vec<String>, Kept), Failure> {
        let (table, statements) = (self.table(&work), self.make(work));
        let (kept, tally) = self.tally(caller)?;
        let rows = transaction.run(&table, statements, tally).await?;
        Ok((rows.into_iter().flatten().collect(), kept))
    }

    /// Results that are told in one order; `None` where none are kept live.
    pub fn group(&self) -> Option<Group> {
        self.live.as_ref().map(Live::group)
    }

    /// Begins to keep the result of a query live, among those of a socket. What it holds counts as this caller's.
    pub async fn subscribe(
        &self,
        caller: &Caller,
        query: &Query,
        wanted: &Wanted,
        group: Option<&Group>,
    ) -> Result<(First, Subscription), Failure> {
        let Some((live, group)) = self.live.as_ref().zip(group) else {
            let message = "This server does not keep results live";
            return Err(Failure::new(code::NOT_LIVE, message));
        };
        let table = TableName::new(self.options.schema.clone(), query.table.clone());
        let (who, table) = {
            let _place = self.connections.wait(caller.holder()).await;
            self.statements.table(&caller.author, &table).await?
        };
        let query = live_query(query, &shape_of(&table, &self.options), wanted)?;
        let nothing = self.results.take(caller.holder(), 0);
        let mut share = nothing.expect("invariant: nothing always has room");
        let room: Room = Box::new(move |bytes| share.resize(bytes).is_ok());
        let begun = live.subscribe_in(group, query, Arc::new(who), room).await;
        begun.map_err(|error| Failure::of_live(error, &table.name))
    }

    /// What a result that waited for its client has come to: see [`Live::settle`].
    ///
    /// - Returns: `None` where it has ended, or the database does not answer.
    pub async fn settle(&self, subscription: &mut Subscription) -> Option<Vec<Commit>> {
        self.live.as_ref()?.settle(subscription).await.ok()
    }

    /// Opens a transaction.
    pub async fn begin(&self, caller: &Caller) -> Result<Interactive, Failure> {
        let place = self.transactions.take(caller.holder()).map_err(|_| {
            let message = "There are as many open transactions as there may be; come again";
            Failure::new(code::TRANSACTIONS, message)
        })?;
        let transaction = self.statements.begin(&caller.author).await?;
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

fn shape_of(table: &TableShape, options: &DataSyncOptions) -> Shape {
    Shape::of(table, options.naming.of(&table.name.name), options.big_numbers)
}
