//! The pure core: messages of the output plugin in, whole transactions out.
//!
//! States: between transactions; inside Begin … Commit; inside a stream block of one open
//! transaction, of which any number wait beside it. Changes go to the [`Recorder`] of their
//! transaction, and nothing else is touched before its commit.
//!
//! Relations: the server describes a table before its first change on a connection, for each
//! streamed transaction anew, and again whenever something about it may have changed. What a
//! streamed transaction was told holds for it alone until it commits. A description is passed on
//! as [`Change::Relation`] in front of the first change that uses it, so that one made only by a
//! rolled back sub-transaction is never lost for those that follow.

use super::changes::{Changes, Recorder, SentUnder};
use super::{Item, NextXid, StreamLimits, Transaction};
use crate::error::{InputError, Result, damaged};
use bytes::Bytes;
use foldhash::{HashMap, HashMapExt as _};
use hw_pg::pgoutput::{Datum, Decoder, Message, OldTuple, RelationMessage, Tuple};
use hw_pg::types::{Fit, Form, decode};
use hw_store::segment::SpoolDir;
use hw_types::{
    Cell, Change, ChangeKind, CommitLsn, EndLsn, LogMessage, Lsn, Relation, RelationId, Row,
    RowBuilder, Xid,
};
use std::sync::Arc;

/// An owned Relation message: what the catalog must be asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The relation as the log describes it; its types are still to be found.
    pub relation: Relation,
}

/// What came of a message.
#[derive(Debug)]
pub enum Step {
    /// Nothing yet.
    Nothing,
    /// A relation must be looked up and given to [`Assembler::define`] before the next message.
    Describe(Described),
    /// Something to deliver.
    Item(Item),
}

/// A relation as some transaction was told.
#[derive(Clone, Debug)]
struct Known {
    relation: Arc<Relation>,
    /// Counts Relation messages: the greater is the newer.
    order: u64,
    /// Whether a delivered change named it already, or the change at this place of the open
    /// transaction will.
    announced: Announced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Announced {
    No,
    /// By the change number n of the same transaction; undone if that is cut.
    Here(u64),
    Before,
}

type Relations = HashMap<RelationId, Known>;

/// A transaction whose end has not been seen.
#[derive(Debug, Default)]
struct Open {
    recorder: Recorder,
    /// How many messages under our prefixes were kept.
    messages: u32,
    /// What this transaction was told; used by streamed ones only.
    told: Relations,
}

/// So often one transaction is heard to say that something was altered.
const MOST_ALTERATIONS: u32 = 64;

/// Whose changes arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Current {
    None,
    Whole { commit_lsn: CommitLsn, xid: Xid },
    Streamed(Xid),
}

/// Assembles the transactions of one connection.
pub struct Assembler {
    decoder: Decoder,
    spool: SpoolDir,
    limits: StreamLimits,
    relations: Relations,
    /// Counts Relation messages.
    described: u64,
    current: Current,
    /// What the last messages described, if they described something: before a row that is sent under a
    /// partitioned table the source describes that one, and then the table that holds the row.
    lately: [Option<RelationId>; 2],
    /// The transaction between Begin and Commit.
    whole: Open,
    streamed: HashMap<Xid, Open>,
    /// Memory of all open transactions; kept equal to the sum over their recorders.
    open_memory: usize,
    /// The greatest end that was delivered.
    delivered: EndLsn,
    next_xid: NextXid,
    builder: RowBuilder,
}

impl Assembler {
    /// An assembler for a connection that has just started to stream.
    ///
    /// - Takes: the next id of the source's transactions, about now.
    pub fn new(spool: SpoolDir, limits: StreamLimits, next_xid: NextXid) -> Assembler {
        Assembler {
            decoder: Decoder::new(),
            spool,
            limits,
            relations: Relations::new(),
            described: 0,
            current: Current::None,
            lately: [None; 2],
            whole: Open::default(),
            streamed: HashMap::new(),
            open_memory: 0,
            delivered: EndLsn::default(),
            next_xid,
            builder: RowBuilder::new(),
        }
    }

    /// Where large open transactions go.
    pub fn spool(&self) -> &SpoolDir {
        &self.spool
    }

    /// Bytes of memory that open transactions hold.
    pub fn open_memory(&self) -> usize {
        self.open_memory
    }

    /// Number of open streamed transactions.
    pub fn open_transactions(&self) -> usize {
        self.streamed.len()
    }

    /// A keepalive: the server has sent everything up to `end`. It says nothing about a
    /// transaction that is being sent.
    pub fn keepalive(&mut self, end: EndLsn) -> Option<Item> {
        if matches!(self.current, Current::Whole { .. }) || end <= self.delivered {
            return None;
        }
        self.delivered = end;
        Some(Item::Progress(end))
    }

