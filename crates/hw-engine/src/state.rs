//! What the engine remembers besides data: identity, progress, tables, incarnations,
//! configurations. One record per key in the `state` space, each with a version byte;
//! `docs/formats.md` describes them.
//!
//! Who changes it: the writer thread only, in the same atomic commit as the data it speaks of.

mod relation;

use crate::error::EngineError;
use crate::record::take;
use hw_input::identity::Identity;
use hw_store::{Batch, Snapshot, Space};
use hw_types::{CommitLsn, EndLsn, Lsn, OpId, Relation, TableName, Xid, varint};
use std::collections::BTreeSet;
use std::sync::Arc;

const VERSION: u8 = 2;

/// How far the input has been applied. Written in every commit.
///
/// Order: `commit_lsn < end_lsn`, and `end_lsn` never goes back within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Progress {
    /// Commit record of the last transaction applied.
    pub commit_lsn: CommitLsn,
    /// Its xid.
    pub xid: Xid,
    /// Everything before this position is applied (transactions, or nothing relevant).
    pub end_lsn: EndLsn,
    /// The last op id given.
    pub op_id: OpId,
    /// The epoch.
    pub epoch: u64,
    /// Added to a marker's position to give a write checkpoint's number: grows when the source's
    /// positions go back, so that numbers never do.
    pub write_base: u64,
    /// Write checkpoints up to this number are satisfied for everybody: what they wait for is
    /// contained in a copy of all tables, or was lost with the source's history.
    pub write_floor: u64,
}

/// A table of the replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRecord {
    /// Number of the table's incarnation; names its `rows` space.
    pub number: u32,
    /// The table as it was when its rows were last made uniform.
    pub relation: Arc<Relation>,
    /// Changes with commit_lsn below this position are contained in the copy (X).
    pub boundary: Lsn,
    /// Whether the table has entered: its rows are complete and visible.
    pub entered: bool,
    /// Whether changes of it were passed over since: it must be copied again. Set before the
    /// progress passes the first such change, so that no crash forgets it.
    pub stale: bool,
    /// Counts how often the columns of this incarnation became others.
    pub layout: u32,
    /// What the rows depend on at the source, as it was noted (`hw_types::facts`).
    pub facts: Vec<u8>,
}

/// What an incarnation holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DerivedKind {
    /// The buckets of a source of a sync configuration.
    Source,
    /// The entries of a lookup of a sync configuration.
    Lookup,
}

/// Where an incarnation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildState {
    /// Rows up to and including this key of this table (by number) are in it; later ones are not.
    Building {
        /// Table under way, by number; tables are built in ascending order of number.
        table: u32,
        /// Last row key built.
        key: Vec<u8>,
    },
    /// Complete and kept up to date.
    Live,
    /// Complete as of a position, and left there: a table that its definition reads cannot be
    /// followed at the moment. What the rows were at that position is kept beside it.
    Frozen {
        /// Everything before this position is in it.
        since: EndLsn,
        /// Of a lookup: nobody is answered. What was taken away cannot be told row by row.
        shut: bool,
    },
}

impl BuildState {
    /// Whether it is a lookup that answers nobody.
    pub fn is_shut(&self) -> bool {
        matches!(self, BuildState::Frozen { shut: true, .. })
    }
}

/// An incarnation of something that is derived from rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncarnationRecord {
    /// Names its spaces.
    pub number: u32,
    /// What it holds.
    pub kind: DerivedKind,
    /// Hash of what it computes (`hw_expr`).
    pub fingerprint: [u8; 32],
    /// Counts how often this fingerprint's log was dropped and built again.
    pub counter: u32,
    /// How complete it is.
    pub state: BuildState,
    /// Seconds since 1970 at which the last configuration that uses it left, 0 while used.
    pub retired_at: u64,
    /// Version of the configuration whose text defines it.
    pub config: u64,
    /// Its index among that configuration's sources or lookups.
    pub index: u32,
}

/// A sync configuration as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRecord {
    /// Counts configurations from 1.
    pub version: u64,
    /// Name of the file, for messages.
    pub file: String,
    /// The YAML text.
    pub text: String,
}

