//! The session against a model client, over a random bucket store, cut after each k-th line.
//!
//! The client is written from `powersync-protocol.md` 6.4 and 6.5 alone: it stores operations,
//! adds checksums, publishes at completions, and refuses what does not add up. The oracle is the
//! store's own rows at the completed position (E-1, E-3). One seed is one run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use hw_types::{OpId, Place};
use serde_json::Value;

use super::Moment;
use super::bucket::{Announcement, Bucket, BucketChanges, Newest, Totals};
use super::session::{CloseReason, Effect, Event, PageRead, PageRequest, Phase, Session};
use super::timers::Timers;
use crate::wire::line::{
    BucketLine, CheckpointHead, DataForm, OperationKind, OperationLine, Reason, StreamLine,
};
use crate::wire::ndjson;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) * n) >> 31
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Debug)]
struct Op {
    op_id: u64,
    kind: OperationKind,
    row: String,
    checksum: u32,
    data: String,
}

/// Buckets with their whole logs, and which of them the one user had at which position.
#[derive(Default)]
struct Store {
    logs: BTreeMap<String, Vec<Op>>,
    /// (op id, the user's buckets with their priorities), ascending.
    memberships: Vec<(u64, BTreeMap<String, u8>)>,
    op_id: u64,
    write_checkpoint: Option<u64>,
}

const NAMES: [&str; 6] = ["a[]", "b[]", "c[]", "d[]", "e[]", "f[]"];

impl Store {
    fn start(random: &mut Random) -> Store {
        let mut store = Store::default();
        for name in NAMES {
            store.logs.insert(name.into(), Vec::new());
        }
        let mine = NAMES.iter().map(|&n| (n.to_owned(), random.below(4) as u8)).collect();
        store.memberships.push((0, mine));
        store
    }

    /// One source transaction: some rows change, and sometimes the user's set of buckets.
    fn transaction(&mut self, random: &mut Random, changes: u64) {
        for _ in 0..changes {
            self.op_id += 1 + random.below(3);
            let log = self.logs.get_mut(NAMES[random.below(6) as usize]).unwrap();
            let row = format!("r{}", random.below(40));
            let present = log.iter().rev().find(|op| op.row == row).map(|op| op.kind);
            let remove = present == Some(OperationKind::Put) && random.chance(30);
            let data = format!("{{\"id\":\"{row}\",\"v\":{}}}", self.op_id);
            log.push(Op {
                op_id: self.op_id,
                kind: if remove { OperationKind::Remove } else { OperationKind::Put },
                row,
                checksum: random.below(1 << 31) as u32 * 2 + 1,
                data: if remove { String::new() } else { data },
            });
        }
        if random.chance(25) {
            let mut mine = self.memberships.last().unwrap().1.clone();
            let name = NAMES[random.below(6) as usize].to_owned();
            if mine.remove(&name).is_none() || random.chance(20) {
                mine.insert(name, random.below(4) as u8);
            }
            self.op_id += 1;
            self.memberships.push((self.op_id, mine));
        }
        if random.chance(30) {
            self.write_checkpoint = Some(self.op_id * 1000);
        }
    }

    fn mine(&self, at: u64) -> &BTreeMap<String, u8> {
        &self.memberships.iter().rev().find(|(op_id, _)| *op_id <= at).unwrap().1
    }

    fn totals(&self, name: &str) -> Totals {
        let log = &self.logs[name];
        Totals {
            count: log.len() as u64,
            checksum: log.iter().fold(0, |sum, op| sum.wrapping_add(op.checksum)),
            last_op: OpId(log.last().map_or(0, |op| op.op_id)),
            ..Totals::default()
        }
    }

