//! What the driver is doing, as plain data for the admin surface and metrics.

use crate::error::code;
use hw_pg::catalog::Refused;
use hw_pg::slot::{Session, SlotState};
use hw_types::text::datetime::utc;
use hw_types::{Code, Diagnostic, EndLsn, TableName};
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment's account.
#[derive(Clone, Debug, Default)]
pub struct SourceStatus {
    /// The connection.
    pub state: SourceState,
    /// Where the source's log ends, as last heard in this session: from its stream, or from a look beside
    /// it, which knows also what a walsender that is busy has not come to yet.
    pub end: EndLsn,
    /// When the source was last heard of, by its stream or by a look beside it.
    pub heard_at: Option<Instant>,
    /// Seconds since 1970 since when it leaves a question unanswered; `None` while it answers.
    silent_since: Option<u64>,
    /// When the last look at the source's catalog began that left no question open.
    pub catalog_at: Option<Instant>,
    /// Looks at it.
    pub catalog: Repeated,
    /// Reminders of who uses the slot.
    pub memory: Repeated,
    /// Copies under way.
    pub copies: Vec<CopyStatus>,
    /// What keeps the next copy from beginning, as of a second ago.
    pub copy_waits: Option<Box<Diagnostic>>,
    /// Why the last copy was thrown away, while there is no room for one; `None` once one has entered.
    pub copy_starved: Option<Box<Diagnostic>>,
    /// Tables that are wanted and cannot be replicated, with the reason.
    pub refused: Vec<Diagnostic>,
    /// The same by table.
    by_table: Vec<Refused>,
    /// What the last attempt to publish tables found in the way, for what the catalog does not show:
    /// somebody's lock.
    kept_out: Vec<Refused>,
    /// Whether large transactions are received behind their end only ([`code::SENT_WHOLE`]).
    pub sent_whole: bool,
    /// Our slot, once it is known.
    pub(crate) slot: Option<String>,
    /// Bytes of log that it retains, and when that was asked.
    retained: Option<(u64, Instant)>,
    /// When the stream was heard last, while there is one.
    stream_heard_at: Option<Instant>,
    /// Why the stream stands still, while a transaction does not fit into the spool.
    pub stalled: Option<String>,
    /// What was last logged of what is waited for; each session comes upon it again.
    told: Option<Code>,
}

/// A table that is being copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyStatus {
    /// Which table.
    pub table: TableName,
    /// Rows read.
    pub rows: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Rows that the source's statistics expect, when they know.
    pub estimate: Option<u64>,
    /// Whether all rows are read.
    pub done: bool,
    /// The key range that is read, from 1; `None` for a table that is read in one snapshot.
    pub range: Option<u64>,
    /// Whether its snapshot is held until all rows are read, however long that takes.
    pub one_snapshot: bool,
}

/// Where the connection to the source stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SourceState {
    /// Not yet tried.
    #[default]
    Starting,
    /// Connecting, or connecting again.
    Connecting,
    /// Waiting, with the reason (another instance holds the slot, a transaction blocks it).
    Waiting {
        /// What is waited for and how to mend it.
        finding: Box<Diagnostic>,
    },
    /// Copying tables before the stream can begin.
    Copying,
    /// The stream runs.
    Streaming,
    /// Failed; tried again with growing pauses.
    Failed {
        /// What happened and how to mend it.
        finding: Box<Diagnostic>,
    },
}

/// What is done again and again, and how often it has failed.
#[derive(Clone, Debug, Default)]
pub struct Repeated {
    /// Why it fails, once that was said.
    pub trouble: Option<Box<Diagnostic>>,
    /// How many in a row failed.
    failures: u32,
}

impl Repeated {
    /// Notes that it was done. Returns whether there was trouble.
    fn done(&mut self) -> bool {
        std::mem::take(self).trouble.is_some()
    }

