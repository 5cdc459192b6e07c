//! Statements of surfaces: each message is one transaction of its author, under row level security.
//!
//! In: an [`Author`], a table, what makes SQL of the table's shape. Out: the rows as texts, or a
//! [`StatementError`]. Invariants:
//! - the table has row level security, and the role is neither its owner without FORCE nor above policies;
//! - what the SQL was made of is what the catalog says, looked at behind the statement, when its lock is held:
//!   a transaction that used an older shape is rolled back and tried again;
//! - SQL is built from names of the catalog, values travel as parameters.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use hw_pg::config::ConnectConfig;
use hw_pg::error::{Doing as _, PgError};
use hw_pg::principal;
use hw_pg::sql::{Pool, PooledClient};
use hw_types::{Diagnostic, RunAs, Sql, TableName};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{CancelToken, Client, IsolationLevel, Transaction};

use crate::catalog::{self, Catalog, Kept};
use crate::code;
use crate::refusal::{RefusalKind, StatementError};
use crate::role::{Trouble, owned, role_of};
use crate::session;
use crate::shape::{self, TableShape};
use crate::transaction::Author;

/// How statements run.
#[derive(Clone, Debug)]
pub struct StatementOptions {
    /// The database role of authors whose token chose none. `None`: the first of `ihp_authenticated`,
    /// `authenticated`, `headwater_authenticated` that exists.
    pub role: Option<String>,
    /// How long one statement may take. Default 30 s.
    pub statement_timeout: Duration,
    /// How long it may wait for a lock. Default 5 s.
    pub lock_timeout: Duration,
    /// Bytes of a result at most. Default 16 MiB.
    pub max_result_bytes: usize,
    /// How long an interactive transaction may be without a statement. Default 30 s.
    pub idle_timeout: Duration,
    /// How long it may be open. Default 60 s.
    pub transaction_timeout: Duration,
}

impl Default for StatementOptions {
    fn default() -> StatementOptions {
        StatementOptions {
            role: None,
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(5),
            max_result_bytes: 16 << 20,
            idle_timeout: Duration::from_secs(30),
            transaction_timeout: Duration::from_secs(60),
        }
    }
}

/// Values of one statement at most: the protocol counts them with 16 bits.
pub const MAX_PARAMETERS: usize = 65_535;

/// Whether a statement only reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It does; Postgres sees to it.
    Read,
    /// It may write.
    Write,
}

/// Makes statements of a table's shape; asked again when that turns out to be an old one.
pub type Make = Arc<dyn Fn(&TableShape) -> Result<Vec<Sql>, StatementError> + Send + Sync>;

/// The rows of statements: the first column of each, by statement.
pub type Rows = Vec<Vec<String>>;

/// Takes bytes of a result as they are read; false where whoever asked may keep no more.
pub type Tally = Arc<dyn Fn(usize) -> bool + Send + Sync>;

/// How long a statement waits for a connection of a pool that [`Statements::connect`] made.
const POOL_WAIT: Duration = Duration::from_secs(5);

/// How often a statement is made anew for a table that is altered meanwhile.
const TRIES: usize = 3;

/// How often Postgres is asked to end what nobody waits for.
const CANCEL_AGAIN: Duration = Duration::from_secs(1);

/// Shapes that are remembered at most.
const SHAPES: usize = 1_000;

/// The way of statements. Cheap to clone; clones share their memory of the catalog.
#[derive(Clone)]
pub struct Statements(pub(crate) Arc<Inner>);

type KeptShape = Kept<Arc<TableShape>>;

pub(crate) struct Inner {
    pool: Pool,
    /// Interactive transactions have their own, so that what waits for people leaves room for what does not.
    pub(crate) sessions: Pool,
    pub(crate) options: StatementOptions,
    catalog: Catalog,
    /// By role and table.
    shapes: Mutex<HashMap<(Arc<str>, TableName), KeptShape>>,
}

impl Statements {
    /// Runs statements over one pool, interactive transactions over another, whose size is how many of them
    /// there may be. The login of both is Headwater's own.
    pub fn new(pool: Pool, sessions: Pool, options: StatementOptions) -> Statements {
        let (catalog, shapes) = (Catalog::default(), Mutex::default());
        Statements(Arc::new(Inner { pool, sessions, options, catalog, shapes }))
    }

    /// The same, with pools of its own.
    ///
    /// - Takes: a connection string as libpq reads it; how many connections each pool has at most.
    /// - Errors: what is wrong with the string. Nothing is connected yet.
    pub fn connect(
        connection_string: &str,
        (connections, transactions): (usize, usize),
        options: StatementOptions,
    ) -> Result<Statements, Box<Diagnostic>> {
        let (connect, _warnings) = ConnectConfig::parse(connection_string)?;
        let connect = connect.for_users();
        let pool = Pool::new(connect.clone(), connections, POOL_WAIT);
        let sessions = Pool::new(connect, transactions, POOL_WAIT);
        Ok(Statements::new(pool, sessions, options))
    }

