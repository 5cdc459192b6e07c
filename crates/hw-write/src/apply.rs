//! Applies the transactions of a client, one Postgres transaction each.
//!
//! The life of one: take a connection; find its tables; try it (see `attempt`); say what its outcome means. What is refused for good is recorded in a second
//! transaction, so a reply that was lost finds its verdict again, and a refused write does not
//! stand in the way of the next. What an operator can mend is logged with the statement that mends
//! it, and the client keeps its write.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hw_pg::config::ConnectConfig;
use hw_pg::error::{PgError, ServerError};
use hw_pg::sql::Pool;
use hw_types::Diagnostic;
use hw_types::relation::quote_ident;
use parking_lot::Mutex;
use tokio_postgres::Client;

use crate::attempt::{Attempt, Failure, Problem, Target, Try};
use crate::catalog::{self, Catalog};
use crate::code;
use crate::config::UploadConfig;
use crate::ledger::{self, Key};
use crate::map::{TableTarget, Unknown, UploadMap};
use crate::rights::Rights;
use crate::role::{Trouble, owned, role_of};
use crate::run::Care;
use crate::schema;
use crate::transaction::{Author, UploadTransaction};
use crate::verdict::{Delay, Meaning, Rejection, Verdict, meaning};

/// Why no transaction of the request was looked at, or no further one. A person must act; the
/// client keeps its queue and tries again later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UploadError(pub Box<Diagnostic>);

/// How long a transaction waits for a connection before it is told to come again.
const POOL_WAIT: Duration = Duration::from_secs(5);

/// A user's records are trimmed when this many more transactions have been recorded, whosever.
const TRIM_EVERY: u64 = 64;

/// The same finding is logged once in this time, however often clients ask.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// The way of writes. Cheap to clone; clones share their memory of the catalog.
#[derive(Clone)]
pub struct Uploads(Arc<Inner>);

struct Inner {
    pool: Pool,
    config: UploadConfig,
    map: ArcSwap<UploadMap>,
    catalog: Catalog,
    /// Transactions recorded since the start.
    recorded: AtomicU64,
    /// When a text was logged last.
    told: Mutex<HashMap<String, Instant>>,
}

impl Uploads {
    /// Writes through this pool, whose login is Headwater's own role. Until [`Uploads::set_map`]
    /// every write has to come again.
    pub fn new(pool: Pool, config: UploadConfig) -> Uploads {
        Uploads(Arc::new(Inner {
            pool,
            map: ArcSwap::from_pointee(UploadMap::new(Unknown::Waits)),
            catalog: Catalog::new(config.publication.clone()),
            config,
            recorded: AtomicU64::new(0),
            told: Mutex::default(),
        }))
    }

    /// The same, with a pool of its own.
    ///
    /// - Takes: a connection string as libpq reads it; how many connections are open at most.
    /// - Errors: what is wrong with the string. Nothing is connected yet.
    pub fn connect(
        connection_string: &str,
        connections: usize,
        config: UploadConfig,
    ) -> Result<Uploads, UploadError> {
        let (connect, _warnings) = ConnectConfig::parse(connection_string)
            .map_err(|finding| UploadError(finding.into()))?;
        Ok(Uploads::new(Pool::new(connect, connections, POOL_WAIT), config))
    }

    /// How many connections the uploads of one user may hold at a time, so that some are left for
    /// others: a quarter of them.
    pub fn connections_per_user(&self) -> usize {
        (self.0.pool.size() / 4).max(1)
    }

    /// Takes over where output tables are written, at start and whenever the sync configuration
    /// changes.
    pub fn set_map(&self, map: UploadMap) {
        self.0.map.store(Arc::new(map));
    }

    /// Applies transactions in order.
    ///
    /// - Returns: a verdict for each, in order. After the first [`Verdict::Retry`] all others are
    ///   too, untouched, so that the order is kept.
    /// - Errors: [`UploadError`], logged. Transactions before it may have been applied; they are
    ///   recorded, so sending all of them again is right.
    pub async fn apply(
        &self,
        author: &Author,
        client_id: &str,
        transactions: &[UploadTransaction],
    ) -> Result<Vec<Verdict>, UploadError> {
        let mut verdicts = Vec::with_capacity(transactions.len());
        for transaction in transactions {
            let verdict = match verdicts.last() {
                Some(Verdict::Retry(_)) => Verdict::Retry(Delay::passing(
                    "a transaction before it has to be retried first",
                )),
                _ => self.apply_one(author, client_id, transaction).await?,
            };
            let label = match &verdict {
                Verdict::Applied => "applied",
                Verdict::Rejected(_) => "rejected",
                Verdict::Retry(_) => "retry",
            };
            metrics::counter!("headwater_upload_transactions_total", "verdict" => label)
                .increment(1);
            verdicts.push(verdict);
        }
        Ok(verdicts)
    }

