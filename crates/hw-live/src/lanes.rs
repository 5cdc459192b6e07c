//! Who is asked next.
//!
//! In: results that have to be asked. Out: batches for rounds. There are three lanes, each with rounds of its
//! own, so that nobody waits for a kind of question that takes longer than theirs. Invariant: within a lane
//! users take turns, one question each, however many of their results wait; whoever was taken and not asked is
//! before all who came since.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Questions of one round.
const ROUND: usize = 256;

/// Bytes of the results of a round, behind which no question of it is begun.
const ROUND_BYTES: usize = 64 << 20;

/// How long Postgres may take for a question before it is asked among the slow ones.
const QUICK: Duration = Duration::from_millis(300);

/// From this time on an answer counts as slow.
pub(crate) const SLOW: Duration = Duration::from_millis(150);

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Somebody waits for a first result, or a plan goes on from the answer: asked once in a while.
    Quick,
    /// Windows, and whatever else is asked again after each commit that may concern it.
    Again,
    /// Those whose last answer took long.
    Slow,
}

/// Bounds of a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// How long Postgres may take for a question.
    pub question: Duration,
    /// Whether one that takes longer may be asked once more, with more time.
    pub is_patient: bool,
    /// Behind this no further question of it is begun.
    pub questions: Duration,
    /// Nor behind so many bytes of answers.
    pub bytes: usize,
    /// How long all of it may take, waiting for the log included.
    pub all: Duration,
}

impl Lane {
    pub const ALL: [Lane; 3] = [Lane::Quick, Lane::Again, Lane::Slow];

    /// - Takes: how long Postgres may take for any question.
    pub fn bounds(self, longest: Duration) -> Bounds {
        let (question, questions) = match self {
            Lane::Quick | Lane::Again => (QUICK.min(longest), SLOW),
            Lane::Slow => (longest, Duration::from_secs(1)),
        };
        // Connections, markers and what decides about policies have limits of their own below this.
        let all = questions + question + Duration::from_secs(30);
        let is_patient = question < longest;
        Bounds { question, is_patient, questions, bytes: ROUND_BYTES, all }
    }
}

/// Those who wait in one lane.
#[derive(Default)]
pub(crate) struct Queue {
    /// Whose turn it is. Everybody of whom something waits stands in it once.
    turns: VecDeque<Arc<str>>,
    waiting: HashMap<Arc<str>, VecDeque<u64>>,
}

impl Queue {
    /// Lets a result of a user wait.
    pub fn push(&mut self, user: &Arc<str>, number: u64) {
        match self.waiting.get_mut(user) {
            Some(numbers) => numbers.push_back(number),
            None => {
                self.turns.push_back(user.clone());
                self.waiting.insert(user.clone(), VecDeque::from([number]));
            }
        }
    }

    /// Lets results wait that were taken, in this order, and not asked: each user is as near to their turn as
    /// they were.
    pub fn put_back(&mut self, taken: &[(Arc<str>, u64)]) {
        let mut users = HashSet::new();
        let first = taken.iter().map(|(user, _)| user).filter(|user| users.insert(&***user));
        let mut turns: VecDeque<Arc<str>> = first.cloned().collect();
        turns.extend(self.turns.drain(..).filter(|user| !users.contains(&**user)));
        self.turns = turns;
        for (user, number) in taken.iter().rev() {
            self.waiting.entry(user.clone()).or_default().push_front(*number);
        }
    }

    /// The next one.
    pub fn pop(&mut self) -> Option<u64> {
        let user = self.turns.pop_front()?;
        let numbers = self.waiting.get_mut(&user)?;
        let number = numbers.pop_front();
        if numbers.is_empty() {
            self.waiting.remove(&user);
        } else {
            self.turns.push_back(user);
        }
        number
    }

    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Questions of one round.
    pub fn batch<T>(&mut self, mut take: impl FnMut(u64) -> Option<T>) -> Vec<T> {
        let mut batch = Vec::new();
        while batch.len() < ROUND
            && let Some(number) = self.pop()
        {
            batch.extend(take(number));
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn users_take_turns_and_nobody_is_forgotten(
            pushed in prop::collection::vec(0_u8..5, 0..60),
        ) {
            let mut queue = Queue::default();
            let mut left: HashMap<u8, VecDeque<u64>> = HashMap::new();
            for (number, user) in pushed.iter().enumerate() {
                queue.push(&user.to_string().into(), number as u64);
                left.entry(*user).or_default().push_back(number as u64);
            }
            let users = left.len();
            let mut order: Vec<u8> = Vec::new();
            while let Some(number) = queue.pop() {
                let user = pushed[number as usize];
                // Each one's in their order.
                prop_assert_eq!(left.get_mut(&user).and_then(VecDeque::pop_front), Some(number));
                order.push(user);
            }
            prop_assert!(left.values().all(VecDeque::is_empty) && queue.is_empty());
            // In the first turn everybody is asked, whoever has more.
            let first: std::collections::BTreeSet<u8> = order.iter().take(users).copied().collect();
            prop_assert_eq!(first.len(), users);
        }

        /// Of each round the first is asked, and the others are put back, while somebody comes again and again.
        #[test]
        fn whoever_was_taken_and_not_asked_is_asked_before_all_who_came_since(
            pushed in prop::collection::vec(1_u8..5, 1..40),
        ) {
            let mut queue = Queue::default();
            let user = |user: u8| -> Arc<str> { user.to_string().into() };
            for (number, who) in pushed.iter().enumerate() {
                queue.push(&user(*who), number as u64);
            }
            let (mut others, mut rounds): (Vec<u8>, u64) = (Vec::new(), 0);
            while others.len() < pushed.len() {
                queue.push(&user(0), 1000 + rounds);
                let who = |number: u64| pushed.get(number as usize).copied().unwrap_or_default();
                let taken = queue.batch(|number| Some((user(who(number)), number)));
                others.extend(Some(who(taken[0].1)).filter(|who| *who != 0));
                queue.put_back(&taken[1..]);
                rounds += 1;
                prop_assert!(rounds <= 2 * pushed.len() as u64 + 1, "one turn of each to one of the newcomer");
            }
            let first: std::collections::BTreeSet<u8> =
                others.iter().take(pushed.iter().collect::<HashSet<_>>().len()).copied().collect();
            prop_assert_eq!(first.len(), pushed.iter().collect::<HashSet<_>>().len());
        }
    }
}
