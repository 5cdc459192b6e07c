//! Steps of one entry that take long: somebody who looks from outside sees that the writer works.

use crate::testing::{Node, relation, row, transaction};
use hw_input::entry::{Behind, Control, Reading};
use hw_input::markers::MarkerContents;
use hw_pg::marker;
use hw_types::{Change, ChangeKind, LogMessage, Lsn, Relation, RelationId, Row, Xid};
use std::sync::Arc;

const CONFIG: &str = "
bucket_definitions:
  all:
    data:
      - SELECT * FROM many
      - SELECT * FROM one
";

const ROWS: u64 = 1000;

fn rows(text: &str) -> Vec<Row> {
    (0..ROWS).map(|n| row(&[Some(&n.to_string()), Some(text)])).collect()
}

struct World {
    node: Node,
    many: Arc<Relation>,
    one: Arc<Relation>,
    end: u64,
}

impl World {
    fn new() -> World {
        let (many, one) = (relation(1, "many", &["id", "v"]), relation(2, "one", &["id"]));
        let mut node = Node::simulated();
        node.configure(CONFIG);
        let single = vec![row(&[Some("1")])];
        node.copy(Lsn(10), vec![(many.clone(), rows("a")), (one.clone(), single)]);
        World { node, many, one, end: 10 }
    }

    /// How much was counted meanwhile.
    fn counted(&mut self, step: impl FnOnce(&mut World)) -> u64 {
        let before = self.node.board.beat.get();
        step(self);
        self.node.board.beat.get() - before
    }

    fn stale(&mut self, table: u32) {
        let table = RelationId(table);
        self.node.control(Control::Stale { table, reason: "altered".into(), untraced: false });
    }

    fn commit(&mut self, changes: Vec<Change>) {
        self.end += 10;
        self.node.feed(&transaction(self.end - 5, self.end, changes));
    }

    /// A table is copied and enters.
    fn copy_again(&mut self, relation: &Arc<Relation>, rows: Vec<Row>) {
        let number = self.node.begin_copy(false);
        let copied = (Lsn(self.end), vec![(relation.clone(), rows)]);
        let mut copy =
            self.node.load_copy(number, copied, Reading::default(), Behind::Marker(number));
        let contents = MarkerContents { nonce: number, write_checkpoints: Vec::new() };
        let (secret, xid) = (self.node.board.secret(), Xid(self.end as u32 + 5));
        let content = marker::sign(&secret, xid, "1:1:", &contents.encode()).into();
        let (lsn, prefix) = (Lsn(self.end), marker::PREFIX.into());
        self.commit(vec![Change::Message(LogMessage { lsn, prefix, content })]);
        assert!(copy.has_entered());
    }
}

#[test]
fn fd_60_each_long_step_counts_its_work() {
    let mut world = World::new();
    let built = world.counted(|world| world.node.settle());
    assert!(built >= ROWS, "the first build: {built}");

    // Compared, decided and applied.
    let many = world.many.clone();
    world.stale(1);
    let compared = world.counted(|world| world.copy_again(&many, rows("b")));
    assert!(compared >= 3 * ROWS, "a compared copy: {compared}");

    // What changes while a definition stands still is decided and applied when it goes on.
    let one = world.one.clone();
    world.stale(2);
    let update =
        |new| Change::Row { relation: many.clone(), kind: ChangeKind::Update { old: None, new } };
    world.commit(rows("c").into_iter().map(update).collect());
    world.node.settle();
    let thawed = world.counted(|world| world.copy_again(&one, vec![row(&[Some("2")])]));
    assert!(thawed >= 3 * ROWS, "what stood still: {thawed}");
}
