//! The changes of one transaction: in memory while they are few, else in a spool file.
//!
//! [`Recorder`] takes changes in log order and can cut off those of a sub-transaction that was
//! rolled back; [`Changes`] gives them back, any number of times, the same from memory and from
//! the spool.
//!
//! A spool is read by the process that wrote it and by no other: open transactions are dropped
//! at every start. So a record names its relation by its place in a table that stays in memory.
//! Format of a record (integers are varints, `bytes` have their length in front):
//!
//! ```text
//! 0 insert    relation row…                  (the row is the rest of the record)
//! 1 update    relation row…                  (without an old row)
//! 2 update    relation bytes(old) row…
//! 3 delete    relation row…                  (the old row)
//! 4 truncate  count relation*
//! 5 message   lsn bytes(prefix) content…
//! 6 relation  relation
//! ```

use crate::error::{InputError, Result};
use bytes::Bytes;
use hw_store::StoreError;
use hw_store::segment::{Segment, SegmentReader, SegmentWriter, SpoolDir};
use hw_types::{Change, ChangeKind, LogMessage, Lsn, Relation, RelationId, Row, Xid, varint};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

const INSERT: u8 = 0;
const UPDATE: u8 = 1;
const UPDATE_WITH_OLD: u8 = 2;
const DELETE: u8 = 3;
const TRUNCATE: u8 = 4;
const MESSAGE: u8 = 5;
const RELATION: u8 = 6;

/// What a change costs in memory besides its bytes.
const CHANGE_OVERHEAD: usize = 96;

/// Bytes of memory that a change holds.
pub(crate) fn cost(change: &Change) -> usize {
    CHANGE_OVERHEAD
        + match change {
            Change::Row { kind: ChangeKind::Insert { new: row }, .. }
            | Change::Row { kind: ChangeKind::Delete { old: row }, .. }
            | Change::Row { kind: ChangeKind::Update { old: None, new: row }, .. } => {
                row.as_bytes().len()
            }
            Change::Row { kind: ChangeKind::Update { old: Some(old), new }, .. } => {
                old.as_bytes().len() + new.as_bytes().len()
            }
            Change::Truncate { relations } => relations.len() * 8,
            Change::Message(message) => message.prefix.len() + message.content.len(),
            Change::Relation(_) => 0,
        }
}

/// The relations that a spool's records name by number.
#[derive(Clone, Debug, Default)]
struct RelationTable {
    list: Vec<Arc<Relation>>,
    /// Keyed by address: unique as long as `list` keeps the `Arc`.
    numbers: HashMap<usize, u64>,
}

impl RelationTable {
    fn number(&mut self, relation: &Arc<Relation>) -> u64 {
        let list = &mut self.list;
        *self.numbers.entry(Arc::as_ptr(relation) as usize).or_insert_with(|| {
            list.push(relation.clone());
            list.len() as u64 - 1
        })
    }
}

fn encode(change: &Change, table: &mut RelationTable, out: &mut Vec<u8>) {
    out.clear();
    match change {
        Change::Row { relation, kind } => {
            let number = table.number(relation);
            let (tag, row) = match kind {
                ChangeKind::Insert { new } => (INSERT, new),
                ChangeKind::Update { old: None, new } => (UPDATE, new),
                ChangeKind::Update { old: Some(_), new } => (UPDATE_WITH_OLD, new),
                ChangeKind::Delete { old } => (DELETE, old),
            };
            out.push(tag);
            varint::put(out, number);
            if let ChangeKind::Update { old: Some(old), .. } = kind {
                varint::put_bytes(out, old.as_bytes());
            }
            out.extend_from_slice(row.as_bytes());
        }
        Change::Truncate { relations } => {
            out.push(TRUNCATE);
            varint::put(out, relations.len() as u64);
            for relation in relations {
                varint::put(out, table.number(relation));
            }
        }
        Change::Message(message) => {
            out.push(MESSAGE);
            varint::put(out, message.lsn.0);
            varint::put_bytes(out, message.prefix.as_bytes());
            out.extend_from_slice(&message.content);
        }
        Change::Relation(relation) => {
            out.push(RELATION);
            varint::put(out, table.number(relation));
        }
    }
}

