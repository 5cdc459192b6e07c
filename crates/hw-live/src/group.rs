//! Results that are told in one order: those of one socket (`datasync.md` 10.5, rule 4).
//!
//! In: what is put in of each result, of which position it is, and from which commit on a result lacks something. Out:
//! what is told, in the order of commits, of whichever result it is. Invariants:
//! - nothing is told that lies at or behind a commit which another result still lacks, or which was not followed yet:
//!   with the last piece of one position all results are as of that position;
//! - what a result is told that was asked is of one moment, and may be what several commits did: these are one step,
//!   also of all others;
//! - positions never go back;
//! - a first result is told when all that stands before it was taken, and nothing behind it before its receiver has
//!   begun to follow it;
//! - whoever waits for one result waits no longer than he has patience: it is overtaken then, and told when it comes.
//!
//! Groups of rows and counts keep nobody waiting: they are told with their commit, or later. What waits is put together
//! where it comes to too much: of each row it is told then what it was before and is behind all of it. A result that is
//! alone waits for nobody, and all that waits of it is one piece.

use crate::error::LiveError;
use crate::net::{Net, Same};
use crate::query::{Commit, LiveQuery, Wants};
use crate::room::{Counted, Room};
use hw_types::{EndLsn, Lsn};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// Pieces that are taken in one go, so that nobody else waits for long.
const AT_ONCE: usize = 1_000;

/// Pieces that wait in a group before they are put together; as many for each of its results where that is more.
const MOST_PIECES: usize = 1_000;
const OF_EACH: usize = 4;

/// Results that are told in one order. Clones share one.
#[derive(Clone)]
pub struct Group(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    filled: Notify,
    line: Arc<Line>,
    keeper: Arc<dyn Keeper>,
}

/// What is told of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Of which ([`crate::Subscription::number`]).
    pub number: u64,
    /// What has changed, or why there is no result any more.
    pub told: Result<Commit, LiveError>,
}

/// Where news of a result waits until it is taken, in the order of its group. Nobody is asked for somebody who takes
/// nothing. What there is no room for is forgotten, and who comes for it is asked. It counts what the result holds, for as
/// long as somebody has it.
#[derive(Clone)]
pub(crate) struct Inbox {
    pub group: Group,
    pub number: u64,
}

/// What a subscription tells those who keep it going.
pub(crate) trait Keeper: Send + Sync {
    /// Its inbox is empty again.
    fn taken(&self, number: u64);
    /// It goes over into another group, as [`Inbox::moved`] says.
    fn moves(&self, inbox: &Inbox, to: &Group, turn: Option<oneshot::Sender<()>>) -> Inbox;
    /// Nobody listens any more.
    fn left(&self, number: u64);
}

/// Up to where everything that was committed was followed, for all groups.
#[derive(Default)]
pub(crate) struct Line {
    at: AtomicU64,
    /// Where something waits that lies behind it.
    ahead: Mutex<Vec<Weak<Shared>>>,
}

impl Line {
    /// Begins at a position.
    pub fn new(at: EndLsn) -> Line {
        Line { at: AtomicU64::new(at.0.0), ahead: Mutex::default() }
    }

    fn at(&self) -> EndLsn {
        EndLsn(Lsn(self.at.load(Ordering::Acquire)))
    }

    /// Everything up to here has been put in.
    pub fn advance(&self, to: EndLsn) {
        self.at.fetch_max(to.0.0, Ordering::AcqRel);
        let ahead = std::mem::take(&mut *self.ahead.lock());
        for group in ahead.iter().filter_map(Weak::upgrade).map(Group) {
            group.change(|state| state.is_listed = false);
        }
    }
}

/// The first position behind one.
pub(crate) fn behind(position: EndLsn) -> EndLsn {
    EndLsn(Lsn(position.0.0.saturating_add(1)))
}

/// Where something is told: of one position counts come behind rows, and who came last behind all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    position: EndLsn,
    may_lag: bool,
    number: u64,
}

impl Place {
    /// Before everything of a position.
    fn before(position: EndLsn) -> Place {
        Place { position, may_lag: false, number: 0 }
    }
}

