//! Whose something is, of what is bounded for each and for all.
//!
//! In: who takes and gives back how much, and who waits for room. Out: whether there is room, and whether it is
//! wanted. Invariants: whoever fills his own share takes nothing of anybody else's; strangers together leave half to
//! users.

use std::collections::HashMap;
use std::sync::Arc;

/// Who wants something.
#[derive(Clone, Copy, Debug)]
pub enum Holder<'k> {
    /// A user whose token was verified, by his key.
    User(&'k str),
    /// Somebody who showed no token. No user has his key.
    Stranger(&'k str),
}

impl<'k> From<&'k str> for Holder<'k> {
    fn from(key: &'k str) -> Holder<'k> {
        Holder::User(key)
    }
}

impl<'k> From<&'k String> for Holder<'k> {
    fn from(key: &'k String) -> Holder<'k> {
        Holder::User(key)
    }
}

impl<'k> From<&'k Arc<str>> for Holder<'k> {
    fn from(key: &'k Arc<str>) -> Holder<'k> {
        Holder::User(key)
    }
}

/// Who holds something.
#[derive(Clone, Debug)]
pub struct Owner {
    key: Arc<str>,
    is_stranger: bool,
}

impl From<Holder<'_>> for Owner {
    fn from(holder: Holder<'_>) -> Owner {
        let is_stranger = matches!(holder, Holder::Stranger(_));
        let (Holder::User(key) | Holder::Stranger(key)) = holder;
        Owner { key: key.into(), is_stranger }
    }
}

/// Bounds of what is held.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Of all together; strangers half of it.
    pub all: usize,
    /// Of each.
    pub each: usize,
}

/// Whose leave no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The holder's own.
    Own,
    /// Those of all strangers.
    Strangers,
    /// Those of all.
    All,
}

/// How much is held, by whom.
#[derive(Debug, Default)]
pub struct Held {
    all: usize,
    strangers: usize,
    /// Whoever holds nothing is not here.
    by_key: HashMap<Arc<str>, usize>,
    waits: Waits,
}

/// How many wait for room, by what leaves none.
#[derive(Debug, Default)]
struct Waits {
    own: HashMap<Arc<str>, usize>,
    strangers: usize,
    all: usize,
}

impl Held {
    /// By all together.
    pub fn all(&self) -> usize {
        self.all
    }

    /// Whether nobody holds anything.
    pub fn is_empty(&self) -> bool {
        self.all == 0 && self.by_key.is_empty()
    }

    /// What somebody holds changes from `before` to `now`, beside whatever else is his. Less than before may
    /// always be.
    ///
    /// - Errors: there is no room for more; nothing has changed then.
    pub fn change(
        &mut self,
        owner: &Owner,
        (before, now): (usize, usize),
        most: Most,
    ) -> Result<(), Full> {
        let own = self.by(owner) - before + now;
        let all = self.all - before + now;
        let strangers = match owner.is_stranger {
            true => self.strangers - before + now,
            false => self.strangers,
        };
        if now > before {
            if own > most.each {
                return Err(Full::Own);
            }
            if owner.is_stranger && strangers > most.all / 2 {
                return Err(Full::Strangers);
            }
            if all > most.all {
                return Err(Full::All);
            }
        }
        (self.all, self.strangers) = (all, strangers);
        match own {
            0 => drop(self.by_key.remove(&owner.key)),
            own => drop(self.by_key.insert(owner.key.clone(), own)),
        }
        Ok(())
    }

    /// Gives back what was taken.
    pub fn give_back(&mut self, owner: &Owner, amount: usize) {
        let most = Most { all: usize::MAX, each: usize::MAX };
        self.change(owner, (amount, 0), most).expect("invariant: less may always be");
    }

    /// Notes that somebody waits until others give back what leaves no room for him.
    pub fn wait(&mut self, owner: &Owner, full: Full) {
        match full {
            Full::Own => *self.waits.own.entry(owner.key.clone()).or_default() += 1,
            Full::Strangers => self.waits.strangers += 1,
            Full::All => self.waits.all += 1,
        }
    }