    /// Notes that it failed. So many in a row are trouble, which is logged once.
    fn failed(&mut self, finding: Diagnostic, trouble_at: u32) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= trouble_at && self.trouble.is_none() {
            finding.log();
            self.trouble = Some(Box::new(finding));
        }
    }
}

/// So long it is known how much log the slot retains: it is asked for every second.
const KNOWN: Duration = Duration::from_secs(15);

/// Looks at the catalog that fail in a row before somebody is told: one that is merely cut off or slow
/// is repeated a second later.
const LOOKS: u32 = 5;

/// Reminders that fail in a row before somebody is told, where it may pass.
const REMINDERS: u32 = 3;

/// A source that is followed and says nothing for so long, neither by its stream nor to a look at its
/// catalog, does not answer: an idle one is asked for a sign of life earlier than that.
const SILENT: Duration = Duration::from_secs(15);

impl SourceStatus {
    /// Bytes of log that the slot retains; `None` when the source was not heard about it lately.
    pub fn retained_bytes(&self) -> Option<u64> {
        self.retained.filter(|(_, at)| at.elapsed() < KNOWN).map(|(bytes, _)| bytes)
    }

    /// Notes how the slot stands. Returns when that was, if there is one.
    pub(crate) fn retains(&mut self, slot: Option<&SlotState>) -> Option<Instant> {
        self.retained = slot.map(|slot| (slot.retained_bytes, Instant::now()));
        self.retained_at()
    }

    /// When it was asked last how much log the slot retains.
    pub(crate) fn retained_at(&self) -> Option<Instant> {
        self.retained.map(|(_, at)| at)
    }

    /// Notes that a look at the catalog was answered.
    pub(crate) fn catalog_answered(&mut self) {
        if self.catalog.done() {
            tracing::info!("the source's catalog can be read again");
        }
    }

    /// Notes that a look at the catalog failed.
    pub(crate) fn catalog_failed(&mut self, why: Diagnostic) {
        let what = format!(
            "the source's catalog cannot be read, so tables that are altered, dropped or truncated \
             may not be noticed: {}",
            why.what
        );
        let finding = Diagnostic::warning(code::CATALOG_UNREAD, what);
        let finding = Diagnostic { context: why.context, mend: why.mend, ..finding };
        self.catalog.failed(finding, LOOKS);
    }

    /// Notes whose locks keep a look at the catalog waiting. It is logged once; how long they have been
    /// held is told anew.
    pub(crate) fn catalog_locked(&mut self, blockers: &[Session]) {
        let named: Vec<String> = blockers.iter().map(Session::to_string).collect();
        let what = format!(
            "a look at the source's catalog waits for somebody's lock, so tables that are altered, dropped \
             or truncated may not be noticed: {}",
            named.join(", ")
        );
        let ends = blockers.iter().filter_map(|session| session.pid);
        let ends: Vec<String> =
            ends.map(|pid| format!("SELECT pg_terminate_backend({pid});")).collect();
        let finding = Diagnostic::warning(hw_pg::catalog::code::CATALOG_LOCKED, what)
            .mend(format!("end its transaction, or {}", ends.join(" ")));
        let known = self.catalog.trouble.replace(Box::new(finding.clone()));
        if known.is_none_or(|known| known.code != finding.code) {
            finding.log();
        }
    }

    /// Notes that the source remembers who uses the slot.
    pub(crate) fn remembered(&mut self) {
        if self.memory.done() {
            tracing::info!("the source remembers again which store uses the slot");
        }
    }

    /// Notes that it could not be told that: for a reason that is plain, or that may pass.
    pub(crate) fn not_remembered(&mut self, finding: Diagnostic, is_plain: bool) {
        self.memory.failed(finding, if is_plain { 1 } else { REMINDERS });
    }

    /// Notes which tables an attempt to publish all could not, and which there are not.
    pub(crate) fn tried(&mut self, refused: &[Refused], missing: &[Refused]) {
        self.kept_out = refused.to_vec();
        self.refuse(refused.iter().chain(missing).cloned().collect());
    }