#[derive(Default)]
struct State {
    members: HashMap<u64, Box<Member>>,
    /// What waits, in the order in which it is told.
    waiting: BTreeSet<Place>,
    /// Who lacks something, from where on.
    lacking: BTreeSet<(EndLsn, u64)>,
    /// How many are shut.
    shut: usize,
    /// The position of what was taken last.
    told: EndLsn,
    /// Who is offered to be asked for what was forgotten.
    offered: Vec<u64>,
    /// Of whom something is on its way.
    away: Vec<u64>,
    /// Whose first result is on its way.
    begins: Option<u64>,
    /// Whether it stands in the list of those that are ahead of the line.
    is_listed: bool,
}

/// A result of a group.
struct Member {
    number: u64,
    /// What waits of it, by position.
    pieces: VecDeque<(EndLsn, Net)>,
    rows: usize,
    weight: usize,
    /// The position of what was put in last.
    last: EndLsn,
    same: Same,
    /// Whether others wait for it.
    may_lag: bool,
    /// The first commit that may be missing in what was put in, and since when it is that one.
    lacks: Option<(EndLsn, Instant)>,
    is_overtaken: bool,
    is_shut: bool,
    /// What there was no room for.
    gap: Gap,
    /// Its first result waits for its turn, and from where on.
    turn: Option<oneshot::Sender<()>>,
    begins_at: Option<EndLsn>,
    /// Why nothing comes any more, and behind what that is told.
    end: Option<(EndLsn, LiveError)>,
    counted: Counted,
    /// Bytes of what is held of the result.
    held: usize,
    /// Bytes of what was taken last: it is on its way until more is wanted.
    taken: usize,
}

/// Whether something was forgotten of what was to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    Nothing,
    /// It was, and there is no room for it.
    Waits,
    /// It was, and there may be room for it: whoever comes is asked.
    Offered,
}

impl Member {
    fn place(&self, position: EndLsn) -> Place {
        Place { position, may_lag: self.may_lag, number: self.number }
    }

    /// The positions of what waits of it.
    fn positions(&self) -> impl Iterator<Item = EndLsn> {
        let (pieces, end) = (self.pieces.iter().map(|(at, _)| *at), self.end.iter().map(|it| it.0));
        pieces.chain(self.begins_at).chain(end)
    }

    fn news(&self) -> usize {
        self.taken + self.weight
    }

    /// Puts a piece behind all others; with the last one if that is of the same position.
    fn push(&mut self, position: EndLsn, net: Net) {
        let net = match self.pieces.pop_back() {
            Some((at, mut last)) if at == position => {
                self.forget(&last);
                last.join(net);
                last
            }
            Some(last) => {
                self.pieces.push_back(last);
                net
            }
            None => net,
        };
        if !net.is_empty() {
            self.rows += net.len();
            self.weight += net.weight();
            self.pieces.push_back((position, net));
        }
        self.last = self.last.max(position);
    }

    fn forget(&mut self, net: &Net) {
        self.rows -= net.len();
        self.weight -= net.weight();
    }

    fn pop(&mut self) -> Option<(EndLsn, Net)> {
        let (position, net) = self.pieces.pop_front()?;
        self.forget(&net);
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
        Some((position, net))
    }

    /// Whether something of it is told at a position.
    fn has(&self, position: EndLsn) -> bool {
        self.pieces.binary_search_by_key(&position, |(at, _)| *at).is_ok()
            || self.begins_at == Some(position)
            || self.end.as_ref().is_some_and(|(at, _)| *at == position)
    }

    /// Makes all that waits of it from one position up to another one into one piece.
    fn gather(&mut self, from: EndLsn, upto: EndLsn) {
        let behind = self.pieces.partition_point(|(at, _)| *at <= upto);
        let later = self.pieces.split_off(behind);
        let first = self.pieces.partition_point(|(at, _)| *at < from);
        for (_, net) in self.pieces.split_off(first) {
            self.forget(&net);
            self.push(upto, net);
        }
        self.pieces.extend(later);
        let moves = |at: &mut EndLsn| {
            if *at >= from && *at < upto {
                *at = upto;
            }
        };
        self.begins_at.iter_mut().for_each(moves);
        self.end.iter_mut().for_each(|(at, _)| moves(at));
        self.last = self.last.max(upto);
    }