    /// How many connections one user's statements may hold at a time, so that some are left for others: a
    /// quarter of them.
    pub fn connections_per_user(&self) -> usize {
        (self.0.pool.size() / 4).max(1)
    }

    /// Bytes of a result at most.
    pub fn max_result_bytes(&self) -> usize {
        self.0.options.max_result_bytes
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.0.pool.size()
    }

    /// As whom an author's statements run, and a table as he may use it and as it is now: for whoever keeps what he
    /// makes of it.
    ///
    /// - Errors: there is no such table or role, the table has no row level security, or it would not hold.
    pub async fn table(
        &self,
        author: &Author,
        table: &TableName,
    ) -> Result<(RunAs, Arc<TableShape>), StatementError> {
        let client = self.client().await?;
        for _ in 0..TRIES {
            let who = self.0.who(&client, author).await?;
            let shape = self.0.usable(&client, &who, table).await?;
            if self.0.is_current(&client, &who, &shape).await? {
                return Ok((who, shape));
            }
            self.0.forget(&who, table);
        }
        Err(altered())
    }

    /// Runs statements on one table as one transaction of their author. When nobody waits for the answer any
    /// more, Postgres is asked to end them.
    ///
    /// - Takes: what counts the bytes of rows while they are read; what is held until Postgres is done, whoever
    ///   waits.
    /// - Returns: the first column of all rows, by statement.
    pub async fn run(
        &self,
        author: &Author,
        table: &TableName,
        (access, make): (Access, Make),
        tally: Tally,
        held: impl Send + 'static,
    ) -> Result<Rows, StatementError> {
        let (reply, answer) = oneshot::channel();
        let (statements, author, table) = (self.clone(), author.clone(), table.clone());
        tokio::spawn(async move {
            statements.serve(&author, &table, (access, &make), &tally, reply).await;
            drop(held);
        });
        let lost = || StatementError::new(RefusalKind::Later, code::LATER, "It was not answered");
        answer.await.map_err(|_| lost())?
    }

    /// Runs statements for as long as somebody waits for their answer.
    async fn serve(
        &self,
        author: &Author,
        table: &TableName,
        statements: (Access, &Make),
        tally: &Tally,
        mut reply: oneshot::Sender<Result<Rows, StatementError>>,
    ) {
        let client = tokio::select! {
            client = self.client() => client,
            () = reply.closed() => return,
        };
        let mut client = match client {
            Ok(client) => client,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let token = client.cancel_token();
        let trying = self.try_on(&mut client, author, table, statements, tally);
        let (rows, was_left) = while_wanted(trying, reply.closed(), &self.0.pool, &token).await;
        if was_left {
            drop(PooledClient::take(client));
        }
        let _ = reply.send(rows);
    }

    async fn try_on(
        &self,
        client: &mut PooledClient,
        author: &Author,
        table: &TableName,
        (access, make): (Access, &Make),
        tally: &Tally,
    ) -> Result<Rows, StatementError> {
        for _ in 0..TRIES {
            let who = self.0.who(client, author).await?;
            let shape = self.0.usable(client, &who, table).await?;
            let statements = match make(&shape) {
                Ok(statements) => statements,
                // What is named and not known may have come since the table was read.
                Err(error) if self.0.is_current(client, &who, &shape).await? => return Err(error),
                Err(_) => {
                    self.0.forget(&who, table);
                    continue;
                }
            };
            check(&statements)?;
            let room = Room::new(access, self.0.options.max_result_bytes, tally.clone());
            if let Some(rows) = self.0.attempt(client, &who, &shape, room, &statements).await? {
                return Ok(rows);
            }
            self.0.forget(&who, table);
        }
        Err(altered())
    }

    pub(crate) async fn usable_by(
        &self,
        who: &RunAs,
        table: &TableName,
    ) -> Result<Arc<TableShape>, StatementError> {
        if let Some(known) = self.0.known(who, table) {
            return Ok(known);
        }
        let client = self.client().await?;
        self.0.usable(&client, who, table).await
    }

    async fn client(&self) -> Result<PooledClient, StatementError> {
        self.0.pool.get().await.map_err(|error| StatementError::ours(&error))
    }
}

/// Refuses what the protocol of Postgres cannot carry.
pub(crate) fn check(statements: &[Sql]) -> Result<(), StatementError> {
    match statements.iter().any(|sql| sql.parameters.len() > MAX_PARAMETERS) {
        false => Ok(()),
        true => Err(StatementError::new(
            RefusalKind::Invalid,
            code::TOO_MANY_VALUES,
            format!(
                "a statement may have {MAX_PARAMETERS} values at most; ask for, or write, fewer rows at a time"
            ),
        )),
    }
}

pub(crate) fn altered() -> StatementError {
    StatementError::new(RefusalKind::Later, code::LATER, "The table is being altered; come again")
}

impl Inner {
    pub(crate) async fn who(
        &self,
        client: &Client,
        author: &Author,
    ) -> Result<RunAs, StatementError> {
        match role_of(&self.catalog, client, self.options.role.as_deref(), author).await {
            Ok(role) => Ok(author.run_as(&role)),
            Err(Trouble::Postgres(error)) => Err(StatementError::ours(&error)),
            Err(Trouble::Stop(finding)) => Err(StatementError::stop(&finding)),
        }
    }