    /// Takes one message.
    ///
    /// - Errors: `StoreError::SpoolFull` has changed nothing, and the same message can be given
    ///   again; behind any other error the connection must be given up.
    pub fn message(&mut self, payload: &[u8]) -> Result<Step> {
        let decoded = self.decoder.decode(payload).map_err(|error| damaged(error.to_string()))?;
        let xid = decoded.xid;
        match &decoded.message {
            Message::Relation(message) => self.lately = [self.lately[1], Some(message.id)],
            Message::Insert { .. } | Message::Update { .. } | Message::Delete { .. } => {}
            // What a description is made of may stand in front of it.
            Message::Type { .. } => {}
            _ => self.lately = [None; 2],
        }
        match decoded.message {
            Message::Relation(message) => {
                return Ok(Step::Describe(Described { relation: owned(&message) }));
            }
            Message::Insert { relation, new } => {
                let relation = self.known(relation)?;
                let (new, fit) = row(&mut self.builder, &relation, new)?;
                self.record(xid, relation, ChangeKind::Insert { new }, fit)?;
            }
            Message::Update { relation, old, new } => {
                let relation = self.known(relation)?;
                let old = match old {
                    Some(OldTuple::Key(old) | OldTuple::Full(old)) => {
                        // A key of another shape than its type: the whole row shows it as well.
                        Some(row(&mut self.builder, &relation, old)?.0)
                    }
                    None => None,
                };
                let (new, fit) = row(&mut self.builder, &relation, new)?;
                self.record(xid, relation, ChangeKind::Update { old, new }, fit)?;
            }
            Message::Delete { relation, old } => {
                let relation = self.known(relation)?;
                let (old, fit) = row(&mut self.builder, &relation, old.tuple())?;
                self.record(xid, relation, ChangeKind::Delete { old }, fit)?;
            }
            Message::Truncate { relations, .. } => {
                let relations =
                    relations.iter().map(|id| self.known(id)).collect::<Result<Vec<_>>>()?;
                for relation in &relations {
                    self.announce(xid, relation)?;
                }
                self.push(xid, Change::Truncate { relations })?;
            }
            Message::Logical { transactional: true, lsn, prefix, content } => {
                self.message_of(xid, lsn, prefix, content)?;
            }
            // Ours are transactional; others' are nobody's business.
            Message::Logical { .. } | Message::Origin { .. } | Message::Type { .. } => {}
            Message::Begin { commit_lsn, xid, .. } => {
                self.expect(self.current == Current::None, "a transaction begins inside another")?;
                self.current = Current::Whole { commit_lsn, xid };
            }
            Message::Commit { commit_lsn, end_lsn, commit_time_micros } => {
                let Current::Whole { commit_lsn: begun, xid } = self.current else {
                    return Err(stream("a commit without its beginning"));
                };
                self.expect(begun == commit_lsn, "a commit of another transaction")?;
                self.current = Current::None;
                let open = std::mem::take(&mut self.whole);
                self.open_memory -= open.recorder.memory();
                let changes = open.recorder.finish()?;
                return Ok(self.deliver(commit_lsn, end_lsn, xid, commit_time_micros, changes));
            }
            Message::StreamStart { xid, first } => {
                self.expect(
                    self.current == Current::None,
                    "a stream block begins inside a transaction",
                )?;
                self.expect(
                    first != self.streamed.contains_key(&xid),
                    "a stream block that does not continue its transaction",
                )?;
                if first {
                    self.streamed.insert(xid, Open::default());
                }
                self.current = Current::Streamed(xid);
            }
            Message::StreamStop => self.current = Current::None,
            Message::StreamCommit { xid, commit_lsn, end_lsn, commit_time_micros } => {
                let open = self.take_streamed(xid)?;
                let changes = open.recorder.finish()?;
                for (id, mut known) in open.told {
                    if let Announced::Here(_) = known.announced {
                        known.announced = Announced::Before;
                    }
                    // A newer description may have reached a transaction that committed before.
                    match self.relations.get(&id) {
                        Some(newer) if newer.order > known.order => {}
                        _ => {
                            self.relations.insert(id, known);
                        }
                    }
                }
                return Ok(self.deliver(commit_lsn, end_lsn, xid, commit_time_micros, changes));
            }
            // Postgres 18 also tells of the end of parts of a transaction of which it has sent nothing,
            // because it knew that it was rolled back.
            Message::StreamAbort { xid, .. } if !self.streamed.contains_key(&xid) => {}
            Message::StreamAbort { xid, subxid } if xid == subxid => {
                self.take_streamed(xid)?;
            }
            Message::StreamAbort { xid, subxid } => {
                let open = self.streamed.get_mut(&xid).ok_or_else(|| stream(UNKNOWN))?;
                let before = open.recorder.memory();
                let left = open.recorder.cut(subxid)?;
                self.open_memory -= before - open.recorder.memory();
                for known in open.told.values_mut() {
                    if matches!(known.announced, Announced::Here(at) if at >= left) {
                        known.announced = Announced::No;
                    }
                }
            }
        }
        Ok(Step::Nothing)
    }