    fn refuse(&mut self, refused: Vec<Refused>) {
        self.refused = refused.iter().map(|one| one.finding.clone()).collect();
        self.by_table = refused;
    }

    /// Why a table cannot be replicated, as far as that is known.
    pub fn refusal(&self, table: &TableName) -> Option<&Diagnostic> {
        let is_it = |one: &&Refused| one.table.as_ref() == Some(table);
        self.by_table.iter().find(is_it).map(|one| &one.finding)
    }

    /// Notes what a look at the catalog found.
    ///
    /// - Takes: the tables that are still to be published; what kept one of them out stays the answer
    ///   until the next attempt.
    pub(crate) fn looked(&mut self, mut refused: Vec<Refused>, to_publish: &[&TableName]) {
        let is_out = |one: &&Refused| one.table.as_ref().is_some_and(|t| to_publish.contains(&t));
        for one in self.kept_out.iter().filter(is_out) {
            if !refused.iter().any(|known| known.finding == one.finding) {
                refused.push(one.clone());
            }
        }
        self.refuse(refused);
    }

    /// Notes that the source said something.
    pub(crate) fn answered(&mut self) {
        if self.silent_since.take().is_some() {
            self.enter(SourceState::Connecting);
        }
    }

    /// Notes that the source does not answer: since then, or since longer if that is known already.
    pub(crate) fn unanswered(&mut self, since: Instant) {
        let then = || {
            let then = SystemTime::now().checked_sub(since.elapsed());
            then.and_then(|then| then.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs())
        };
        let since = *self.silent_since.get_or_insert_with(then);
        let what = format!("the source has not answered since {}", utc(since));
        let finding = Diagnostic::error(hw_pg::error::code::TIMEOUT, what).mend(
            "check that Postgres runs and is not paused, and that the network between passes \
             everything on",
        );
        self.enter(SourceState::Waiting { finding: Box::new(finding) });
    }

    /// Notes that the stream has ended. Returns when it was heard last, if there was one.
    pub(crate) fn stream_ended(&mut self) -> Option<Instant> {
        self.stream_heard_at.take()
    }

    /// Notes that it is connected to, or again. One that does not answer is connected to again and
    /// again: that is said until it does.
    pub(crate) fn connecting(&mut self) {
        if self.silent_since.is_none() {
            self.enter(SourceState::Connecting);
        }
    }

    /// Notes where the log ends of the source that a session found. That of the one before may have been
    /// longer: a source that was restored, or another one.
    pub(crate) fn found(&mut self, end: EndLsn) {
        self.end = end;
    }

    /// Notes that the log goes to there at least.
    pub(crate) fn reaches(&mut self, end: EndLsn) {
        self.end = self.end.max(end);
    }

    /// Notes that the stream was heard, or a look beside it was answered, last then.
    pub(crate) fn heard(&mut self, at: Instant, now: Instant) {
        self.stream_heard_at = Some(at);
        let last = self.heard_at.map_or(at, |known| known.max(at));
        self.heard_at = Some(last);
        if now.saturating_duration_since(last) > SILENT {
            self.unanswered(last);
        } else if self.silent_since.take().is_some() {
            self.enter(SourceState::Streaming);
        }
    }

    /// Notes where the connection stands; a change is logged once, and what somebody must mend before
    /// a wait ends once until it has ended.
    pub(crate) fn enter(&mut self, state: SourceState) {
        if self.state == state {
            return;
        }
        match &state {
            SourceState::Failed { finding } => finding.log(),
            SourceState::Waiting { finding } if self.told == Some(finding.code) => {}
            SourceState::Waiting { finding } => {
                self.told = Some(finding.code);
                match finding.is_error() {
                    true => finding.log(),
                    // Passes by itself: what a server that was killed leaves in the source goes.
                    false => tracing::info!(
                        code = %finding.code,
                        "where" = finding.place(),
                        mend = finding.mend,
                        "source: {state}"
                    ),
                }
            }
            other => {
                if matches!(other, SourceState::Copying | SourceState::Streaming) {
                    self.told = None;
                }
                tracing::info!("source: {other}");
            }
        }
        self.state = state;
    }
}