/// Which configurations are in use, by version; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    /// The one that clients see.
    pub active: u64,
    /// The one that is being built beside it.
    pub building: u64,
}

/// The counter of the last incarnation of a fingerprint that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped(pub u32);

/// Tables that definitions name, that exist, and that cannot be replicated. What reads them is not
/// served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused(pub BTreeSet<TableName>);

/// Tables that are replicated because somebody reads them, whatever definitions name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demanded(pub BTreeSet<TableName>);

/// Incarnations that hold what was evaluated while a column that they read was not sent, and so was NULL.
/// What uses them is not served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacking(pub BTreeSet<u32>);

/// Definitions of the configuration that is served which are not, by their place in it: they wait for
/// tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting(pub BTreeSet<u32>);

/// A copy of everything that has begun and not entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyOfAll {
    /// Its slot.
    pub slot: String,
    /// Where that was made; `None` as long as it is not told.
    pub made_at: Option<Lsn>,
}

/// 32 random bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

/// Up to where a user's writes have come back (in the space `wcp`, by user key).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteCheckpoint {
    /// The number that the client waits for.
    pub number: u64,
    /// Where its marker stands in the log: a definition that stands still before this position
    /// does not have what was written before the marker.
    pub at: Lsn,
    /// The day on which it was asked for last.
    pub day: u64,
}

/// The day of the input's clock, in days since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub struct Day(pub u64);

/// Keys of the `state` space.
pub mod keys {
    /// [`super::Progress`].
    pub const PROGRESS: &[u8] = b"progress";
    /// [`Identity`](hw_input::identity::Identity) of the source.
    pub const IDENTITY: &[u8] = b"identity";
    /// The next numbers to give, see [`super::Counters`].
    pub const COUNTERS: &[u8] = b"counters";
    /// Which configurations are served and built, see [`super::Serving`].
    pub const SERVING: &[u8] = b"serving";
    /// Prefix of [`super::ConfigRecord`]s.
    pub const CONFIG: &[u8] = b"config/";
    /// [`super::Secret`]: signs markers.
    pub const SECRET: &[u8] = b"secret";
    /// Prefix of [`super::TableRecord`]s.
    pub const TABLE: &[u8] = b"table/";
    /// Prefix of [`super::IncarnationRecord`]s.
    pub const DERIVED: &[u8] = b"derived/";
    /// Prefix, then a fingerprint: [`super::Dropped`].
    pub const DROPPED: &[u8] = b"dropped/";
    /// [`super::Refused`].
    pub const REFUSED: &[u8] = b"refused";
    /// [`super::Demanded`].
    pub const DEMANDED: &[u8] = b"demanded";
    /// [`super::Lacking`].
    pub const LACKING: &[u8] = b"lacking";
    /// [`super::Waiting`].
    pub const WAITING: &[u8] = b"waiting";
    /// [`super::CopyOfAll`].
    pub const COPYING: &[u8] = b"copying";
    /// There while the source's history is another than the stored one; [`BEHIND`] where the store was
    /// put back to an earlier state.
    pub const MOVED: &[u8] = b"moved";
    /// What [`MOVED`] says of a store that nobody is answered from.
    pub const BEHIND: &[u8] = b"behind";
    /// [`crate::runs::Runs`].
    pub const RUNS: &[u8] = b"runs";
    /// [`super::Day`].
    pub const DAY: &[u8] = b"day";
    /// Marks decided writes, see [`crate::large`].
    pub const DECIDED: &[u8] = b"decided";

    /// A numbered key.
    pub fn numbered(prefix: &[u8], number: impl Into<u64>) -> Vec<u8> {
        [prefix, &number.into().to_be_bytes()].concat()
    }
}

/// The next numbers to give. Numbers are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Next table incarnation.
    pub table: u32,
    /// Next incarnation of something derived.
    pub derived: u32,
    /// Next configuration version.
    pub config: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Counters { table: 1, derived: 1, config: 1 }
    }
}