/// `None` for a record that cannot have been written by [`encode`] with this table.
fn decode(mut record: &[u8], relations: &[Arc<Relation>]) -> Option<Change> {
    let input = &mut record;
    let relation = |input: &mut &[u8]| {
        let number = usize::try_from(varint::take(input)?).ok()?;
        relations.get(number).cloned()
    };
    let (tag, rest) = input.split_first()?;
    *input = rest;
    Some(match *tag {
        INSERT => {
            let relation = relation(input)?;
            Change::Row { relation, kind: ChangeKind::Insert { new: Row::from_encoded(*input) } }
        }
        UPDATE => {
            let relation = relation(input)?;
            let new = Row::from_encoded(*input);
            Change::Row { relation, kind: ChangeKind::Update { old: None, new } }
        }
        UPDATE_WITH_OLD => {
            let relation = relation(input)?;
            let old = Some(Row::from_encoded(varint::take_bytes(input)?));
            let new = Row::from_encoded(*input);
            Change::Row { relation, kind: ChangeKind::Update { old, new } }
        }
        DELETE => {
            let relation = relation(input)?;
            Change::Row { relation, kind: ChangeKind::Delete { old: Row::from_encoded(*input) } }
        }
        TRUNCATE => {
            let count = varint::take(input)?;
            let relations = (0..count).map(|_| relation(input)).collect::<Option<_>>()?;
            Change::Truncate { relations }
        }
        MESSAGE => Change::Message(LogMessage {
            lsn: Lsn(varint::take(input)?),
            prefix: String::from_utf8(varint::take_bytes(input)?.to_vec()).ok()?,
            content: Bytes::copy_from_slice(input),
        }),
        RELATION => Change::Relation(relation(input)?),
        _ => return None,
    })
}

/// Where a (sub)transaction's first change stands.
#[derive(Clone, Copy, Debug)]
struct Mark {
    xid: Xid,
    /// Changes in front of it.
    changes: u64,
    /// The spool's length in front of it; meaningful once spooled.
    offset: u64,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<Change>),
    Spool { writer: SegmentWriter, table: RelationTable },
}

/// Takes the changes of one open transaction.
///
/// Every method that fails with `StoreError::SpoolFull` has changed nothing and can be called
/// again.
#[derive(Debug)]
pub struct Recorder {
    place: Place,
    /// First changes of the (sub)transactions that may still be rolled back alone, in log order.
    marks: Vec<Mark>,
    /// Where in `marks` a (sub)transaction is.
    marked: HashMap<Xid, usize>,
    changes: u64,
    /// Bytes of memory held; 0 once spooled.
    memory: usize,
    scratch: Vec<u8>,
    misfits: BTreeSet<RelationId>,
    sent_under: BTreeSet<SentUnder>,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder {
            place: Place::Memory(Vec::new()),
            marks: Vec::new(),
            marked: HashMap::new(),
            changes: 0,
            memory: 0,
            scratch: Vec::new(),
            misfits: BTreeSet::new(),
            sent_under: BTreeSet::new(),
        }
    }
}

impl Recorder {
    /// Number of changes.
    pub fn len(&self) -> u64 {
        self.changes
    }

    /// Whether there is no change.
    pub fn is_empty(&self) -> bool {
        self.changes == 0
    }

    /// Bytes of memory that the changes hold; 0 once they are spooled.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Appends a change of the (sub)transaction `xid`.
    pub fn push(&mut self, xid: Xid, change: Change) -> Result<(), StoreError> {
        let offset = match &mut self.place {
            Place::Memory(list) => {
                self.memory += cost(&change);
                list.push(change);
                0
            }
            Place::Spool { writer, table } => {
                encode(&change, table, &mut self.scratch);
                let offset = writer.append(&self.scratch)?;
                self.scratch.shrink_to(1 << 20);
                offset
            }
        };
        self.mark(Mark { xid, changes: self.changes, offset });
        self.changes += 1;
        Ok(())
    }

    /// Notes a (sub)transaction's first change. One that acts again has none open within it: those
    /// behind it were released into it and can only be rolled back together with it.
    fn mark(&mut self, mark: Mark) {
        if self.marks.last().is_some_and(|last| last.xid == mark.xid) {
            return;
        }
        match self.marked.get(&mark.xid) {
            Some(&at) => self.forget_marks(at + 1),
            None => {
                self.marked.insert(mark.xid, self.marks.len());
                self.marks.push(mark);
            }
        }
    }

    fn forget_marks(&mut self, from: usize) {
        for mark in self.marks.drain(from..) {
            self.marked.remove(&mark.xid);
        }
    }

