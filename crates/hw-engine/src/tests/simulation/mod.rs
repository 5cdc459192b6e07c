//! The engine's core under a simulated store: random transactions, crashes at random moments,
//! tables that cannot be followed for a while or that others take the place of, keys that become others,
//! and an oracle. One seed is one run; a failing seed is printed.
//!
//! The input is a list of transactions with positions; after a crash it is given again from the
//! position that the engine had made durable, as Postgres does. A model client follows the
//! buckets by their operations, as the official one does (`powersync-protocol.md` 6.4), and is
//! compared with the rows themselves.

mod compare;
mod definitions;
mod history;
mod recording;
mod run;
mod tables;
mod write_checkpoints;

use self::run::Run;
use crate::tests::change_list::Follower;
use crate::writer::{Bounds, Writer};

/// From this seed on so many, or as many as `HEADWATER_SEEDS` says.
fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    let told = std::env::var("HEADWATER_SEEDS").ok();
    first..first + told.map_or(count, |count| count.parse().expect("a number"))
}

/// P1 to P4, E-1, E-2, E-3, F-2, F-3, F-22, F-23, F-24, F-60 at the level of the engine; FD-18: what
/// reads a table that is being copied again stands still, nobody is shown a part of a transaction,
/// what a user loses meanwhile he loses at once (E-4), and in the end everybody has everything. Whoever
/// follows the change list has the tables as they are published.
#[test]
fn clients_equal_the_oracle_whatever_crashes() {
    let mut followed = [0; 3];
    for seed in seeds(0, 60) {
        let mut run = Run::new(seed, None);
        for step in 0..40 {
            run.step(step, &format!("seed {seed} step {step}"));
        }
        run.finish(&format!("seed {seed} at its end"));
        let Follower { unknown, still, rows, .. } = run.follower;
        followed = [followed[0] + unknown, followed[1] + still, followed[2] + rows];
    }
    assert!(followed.iter().all(|count| *count > 200), "the change list: {followed:?}");
}

/// FD-7: what of the store is damaged is made again, in whatever state it is met; clients come to what
/// the source has, and none adds to a checksum that was lost.
#[test]
fn fd_7_clients_equal_the_oracle_whatever_is_damaged() {
    for seed in seeds(300, 40) {
        let mut run = Run::new(seed, None);
        run.damage = 0.6;
        for step in 0..40 {
            run.step(step, &format!("seed {seed} step {step}"));
        }
        run.finish(&format!("seed {seed} at its end"));
        assert!(run.node.store.damaged_spaces().is_empty(), "seed {seed}");
    }
}

/// FD-7: what nobody else knows cannot be made again, and a store that has lost it is refused each
/// time, with the way out.
#[test]
fn fd_7_a_store_that_has_lost_its_state_is_refused_each_time() {
    for space in ["state", "tail", "wcp"] {
        let mut run = Run::new(1, None);
        run.feed();
        run.node.settle();
        run.simulation.damage(space);
        for _ in 0..2 {
            let store = run.simulation.crash();
            let bounds = Bounds { fold_bytes: 1, sort_bytes: 2048, change_list_bytes: 0 };
            let error = Writer::open(store, bounds, Default::default()).err().unwrap();
            let finding = error.finding().unwrap().to_string();
            assert!(finding.starts_with("error[HW3004]"), "{finding}");
            assert!(finding.contains(space) && finding.contains("mend:"), "{finding}");
        }
    }
}
