//! One try of a transaction: from BEGIN to COMMIT, or to the reason why not.
//!
//! In: an author, the transaction, where its tables are written. Out: an [`Attempt`]. Invariants:
//! the verdict of an earlier request is found before anything else counts; a statement is made when
//! it is its turn and forgotten behind it, so that memory does not grow with the operations.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hw_pg::error::{Doing as _, PgError};
use hw_pg::principal;
use hw_types::{Diagnostic, TableName};
use tokio_postgres::{Client, Transaction};

use crate::catalog::{self, Table};
use crate::code;
use crate::config::UploadConfig;
use crate::ledger::{self, Decided, Key, Known};
use crate::map::MappedTable;
use crate::run::{self, Care, Outcome};
use crate::session::{begin, limit, milliseconds};
use crate::statement::{self, Statement};
use crate::transaction::{Author, OperationKind, UploadOperation};
use crate::verdict::{Rejection, Unwritable, Verdict};

/// Where the operations on one output table go.
pub(crate) struct Target {
    pub(crate) mapped: MappedTable,
    pub(crate) table: Arc<Table>,
}

/// Why an operation cannot be tried.
#[derive(Clone, Debug)]
pub(crate) enum Problem {
    /// It never can.
    Rejected(Rejection),
    /// What it names is configured and not there yet.
    Waits(Box<Diagnostic>),
    /// Nobody can write before a person has acted.
    Stop(Box<Diagnostic>),
}

impl Problem {
    /// The rejection completes the sentence `table "t" cannot be written: …`.
    pub(crate) fn rejected(output: &str, rejection: Rejection) -> Problem {
        Problem::Rejected(Rejection {
            message: format!("table \"{output}\" cannot be written: {}", rejection.message),
            table: Some(output.to_owned()),
            ..rejection
        })
    }

    pub(crate) fn waits(output: &str, why: &str) -> Problem {
        let what = format!("table \"{output}\" cannot be written yet: {why}");
        Problem::Waits(Box::new(Diagnostic::error(code::NOT_SERVED, what)))
    }

    fn of(self, operation: &UploadOperation) -> Problem {
        match self {
            Problem::Rejected(rejection) => {
                Problem::Rejected(Rejection { op_id: Some(operation.op_id), ..rejection })
            }
            other => other,
        }
    }
}

/// What became of a try.
pub(crate) enum Attempt {
    Decided(Verdict),
    /// Refused by the ledger, or by what was found where the row should be.
    Refused(Rejection),
    /// An operation cannot be tried. Nothing happened.
    Problem(Problem),
    /// Postgres refused an operation, or the commit. Nothing happened.
    Failed(Failure),
    /// A table is not what its description says. Nothing happened.
    Outdated,
    /// An operation was refused that has a second way. Nothing happened.
    NeedsSavepoints,
    /// The time of the transaction is over. Nothing happened.
    TooLong,
}

/// An error in the middle of a transaction.
pub(crate) struct Failure {
    pub(crate) error: PgError,
    /// The operation; none at the commit.
    pub(crate) place: Option<Place>,
}

/// Which operation failed, in the words of both sides.
pub(crate) struct Place {
    pub(crate) source: TableName,
    pub(crate) kind: OperationKind,
    op_id: i64,
    output: String,
    /// The client's name of the column that was refused, as far as it can be told.
    pub(crate) column: Option<String>,
}

impl Place {
    fn new(operation: &UploadOperation, target: &Target) -> Place {
        Place {
            source: target.mapped.source.clone(),
            kind: operation.kind,
            op_id: operation.op_id,
            output: operation.table.to_string(),
            column: None,
        }
    }

    /// With the column that the error is about. A function may report any text as one: it counts
    /// when the table has it.
    fn blaming(mut self, error: &PgError, statement: &Statement, target: &Target) -> Place {
        let Some(error) = error.as_server().filter(|error| !error.is_raised()) else { return self };
        let reported = error.column.as_deref().filter(|name| target.table.column(name).is_some());
        self.column = match reported {
            Some(name) => Some(target.mapped.columns.output_name(name).to_owned()),
            None => statement.blamed(error).map(str::to_owned),
        };
        self
    }

    /// The rejection of this operation.
    pub(crate) fn refused(&self, rejection: Rejection) -> Rejection {
        Rejection { op_id: Some(self.op_id), table: Some(self.output.clone()), ..rejection }
    }
}

/// A transaction that is about to be tried.
pub(crate) struct Try<'a> {
    pub(crate) config: &'a UploadConfig,
    pub(crate) author: &'a Author,
    pub(crate) role: &'a str,
    pub(crate) key: &'a Key<'a>,
    pub(crate) targets: &'a HashMap<&'a str, Result<Target, Problem>>,
    pub(crate) care: Care,
    pub(crate) deadline: Instant,
}

