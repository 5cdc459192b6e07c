//! The op log against a naive model: random operations, compaction at any moment, clients at every
//! place, slow ones, ones that are cut off and come back. One seed is one run.

use super::client::ClientBucket;
use crate::buckets::{BucketBook, Spaces};
use crate::change_list::ChangeList;
use crate::compact::compact_slice;
use crate::definitions::compile;
use crate::evaluate::{Effects, FoldedChange};
use crate::lease::{Lease, Leases};
use crate::overlay::Overlay;
use crate::published::Published;
use crate::sync_view::{
    ActiveSync, BucketState, OpKind, ReadLimit, Reading, SourceSpaces, SyncView,
};
use crate::tables::{Bound, Gates, Planned, Table, TablePlan};
use crate::testing::{relation, row, table};
use crate::wake::{ChangeRing, Touched};
use hw_input::entry::CompactSlice;
use hw_store::{Simulation, Store};
use hw_types::{Checkpoint, EndLsn, Lsn, OpId, Place};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const CONFIG: &str = "bucket_definitions:\n  all:\n    data:\n      - SELECT * FROM t\n";
const PARAMETERS: &str = "[]";

/// A row of the bucket: newest operation and contents.
type State = BTreeMap<String, (u64, String)>;

fn view(published: &Published) -> SyncView<'_> {
    published.sync_view().expect("a configuration is served")
}

/// One bucket with its writer, and what it ought to hold.
struct Bucket {
    overlay: Overlay,
    spaces: Spaces,
    book: BucketBook,
    effects: Effects,
    table: Table,
    plan: TablePlan,
    sync: Arc<ActiveSync>,
    leases: Arc<Leases>,
    change_list: Arc<ChangeList>,
    last: OpId,
    now: BTreeMap<String, String>,
    /// The rows at each published position.
    states: BTreeMap<OpId, State>,
    newest: BTreeMap<String, u64>,
}

impl Bucket {
    fn new() -> Bucket {
        let store = Store::simulated(&Simulation::new());
        let mut spaces = Spaces::default();
        let (ops, buckets) = spaces.open_source(&store, 1).unwrap();
        let config = compile("sync.yaml", CONFIG).unwrap();
        let table = table(&store, 1, &relation(1, "t", &["id", "text"]));
        let bound = config.sources()[0].bind(&table.record.relation).unwrap();
        let bound = Arc::new(Bound::Source(bound));
        let plan = TablePlan(vec![Planned { number: 1, bound }]);
        let source = SourceSpaces { number: 1, prefix: "1.1#".into(), ops, buckets };
        let sync = ActiveSync {
            text: String::new(),
            config,
            version: 1,
            sources: vec![source],
            lookups: vec![],
            frozen: vec![None],
            withheld: vec![false],
            waiting: BTreeSet::new(),
            unsent: vec![],
        };
        Bucket {
            overlay: Overlay::new(store),
            spaces,
            book: BucketBook::new(),
            effects: Effects::default(),
            table,
            plan,
            sync: Arc::new(sync),
            leases: Arc::default(),
            change_list: Arc::new(ChangeList::new(0)),
            last: OpId(1000),
            now: BTreeMap::new(),
            states: BTreeMap::new(),
            newest: BTreeMap::new(),
        }
    }

    /// Sets or removes a row, as one transaction.
    fn change(&mut self, id: &str, text: Option<String>) {
        let encode = |text: &String| row(&[Some(id), Some(text)]);
        let (before, after) = (self.now.get(id).map(encode), text.as_ref().map(encode));
        let change = FoldedChange {
            table: 1,
            name: &self.table.record.relation.name,
            key: id.as_bytes(),
            before: before.as_ref().map(|r| r.view()),
            after: after.as_ref().map(|r| r.view()),
        };
        self.effects.evaluate([&self.plan, &self.plan], &Gates::default(), &change);
        let place = (1, id.as_bytes());
        let (mut last, mut touched) = (self.last, Touched::default());
        self.book
            .append(
                &self.spaces,
                &mut self.overlay,
                &mut self.effects,
                place,
                &mut last,
                &mut touched,
            )
            .unwrap();
        if last > self.last {
            self.newest.insert(id.into(), last.0);
        }
        self.last = last;
        match text {
            Some(text) => self.now.insert(id.into(), text),
            None => self.now.remove(id),
        };
    }

