//! The change list: what the last transactions did to the rows of the replica, transaction by
//! transaction, for readers that keep something up to date which they have read before.
//!
//! In: what the writer applies ([`Recorder`]). Out: [`Committed`] items in commit order, shared by all
//! readers, up to the position of the state that a reader holds. The list is bounded by bytes; a reader
//! whose place it has left behind is told [`Since::Gone`] and begins anew. It lives in memory: after a
//! restart it is empty.
//!
//! Invariants:
//! - An item is in the list as soon as the state that contains it is published, and not before.
//! - Applying all items of *known* rows between two places to the rows at the first gives the rows at the
//!   second. What changes rows and is no transaction (a table enters, leaves, or is copied again and
//!   compared) stands in it in its place, as an item without xid whose tables are [`Rows::Unknown`];
//!   what gives the replica another history ends the list.
//! - A table that stands still has the rows that it had, for everybody: no item changes them until it goes
//!   on, and then it is unknown once.

use crate::tables::{StoredRow, Table};
use hw_types::{CommitLsn, EndLsn, FullXid, Relation, TableName};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

/// Memory of a row beside its bytes, of a table beside its rows, and of an item beside its tables,
/// roughly.
const PER_ROW: usize = 128;
const PER_TABLE: usize = 64;
const PER_ITEM: usize = 128;

/// Of the bytes that a list may hold, one transaction may take this part (others would be gone for its
/// sake), what is not published yet another, and what is published the rest.
const SHARE_OF_ONE: usize = 8;
const SHARE_OF_PENDING: usize = 4;

/// What one transaction did, or something that is none.
#[derive(Debug, PartialEq, Eq)]
pub struct Committed {
    /// Where its commit record starts; of what is no transaction, that of the last one before it.
    pub commit_lsn: CommitLsn,
    /// Everything before this position is contained in the state behind it.
    pub end_lsn: EndLsn,
    /// Its top-level id; `None` of what is no transaction.
    pub xid: Option<FullXid>,
    /// The tables that it touched, by number. One that was renamed stands in it under both names.
    pub tables: Vec<ChangedTable>,
    /// Whether it says that something was altered, whatever that is: of a transaction with DDL in it, where
    /// `headwater setup` installed what tells it.
    pub altered: bool,
}

/// What an item did to a table.
#[derive(Debug, PartialEq, Eq)]
pub struct ChangedTable {
    /// Number of the table's incarnation: row keys of one number mean the same.
    pub number: u32,
    /// The table's name, and the columns of the rows here.
    pub relation: Arc<Relation>,
    /// Its rows.
    pub rows: Rows,
    /// Whether the log describes the table anew. It does before the first change of a table behind any
    /// statement on who may do what with it (GRANT, a policy, row level security; not on roles, or on what
    /// a policy calls), and for many other reasons.
    pub described: bool,
}

/// The rows that an item touched.
#[derive(Debug, PartialEq, Eq)]
pub enum Rows {
    /// All of them, by key.
    Known(Vec<ChangedRow>),
    /// They are not listed: a transaction above the bounds, or the table has entered, has left, or was
    /// copied again and compared.
    Unknown,
    /// The table cannot be followed and stands still: its rows in the replica are what they were. What the
    /// transaction did to them comes when it goes on.
    StandsStill,
}

/// A row that a transaction touched: its net effect. A row that came and went is none.
#[derive(Debug, PartialEq, Eq)]
pub struct ChangedRow {
    /// The row's key.
    pub key: Box<[u8]>,
    /// The row behind the transaction before; `None` when it was not there.
    pub before: Option<StoredRow>,
    /// The row behind this one; equal to `before` when it was only touched.
    pub after: Option<StoredRow>,
}

impl ChangedTable {
    pub(crate) fn new(table: &Table, rows: Rows) -> ChangedTable {
        let Table { record, .. } = table;
        let relation = record.relation.clone();
        ChangedTable { number: record.number, relation, rows, described: false }
    }

    /// The table's name.
    pub fn name(&self) -> &TableName {
        &self.relation.name
    }

    /// The rows, if they are known.
    pub fn known(&self) -> Option<&[ChangedRow]> {
        match &self.rows {
            Rows::Known(rows) => Some(rows),
            Rows::Unknown | Rows::StandsStill => None,
        }
    }
}

/// Where a reader of the list stands: behind an item, in one list. Comes with a published state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChangePlace {
    /// Which list: that of a process, or of a history of the replica.
    list: u64,
    /// Items of it before this place.
    items: u64,
}