    /// Whether the others of its group wait for it, and from where on.
    fn keeps_waiting(&self) -> Option<EndLsn> {
        let keeps = !self.may_lag && !self.is_overtaken;
        self.lacks.map(|(from, _)| from).filter(|_| keeps)
    }
}

impl State {
    /// Changes a result, and notes from where on the others wait for it.
    fn with<T>(&mut self, number: u64, change: impl FnOnce(&mut Member) -> T) -> Option<T> {
        let member = self.members.get_mut(&number)?;
        let (was_shut, kept_waiting) = (member.is_shut, member.keeps_waiting());
        let changed = change(member);
        let (is_shut, keeps_waiting) = (member.is_shut, member.keeps_waiting());
        self.shut = self.shut + usize::from(is_shut) - usize::from(was_shut);
        if kept_waiting != keeps_waiting {
            if let Some(from) = kept_waiting {
                self.lacking.remove(&(from, number));
            }
            self.lacking.extend(keeps_waiting.map(|from| (from, number)));
        }
        Some(changed)
    }

    fn is_alone(&self) -> bool {
        self.members.len() == 1
    }

    /// Whether what is of a position may be told.
    fn is_ready(&self, position: EndLsn, line: &Line) -> bool {
        let is_next = || self.lacking.first().is_none_or(|(from, _)| position < *from);
        self.shut == 0 && (self.is_alone() || position <= line.at() && is_next())
    }

    /// Whether somebody who comes gets something.
    fn has_some(&self, line: &Line) -> bool {
        let first = || self.waiting.first().is_some_and(|it| self.is_ready(it.position, line));
        !self.offered.is_empty() || self.begins.is_none() && first()
    }

    /// Adds a result. What waits of it stands behind all that was told.
    fn add(&mut self, mut member: Box<Member>) {
        if let Some(first) = member.positions().min() {
            let position = member.last.max(self.told);
            member.gather(first, position);
            self.waiting.insert(member.place(position));
        }
        self.shut += usize::from(member.is_shut);
        self.lacking.extend(member.keeps_waiting().map(|from| (from, member.number)));
        if member.gap == Gap::Offered {
            self.offered.push(member.number);
        }
        self.members.insert(member.number, member);
    }

    fn remove(&mut self, number: u64) -> Option<Box<Member>> {
        let member = self.members.remove(&number)?;
        self.shut -= usize::from(member.is_shut);
        if let Some(from) = member.keeps_waiting() {
            self.lacking.remove(&(from, number));
        }
        for position in member.positions() {
            self.waiting.remove(&member.place(position));
        }
        self.begins = self.begins.filter(|it| *it != number);
        Some(member)
    }

    /// Puts news of a result in. Returns whether there is room for more.
    ///
    /// - Takes: the first position that it may be of.
    fn put(&mut self, number: u64, from: EndLsn, commit: Commit, line: &Line) -> bool {
        let (is_alone, told) = (self.is_alone(), self.told);
        let Some(member) = self.members.get_mut(&number) else { return true };
        let mut net = Net::new(member.same);
        commit.changes.into_iter().for_each(|change| net.add(change));
        if net.is_empty() {
            return true;
        }
        // What a snapshot did not see may stand before what was published behind it.
        let position = commit.position.max(member.last).max(told);
        member.push(position, net);
        match member.has(position) {
            true => drop(self.waiting.insert(member.place(position))),
            // With what waited it comes to nothing.
            false => drop(self.waiting.remove(&member.place(position))),
        }
        let from = match (is_alone, member.may_lag || member.is_overtaken) {
            (true, _) => EndLsn::default(),
            // Nobody has waited for it.
            (false, true) => position,
            // What was followed before it lacked something was told, or does not concern it: of that some may be
            // told already, and nobody would take what is moved behind what is lacking.
            (false, false) => {
                let lacks = member.lacks.map(|(from, _)| from);
                from.max(lacks.unwrap_or_else(|| behind(line.at())))
            }
        };
        if from < position {
            self.gather(from, position);
        }
        if self.waiting.len() > MOST_PIECES.max(OF_EACH * self.members.len()) {
            self.put_together(line);
        }
        self.members.get(&number).is_none_or(|member| !Net::is_much(member.rows, member.weight))
    }

