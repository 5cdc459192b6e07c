use super::*;
use crate::transactions::Changes;
use hw_types::{Column, FullXid, PgType, ReplicaIdentity, TableName};
use proptest::prelude::*;

/// Builds messages as the server would.
mod wire {
    fn name(out: &mut Vec<u8>, text: &str) {
        out.extend_from_slice(text.as_bytes());
        out.push(0);
    }

    fn inside(tag: u8, stream: Option<u32>) -> Vec<u8> {
        let mut out = vec![tag];
        out.extend(
            stream.map(u32::to_be_bytes).unwrap_or_default().iter().filter(|_| stream.is_some()),
        );
        out
    }

    pub fn begin(commit_lsn: u64, xid: u32) -> Vec<u8> {
        let mut out = vec![b'B'];
        out.extend(commit_lsn.to_be_bytes());
        out.extend(0i64.to_be_bytes());
        out.extend(xid.to_be_bytes());
        out
    }

    pub fn commit(commit_lsn: u64) -> Vec<u8> {
        let mut out = vec![b'C', 0];
        out.extend(commit_lsn.to_be_bytes());
        out.extend((commit_lsn + 8).to_be_bytes());
        out.extend(7i64.to_be_bytes());
        out
    }

    pub fn relation(id: u32, stream: Option<u32>) -> Vec<u8> {
        let mut out = inside(b'R', stream);
        out.extend(id.to_be_bytes());
        name(&mut out, "public");
        name(&mut out, &format!("t{id}"));
        out.extend(b"d\0\x01\x01a\0\0\0\0\x19\xff\xff\xff\xff");
        out
    }

    pub fn insert(id: u32, text: &str, stream: Option<u32>) -> Vec<u8> {
        let mut out = inside(b'I', stream);
        out.extend(id.to_be_bytes());
        out.extend(b"N\0\x01t");
        out.extend((text.len() as u32).to_be_bytes());
        out.extend(text.as_bytes());
        out
    }

    pub fn message(prefix: &str, content: &str, stream: Option<u32>) -> Vec<u8> {
        let mut out = inside(b'M', stream);
        out.push(1);
        out.extend(9u64.to_be_bytes());
        name(&mut out, prefix);
        out.extend((content.len() as u32).to_be_bytes());
        out.extend(content.as_bytes());
        out
    }

    pub fn stream_start(xid: u32, first: bool) -> Vec<u8> {
        let mut out = vec![b'S'];
        out.extend(xid.to_be_bytes());
        out.push(u8::from(first));
        out
    }

    pub fn stream_stop() -> Vec<u8> {
        vec![b'E']
    }

    pub fn stream_commit(xid: u32, commit_lsn: u64) -> Vec<u8> {
        let mut out = vec![b'c'];
        out.extend(xid.to_be_bytes());
        out.extend(&commit(commit_lsn)[1..]);
        out
    }

    pub fn stream_abort(xid: u32, subxid: u32) -> Vec<u8> {
        let mut out = vec![b'A'];
        out.extend(xid.to_be_bytes());
        out.extend(subxid.to_be_bytes());
        out
    }
}

struct Bench {
    assembler: Assembler,
    delivered: Vec<Item>,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(open_bytes: usize) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let spool = SpoolDir::open(folder.path(), 1 << 30).unwrap();
        let limits = StreamLimits { open_bytes, ..StreamLimits::default() };
        Bench {
            assembler: Assembler::new(spool, limits, NextXid::new(FullXid(3 << 32))),
            delivered: vec![],
            _folder: folder,
        }
    }

    fn feed(&mut self, message: Vec<u8>) -> Result<()> {
        match self.assembler.message(&message)? {
            Step::Nothing => {}
            Step::Item(item) => self.delivered.push(item),
            Step::Describe(described) => self.assembler.define(described.relation),
        }
        Ok(())
    }

    fn feed_all(&mut self, messages: impl IntoIterator<Item = Vec<u8>>) {
        for message in messages {
            self.feed(message).unwrap();
        }
    }

    fn texts(&self) -> Vec<Vec<String>> {
        self.delivered
            .iter()
            .map(|item| match item {
                Item::Transaction(transaction) => texts(&transaction.changes),
                Item::Progress(end) => vec![format!("progress {end}")],
            })
            .collect()
    }
}

