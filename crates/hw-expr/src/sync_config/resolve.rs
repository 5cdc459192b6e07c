//! From a request to its buckets: which, why, and with which priority. Pure: the indexes are read
//! through a [`LookupReader`].
//!
//! Source: `sync-rules.md` 10.6, 14; `powersync-protocol.md` 4.1, 7.4.

use super::querier::Querier;
use super::request::{Request, RequestValues, SubscriptionValues, object};
use super::{DefinitionKind, SyncConfig};
use crate::error::EvalError;
use crate::json::Json;
use std::collections::HashMap;
use std::rc::Rc;

/// Reads parameter indexes at one moment.
pub trait LookupReader {
    /// Appends the values of all entries of `lookups()[lookup]` under `key`.
    fn lookup(&self, lookup: usize, key: &[u8], out: &mut Entries) -> Result<(), LookupError>;
}

/// Values of entries of an index, one behind the other: a key may have thousands.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Entries {
    /// Appends the value of an entry.
    pub fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.ends.push(self.bytes.len());
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.bytes[start..end])
    }
}

/// An index could not be read. The text is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read parameter lookup: {0}")]
pub struct LookupError(pub String);

/// Bounds of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Distinct buckets.
    pub max_buckets: usize,
    /// Rows of all lookups before duplicates are removed; also the number of distinct lookups,
    /// and of elements of one array of the request.
    pub max_results: usize,
}

impl Limits {
    fn allow_work(&self, work: usize) -> bool {
        work <= WORK_FACTOR * self.max_results.max(self.max_buckets)
    }

    /// Whether a request may cost this.
    pub(super) fn allow(&self, cost: Cost) -> bool {
        cost.results <= self.max_results && self.allow_work(cost.work)
    }
}

impl Default for Limits {
    /// 1000 each, as the reference service.
    fn default() -> Limits {
        Limits { max_buckets: 1000, max_results: 1000 }
    }
}

/// A request that gets no buckets at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// PSYNC_S2305. Distinct buckets, at least; the limit; and the number for each definition
    /// that has any, most first.
    #[error("Too many buckets: {count} (limit of {limit})")]
    TooManyBuckets {
        /// Buckets found, at least.
        count: usize,
        /// The limit.
        limit: usize,
        /// Definition and number of its buckets.
        by_definition: Vec<(String, usize)>,
    },
    /// PSYNC_S2305. Rows of lookups.
    #[error("Too many parameter query results (limit of {limit})")]
    TooManyResults {
        /// The limit.
        limit: usize,
        /// Definition and number of its rows.
        by_definition: Vec<(String, usize)>,
    },
    /// An index could not be read.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// An expression of a bucket definition failed. (In a stream it becomes an error of the
    /// stream instead.)
    #[error("Error evaluating bucket ids: {0}")]
    Evaluation(#[from] EvalError),
}

/// What a request may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Its buckets, each once, by source and parameters.
    pub buckets: Vec<ResolvedBucket>,
    /// The streams and definitions that it is subscribed to.
    pub streams: Vec<ResolvedStream>,
    /// The lookups that were made: index and key, each once. The result is the same as long as
    /// none of them changes.
    pub lookups_used: Vec<(usize, Vec<u8>)>,
    /// Whether the result depends on indexes at all.
    pub dynamic: bool,
    /// What it took of the bounds.
    pub cost: Cost,
}

/// How much of its bounds a request takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Rows of all lookups.
    pub results: usize,
    /// Elements looked at and buckets found, over all subscriptions.
    pub work: usize,
}

/// One bucket of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedBucket {
    /// Index into [`SyncConfig::sources`].
    pub source: usize,
    /// JSON array text of the parameters.
    pub parameters: String,
    /// 0 is first, 3 last.
    pub priority: u8,
    /// Why it is here.
    pub reasons: Vec<Reason>,
    /// Whether it was found in one way only, so that it goes with the entry of an index that led to it.
    pub found_once: bool,
}

/// Why a bucket is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A default subscription: index into [`Resolution::streams`].
    Default(usize),
    /// An explicit subscription: index into the request's list.
    Subscription(usize),
}

/// A stream or definition that the client is subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedStream {
    /// Index into [`SyncConfig::definitions`].
    pub definition: usize,
    /// Its name.
    pub name: String,
    /// Whether it is subscribed by default.
    pub is_default: bool,
    /// What could not be evaluated.
    pub errors: Vec<StreamError>,
}

/// A subscription of a stream that could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamError {
    /// Which subscription.
    pub subscription: ErrorSubject,
    /// `Error evaluating bucket ids: …`.
    pub message: String,
}

/// Which subscription an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorSubject {
    /// The default one.
    Default,
    /// Index into the request's list.
    Index(u32),
}