    /// Moves what is in memory to a spool file; later changes go there, too.
    pub fn spill(&mut self, dir: &SpoolDir) -> Result<(), StoreError> {
        let Place::Memory(list) = &self.place else { return Ok(()) };
        let mut writer = SegmentWriter::create(dir, "transaction")?;
        let mut table = RelationTable::default();
        let mut marks = self.marks.clone();
        let mut waiting = marks.iter_mut().peekable();
        for (number, change) in list.iter().enumerate() {
            encode(change, &mut table, &mut self.scratch);
            let offset = writer.append(&self.scratch)?;
            while let Some(mark) = waiting.next_if(|mark| mark.changes == number as u64) {
                mark.offset = offset;
            }
        }
        self.marks = marks;
        self.memory = 0;
        self.scratch = Vec::new();
        self.place = Place::Spool { writer, table };
        Ok(())
    }

    /// Takes out what the rolled back sub-transaction `xid` and those within it did: everything
    /// from its first change on, because while it was open no other could act.
    ///
    /// - Returns: how many changes are left.
    pub fn cut(&mut self, xid: Xid) -> Result<u64, StoreError> {
        let Some(&at) = self.marked.get(&xid) else {
            return Ok(self.changes);
        };
        let mark = self.marks[at];
        match &mut self.place {
            Place::Memory(list) => {
                let gone = list.drain(mark.changes as usize..);
                self.memory -= gone.map(|change| cost(&change)).sum::<usize>();
            }
            Place::Spool { writer, .. } => writer.truncate(mark.offset, mark.changes)?,
        }
        self.forget_marks(at);
        self.changes = mark.changes;
        Ok(self.changes)
    }

    /// Ends the transaction.
    pub fn finish(self) -> Result<Changes, StoreError> {
        let held = match self.place {
            Place::Memory(list) => Held::Memory(list.into()),
            Place::Spool { writer, table } => {
                Held::Spool { segment: writer.finish()?, relations: table.list.into() }
            }
        };
        let misfits = self.misfits.into_iter().collect();
        let sent_under = self.sent_under.into_iter().collect();
        Ok(Changes { held, count: self.changes, memory: self.memory, misfits, sent_under })
    }

    /// Notes that a value of a table had another shape than its type has now.
    pub fn note_misfit(&mut self, table: RelationId) {
        self.misfits.insert(table);
    }

    /// Notes that rows of a table were sent under another one. It is not taken back with a
    /// sub-transaction: the source says it once, and there may be more.
    pub fn note_sent_under(&mut self, sent: SentUnder) {
        self.sent_under.insert(sent);
    }
}

/// Rows of a table were sent as those of a partitioned table above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SentUnder {
    /// The table that holds the rows.
    pub table: RelationId,
    /// The one above it.
    pub root: RelationId,
}

#[derive(Clone, Debug)]
enum Held {
    Memory(Arc<[Change]>),
    Spool { segment: Segment, relations: Arc<[Arc<Relation>]> },
}

/// The changes of a committed transaction in log order. Clones share them; a spool file is
/// removed with the last clone and iterator.
#[derive(Clone, Debug)]
pub struct Changes {
    held: Held,
    count: u64,
    memory: usize,
    misfits: Arc<[RelationId]>,
    sent_under: Arc<[SentUnder]>,
}

impl Changes {
    /// Changes that are already in memory.
    pub fn in_memory(changes: Vec<Change>) -> Changes {
        let memory = changes.iter().map(cost).sum();
        Changes {
            count: changes.len() as u64,
            held: Held::Memory(changes.into()),
            memory,
            misfits: Arc::default(),
            sent_under: Arc::default(),
        }
    }

    /// Tables of which a value had another shape than its type has now (FD-15): their rows are
    /// right only once they were copied again.
    pub fn misfits(&self) -> &[RelationId] {
        &self.misfits
    }

    /// Of which tables rows were sent under which others, as far as the source said it in this transaction:
    /// it says so with the first row of each table on a connection, and again when that may be different.
    pub fn sent_under(&self) -> &[SentUnder] {
        &self.sent_under
    }

    /// Number of changes, Relation entries included.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether they are in a spool file.
    pub fn is_spooled(&self) -> bool {
        matches!(self.held, Held::Spool { .. })
    }

    /// Bytes of memory (0 when spooled) or of the spool file.
    pub fn bytes(&self) -> u64 {
        match &self.held {
            Held::Memory(_) => self.memory as u64,
            Held::Spool { segment, .. } => segment.len_bytes(),
        }
    }

