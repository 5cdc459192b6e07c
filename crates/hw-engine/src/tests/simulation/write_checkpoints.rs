//! Write checkpoints: for whom they wait, how many are kept, and for how long.

use super::run::Run;
use crate::published::Requested;
use crate::tests::source::BEGIN;
use hw_input::entry::Control;
use hw_input::markers::{MarkerContents, WriteCheckpoint};
use hw_types::RelationId;
use std::collections::BTreeMap;

/// FD-32, FD-33: a write checkpoint is told to everybody but those whose definitions stand still
/// before it, whatever crashes, and to these when they go on.
#[test]
fn fd_32_write_checkpoints_wait_for_the_definitions_of_their_owner_only() {
    let mut run = Run::new(1, None);
    run.feed();
    run.node.control(Control::Stale {
        table: RelationId(2),
        reason: "altered".into(),
        untraced: false,
    });
    let write_checkpoints = vec![WriteCheckpoint { user_key: "amy".into(), requested: None }];
    let contents = MarkerContents { nonce: 1, write_checkpoints };
    run.source.mark(&mut run.rng, &run.node.board.secret(), &contents);
    for crashes in 0..2 {
        run.feed();
        run.node.settle();
        let published = run.node.published();
        let told = |definition: usize| published.write_checkpoint("amy", [definition]).unwrap();
        assert!(told(0) > told(1), "lists go on, todos stand still: {crashes}");
        run.crash();
    }
    run.finish("at the end");
    let published = run.node.published();
    let told = published.write_checkpoint("amy", [0, 1]).unwrap();
    assert!(told > Some(BEGIN) && told == published.write_checkpoint("amy", []).unwrap());
}

/// How many write checkpoints wait for a definition that stands still is known, whatever crashes: one for each
/// client that asked since.
#[test]
fn fd_32_write_checkpoints_that_are_kept_back_are_counted_whatever_crashes() {
    let mut run = Run::new(1, None);
    let ask = |run: &mut Run, users: &[&str]| {
        let asked = |user: &&str| WriteCheckpoint { user_key: (*user).into(), requested: None };
        let write_checkpoints = users.iter().map(asked).collect();
        let contents = MarkerContents { nonce: 1, write_checkpoints };
        run.source.mark(&mut run.rng, &run.node.board.secret(), &contents);
        run.feed();
        run.node.settle();
    };
    let held = |run: &Run| -> Vec<(String, u64)> {
        let status = run.node.engine().status();
        let of = |held: &crate::status::Held| (held.definition.clone(), held.write_checkpoints);
        status.held.iter().map(of).collect()
    };
    ask(&mut run, &["amy", "cat"]);
    assert_eq!(held(&run), []);
    let (table, reason) = (RelationId(2), "altered".into());
    run.node.control(Control::Stale { table, reason, untraced: false });
    run.node.settle();
    let todos = |count| vec![("todos".to_owned(), count)];
    assert_eq!(held(&run), todos(0));
    ask(&mut run, &["amy", "bob"]);
    ask(&mut run, &["amy"]);
    assert_eq!(held(&run), todos(2));
    run.crash();
    run.node.settle();
    assert_eq!(held(&run), todos(2), "behind a crash");
    ask(&mut run, &["cat"]);
    run.restart();
    run.node.settle();
    assert_eq!(held(&run), todos(3), "behind a restart of the writer");
    run.finish("at the end");
    assert_eq!(held(&run), []);
}

/// Behind a copy of everything every number up to a great one counts as told. A client that counts by itself
/// gets one above these for what it writes then, with a marker of its own.
#[test]
fn a_request_behind_a_copy_of_everything_is_told_with_its_own_marker() {
    let mut run = Run::new(1, None);
    let ask = |run: &mut Run, requested| {
        let Requested::Marked(number) = run.node.published().requested("amy", requested).unwrap()
        else {
            panic!("{requested} is told without a marker");
        };
        let told = run.node.published().write_checkpoint("amy", []).unwrap();
        assert!(told.is_none_or(|told| told < number), "{requested} is told before it arrives");
        let asked = WriteCheckpoint { user_key: "amy".into(), requested: Some(number) };
        let contents = MarkerContents { nonce: 1, write_checkpoints: vec![asked] };
        run.source.mark(&mut run.rng, &run.node.board.secret(), &contents);
        run.feed();
        run.node.settle();
        assert_eq!(run.node.published().write_checkpoint("amy", []).unwrap(), Some(number));
        number
    };
    let first = ask(&mut run, 5);
    assert!(first > BEGIN, "the first copy is one of everything");
    assert_eq!(ask(&mut run, first + 1), first + 1);
    assert_eq!(run.node.published().requested("amy", 5).unwrap(), Requested::Known(first + 1));
    run.source.position += 1_000;
    let (lsn, tables) = run.source.all();
    run.node.copy(lsn, tables);
    run.node.settle();
    let floor = run.node.published().write_checkpoint("amy", []).unwrap().expect("a floor");
    assert!(floor > first + 1);
    assert_eq!(ask(&mut run, floor), floor + 1);
    assert_eq!(ask(&mut run, floor + 2), floor + 2);
}

