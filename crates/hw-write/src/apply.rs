//! Runs the transactions of a client, one Postgres transaction each.
//!
//! The life of one: look its key up under Headwater's own role; record it as applied; become the
//! author (role, claims); run its operations; commit. When an operation or the commit is refused
//! everything is rolled back, and a second transaction records the rejection. So a reply that was
//! lost finds its verdict again, and a refused write does not stand in the way of the next.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hw_pg::config::ConnectConfig;
use hw_pg::error::{Doing as _, PgError, PgErrorKind};
use hw_pg::sql::Pool;
use hw_types::Diagnostic;
use serde::Deserialize;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, IsolationLevel, Transaction};

use crate::catalog::{self, Catalog, RoleStanding, Table};
use crate::ledger::{self, Decided, Key, Known};
use crate::map::{ColumnMap, TableTarget, UploadMap};
use crate::run::{self, Care, Outcome};
use crate::schema;
use crate::statement::{self, Statement};
use crate::transaction::{Author, AuthorRole, UploadOperation, UploadTransaction};
use crate::verdict::{Meaning, Rejection, Verdict, meaning};

/// How writes run.
#[derive(Clone, Debug)]
pub struct UploadConfig {
    /// The database role of authors whose token chose none. `None`: the first of
    /// `ihp_authenticated`, `authenticated`, `headwater_authenticated` that exists.
    pub role: Option<String>,
    /// How long one operation may take. Default 30 s.
    pub statement_timeout: Duration,
    /// How long an operation may wait for a lock. Default 5 s.
    pub lock_timeout: Duration,
    /// For how many days records are kept. Default 30.
    pub keep_days: u16,
}

impl Default for UploadConfig {
    fn default() -> UploadConfig {
        UploadConfig {
            role: None,
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(5),
            keep_days: 30,
        }
    }
}

/// Why no transaction of the request was looked at, or no further one. A person must act; the
/// client keeps its queue and tries again later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UploadError(pub Box<Diagnostic>);

/// HW4301: the role of a write cannot be used: it is missing, stands above row level security, or
/// is not ours to take.
pub const ROLE: u16 = 4301;
/// HW4302: the role of a write owns the table, so that its policies would not hold.
pub const OWNED_TABLE: u16 = 4302;
/// HW4303: a token asks for a database role that `auth.allowed_roles` does not list.
pub const ROLE_NOT_ALLOWED: u16 = 4303;
/// HW5301: the tables of writes are not there; `headwater setup` creates them.
pub const NOT_SET_UP: u16 = 5301;

/// The claim `role` of every signed-in user of services such as Supabase.
const SIGNED_IN: &str = "authenticated";

/// How long a transaction waits for a connection before it is told to come again.
const POOL_WAIT: Duration = Duration::from_secs(5);

/// The write side of the engine. Cheap to clone; clones share their memory of the catalog.
#[derive(Clone)]
pub struct Uploads(Arc<Inner>);

struct Inner {
    pool: Pool,
    config: UploadConfig,
    map: ArcSwap<UploadMap>,
    catalog: Catalog,
}