    fn newest(&self, session: &Session, random: &mut Random) -> Newest {
        let head =
            CheckpointHead { op_id: OpId(self.op_id), write_checkpoint: self.write_checkpoint };
        let mine = self.mine(self.op_id);
        let bucket = |(name, &priority): (&String, &u8)| Bucket {
            name: name.as_str().into(),
            parameters_at: name.find('[').unwrap() as u32,
            source: 0,
            priority,
            reasons: Box::new([Reason::Default(0)]),
            found_once: true,
            totals: self.totals(name),
            place: Place::default(),
        };
        let known = session.buckets();
        let is_here =
            |bucket: &Bucket| mine.get(&*bucket.name).is_none_or(|p| *p == bucket.priority);
        if !known.is_empty() && known.iter().all(is_here) && random.chance(70) {
            // Another priority of a bucket makes a new resolution; other buckets need none.
            let mut changes = BucketChanges::default();
            for (index, bucket) in known.iter().enumerate() {
                match mine.contains_key(&*bucket.name) {
                    true => changes.totals.push((index, self.totals(&bucket.name))),
                    false => changes.went.push(index),
                }
            }
            let place = |name: &str| known.binary_search_by(|bucket| (*bucket.name).cmp(name));
            let comes = |of: (&String, &u8)| Some((place(of.0).err()?, bucket(of)));
            changes.came = mine.iter().filter_map(comes).collect();
            return Newest::Updated { head, changes };
        }
        let streams = vec![StreamLine { name: "s".into(), is_default: true, errors: vec![] }];
        Newest::Resolved(Announcement { head, buckets: mine.iter().map(bucket).collect(), streams })
    }

    /// A page as a server may give it: superseded operations as runs of MOVE, a removable prefix
    /// as CLEAR, both only as far as the announced state supersedes (9.1, 9.2).
    fn page(
        &self,
        bucket: &Bucket,
        after: OpId,
        rows: usize,
        random: &mut Random,
    ) -> (Vec<Op>, bool) {
        let until = bucket.totals.last_op.0;
        let log: Vec<&Op> =
            self.logs[&*bucket.name].iter().filter(|op| op.op_id <= until).collect();
        let newest: HashMap<&str, u64> = log.iter().map(|op| (&*op.row, op.op_id)).collect();
        let superseded = |at: usize| newest[&*log[at].row] > log[at].op_id;
        let compact = random.chance(50);
        let prefix = (0..log.len())
            .take_while(|&i| superseded(i) || log[i].kind == OperationKind::Remove)
            .count();
        let mut ops: Vec<Op> = Vec::new();
        for (i, &op) in log.iter().enumerate() {
            let mut op = op.clone();
            if compact && prefix >= 2 && i < prefix {
                op.kind = OperationKind::Clear;
            } else if compact && superseded(i) {
                op.kind = OperationKind::Move;
            }
            match ops.last_mut() {
                Some(last)
                    if last.kind == op.kind
                        && (op.kind == OperationKind::Clear
                            || op.kind == OperationKind::Move && last.op_id > after.0) =>
                {
                    last.op_id = op.op_id;
                    last.checksum = last.checksum.wrapping_add(op.checksum);
                }
                _ => ops.push(op),
            }
        }
        ops.retain(|op| op.op_id > after.0);
        let has_more = ops.len() > rows;
        ops.truncate(rows);
        (ops, has_more)
    }

    /// What the user's tables hold at a position: per row the newest version over all his
    /// buckets.
    fn rows(&self, at: u64) -> BTreeMap<String, String> {
        let mut newest: BTreeMap<String, (u64, String)> = BTreeMap::new();
        for name in self.mine(at).keys() {
            let mut current: HashMap<&str, &Op> = HashMap::new();
            for op in self.logs[name].iter().filter(|op| op.op_id <= at) {
                current.insert(&op.row, op);
            }
            for op in current.into_values().filter(|op| op.kind == OperationKind::Put) {
                let entry = newest.entry(op.row.clone()).or_default();
                if op.op_id > entry.0 {
                    *entry = (op.op_id, op.data.clone());
                }
            }
        }
        newest.into_iter().map(|(row, (_, data))| (row, data)).collect()
    }
}

/// One bucket of the model client.
#[derive(Default)]
struct Copy {
    position: u64,
    rows: BTreeMap<String, (u64, u32, String)>,
    add: u32,
}