impl fmt::Display for SourceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceState::Starting => f.write_str("starting"),
            SourceState::Connecting => f.write_str("connecting"),
            SourceState::Waiting { finding } => write!(f, "waiting: {}", finding.what),
            SourceState::Copying => f.write_str("copying tables"),
            SourceState::Streaming => f.write_str("streaming"),
            SourceState::Failed { finding } => write!(f, "failed: {}", finding.what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw_types::Lsn;

    #[test]
    fn a_source_that_does_not_answer_is_waited_for_until_it_does_however_often_it_is_connected_to()
    {
        let mut status = SourceStatus::default();
        let since = |status: &SourceStatus| match &status.state {
            SourceState::Waiting { finding } => Some(finding.what.clone()),
            _ => None,
        };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        status.connecting();
        status.unanswered(start);
        let first = since(&status).expect("it is waited for");
        assert!(first.contains("has not answered since 20"), "{first}");
        status.unanswered(at(30));
        status.connecting();
        assert_eq!(since(&status), Some(first));
        status.answered();
        assert_eq!(status.state, SourceState::Connecting);
        status.enter(SourceState::Streaming);
        status.heard(at(100), at(101));
        status.heard(at(90), at(116));
        assert!(since(&status).is_some(), "{}", status.state);
        status.heard(at(117), at(117));
        assert_eq!(status.state, SourceState::Streaming);
    }

    #[test]
    fn the_end_of_the_log_is_that_of_the_source_which_is_followed_now() {
        let mut status = SourceStatus::default();
        let end = |lsn| EndLsn(Lsn(lsn));
        status.found(end(70));
        status.reaches(end(90));
        status.reaches(end(80));
        assert_eq!(status.end, end(90));
        status.found(end(20));
        status.reaches(end(10));
        assert_eq!(status.end, end(20));
    }

    #[test]
    fn what_keeps_a_table_out_is_told_until_it_is_sent() {
        let mut status = SourceStatus::default();
        let table = TableName::new("public", "t");
        let locked = Diagnostic::error(2103, "somebody holds a lock on it");
        let gone = Diagnostic::error(2108, "there is no table public.u");
        status.tried(&[Refused::new(&table, locked.clone())], &[]);
        assert_eq!(status.refused, std::slice::from_ref(&locked));
        let other = Refused::new(&TableName::new("public", "u"), gone.clone());
        status.looked(vec![other.clone()], &[&table]);
        assert_eq!(status.refused, [gone.clone(), locked.clone()]);
        assert_eq!(status.refusal(&table), Some(&locked));
        status.looked(vec![other], &[]);
        assert_eq!(status.refused, [gone]);
        assert_eq!(status.refusal(&table), None);
    }

    #[test]
    fn looks_that_fail_are_trouble_once_several_did_in_a_row() {
        let mut status = SourceStatus::default();
        let why = || Diagnostic::error(2010, "permission denied").mend("GRANT …");
        for _ in 1..LOOKS {
            status.catalog_failed(why());
        }
        status.catalog_answered();
        for _ in 1..LOOKS {
            status.catalog_failed(why());
            assert_eq!(status.catalog.trouble, None);
        }
        status.catalog_failed(why());
        let told = status.catalog.trouble.clone().expect("trouble");
        assert_eq!((told.code.0, told.mend.as_deref()), (code::CATALOG_UNREAD, Some("GRANT …")));
        assert!(told.what.ends_with("permission denied"), "{told}");
        status.catalog_answered();
        assert_eq!(status.catalog.trouble, None);
    }
}
