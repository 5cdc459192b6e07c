//! What a request gains and loses when entries of indexes come and go, without the thousands of
//! buckets that stay.
//!
//! Where a querier looks up once and joins nothing, each entry leads to buckets by itself: those that
//! come are those that it finds among the entries that came, and so with those that go. For every
//! other querier, and wherever something is not certain, there is no answer, and the request is to
//! be resolved as a whole.

use super::SyncConfig;
use super::querier::Querier;
use super::request::Request;
use super::resolve::{Cost, Limits, LookupReader, Resolution, ResolvedBucket};
use std::collections::{HashMap, HashSet};

/// What happened in indexes since a request was resolved. A reader that does not know it answers with an
/// error.
pub struct Moved<'a> {
    /// Whether an entry of the index, under whatever key, came or went.
    pub is_touched: &'a dyn Fn(usize) -> bool,
    /// The entries that came.
    pub came: &'a dyn LookupReader,
    /// The entries that went.
    pub went: &'a dyn LookupReader,
}

/// The buckets of a request that come and go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Those that entries which came lead to.
    pub came: Vec<ResolvedBucket>,
    /// Those that entries which went led to. One that the request had found in one way only goes.
    pub went: Vec<ResolvedBucket>,
    /// What the request takes of its bounds then.
    pub cost: Cost,
}

impl SyncConfig {
    /// The difference to a resolution of the same request in which no expression failed; `None`
    /// when it cannot be told, or when the request would pass a bound.
    ///
    /// - Takes: what that resolution, with all differences since, took of the bounds.
    pub fn difference(
        &self,
        request: &Request<'_>,
        limits: &Limits,
        before: Cost,
        moved: &Moved<'_>,
    ) -> Option<Difference> {
        let is_touched = |querier: &Querier| querier.lookups().any(|at| (moved.is_touched)(at));
        let (active, _) = self.active(request);
        let active: HashSet<usize> = active.iter().map(|active| active.definition).collect();
        let touched = self.queriers.iter().filter(|querier| is_touched(querier));
        let mut touched = touched.filter(|querier| active.contains(&querier.definition));
        if !touched.all(Querier::is_linear) {
            return None;
        }
        let found = |reader: &dyn LookupReader| -> Option<Resolution> {
            let found = self.resolve_by(request, reader, limits, is_touched).ok()?;
            found.streams.iter().all(|stream| stream.errors.is_empty()).then_some(found)
        };
        let (came, went) = (found(moved.came)?, found(moved.went)?);
        let cost = Cost {
            results: (before.results + came.cost.results).checked_sub(went.cost.results)?,
            work: (before.work + came.cost.work).checked_sub(went.cost.work)?,
        };
        let (came, went) = without_common(came.buckets, went.buckets)?;
        limits.allow(cost).then_some(Difference { came, went, cost })
    }
}

/// Both without those that one entry led to and another one leads to in its place; `None` when such a
/// bucket would be another one then.
fn without_common(
    came: Vec<ResolvedBucket>,
    went: Vec<ResolvedBucket>,
) -> Option<(Vec<ResolvedBucket>, Vec<ResolvedBucket>)> {
    let name = |bucket: &ResolvedBucket| (bucket.source, bucket.parameters.clone());
    let mut gone: HashMap<(usize, String), ResolvedBucket> =
        went.into_iter().map(|bucket| (name(&bucket), bucket)).collect();
    let mut new = Vec::with_capacity(came.len());
    for bucket in came {
        match gone.remove(&name(&bucket)) {
            None => new.push(bucket),
            Some(same) if same == bucket && bucket.found_once => {}
            Some(_) => return None,
        }
    }
    Some((new, gone.into_values().collect()))
}