/// The model client: survives its connections.
#[derive(Default)]
struct Client {
    buckets: BTreeMap<String, Copy>,
    announced: BTreeMap<String, (u32, u8)>,
    head: u64,
    write_checkpoint: Option<u64>,
    published: Option<(u64, BTreeMap<String, String>)>,
    partials: u64,
    completions: u64,
    clears: u64,
    moves: u64,
}

impl Client {
    fn request(&self) -> HashMap<String, Place> {
        let place = |copy: &Copy| Place::brought(OpId(copy.position));
        self.buckets.iter().map(|(name, copy)| (name.clone(), place(copy))).collect()
    }

    fn number(value: &Value) -> u64 {
        value.as_str().expect("op ids are strings").parse().unwrap()
    }

    fn buckets_of(list: &Value) -> impl Iterator<Item = (String, (u32, u8))> {
        list.as_array().unwrap().iter().map(|bucket| {
            let checksum = bucket["checksum"].as_i64().unwrap() as i32 as u32;
            let priority = bucket["priority"].as_u64().unwrap() as u8;
            (bucket["bucket"].as_str().unwrap().to_owned(), (checksum, priority))
        })
    }

    fn line(&mut self, line: &[u8]) {
        let value: Value = serde_json::from_slice(line).unwrap();
        let object = value.as_object().unwrap();
        assert_eq!(object.len(), 1);
        let (kind, body) = object.iter().next().unwrap();
        match kind.as_str() {
            "checkpoint" => {
                self.announced = Self::buckets_of(&body["buckets"]).collect();
                self.take_head(body);
                self.buckets.retain(|name, _| self.announced.contains_key(name));
            }
            "checkpoint_diff" => {
                for name in body["removed_buckets"].as_array().unwrap() {
                    let name = name.as_str().unwrap();
                    self.announced.remove(name);
                    self.buckets.remove(name);
                }
                self.announced.extend(Self::buckets_of(&body["updated_buckets"]));
                self.take_head(body);
            }
            "data" => self.data(body),
            "partial_checkpoint_complete" => {
                self.partials += 1;
                self.validate(body["priority"].as_u64().unwrap() as u8);
            }
            "checkpoint_complete" => {
                self.completions += 1;
                assert_eq!(Self::number(&body["last_op_id"]), self.head);
                self.validate(3);
                self.publish();
            }
            "token_expires_in" => {}
            other => panic!("{other}"),
        }
    }

    fn take_head(&mut self, body: &Value) {
        let head = Self::number(&body["last_op_id"]);
        assert!(head >= self.head, "a checkpoint never goes back (E-3)");
        self.head = head;
        self.write_checkpoint = body.get("write_checkpoint").map(Self::number);
    }

    fn data(&mut self, body: &Value) {
        let copy = self.buckets.entry(body["bucket"].as_str().unwrap().to_owned()).or_default();
        // A completion moves the client's position to the checkpoint; the server's stays at the
        // bucket's newest operation. Nothing lies between the two.
        assert!(Self::number(&body["after"]) <= copy.position);
        for op in body["data"].as_array().unwrap() {
            let op_id = Self::number(&op["op_id"]);
            assert!(op_id > copy.position && op_id <= self.head);
            copy.position = op_id;
            let checksum = op["checksum"].as_u64().unwrap() as u32;
            let row = op["object_id"].as_str().unwrap_or_default().to_owned();
            match op["op"].as_str().unwrap() {
                "PUT" => {
                    let data = op["data"].as_str().unwrap().to_owned();
                    if let Some((_, old, _)) = copy.rows.insert(row, (op_id, checksum, data)) {
                        copy.add = copy.add.wrapping_add(old);
                    }
                }
                "REMOVE" => {
                    let old = copy.rows.remove(&row).map_or(0, |(_, old, _)| old);
                    copy.add = copy.add.wrapping_add(old).wrapping_add(checksum);
                }
                "MOVE" => {
                    self.moves += 1;
                    copy.add = copy.add.wrapping_add(checksum);
                }
                "CLEAR" => {
                    self.clears += 1;
                    copy.rows.clear();
                    copy.add = checksum;
                }
                other => panic!("{other}"),
            }
        }
        assert_eq!(Self::number(&body["next_after"]), copy.position);
    }