    /// Deletes records that are older than the configured number of days, and those that a user
    /// has too many of; call it about once an hour. Returns the number of records deleted; none where
    /// there can be none, because the database is not set up for writes of this login, which
    /// [`Uploads::examine`] tells.
    pub async fn purge(&self) -> Result<u64, PgError> {
        let client = self.0.pool.get().await?;
        match ledger::purge(&client, &self.0.config.keep).await {
            Err(_) if schema::finding(&client).await?.is_some() => Ok(0),
            done => done,
        }
    }

    /// Findings about what operators have to do before clients can write the mapped tables: each
    /// with the statements that mend it. None for a database that is not set up for writes.
    ///
    /// - Errors: of the connection.
    pub async fn examine(&self) -> Result<Vec<Diagnostic>, PgError> {
        let client = self.0.pool.get().await?;
        if let Some(finding) = schema::finding(&client).await? {
            return Ok(if finding.is_error() { vec![finding] } else { Vec::new() });
        }
        let role = self.0.config.role.as_deref();
        crate::examine::examine(&client, role, &self.0.map.load()).await
    }

    async fn apply_one(
        &self,
        author: &Author,
        client_id: &str,
        transaction: &UploadTransaction,
    ) -> Result<Verdict, UploadError> {
        let contents = transaction.contents();
        let key = Key { author, client_id, transaction, contents };
        let trouble = match self.decide(author, &key).await {
            Ok(verdict) => return Ok(verdict),
            Err(trouble) => trouble,
        };
        let finding = match trouble {
            Trouble::Stop(finding) => finding,
            Trouble::Postgres(error) => match meaning(&error) {
                Meaning::Retry(reason) => {
                    return Ok(Verdict::Retry(self.postponed(&error, reason)));
                }
                _ => match self.explain(error).await {
                    Ok(verdict) => return Ok(verdict),
                    Err(finding) => finding,
                },
            },
        };
        self.tell(&finding, "uploads are refused");
        Err(UploadError(finding))
    }

    /// Turns an error of our own statements, which the transaction is not to blame for, into what
    /// a person can do about it.
    async fn explain(&self, error: PgError) -> Result<Verdict, Box<Diagnostic>> {
        match error.sqlstate() {
            // Two requests of one client met in the ledger; the second finds the first's record.
            Some("23505") => Ok(Verdict::Retry(Delay::passing("the write met a concurrent one"))),
            // A table, schema or column of ours that is missing, or not ours to use.
            Some("42P01" | "3F000" | "42703" | "42501") => {
                let finding = match self.0.pool.get().await {
                    Ok(client) => schema::finding(&client).await.unwrap_or_default(),
                    Err(_) => None,
                };
                let unknown = || error.diagnostic().mend("run: headwater setup");
                Err(Box::new(finding.unwrap_or_else(unknown)))
            }
            _ => Err(Box::new(error.diagnostic())),
        }
    }

    async fn decide(&self, author: &Author, key: &Key<'_>) -> Result<Verdict, Trouble> {
        let mut client = self.0.pool.get().await?;
        let role = role_of(&self.0.catalog, &client, self.0.config.role.as_deref(), author).await?;
        let deadline = Instant::now() + self.0.config.transaction_timeout;
        let (mut fresh, mut care) = (false, Care::Quick);
        loop {
            let targets = self.targets(&client, &role, key.transaction).await?;
            let attempt = Try {
                config: &self.0.config,
                author,
                role: &role,
                key,
                targets: &targets,
                care,
                deadline,
            };
            let refused = match attempt.run(&mut client).await? {
                Attempt::Decided(verdict) => {
                    self.recorded(&client, author).await;
                    return Ok(verdict);
                }
                // Never answered to an attempt with savepoints, so this happens once.
                Attempt::NeedsSavepoints => {
                    care = Care::Savepoints;
                    continue;
                }
                Attempt::TooLong => {
                    let limit = self.0.config.transaction_timeout;
                    let finding = too_long(key.transaction.operations.len(), limit);
                    self.tell(&finding, "an upload waits");
                    return Ok(Verdict::Retry(Delay::mendable(finding.what.clone(), &finding)));
                }
                Attempt::Outdated if fresh => {
                    return Ok(Verdict::Retry(Delay::passing("the table is being altered")));
                }
                Attempt::Outdated => None,
                // What the description of the catalog says may be old.
                Attempt::Problem(_) if !fresh => None,
                Attempt::Problem(Problem::Rejected(rejection)) => Some(rejection),
                Attempt::Problem(Problem::Waits(finding)) => {
                    self.tell(&finding, "an upload waits");
                    return Ok(Verdict::Retry(Delay::mendable(finding.what.clone(), &finding)));
                }
                Attempt::Problem(Problem::Stop(finding)) => return Err(Trouble::Stop(finding)),
                Attempt::Failed(failure) => match meaning(&failure.error) {
                    Meaning::Retry(reason) => {
                        return Ok(Verdict::Retry(self.postponed(&failure.error, reason)));
                    }
                    Meaning::MissingRight => match self.missing(&client, &role, &failure).await? {
                        Missing::Granted(delay) => return Ok(Verdict::Retry(delay)),
                        Missing::Withheld(rejection) => Some(rejection),
                    },
                    Meaning::MissingPartition => {
                        let finding = no_partition(&failure);
                        self.tell(&finding, "an upload waits");
                        let delay = Delay::mendable(finding.what.clone(), &finding);
                        return Ok(Verdict::Retry(delay));
                    }
                    Meaning::Rejected(error) => {
                        let rejection = in_words(&client, error, &failure).await?;
                        Some(rejection).filter(|it| fresh || !it.may_be_stale())
                    }
                },
                Attempt::Refused(rejection) => {
                    Some(rejection).filter(|it| fresh || !it.may_be_stale())
                }
            };
            if let Some(rejection) = refused {
                let verdict = self.record_rejection(&mut client, key, rejection).await?;
                self.recorded(&client, author).await;
                return Ok(verdict);
            }
            self.0.catalog.forget();
            fresh = true;
        }
    }

