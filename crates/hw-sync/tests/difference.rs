//! What came and went of a user's buckets, on the engine itself: it makes of the buckets of one state
//! exactly what a new resolution finds at the next one.

use hw_engine::Published;
use hw_engine::testing::{Node, relation, row, transaction};
use hw_sync::source::{Asker, Before, Difference, Resolved, ResolvedBy, UserLimits, View};
use hw_sync::state::bucket::{BucketChanges, exchange, update};
use hw_types::{Change, ChangeKind, Lsn, Relation};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A list is found by a membership, by what is shared with everybody, by being the user's own, and, for
/// the last stream, by membership in a team that has it.
const CONFIG: &str = "
config:
  edition: 3
streams:
  lists:
    auto_subscribe: true
    queries:
      - SELECT * FROM lists WHERE id IN (SELECT list FROM members WHERE who = auth.user_id())
      - SELECT * FROM lists WHERE id IN (SELECT list FROM shared WHERE kind = 'all')
      - SELECT * FROM lists WHERE id = auth.user_id()
  important:
    auto_subscribe: true
    priority: 1
    query: SELECT * FROM lists WHERE id IN (SELECT list FROM stars WHERE who = auth.user_id())
  team:
    auto_subscribe: true
    query: SELECT * FROM notes WHERE list IN (SELECT list FROM teams WHERE team IN (SELECT team FROM players WHERE who = auth.user_id()))
";

const COPIED: u64 = 1_000;
const LISTS: [&str; 4] = ["l0", "l1", "amy", "l3"];
const USERS: [&str; 2] = ["amy", "bob"];

/// The tables, with what rows of them may hold behind the key.
fn tables() -> Vec<(Arc<Relation>, Vec<&'static [&'static str]>)> {
    let of = |id, name: &str, columns: &[&str], values| (relation(id, name, columns), values);
    let some: &'static [&'static str] = &["a", "b"];
    vec![
        of(1, "lists", &["id", "name"], vec![some]),
        of(2, "members", &["id", "who", "list"], vec![&USERS, &LISTS]),
        of(3, "shared", &["id", "kind", "list"], vec![&["all", "some"], &LISTS]),
        of(4, "stars", &["id", "who", "list"], vec![&USERS, &LISTS]),
        of(5, "notes", &["id", "list"], vec![&LISTS]),
        of(6, "teams", &["id", "team", "list"], vec![some, &LISTS]),
        of(7, "players", &["id", "who", "team"], vec![&USERS, some]),
    ]
}

/// The rows of all tables, by table and key.
type Rows = BTreeMap<(usize, usize), Vec<String>>;

/// A step: a table, a key, and what the row is then; it goes where that is what it was.
type Step = (usize, usize, [usize; 2]);

fn change(rows: &mut Rows, (table, key, picks): Step) -> Change {
    let (relation, values) = &tables()[table];
    let id = match table {
        0 => LISTS[key].to_owned(),
        _ => key.to_string(),
    };
    let mut cells = vec![id];
    cells.extend(values.iter().zip(picks).map(|(some, pick)| some[pick % some.len()].to_owned()));
    let old = rows.remove(&(table, key));
    let encoded =
        |cells: &[String]| row(&cells.iter().map(|c| Some(c.as_str())).collect::<Vec<_>>());
    let kind = match old {
        Some(old) if old == cells => ChangeKind::Delete { old: encoded(&old) },
        old => {
            let new = encoded(&cells);
            rows.insert((table, key), cells);
            match old {
                Some(_) => ChangeKind::Update { old: None, new },
                None => ChangeKind::Insert { new },
            }
        }
    };
    Change::Row { relation: relation.clone(), kind }
}

fn asker() -> Asker {
    Asker {
        claims: json!({"sub": "amy"}),
        parameters: Default::default(),
        subscriptions: Vec::new(),
        include_defaults: true,
        user: "amy".into(),
        user_key: "amy".into(),
    }
}

/// What a stream has, moved by a difference.
fn moved(
    before: ResolvedBy<Published>,
    difference: Difference<hw_engine::BucketKey>,
    now: &Published,
) -> ResolvedBy<Published> {
    let Resolved { mut announcement, mut interest, .. } = before;
    let Difference { went, came, keys, cost } = difference;
    let keys = came.iter().map(|(before, _)| *before).zip(keys);
    interest.buckets = exchange(interest.buckets, &went, keys);
    let stays = |(index, _): &(usize, _)| !went.contains(index);
    let buckets = announcement.buckets.iter().enumerate().filter(stays);
    let totals = buckets.map(|(index, bucket)| {
        (index, View::totals(now, bucket.source, bucket.parameters()).unwrap())
    });
    let totals = totals.collect();
    update(&mut announcement.buckets, BucketChanges { totals, went, came });
    Resolved { announcement, interest, cost }
}

#[test]
fn fd_75_what_came_and_went_makes_of_buckets_what_a_new_resolution_finds() {
    let told = AtomicUsize::new(0);
    let steps = (0..7_usize, 0..4_usize, [0..4_usize, 0..4_usize]);
    let steps = prop::collection::vec(prop::collection::vec(steps, 1..4), 1..24);
    // Some are so low that they are passed.
    let strategy = (steps, 2..12_usize, 4..24_usize);
    let mut runner = TestRunner::new(Config::with_cases(48));
    let outcome = runner.run(&strategy, |(transactions, max_buckets, max_parameter_results)| {
        let limits = UserLimits { max_buckets, max_parameter_results };
        let mut node = Node::simulated();
        let all = tables();
        node.source_has(&all.iter().map(|(relation, _)| relation.id).collect::<Vec<_>>());
        node.configure(CONFIG);
        node.copy(
            Lsn(COPIED),
            all.into_iter().map(|(relation, _)| (relation, Vec::new())).collect(),
        );
        node.settle();
        let (asker, mut rows) = (asker(), Rows::new());
        let all = node.published().resolve(&asker, &UserLimits::default(), &[]);
        assert!(all.is_ok(), "nothing is served: {:?}", all.err());
        let mut seen = node.published().number;
        let mut known = node.published().resolve(&asker, &limits, &[]).ok();
        for (n, steps) in (1_u64..).zip(transactions) {
            let changes = steps.into_iter().map(|step| change(&mut rows, step)).collect();
            let at = COPIED + n * 100;
            node.feed(&transaction(at, at + 50, changes));
            // Some transactions are published together.
            if n % 3 == 0 {
                continue;
            }
            node.settle();
            let now = node.published();
            let changes = now.changes_since(seen);
            let expected = now.resolve(&asker, &limits, &[]).ok();
            if let Some(before) = known.take() {
                let (buckets, cost) = (&before.announcement.buckets, before.cost);
                let asked = Before { buckets, cost };
                if let Some(difference) =
                    View::difference(&*now, &asker, &limits, asked, &changes).unwrap()
                {
                    told.fetch_add(1, Ordering::Relaxed);
                    let expected = expected.as_ref().expect("no bound is passed");
                    let moved = moved(before, difference, &now);
                    prop_assert_eq!(&moved.announcement.buckets, &expected.announcement.buckets);
                    prop_assert_eq!(&moved.interest, &expected.interest);
                    prop_assert_eq!(moved.cost, expected.cost);
                }
            }
            (seen, known) = (now.number, expected);
        }
        Ok(())
    });
    outcome.unwrap();
    let told = told.into_inner();
    assert!(told > 10, "only {told} differences were told");
}
