//! What a session has announced to its client: buckets, streams, and the difference between two
//! such states.

use std::sync::Arc;

use hw_types::{OpId, Place};

use crate::wire::line::{BucketLine, CheckpointHead, Reason, StreamLine};

/// A bucket's totals at the position that is announced. All zero for one that never had a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of the source's incarnation in the store.
    pub incarnation: u32,
    /// Number of the bucket within it.
    pub number: u32,
    /// Operations in its log.
    pub count: u64,
    /// Rows that are in it.
    pub live: u64,
    /// Sum of all checksums modulo 2^32.
    pub checksum: u32,
    /// Its newest operation.
    pub last_op: OpId,
}

/// One bucket of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name on the wire: prefix, source name and parameters.
    pub name: Arc<str>,
    /// Where in `name` the parameters' JSON text begins.
    pub parameters_at: u32,
    /// Index of its source in the active configuration.
    pub source: u32,
    /// 0 is fetched first, 3 last.
    pub priority: u8,
    /// Why the user has it, in the order of the resolution.
    pub reasons: Box<[Reason]>,
    /// Whether the user has it in one way only: by one entry of a lookup, or by the request alone.
    pub found_once: bool,
    /// Its totals.
    pub totals: Totals,
    /// Where the client stands. Changed by the session alone: at the first checkpoint, behind each
    /// page, and dropped with the bucket, so that one that comes back starts at 0 like the client's
    /// copy (7.5).
    pub place: Place,
}

impl Bucket {
    /// The parameters' JSON text.
    pub fn parameters(&self) -> &str {
        &self.name[self.parameters_at as usize..]
    }

    /// Whether operations remain to be sent.
    pub fn unfinished(&self) -> bool {
        self.place.after < self.totals.last_op || self.place.lost
    }

    /// How it stands in a checkpoint line.
    pub fn line(&self) -> BucketLine<'_> {
        BucketLine {
            name: &self.name,
            checksum: self.totals.checksum,
            count: self.totals.count,
            priority: self.priority,
            reasons: &self.reasons,
        }
    }
}

/// Everything that a user sees at one position.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Position and write checkpoint.
    pub head: CheckpointHead,
    /// Ascending by name, each name once; their places are the beginning.
    pub buckets: Vec<Bucket>,
    /// Streams that the client is subscribed to.
    pub streams: Vec<StreamLine>,
}

/// What the newest publication means for one user.
#[derive(Clone, Debug)]
pub enum Newest {
    /// Resolved anew.
    Resolved(Announcement),
    /// What is different from the session's buckets.
    Updated {
        /// Position and write checkpoint.
        head: CheckpointHead,
        /// Some buckets and some totals.
        changes: BucketChanges,
    },
}

/// How a user's buckets differ from those that were announced.
#[derive(Clone, Debug, Default)]
pub struct BucketChanges {
    /// Index among the session's buckets, and the totals there now; ascending.
    pub totals: Vec<(usize, Totals)>,
    /// Indexes of those that go; ascending, and none of those above.
    pub went: Vec<usize>,
    /// Those that come, ascending by name, each with the index of the session's bucket that it comes
    /// before.
    pub came: Vec<(usize, Bucket)>,
}

/// The contents of a `checkpoint_diff` line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Indexes of new and changed buckets among the session's buckets.
    pub updated: Vec<usize>,
    /// Names of buckets that are gone.
    pub removed: Vec<Arc<str>>,
}

impl Diff {
    /// Whether no bucket changed.
    pub fn is_empty(&self) -> bool {
        self.updated.is_empty() && self.removed.is_empty()
    }
}

/// Replaces `buckets` by `new`, both ascending by name, and returns the difference. A bucket in
/// both keeps its place.
pub fn replace(buckets: &mut Vec<Bucket>, mut new: Vec<Bucket>) -> Diff {
    debug_assert!(new.is_sorted_by(|a, b| a.name < b.name));
    let mut diff = Diff::default();
    let mut old = buckets.drain(..).peekable();
    for (index, bucket) in new.iter_mut().enumerate() {
        while let Some(gone) = old.next_if(|old| old.name < bucket.name) {
            diff.removed.push(gone.name);
        }
        match old.next_if(|old| old.name == bucket.name) {
            None => diff.updated.push(index),
            Some(known) => {
                bucket.place = known.place;
                if known.line() != bucket.line() {
                    diff.updated.push(index);
                }
            }
        }
    }
    diff.removed.extend(old.map(|gone| gone.name));
    *buckets = new;
    diff
}

/// Moves totals, lets buckets come and go, and returns the difference.
pub fn update(buckets: &mut Vec<Bucket>, changes: BucketChanges) -> Diff {
    let BucketChanges { totals, went, came } = changes;
    let mut diff = Diff::default();
    for (index, now) in totals {
        let Some(bucket) = buckets.get_mut(index) else { continue };
        if (bucket.totals.count, bucket.totals.checksum) != (now.count, now.checksum) {
            diff.updated.push(index);
        }
        bucket.totals = now;
    }
    if went.is_empty() && came.is_empty() {
        return diff;
    }
    diff.removed = went.iter().map(|&index| buckets[index].name.clone()).collect();
    // Where what stood at an index stands now, without those that come right before it.
    let moved = |index: usize, before: usize| index + before - went.partition_point(|&i| i < index);
    let before = |index: usize| came.partition_point(|(at, _)| *at <= index);
    let stay = diff.updated.iter().map(|&index| moved(index, before(index)));
    let new = came.iter().enumerate().map(|(nth, (at, _))| moved(*at, nth));
    diff.updated = stay.chain(new).collect();
    diff.updated.sort_unstable();
    *buckets = exchange(std::mem::take(buckets), &went, came);
    debug_assert!(buckets.is_sorted_by(|a, b| a.name < b.name));
    diff
}