/// How many times the greater of its two bounds a request may cost over all of its subscriptions.
const WORK_FACTOR: usize = 64;

/// Counts what one request costs, and makes each lookup once.
pub(super) struct Meter<'a> {
    config: &'a SyncConfig,
    limits: &'a Limits,
    definition: usize,
    cost: Cost,
    by_definition: Vec<usize>,
    cache: HashMap<LookupKey, Rc<Entries>>,
    used: Vec<LookupKey>,
}

/// Where a bucket (source, parameters) stands in the result. A user may have thousands: hashed
/// quickly, with a seed of the process.
type Places = HashMap<(usize, String), usize, foldhash::fast::RandomState>;

/// A lookup's index and the key that it is asked for.
type LookupKey = (usize, Vec<u8>);

impl Meter<'_> {
    /// The entries under a key, at most once read.
    pub fn lookup(
        &mut self,
        lookup: usize,
        key: Vec<u8>,
        reader: &dyn LookupReader,
    ) -> Result<Rc<Entries>, ResolveError> {
        let id = (lookup, key);
        let values = match self.cache.get(&id) {
            Some(values) => values.clone(),
            None => {
                let mut values = Entries::default();
                reader.lookup(lookup, &id.1, &mut values)?;
                let values = Rc::new(values);
                self.used.push(id.clone());
                self.cache.insert(id, values.clone());
                values
            }
        };
        self.cost.results += values.len();
        self.by_definition[self.definition] += values.len();
        self.check_results(self.cost.results.max(self.used.len()))?;
        Ok(values)
    }

    /// Elements of arrays of the request count as results of their own: those of one array, and
    /// `rows` before them.
    pub fn check_elements(&mut self, rows: usize, elements: usize) -> Result<(), ResolveError> {
        self.check_results(rows + elements)?;
        self.count(elements)
    }

    /// Counts what is done for a subscription. Each may be within the bounds and all together far
    /// beyond them: a thousand subscriptions that look at the same thousand elements.
    fn count(&mut self, work: usize) -> Result<(), ResolveError> {
        self.cost.work += work;
        match self.limits.allow_work(self.cost.work) {
            true => Ok(()),
            false => Err(self.too_many_results()),
        }
    }

    fn check_results(&self, count: usize) -> Result<(), ResolveError> {
        if count <= self.limits.max_results { Ok(()) } else { Err(self.too_many_results()) }
    }

    fn too_many_results(&self) -> ResolveError {
        let by_definition = breakdown(self.config, &self.by_definition);
        ResolveError::TooManyResults { limit: self.limits.max_results, by_definition }
    }

    /// A single querier may not build more than the limit either.
    pub fn check_buckets(&self, count: usize) -> Result<(), ResolveError> {
        if count <= self.limits.max_buckets {
            return Ok(());
        }
        let name = self.config.definitions[self.definition].name.clone();
        Err(ResolveError::TooManyBuckets {
            count,
            limit: self.limits.max_buckets,
            by_definition: vec![(name, count)],
        })
    }
}

fn breakdown(config: &SyncConfig, counts: &[usize]) -> Vec<(String, usize)> {
    let mut list: Vec<(String, usize)> = config
        .definitions
        .iter()
        .zip(counts)
        .filter(|(_, count)| **count > 0)
        .map(|(definition, count)| (definition.name.clone(), *count))
        .collect();
    list.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    list
}

/// A subscription that is in effect: whose, with which parameters, and why.
pub(super) struct Active {
    stream: usize,
    pub(super) definition: usize,
    parameters: Option<Json>,
    reason: Reason,
    priority: Option<u8>,
}

impl SyncConfig {
    /// The buckets of a request.
    ///
    /// - Takes: a verified request; a reader of the indexes at the checkpoint that will be sent.
    /// - Returns: the buckets, the streams in effect, and the lookups that were made.
    /// - Errors: a bound is exceeded, an index cannot be read, or a bucket definition's
    ///   expression fails on this request.
    pub fn resolve(
        &self,
        request: &Request<'_>,
        reader: &dyn LookupReader,
        limits: &Limits,
    ) -> Result<Resolution, ResolveError> {
        self.resolve_by(request, reader, limits, |_| true)
    }

