//! What runs beside a session: each task of it, done to its end.
//!
//! In: a task, who calls, the transaction that it is of. Out: [`Finished`]. As whom it runs was settled when it
//! was started.

use std::sync::Arc;

use hw_live::{Change, First, Group, Subscription};
use hw_types::TableName;
use hw_write::Interactive;

use crate::caller::Caller;
use crate::failure::Failure;
use crate::hooks;
use crate::resume::{Digest, Resumed, Trail};
use crate::server::DataSync;
use crate::state::{Outcome, Task, TaskId};
use crate::wire::{Query, Resume, Wanted};
use crate::work::Kept;

/// What a task brings back.
pub(crate) struct Finished {
    pub task: TaskId,
    pub outcome: Outcome,
    /// The transaction that it opened.
    pub opened: Option<Opened>,
    /// The subscription that it began, or took up again.
    pub began: Option<Began>,
    /// Who calls from now on.
    pub caller: Option<Caller>,
    /// What counts its answer until it was sent.
    pub kept: Option<Kept>,
}

/// A transaction that is open.
pub(crate) struct Opened {
    pub id: String,
    /// As whom.
    pub caller: Arc<Caller>,
    pub transaction: Interactive,
}

/// A subscription that begins, or goes on.
pub(crate) struct Began {
    pub id: String,
    pub subscription: Subscription,
    /// As whom.
    pub caller: Arc<Caller>,
    pub query: Digest,
    /// `None` for a count.
    pub trail: Option<Trail>,
    /// What is told behind the answer.
    pub missed: Vec<Change>,
}

impl Finished {
    fn with(task: TaskId, outcome: Outcome) -> Finished {
        Finished { task, outcome, opened: None, began: None, caller: None, kept: None }
    }
}

/// Does a task.
///
/// - Takes: what counts its message; the transaction that it is of, if that is still there; among which results one that it
///   subscribes to is told.
pub(crate) async fn run(
    server: DataSync,
    caller: Arc<Caller>,
    task: TaskId,
    (what, message): (Task, Kept),
    open: Option<Interactive>,
    group: Option<Group>,
) -> Finished {
    let done = match what {
        Task::Work(work, None) => {
            records(task, server.worker.run(&caller, work, message.clone()).await)
        }
        Task::Work(work, Some(id)) => match open {
            Some(open) => records(task, server.worker.run_in(&open, &caller, work).await),
            None => Err(Failure::no_transaction(&id)),
        },
        Task::Begin(id) => server.worker.begin(&caller).await.map(|transaction| Finished {
            opened: Some(Opened { id, caller, transaction }),
            ..Finished::with(task, Outcome::Done)
        }),
        Task::End(id, how) => match open {
            Some(open) => {
                server.worker.end(&open, how).await.map(|()| Finished::with(task, Outcome::Done))
            }
            None => Err(Failure::no_transaction(&id)),
        },
        Task::Subscribe(id, query, wanted, resume) => {
            subscribe(&server, caller, task, (id, query, wanted, resume), group.as_ref()).await
        }
        Task::Login(token) => login(&server, task, token).await,
        Task::Hook { tag, json } => hook(&server, &caller, task, &tag, &json).await,
    };
    drop(message);
    done.unwrap_or_else(|failure| Finished::with(task, Outcome::Failed(failure)))
}

fn records(task: TaskId, ran: Result<(Vec<String>, Kept), Failure>) -> Result<Finished, Failure> {
    let (records, kept) = ran?;
    Ok(Finished { kept: Some(kept), ..Finished::with(task, Outcome::Records(records)) })
}

async fn subscribe(
    server: &DataSync,
    caller: Arc<Caller>,
    task: TaskId,
    (id, query, wanted, resume): (String, Query, Wanted, Option<Resume>),
    group: Option<&Group>,
) -> Result<Finished, Failure> {
    let digest = server.lobby.digest(&(&query, &wanted));
    if let (Some(resume), Some(group)) = (resume, group)
        && let Some(parked) = server.lobby.take(&resume, &caller, digest).await
        && let Some(resumed) = parked.resume(&server.worker, &resume.lsn).await
    {
        metrics::counter!("headwater_datasync_resumed_total").increment(1);
        let Resumed { mut subscription, trail, missed } = resumed;
        let table = || TableName::new("", query.table.clone());
        subscription.join(group).await.map_err(|error| Failure::of_live(error, &table()))?;
        let trail = Some(trail);
        let began = Some(Began { id, subscription, caller, query: digest, trail, missed });
        return Ok(Finished { began, ..Finished::with(task, Outcome::Resumed(resume.lsn)) });
    }
    let (First { position, result }, subscription) =
        server.worker.subscribe(&caller, &query, &wanted, group).await?;
    let bytes = result.iter().map(|(_, record)| record.json().len()).sum();
    let kept = Some(server.worker.keep(&caller, bytes)?);
    let records = result.iter().map(|(_, record)| record.json().to_owned()).collect();
    let outcome = Outcome::Rows(records, position);
    // A count is told anew as a whole.
    let trail = (wanted != Wanted::Count).then(|| server.lobby.trail(&caller, position));
    let began = Some(Began { id, subscription, caller, query: digest, trail, missed: Vec::new() });
    Ok(Finished { began, kept, ..Finished::with(task, outcome) })
}

async fn login(server: &DataSync, task: TaskId, token: String) -> Result<Finished, Failure> {
    match server.edge.caller_with(&token).await {
        Ok(principal) => {
            let caller = Caller::of(principal);
            let user_id = caller.author.subject.clone();
            let outcome = Outcome::LoggedIn { user_id, token };
            Ok(Finished { caller: Some(caller), ..Finished::with(task, outcome) })
        }
        Err(hw_http::Refusal::Token(error)) => {
            Err(Failure::new(error.hw_code().0, error.description()))
        }
        Err(_) => Err(Failure::new(crate::code::MESSAGE, "The token cannot be verified")),
    }
}

async fn hook(
    server: &DataSync,
    caller: &Caller,
    task: TaskId,
    tag: &str,
    json: &str,
) -> Result<Finished, Failure> {
    let Some(hooks) = &server.hooks else { return Err(hooks::unknown(tag)) };
    let answer = hooks.ask(tag, json, caller, &server.clock).await?;
    let kept = Some(server.worker.keep(caller, answer.get().len())?);
    Ok(Finished { kept, ..Finished::with(task, Outcome::Answered(answer)) })
}