/// What lies between a reader's place and a published state.
#[derive(Clone, Debug)]
#[must_use]
pub enum Since {
    /// All of it, in commit order.
    Complete(Vec<Arc<Committed>>),
    /// It is not known any more: what was read at the place must be read again.
    Gone,
}

/// The list, as its readers share it.
pub(crate) struct ChangeList {
    /// Bytes that it may hold; 0: there is none.
    limit: usize,
    kept: Mutex<Kept>,
}

/// The newest items of a list.
struct Kept {
    list: u64,
    /// Items that were dropped.
    dropped: u64,
    items: VecDeque<Item>,
    bytes: usize,
}

/// An item with its weight.
struct Item {
    committed: Arc<Committed>,
    bytes: usize,
}

impl Kept {
    fn new() -> Kept {
        Kept { list: unlike_any(), dropped: 0, items: VecDeque::new(), bytes: 0 }
    }

    /// Appends; gives what no longer fits, to be freed by somebody who holds no lock.
    fn push(&mut self, item: Item, limit: usize, over: &mut Vec<Item>) {
        self.bytes += item.bytes;
        self.items.push_back(item);
        while self.bytes > limit
            && let Some(oldest) = self.items.pop_front()
        {
            self.bytes -= oldest.bytes;
            self.dropped += 1;
            over.push(oldest);
        }
    }

    fn end(&self) -> ChangePlace {
        ChangePlace { list: self.list, items: self.dropped + self.items.len() as u64 }
    }
}

/// A number that no other list has.
fn unlike_any() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    u64::from_be_bytes(bytes)
}

impl ChangeList {
    /// An empty list of at most so many bytes; of none, when that is 0.
    pub fn new(limit: usize) -> ChangeList {
        ChangeList { limit, kept: Mutex::new(Kept::new()) }
    }

    /// The place behind the last item.
    pub fn end(&self) -> ChangePlace {
        self.kept.lock().end()
    }

    /// Appends what a state contains that is published now; gives that state's place.
    pub fn publish(&self, pending: Pending) -> ChangePlace {
        let mut over = Vec::new();
        let mut kept = self.kept.lock();
        if pending.anew {
            over.extend(std::mem::replace(&mut *kept, Kept::new()).items);
        }
        let limit = self.limit - self.limit / SHARE_OF_PENDING;
        for item in pending.items {
            kept.push(item, limit, &mut over);
        }
        let end = kept.end();
        // What is freed is freed outside of the lock.
        drop(kept);
        end
    }

    /// What is to be published behind something that is not published yet.
    pub fn joined(&self, earlier: Pending, later: Pending) -> Pending {
        let bytes = earlier.bytes + later.bytes;
        if later.anew {
            return later;
        }
        if bytes > self.limit / SHARE_OF_PENDING {
            return Pending { anew: true, ..Pending::default() };
        }
        let Pending { anew, mut items, .. } = earlier;
        items.extend(later.items);
        Pending { anew, items, bytes }
    }

    /// What lies between two places.
    pub fn between(&self, after: ChangePlace, until: ChangePlace) -> Since {
        let kept = self.kept.lock();
        let is_here = |place: ChangePlace| place.list == kept.list && place.items >= kept.dropped;
        if self.limit == 0 || !is_here(after) || !is_here(until) || after.items > until.items {
            return Since::Gone;
        }
        let [from, to] = [after, until].map(|place| (place.items - kept.dropped) as usize);
        Since::Complete(kept.items.range(from..to).map(|item| item.committed.clone()).collect())
    }
}

/// Items whose state is not published yet.
#[derive(Default)]
pub(crate) struct Pending {
    /// Nothing before them is known.
    anew: bool,
    items: VecDeque<Item>,
    bytes: usize,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending({} items, {} bytes)", self.items.len(), self.bytes)
    }
}

/// Takes what the writer does. Without a list there is none, and nothing is kept for it.
pub(crate) struct Recorder {
    limit: usize,
    pending: Pending,
    /// The transaction that is applied.
    tables: Vec<ChangedTable>,
    /// Those that the log describes in it.
    described: BTreeMap<u32, Arc<Relation>>,
    bytes: usize,
    /// Whether its rows are listed.
    known: bool,
}