/// `t1` for a description, `t1:x` for a row.
fn texts(changes: &Changes) -> Vec<String> {
    changes
        .iter()
        .map(|change| match change.unwrap() {
            Change::Relation(relation) => relation.name.name.clone(),
            Change::Row { relation, kind: ChangeKind::Insert { new } } => {
                let text = new.view().get(0).bytes().unwrap().to_vec();
                format!("{}:{}", relation.name.name, String::from_utf8(text).unwrap())
            }
            other => panic!("unexpected {other:?}"),
        })
        .collect()
}

/// FD-43, E-5: anybody who may log in can write them, and a transaction is read as often as the server
/// starts.
#[test]
fn fd_43_messages_of_a_stranger_are_not_gathered_however_many_a_transaction_has() {
    for (prefix, most) in [("headwater", 1), ("headwater_ddl", 64), ("another", 0)] {
        for stream in [None, Some(7)] {
            let mut bench = Bench::new(1 << 20);
            bench
                .feed_all([stream.map_or(wire::begin(90, 7), |xid| wire::stream_start(xid, true))]);
            let messages = || wire::message(prefix, &"x".repeat(100_000), stream);
            bench.feed_all(std::iter::repeat_with(messages).take(200));
            bench.feed_all([wire::relation(1, stream), wire::insert(1, "v", stream)]);
            bench.feed_all(match stream {
                None => vec![wire::commit(90)],
                Some(xid) => vec![wire::stream_stop(), wire::stream_commit(xid, 90)],
            });
            let [Item::Transaction(transaction)] = &bench.delivered[..] else { panic!("one") };
            let is_message = |change: &Change| matches!(change, Change::Message(_));
            let kept =
                transaction.changes.iter().filter(|c| is_message(c.as_ref().unwrap())).count();
            assert_eq!((kept, transaction.changes.iter().count()), (most, most + 2));
            assert!(transaction.changes.bytes() < 200_000, "{}", transaction.changes.bytes());
        }
    }
}

#[test]
fn fd_15_a_table_that_is_described_again_is_so_in_open_transactions_too() {
    let mut bench = Bench::new(1 << 20);
    bench.feed_all([wire::begin(90, 6), wire::relation(1, None), wire::insert(1, "v", None)]);
    bench.feed_all([wire::commit(90), wire::stream_start(7, true), wire::relation(1, Some(7))]);
    bench.feed_all([wire::insert(1, "x", Some(7)), wire::stream_stop()]);
    let descriptions = bench.assembler.descriptions(RelationId(1));
    assert_eq!(descriptions.len(), 2);
    for old in descriptions {
        bench.assembler.describe_again(&old, (*old).clone());
        let mut new = (*old).clone();
        new.columns[0].pg_type = PgType::Json;
        bench.assembler.describe_again(&old, new);
    }
    bench.feed_all([wire::begin(95, 8), wire::insert(1, "w", None), wire::commit(95)]);
    bench.feed_all([wire::stream_start(7, false), wire::insert(1, "y", Some(7))]);
    bench.feed_all([wire::stream_stop(), wire::stream_commit(7, 100)]);
    bench.feed_all([wire::begin(110, 9), wire::insert(1, "z", None), wire::commit(110)]);
    let told =
        [vec!["t1", "t1:v"], vec!["t1", "t1:w"], vec!["t1", "t1:x", "t1", "t1:y"], vec!["t1:z"]];
    assert_eq!(bench.texts(), told);
    let of_now = bench.assembler.descriptions(RelationId(1));
    assert_eq!(of_now[0].columns[0].pg_type, PgType::Json);
}

#[test]
fn a_transaction_is_delivered_at_its_commit_with_both_positions() {
    let mut bench = Bench::new(1 << 20);
    bench.feed_all([wire::begin(100, 7), wire::relation(1, None), wire::insert(1, "x", None)]);
    assert!(bench.delivered.is_empty());
    assert!(bench.assembler.keepalive(EndLsn(hw_types::Lsn(99))).is_none(), "in the middle");
    bench.feed_all([wire::commit(100)]);
    let Item::Transaction(transaction) = &bench.delivered[0] else { panic!() };
    assert_eq!(transaction.commit_lsn.0.0, 100);
    assert_eq!(transaction.end_lsn.0.0, 108);
    assert_eq!(transaction.xid, FullXid((3 << 32) + 7));
    assert_eq!(transaction.commit_time_micros, 7);
    assert_eq!(bench.texts(), [["t1", "t1:x"]]);
    assert!(bench.assembler.keepalive(EndLsn(hw_types::Lsn(108))).is_none(), "nothing new");
    assert!(bench.assembler.keepalive(EndLsn(hw_types::Lsn(109))).is_some());
    assert_eq!(bench.assembler.open_memory(), 0);
}

