//! Reminders: the source remembers who uses the slot, for as long as a session follows or copies it.
//!
//! Invariant: the first is written before anything is copied or shown, and the others never over that of a
//! store which took the slot meanwhile; a source that cannot remember is followed all the same, and that is
//! said until it can.

use crate::context::Context;
use crate::ended::Ended;
use crate::error::InputError;
use crate::history::REMIND;
use hw_pg::error::PgErrorKind;
use hw_pg::memory;
use std::convert::Infallible;
use std::time::Duration;

/// How soon one that failed is repeated: a server that ends before it leaves no trace of its numbers.
const AGAIN: Duration = Duration::from_secs(5);

/// What became of a reminder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reminded {
    /// The source remembers this store.
    Remembers,
    /// It cannot, or did not in time.
    Failed,
}

/// Lets the source remember this store.
///
/// - Takes: the other store, if any, from which the slot is taken.
/// - Errors: yet another store took the slot; the replica cannot be read.
pub(crate) async fn remind(
    context: &Context,
    slot: &str,
    from: Option<u128>,
) -> Result<Reminded, Ended> {
    let kept = context.replica.kept()?;
    let told = context.source.remember(slot, (kept.store, kept.op_id), from).await;
    let mut status = context.status.lock();
    let error = match told {
        Ok(true) => {
            status.remembered();
            return Ok(Reminded::Remembers);
        }
        Ok(false) => return Err(Ended::Taken),
        Err(error) => error,
    };
    tracing::debug!(%error, "the source was not reminded of this store");
    // What its catalog shows does not pass by itself.
    let is_plain = matches!(&error, InputError::Pg(error) if matches!(error.kind(), PgErrorKind::Configuration(_)));
    status.not_remembered(memory::not_remembered(error.diagnostic()), is_plain);
    Ok(Reminded::Failed)
}

/// Lets it remember that from then on, until this is dropped.
pub(crate) async fn keep_reminding(
    context: &Context,
    slot: &str,
    mut last: Reminded,
) -> Result<Infallible, Ended> {
    loop {
        let wait = match last {
            Reminded::Remembers => REMIND,
            Reminded::Failed => AGAIN,
        };
        tokio::time::sleep(wait).await;
        last = remind(context, slot, None).await?;
    }
}
