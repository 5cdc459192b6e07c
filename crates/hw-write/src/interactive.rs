//! Transactions that stay open from one message of their author to the next.
//!
//! In: statements, then commit or rollback. Out: their rows. Each is a task of its own that holds a
//! connection; it ends with its last [`Interactive`]. Invariants: how long it is open, and how long it waits
//! for its author, is bounded; a commit that Postgres would turn into a rollback is told as what it is.

use std::time::Duration;

use hw_pg::error::PgError;
use hw_pg::principal;
use hw_pg::sql::PooledClient;
use hw_types::{RunAs, TableName};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_postgres::Transaction;

use crate::code;
use crate::refusal::{RefusalKind, StatementError};
use crate::session::begin;
use crate::statements::{
    Access, Make, Room, Rows, Statements, Tally, altered, check, is_current, rows_of, while_wanted,
};
use crate::transaction::Author;

/// An open transaction. Clones lead to the same one.
#[derive(Clone, Debug)]
pub struct Interactive {
    commands: mpsc::Sender<Command>,
    over: watch::Receiver<bool>,
}

enum Command {
    Run(Run),
    End { how: End, reply: oneshot::Sender<Result<(), StatementError>> },
}

struct Run {
    table: TableName,
    access: Access,
    make: Make,
    tally: Tally,
    reply: oneshot::Sender<Result<Rows, StatementError>>,
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With its changes.
    Commit,
    /// Without.
    Rollback,
}

fn over(message: impl Into<String>) -> StatementError {
    StatementError::new(RefusalKind::Conflict, code::TRANSACTION, message)
}

impl Statements {
    /// Opens a transaction.
    ///
    /// - Errors: there are as many as there may be, or the author has no role.
    pub async fn begin(&self, author: &Author) -> Result<Interactive, StatementError> {
        let client = self.0.sessions.get().await.map_err(|error| match error.kind() {
            hw_pg::error::PgErrorKind::PoolBusy { size, .. } => StatementError::new(
                RefusalKind::Later,
                code::TRANSACTION,
                format!("All {size} interactive transactions are in use; come again"),
            ),
            _ => StatementError::ours(&error),
        })?;
        let who = self.0.who(&client, author).await?;
        let (commands, inbox) = mpsc::channel(1);
        let (ready, opened) = oneshot::channel();
        let (is_over, over) = watch::channel(false);
        tokio::spawn(Holder { statements: self.clone(), who, is_over }.hold(client, inbox, ready));
        match opened.await {
            Ok(Ok(())) => Ok(Interactive { commands, over }),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                Err(StatementError::new(RefusalKind::Later, code::LATER, "It was not opened"))
            }
        }
    }
}

impl Interactive {
    /// Runs statements on one table in it. When nobody waits for the answer any more, Postgres is asked to end
    /// them, and the transaction fails.
    ///
    /// - Takes: what counts the bytes of rows while they are read.
    pub async fn run(
        &self,
        table: &TableName,
        (access, make): (Access, Make),
        tally: Tally,
    ) -> Result<Rows, StatementError> {
        let (reply, answer) = oneshot::channel();
        let run = Run { table: table.clone(), access, make, tally, reply };
        self.ask(Command::Run(run), answer).await
    }