    /// Makes all that is told from one position up to another one into one step.
    fn gather(&mut self, from: EndLsn, upto: EndLsn) {
        let range = Place::before(from)..Place::before(upto);
        let early: Vec<Place> = self.waiting.range(range).copied().collect();
        for place in early {
            self.waiting.remove(&place);
            let Some(member) = self.members.get_mut(&place.number) else { continue };
            member.gather(from, upto);
            if member.has(upto) {
                self.waiting.insert(member.place(upto));
            }
        }
    }

    /// There are too many pieces: those that may be told become one step, and so do the others.
    fn put_together(&mut self, line: &Line) {
        let Some(last) = self.waiting.last().map(|it| it.position) else { return };
        let mut latest = self.waiting.iter().rev().map(|it| it.position);
        let ready = latest.find(|position| self.is_ready(*position, line));
        if let Some(ready) = ready {
            self.gather(EndLsn::default(), ready);
        }
        self.gather(ready.map_or_else(EndLsn::default, behind), last);
    }

    /// Takes what may be told, so many pieces at most.
    fn take(&mut self, line: &Line, most: usize) -> Vec<News> {
        let mut all = Vec::new();
        while all.len() < most
            && self.begins.is_none()
            && let Some(place) = self.waiting.first().copied()
            && self.is_ready(place.position, line)
        {
            let Place { position: at, number, .. } = place;
            let Some(member) = self.members.get_mut(&number) else {
                self.waiting.remove(&place);
                continue;
            };
            if member.begins_at == Some(at) {
                // What stands before it is sent first.
                if !all.is_empty() {
                    break;
                }
                member.begins_at = None;
                let turn = member.turn.take();
                let is_there = turn.is_some_and(|turn| turn.send(()).is_ok());
                self.begins = is_there.then_some(number);
                self.told = self.told.max(at);
            } else if member.pieces.front().is_some_and(|(of, _)| *of == at)
                && let Some((_, net)) = member.pop()
            {
                member.taken += net.weight();
                self.away.push(number);
                self.told = self.told.max(at);
                all.push(News {
                    number,
                    told: Ok(Commit { position: at, changes: net.changes() }),
                });
            } else if let Some((_, why)) = member.end.take_if(|(of, _)| *of == at) {
                all.push(News { number, told: Err(why) });
            }
            if !member.has(at) {
                self.waiting.remove(&place);
            }
        }
        all
    }

    /// What was taken is not on its way any more.
    fn arrived(&mut self) {
        for number in std::mem::take(&mut self.away) {
            if let Some(member) = self.members.get_mut(&number)
                && std::mem::take(&mut member.taken) > 0
            {
                let (held, news) = (member.held, member.news());
                member.counted.shrink(held, news);
            }
        }
    }
}

impl Group {
    pub(crate) fn new(line: Arc<Line>, keeper: Arc<dyn Keeper>) -> Group {
        let (state, filled) = (Mutex::default(), Notify::new());
        Group(Arc::new(Shared { state, filled, line, keeper }))
    }

    /// Another one that has nothing yet.
    pub(crate) fn beside(&self) -> Group {
        Group::new(self.0.line.clone(), self.0.keeper.clone())
    }

    pub(crate) fn keeper(&self) -> &Arc<dyn Keeper> {
        &self.0.keeper
    }

