//! The surface on the engine itself, without Postgres.

use hw_engine::testing::{Node, relation, row, transaction};
use hw_sync::SyncOptions;
use hw_types::{Change, ChangeKind, Lsn, OpId, Relation};
use serde_json::Value;
use std::sync::Arc;

use crate::client::{Server, operations};

const CONFIG: &str = "
bucket_definitions:
  lists:
    parameters: SELECT request.user_id() AS owner
    data:
      - SELECT * FROM lists WHERE owner = bucket.owner
";

/// Where the copy was taken.
const COPIED: u64 = 1_000;

fn insert(lists: &Arc<Relation>, id: &str) -> Change {
    let new = row(&[Some(id), Some("amy")]);
    Change::Row { relation: lists.clone(), kind: ChangeKind::Insert { new } }
}

/// A node that serves `lists`, which holds one row.
fn node(lists: &Arc<Relation>) -> Node {
    let mut node = Node::simulated();
    node.source_has(&[lists.id]);
    node.configure(CONFIG);
    let rows = vec![row(&[Some("l1"), Some("amy")])];
    node.copy(Lsn(COPIED), vec![(lists.clone(), rows)]);
    node.settle();
    node
}

/// What is done to a node outside of the surface's tasks.
async fn beside<T: Send + 'static>(
    mut node: Node,
    act: impl FnOnce(&mut Node) -> T + Send + 'static,
) -> Node {
    let acting = tokio::task::spawn_blocking(move || {
        act(&mut node);
        node
    });
    acting.await.unwrap()
}

/// Names of the buckets that lines of data are of.
fn buckets(lines: &[Value]) -> Vec<&str> {
    let data = lines.iter().filter_map(|line| line.get("data"));
    data.map(|data| data["bucket"].as_str().unwrap()).collect()
}

/// E-1: what a transaction of the log did is one checkpoint of the client.
#[tokio::test]
async fn a_transaction_of_the_log_is_one_step_of_the_client() {
    let lists = relation(1, "lists", &["id", "owner"]);
    let (make, table) = (lists.clone(), lists.clone());
    let node = tokio::task::spawn_blocking(move || node(&make)).await.unwrap();
    let server = Server::on(node.engine(), SyncOptions::default()).await;
    let mut amy = server.stream("amy").await;
    assert_eq!(operations(&amy.until_complete().await), ["PUT l1"]);
    let act = move |node: &mut Node| {
        let changes = vec![insert(&table, "l2"), insert(&table, "l3")];
        node.feed(&transaction(COPIED + 10, COPIED + 50, changes));
        node.settle();
    };
    let _node = beside(node, act).await;
    assert_eq!(operations(&amy.until_complete().await), ["PUT l2", "PUT l3"]);
}

/// FD-27: in a new epoch the same rows are in buckets of other names; pages that were made for the old
/// ones are not sent for them.
#[tokio::test]
async fn fd_27_pages_of_the_old_epoch_are_not_sent_in_the_new_one() {
    let lists = relation(1, "lists", &["id", "owner"]);
    let node = tokio::task::spawn_blocking(move || node(&lists)).await.unwrap();
    let server = Server::on(node.engine(), SyncOptions::default()).await;
    let mut amy = server.stream("amy").await;
    let first = amy.until_complete().await;
    let act = |node: &mut Node| {
        node.new_epoch(OpId(1 << 51));
        node.settle();
    };
    let _node = beside(node, act).await;
    let second = amy.until_complete().await;
    let (before, after) = (buckets(&first), buckets(&second));
    assert_eq!((before.len(), after.len()), (1, 1), "{second:?}");
    assert_ne!(before, after, "in a new epoch every bucket has another name");
    let announced = &second[0]["checkpoint_diff"]["updated_buckets"][0]["bucket"];
    assert_eq!(announced, after[0], "what is sent was announced");
    assert_eq!(operations(&second), ["PUT l1"]);
}