    /// Where the transaction's tables are written, each looked up once.
    async fn targets<'a>(
        &self,
        client: &Client,
        role: &str,
        transaction: &'a UploadTransaction,
    ) -> Result<HashMap<&'a str, Result<Target, Problem>>, Trouble> {
        let map = self.0.map.load_full();
        let mut targets: HashMap<&str, Result<Target, Problem>> = HashMap::new();
        for operation in &transaction.operations {
            let output = &*operation.table;
            if targets.contains_key(output) {
                continue;
            }
            let target = self.target(client, role, &map, output).await?;
            targets.insert(output, target);
        }
        Ok(targets)
    }

    async fn target(
        &self,
        client: &Client,
        role: &str,
        map: &UploadMap,
        output: &str,
    ) -> Result<Result<Target, Problem>, Trouble> {
        let mapped = match (map.get(output), map.unknown()) {
            (Some(TableTarget::Table(mapped)), _) => mapped,
            (Some(TableTarget::NotPlain(reason)), _) => {
                return Ok(Err(Problem::rejected(
                    output,
                    Rejection::ours("0A000", reason.clone()),
                )));
            }
            (Some(TableTarget::Waits), _) => {
                let why = "the sync configuration that has it is being built";
                return Ok(Err(Problem::waits(output, why)));
            }
            (None, Unknown::Waits) => {
                return Ok(Err(Problem::waits(output, "no sync configuration is served yet")));
            }
            (None, Unknown::Rejected) => {
                let why = "it is neither in the sync configuration nor under uploads.tables";
                return Ok(Err(Problem::rejected(output, Rejection::ours("42P01", why))));
            }
        };
        let Some(table) = self.0.catalog.table(client, role, &mapped.source).await? else {
            let why = format!("the database has no table {}", mapped.source);
            return Ok(Err(Problem::waits(output, &why)));
        };
        if table.owned_by_role {
            return Ok(Err(Problem::Stop(Box::new(owned(role, &mapped.source)))));
        }
        Ok(Ok(Target { mapped: mapped.clone(), table }))
    }

    /// What a missing right means: an operator grants it, or it was withheld on purpose.
    async fn missing(
        &self,
        client: &Client,
        role: &str,
        failure: &Failure,
    ) -> Result<Missing, Trouble> {
        let error = failure.error.as_server();
        let said = error.map(|error| error.message.as_str()).unwrap_or_default();
        let finding = Diagnostic::error(
            code::ROLE,
            format!("database role \"{role}\" lacks a right that a write of clients needs"),
        );
        // A context says that a trigger, a policy or a default asked for it, which may be for
        // another table. The text has the object's name only.
        let place = failure.place.as_ref().filter(|_| error.is_some_and(|it| it.context.is_none()));
        let rights = match place {
            Some(place) => Rights::read(client, role, &place.source).await?,
            None => None,
        };
        let grants = match (place, &rights) {
            (Some(place), Some(rights)) => rights.grants_for(place.kind),
            _ => Vec::new(),
        };
        if let (Some(place), Some(rights), true) = (place, &rights, grants.is_empty())
            && rights.has_columns(place.kind)
        {
            return Ok(Missing::Withheld(place.refused(Rejection::ours(
                "42501",
                "the role of this user may not write all of these columns",
            ))));
        }
        let written =
            place.map_or_else(|| "of clients".to_owned(), |place| format!("to {}", place.source));
        let finding = finding.at(format!("a write {written}: {said}"));
        // What a default, a constraint or a function in a policy asks for cannot be told from here.
        let finding = finding.mend(match grants.is_empty() {
            false => grants.join(" "),
            true => format!(
                "grant that right to {}, or make the function that needs it SECURITY DEFINER",
                quote_ident(role)
            ),
        });
        self.tell(&finding, "an upload waits");
        let reason = "the database does not let the role of this user write here yet";
        Ok(Missing::Granted(Delay::mendable(reason, &finding)))
    }

    /// Records that a transaction was rejected, unless another request decided it meanwhile. A
    /// rejection that cannot be kept with its operations is kept without.
    async fn record_rejection(
        &self,
        client: &mut Client,
        key: &Key<'_>,
        rejection: Rejection,
    ) -> Result<Verdict, PgError> {
        let entries = Some(key.transaction.entries.get())
            .filter(|entries| entries.len() <= self.0.config.keep.entries_bytes);
        let config = &self.0.config;
        match ledger::reject(client, config, key, &rejection, entries).await {
            Err(error) if entries.is_some() && matches!(meaning(&error), Meaning::Rejected(_)) => {
                ledger::reject(client, config, key, &rejection, None).await
            }
            done => done,
        }
    }

    /// Keeps the records of whoever writes much within bounds.
    async fn recorded(&self, client: &Client, author: &Author) {
        let count = self.0.recorded.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_multiple_of(TRIM_EVERY)
            && let Err(error) = ledger::trim(client, &self.0.config.keep, author).await
        {
            self.postponed(&error, "old records of uploads could not be deleted");
        }
    }

    /// Retried requests must not hide a broken database from the log.
    fn postponed(&self, error: &PgError, reason: &str) -> Delay {
        let text = error.to_string();
        if self.is_new(&text) {
            tracing::warn!(error = %text, "upload postponed: {reason}");
        }
        Delay::passing(reason)
    }

    fn tell(&self, finding: &Diagnostic, what: &str) {
        if self.is_new(&finding.to_string()) {
            Diagnostic { what: format!("{what}: {}", finding.what), ..finding.clone() }.log();
        }
    }

    /// Whether this text has not been logged for a while.
    fn is_new(&self, text: &str) -> bool {
        let mut told = self.0.told.lock();
        let now = Instant::now();
        told.retain(|_, at| now.duration_since(*at) < TOLD_AGAIN_AFTER);
        match told.contains_key(text) {
            true => false,
            false => {
                told.insert(text.to_owned(), now);
                true
            }
        }
    }
}