    /// Changes it, and tells whoever waits where there is something for him then.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let Shared { state, filled, line, .. } = &*self.0;
        let mut guard = state.lock();
        let state = &mut *guard;
        let changed = change(state);
        let is_ahead = state.waiting.last().is_some_and(|it| it.position > line.at());
        if is_ahead && !state.is_listed && !state.is_alone() {
            state.is_listed = true;
            line.ahead.lock().push(Arc::downgrade(&self.0));
        }
        if state.has_some(line) {
            filled.notify_one();
        }
        changed
    }

    /// Waits for what is told next, in order. What it returned last counts until this is called again. Nothing is lost
    /// when it is cancelled.
    ///
    /// - Needs: one who calls it at a time, who tells one after the other.
    pub async fn next(&self) -> Vec<News> {
        self.next_few(AT_ONCE).await
    }

    /// The same, of so many pieces at most.
    pub(crate) async fn next_few(&self, most: usize) -> Vec<News> {
        self.0.state.lock().arrived();
        loop {
            let filled = self.0.filled.notified();
            let news = self.take(most);
            if !news.is_empty() {
                return news;
            }
            filled.await;
        }
    }

    /// Takes what is told next, as far as it is there.
    fn take(&self, most: usize) -> Vec<News> {
        let (news, offered) = {
            let mut state = self.0.state.lock();
            let offered = std::mem::take(&mut state.offered);
            for number in &offered {
                if let Some(member) = state.members.get_mut(number) {
                    member.gap = Gap::Nothing;
                }
            }
            (state.take(&self.0.line, most), offered)
        };
        let mut of: BTreeSet<u64> = news.iter().map(|news| news.number).collect();
        of.extend(offered);
        of.into_iter().for_each(|number| self.0.keeper.taken(number));
        news
    }

    /// The same, and it does not count any more.
    pub(crate) fn take_over(&self) -> Vec<News> {
        let news = self.take(usize::MAX);
        self.0.state.lock().arrived();
        news
    }

    /// Adds the result of a query, of which nothing is known yet.
    ///
    /// - Takes: who is told that it is the turn of its first result; `None`: nobody waits for that.
    /// - Errors: there is no room for it.
    pub(crate) fn begin(
        &self,
        number: u64,
        query: &LiveQuery,
        room: Room,
        turn: Option<oneshot::Sender<()>>,
    ) -> Result<Inbox, LiveError> {
        let (same, may_lag) = match query.wants {
            Wants::Rows => (Same::Told, false),
            Wants::Groups(_) => (Same::Silent, true),
        };
        let mut counted = Counted::new(room, query);
        if !counted.grow(0, 0) {
            return Err(LiveError::NoRoom);
        }
        let member = Box::new(Member {
            number,
            pieces: VecDeque::new(),
            rows: 0,
            weight: 0,
            last: EndLsn::default(),
            same,
            may_lag,
            lacks: None,
            is_overtaken: false,
            is_shut: false,
            gap: Gap::Nothing,
            turn,
            begins_at: None,
            end: None,
            counted,
            held: 0,
            taken: 0,
        });
        self.change(|state| state.add(member));
        Ok(Inbox { group: self.clone(), number })
    }
}

impl Inbox {
    fn with<T>(&self, change: impl FnOnce(&mut Member) -> T) -> Option<T> {
        self.group.change(|state| state.with(self.number, change))
    }

    /// Looks at it without changing what is told.
    fn look<T>(&self, look: impl FnOnce(&Member) -> T) -> Option<T> {
        self.group.0.state.lock().members.get(&self.number).map(|member| look(member))
    }

    /// Counts what is held of the result, and what waits here.
    ///
    /// - Takes: bytes of what is held.
    /// - Returns: whether there is room for both; nothing has changed where there is none.
    pub fn count(&self, held: usize) -> bool {
        let mut state = self.group.0.state.lock();
        let Some(member) = state.members.get_mut(&self.number) else { return true };
        let news = member.news();
        let has_room = member.counted.grow(held, news);
        if has_room {
            member.held = held;
        }
        has_room
    }

    /// Forgets what waits here: there is no room for it.
    pub fn forget(&self) -> Net {
        let forgotten = self.group.change(|state| {
            let positions: Vec<EndLsn> = state.members.get(&self.number)?.positions().collect();
            let all = state.with(self.number, |member| {
                let mut all = Net::new(member.same);
                while let Some((at, net)) = member.pop() {
                    member.lack(at);
                    all.join(net);
                }
                member.gap = Gap::Waits;
                all
            });
            let member = state.members.get(&self.number)?;
            for position in positions.into_iter().filter(|position| !member.has(*position)) {
                state.waiting.remove(&member.place(position));
            }
            all
        });
        forgotten.unwrap_or_else(|| Net::new(Same::Told))
    }

