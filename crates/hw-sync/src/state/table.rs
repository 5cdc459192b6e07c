//! The session's table: every state by every event, and the rules of 4.7 one by one.

use std::collections::HashMap;
use std::time::Duration;

use hw_types::{OpId, Place};

use super::Moment;
use super::bucket::{Announcement, Bucket, BucketChanges, Newest, Totals};
use super::session::{
    CloseReason, Effect, Event, INTERRUPT_AFTER_OPERATIONS, PageRead, PageRequest, PageSize, Phase,
    SLOW_AFTER, Session,
};
use super::timers::Timers;
use crate::wire::line::{CheckpointHead, Reason, StreamLine};

fn totals(last_op: u64) -> Totals {
    Totals { count: last_op, checksum: last_op as u32, last_op: OpId(last_op), ..Totals::default() }
}

fn bucket(name: &str, priority: u8, last_op: u64) -> Bucket {
    Bucket {
        name: name.into(),
        parameters_at: name.find('[').unwrap() as u32,
        source: 0,
        priority,
        reasons: Box::new([Reason::Default(0)]),
        found_once: true,
        totals: totals(last_op),
        place: Place::default(),
    }
}

fn head(op_id: u64, write_checkpoint: Option<u64>) -> CheckpointHead {
    CheckpointHead { op_id: OpId(op_id), write_checkpoint }
}

fn stream(name: &str) -> StreamLine {
    StreamLine { name: name.into(), is_default: true, errors: vec![] }
}

fn resolved(op_id: u64, buckets: Vec<Bucket>) -> Event {
    Event::Newest(Newest::Resolved(Announcement {
        head: head(op_id, None),
        buckets,
        streams: vec![stream("s")],
    }))
}

fn updated(op_id: u64, totals: Vec<(usize, Totals)>) -> Event {
    let changes = BucketChanges { totals, ..BucketChanges::default() };
    Event::Newest(Newest::Updated { head: head(op_id, None), changes })
}

fn page(next_after: u64, operations: u64, has_more: bool) -> Event {
    let next = Place { after: OpId(next_after), ..Place::default() };
    Event::Page(PageRead { next, operations, bytes: 10, has_more })
}

/// A session with a day's token, and the effects of each event given to it.
struct Run {
    session: Session,
    now: Moment,
}

impl Run {
    fn new(resume: &[(&str, u64)]) -> Run {
        let place = |&(name, after): &(&str, u64)| (name.to_owned(), Place::brought(OpId(after)));
        let resume: HashMap<String, Place> = resume.iter().map(place).collect();
        let timers = Timers::new(Duration::from_secs(86_400), 1);
        Run { session: Session::new(resume, timers), now: Moment::ZERO }
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.session.on(self.now, event, &mut effects);
        effects
    }

    /// A session in the given phase with one bucket of 9 operations.
    fn at(phase: Phase) -> Run {
        let mut run = Run::new(&[]);
        let path = match phase {
            Phase::Asking => vec![],
            Phase::Between => vec![resolved(9, vec![bucket("a[]", 3, 9)])],
            Phase::Reading => vec![resolved(9, vec![bucket("a[]", 3, 9)]), Event::Room],
            Phase::Waiting => vec![
                resolved(9, vec![bucket("a[]", 3, 9)]),
                Event::Room,
                page(9, 9, false),
                Event::Room,
            ],
            Phase::Closed => vec![Event::Close(CloseReason::Shutdown)],
        };
        for event in path {
            run.on(event);
        }
        assert_eq!(run.session.phase(), phase);
        run
    }
}

fn read_at(bucket: usize, place: Place) -> Effect {
    Effect::Read(PageRequest { bucket, place, size: PageSize::Small })
}

/// The reading behind a page that ended at `after`.
fn read(bucket: usize, after: u64) -> Effect {
    read_at(bucket, Place { after: OpId(after), ..Place::default() })
}

