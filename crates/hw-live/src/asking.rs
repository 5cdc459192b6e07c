//! The asking protocol: what Postgres itself says, as whoever asks, of one moment (`design/engine.md` 11).
//!
//! In: questions. Out: a [`Round`]: an answer each, all from one snapshot, and a published state that holds
//! everything that the snapshot saw. Invariants: verdict and contents come from the same moment; who may see
//! what was the same before and behind the questions, else the round is thrown away, because Postgres reads
//! rows of the snapshot under policies of *now*; nothing that one question sets reaches the next.

use crate::book::{Admitted, Book};
use crate::error::LiveError;
use crate::query::{Key, LiveQuery, News, Question, Record, Wants};
use futures_util::TryStreamExt as _;
use hw_engine::{Engine, Published};
use hw_pg::error::PgError;
use hw_pg::principal::{run_as, set_locally};
use hw_pg::rights::Rights;
use hw_pg::sql::{Pool, PooledClient};
use hw_types::PgSnapshot;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_postgres::types::Type;
use tokio_postgres::{IsolationLevel, Transaction};

/// How values are printed, whatever the database or the login has set (`datasync.md` 7.2).
const PRINTED: [(&str, &str); 5] = [
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
];

/// How often a round is begun anew because who may see what has changed meanwhile.
const TRIES: usize = 5;

/// Bounds of a question.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long Postgres may take.
    pub time: Duration,
    /// Bytes of a result.
    pub bytes: usize,
}

/// Asks Postgres.
pub(crate) struct Asking {
    pub engine: Engine,
    pool: Pool,
    limits: Limits,
    book: Mutex<Book>,
}

/// What was answered.
pub(crate) struct Round {
    /// The moment of all answers.
    pub snapshot: PgSnapshot,
    /// Holds all that the snapshot saw, and perhaps more.
    pub published: Arc<Published>,
    /// Who may see what at that moment, and still when this was published.
    pub rights: Rights,
    /// Published before it was looked a last time at who may see what.
    pub checked: Arc<Published>,
    /// One for each question.
    pub answers: Vec<Answer>,
}

/// What one snapshot answered.
struct Asked {
    snapshot: PgSnapshot,
    published: Arc<Published>,
    answers: Vec<Answer>,
}

/// A result and what it stands on, or why there is none.
pub(crate) type Answer = Result<(News<(Key, Record)>, Admitted), LiveError>;

impl Asking {
    pub fn new(engine: Engine, pool: Pool, limits: Limits) -> Asking {
        Asking { engine, pool, limits, book: Mutex::default() }
    }

    /// Asks.
    ///
    /// - Errors: the source does not answer, or who may see what changes all the time. Those of a question
    ///   are its answer.
    pub async fn round(&self, questions: &[Question]) -> Result<Round, LiveError> {
        let mut client = self.pool.get().await.map_err(|error| LiveError::source(&error))?;
        let mut book = self.book.lock().await;
        for _ in 0..TRIES {
            let before = rights(&client).await?;
            let mut admitted = Vec::with_capacity(questions.len());
            for question in questions {
                let known = book.admit(&mut client, &before, question).await;
                admitted.push(known.map_err(|error| LiveError::source(&error))?);
            }
            let asked = self.ask(&mut client, questions, admitted).await?;
            let checked = self.engine.published();
            if rights(&client).await? == before {
                let Asked { snapshot, published, answers } = asked;
                return Ok(Round { snapshot, published, rights: before, checked, answers });
            }
            book.forget();
            metrics::counter!("headwater_live_rounds_thrown_away_total").increment(1);
        }
        Err(LiveError::Unsettled)
    }

    /// Who may see what now.
    pub async fn rights_now(&self) -> Result<Rights, LiveError> {
        let client = self.pool.get().await.map_err(|error| LiveError::source(&error))?;
        rights(&client).await
    }