/// FD-43: what nobody has asked for in 30 days of the input's clock is forgotten, and nothing else.
#[test]
fn fd_43_write_checkpoints_that_nobody_asks_for_are_forgotten() {
    let mut run = Run::new(1, None);
    let today = run.node.sequencer.writer.day.0;
    let day = |run: &mut Run, day: u64| {
        run.node.tick((today + day) * 24 * 3600 + 7);
        run.node.settle();
    };
    let ask = |run: &mut Run, user: &str, requested| {
        let write_checkpoints = vec![WriteCheckpoint { user_key: user.into(), requested }];
        let contents = MarkerContents { nonce: 1, write_checkpoints };
        run.source.mark(&mut run.rng, &run.node.board.secret(), &contents);
        run.feed();
        run.node.settle();
    };
    // Above what everybody is told.
    let high = run.node.board.write_base() + (1 << 40);
    let is_kept = |run: &mut Run, user: &str| {
        let told = run.node.published().write_checkpoint(user, []).unwrap();
        told.is_some_and(|number| number >= high)
    };
    ask(&mut run, "amy", Some(high));
    ask(&mut run, "bob", Some(high));
    day(&mut run, 15);
    // A smaller number than the one that is kept.
    ask(&mut run, "amy", None);
    // The clock may go back.
    for (now, amy, bob) in
        [(30, true, true), (31, true, false), (3, true, false), (45, true, false)]
    {
        day(&mut run, now);
        run.crash();
        run.node.settle();
        assert_eq!((is_kept(&mut run, "amy"), is_kept(&mut run, "bob")), (amy, bob), "{now}");
    }
    day(&mut run, 46);
    assert!(!is_kept(&mut run, "amy"));
}

/// One user with ever new client databases does not fill the store; others keep theirs, and he the
/// newest.
#[test]
fn of_one_user_the_newest_write_checkpoints_are_kept() {
    let mut run = Run::new(1, None);
    let ask = |run: &mut Run, keys: &mut dyn Iterator<Item = String>| {
        let asked = |user_key| WriteCheckpoint { user_key, requested: None };
        let contents = MarkerContents { nonce: 1, write_checkpoints: keys.map(asked).collect() };
        run.source.mark(&mut run.rng, &run.node.board.secret(), &contents);
        run.feed();
        run.node.settle();
    };
    let key = |user: &str, client: u32| hw_types::user_key::join(user, Some(&client.to_string()));
    ask(&mut run, &mut (0..3).map(|client| key("t3:amy", client)));
    for hundred in 0..120 {
        let first = hundred * 100;
        ask(&mut run, &mut (first..first + 100).map(|client| key("t2:am", client)));
    }
    let mut now = run.node.sequencer.writer.day.0 * 24 * 3600 + 7;
    for restart in [false, true] {
        if restart {
            run.crash();
            ask(&mut run, &mut (20_000..20_400).map(|client| key("t2:am", client)));
            // Counted anew with the day.
            now += 24 * 3600;
            run.node.tick(now);
            now += 1;
        }
        run.node.tick(now);
        run.node.settle();
        let mut kept: BTreeMap<String, usize> = BTreeMap::new();
        let space = &run.node.sequencer.writer.write_checkpoints;
        for entry in run.node.store.snapshot().all(space) {
            let key = String::from_utf8(entry.unwrap().0.to_vec()).unwrap();
            *kept.entry(hw_types::user_key::owner(&key).to_owned()).or_default() += 1;
        }
        assert_eq!(kept["t3:amy"], 3);
        assert_eq!(kept["t2:am"], crate::crowds::KEEP_OF_USER);
    }
    let published = run.node.published();
    let number = |client| published.write_checkpoint(&key("t2:am", client), []).unwrap();
    assert!(number(20_399) > number(11_900) && number(11_900) > number(0), "the oldest went");
}

/// Where the positions of a new history are smaller, what an earlier one has left goes first.
#[test]
fn of_one_user_the_write_checkpoints_of_the_present_history_are_kept() {
    let mut run = Run::new(1, None);
    let key = |client: u32| hw_types::user_key::join("t2:am", Some(&client.to_string()));
    let ask = |run: &mut Run, clients: std::ops::Range<u32>| {
        let asked = |client| WriteCheckpoint { user_key: key(client), requested: None };
        let contents = MarkerContents { nonce: 1, write_checkpoints: clients.map(asked).collect() };
        run.source.mark(&mut run.rng, &run.node.board.secret(), &contents);
        run.feed();
        run.node.settle();
    };
    run.source.position += 1 << 20;
    ask(&mut run, 0..9_900);
    run.source.position = BEGIN + 1_000;
    let (lsn, tables) = run.source.all();
    run.node.copy(lsn, tables);
    ask(&mut run, 20_000..20_300);
    run.node.control(Control::KeepNewest { user: "t2:am".into() });
    run.node.settle();
    let published = run.node.published();
    let number = |client| published.write_checkpoint(&key(client), []).unwrap();
    assert_eq!(number(0), number(9_899), "worth as much as none");
    assert!((20_000..20_300).all(|client| number(client) > number(0)));
    let space = &run.node.sequencer.writer.write_checkpoints;
    let kept = run.node.store.snapshot().all(space).count();
    assert_eq!(kept, crate::crowds::KEEP_OF_USER);
}