    /// Takes a relation that [`Step::Describe`] asked for.
    pub fn define(&mut self, relation: Relation) {
        self.described += 1;
        let known =
            Known { order: self.described, announced: Announced::No, relation: Arc::new(relation) };
        let id = known.relation.id;
        match self.current {
            Current::Streamed(xid) => {
                let open = self.streamed.entry(xid).or_default();
                open.told.insert(id, known);
            }
            _ => {
                self.relations.insert(id, known);
            }
        }
    }

    /// How a table is described: to all, and to open transactions that were told something else.
    pub fn descriptions(&self, id: RelationId) -> Vec<Arc<Relation>> {
        let told = self.streamed.values().map(|open| &open.told);
        let mut all: Vec<Arc<Relation>> = Vec::new();
        for known in std::iter::once(&self.relations).chain(told).filter_map(|of| of.get(&id)) {
            if !all.iter().any(|relation| Arc::ptr_eq(relation, &known.relation)) {
                all.push(known.relation.clone());
            }
        }
        all
    }

    /// Puts a description in the place of one whose types were read before.
    pub fn describe_again(&mut self, old: &Arc<Relation>, new: Relation) {
        if **old == new {
            return;
        }
        let new = Arc::new(new);
        let told = self.streamed.values_mut().map(|open| &mut open.told);
        for relations in std::iter::once(&mut self.relations).chain(told) {
            if let Some(known) = relations.get_mut(&new.id)
                && Arc::ptr_eq(&known.relation, old)
            {
                (known.relation, known.announced) = (new.clone(), Announced::No);
            }
        }
    }

    fn expect(&self, holds: bool, what: &str) -> Result<()> {
        if holds { Ok(()) } else { Err(stream(what)) }
    }

    fn take_streamed(&mut self, xid: Xid) -> Result<Open> {
        self.expect(self.current == Current::None, "a transaction ends inside another")?;
        let open = self.streamed.remove(&xid).ok_or_else(|| stream(UNKNOWN))?;
        self.open_memory -= open.recorder.memory();
        Ok(open)
    }

    fn deliver(
        &mut self,
        commit_lsn: CommitLsn,
        end_lsn: EndLsn,
        xid: Xid,
        commit_time_micros: i64,
        changes: Changes,
    ) -> Step {
        self.delivered = self.delivered.max(end_lsn);
        let xid = self.next_xid.full(xid);
        if changes.is_empty() {
            return Step::Item(Item::Progress(self.delivered));
        }
        Step::Item(Item::Transaction(Transaction {
            commit_lsn,
            end_lsn,
            xid,
            commit_time_micros,
            changes,
        }))
    }

    /// The newest description that the current transaction was given.
    fn known(&mut self, id: RelationId) -> Result<Arc<Relation>> {
        let known = match self.current {
            Current::Streamed(xid) => {
                let open = self.streamed.get_mut(&xid).ok_or_else(|| stream(UNKNOWN))?;
                if let Some(known) = open.told.get(&id) {
                    return Ok(known.relation.clone());
                }
                self.relations.get(&id).inspect(|known| {
                    open.told.insert(id, Known::clone(known));
                })
            }
            _ => self.relations.get(&id),
        };
        known
            .map(|known| known.relation.clone())
            .ok_or_else(|| stream("a change of a table that was not described"))
    }

    fn record(
        &mut self,
        xid: Option<Xid>,
        relation: Arc<Relation>,
        kind: ChangeKind,
        fit: Fit,
    ) -> Result<()> {
        self.announce(xid, &relation)?;
        let table = relation.id;
        self.push(xid, Change::Row { relation, kind })?;
        if fit == Fit::OtherTime {
            self.open()?.recorder.note_misfit(table);
        }
        if let [Some(root), Some(holder)] = std::mem::take(&mut self.lately)
            && root == table
            && holder != root
        {
            let sent = SentUnder { table: holder, root };
            self.open()?.recorder.note_sent_under(sent);
        }
        Ok(())
    }

    /// Passes a description on in front of the first change that uses it.
    fn announce(&mut self, xid: Option<Xid>, relation: &Arc<Relation>) -> Result<()> {
        let (known, at) = match self.current {
            Current::Streamed(top) => {
                let open = self.streamed.get_mut(&top).ok_or_else(|| stream(UNKNOWN))?;
                let at = Announced::Here(open.recorder.len());
                (open.told.get_mut(&relation.id), at)
            }
            // A transaction between Begin and Commit is never cut.
            _ => (self.relations.get_mut(&relation.id), Announced::Before),
        };
        let Some(known) = known else { return Ok(()) };
        if known.announced != Announced::No {
            return Ok(());
        }
        known.announced = at;
        let pushed = self.push(xid, Change::Relation(relation.clone()));
        if pushed.is_err() {
            // Tried again with the same message when the spool was full.
            let known = match self.current {
                Current::Streamed(top) => {
                    self.streamed.get_mut(&top).and_then(|o| o.told.get_mut(&relation.id))
                }
                _ => self.relations.get_mut(&relation.id),
            };
            if let Some(known) = known {
                known.announced = Announced::No;
            }
        }
        pushed
    }