    fn commit(&mut self) {
        self.book.flush(&self.spaces, &mut self.overlay).unwrap();
        self.overlay.commit().unwrap();
    }

    /// What surfaces read now. Positions of other buckets lie between.
    fn publish(&mut self) -> Published {
        self.commit();
        self.last.0 += 3;
        let state = self.now.iter().map(|(id, text)| (id.clone(), (self.newest[id], text.clone())));
        self.states.insert(self.last, state.collect());
        Published {
            number: 0,
            checkpoint: Checkpoint { op_id: self.last, end_lsn: EndLsn(Lsn(1)) },
            epoch: 1,
            sync: Some(self.sync.clone()),
            withheld: None,
            snapshot: self.overlay.store().snapshot(),
            kept_back: Default::default(),
            runs: Arc::default(),
            met: Arc::default(),
            write_floor: 0,
            write_checkpoints: self.overlay.store().space("wcp").unwrap(),
            ring: Arc::new(ChangeRing::default()),
            change_place: self.change_list.end(),
            change_list: self.change_list.clone(),
            tables: Arc::default(),
            leases: self.leases.clone(),
        }
    }

    fn compact(&mut self, until: OpId, operations: usize, least_sums: u64) -> bool {
        self.commit();
        let slice = CompactSlice {
            source: 1,
            parameters: PARAMETERS.into(),
            until,
            operations,
            least_sums,
        };
        let more = compact_slice(&mut self.book, &self.spaces, &mut self.overlay, &slice).unwrap();
        self.commit();
        more
    }

    fn records(&self) -> usize {
        let ops = &self.spaces.source(1).unwrap().ops;
        self.overlay.store().snapshot().all(ops).count()
    }
}

/// A client and what the server remembers of its connection.
#[derive(Default)]
struct Client {
    copy: ClientBucket,
    place: Place,
    /// What is being sent: the position that was announced, and the bucket there.
    sending: Option<(OpId, BucketState, Option<Lease>)>,
    pages: usize,
    cleared: bool,
    /// Where the connection began.
    began: OpId,
}

impl Client {
    fn announce(&mut self, published: &Published, leased: bool) {
        let Some(state) = view(published).bucket(0, PARAMETERS).unwrap() else { return };
        let lease = leased.then(|| published.lease());
        self.sending = Some((published.checkpoint.op_id, state, lease));
    }

    /// Takes one page; true when it was the last one.
    fn page(&mut self, bucket: &Bucket, newest: &Published, rows: usize, what: &str) -> bool {
        let Some((position, state, lease)) = &self.sending else { return true };
        if self.place.after >= state.last_op {
            return self.complete(bucket, what);
        }
        let limit = ReadLimit { rows, bytes: usize::MAX };
        let reading = view(newest).operations(0, PARAMETERS, state, self.place, limit).unwrap();
        let Reading::Page(page) = reading else {
            assert!(lease.is_none(), "a leased state can be read: {what}");
            self.announce(newest, true);
            return self.page(bucket, newest, rows, what);
        };
        assert!(page.operations.len() <= rows + 2);
        let at = &bucket.states[position];
        for op in &page.operations {
            match op.kind {
                OpKind::Put => {
                    // FD-49: never a version that was superseded at what is being sent.
                    let texts = op.texts().unwrap();
                    assert_eq!(at[texts.object_id].0, op.op_id.0, "superseded: {what}");
                }
                OpKind::Remove => {
                    let gone = op.texts().unwrap().object_id.to_owned();
                    assert!(!at.contains_key(&gone), "{what}");
                    assert!(self.began > OpId(0) || self.pages > 0, "a new client: {what}");
                }
                OpKind::Clear => self.cleared = true,
                OpKind::Move => {}
            }
        }
        self.copy.take(&page);
        self.place = page.place;
        self.pages += 1;
        !page.has_more && self.complete(bucket, what)
    }

    fn complete(&mut self, bucket: &Bucket, what: &str) -> bool {
        let Some((position, state, _)) = self.sending.take() else { return true };
        assert_eq!(self.copy.checksum(), state.checksum, "{what}");
        let mine: State = self
            .copy
            .rows
            .iter()
            .map(|((_, id, _), (op, _, data))| (id.clone(), (*op, data.clone())))
            .collect();
        let whole = |(id, (op, text)): (&String, &(u64, String))| {
            (id.clone(), (*op, format!("{{\"id\":\"{id}\",\"text\":\"{text}\"}}")))
        };
        let theirs: State = bucket.states[&position].iter().map(whole).collect();
        assert_eq!(mine, theirs, "{what}");
        self.copy.after = position.0;
        true
    }

