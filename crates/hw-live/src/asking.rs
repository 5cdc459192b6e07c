//! The asking protocol: what Postgres itself says, as whoever asks, of one moment (`design/engine.md` 11).
//!
//! In: questions. Out: a [`Round`]: an answer each, all from one snapshot, and a published state that holds
//! everything that the snapshot saw. Invariants: verdict and contents come from the same moment; who may see
//! what, and in which files rows lie, was the same before and behind the questions, else the round is thrown away,
//! because Postgres reads rows of the snapshot under policies of *now* and from files of *now*; nothing that one
//! question sets reaches the next. Rounds go on beside each other, and each of them keeps all this by itself; all
//! that they share is what was read of policies, which is as of rights that every round compares by itself. Whoever
//! has looked at who may see what finds that all that stood on something else has given way.

use crate::book::{Admitted, Book, Reads};
use crate::error::LiveError;
use crate::lanes::Bounds;
use crate::query::{Key, Question, Record, Wants};
use crate::result::{Answered, MOST_GROUP_BYTES, MOST_GROUPS};
use crate::unseen::{Place, View};
use crate::window::Fetched;
use futures_util::TryStreamExt as _;
use hw_engine::{Engine, Published};
use hw_pg::error::PgError;
use hw_pg::principal::{run_as, set_locally};
use hw_pg::rights::Rights;
use hw_pg::sql::{Pool, PooledClient};
use hw_types::{FullXid, PgSnapshot, RunAs, TableName, Xid};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, IsolationLevel, Transaction};

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

/// What a snapshot sees, and the next id that is to be given: the age of the first id that there ever was, which
/// has 32 bits. (`pg_snapshot_xmax` is the one behind the last that has *ended*.)
const VIEW: &str =
    "SELECT pg_catalog.pg_current_snapshot()::text, pg_catalog.age('3'::pg_catalog.xid)";
const FIRST_XID: u32 = 3;

/// In which files the rows of tables lie, and of those that are read with them. A table that was emptied or written
/// anew behind a snapshot is empty for it, whatever the snapshot says.
///
/// - Takes: schemas and names; whether all tables count.
const FILES: &str = "\
WITH RECURSIVE own AS (
  SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS read(schema, name)
    ON read.schema = n.nspname AND read.name = c.relname
  WHERE c.relkind IN ('r', 'p', 'm', 'f') AND (read.name IS NOT NULL OR $3::boolean
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname NOT LIKE 'pg\\_temp\\_%')
  UNION
  SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN own ON own.oid = i.inhparent)
SELECT coalesce(pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, pg_catalog.pg_relation_filenode(oid)), ','
                                      ORDER BY oid), '') FROM own";

/// Asks Postgres.
pub(crate) struct Asking {
    pub engine: Engine,
    pool: Pool,
    /// Bytes of a result.
    result_bytes: usize,
    book: Mutex<Book>,
    /// As of which rights the book is.
    looked: parking_lot::Mutex<Rights>,
}

/// What was answered.
pub(crate) struct Round {
    /// Where publication stood before the snapshot was taken.
    pub before: Place,
    /// The moment of all answers.
    pub view: View,
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
    before: Place,
    view: View,
    published: Arc<Published>,
    answers: Vec<Answer>,
}

/// What became of a question.
pub(crate) enum Answer {
    /// A result, what it stands on, and how long it took.
    Result(Answered, Box<Admitted>, Duration),
    /// There is none.
    Refused(LiveError),
    /// It takes longer than questions of this round may.
    Slow,
    /// The round was full before it came to its turn.
    Unasked,
}

impl Asking {
    pub fn new(engine: Engine, pool: Pool, result_bytes: usize) -> Asking {
        let (book, looked) = Default::default();
        Asking { engine, pool, result_bytes, book, looked }
    }

    /// Asks, within bounds.
    ///
    /// - Errors: the source does not answer, or who may see what changes all the time. Those of a question
    ///   are its answer.
    pub async fn round(&self, bounds: &Bounds, questions: &[Question]) -> Result<Round, LiveError> {
        let round = tokio::time::timeout(bounds.all, self.try_round(bounds, questions)).await;
        round.unwrap_or_else(|_| Err(LiveError::Source("it takes too long".into())))
    }