    /// Bytes of memory held; 0 when spooled.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// The changes from the first one on; may be called any number of times.
    pub fn iter(&self) -> ChangesIter {
        ChangesIter(match &self.held {
            Held::Memory(list) => Walk::Memory { list: list.clone(), next: 0 },
            Held::Spool { segment, relations } => {
                Walk::Spool { reader: segment.reader(), relations: relations.clone() }
            }
        })
    }
}

impl IntoIterator for &Changes {
    type Item = Result<Change>;
    type IntoIter = ChangesIter;

    fn into_iter(self) -> ChangesIter {
        self.iter()
    }
}

/// Walks over [`Changes`]. A damaged spool file is an error, after which nothing follows.
#[derive(Debug)]
pub struct ChangesIter(Walk);

#[derive(Debug)]
enum Walk {
    Memory { list: Arc<[Change]>, next: usize },
    Spool { reader: SegmentReader, relations: Arc<[Arc<Relation>]> },
    Ended,
}

impl Iterator for ChangesIter {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Result<Change>> {
        let found = match &mut self.0 {
            Walk::Memory { list, next } => {
                let change = list.get(*next).cloned()?;
                *next += 1;
                return Some(Ok(change));
            }
            Walk::Spool { reader, relations } => match reader.next_record() {
                Ok(None) => None,
                Ok(Some(record)) => Some(decode(record, relations).ok_or_else(|| {
                    let what = String::from("a record of a transaction's spool is not a change");
                    InputError::Store(StoreError::Damaged { what })
                })),
                Err(error) => Some(Err(InputError::Store(error))),
            },
            Walk::Ended => None,
        };
        if !matches!(found, Some(Ok(_))) {
            self.0 = Walk::Ended;
        }
        found
    }
}