impl Try<'_> {
    /// Tries it.
    ///
    /// - Errors: of our own statements.
    pub(crate) async fn run(&self, client: &mut Client) -> Result<Attempt, PgError> {
        let transaction = begin(client).await?;
        let tables: Vec<u32> = self.found().map(|target| target.table.oid).collect();
        let (limits, known, versions) = tokio::join!(
            biased;
            limit(&transaction, self.config),
            ledger::look_up(&transaction, self.key),
            catalog::versions(&transaction, self.role, &tables),
        );
        limits?;
        match known? {
            Known::New => {}
            Known::Decided(Decided::Before(verdict)) => return Ok(Attempt::Decided(verdict)),
            Known::Decided(Decided::Refused(rejection)) => return Ok(Attempt::Refused(rejection)),
        }
        for operation in &self.key.transaction.operations {
            if let Err(problem) = &self.targets[&*operation.table] {
                return Ok(Attempt::Problem(problem.clone().of(operation)));
            }
        }
        let versions: HashMap<u32, String> = versions?.into_iter().collect();
        if self.found().any(|it| versions.get(&it.table.oid) != Some(&it.table.version)) {
            return Ok(Attempt::Outdated);
        }
        let who = self.author.run_as(self.role);
        let (recorded, became) = tokio::join!(
            biased;
            ledger::record(&transaction, self.key, None),
            principal::run_as(&transaction, &who),
        );
        recorded?;
        became?;
        for operation in &self.key.transaction.operations {
            if let Some(over) = self.operation(&transaction, operation).await? {
                return Ok(over);
            }
        }
        if !self.has_time(&transaction).await? {
            return Ok(Attempt::TooLong);
        }
        // Deferred constraints and triggers speak here. A connection that breaks here leaves the
        // outcome open: the client asks again, and the ledger knows.
        match transaction.commit().await {
            Ok(()) => Ok(Attempt::Decided(Verdict::Applied)),
            Err(error) => {
                let error = PgError::from(error).of_users().doing("commit the upload");
                Ok(Attempt::Failed(Failure { error, place: None }))
            }
        }
    }

    /// The tables that were found.
    fn found(&self) -> impl Iterator<Item = &Target> {
        self.targets.values().filter_map(|target| target.as_ref().ok())
    }

    /// Runs an operation. Returns why the try is over, if it is.
    async fn operation(
        &self,
        transaction: &Transaction<'_>,
        operation: &UploadOperation,
    ) -> Result<Option<Attempt>, PgError> {
        let target = match &self.targets[&*operation.table] {
            Ok(target) => target,
            Err(problem) => return Ok(Some(Attempt::Problem(problem.clone().of(operation)))),
        };
        let statement = match statement::build(operation, &target.mapped, &target.table) {
            Ok(statement) => statement,
            Err(Unwritable::Rejected(rejection)) => {
                let problem = Problem::rejected(&operation.table, rejection);
                return Ok(Some(Attempt::Problem(problem.of(operation))));
            }
            Err(Unwritable::Waits(why)) => {
                return Ok(Some(Attempt::Problem(Problem::waits(&operation.table, &why))));
            }
        };
        if !self.has_time(transaction).await? {
            return Ok(Some(Attempt::TooLong));
        }
        Ok(match run::run(transaction, &target.table, &statement, self.care).await {
            Ok(Outcome::Done) => None,
            Ok(Outcome::NeedsSavepoints) => Some(Attempt::NeedsSavepoints),
            Ok(Outcome::Refused(rejection)) => {
                Some(Attempt::Refused(Place::new(operation, target).refused(rejection)))
            }
            // A statement is held to what is left.
            Err(error) if error.sqlstate() == Some("57014") && self.left().is_zero() => {
                Some(Attempt::TooLong)
            }
            Err(error) => {
                let place = Place::new(operation, target).blaming(&error, &statement, target);
                Some(Attempt::Failed(Failure { error, place: Some(place) }))
            }
        })
    }

    /// What is left of the transaction's time, in whole milliseconds.
    fn left(&self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        Duration::from_millis(left.as_millis().try_into().unwrap_or(u64::MAX))
    }

    /// Whether there is time for another statement, which is held to what is left of it.
    async fn has_time(&self, transaction: &Transaction<'_>) -> Result<bool, PgError> {
        let left = self.left();
        if left.is_zero() {
            return Ok(false);
        }
        if left < self.config.statement_timeout {
            let left = milliseconds(left);
            let settings = [("statement_timeout", &*left)];
            principal::set_locally(transaction, &settings).await.doing("limit the upload")?;
        }
        Ok(true)
    }
}