    /// Keeps a message under one of our prefixes, of which anybody who may log in can write as many as
    /// he likes into one transaction (E-5).
    fn message_of(
        &mut self,
        xid: Option<Xid>,
        lsn: Lsn,
        prefix: &str,
        content: &[u8],
    ) -> Result<()> {
        // A marker of ours stands alone in its transaction. That something was altered is enough to
        // know; what a cut subtransaction took along, the look of each second finds.
        let (most, content) = match prefix {
            hw_pg::marker::PREFIX => (1, Bytes::copy_from_slice(content)),
            hw_pg::marker::DDL_PREFIX => (MOST_ALTERATIONS, Bytes::new()),
            _ => return Ok(()),
        };
        if self.open()?.messages >= most {
            if prefix == hw_pg::marker::PREFIX {
                metrics::counter!("headwater_foreign_markers_total").increment(1);
            }
            return Ok(());
        }
        let message = LogMessage { lsn, prefix: prefix.to_owned(), content };
        self.push(xid, Change::Message(message))?;
        self.open()?.messages += 1;
        Ok(())
    }

    /// The transaction whose changes arrive.
    fn open(&mut self) -> Result<&mut Open> {
        match self.current {
            Current::Streamed(top) => self.streamed.get_mut(&top).ok_or_else(|| stream(UNKNOWN)),
            _ => Ok(&mut self.whole),
        }
    }

    fn push(&mut self, xid: Option<Xid>, change: Change) -> Result<()> {
        let (recorder, by) = match self.current {
            Current::Whole { xid: top, .. } => (&mut self.whole.recorder, top),
            Current::Streamed(top) => {
                let open = self.streamed.get_mut(&top).ok_or_else(|| stream(UNKNOWN))?;
                (&mut open.recorder, xid.unwrap_or(top))
            }
            Current::None => return Err(stream("a change outside of a transaction")),
        };
        if self.open_memory > self.limits.open_bytes && recorder.memory() > 0 {
            let before = recorder.memory();
            recorder.spill(&self.spool)?;
            self.open_memory -= before;
        }
        let before = recorder.memory();
        recorder.push(by, change)?;
        self.open_memory += recorder.memory() - before;
        Ok(())
    }
}

const UNKNOWN: &str = "the end or a part of a transaction that did not begin";

fn stream(what: &str) -> InputError {
    InputError::Stream(what.to_owned())
}

fn owned(message: &RelationMessage<'_>) -> Relation {
    Relation {
        id: message.id,
        name: hw_types::TableName::new(message.schema, message.name),
        replica_identity: message.replica_identity,
        columns: message
            .columns
            .iter()
            .map(|column| hw_types::Column {
                name: column.name.to_owned(),
                type_oid: column.type_oid,
                type_modifier: column.type_modifier,
                pg_type: hw_types::PgType::TEXT,
                identity: column.identity,
                primary_key: 0,
            })
            .collect(),
    }
}

/// Decodes a tuple to canonical values.
fn row(builder: &mut RowBuilder, relation: &Relation, tuple: Tuple<'_>) -> Result<(Row, Fit)> {
    let mut whole = Fit::Exact;
    if tuple.len() != relation.columns.len() {
        return Err(damaged(format!(
            "a row of {} with {} columns where {} were described",
            relation.name,
            tuple.len(),
            relation.columns.len()
        )));
    }
    for (datum, column) in tuple.iter().zip(&relation.columns) {
        let decoded = match datum {
            Datum::Null => {
                builder.push(Cell::Null);
                continue;
            }
            Datum::UnchangedToast => {
                builder.push(Cell::Absent);
                continue;
            }
            Datum::Text(bytes) => decode(Form::Text, &column.pg_type, bytes, builder),
            Datum::Binary(bytes) => decode(Form::Binary, &column.pg_type, bytes, builder),
        };
        match decoded {
            Ok(Fit::Exact) => {}
            Ok(Fit::OtherTime) => whole = Fit::OtherTime,
            Err(error) => {
                // Names only: the value itself never reaches a text.
                builder.finish();
                return Err(damaged(format!(
                    "a value of column \"{}\" of {}: {error}",
                    column.name, relation.name
                )));
            }
        }
    }
    Ok((builder.finish(), whole))
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