/// A record of the `state` space.
pub trait Record: Sized {
    /// Appends the fields.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads the fields; `None` when damaged.
    fn take(input: &mut &[u8]) -> Option<Self>;

    /// The value: version byte, fields.
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        self.put(&mut out);
        out
    }

    /// Reads a value.
    fn decode(mut value: &[u8]) -> Result<Self, EngineError> {
        let input = &mut value;
        let damaged = || EngineError::damaged("state", std::any::type_name::<Self>());
        if take(input, 1).ok_or_else(damaged)? != [VERSION] {
            return Err(damaged());
        }
        let record = Self::take(input).ok_or_else(damaged)?;
        if input.is_empty() { Ok(record) } else { Err(damaged()) }
    }

    /// Reads the record under `key`, if there is one.
    fn load(snapshot: &Snapshot, space: &Space, key: &[u8]) -> Result<Option<Self>, EngineError> {
        snapshot.get(space, key)?.map(|value| Self::decode(&value)).transpose()
    }

    /// Reads all records under a prefix.
    fn load_all(
        snapshot: &Snapshot,
        space: &Space,
        prefix: &[u8],
    ) -> Result<Vec<Self>, EngineError> {
        snapshot.prefix(space, prefix).map(|entry| Self::decode(&entry?.1)).collect()
    }

    /// Writes the record under `key`.
    fn save(&self, batch: &mut Batch, space: &Space, key: &[u8]) {
        batch.put(space, key, self.encode());
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    varint::put_bytes(out, text.as_bytes());
}

fn take_text(input: &mut &[u8]) -> Option<String> {
    String::from_utf8(varint::take_bytes(input)?.to_vec()).ok()
}

fn take_u32(input: &mut &[u8]) -> Option<u32> {
    u32::try_from(varint::take(input)?).ok()
}

fn take_lsn(input: &mut &[u8]) -> Option<Lsn> {
    varint::take(input).map(Lsn)
}

impl Record for Progress {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.commit_lsn.0.0);
        varint::put(out, u64::from(self.xid.0));
        varint::put(out, self.end_lsn.0.0);
        varint::put(out, self.op_id.0);
        varint::put(out, self.epoch);
        varint::put(out, self.write_base);
        varint::put(out, self.write_floor);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        Some(Progress {
            commit_lsn: CommitLsn(take_lsn(input)?),
            xid: Xid(take_u32(input)?),
            end_lsn: EndLsn(take_lsn(input)?),
            op_id: OpId(varint::take(input)?),
            epoch: varint::take(input)?,
            write_base: varint::take(input)?,
            write_floor: varint::take(input)?,
        })
    }
}

impl Record for Counters {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, u64::from(self.table));
        varint::put(out, u64::from(self.derived));
        varint::put(out, self.config);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        Some(Counters {
            table: take_u32(input)?,
            derived: take_u32(input)?,
            config: varint::take(input)?,
        })
    }
}

impl Record for Serving {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.active);
        varint::put(out, self.building);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        Some(Serving { active: varint::take(input)?, building: varint::take(input)? })
    }
}

impl Record for Identity {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.system_id);
        varint::put(out, u64::from(self.timeline));
        varint::put(out, u64::from(self.database_oid));
        put_text(out, &self.slot);
        varint::put(out, self.slot_mark.0);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        Some(Identity {
            system_id: varint::take(input)?,
            timeline: take_u32(input)?,
            database_oid: take_u32(input)?,
            slot: take_text(input)?,
            slot_mark: take_lsn(input)?,
        })
    }
}

impl Record for Dropped {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, u64::from(self.0));
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        take_u32(input).map(Dropped)
    }
}

fn put_names(out: &mut Vec<u8>, names: &BTreeSet<TableName>) {
    varint::put(out, names.len() as u64);
    for name in names {
        put_text(out, &name.schema);
        put_text(out, &name.name);
    }
}

fn take_names(input: &mut &[u8]) -> Option<BTreeSet<TableName>> {
    let mut names = BTreeSet::new();
    for _ in 0..varint::take(input)? {
        names.insert(TableName { schema: take_text(input)?, name: take_text(input)? });
    }
    Some(names)
}