    /// Counts what is held of the result, from which it was taken back what was forgotten.
    pub fn untold(&self, held: usize) {
        self.with(|member| {
            member.held = held;
            member.counted.shrink(held, member.taken);
        });
    }

    /// Whether something was forgotten, and nobody has come since.
    pub fn has_gap(&self) -> bool {
        self.look(|member| member.gap != Gap::Nothing).unwrap_or_default()
    }

    /// Offers whoever comes to ask for what was forgotten, if there is room for it by now.
    ///
    /// - Errors: for how long there has been none.
    pub fn offer(&self) -> Result<(), Duration> {
        if self.look(|member| member.gap) != Some(Gap::Waits) {
            return Ok(());
        }
        let offered = self.group.change(|state| {
            let member = state.members.get_mut(&self.number)?;
            let (held, news) = (member.held, member.news());
            let has_come = member.counted.has_come(held, news);
            if has_come.is_ok() {
                member.gap = Gap::Offered;
                state.offered.push(self.number);
            }
            Some(has_come)
        });
        offered.unwrap_or(Ok(()))
    }

    /// Notes of which position the first result is: what waits for its turn does so from then on.
    pub fn begin(&self, position: EndLsn) {
        self.group.change(|state| {
            let at = position.max(state.told);
            let Some(member) = state.members.get_mut(&self.number) else { return };
            member.last = position;
            if member.turn.is_some() {
                member.begins_at = Some(at);
                state.waiting.insert(member.place(at));
            }
        });
    }

    /// Its receiver follows it from here on.
    pub fn begun(&self) {
        self.group.change(|state| state.begins = state.begins.filter(|it| *it != self.number));
    }

    /// Whether all that may be told of it has been taken, and nothing was forgotten.
    pub fn is_empty(&self) -> bool {
        let state = self.group.0.state.lock();
        let Some(member) = state.members.get(&self.number) else { return false };
        let is_ready = |(at, _): &(EndLsn, Net)| state.is_ready(*at, &self.group.0.line);
        member.gap == Gap::Nothing && !member.pieces.front().is_some_and(is_ready)
    }

    /// Puts news in. Returns whether there is room for more.
    ///
    /// - Takes: the first position that it may be of: what others are told from there on is one step with it.
    pub fn put(&self, commit: Commit, from: EndLsn) -> bool {
        self.group.change(|state| state.put(self.number, from, commit, &self.group.0.line))
    }

    /// Nothing of its group is taken while what is put in comes to one moment only together.
    pub fn shut(&self) {
        self.with(|member| member.is_shut = true);
    }

    /// Opens it again.
    pub fn open(&self) {
        self.with(|member| member.is_shut = false);
    }

    /// From where on the others wait for it.
    pub fn lacking(&self) -> Option<EndLsn> {
        self.look(Member::keeps_waiting).flatten()
    }

    /// It lacks a commit until it is asked.
    pub fn lack(&self, position: EndLsn) {
        // Mostly it lacks one before it already.
        if self.look(|member| member.lacks.is_none_or(|(from, _)| position < from)) == Some(true) {
            self.with(|member| member.lack(position));
        }
    }

    /// What it lacks behind an answer. It is opened.
    pub fn settle(&self, lacks: Option<EndLsn>) {
        self.with(|member| {
            member.is_shut = false;
            // Who comes no further is still overtaken.
            if let (Some(now), Some((was, _))) = (lacks, member.lacks)
                && now <= was
            {
                member.lacks = Some((now, Instant::now())).filter(|_| now < was).or(member.lacks);
                return;
            }
            member.lacks = lacks.map(|from| (from, Instant::now()));
            member.is_overtaken = false;
        });
    }