#[test]
fn a_description_is_passed_on_once_before_its_first_change() {
    let mut bench = Bench::new(1 << 20);
    bench.feed_all([
        wire::begin(100, 7),
        wire::relation(1, None),
        wire::insert(1, "x", None),
        wire::insert(1, "y", None),
        wire::commit(100),
        wire::begin(200, 8),
        wire::insert(1, "z", None),
        wire::relation(1, None),
        wire::insert(1, "w", None),
        wire::commit(200),
        wire::begin(300, 9),
        wire::commit(300),
    ]);
    assert_eq!(
        bench.texts(),
        [vec!["t1", "t1:x", "t1:y"], vec!["t1:z", "t1", "t1:w"], vec!["progress 0/134"]]
    );
}

#[test]
fn interleaved_streams_stay_apart_and_commit_in_the_servers_order() {
    let mut bench = Bench::new(1 << 20);
    bench.feed_all([
        wire::stream_start(5, true),
        wire::relation(1, Some(5)),
        wire::insert(1, "a", Some(5)),
        wire::stream_stop(),
        wire::stream_start(6, true),
        wire::relation(1, Some(6)),
        wire::insert(1, "b", Some(6)),
        wire::stream_stop(),
        wire::begin(90, 7),
        wire::relation(1, None),
        wire::insert(1, "c", None),
        wire::commit(90),
        wire::stream_start(5, false),
        wire::insert(1, "d", Some(5)),
        wire::stream_stop(),
        wire::stream_commit(6, 100),
        wire::stream_commit(5, 110),
        wire::begin(120, 8),
        wire::insert(1, "e", None),
        wire::commit(120),
    ]);
    assert_eq!(
        bench.texts(),
        [vec!["t1", "t1:c"], vec!["t1", "t1:b"], vec!["t1", "t1:a", "t1:d"], vec!["t1:e"]]
    );
}

#[test]
fn a_rolled_back_subtransaction_takes_its_changes_but_not_the_description() {
    let mut bench = Bench::new(1 << 20);
    bench.feed_all([
        wire::stream_start(5, true),
        wire::relation(1, Some(6)),
        wire::insert(1, "gone", Some(6)),
        wire::insert(1, "gone too", Some(7)),
        wire::stream_stop(),
        wire::stream_abort(5, 7),
        wire::stream_abort(5, 6),
        wire::stream_start(5, false),
        wire::insert(1, "stays", Some(5)),
        wire::stream_stop(),
        wire::stream_commit(5, 100),
    ]);
    assert_eq!(bench.texts(), [["t1", "t1:stays"]]);
}

#[test]
fn a_description_that_only_a_rolled_back_part_used_is_passed_on_later() {
    let mut bench = Bench::new(1 << 20);
    bench.feed_all([
        wire::stream_start(5, true),
        wire::relation(2, Some(5)),
        wire::insert(2, "kept", Some(5)),
        wire::relation(1, Some(6)),
        wire::insert(1, "gone", Some(6)),
        wire::stream_stop(),
        wire::stream_abort(5, 6),
        wire::stream_commit(5, 100),
        wire::begin(120, 8),
        wire::insert(1, "later", None),
        wire::commit(120),
    ]);
    assert_eq!(bench.texts(), [vec!["t2", "t2:kept"], vec!["t1", "t1:later"]]);
}

#[test]
fn a_rolled_back_transaction_leaves_nothing() {
    let mut bench = Bench::new(1);
    bench.feed_all([
        wire::stream_start(5, true),
        wire::relation(1, Some(5)),
        wire::insert(1, "a", Some(5)),
        wire::insert(1, "b", Some(5)),
        wire::insert(1, "c", Some(5)),
        wire::stream_stop(),
    ]);
    assert_eq!(bench.assembler.open_transactions(), 1);
    bench.feed_all([wire::stream_abort(5, 5)]);
    assert_eq!(bench.assembler.open_transactions(), 0);
    assert_eq!(bench.assembler.spool.used(), 0);
    assert!(bench.delivered.is_empty());
}