impl Recorder {
    /// For a list of at most so many bytes.
    pub fn new(limit: usize) -> Option<Recorder> {
        let recorder = Recorder {
            limit,
            pending: Pending::default(),
            tables: Vec::new(),
            described: BTreeMap::new(),
            bytes: 0,
            known: false,
        };
        (limit > 0).then_some(recorder)
    }

    /// A transaction is read, from its beginning.
    pub fn begin(&mut self) {
        self.tables.clear();
        self.described.clear();
        (self.bytes, self.known) = (PER_ITEM, true);
    }

    /// The rows of this transaction are too many.
    pub fn is_large(&mut self) {
        self.known = false;
        self.tables.retain(|table| table.rows == Rows::StandsStill);
    }

    /// Whether rows of the transaction are taken as yet.
    pub fn takes_rows(&self) -> bool {
        self.known
    }

    /// A row was touched. Rows of a table come one after the other, by key.
    ///
    /// - Takes: its key, if rows are taken.
    pub fn row(
        &mut self,
        table: &Table,
        key: Option<Vec<u8>>,
        before: Option<StoredRow>,
        after: Option<StoredRow>,
    ) {
        if before.is_none() && after.is_none() {
            return;
        }
        let number = table.record.number;
        if self.tables.last().is_none_or(|last| last.number != number) {
            self.bytes += PER_TABLE;
            let rows = if self.known { Rows::Known(Vec::new()) } else { Rows::Unknown };
            self.tables.push(ChangedTable::new(table, rows));
        }
        if let Some(ChangedTable { rows: Rows::Known(rows), .. }) = self.tables.last_mut()
            && let Some(key) = key
        {
            let bytes =
                |row: &Option<StoredRow>| row.as_ref().map_or(0, |r| r.row.as_bytes().len());
            self.bytes += PER_ROW + key.len() + bytes(&before) + bytes(&after);
            rows.push(ChangedRow { key: key.into(), before, after });
            if self.bytes > self.limit / SHARE_OF_ONE {
                self.bytes = PER_ITEM + PER_TABLE * self.tables.len();
                self.known = false;
                let known = self.tables.iter_mut().filter(|table| table.known().is_some());
                known.for_each(|table| table.rows = Rows::Unknown);
            }
        }
    }

    /// The transaction does something to a table that stands still.
    pub fn stands_still(&mut self, table: &Table) {
        let number = table.record.number;
        if !self.tables.iter().any(|known| known.number == number) {
            self.bytes += PER_TABLE;
            self.tables.push(ChangedTable::new(table, Rows::StandsStill));
        }
    }

    /// The log describes a table.
    pub fn described(&mut self, table: &Table) {
        self.described.insert(table.record.number, table.record.relation.clone());
    }

    /// The transaction is applied. One that touched no row and tells no news is not listed.
    pub fn end(&mut self, commit_lsn: CommitLsn, end_lsn: EndLsn, xid: FullXid, altered: bool) {
        let mut tables = std::mem::take(&mut self.tables);
        for (number, relation) in std::mem::take(&mut self.described) {
            match tables.iter_mut().find(|table| table.number == number) {
                Some(table) => table.described = true,
                None => {
                    self.bytes += PER_TABLE;
                    let rows = Rows::Known(Vec::new());
                    tables.push(ChangedTable { number, relation, rows, described: true });
                }
            }
        }
        if tables.is_empty() && !altered {
            return;
        }
        tables.sort_by_key(|table| table.number);
        let bytes = self.bytes;
        self.push(Committed { commit_lsn, end_lsn, xid: Some(xid), tables, altered }, bytes);
    }

    /// Something that is no transaction.
    pub fn other(&mut self, commit_lsn: CommitLsn, end_lsn: EndLsn, tables: Vec<ChangedTable>) {
        let bytes = PER_ITEM + PER_TABLE * tables.len();
        self.push(Committed { commit_lsn, end_lsn, xid: None, tables, altered: false }, bytes);
    }

    /// Whoever read something before this moment reads it again.
    pub fn anew(&mut self) {
        self.pending = Pending { anew: true, ..Pending::default() };
    }

    fn push(&mut self, committed: Committed, bytes: usize) {
        // The publisher is slow, or the state is not shown.
        if self.pending.bytes + bytes > self.limit / SHARE_OF_PENDING {
            self.anew();
        }
        self.pending.bytes += bytes;
        self.pending.items.push_back(Item { committed: Arc::new(committed), bytes });
    }

    /// What is to be published with the state of now.
    pub fn take(&mut self) -> Pending {
        std::mem::take(&mut self.pending)
    }
}