impl Record for Refused {
    fn put(&self, out: &mut Vec<u8>) {
        put_names(out, &self.0);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        take_names(input).map(Refused)
    }
}

impl Record for Demanded {
    fn put(&self, out: &mut Vec<u8>) {
        put_names(out, &self.0);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        take_names(input).map(Demanded)
    }
}

impl Record for Lacking {
    fn put(&self, out: &mut Vec<u8>) {
        put_numbers(out, &self.0);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        take_numbers(input).map(Lacking)
    }
}

impl Record for Waiting {
    fn put(&self, out: &mut Vec<u8>) {
        put_numbers(out, &self.0);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        take_numbers(input).map(Waiting)
    }
}

fn put_numbers(out: &mut Vec<u8>, numbers: &BTreeSet<u32>) {
    varint::put(out, numbers.len() as u64);
    numbers.iter().for_each(|number| varint::put(out, u64::from(*number)));
}

fn take_numbers(input: &mut &[u8]) -> Option<BTreeSet<u32>> {
    let mut numbers = BTreeSet::new();
    for _ in 0..varint::take(input)? {
        numbers.insert(take_u32(input)?);
    }
    Some(numbers)
}

impl Record for CopyOfAll {
    fn put(&self, out: &mut Vec<u8>) {
        put_text(out, &self.slot);
        varint::put(out, self.made_at.unwrap_or(Lsn::ZERO).0);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        let slot = take_text(input)?;
        let made_at = Some(Lsn(varint::take(input)?)).filter(|at| *at != Lsn::ZERO);
        Some(CopyOfAll { slot, made_at })
    }
}

impl Record for Secret {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        take(input, 32)?.try_into().ok().map(Secret)
    }
}

impl Record for WriteCheckpoint {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.number);
        varint::put(out, self.at.0);
        varint::put(out, self.day);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        Some(WriteCheckpoint {
            number: varint::take(input)?,
            at: take_lsn(input)?,
            day: varint::take(input)?,
        })
    }
}

impl Record for Day {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.0);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        varint::take(input).map(Day)
    }
}

impl Record for ConfigRecord {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.version);
        put_text(out, &self.file);
        put_text(out, &self.text);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        Some(ConfigRecord {
            version: varint::take(input)?,
            file: take_text(input)?,
            text: take_text(input)?,
        })
    }
}

impl Record for IncarnationRecord {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, u64::from(self.number));
        out.push(match self.kind {
            DerivedKind::Source => 1,
            DerivedKind::Lookup => 2,
        });
        out.extend_from_slice(&self.fingerprint);
        varint::put(out, u64::from(self.counter));
        match &self.state {
            BuildState::Live => out.push(1),
            BuildState::Building { table, key } => {
                out.push(0);
                varint::put(out, u64::from(*table));
                varint::put_bytes(out, key);
            }
            BuildState::Frozen { since, shut } => {
                out.push(if *shut { 3 } else { 2 });
                varint::put(out, since.0.0);
            }
        }
        varint::put(out, self.retired_at);
        varint::put(out, self.config);
        varint::put(out, u64::from(self.index));
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        Some(IncarnationRecord {
            number: take_u32(input)?,
            kind: match take(input, 1)? {
                [1] => DerivedKind::Source,
                [2] => DerivedKind::Lookup,
                _ => return None,
            },
            fingerprint: take(input, 32)?.try_into().ok()?,
            counter: take_u32(input)?,
            state: match take(input, 1)? {
                [1] => BuildState::Live,
                [0] => BuildState::Building {
                    table: take_u32(input)?,
                    key: varint::take_bytes(input)?.to_vec(),
                },
                [kind @ (2 | 3)] => {
                    BuildState::Frozen { since: EndLsn(take_lsn(input)?), shut: *kind == 3 }
                }
                _ => return None,
            },
            retired_at: varint::take(input)?,
            config: varint::take(input)?,
            index: take_u32(input)?,
        })
    }
}