/// The door for the fuzz targets: reads a record of a spool that knows these relations, and what it
/// reads again from what it writes.
#[doc(hidden)]
pub fn fuzz_record(record: &[u8], relations: &[Arc<Relation>]) {
    let Some(change) = decode(record, relations) else { return };
    let mut table = RelationTable::default();
    for relation in relations {
        table.number(relation);
    }
    let mut again = Vec::new();
    encode(&change, &mut table, &mut again);
    let read = decode(&again, relations).expect("what was written can be read");
    let mut written = Vec::new();
    encode(&read, &mut table, &mut written);
    assert_eq!(written, again);
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw_types::relation::{Column, RelationId, ReplicaIdentity, TableName};
    use hw_types::{Cell, PgType, RowBuilder};
    use proptest::prelude::*;

    fn relation(id: u32) -> Arc<Relation> {
        Arc::new(Relation {
            id: RelationId(id),
            name: TableName::new("public", format!("t{id}")),
            replica_identity: ReplicaIdentity::Full,
            columns: vec![Column {
                name: "a".into(),
                type_oid: 25,
                type_modifier: -1,
                pg_type: PgType::TEXT,
                identity: true,
                primary_key: 0,
            }],
        })
    }

    fn row(text: &[u8]) -> Row {
        let mut builder = RowBuilder::new();
        match text {
            b"" => builder.push(Cell::Absent),
            text => builder.push(Cell::Value(text)),
        }
        builder.finish()
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A change in the innermost open sub-transaction.
        Push(u8, Vec<u8>),
        /// SAVEPOINT.
        Open,
        /// RELEASE.
        Release,
        /// ROLLBACK TO and RELEASE.
        Abort,
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = prop::collection::vec(any::<u8>(), 0..40);
        prop_oneof![
            6 => (0u8..7, bytes).prop_map(|(kind, bytes)| Step::Push(kind, bytes)),
            2 => Just(Step::Open),
            1 => Just(Step::Release),
            1 => Just(Step::Abort),
        ]
    }

    fn change(kind: u8, bytes: &[u8], relations: &[Arc<Relation>]) -> Change {
        let relation = relations[bytes.len() % relations.len()].clone();
        let new = row(bytes);
        let kind = match kind {
            0 => ChangeKind::Insert { new },
            1 => ChangeKind::Update { old: None, new },
            2 => ChangeKind::Update { old: Some(row(b"old")), new },
            3 => ChangeKind::Delete { old: new },
            4 => return Change::Truncate { relations: relations.to_vec() },
            5 => {
                return Change::Message(LogMessage {
                    lsn: Lsn(bytes.len() as u64),
                    prefix: "headwater".into(),
                    content: Bytes::copy_from_slice(bytes),
                });
            }
            _ => return Change::Relation(relation),
        };
        Change::Row { relation, kind }
    }

    /// Equal in every byte, rows included.
    fn shape(change: &Change) -> String {
        let rows = match change {
            Change::Row { kind: ChangeKind::Insert { new }, .. } => vec![new.as_bytes()],
            Change::Row { kind: ChangeKind::Delete { old }, .. } => vec![old.as_bytes()],
            Change::Row { kind: ChangeKind::Update { old, new }, .. } => {
                old.iter().map(Row::as_bytes).chain([new.as_bytes()]).collect()
            }
            _ => vec![],
        };
        format!("{change:?} {rows:?}")
    }

    fn shapes(changes: &Changes) -> Vec<String> {
        changes.iter().map(|change| shape(&change.unwrap())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Memory, spool from the start and spool from the middle on give the same changes, which
        /// are those of the sub-transactions that were not rolled back.
        #[test]
        fn spooled_and_remembered_changes_are_the_same(
            steps in prop::collection::vec(step(), 0..60),
            spill_at in 0usize..60,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let dir = SpoolDir::open(folder.path(), 1 << 30).unwrap();
            let relations = [relation(1), relation(2), relation(1)];
            let (mut memory, mut spool, mut mixed) =
                (Recorder::default(), Recorder::default(), Recorder::default());
            spool.spill(&dir).unwrap();
            // The model: changes with the chain of sub-transactions that were open around them.
            let mut model: Vec<(Vec<u32>, String)> = Vec::new();
            let mut open = vec![100u32];
            let mut live_children: Vec<Vec<u32>> = vec![vec![]];
            let mut next = 101;
            for (number, step) in steps.iter().enumerate() {
                if number == spill_at {
                    mixed.spill(&dir).unwrap();
                }
                match step {
                    Step::Push(kind, bytes) => {
                        let change = change(*kind, bytes, &relations);
                        model.push((open.clone(), shape(&change)));
                        for recorder in [&mut memory, &mut spool, &mut mixed] {
                            recorder.push(Xid(*open.last().unwrap()), change.clone()).unwrap();
                        }
                    }
                    Step::Open => {
                        open.push(next);
                        live_children.push(vec![]);
                        next += 1;
                    }
                    Step::Release if open.len() > 1 => {
                        let done = open.pop().unwrap();
                        let mut children = live_children.pop().unwrap();
                        children.push(done);
                        live_children.last_mut().unwrap().append(&mut children);
                    }
                    Step::Abort if open.len() > 1 => {
                        let gone = open.pop().unwrap();
                        // Released children first, as the server reports them.
                        let children = live_children.pop().unwrap();
                        for xid in children.into_iter().chain([gone]) {
                            for recorder in [&mut memory, &mut spool, &mut mixed] {
                                recorder.cut(Xid(xid)).unwrap();
                            }
                        }
                        model.retain(|(chain, _)| !chain.contains(&gone));
                    }
                    Step::Release | Step::Abort => {}
                }
            }
            let expected: Vec<String> = model.into_iter().map(|(_, shape)| shape).collect();
            for recorder in [memory, spool, mixed] {
                let changes = recorder.finish().unwrap();
                prop_assert_eq!(shapes(&changes), expected.clone());
                prop_assert_eq!(shapes(&changes), expected.clone(), "a second time");
                prop_assert_eq!(changes.len(), expected.len() as u64);
            }
            prop_assert_eq!(dir.used(), 0, "the files went with the last handle");
        }

        #[test]
        fn a_damaged_record_never_panics(record in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&record, &[relation(1)]);
        }
    }

    #[test]
    fn a_full_spool_changes_nothing_and_can_be_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let dir = SpoolDir::open(folder.path(), 200).unwrap();
        let big = || Change::Row {
            relation: relation(1),
            kind: ChangeKind::Insert { new: row(&[7; 150]) },
        };
        let mut recorder = Recorder::default();
        recorder.push(Xid(1), big()).unwrap();
        recorder.push(Xid(1), big()).unwrap();
        assert!(matches!(recorder.spill(&dir), Err(StoreError::SpoolFull { .. })));
        assert_eq!((recorder.len(), dir.used()), (2, 0));
        assert_eq!(recorder.cut(Xid(9)).unwrap(), 2);
        assert_eq!(recorder.finish().unwrap().iter().count(), 2);
    }
}