/// The reading of a bucket that was complete at `op_id`.
fn read_on(bucket: usize, op_id: u64) -> Effect {
    let after = OpId(op_id);
    read_at(bucket, Place::complete(after, totals(op_id).checksum))
}

/// An event and its name.
type Named = (&'static str, fn() -> Event);
/// The state behind an event, and what it causes.
type Answer = (Phase, Vec<Effect>);

#[test]
fn each_state_has_one_answer_to_each_event() {
    use Phase::{Asking, Between, Closed, Reading, Waiting};
    let events: [Named; 7] = [
        ("newest", || resolved(9, vec![bucket("a[]", 3, 9)])),
        ("page", || page(5, 4, true)),
        ("stale", || Event::Stale),
        ("room", || Event::Room),
        ("changed", || Event::Changed),
        ("tick", || Event::Tick { stalled: Duration::ZERO }),
        ("close", || Event::Close(CloseReason::ClientGone)),
    ];
    let gone = || vec![Effect::Close(CloseReason::ClientGone)];
    let ask = || vec![Effect::AskNewest];
    #[rustfmt::skip]
    let table: [(Phase, [Answer; 7]); 5] = [
        //        newest                                page                stale              room                            changed            tick               close
        (Asking,  [(Between, vec![Effect::Checkpoint]), (Asking, vec![]),   (Asking, vec![]),  (Asking, vec![]),               (Asking, vec![]),  (Asking, vec![]),  (Closed, gone())]),
        (Reading, [(Reading, vec![]),                   (Between, vec![]),  (Asking, ask()),   (Reading, vec![]),              (Reading, vec![]), (Reading, vec![]), (Closed, gone())]),
        (Between, [(Between, vec![]),                   (Between, vec![]),  (Between, vec![]), (Reading, vec![read(0, 0)]),    (Between, vec![]), (Between, vec![]), (Closed, gone())]),
        (Waiting, [(Waiting, vec![]),                   (Waiting, vec![]),  (Waiting, vec![]), (Waiting, vec![]),              (Asking, ask()),   (Waiting, vec![]), (Closed, gone())]),
        (Closed,  [(Closed, vec![]),                    (Closed, vec![]),   (Closed, vec![]),  (Closed, vec![]),               (Closed, vec![]),  (Closed, vec![]),  (Closed, vec![])]),
    ];
    for (phase, row) in table {
        for ((name, event), (next, effects)) in events.iter().zip(row) {
            let mut run = Run::at(phase);
            assert_eq!(run.on(event()), effects, "{phase:?} on {name}");
            assert_eq!(run.session.phase(), next, "{phase:?} on {name}");
        }
    }
}

#[test]
fn a_user_without_buckets_is_completed_too() {
    let mut run = Run::new(&[]);
    assert_eq!(run.on(resolved(7, vec![])), [Effect::Checkpoint]);
    assert_eq!(run.on(Event::Room), [Effect::Complete]);
    assert_eq!(run.session.phase(), Phase::Waiting);
}

#[test]
fn priority_groups_end_with_partial_completions_but_the_last_with_a_whole_one() {
    let mut run = Run::new(&[("c[]", 9)]);
    let buckets =
        vec![bucket("a[]", 3, 9), bucket("b[]", 0, 8), bucket("c[]", 1, 9), bucket("d[]", 2, 7)];
    run.on(resolved(9, buckets));
    assert_eq!(run.on(Event::Room), [read(1, 0)]);
    run.on(page(4, 4, true));
    assert_eq!(run.on(Event::Room), [read(1, 4)]);
    run.on(page(8, 4, false));
    assert_eq!(run.on(Event::Room), [Effect::PartialComplete(0), read(3, 0)]);
    run.on(page(7, 4, false));
    assert_eq!(run.on(Event::Room), [Effect::PartialComplete(2), read(0, 0)]);
    run.on(page(9, 4, false));
    assert_eq!(run.on(Event::Room), [Effect::Complete]);
}

#[test]
fn a_client_resumes_where_it_was_and_unknown_names_mean_nothing() {
    let mut run = Run::new(&[("a[]", 5), ("1.1#other[]", 3), ("b[]", 9)]);
    run.on(resolved(9, vec![bucket("a[]", 3, 9), bucket("b[]", 3, 9), bucket("c[]", 3, 2)]));
    assert_eq!(run.on(Event::Room), [read_at(0, Place::brought(OpId(5)))]);
    run.on(page(9, 4, false));
    assert_eq!(run.on(Event::Room), [read(2, 0)]);
    run.on(page(2, 4, false));
    assert_eq!(run.on(Event::Room), [Effect::Complete]);
}

#[test]
fn a_publication_that_changes_nothing_for_the_user_sends_nothing() {
    let mut run = Run::at(Phase::Waiting);
    assert_eq!(run.on(Event::Changed), [Effect::AskNewest]);
    assert_eq!(run.on(updated(20, vec![(0, totals(9))])), []);
    assert_eq!(run.session.phase(), Phase::Waiting);
    assert_eq!(run.session.head(), head(9, None));
    run.on(Event::Changed);
    assert_eq!(run.on(resolved(20, vec![bucket("a[]", 3, 9)])), []);
}

#[test]
fn a_write_checkpoint_alone_is_a_diff_with_empty_arrays() {
    let mut run = Run::at(Phase::Waiting);
    run.on(Event::Changed);
    let effects = run.on(Event::Newest(Newest::Updated {
        head: head(12, Some(4)),
        changes: BucketChanges::default(),
    }));
    assert_eq!(effects, [Effect::Diff(Default::default())]);
    assert_eq!(run.session.head(), head(12, Some(4)));
    assert_eq!(run.on(Event::Room), [Effect::Complete]);
}

#[test]
fn a_newer_checkpoint_interrupts_a_download_from_1000_operations_on() {
    let mut run = Run::new(&[]);
    run.on(resolved(5000, vec![bucket("a[]", 1, 10), bucket("z[]", 3, 5000)]));
    run.on(Event::Room);
    run.on(page(10, 10, false));
    run.on(Event::Room);
    run.on(page(989, INTERRUPT_AFTER_OPERATIONS - 11, true));
    run.on(Event::Changed);
    assert_eq!(run.on(Event::Room), [read(1, 989)], "999 operations: goes on");
    run.on(page(990, 1, true));
    assert_eq!(run.on(Event::Room), [Effect::AskNewest]);
    let effects = run.on(updated(5001, vec![(0, totals(5001))]));
    assert!(matches!(&effects[..], [Effect::Diff(diff)] if diff.updated == [0]));
    // The more important bucket first, then the rest from where it was; one completion at the end.
    assert_eq!(run.on(Event::Room), [read_on(0, 10)]);
    run.on(page(5001, 1, false));
    assert_eq!(run.on(Event::Room), [Effect::PartialComplete(1), read(1, 990)]);
    run.on(page(5000, 100, false));
    assert_eq!(run.on(Event::Room), [Effect::Complete]);
    assert_eq!(run.session.head().op_id, OpId(5001));
}

#[test]
fn an_interruption_that_concerns_others_does_not_withhold_the_completion() {
    let mut run = Run::at(Phase::Reading);
    run.on(page(5, 1000, true));
    run.on(Event::Changed);
    assert_eq!(run.on(Event::Room), [Effect::AskNewest]);
    assert_eq!(run.on(updated(20, vec![])), []);
    assert_eq!(run.on(Event::Room), [read(0, 5)]);
    run.on(page(9, 4, false));
    assert_eq!(run.on(Event::Room), [Effect::Complete]);
}

#[test]
fn a_change_during_a_small_download_is_looked_at_behind_its_completion() {
    let mut run = Run::at(Phase::Reading);
    run.on(Event::Changed);
    run.on(page(9, 9, false));
    assert_eq!(run.on(Event::Room), [Effect::Complete, Effect::AskNewest]);
}

#[test]
fn checkpoints_keep_a_pause_and_an_idle_client_does_not_wait() {
    let mut run = Run::at(Phase::Waiting);
    run.session.set_pause(Duration::from_millis(10));
    run.now = Duration::from_millis(4);
    assert_eq!(run.on(Event::Changed), []);
    assert_eq!(run.session.deadline(), Duration::from_millis(10));
    run.now = Duration::from_millis(10);
    assert_eq!(run.on(Event::Tick { stalled: Duration::ZERO }), [Effect::AskNewest]);
    run.on(updated(20, vec![]));
    run.now = Duration::from_secs(5);
    assert_eq!(run.on(Event::Changed), [Effect::AskNewest]);
}

#[test]
fn a_lost_bucket_is_removed_and_starts_again_from_zero_when_it_returns() {
    let mut run = Run::at(Phase::Waiting);
    run.on(Event::Changed);
    let effects = run.on(resolved(10, vec![]));
    assert!(matches!(&effects[..], [Effect::Diff(diff)] if *diff.removed == ["a[]".into()]));
    assert_eq!(run.on(Event::Room), [Effect::Complete]);
    run.on(Event::Changed);
    run.on(resolved(11, vec![bucket("a[]", 3, 9)]));
    assert_eq!(run.on(Event::Room), [read(0, 0)]);
}

#[test]
fn another_set_of_streams_ends_the_response() {
    let mut run = Run::at(Phase::Waiting);
    run.on(Event::Changed);
    let effects = run.on(Event::Newest(Newest::Resolved(Announcement {
        head: head(10, None),
        buckets: vec![],
        streams: vec![stream("s"), stream("t")],
    })));
    assert_eq!(effects, [Effect::Close(CloseReason::StreamsChanged)]);
    assert!(CloseReason::StreamsChanged.is_clean());
}

#[test]
fn a_checkpoint_older_than_a_minute_is_not_completed() {
    let mut run = Run::at(Phase::Reading);
    run.on(page(9, 9, false));
    run.now = SLOW_AFTER;
    assert_eq!(run.on(Event::Room), [Effect::AskNewest]);
    let effects = run.on(updated(12, vec![(0, totals(12))]));
    assert!(matches!(&effects[..], [Effect::Diff(_)]));
    assert_eq!(run.on(Event::Room), [read_on(0, 9)]);
}

#[test]
fn a_socket_that_takes_no_line_for_a_minute_is_cut() {
    let mut run = Run::at(Phase::Between);
    run.now = Duration::from_secs(70);
    // No keepalive is piled up before a stuck socket, although one is due.
    assert_eq!(run.on(Event::Tick { stalled: SLOW_AFTER - Duration::from_millis(1) }), []);
    let effects = run.on(Event::Tick { stalled: SLOW_AFTER });
    assert_eq!(effects, [Effect::Close(CloseReason::SlowReader)]);
    assert!(!CloseReason::SlowReader.is_clean());
}

#[test]
fn an_expired_token_ends_the_response_with_zero() {
    for phase in [Phase::Asking, Phase::Reading, Phase::Between, Phase::Waiting] {
        let mut run = Run::at(phase);
        run.now = Duration::from_secs(86_400);
        assert_eq!(
            run.on(Event::Tick { stalled: Duration::ZERO }),
            [Effect::TokenExpiresIn(0), Effect::Close(CloseReason::TokenExpired)]
        );
    }
}

#[test]
fn lines_grow_with_what_the_connection_took() {
    let mut run = Run::at(Phase::Reading);
    let sizes: Vec<PageSize> = [10_000, 10_000, 60_000, 60_000]
        .into_iter()
        .map(|bytes| {
            let next = Place { after: OpId(5), ..Place::default() };
            let read = PageRead { next, operations: 1, bytes, has_more: true };
            run.on(Event::Page(read));
            match run.on(Event::Room)[..] {
                [Effect::Read(request)] => request.size,
                ref other => panic!("{other:?}"),
            }
        })
        .collect();
    use PageSize::{Full, Medium, Small};
    assert_eq!(sizes, [Small, Medium, Medium, Full]);
}