    async fn try_round(&self, bounds: &Bounds, questions: &[Question]) -> Result<Round, LiveError> {
        let mut client = self.client().await?;
        for _ in 0..TRIES {
            let before = self.look(&mut client).await?;
            let mut admitted = Vec::with_capacity(questions.len());
            {
                let mut book = self.book.lock().await;
                for question in questions {
                    let known = book.admit(&mut client, &before, question).await;
                    match known.map_err(|error| LiveError::source(&error))? {
                        Some(known) => admitted.push(known),
                        None => break,
                    }
                }
            }
            if admitted.len() < questions.len() {
                thrown_away();
                continue;
            }
            let reads = Reads::of_all(admitted.iter().flatten().map(|known| &*known.reads));
            let lay = files(&client, &reads).await?;
            let asked = self.ask(bounds, &mut client, questions, admitted).await?;
            let checked = self.engine.published();
            let again =
                async { before.again(&*client).await.map_err(|error| LiveError::source(&error)) };
            let (now, lie) = tokio::try_join!(again, files(&client, &reads))?;
            if now == before && lie == lay {
                let Asked { before: place, view, published, answers } = asked;
                let rights = before;
                return Ok(Round { before: place, view, published, rights, checked, answers });
            }
            if now != before {
                self.doubt(&before).await;
            }
            thrown_away();
        }
        Err(LiveError::Unsettled)
    }

    async fn client(&self) -> Result<PooledClient, LiveError> {
        self.pool.get().await.map_err(|error| LiveError::source(&error))
    }

    /// Who may see what now.
    pub async fn rights_now(&self) -> Result<Rights, LiveError> {
        self.look(&mut self.client().await?).await
    }

    /// Who may see what now. What was read of anything that is not so any more has given way when this returns.
    async fn look(&self, client: &mut PooledClient) -> Result<Rights, LiveError> {
        let failed = |error: PgError| LiveError::source(&error);
        for _ in 0..TRIES {
            let known = self.looked.lock().clone();
            let now = known.again(&**client).await.map_err(failed)?;
            if !now.may_have_changed_since(&known) {
                return Ok(now);
            }
            let mut book = self.book.lock().await;
            if let Some(rights) = book.renew(client).await.map_err(failed)? {
                *self.looked.lock() = rights.clone();
                return Ok(rights);
            }
        }
        Err(LiveError::Unsettled)
    }

    /// What was read as of these rights was read while they changed.
    async fn doubt(&self, rights: &Rights) {
        let mut book = self.book.lock().await;
        book.doubt(rights);
        *self.looked.lock() = Rights::default();
    }

    /// What snapshots see now, and where publication stood before.
    pub async fn view_now(&self) -> Result<(Place, View), LiveError> {
        let client = self.client().await?;
        let before = Place::of(&self.engine.published());
        Ok((before, view(&*client).await?))
    }

    async fn ask(
        &self,
        bounds: &Bounds,
        client: &mut PooledClient,
        questions: &[Question],
        admitted: Vec<Result<Admitted, LiveError>>,
    ) -> Result<Asked, LiveError> {
        let failed = |error: PgError| LiveError::source(&error);
        let before = Place::of(&self.engine.published());
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await
            .map_err(|error| failed(error.into()))?;
        let time = bounds.question.as_millis().to_string();
        let settings = PRINTED.into_iter().chain([("statement_timeout", &*time)]);
        set_locally(&transaction, &settings.collect::<Vec<_>>()).await.map_err(failed)?;
        let view = view(&transaction).await?;
        // Sent behind the snapshot: what that saw stands before it in the log.
        let published =
            self.engine.arrival().await.map_err(|error| LiveError::Source(error.to_string()))?;
        let (began, mut bytes, mut is_first) = (Instant::now(), 0, true);
        let mut answers = Vec::with_capacity(questions.len());
        let mut asker: Option<&RunAs> = None;
        for (question, admitted) in questions.iter().zip(admitted) {
            let answer = match admitted {
                Err(refused) => Answer::Refused(refused),
                Ok(_)
                    if !is_first
                        && (began.elapsed() > bounds.questions || bytes > bounds.bytes) =>
                {
                    Answer::Unasked
                }
                Ok(admitted) => {
                    is_first = false;
                    let asked = Instant::now();
                    let who = &question.who.run_as;
                    if asker.replace(who).is_none_or(|before| *before != **who) {
                        // What was planned for one, with what it found of rights and settings, stays
                        // with the session behind savepoints and transactions, and would hold for the
                        // next; also where a round is begun anew.
                        let discarded = transaction.batch_execute("DISCARD PLANS").await;
                        discarded.map_err(|error| failed(error.into()))?;
                    }
                    match self.answer(&transaction, question).await? {
                        Ok((result, size)) => {
                            bytes += size;
                            Answer::Result(result, Box::new(admitted), asked.elapsed())
                        }
                        Err(error) if bounds.is_patient && error.is_timeout() => Answer::Slow,
                        Err(error) => Answer::Refused(error),
                    }
                }
            };
            answers.push(answer);
        }
        transaction.commit().await.map_err(|error| failed(error.into()))?;
        Ok(Asked { before, view, published, answers })
    }