/// What a missing right turned out to be.
enum Missing {
    /// An operator can grant it.
    Granted(Delay),
    /// Somebody chose the columns that the role may write.
    Withheld(Rejection),
}

/// A transaction whose time is over. Also where others only kept it waiting it is told: it would come again for ever.
fn too_long(operations: usize, limit: Duration) -> Diagnostic {
    let what = format!(
        "the transaction of {operations} operations took longer than {} s",
        limit.as_secs_f64()
    );
    Diagnostic::error(code::TOO_LONG, what).mend(
        "let it take longer, with a larger uploads.transaction_time, until it has come through; write fewer rows in \
         one transaction of the app, or make the triggers of the tables faster",
    )
}

/// A row that belongs into no partition that there is. A trigger may have written it to another table
/// than its author did, which is named by the server alone, and only if it is the author's.
fn no_partition(failure: &Failure) -> Diagnostic {
    let error = failure.error.as_server();
    let place = failure.place.as_ref().filter(|_| error.is_some_and(|it| it.context.is_none()));
    let (table, mend) = match place {
        Some(place) => (
            format!("table {}", place.source),
            format!(
                "make the partition, or one for all others: CREATE TABLE … PARTITION OF {} DEFAULT;",
                place.source
            ),
        ),
        None => ("a table".to_owned(), "make the partition, or a default one".to_owned()),
    };
    Diagnostic::error(code::NOT_SERVED, format!("{table} has no partition for a row yet"))
        .mend(mend)
}

/// The rejection of an error of Postgres, with the names that the catalog confirms: a function may
/// report any text as the name of a column or constraint.
async fn in_words(
    client: &Client,
    error: &ServerError,
    failure: &Failure,
) -> Result<Rejection, PgError> {
    let constraint = match &error.constraint {
        Some(name) if !error.is_raised() && catalog::is_constraint(client, name).await? => {
            Some(name.clone())
        }
        _ => None,
    };
    Ok(match &failure.place {
        None => Rejection::by_server(error, None, constraint),
        Some(place) => place.refused(Rejection::by_server(error, place.column.clone(), constraint)),
    })
}