    /// A table that may be used.
    pub(crate) async fn usable(
        &self,
        client: &Client,
        who: &RunAs,
        table: &TableName,
    ) -> Result<Arc<TableShape>, StatementError> {
        if let Some(known) = self.known(who, table) {
            return Ok(known);
        }
        // Postgres has no name with a NUL.
        if table.name.contains('\0') {
            return Err(StatementError::no_table(table));
        }
        let read = shape::read(client, &who.role, table).await;
        let shape = read.map_err(|error| StatementError::ours(&error))?;
        let shape = Arc::new(shape.ok_or_else(|| StatementError::no_table(table))?);
        if !shape.row_security {
            return Err(StatementError::no_row_security(&shape.name));
        }
        if shape.owned_by_role {
            return Err(StatementError::stop(&owned(&who.role, &shape.name)));
        }
        // What may not be used is not remembered: it is mended somewhere else, and names of strangers' making
        // would fill the memory.
        let mut shapes = self.shapes.lock();
        if shapes.len() >= SHAPES {
            shapes.clear();
        }
        shapes.insert((who.role.clone(), table.clone()), Kept::new(shape.clone()));
        Ok(shape)
    }

    /// Whether a table is still what was read of it.
    async fn is_current(
        &self,
        client: &Client,
        who: &RunAs,
        shape: &TableShape,
    ) -> Result<bool, StatementError> {
        let current = catalog::versions(client, &who.role, &[shape.oid]).await;
        Ok(names(&current.map_err(|error| StatementError::ours(&error))?, shape))
    }

    fn known(&self, who: &RunAs, table: &TableName) -> Option<Arc<TableShape>> {
        self.shapes.lock().get(&(who.role.clone(), table.clone())).and_then(Kept::fresh)
    }

    pub(crate) fn forget(&self, who: &RunAs, table: &TableName) {
        self.shapes.lock().remove(&(who.role.clone(), table.clone()));
        self.catalog.forget();
    }

    /// `None`: the table is not what its shape says, and nothing happened.
    async fn attempt(
        &self,
        client: &mut Client,
        who: &RunAs,
        shape: &TableShape,
        mut room: Room,
        statements: &[Sql],
    ) -> Result<Option<Rows>, StatementError> {
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::ReadCommitted)
            .read_only(room.access == Access::Read)
            .start()
            .await
            .doing("begin a statement")
            .map_err(|error| StatementError::ours(&error))?;
        let (first, others) = match statements.split_first() {
            Some((first, others)) => (Some(first), others),
            None => (None, statements),
        };
        // All are sent at once. What follows a failure fails, too.
        let (limited, became, rows, current) = tokio::join!(
            biased;
            self.limit(&transaction, self.options.statement_timeout),
            principal::run_as(&transaction, who),
            rows_of(&transaction, first, &mut room),
            is_current(&transaction, who, shape),
        );
        limited.and(became).map_err(|error| StatementError::ours(&error))?;
        let mut all = match rows {
            Ok(rows) => vec![rows],
            Err(fault) => {
                // A column that is gone, for example. The snapshot of the catalog is another one.
                let _ = transaction.rollback().await;
                let current = catalog::versions(client, &who.role, &[shape.oid]).await;
                return match current {
                    Ok(versions) if !names(&versions, shape) => Ok(None),
                    _ => Err(fault.of(&shape.name)),
                };
            }
        };
        if !current.map_err(|error| StatementError::ours(&error))? {
            let _ = transaction.rollback().await;
            return Ok(None);
        }
        for statement in others {
            let rows = rows_of(&transaction, Some(statement), &mut room).await;
            all.push(rows.map_err(|fault| fault.of(&shape.name))?);
        }
        // Deferred constraints and triggers speak here.
        transaction.commit().await.map_err(|error| {
            let error = PgError::from(error).of_users().doing("commit");
            StatementError::of_statement(&error, &shape.name)
        })?;
        Ok(Some(all))
    }