impl Record for TableRecord {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, u64::from(self.number));
        self.relation.put(out);
        varint::put(out, self.boundary.0);
        out.push(u8::from(self.entered));
        out.push(u8::from(self.stale));
        varint::put(out, u64::from(self.layout));
        varint::put_bytes(out, &self.facts);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        Some(TableRecord {
            number: take_u32(input)?,
            relation: Arc::new(Relation::take(input)?),
            boundary: take_lsn(input)?,
            entered: take_flag(input)?,
            stale: take_flag(input)?,
            layout: take_u32(input)?,
            facts: varint::take_bytes(input)?.to_vec(),
        })
    }
}

fn take_flag(input: &mut &[u8]) -> Option<bool> {
    match take(input, 1)? {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::relation::SCALARS;
    use super::*;
    use hw_types::pgtype::ElementType;
    use hw_types::{Column, PgType, RelationId, ReplicaIdentity};

    fn round_trip<R: Record + PartialEq + std::fmt::Debug>(record: R) {
        let value = record.encode();
        assert_eq!(R::decode(&value).unwrap(), record);
        for cut in 0..value.len() {
            assert!(R::decode(&value[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn every_record_round_trips_and_damage_is_noticed() {
        round_trip(Progress {
            commit_lsn: CommitLsn(Lsn(5)),
            xid: Xid(9),
            end_lsn: EndLsn(Lsn(1 << 50)),
            op_id: OpId(1 << 45),
            epoch: 1,
            write_base: 3,
            write_floor: 4,
        });
        round_trip(Counters::default());
        round_trip(ConfigRecord {
            version: 3,
            file: "sync.yaml".into(),
            text: "streams: {}".into(),
        });
        for (kind, state) in [
            (DerivedKind::Source, BuildState::Live),
            (DerivedKind::Lookup, BuildState::Building { table: 4, key: vec![1, 2] }),
            (DerivedKind::Source, BuildState::Frozen { since: EndLsn(Lsn(1 << 40)), shut: false }),
            (DerivedKind::Lookup, BuildState::Frozen { since: EndLsn(Lsn(1 << 40)), shut: true }),
        ] {
            let fingerprint = [7; 32];
            round_trip(IncarnationRecord {
                number: 1,
                kind,
                fingerprint,
                counter: 2,
                state,
                retired_at: 9,
                config: 1,
                index: 0,
            });
        }
        let mut types: Vec<PgType> = SCALARS.to_vec();
        types.push(PgType::Domain(Box::new(PgType::Array(Box::new(ElementType {
            pg_type: PgType::Composite(vec![("a".into(), PgType::Range(Box::new(PgType::Int4)))]),
            delimiter: b',',
        })))));
        types.push(PgType::Multirange(Box::new(PgType::Date)));
        let column = |(i, pg_type): (usize, PgType)| Column {
            name: format!("c{i}"),
            type_oid: 25,
            type_modifier: -1,
            pg_type,
            identity: i == 0,
            primary_key: u16::from(i == 0),
        };
        round_trip(TableRecord {
            number: 7,
            relation: Arc::new(Relation {
                id: RelationId(16_400),
                name: TableName::new("public", "t"),
                replica_identity: ReplicaIdentity::Default,
                columns: types.into_iter().enumerate().map(column).collect(),
            }),
            boundary: Lsn(77),
            entered: true,
            stale: false,
            layout: 3,
            facts: vec![1, 2, 3],
        });
        round_trip(Dropped(5));
        round_trip(Refused(BTreeSet::from([TableName::new("public", "v")])));
        round_trip(Demanded(BTreeSet::from([TableName::new("public", "t")])));
        round_trip(Lacking(BTreeSet::from([1, 300])));
        for made_at in [None, Some(Lsn(1 << 40))] {
            round_trip(CopyOfAll { slot: "headwater_x".into(), made_at });
        }
        round_trip(WriteCheckpoint { number: u64::MAX, at: Lsn(1 << 41), day: 20_000 });
        round_trip(Day(20_000));
        round_trip(Identity {
            system_id: u64::MAX,
            timeline: 2,
            database_oid: 5,
            slot: "headwater_x".into(),
            slot_mark: Lsn(1),
        });
    }
}
