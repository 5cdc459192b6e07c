//! What the source remembers of us: which store used the slot last, when, and how far its numbers
//! had come.
//!
//! A store can be lost, and another one can be started beside it by mistake. The source is then
//! the only place that knows (`engine.md` 5). It remembers in the comment of an empty large object
//! that belongs to our role: making one needs no right that `serve` has not, in every database, and
//! it is neither a table nor a setting of the user's. Whoever removes it (`vacuumlo` does) takes
//! nothing but the memory, which is written again within a minute.
//!
//! Invariant: only what our own role wrote is believed.

use crate::catalog::code;
use crate::error::{Doing as _, Result};
use hw_types::relation::{quote_ident, quote_literal};
use hw_types::{Diagnostic, OpId};
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// When a store was seen that is gone for good.
const LONG_AGO: u64 = 0;

/// How the comment begins.
const PREFIX: &str = "Headwater remembers here who uses slot ";

/// How many places are tried, should others have large objects of the same number.
const PLACES: u32 = 8;

/// A memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The store, by the random number that it was made with.
    pub store: u128,
    /// The last op id that it had given when it was seen last.
    pub op_id: OpId,
    /// When that was, in seconds of the source's clock: another number is a sign of life, whatever the clock does.
    pub seen: u64,
    /// How long ago that was, by the same clock.
    pub seen_ago: Duration,
}

/// The first of the numbers that the large object of a slot may have.
fn first_place(slot: &str) -> u32 {
    let digest = Sha256::digest(slot.as_bytes());
    0x4857_0000 | u32::from(u16::from_be_bytes([digest[0], digest[1]])) & 0xfff8
}

fn comment(slot: &str, store: u128, op_id: OpId, now: u64) -> String {
    format!("{PREFIX}{slot}: store {store:032x}, op id {op_id}, seen {now}")
}

/// Reads a comment; `None` for one that we did not write.
fn parse(text: &str, slot: &str, now: u64) -> Option<Memory> {
    let rest = text.strip_prefix(PREFIX)?.strip_prefix(slot)?.strip_prefix(": store ")?;
    let (store, rest) = rest.split_once(", op id ")?;
    let (op_id, seen) = rest.split_once(", seen ")?;
    let op_id = op_id.parse().ok().filter(|op_id| *op_id < OpId::LIMIT)?;
    let seen: u64 = seen.parse().ok()?;
    Some(Memory {
        store: u128::from_str_radix(store, 16).ok()?,
        op_id: OpId(op_id),
        seen,
        // A source's clock that went back: as if seen now, which only waits longer.
        seen_ago: Duration::from_secs(now.saturating_sub(seen)),
    })
}

/// Places, who owns them, and what they say.
const QUERY: &str = "
    SELECT p.place, o.oid IS NOT NULL, coalesce(r.rolname = current_user, false),
           pg_catalog.obj_description(o.oid, 'pg_largeobject'),
           extract(epoch FROM pg_catalog.clock_timestamp())::int8,
           current_user::text,
           pg_catalog.has_function_privilege('pg_catalog.lo_create(oid)', 'EXECUTE')
    FROM pg_catalog.unnest($1) WITH ORDINALITY AS p(place, number)
    LEFT JOIN pg_catalog.pg_largeobject_metadata o ON o.oid = p.place
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = o.lomowner
    ORDER BY p.number";

struct Place {
    oid: u32,
    exists: bool,
    ours: bool,
    text: Option<String>,
    now: u64,
    /// Our role, and whether it may make a large object.
    role: String,
    may_make: bool,
}

async fn places(client: &Client, slot: &str) -> Result<Vec<Place>> {
    let first = first_place(slot);
    let oids: Vec<u32> = (first..first + PLACES).collect();
    let rows = client.query_typed(QUERY, &[(&oids, Type::OID_ARRAY)]).await?;
    let place = |row: &tokio_postgres::Row| {
        let now: i64 = row.try_get(4)?;
        Ok(Place {
            oid: row.try_get(0)?,
            exists: row.try_get(1)?,
            ours: row.try_get(2)?,
            text: row.try_get(3)?,
            now: u64::try_from(now).unwrap_or_default(),
            role: row.try_get(5)?,
            may_make: row.try_get(6)?,
        })
    };
    rows.iter().map(place).collect()
}

fn is_of(place: &Place, slot: &str) -> bool {
    let start = format!("{PREFIX}{slot}:");
    place.ours && place.text.as_ref().is_some_and(|text| text.starts_with(&start))
}

/// What the source remembers of a slot's last store, if anything.
pub async fn recall(client: &Client, slot: &str) -> Result<Option<Memory>> {
    let places = places(client, slot).await.doing("ask who used the slot last")?;
    Ok(memory_in(&places, slot))
}

fn memory_in(places: &[Place], slot: &str) -> Option<Memory> {
    let place = places.iter().find(|place| is_of(place, slot))?;
    parse(place.text.as_deref()?, slot, place.now)
}