    /// Bounds every wait of the transaction, and the time that it could stay open if this process stood still.
    pub(crate) async fn limit(
        &self,
        transaction: &Transaction<'_>,
        statement: Duration,
    ) -> Result<(), PgError> {
        let idle = self.options.idle_timeout + IDLE_GRACE;
        let times = [statement, self.options.lock_timeout, idle];
        session::set_up(transaction, times).await.doing("limit a statement")
    }
}

/// Postgres ends an idle transaction this much later than we do: its way costs the connection.
const IDLE_GRACE: Duration = Duration::from_secs(5);

/// Whether the table is what its shape says, and its policies hold for the role.
pub(crate) async fn is_current(
    transaction: &Transaction<'_>,
    who: &RunAs,
    shape: &TableShape,
) -> Result<bool, PgError> {
    Ok(names(&catalog::versions(transaction, &who.role, &[shape.oid]).await?, shape))
}

fn names(versions: &[(u32, String)], shape: &TableShape) -> bool {
    versions.iter().any(|(oid, version)| *oid == shape.oid && *version == shape.version)
}

/// Waits for what runs on a connection. When nobody wants it any more, Postgres is asked to end it, again and
/// again, since there may be several statements.
///
/// - Returns: whether that was so. The connection is good for nobody else then, see [`Pool::cancel`].
pub(crate) async fn while_wanted<T>(
    running: impl Future<Output = T>,
    left: impl Future<Output = ()>,
    pool: &Pool,
    token: &CancelToken,
) -> (T, bool) {
    let mut running = pin!(running);
    tokio::select! {
        done = &mut running => return (done, false),
        () = left => {}
    }
    let cancel = async {
        loop {
            if let Err(error) = pool.cancel(token).await {
                tracing::debug!(%error, "a statement that nobody waits for runs on");
            }
            tokio::time::sleep(CANCEL_AGAIN).await;
        }
    };
    tokio::select! {
        done = running => (done, true),
        () = cancel => unreachable!("invariant: it goes on until the statement has ended"),
    }
}

/// The bytes that a result may have.
pub(crate) struct Room {
    pub access: Access,
    left: usize,
    limit: usize,
    tally: Tally,
}

impl Room {
    pub fn new(access: Access, limit: usize, tally: Tally) -> Room {
        Room { access, left: limit, limit, tally }
    }

    fn take(&mut self, bytes: usize) -> Result<(), Fault> {
        let (access, limit) = (self.access, self.limit);
        self.left = self.left.checked_sub(bytes).ok_or(Fault::TooLarge { access, limit })?;
        match (self.tally)(bytes) {
            true => Ok(()),
            false => Err(Fault::Unread),
        }
    }
}

/// Why a statement gave no rows.
pub(crate) enum Fault {
    Postgres(PgError),
    /// There are more bytes than a result may have.
    TooLarge {
        access: Access,
        limit: usize,
    },
    /// There is no room for what is not read yet.
    Unread,
}

impl Fault {
    pub(crate) fn of(self, table: &TableName) -> StatementError {
        match self {
            Fault::Postgres(error) => StatementError::of_statement(&error, table),
            Fault::TooLarge { access: Access::Read, limit } => StatementError::new(
                RefusalKind::Invalid,
                code::RESULT_TOO_LARGE,
                format!("the result is larger than {limit} bytes; ask for less with a limit"),
            ),
            Fault::TooLarge { access: Access::Write, limit } => StatementError::new(
                RefusalKind::Invalid,
                code::RESULT_TOO_LARGE,
                format!(
                    "the rows of this write, which are its answer, are larger than {limit} bytes together, so \
                     nothing was written; write fewer rows at a time"
                ),
            ),
            Fault::Unread => StatementError::new(
                RefusalKind::Later,
                code::UNREAD,
                "Too many answers wait to be read, of this user or of all; read them, and ask again",
            ),
        }
    }
}

/// The first column of a statement's rows, as long as there is room for them.
pub(crate) async fn rows_of(
    transaction: &Transaction<'_>,
    sql: Option<&Sql>,
    room: &mut Room,
) -> Result<Vec<String>, Fault> {
    let Some(sql) = sql else { return Ok(Vec::new()) };
    // Policies, triggers and defaults of the table run, on values of its rows.
    let failed = |error| Fault::Postgres(PgError::from(error).of_users().doing("run a statement"));
    let parameters: Vec<(&(dyn ToSql + Sync), Type)> =
        sql.parameters.iter().map(|value| (value as &(dyn ToSql + Sync), Type::TEXT)).collect();
    let rows = transaction.query_typed_raw(&sql.text, parameters).await.map_err(failed)?;
    let mut rows = std::pin::pin!(rows);
    let mut all = Vec::new();
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        let text: Option<&str> = row.try_get(0).map_err(failed)?;
        let text = text.unwrap_or("null");
        room.take(text.len())?;
        all.push(text.to_owned());
    }
    Ok(all)
}