#[test]
fn the_end_of_parts_of_a_transaction_of_which_nothing_came_is_nothing() {
    let mut bench = Bench::new(1 << 20);
    bench.feed_all([
        wire::stream_abort(5, 7),
        wire::stream_abort(5, 6),
        wire::stream_abort(5, 5),
        wire::begin(120, 8),
        wire::relation(1, None),
        wire::insert(1, "later", None),
        wire::commit(120),
    ]);
    assert_eq!(bench.texts(), [["t1", "t1:later"]]);
}

#[test]
fn a_newer_description_survives_the_commit_of_an_older_stream() {
    let mut bench = Bench::new(1 << 20);
    bench.feed_all([
        wire::stream_start(5, true),
        wire::relation(1, Some(5)),
        wire::insert(1, "a", Some(5)),
        wire::stream_stop(),
        wire::begin(90, 7),
        wire::relation(1, None),
        wire::insert(1, "b", None),
        wire::commit(90),
    ]);
    let newer = bench.assembler.relations[&RelationId(1)].relation.clone();
    bench.feed_all([wire::stream_commit(5, 100)]);
    assert!(Arc::ptr_eq(&newer, &bench.assembler.relations[&RelationId(1)].relation));
}

#[test]
fn nonsense_ends_the_connection() {
    for messages in [
        vec![wire::commit(100)],
        vec![wire::begin(100, 7), wire::begin(100, 7)],
        vec![wire::begin(100, 7), wire::commit(101)],
        vec![wire::begin(100, 7), wire::insert(1, "x", None)],
        vec![wire::insert(1, "x", None)],
        vec![wire::stream_commit(5, 100)],
        vec![wire::stream_start(5, false)],
        vec![wire::begin(100, 7), wire::stream_start(5, true)],
        vec![b"rubbish".to_vec()],
    ] {
        let mut bench = Bench::new(1 << 20);
        let failed = messages.into_iter().try_for_each(|message| bench.feed(message));
        let policy = failed.unwrap_err().policy();
        assert_eq!(policy, hw_pg::error::Policy::RetryWithBackoff);
        assert!(bench.delivered.is_empty());
    }
}

#[test]
fn a_row_of_another_width_than_described_is_refused() {
    let mut bench = Bench::new(1 << 20);
    bench.feed_all([wire::begin(100, 7), wire::relation(1, None)]);
    let column = |name: &str| Column {
        name: name.into(),
        type_oid: 25,
        type_modifier: -1,
        pg_type: PgType::TEXT,
        identity: false,
        primary_key: 0,
    };
    bench.assembler.define(Relation {
        id: RelationId(1),
        name: TableName::new("public", "t1"),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column("a"), column("b")],
    });
    let error = bench.feed(wire::insert(1, "x", None)).unwrap_err();
    assert!(error.to_string().contains("with 1 columns where 2 were described"), "{error}");
}

#[derive(Clone, Debug)]
enum Act {
    Insert { transaction: usize, text: String },
    Savepoint(usize),
    Rollback(usize),
    Finish { transaction: usize, commit: bool },
}

