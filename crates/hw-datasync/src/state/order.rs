//! Whose turn it is.
//!
//! In: what runs, and what waits, in the order in which it came. Out: whether the next may start. A plain write
//! never waits for a statement of a transaction, which may be the one that holds its lock.

use std::collections::HashSet;

use crate::wire::Message;

/// What a message must not overtake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// A plain write: no write and no end of a transaction that came before it.
    Write,
    /// A plain query, a subscription, the begin of a transaction: as a write, but it keeps nobody waiting.
    Read,
    /// A statement of a transaction: nothing of that transaction.
    Statement(String),
    /// The end of one: the same, and later writes and reads see it.
    End(String),
    /// A login: everything before it has started, and nothing behind it has.
    Login,
    /// Nothing.
    Free,
}

impl Lane {
    pub(super) fn of(message: &Message) -> Lane {
        let of = |transaction: &Option<String>, plain: Lane| match transaction {
            Some(id) => Lane::Statement(id.clone()),
            None => plain,
        };
        match message {
            Message::Query { transaction, .. } | Message::QueryGroups { transaction, .. } => {
                of(transaction, Lane::Read)
            }
            Message::Create { transaction, .. }
            | Message::Update { transaction, .. }
            | Message::Delete { transaction, .. } => of(transaction, Lane::Write),
            Message::SubscribeRows { .. }
            | Message::SubscribeCount { .. }
            | Message::SubscribeGroups { .. }
            | Message::Begin => Lane::Read,
            Message::Rollback { transaction } | Message::Commit { transaction } => {
                Lane::End(transaction.clone())
            }
            Message::LoginWithToken { .. } => Lane::Login,
            Message::Unsubscribe { .. } | Message::Hook { .. } => Lane::Free,
        }
    }

    /// Whether it runs on the connection of a transaction.
    pub(super) fn is_of_transaction(&self) -> bool {
        matches!(self, Lane::Statement(_) | Lane::End(_))
    }
}

/// What came before the message whose turn is in question, and has not ended.
#[derive(Default)]
pub(super) struct Turn {
    writes: bool,
    transactions: HashSet<String>,
    login: bool,
    outside: usize,
}

impl Turn {
    /// With what runs.
    pub(super) fn new<'l>(running: impl Iterator<Item = &'l Lane>) -> Turn {
        let mut turn = Turn::default();
        for lane in running {
            turn.note(lane);
            turn.outside += usize::from(!lane.is_of_transaction());
        }
        turn
    }

    /// How many run outside of transactions.
    pub(super) fn outside_transactions(&self) -> usize {
        self.outside
    }

    /// Notes something that runs, or waits further on.
    pub(super) fn note(&mut self, lane: &Lane) {
        match lane {
            Lane::Write => self.writes = true,
            Lane::Statement(id) => drop(self.transactions.insert(id.clone())),
            Lane::End(id) => {
                self.writes = true;
                self.transactions.insert(id.clone());
            }
            Lane::Login => self.login = true,
            Lane::Read | Lane::Free => {}
        }
    }

    /// Whether nothing behind this may start.
    pub(super) fn is_barred(&self) -> bool {
        self.login
    }

    /// Whether a message may start.
    ///
    /// - Takes: whether nothing before it waits.
    pub(super) fn may_start(&self, lane: &Lane, is_first: bool) -> bool {
        match lane {
            Lane::Write | Lane::Read => !self.writes,
            Lane::Statement(id) | Lane::End(id) => !self.transactions.contains(id),
            Lane::Login => is_first,
            Lane::Free => true,
        }
    }
}