    /// Lets the others overtake it where they have waited for it for too long.
    pub fn overtake(&self, patience: Duration) {
        let is_late =
            |member: &Member| member.lacks.is_some_and(|(_, since)| since.elapsed() > patience);
        if self.look(|member| member.keeps_waiting().is_some() && is_late(member)) != Some(true) {
            return;
        }
        self.group.change(|state| {
            // Whoever takes nothing is not kept waiting by anybody.
            let is_kept = |it: &Place| !state.is_ready(it.position, &self.group.0.line);
            if state.waiting.first().is_some_and(is_kept) {
                state.with(self.number, |member| member.is_overtaken = true);
            }
        });
    }

    /// Whether others do not wait for it any more.
    pub fn is_overtaken(&self) -> bool {
        self.look(|member| member.is_overtaken).unwrap_or_default()
    }

    /// Nothing comes behind what is in it.
    pub fn end(&self, why: LiveError) {
        self.group.change(|state| {
            let told = state.told;
            let ends = state.with(self.number, |member| {
                member.lacks = None;
                if member.end.is_some() {
                    return None;
                }
                let position = member.last.max(told);
                member.end = Some((position, why));
                Some(member.place(position))
            });
            state.waiting.extend(ends.flatten());
        });
    }

    /// Goes over into another group, with all that waits. There it comes to its turn as a first result does, where
    /// somebody waits for that.
    pub fn moved(&self, to: &Group, turn: Option<oneshot::Sender<()>>) -> Inbox {
        if let Some(mut member) = self.group.change(|state| state.remove(self.number)) {
            member.begins_at = turn.is_some().then_some(member.last);
            member.turn = turn;
            to.change(|state| state.add(member));
        }
        Inbox { group: to.clone(), number: self.number }
    }

    /// Nobody listens any more.
    pub fn leave(&self) {
        drop(self.group.change(|state| state.remove(self.number)));
    }
}

impl Member {
    fn lack(&mut self, position: EndLsn) {
        if self.lacks.is_none_or(|(from, _)| position < from) {
            self.lacks = Some((position, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::{Change, Record};
    use hw_types::{Sql, TableName};

    struct Nobody;

    impl Keeper for Nobody {
        fn taken(&self, _: u64) {}
        fn moves(&self, inbox: &Inbox, to: &Group, turn: Option<oneshot::Sender<()>>) -> Inbox {
            inbox.moved(to, turn)
        }
        fn left(&self, _: u64) {}
    }

    fn at(position: u64) -> EndLsn {
        EndLsn(Lsn(position))
    }

    fn inbox(group: &Group, number: u64) -> Inbox {
        let query = LiveQuery {
            table: TableName::new("public", "plain"),
            key: vec!["id".into()],
            rows: Sql { text: String::new(), parameters: Vec::new() },
            window: None,
            wants: Wants::Rows,
            as_text: Vec::new(),
            matcher: None,
        };
        group.begin(number, &query, Box::new(|_| true), None).expect("there is room")
    }

    fn news(position: u64) -> Commit {
        let changes = vec![Change::Insert { key: "1".into(), record: Record::new("{}") }];
        Commit { position: at(position), changes }
    }

    fn taken(group: &Group) -> Vec<(u64, u64)> {
        let position = |news: News| (news.number, news.told.expect("it goes on").position.0.0);
        let taken = group.0.state.lock().take(&group.0.line, AT_ONCE);
        taken.into_iter().map(position).collect()
    }

    /// Whoever has something that may be told is asked when it was taken: moved behind what it lacks itself, it would be
    /// neither taken nor asked.
    #[test]
    fn ds_10_5_4_what_may_be_told_is_not_moved_behind_what_its_result_lacks() {
        let group = Group::new(Arc::new(Line::new(at(10))), Arc::new(Nobody));
        let (one, other) = (inbox(&group, 1), inbox(&group, 2));
        one.put(news(5), at(5));
        one.lack(at(7));
        assert!(!one.is_empty(), "it is not asked before that is taken");
        other.lack(at(8));
        // Of the commits that its answer has, those before the eighth did not concern it.
        other.put(news(9), at(3));
        other.settle(None);
        assert_eq!(taken(&group), [(1, 5)]);
        assert!(one.is_empty());
        one.put(news(9), at(7));
        one.settle(None);
        assert_eq!(taken(&group), [(1, 9), (2, 9)]);
    }
}