fn act() -> impl Strategy<Value = Act> {
    let text = "[a-z]{0,12}";
    prop_oneof![
        6 => (0usize..3, text).prop_map(|(transaction, text)| Act::Insert { transaction, text }),
        1 => (0usize..3).prop_map(Act::Savepoint),
        1 => (0usize..3).prop_map(Act::Rollback),
        1 => (0usize..3, any::<bool>())
            .prop_map(|(transaction, commit)| Act::Finish { transaction, commit }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the bound on memory, the same transactions come out.
    #[test]
    fn the_memory_bound_changes_nothing(acts in prop::collection::vec(act(), 0..80)) {
        let mut benches = [Bench::new(0), Bench::new(400), Bench::new(1 << 20)];
        // Three streamed transactions, each with a stack of sub-transactions.
        let mut stacks: Vec<Option<Vec<u32>>> = vec![None, None, None];
        let mut next_xid = 10;
        let mut lsn = 1000;
        let mut expected: Vec<Vec<String>> = Vec::new();
        let mut open: Vec<Vec<(usize, String)>> = vec![vec![]; 3];
        for act in acts {
            let mut messages = Vec::new();
            match act {
                Act::Insert { transaction, text } => {
                    let first = stacks[transaction].is_none();
                    let stack = stacks[transaction].get_or_insert_with(|| {
                        next_xid += 1;
                        vec![next_xid]
                    });
                    let sub = *stack.last().unwrap();
                    messages.push(wire::stream_start(stack[0], first));
                    if first {
                        messages.push(wire::relation(1, Some(sub)));
                    }
                    messages.push(wire::insert(1, &text, Some(sub)));
                    messages.push(wire::stream_stop());
                    open[transaction].push((stack.len(), format!("t1:{text}")));
                }
                Act::Savepoint(transaction) => {
                    if let Some(stack) = &mut stacks[transaction] {
                        next_xid += 1;
                        stack.push(next_xid);
                    }
                }
                Act::Rollback(transaction) => {
                    if let Some(stack) = &mut stacks[transaction] && stack.len() > 1 {
                        open[transaction].retain(|(depth, _)| *depth < stack.len());
                        messages.push(wire::stream_abort(stack[0], stack.pop().unwrap()));
                    }
                }
                Act::Finish { transaction, commit } => {
                    if let Some(stack) = stacks[transaction].take() {
                        let rows = std::mem::take(&mut open[transaction]);
                        lsn += 100;
                        if commit {
                            messages.push(wire::stream_commit(stack[0], lsn));
                            expected.push(rows.into_iter().map(|(_, text)| text).collect());
                        } else {
                            messages.push(wire::stream_abort(stack[0], stack[0]));
                        }
                    }
                }
            }
            for bench in &mut benches {
                bench.feed_all(messages.clone());
            }
        }
        for bench in &benches {
            let rows: Vec<Vec<String>> = bench
                .texts()
                .into_iter()
                .map(|texts| texts.into_iter().filter(|t| t.starts_with("t1:")).collect())
                .collect();
            prop_assert_eq!(&rows, &expected);
            let open: usize = bench
                .assembler
                .streamed
                .values()
                .map(|open| open.recorder.memory())
                .sum();
            prop_assert_eq!(bench.assembler.open_memory(), open);
        }
        prop_assert_eq!(benches[0].texts(), benches[2].texts());
    }
}

/// Before a row that is sent under a partitioned table the source describes that one, and then the table
/// that holds the row.
#[test]
fn fd_8_rows_that_are_sent_under_another_table_are_noted() {
    let sent_under = |messages: Vec<Vec<u8>>| {
        let mut bench = Bench::new(1 << 20);
        bench.feed_all([wire::begin(10, 1)]);
        bench.feed_all(messages);
        bench.feed_all([wire::commit(10)]);
        let Some(Item::Transaction(transaction)) = bench.delivered.pop() else { panic!("none") };
        let sent = transaction.changes.sent_under().iter();
        sent.map(|sent| (sent.table.0, sent.root.0)).collect::<Vec<_>>()
    };
    let (relation, insert) = (|id| wire::relation(id, None), |id| wire::insert(id, "x", None));
    assert_eq!(sent_under(vec![relation(1), relation(2), insert(1)]), [(2, 1)]);
    let two = vec![relation(1), relation(2), insert(1), relation(1), relation(3), insert(1)];
    assert_eq!(sent_under(two), [(2, 1), (3, 1)]);
    // Each under its own name.
    let own = vec![relation(1), insert(1), relation(2), insert(2), insert(1), insert(2)];
    assert_eq!(sent_under(own), []);
    // Described for a TRUNCATE of both.
    let message = wire::message("x", "", None);
    assert_eq!(sent_under(vec![relation(1), relation(2), message, insert(1)]), []);
    // A sub-transaction that is rolled back takes the row away, and not what is known.
    let mut bench = Bench::new(1 << 20);
    let sub = Some(8);
    bench.feed_all([
        wire::stream_start(7, true),
        wire::relation(1, sub),
        wire::relation(2, sub),
        wire::insert(1, "x", sub),
        wire::stream_stop(),
        wire::stream_abort(7, 8),
        wire::stream_start(7, false),
        wire::insert(1, "y", Some(7)),
        wire::stream_stop(),
        wire::stream_commit(7, 10),
    ]);
    let Some(Item::Transaction(transaction)) = bench.delivered.pop() else { panic!("none") };
    assert_eq!(transaction.changes.sent_under().len(), 1);
}