/// Without what stands at the indexes `went`, and with what `came`, each before what stands at its index.
/// Both ascending.
pub fn exchange<T>(
    old: Vec<T>,
    went: &[usize],
    came: impl IntoIterator<Item = (usize, T)>,
) -> Vec<T> {
    let (mut went, mut came) = (went.iter().peekable(), came.into_iter().peekable());
    let mut all = Vec::with_capacity(old.len() + 1);
    for (index, item) in old.into_iter().enumerate() {
        while let Some((_, new)) = came.next_if(|(at, _)| *at <= index) {
            all.push(new);
        }
        if went.next_if_eq(&&index).is_none() {
            all.push(item);
        }
    }
    all.extend(came.map(|(_, new)| new));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(name: &str, checksum: u32, position: u64) -> Bucket {
        Bucket {
            name: name.into(),
            parameters_at: name.find('[').unwrap() as u32,
            source: 0,
            priority: 3,
            reasons: Box::new([Reason::Default(0)]),
            found_once: true,
            totals: Totals { checksum, count: 1, last_op: OpId(9), ..Totals::default() },
            place: Place::brought(OpId(position)),
        }
    }

    #[test]
    fn a_difference_names_what_came_what_changed_and_what_went() {
        let mut buckets = vec![bucket("a[]", 1, 9), bucket("b[]", 2, 9), bucket("d[]", 4, 9)];
        let mut promoted = bucket("d[]", 4, 0);
        promoted.priority = 1;
        let new = vec![bucket("b[]", 7, 0), bucket("c[]", 3, 0), promoted, bucket("e[]", 0, 0)];
        let diff = replace(&mut buckets, new);
        assert_eq!(diff.updated, [0, 1, 2, 3]);
        assert_eq!(diff.removed, ["a[]".into()]);
        let positions: Vec<u64> = buckets.iter().map(|b| b.place.after.0).collect();
        assert_eq!(positions, [9, 0, 9, 0]);

        let same = buckets.clone();
        assert!(replace(&mut buckets, same).is_empty());
        let diff = replace(&mut buckets, vec![]);
        assert_eq!((diff.updated.len(), diff.removed.len()), (0, 4));
    }

    #[test]
    fn a_bucket_that_comes_back_starts_from_zero() {
        let mut buckets = vec![bucket("a[]", 1, 9)];
        replace(&mut buckets, vec![]);
        replace(&mut buckets, vec![bucket("a[]", 1, 0)]);
        assert_eq!(buckets[0].place, Place::default());
        assert!(buckets[0].unfinished());
    }

    #[test]
    fn totals_that_did_not_move_are_no_difference() {
        let mut buckets = vec![bucket("a[\"x\"]", 1, 9)];
        assert_eq!(buckets[0].parameters(), "[\"x\"]");
        let same = buckets[0].totals;
        let totals = |totals| BucketChanges { totals, ..BucketChanges::default() };
        assert!(update(&mut buckets, totals(vec![(0, same), (7, same)])).is_empty());
        let moved = Totals { count: 2, ..same };
        assert_eq!(update(&mut buckets, totals(vec![(0, moved)])).updated, [0]);
    }

    /// Some of six buckets, with one of two sums each.
    fn some() -> impl Strategy<Value = Vec<Bucket>> {
        let names = ["a[]", "b[]", "c[]", "d[]", "e[]", "f[]"];
        prop::collection::vec(prop::option::of(0_u32..2), names.len()).prop_map(move |sums| {
            let sums = names.iter().zip(sums);
            sums.filter_map(|(name, sum)| Some(bucket(name, sum?, 0))).collect()
        })
    }

    proptest! {
        #[test]
        fn what_came_and_went_makes_of_buckets_what_a_new_resolution_makes_of_them(
            before in some(),
            after in some(),
        ) {
            let find = |all: &[Bucket], name: &str| all.iter().position(|b| *b.name == *name);
            let mut changes = BucketChanges::default();
            for (index, bucket) in before.iter().enumerate() {
                match find(&after, &bucket.name) {
                    Some(at) => changes.totals.push((index, after[at].totals)),
                    None => changes.went.push(index),
                }
            }
            let place = |bucket: &Bucket| before.binary_search_by(|b| b.name.cmp(&bucket.name));
            let comes = |bucket: &Bucket| Some((place(bucket).err()?, bucket.clone()));
            changes.came = after.iter().filter_map(comes).collect();
            let (mut updated, mut replaced) = (before.clone(), before);
            let diff = update(&mut updated, changes);
            prop_assert_eq!(diff, replace(&mut replaced, after));
            prop_assert_eq!(updated, replaced);
        }
    }
}