    /// Asks one question, and forgets all that it has set. A result comes with its size in bytes.
    ///
    /// - Errors: the connection is lost. The answer may be an error as well.
    async fn answer(
        &self,
        transaction: &Transaction<'_>,
        question: &Question,
    ) -> Result<Result<Weighed, LiveError>, LiveError> {
        let lost = |error: tokio_postgres::Error| LiveError::source(&error.into());
        transaction.batch_execute("SAVEPOINT question").await.map_err(lost)?;
        let became = run_as(transaction, &question.who.run_as).await;
        let answer = match became {
            Ok(()) => self.result(transaction, question).await,
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
            Err(Failed::TooLarge) => Ok(Err(LiveError::TooLarge(self.result_bytes))),
            Err(Failed::TooManyGroups) => Ok(Err(LiveError::TooManyGroups)),
            Ok(result) => Ok(Ok(result)),
        }
    }

    async fn result(
        &self,
        transaction: &Transaction<'_>,
        Question { query, parameters, .. }: &Question,
    ) -> Result<Weighed, Failed> {
        let parameters = parameters.iter().map(|text| (text, Type::TEXT));
        let mut rows = pin!(transaction.query_typed_raw(&query.rows.text, parameters).await?);
        let is_grouped = matches!(query.wants, Wants::Groups(_));
        let states = is_grouped.then(Vec::new);
        let mut answered = Answered { rows: Vec::new(), states, window: None };
        let mut fetched = query.window.as_ref().map(|_| Vec::new());
        let (mut bytes, mut is_cut) = (0, false);
        while let Some(row) = rows.try_next().await? {
            let (key, record): (Option<&str>, &str) = (row.try_get(0)?, row.try_get(1)?);
            let Some(key) = key else { return Err(Failed::NoKey) };
            bytes += key.len() + record.len();
            if bytes > self.result_bytes {
                match (&query.window, &fetched) {
                    // What is behind the window can be done without.
                    (Some(first), Some(fetched)) if fetched.len() >= first.end() => {
                        is_cut = true;
                        break;
                    }
                    _ => return Err(Failed::TooLarge),
                }
            }
            if let Some(fetched) = &mut fetched {
                let place = row.try_get::<_, &str>(2)?;
                fetched.push((Key::from(key), Record::new(record), Box::from(place)));
                continue;
            }
            if let Some(states) = &mut answered.states {
                if states.len() == MOST_GROUPS || bytes > MOST_GROUP_BYTES {
                    return Err(Failed::TooManyGroups);
                }
                states.push(row.try_get::<_, &str>(2)?.into());
            }
            answered.rows.push((Key::from(key), Record::new(record)));
        }
        if let Some((first, rows)) = query.window.as_ref().zip(fetched) {
            let told = rows.iter().skip(first.offset).take(first.limit);
            answered.rows = told.map(|(key, record, _)| (key.clone(), record.clone())).collect();
            let is_whole = !is_cut && rows.len() < first.end() + first.beyond;
            answered.window = Some(Fetched { rows, is_whole });
        }
        Ok((answered, bytes))
    }
}

/// A result with its size in bytes.
type Weighed = (Answered, usize);

/// Notes that a round is begun anew.
fn thrown_away() {
    metrics::counter!("headwater_live_rounds_thrown_away_total").increment(1);
}

/// In which files the rows lie now that are read.
async fn files(client: &PooledClient, reads: &Reads) -> Result<String, LiveError> {
    let of = |part: fn(&TableName) -> &str| reads.tables.iter().map(part).collect::<Vec<_>>();
    let [schemas, names] = [of(|table| &table.schema), of(|table| &table.name)];
    let row = client.query_one(FILES, &[&schemas, &names, &reads.unknown]).await;
    row.and_then(|row| row.try_get(0)).map_err(|error| LiveError::source(&error.into()))
}

async fn view(client: &impl GenericClient) -> Result<View, LiveError> {
    let failed = |error: tokio_postgres::Error| LiveError::source(&error.into());
    let row = client.query_one(VIEW, &[]).await.map_err(failed)?;
    let (text, age): (String, i32) =
        (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    let snapshot: PgSnapshot =
        text.parse().map_err(|_| LiveError::Source("it has no snapshot".into()))?;
    let next = Xid(FIRST_XID.wrapping_add(age.cast_unsigned()));
    Ok(View { next: FullXid::of(next, snapshot.xmax), snapshot })
}

/// Why a question has no result.
enum Failed {
    Postgres(PgError),
    TooLarge,
    TooManyGroups,
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