    async fn ask(
        &self,
        client: &mut PooledClient,
        questions: &[Question],
        admitted: Vec<Result<Admitted, LiveError>>,
    ) -> Result<Asked, LiveError> {
        let failed = |error: PgError| LiveError::source(&error);
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await
            .map_err(|error| failed(error.into()))?;
        let time = self.limits.time.as_millis().to_string();
        let bounds = PRINTED.into_iter().chain([("statement_timeout", &*time)]);
        set_locally(&transaction, &bounds.collect::<Vec<_>>()).await.map_err(failed)?;
        let row = transaction.query_one("SELECT pg_catalog.pg_current_snapshot()::text", &[]).await;
        let text: String =
            row.and_then(|row| row.try_get(0)).map_err(|error| failed(error.into()))?;
        let snapshot: PgSnapshot =
            text.parse().map_err(|_| LiveError::Source("it has no snapshot".into()))?;
        // Sent behind the snapshot: what that saw stands before it in the log.
        let published =
            self.engine.arrival().await.map_err(|error| LiveError::Source(error.to_string()))?;
        let mut answers = Vec::with_capacity(questions.len());
        for (question, admitted) in questions.iter().zip(admitted) {
            answers.push(match admitted {
                Ok(admitted) => {
                    self.answer(&transaction, question).await?.map(|found| (found, admitted))
                }
                Err(refused) => Err(refused),
            });
        }
        transaction.commit().await.map_err(|error| failed(error.into()))?;
        Ok(Asked { snapshot, published, answers })
    }

    /// Asks one question, and forgets all that it has set.
    ///
    /// - Errors: the connection is lost. The answer may be an error as well.
    async fn answer(
        &self,
        transaction: &Transaction<'_>,
        question: &Question,
    ) -> Result<Result<News<(Key, Record)>, LiveError>, LiveError> {
        let lost = |error: tokio_postgres::Error| LiveError::source(&error.into());
        transaction.batch_execute("SAVEPOINT question").await.map_err(lost)?;
        let became = run_as(transaction, &question.who).await;
        let answer = match became {
            Ok(()) => self.result(transaction, &question.query).await,
            Err(error) => Err(error.into()),
        };
        // Back to our own role, and to the settings that held before.
        transaction.batch_execute("ROLLBACK TO SAVEPOINT question").await.map_err(lost)?;
        // The connection is alive: whatever failed is about this question alone.
        match answer {
            Err(Failed::Postgres(error)) => Ok(Err(refused(error))),
            Err(Failed::NoKey) => Ok(Err(LiveError::Query {
                sqlstate: String::from("23502"),
                message: String::from("a row of the result has no key"),
            })),
            Err(Failed::TooLarge) => Ok(Err(LiveError::TooLarge(self.limits.bytes))),
            Ok(result) => Ok(Ok(result)),
        }
    }

    async fn result(
        &self,
        transaction: &Transaction<'_>,
        query: &LiveQuery,
    ) -> Result<News<(Key, Record)>, Failed> {
        let parameters = query.rows.parameters.iter().map(|text| (text, Type::TEXT));
        let text = &query.rows.text;
        if query.wants == Wants::Count {
            let count = format!("SELECT pg_catalog.count(*) FROM ({text}) AS result");
            let mut rows = pin!(transaction.query_typed_raw(&count, parameters).await?);
            let mut number: i64 = 0;
            while let Some(row) = rows.try_next().await? {
                number = row.try_get(0)?;
            }
            return Ok(News::Count(u64::try_from(number).unwrap_or_default()));
        }
        let mut rows = pin!(transaction.query_typed_raw(text, parameters).await?);
        let (mut result, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            let (key, record): (Option<&str>, &str) = (row.try_get(0)?, row.try_get(1)?);
            let Some(key) = key else { return Err(Failed::NoKey) };
            bytes += key.len() + record.len();
            if bytes > self.limits.bytes {
                return Err(Failed::TooLarge);
            }
            result.push((Key::from(key), Record::new(record)));
        }
        Ok(News::Rows(result))
    }
}

async fn rights(client: &PooledClient) -> Result<Rights, LiveError> {
    Rights::read(client).await.map_err(|error| LiveError::source(&error))
}

/// Why a question has no result.
enum Failed {
    Postgres(PgError),
    TooLarge,
    NoKey,
}

impl<E: Into<PgError>> From<E> for Failed {
    fn from(error: E) -> Failed {
        Failed::Postgres(error.into())
    }
}

/// What whoever asked is told of an error of the server. It may be one of a policy, about rows of others.
fn refused(error: PgError) -> LiveError {
    let error = error.of_users();
    let server = error.as_server();
    LiveError::Query {
        sqlstate: server.map(|error| error.sqlstate.clone()).unwrap_or_default(),
        message: server.map_or_else(|| error.to_string(), |error| error.safe_message()),
    }
}