    /// The connection is lost; the client comes back with what it has stored.
    fn reconnect(&mut self) {
        self.place = Place::brought(OpId(self.copy.after));
        self.began = self.place.after;
        self.pages = 0;
        self.sending = None;
    }
}

fn run(seed: u64) -> usize {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut bucket = Bucket::new();
    let rows = rng.random_range(1..30);
    let least_sums = rng.random_range(0..40);
    let churn = rng.random_range(0.0..0.6);
    let mut published = bucket.publish();
    let mut clients: Vec<Client> = Vec::new();
    let mut cleared = 0;
    for step in 0..300 {
        let what = format!("seed {seed} step {step}");
        for _ in 0..rng.random_range(0..6) {
            let id = format!("r{}", rng.random_range(0..rows));
            let gone = rng.random_bool(churn);
            bucket.change(&id, (!gone).then(|| format!("v{step}-{}", rng.random_range(0..1000))));
        }
        if rng.random_bool(0.6) {
            published = bucket.publish();
        }
        if rng.random_bool(0.4) {
            let shown = published.checkpoint.op_id;
            let leased = bucket.leases.oldest().map_or(shown, |oldest| oldest.min(shown));
            // Now and then somebody's lease has run out.
            let until = if rng.random_bool(0.1) { shown } else { leased };
            if until == shown && leased != shown {
                for client in &mut clients {
                    if let Some((_, _, lease)) = &mut client.sending {
                        *lease = None;
                    }
                }
            }
            bucket.compact(until, rng.random_range(1..50), least_sums);
        }
        if clients.len() < 8 {
            clients.push(Client::default());
        }
        for client in &mut clients {
            match rng.random_range(0..10) {
                0..4 => {
                    if client.sending.is_none() {
                        client.announce(&published, true);
                    }
                    client.page(&bucket, &published, rng.random_range(1..8), &what);
                }
                // A newer checkpoint overtakes the one that is being sent.
                4 => client.announce(&published, true),
                5 => client.reconnect(),
                _ => {}
            }
        }
        cleared += clients.iter().filter(|c| c.cleared).count();
        if rng.random_bool(0.05) {
            clients.swap_remove(rng.random_range(0..clients.len()));
        }
    }
    published = bucket.publish();
    for client in &mut clients {
        client.announce(&published, true);
        while !client.page(&bucket, &published, 3, "the end") {}
    }
    cleared
}

#[test]
fn fd_49_fd_73_every_client_gets_the_newest_rows_and_the_sum_of_the_rest_wherever_it_stands() {
    let cleared: usize = (0..24).map(run).sum();
    assert!(cleared > 0, "some clients stood before a floor");
}

/// FD-73, FD-74: what a log holds, and with it what a reading costs, follows the rows and not the
/// history.
#[test]
fn fd_73_fd_74_a_hot_buckets_log_does_not_grow_with_its_history() {
    let mut bucket = Bucket::new();
    for round in 0..200 {
        for row in 0..20 {
            bucket.change(&format!("r{row}"), Some(format!("v{round}")));
            // A row that comes and goes leaves nothing for ever either.
            bucket.change(&format!("gone{round}-{row}"), Some("x".into()));
            bucket.change(&format!("gone{round}-{row}"), None);
        }
        let published = bucket.publish();
        while bucket.compact(published.checkpoint.op_id, 50, 100) {}
    }
    let buckets = &bucket.spaces.source(1).unwrap().buckets;
    let kept = bucket.overlay.store().snapshot().all(buckets).count();
    assert!(bucket.records() < 400, "{} operations of 12,000", bucket.records());
    assert!(kept < 800, "{kept} entries beside them");
    let published = bucket.publish();
    let mut new = Client::default();
    new.announce(&published, true);
    assert!(new.page(&bucket, &published, 1000, "a new client"));
    let names: BTreeSet<String> = new.copy.rows.keys().map(|(_, id, _)| id.clone()).collect();
    assert_eq!(names.len(), 20);
}