    fn validate(&self, priority: u8) {
        for (name, &(checksum, _)) in self.announced.iter().filter(|(_, b)| b.1 <= priority) {
            let sum = self.buckets.get(name).map_or(0, |copy| {
                copy.rows.values().fold(copy.add, |sum, row| sum.wrapping_add(row.1))
            });
            assert_eq!(sum, checksum, "checksum of {name} at {}", self.head);
        }
    }

    fn publish(&mut self) {
        let mut newest: BTreeMap<String, (u64, String)> = BTreeMap::new();
        for name in self.announced.keys() {
            let copy = self.buckets.entry(name.clone()).or_default();
            copy.position = self.head;
            for (row, (op_id, _, data)) in &copy.rows {
                let entry = newest.entry(row.clone()).or_default();
                if *op_id > entry.0 {
                    *entry = (*op_id, data.clone());
                }
            }
        }
        let rows = newest.into_iter().map(|(row, (_, data))| (row, data)).collect();
        self.published = Some((self.head, rows));
    }
}

/// What a connection did.
struct Connection {
    lines: u64,
    interrupted: u64,
}

/// Drives one connection until its client is up to date, or for `cut` lines.
fn connection(
    store: &mut Store,
    client: &mut Client,
    random: &mut Random,
    cut: u64,
    mut transactions: u64,
) -> Connection {
    let mut session =
        Session::new(client.request(), Timers::new(Duration::from_secs(86_400), random.0));
    let mut run = Connection { lines: 0, interrupted: 0 };
    let mut now = Moment::ZERO;
    let mut pending: Vec<Event> = vec![Event::Newest(store.newest(&session, random))];
    loop {
        let mut effects = Vec::new();
        for event in pending.drain(..) {
            session.on(now, event, &mut effects);
        }
        for effect in effects {
            let mut line = Vec::new();
            match effect {
                Effect::AskNewest => pending.push(Event::Newest(store.newest(&session, random))),
                Effect::Read(request) => {
                    let (page, bytes) = write_page(store, &session, &request, random);
                    line = bytes;
                    pending.push(Event::Page(page));
                }
                other => {
                    if matches!(other, Effect::Diff(_)) && session.operations_pending(client) {
                        run.interrupted += 1;
                    }
                    write_line(&session, &other, &mut line);
                }
            }
            if line.is_empty() {
                continue;
            }
            if run.lines == cut {
                return run;
            }
            run.lines += 1;
            client.line(&line);
            if let Some((at, rows)) = client.published.take() {
                assert_eq!(rows, store.rows(at), "rows at {at}");
            }
        }
        // Between two steps anything may be published; time may pass.
        if transactions > 0 && random.chance(40) {
            transactions -= 1;
            let changes = if random.chance(3) { 1200 } else { 1 + random.below(5) };
            store.transaction(random, changes);
            pending.push(Event::Changed);
        }
        if random.chance(10) {
            now += Duration::from_secs(random.below(70));
            pending.push(Event::Tick { stalled: Duration::ZERO });
        }
        match session.phase() {
            Phase::Between => pending.push(Event::Room),
            Phase::Waiting if transactions == 0 && pending.is_empty() => return run,
            Phase::Closed => return run,
            _ => {}
        }
    }
}

impl Session {
    /// Whether the client has an announced checkpoint that was not completed.
    fn operations_pending(&self, client: &Client) -> bool {
        client.head != 0 && self.buckets().iter().any(Bucket::unfinished)
    }
}

