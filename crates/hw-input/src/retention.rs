//! How much log the source keeps for the slot, also while nothing is followed.
//!
//! Looks at the catalog ask for it in passing. While there are none (a walsender that hangs, a store whose
//! disk is full, a catalog that somebody locked), it is asked for here, over a connection of its own; when
//! that is not answered either, nobody knows it.

use crate::context::Context;
use hw_pg::slot::SlotState;
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::Client;

/// How often it is asked for.
const EVERY: Duration = Duration::from_secs(1);

/// How long ago somebody else has asked before it is asked for here.
const UNASKED: Duration = Duration::from_secs(3);

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Asks for it whenever nobody else does. Never returns.
pub(crate) async fn watch(context: &Context) {
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client: Option<Client> = None;
    let mut own: Option<Instant> = None;
    loop {
        clock.tick().await;
        let (slot, asked) = {
            let status = context.status.lock();
            (status.slot.clone(), status.retained_at())
        };
        let Some(slot) = slot else { continue };
        if asked > own && asked.is_some_and(|at| at.elapsed() < UNASKED) {
            client = None;
            continue;
        }
        let ask = async {
            let client = match client.take().filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => context.source.client().await?,
            };
            let state = SlotState::read(&client, &slot).await?;
            Ok::<_, crate::InputError>((client, state))
        };
        if let Ok(Ok((answered, state))) = timeout(ANSWER, ask).await {
            client = Some(answered);
            own = context.status.lock().retains(state.as_ref());
        }
    }
}