impl Uploads {
    /// Writes through this pool, whose login is Headwater's own role. Until [`Uploads::set_map`]
    /// every write is rejected as unknown.
    pub fn new(pool: Pool, config: UploadConfig) -> Uploads {
        Uploads(Arc::new(Inner {
            pool,
            config,
            map: ArcSwap::default(),
            catalog: Catalog::default(),
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

    /// Takes over where output tables are written, at start and whenever the sync configuration
    /// changes.
    pub fn set_map(&self, map: UploadMap) {
        self.0.map.store(Arc::new(map));
    }

    /// Applies transactions in order.
    ///
    /// - Returns: a verdict for each, in order. After the first [`Verdict::Retry`] all others are
    ///   too, untouched, so that the order is kept.
    /// - Errors: [`UploadError`]. Transactions before it may have been applied; they are
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
                Some(Verdict::Retry(_)) => {
                    Verdict::Retry("a transaction before it has to be retried first".to_owned())
                }
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

    /// Deletes records that are older than the configured number of days; call it about once an
    /// hour. Returns the number of records deleted.
    pub async fn purge(&self) -> Result<u64, PgError> {
        let client = self.0.pool.get().await?;
        ledger::purge(&client, self.0.config.keep_days.into()).await
    }

    async fn apply_one(
        &self,
        author: &Author,
        client_id: &str,
        transaction: &UploadTransaction,
    ) -> Result<Verdict, UploadError> {
        let contents = transaction.contents();
        let key = Key { subject: &author.subject, client_id, transaction, contents };
        match self.decide(author, &key).await {
            Ok(verdict) => Ok(verdict),
            Err(Trouble::Stop(error)) => Err(error),
            Err(Trouble::Postgres(error)) => match meaning(&error) {
                // Retried requests must not hide a broken database from the log.
                Meaning::Retry(reason) => {
                    tracing::warn!(%error, "upload postponed");
                    Ok(Verdict::Retry(reason))
                }
                Meaning::Rejected(_) => self.explain(error).await,
            },
        }
    }

    /// Turns an error of our own statements, which the transaction is not to blame for, into what
    /// a person can do about it.
    async fn explain(&self, error: PgError) -> Result<Verdict, UploadError> {
        let PgErrorKind::Server(server) = error.kind() else {
            return Ok(Verdict::Retry("the connection to the database failed".to_owned()));
        };
        let finding = match server.sqlstate.as_str() {
            "42P01" | "3F000" => not_set_up(),
            // Two requests of one client met in the ledger; the second finds the first's record.
            "23505" => return Ok(Verdict::Retry("the write met a concurrent one".to_owned())),
            "42501" => {
                let installed = match self.0.pool.get().await {
                    Ok(client) => schema::is_installed(&client).await.unwrap_or(true),
                    Err(_) => true,
                };
                if installed { error.diagnostic() } else { not_set_up() }
            }
            _ => error.diagnostic(),
        };
        Err(UploadError(Box::new(finding)))
    }

    async fn decide(&self, author: &Author, key: &Key<'_>) -> Result<Verdict, Trouble> {
        let mut client = self.0.pool.get().await?;
        let role = self.role_of(author, &client).await?;
        let (mut fresh, mut care) = (false, Care::Quick);
        loop {
            let attempt = match self.plan(&client, &role, key.transaction).await? {
                // Refused by a description that may be old.
                Err(_) if !fresh => Attempt::Outdated,
                Err(rejection) => Attempt::Refused(rejection),
                Ok(plan) => self.attempt(&mut client, author, &role, key, plan, care).await?,
            };
            match attempt {
                Attempt::Decided(verdict) => return Ok(verdict),
                // The table may have changed since its description was read: once more.
                Attempt::Refused(rejection) if rejection.may_be_stale() && !fresh => {}
                Attempt::Refused(rejection) => {
                    return Ok(self.record_rejection(&mut client, key, rejection).await?);
                }
                Attempt::Outdated if fresh => {
                    let reason = "the table is being altered";
                    return Ok(Verdict::Retry(reason.to_owned()));
                }
                Attempt::Outdated => {}
                // Never answered to an attempt with savepoints, so this happens once.
                Attempt::NeedsSavepoints => {
                    care = Care::Savepoints;
                    continue;
                }
            }
            self.0.catalog.forget_tables();
            fresh = true;
        }
    }

    async fn role_of(&self, author: &Author, client: &Client) -> Result<String, Trouble> {
        let catalog = &self.0.catalog;
        let role = match &author.role {
            AuthorRole::Chosen(role) => role.clone(),
            AuthorRole::Configured | AuthorRole::NotAllowed(_) => self.own_role(client).await?,
        };
        if let AuthorRole::NotAllowed(claim) = &author.role {
            // What hosted services write into the token of every user who is signed in.
            let usual = self.0.config.role.is_none() && claim == SIGNED_IN;
            if *claim != role && !usual {
                return Err(stop(
                    Diagnostic::error(
                        ROLE_NOT_ALLOWED,
                        "a token asks to write with a database role that it may not choose",
                    )
                    .mend(
                        "add the role to auth.allowed_roles and grant it to Headwater's login, or \
                         leave the claim \"role\" out of the tokens",
                    ),
                ));
            }
        }
        let refused =
            |what: &str| Diagnostic::error(ROLE, format!("database role \"{role}\" {what}"));
        match catalog.role(client, &role).await? {
            RoleStanding::Usable => Ok(role),
            RoleStanding::Missing => {
                Err(stop(refused("does not exist").mend("run: headwater setup")))
            }
            RoleStanding::AboveThePolicies => Err(stop(
                refused("is a superuser or has BYPASSRLS, so row level security would not hold")
                    .mend(format!(
                        "ALTER ROLE {} NOSUPERUSER NOBYPASSRLS;",
                        hw_types::relation::quote_ident(&role)
                    )),
            )),
            RoleStanding::NotOurs(login) => {
                Err(stop(refused(&format!("cannot be taken by \"{login}\"")).mend(format!(
                    "GRANT {} TO {};",
                    hw_types::relation::quote_ident(&role),
                    hw_types::relation::quote_ident(&login)
                ))))
            }
        }
    }

    /// The role that writes when a token chooses none.
    async fn own_role(&self, client: &Client) -> Result<String, Trouble> {
        if let Some(role) = &self.0.config.role {
            return Ok(role.clone());
        }
        self.0.catalog.usual_role(client).await?.ok_or_else(|| {
            stop(
                Diagnostic::error(ROLE, "there is no database role for writes")
                    .mend("run: headwater setup"),
            )
        })
    }

    /// The statements of a transaction, or why there are none.
    async fn plan<'a>(
        &self,
        client: &Client,
        role: &str,
        transaction: &'a UploadTransaction,
    ) -> Result<Result<Vec<Step<'a>>, Rejection>, Trouble> {
        let map = self.0.map.load_full();
        let mut steps = Vec::with_capacity(transaction.operations.len());
        for operation in &transaction.operations {
            let refuse = |rejection: Rejection| Rejection {
                op_id: Some(operation.op_id),
                message: format!(
                    "table \"{}\" cannot be written: {}",
                    operation.table, rejection.message
                ),
                table: Some(operation.table.clone()),
                ..rejection
            };
            let mapped = match map.get(&operation.table) {
                Some(TableTarget::Table(mapped)) => mapped,
                Some(TableTarget::NotPlain(reason)) => {
                    return Ok(Err(refuse(Rejection::ours("0A000", reason.clone()))));
                }
                None => {
                    return Ok(Err(refuse(Rejection::ours(
                        "42P01",
                        "it is neither in the sync configuration nor under uploads.tables",
                    ))));
                }
            };
            let Some(table) = self.0.catalog.table(client, role, &mapped.source).await? else {
                return Ok(Err(refuse(Rejection::ours(
                    "42P01",
                    "its table does not exist in the database",
                ))));
            };
            if table.owned_by_role {
                return Err(stop(
                    Diagnostic::error(
                        OWNED_TABLE,
                        format!(
                            "database role \"{role}\" has the rights of the owner of {}, so its \
                             row level security would not hold",
                            mapped.source
                        ),
                    )
                    .mend(format!("ALTER TABLE {} FORCE ROW LEVEL SECURITY;", table.quoted)),
                ));
            }
            match statement::build(operation, mapped, &table) {
                Ok(statement) => {
                    let names = mapped.columns.clone();
                    steps.push(Step { operation, statement, names, table });
                }
                Err(rejection) => return Ok(Err(refuse(rejection))),
            }
        }
        Ok(Ok(steps))
    }

    async fn attempt(
        &self,
        client: &mut Client,
        author: &Author,
        role: &str,
        key: &Key<'_>,
        steps: Vec<Step<'_>>,
        care: Care,
    ) -> Result<Attempt, Trouble> {
        let transaction = begin(client).await?;
        let tables: Vec<u32> = steps.iter().map(|step| step.table.oid).collect();
        let (limits, known, versions) = tokio::join!(
            biased;
            self.limit(&transaction),
            ledger::look_up(&transaction, key),
            catalog::versions(&transaction, &tables),
        );
        limits?;
        match known? {
            Known::New => {}
            Known::Decided(Decided::Before(verdict)) => return Ok(Attempt::Decided(verdict)),
            Known::Decided(Decided::Refused(rejection)) => return Ok(Attempt::Refused(rejection)),
        }
        let versions: HashMap<u32, String> = versions?.into_iter().collect();
        if steps.iter().any(|step| versions.get(&step.table.oid) != Some(&step.table.version)) {
            return Ok(Attempt::Outdated);
        }
        let (recorded, became) = tokio::join!(
            biased;
            ledger::record(&transaction, key, None),
            self.become_author(&transaction, author, role),
        );
        recorded?;
        became?;
        for step in &steps {
            match run::run(&transaction, &step.table, &step.statement, care).await {
                Ok(Outcome::Done) => {}
                Ok(Outcome::Refused(rejection)) => {
                    return Ok(Attempt::Refused(step.rejected(rejection)));
                }
                Ok(Outcome::NeedsSavepoints) => return Ok(Attempt::NeedsSavepoints),
                Err(error) => match meaning(&error) {
                    Meaning::Rejected(rejection) => {
                        return Ok(Attempt::Refused(step.rejected(rejection)));
                    }
                    Meaning::Retry(_) => return Err(error.into()),
                },
            }
        }
        // Deferred constraints speak here. A connection that breaks here leaves the outcome open:
        // the client asks again, and the ledger knows.
        if let Err(error) = transaction.commit().await.doing("commit the upload") {
            return match meaning(&error) {
                Meaning::Rejected(rejection) => Ok(Attempt::Refused(rejection)),
                Meaning::Retry(_) => Err(error.into()),
            };
        }
        Ok(Attempt::Decided(Verdict::Applied))
    }

    /// Takes role and claims of the author until the transaction ends, in one statement.
    /// Source: `protocols/datasync.md` 12, "OURS".
    async fn become_author(
        &self,
        transaction: &Transaction<'_>,
        author: &Author,
        role: &str,
    ) -> Result<(), PgError> {
        let claimed = claimed_role(&author.claims_json);
        let settings = [
            ("rls.ihp_user_id", author.subject.clone()),
            ("request.jwt.claims", author.claims_json.to_string()),
            ("request.jwt.claim.sub", author.subject.clone()),
            ("request.jwt.claim.role", claimed.unwrap_or_else(|| role.to_owned())),
            ("role", role.to_owned()),
        ];
        set_locally(transaction, &settings).await.doing("take the role of the author")
    }

    /// Bounds every wait of the transaction, the one for another request of the same client too.
    async fn limit(&self, transaction: &Transaction<'_>) -> Result<(), PgError> {
        let milliseconds = |time: Duration| time.as_millis().to_string();
        let settings = [
            ("statement_timeout", milliseconds(self.0.config.statement_timeout)),
            ("lock_timeout", milliseconds(self.0.config.lock_timeout)),
        ];
        set_locally(transaction, &settings).await.doing("limit the upload")
    }

    /// Records that a transaction was rejected, unless another request decided it meanwhile.
    async fn record_rejection(
        &self,
        client: &mut Client,
        key: &Key<'_>,
        rejection: Rejection,
    ) -> Result<Verdict, PgError> {
        let transaction = begin(client).await?;
        let (limits, known) =
            tokio::join!(biased; self.limit(&transaction), ledger::look_up(&transaction, key));
        limits?;
        let rejection = match known? {
            Known::Decided(Decided::Before(verdict)) => return Ok(verdict),
            Known::Decided(Decided::Refused(refused)) => {
                ledger::keep_rejected(&transaction, key, &refused).await?;
                refused
            }
            Known::New => {
                ledger::record(&transaction, key, Some(&rejection)).await?;
                ledger::keep_rejected(&transaction, key, &rejection).await?;
                rejection
            }
        };
        transaction.commit().await.doing("record the rejected write")?;
        Ok(Verdict::Rejected(rejection))
    }
}

/// Sets settings until the transaction ends, in one statement. The names are ours.
async fn set_locally(
    transaction: &Transaction<'_>,
    settings: &[(&str, String)],
) -> Result<(), tokio_postgres::Error> {
    let calls: Vec<String> = settings
        .iter()
        .enumerate()
        .map(|(index, (name, _))| format!("pg_catalog.set_config('{name}', ${}, true)", index + 1))
        .collect();
    let values: Vec<(&(dyn ToSql + Sync), Type)> =
        settings.iter().map(|(_, value)| (value as &(dyn ToSql + Sync), Type::TEXT)).collect();
    transaction.query_typed(&format!("SELECT {}", calls.join(", ")), &values).await.map(drop)
}

/// One operation, ready to run.
struct Step<'a> {
    operation: &'a UploadOperation,
    statement: Statement,
    names: ColumnMap,
    table: Arc<Table>,
}

impl Step<'_> {
    /// The rejection in the client's words.
    fn rejected(&self, rejection: Rejection) -> Rejection {
        Rejection {
            op_id: Some(self.operation.op_id),
            table: Some(self.operation.table.clone()),
            column: rejection.column.map(|column| self.names.output_name(&column).to_owned()),
            ..rejection
        }
    }
}