    /// Ends it.
    ///
    /// - Errors: it was rolled back instead of committed.
    pub async fn end(&self, how: End) -> Result<(), StatementError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::End { how, reply }, answer).await
    }

    /// Waits until it is over, for whichever reason. Whoever waits does not keep it open.
    pub fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut over = self.over.clone();
        async move {
            let _ = over.wait_for(|over| *over).await;
        }
    }

    async fn ask<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, StatementError>>,
    ) -> Result<T, StatementError> {
        let ended = || over("The transaction is over");
        self.commands.send(command).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

struct Holder {
    statements: Statements,
    who: RunAs,
    is_over: watch::Sender<bool>,
}

impl Holder {
    async fn hold(
        self,
        mut client: PooledClient,
        mut inbox: mpsc::Receiver<Command>,
        ready: oneshot::Sender<Result<(), StatementError>>,
    ) {
        let mut was_left = false;
        let why = {
            let opened = self.open(&mut client).await;
            let transaction = match opened {
                Ok(transaction) => transaction,
                Err(error) => {
                    let _ = ready.send(Err(StatementError::ours(&error)));
                    return;
                }
            };
            if ready.send(Ok(())).is_err() {
                return;
            }
            self.serve(transaction, &mut inbox, &mut was_left).await
        };
        // The connection is for others from here on, or for nobody.
        match was_left {
            true => drop(PooledClient::take(client)),
            false => drop(client),
        }
        self.is_over.send_replace(true);
        let Some(why) = why else { return };
        while let Some(command) = inbox.recv().await {
            match command {
                Command::Run(Run { reply, .. }) => drop(reply.send(Err(why.clone()))),
                Command::End { how: End::Commit, reply } => {
                    let _ = reply.send(Err(why));
                    return;
                }
                Command::End { how: End::Rollback, reply } => {
                    let _ = reply.send(Ok(()));
                    return;
                }
            }
        }
    }

    async fn open<'a>(&self, client: &'a mut PooledClient) -> Result<Transaction<'a>, PgError> {
        let transaction = begin(client).await?;
        let statement = self.statements.0.options.statement_timeout;
        let (limited, became) = tokio::join!(
            biased;
            self.statements.0.limit(&transaction, statement),
            principal::run_as(&transaction, &self.who),
        );
        limited.and(became)?;
        Ok(transaction)
    }

    /// Serves until its author ends it, or leaves (`None`), or time does (why).
    ///
    /// - Takes: where it notes that Postgres was asked to end a statement.
    async fn serve(
        &self,
        transaction: Transaction<'_>,
        inbox: &mut mpsc::Receiver<Command>,
        was_left: &mut bool,
    ) -> Option<StatementError> {
        let options = &self.statements.0.options;
        let deadline = Instant::now() + options.transaction_timeout;
        let mut failed = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let command = match timeout(left.min(options.idle_timeout), inbox.recv()).await {
                Ok(Some(command)) => command,
                Ok(None) => return None,
                Err(_) => {
                    let (what, limit) = match left <= options.idle_timeout {
                        true => ("open", options.transaction_timeout),
                        false => ("idle", options.idle_timeout),
                    };
                    return Some(timed_out(what, limit));
                }
            };
            match command {
                Command::Run(run) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let Run { table, access, make, tally, mut reply } = run;
                    let room = Room::new(access, options.max_result_bytes, tally);
                    let running = self.statement(&transaction, &table, &make, room, left);
                    let (pool, token) = (&self.statements.0.sessions, transaction.cancel_token());
                    let (answer, is_left) =
                        while_wanted(running, reply.closed(), pool, &token).await;
                    *was_left |= is_left;
                    failed |= answer.as_ref().is_err_and(Failed::spoils);
                    let is_cut = left < options.statement_timeout;
                    let answer = answer.map_err(|failed| match failed {
                        // It had the time that the transaction had left.
                        Failed::InTransaction(error)
                            if is_cut && error.sqlstate.as_deref() == Some("57014") =>
                        {
                            timed_out("open", options.transaction_timeout)
                        }
                        Failed::InTransaction(error) | Failed::Before(error) => error,
                    });
                    let _ = reply.send(answer);
                }
                Command::End { how: End::Rollback, reply } => {
                    let _ = transaction.rollback().await;
                    let _ = reply.send(Ok(()));
                    return None;
                }
                Command::End { how: End::Commit, reply } => {
                    let answer = match failed {
                        // COMMIT would answer as if it were one.
                        true => {
                            let _ = transaction.rollback().await;
                            Err(over(
                                "Transaction was rolled back because an earlier statement failed",
                            ))
                        }
                        false => transaction.commit().await.map_err(|error| {
                            let error = PgError::from(error).of_users().doing("commit");
                            StatementError::of_statement(&error, &TableName::new("", ""))
                        }),
                    };
                    let _ = reply.send(answer);
                    return None;
                }
            }
        }
    }

    async fn statement(
        &self,
        transaction: &Transaction<'_>,
        table: &TableName,
        make: &Make,
        mut room: Room,
        left: Duration,
    ) -> Result<Rows, Failed> {
        let inner = &self.statements.0;
        let mut shape = self.shape(table).await?;
        let inside =
            |error: &PgError| Failed::InTransaction(StatementError::of_statement(error, table));
        if !is_current(transaction, &self.who, &shape).await.map_err(|error| inside(&error))? {
            inner.forget(&self.who, table);
            shape = self.shape(table).await?;
        }
        let statements = make(&shape).map_err(Failed::Before)?;
        check(&statements).map_err(Failed::Before)?;
        if left < inner.options.statement_timeout {
            // 0 would mean no limit.
            let left = left.max(Duration::from_millis(1));
            inner.limit(transaction, left).await.map_err(|error| inside(&error))?;
        }
        let mut all = Vec::new();
        for statement in &statements {
            let rows = rows_of(transaction, Some(statement), &mut room).await;
            all.push(rows.map_err(|fault| Failed::InTransaction(fault.of(table)))?);
        }
        match is_current(transaction, &self.who, &shape).await.map_err(|error| inside(&error))? {
            true => Ok(all),
            // It was altered between our look and our lock.
            false => Err(Failed::InTransaction(altered())),
        }
    }

    /// The table's shape, over a connection without a transaction.
    async fn shape(
        &self,
        table: &TableName,
    ) -> Result<std::sync::Arc<crate::shape::TableShape>, Failed> {
        self.statements.usable_by(&self.who, table).await.map_err(Failed::Before)
    }
}

enum Failed {
    /// Nothing was run.
    Before(StatementError),
    /// Postgres will not commit any more.
    InTransaction(StatementError),
}

impl Failed {
    /// Whether the transaction is not committed any more. What there was no room or no connection for belongs to
    /// it, and its author may have sent the commit already; a mistake of his is not among what he wrote.
    fn spoils(&self) -> bool {
        match self {
            Failed::InTransaction(_) => true,
            Failed::Before(error) => error.kind == RefusalKind::Later,
        }
    }
}

fn timed_out(what: &str, limit: Duration) -> StatementError {
    let seconds = limit.as_secs_f32();
    over(format!("The transaction was {what} for more than {seconds} s and was rolled back"))
}