/// Lets the source remember that this store uses the slot now. Whoever copies or streams from the slot says
/// so every half minute. Returns whether it is remembered: false where another store took the slot.
///
/// - Takes: the other store, if any, from which this one may take the slot: the one that was remembered when that
///   was decided. Of several that decide so at the same time one takes it.
/// - Errors: the finding of [`obstacle`]; those of a connection.
pub async fn remember(
    client: &Client,
    slot: &str,
    store: (u128, OpId),
    from: Option<u128>,
) -> Result<bool> {
    const DOING: &str = "let the source remember who uses the slot";
    let written = write(client, slot, store, from).await;
    let end = if matches!(written, Ok(true)) { "COMMIT" } else { "ROLLBACK" };
    let ended = client.batch_execute(end).await.doing(DOING);
    let written = written.map_err(|error| error.doing(DOING))?;
    ended.map(|()| written)
}

/// In a transaction that is open behind this.
async fn write(
    client: &Client,
    slot: &str,
    (store, op_id): (u128, OpId),
    from: Option<u128>,
) -> Result<bool> {
    // What is read behind the lock is what the last one wrote. It is on the source's disk before anything is shown,
    // and no standby is waited for.
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = local; \
         SELECT pg_catalog.pg_advisory_xact_lock({})",
        first_place(slot)
    );
    client.batch_execute(&begin).await?;
    let places = places(client, slot).await?;
    let last = memory_in(&places, slot);
    if last.is_some_and(|last| last.store != store && Some(last.store) != from) {
        return Ok(false);
    }
    let place = usable(&places, slot)?;
    let make = match place.exists {
        true => String::new(),
        false => format!("SELECT pg_catalog.lo_create({});", place.oid),
    };
    // What was given once was given, whoever gave it (E-3).
    let op_id = last.map_or(op_id, |last| last.op_id.max(op_id));
    let text = quote_literal(&comment(slot, store, op_id, place.now));
    client
        .batch_execute(&format!("{make} COMMENT ON LARGE OBJECT {} IS {text}", place.oid))
        .await?;
    Ok(true)
}

/// Statements that let the source remember that a slot's last store is gone for good, for whoever removes what it
/// left: nobody waits for it, and how far its numbers had come stays known (E-3). None where that is known.
///
/// - Errors: those of a connection.
pub async fn farewell(client: &Client, slot: &str) -> Result<Vec<String>> {
    let places = places(client, slot).await.doing("ask who used the slot last")?;
    let statement = |place: &Place| {
        let memory = parse(place.text.as_deref()?, slot, place.now)?;
        let text = comment(slot, memory.store, memory.op_id, LONG_AGO);
        let is_alive = memory.seen > LONG_AGO;
        let text = quote_literal(&text);
        is_alive.then(|| format!("COMMENT ON LARGE OBJECT {} IS {text}", place.oid))
    };
    Ok(places.iter().filter_map(statement).collect())
}

/// Where it is written.
///
/// - Errors: what a person must mend.
fn usable<'a>(places: &'a [Place], slot: &str) -> std::result::Result<&'a Place, Diagnostic> {
    let written = places.iter().find(|place| is_of(place, slot));
    let mut found =
        written.or_else(|| places.iter().find(|place| place.ours && place.text.is_none()));
    found = found.or_else(|| places.iter().find(|place| !place.exists));
    let finding = |what: String| Diagnostic::warning(code::NOT_REMEMBERED, what);
    match found {
        Some(place) if place.exists || place.may_make => Ok(place),
        Some(place) => {
            let what = format!("role \"{}\" may not make a large object", place.role);
            Err(finding(what).mend(format!(
                "GRANT EXECUTE ON FUNCTION pg_catalog.lo_create(oid) TO {};",
                quote_ident(&place.role)
            )))
        }
        None => {
            let first = first_place(slot);
            let last = first + PLACES - 1;
            let what = format!("large objects {first} to {last} are taken");
            Err(finding(what).mend(format!(
                "remove one that nobody needs with lo_unlink; whose they are: SELECT oid, \
                 lomowner::regrole, obj_description(oid, 'pg_largeobject') FROM \
                 pg_largeobject_metadata WHERE oid BETWEEN {first} AND {last};"
            )))
        }
    }
}

/// What keeps the source from remembering who uses a slot, as far as its catalog shows.
///
/// - Errors: those of a connection.
pub async fn obstacle(client: &Client, slot: &str) -> Result<Option<Diagnostic>> {
    let places = places(client, slot).await.doing("ask who used the slot last")?;
    Ok(usable(&places, slot).err().map(not_remembered))
}

/// The finding that it does not remember, with what that means.
pub fn not_remembered(why: Diagnostic) -> Diagnostic {
    let what = format!(
        "the source cannot remember which store uses the slot, so a data directory that is put back \
         alone, or a second server, may not be recognised: {}",
        why.what
    );
    let finding = Diagnostic::warning(code::NOT_REMEMBERED, what);
    Diagnostic { context: why.context, mend: why.mend, ..finding }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else_is_believed() {
        let text = comment("headwater_1", 7, OpId(9), 1000);
        let memory = parse(&text, "headwater_1", 1030).unwrap();
        assert_eq!((memory.store, memory.op_id, memory.seen), (7, OpId(9), 1000));
        assert_eq!(memory.seen_ago, Duration::from_secs(30));
        // The clock went back.
        assert_eq!(parse(&text, "headwater_1", 900).unwrap().seen_ago, Duration::ZERO);
        assert_eq!(parse(&text, "headwater_2", 1030), None);
        let too_large = comment("headwater_1", 7, OpId(u64::MAX), 1000);
        for other in ["", "a note", PREFIX, too_large.as_str()] {
            assert_eq!(parse(other, "headwater_1", 1030), None, "{other}");
        }
    }
}