enum Attempt {
    Decided(Verdict),
    Refused(Rejection),
    /// A table is not what the plan took it for. Nothing happened.
    Outdated,
    /// An operation was refused that has a second way. Nothing happened.
    NeedsSavepoints,
}

enum Trouble {
    /// An error outside of the author's own statements.
    Postgres(PgError),
    /// A person must act.
    Stop(UploadError),
}

impl From<PgError> for Trouble {
    fn from(error: PgError) -> Trouble {
        Trouble::Postgres(error)
    }
}

fn stop(finding: Diagnostic) -> Trouble {
    Trouble::Stop(UploadError(Box::new(finding)))
}

fn not_set_up() -> Diagnostic {
    Diagnostic::error(NOT_SET_UP, "this database is not set up for writes")
        .at("schema headwater, tables of uploads")
        .mend("run: headwater setup")
}

async fn begin(client: &mut Client) -> Result<Transaction<'_>, PgError> {
    client
        .build_transaction()
        // The ledger and ON CONFLICT count on each statement seeing what was committed before it.
        .isolation_level(IsolationLevel::ReadCommitted)
        .read_only(false)
        .start()
        .await
        .doing("begin the upload")
}

/// The claim `role`, whatever it names, so that policies written for PostgREST and Supabase read
/// the same in `request.jwt.claim.role` as in `request.jwt.claims`.
fn claimed_role(claims_json: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        role: Option<serde_json::Value>,
    }
    let claims: Claims = serde_json::from_str(claims_json).ok()?;
    claims.role?.as_str().map(str::to_owned)
}