fn write_page(
    store: &Store,
    session: &Session,
    request: &PageRequest,
    random: &mut Random,
) -> (PageRead, Vec<u8>) {
    let bucket = &session.buckets()[request.bucket];
    let most = if random.chance(10) { 1000 } else { 20 };
    let rows = 1 + random.below(most) as usize;
    let (ops, has_more) = store.page(bucket, request.place.after, rows, random);
    let mut bytes = Vec::new();
    let mut line =
        ndjson::DataLine::open(&mut bytes, &bucket.name, request.place.after, DataForm::Text);
    for op in &ops {
        line.operation(&OperationLine {
            op_id: OpId(op.op_id),
            kind: op.kind,
            checksum: op.checksum,
            object_type: "t",
            object_id: &op.row,
            subkey: "k",
            data: &op.data,
        });
    }
    let next = Place { after: line.close(has_more), ..request.place };
    let read = PageRead { next, operations: ops.len() as u64, bytes: bytes.len() as u64, has_more };
    (read, bytes)
}

fn write_line(session: &Session, effect: &Effect, out: &mut Vec<u8>) {
    let head = session.head();
    let lines = || session.buckets().iter().map(Bucket::line);
    match effect {
        Effect::Checkpoint => ndjson::checkpoint(out, head, lines(), session.streams()),
        Effect::Diff(diff) => {
            let updated =
                diff.updated.iter().map(|&i| -> BucketLine<'_> { session.buckets()[i].line() });
            ndjson::checkpoint_diff(out, head, updated, diff.removed.iter().map(|name| &**name));
        }
        Effect::PartialComplete(priority) => {
            ndjson::partial_checkpoint_complete(out, head.op_id, *priority);
        }
        Effect::Complete => ndjson::checkpoint_complete(out, head.op_id),
        Effect::TokenExpiresIn(seconds) => ndjson::token_expires_in(out, *seconds),
        Effect::Close(CloseReason::TokenExpired) => {}
        Effect::Close(reason) => panic!("{reason:?}"),
        Effect::AskNewest | Effect::Read(_) => unreachable!("not a line"),
    }
}

/// Names the seed when the run fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failing seed: {}", self.0);
        }
    }
}

/// One run: lines are cut after the k-th for k = 1, 2, …, then a last connection catches up.
fn run(seed: u64) -> [u64; 5] {
    let _named = Named(seed);
    let mut random = Random(seed.wrapping_mul(0x9e3779b97f4a7c15) ^ 77);
    let mut store = Store::start(&mut random);
    for _ in 0..random.below(60) {
        let changes = 1 + random.below(40);
        store.transaction(&mut random, changes);
    }
    let mut client = Client::default();
    let mut interrupted = 0;
    for k in 1..25 {
        interrupted += connection(&mut store, &mut client, &mut random, k, 20).interrupted;
    }
    connection(&mut store, &mut client, &mut random, u64::MAX, 30);
    assert_eq!(client.head, client.head.max(store_position_that_matters(&store)));
    let seen: BTreeSet<&String> = client.announced.keys().collect();
    assert_eq!(seen, store.mine(store.op_id).keys().collect());
    assert_eq!(client.write_checkpoint, store.write_checkpoint);
    [interrupted, client.partials, client.completions, client.clears, client.moves]
}

/// The newest operation in any of the user's buckets: a client that is up to date has at least
/// this position.
fn store_position_that_matters(store: &Store) -> u64 {
    let mine = store.mine(store.op_id).keys();
    mine.map(|name| store.totals(name).last_op.0).max().unwrap_or_default()
}

#[test]
fn a_client_cut_after_each_line_always_equals_the_oracle() {
    let mut reached = [0; 5];
    for seed in 0..25 {
        for (sum, n) in reached.iter_mut().zip(run(seed)) {
            *sum += n;
        }
    }
    // The rare paths were reached: interruptions, partial and whole completions, CLEAR, MOVE.
    assert!(reached.iter().all(|&n| n > 20), "{reached:?}");
}

/// Replays one seed: set `SEED` to the number that a failure printed.
#[test]
fn one_seed_can_be_replayed() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    run(seed);
}