    /// What some of the queriers find.
    pub(super) fn resolve_by(
        &self,
        request: &Request<'_>,
        reader: &dyn LookupReader,
        limits: &Limits,
        is_meant: impl Fn(&Querier) -> bool,
    ) -> Result<Resolution, ResolveError> {
        let values = RequestValues::new(request);
        let (active, mut streams) = self.active(request);
        let mut meter = Meter {
            config: self,
            limits,
            definition: 0,
            cost: Cost::default(),
            by_definition: vec![0; self.definitions.len()],
            cache: HashMap::new(),
            used: Vec::new(),
        };
        let mut out = Resolution::default();
        let mut places: Places = HashMap::default();
        let mut queriers: Vec<Vec<&Querier>> = vec![Vec::new(); self.definitions.len()];
        for querier in self.queriers.iter().filter(|querier| is_meant(querier)) {
            queriers[querier.definition].push(querier);
        }
        for active in &active {
            let values =
                SubscriptionValues { request: &values, subscription: active.parameters.as_ref() };
            let definition = &self.definitions[active.definition];
            for querier in &queriers[active.definition] {
                meter.definition = active.definition;
                out.dynamic |= querier.is_dynamic();
                let found = match querier.run(values, reader, &mut meter) {
                    Ok(found) => found,
                    Err(ResolveError::Evaluation(error))
                        if definition.kind == DefinitionKind::Stream =>
                    {
                        let subscription = match active.reason {
                            Reason::Default(_) => ErrorSubject::Default,
                            Reason::Subscription(index) => ErrorSubject::Index(index as u32),
                        };
                        let message = ResolveError::Evaluation(error).to_string();
                        let errors = &mut streams[active.stream].errors;
                        errors.push(StreamError { subscription, message });
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                places.reserve(found.len());
                let mut distinct = 0;
                let priority = active.priority.or(querier.priority).unwrap_or(definition.priority);
                for parameters in found {
                    let known = out.buckets.len();
                    let place = *places.entry((querier.source, parameters)).or_insert_with(|| {
                        out.buckets.push(ResolvedBucket {
                            source: querier.source,
                            parameters: String::new(),
                            priority,
                            reasons: Vec::with_capacity(1),
                            found_once: true,
                        });
                        known
                    });
                    let bucket = &mut out.buckets[place];
                    bucket.found_once = place == known;
                    bucket.priority = bucket.priority.min(priority);
                    // All that one subscription finds comes together: a reason that is there is
                    // the last one.
                    if bucket.reasons.last() != Some(&active.reason) {
                        bucket.reasons.push(active.reason);
                        distinct += 1;
                    }
                }
                meter.count(distinct)?;
            }
        }
        if out.buckets.len() > limits.max_buckets {
            let mut counts = vec![0; self.definitions.len()];
            for bucket in &out.buckets {
                counts[self.sources[bucket.source].definition] += 1;
            }
            return Err(ResolveError::TooManyBuckets {
                count: out.buckets.len(),
                limit: limits.max_buckets,
                by_definition: breakdown(self, &counts),
            });
        }
        // A user may have thousands, so the texts are moved, not copied.
        for ((_, parameters), place) in places {
            out.buckets[place].parameters = parameters;
        }
        out.streams = streams;
        out.cost = meter.cost;
        out.lookups_used = meter.used;
        Ok(out)
    }

    /// The subscriptions in effect, in the order of the definitions for defaults and then of the
    /// request, and the streams that they are of.
    pub(super) fn active(&self, request: &Request<'_>) -> (Vec<Active>, Vec<ResolvedStream>) {
        let mut streams: Vec<ResolvedStream> = Vec::new();
        let mut active = Vec::new();
        let mut of_definition = vec![None; self.definitions.len()];
        let mut stream_of = |definition: usize, streams: &mut Vec<ResolvedStream>| {
            *of_definition[definition].get_or_insert_with(|| {
                streams.push(ResolvedStream {
                    definition,
                    name: self.definitions[definition].name.clone(),
                    is_default: self.definitions[definition].auto_subscribe,
                    errors: Vec::new(),
                });
                streams.len() - 1
            })
        };
        if request.include_defaults {
            for (definition, about) in self.definitions.iter().enumerate() {
                if about.auto_subscribe {
                    let stream = stream_of(definition, &mut streams);
                    active.push(Active {
                        stream,
                        definition,
                        parameters: None,
                        reason: Reason::Default(stream),
                        priority: None,
                    });
                }
            }
        }
        if request.subscriptions.is_empty() {
            return (active, streams);
        }
        let named: HashMap<&str, usize> = self
            .definitions
            .iter()
            .enumerate()
            .filter(|(_, about)| about.kind == DefinitionKind::Stream)
            .map(|(definition, about)| (about.name.as_str(), definition))
            .collect();
        for (index, subscription) in request.subscriptions.iter().enumerate() {
            if let Some(&definition) = named.get(subscription.stream.as_str()) {
                let parameters =
                    subscription.parameters.as_ref().unwrap_or(&serde_json::Value::Null);
                active.push(Active {
                    stream: stream_of(definition, &mut streams),
                    definition,
                    parameters: Some(object(parameters)),
                    reason: Reason::Subscription(index),
                    priority: subscription.override_priority,
                });
            }
        }
        (active, streams)
    }
}