    /// Somebody of whom that was noted waits no more.
    pub fn wait_no_more(&mut self, owner: &Owner, full: Full) {
        match full {
            Full::Own => {
                let own = self.waits.own.get_mut(&owner.key).expect("invariant: it was noted");
                *own -= 1;
                if *own == 0 {
                    self.waits.own.remove(&owner.key);
                }
            }
            Full::Strangers => self.waits.strangers -= 1,
            Full::All => self.waits.all -= 1,
        }
    }

    /// Whether somebody holds half of what he may, or all do whose bound is his, too; or somebody waits for room
    /// that he may be holding, however little that is.
    pub fn is_pressed(&self, owner: &Owner, most: Most) -> bool {
        let own = 2 * self.by(owner) >= most.each || self.waits.own.contains_key(&owner.key);
        let strangers = self.strangers >= most.all / 4 || self.waits.strangers > 0;
        own || owner.is_stranger && strangers || 2 * self.all >= most.all || self.waits.all > 0
    }

    fn by(&self, owner: &Owner) -> usize {
        self.by_key.get(&owner.key).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F-69: each stranger has a share of his own, and all of them together half.
    #[test]
    fn f_69_strangers_hold_shares_of_their_own_and_leave_half_to_users() {
        let most = Most { all: 100, each: 30 };
        let owner = |number: u32| Owner::from(Holder::Stranger(&format!("anonymous {number}")));
        let amy = Owner::from(Holder::from("amy"));
        let mut held = Held::default();
        assert_eq!(held.change(&owner(1), (0, 31), most), Err(Full::Own));
        assert_eq!(held.change(&owner(1), (0, 20), most), Ok(()));
        assert!(held.is_pressed(&owner(1), most) && !held.is_pressed(&owner(2), most));
        assert_eq!(held.change(&owner(2), (0, 20), most), Ok(()));
        assert!(held.is_pressed(&owner(3), most) && !held.is_pressed(&amy, most));
        assert_eq!(held.change(&owner(3), (0, 11), most), Err(Full::Strangers));
        assert_eq!(held.change(&amy, (0, 30), most), Ok(()));
        assert_eq!(held.change(&owner(2), (20, 10), most), Ok(()), "less may always be");
        assert_eq!(held.change(&owner(3), (0, 11), most), Ok(()));
        assert_eq!(held.all(), 71);
        held.give_back(&owner(1), 20);
        held.give_back(&owner(2), 10);
        held.give_back(&owner(3), 11);
        held.give_back(&amy, 30);
        assert!(held.is_empty() && held.strangers == 0);
    }
    #[test]
    fn f_69_whoever_holds_little_is_pressed_while_somebody_waits_for_it() {
        let most = Most { all: 100, each: 40 };
        let stranger = |number: u32| Owner::from(Holder::Stranger(&format!("anonymous {number}")));
        let [amy, bob] = ["amy", "bob"].map(|key| Owner::from(Holder::from(key)));
        let all = [&amy, &bob, &stranger(1), &stranger(2)];
        let mut held = Held::default();
        let cases = [
            (&amy, Full::Own, [true, false, false, false]),
            (&stranger(1), Full::Own, [false, false, true, false]),
            (&stranger(1), Full::Strangers, [false, false, true, true]),
            (&bob, Full::All, [true, true, true, true]),
        ];
        for (waits, full, pressed) in cases {
            held.wait(waits, full);
            held.wait(waits, full);
            held.wait_no_more(waits, full);
            assert_eq!(all.map(|owner| held.is_pressed(owner, most)), pressed, "{full:?}");
            held.wait_no_more(waits, full);
            assert!(!all.iter().any(|owner| held.is_pressed(owner, most)), "{full:?}");
        }
        assert!(held.waits.own.is_empty());
    }
}
