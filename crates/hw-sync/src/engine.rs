//! The engine behind this surface: [`Source`] and [`View`] over `hw-engine`.
//!
//! In: published states and resolutions in the engine's words. Out: the surface's own plain
//! structs. Conversions are by hand, so that a renamed inner field never changes what a client
//! receives.

use std::sync::Arc;

use hw_engine::{
    BucketId, BucketKey, BucketState, Engine, EngineError, Lease, LookupKey, OpKind, Published,
    ReadLimit, Reading,
};
use hw_expr::sync_config::{
    ErrorSubject, Limits, Reason as ResolvedReason, Request, ResolveError as Unresolved,
    ResolvedBucket, ResolvedStream,
};
use hw_types::{OpId, Place};
use serde_json::Value;
use tokio::sync::watch;

use crate::source::{
    Asker, Before, Changes, Cost, Difference, Interest, Known, PageEnd, ResolveError, Resolved,
    ResolvedBy, Source, SourceError, UserLimits, Version, View,
};
use crate::state::bucket::{Announcement, Bucket, Totals};
use crate::wire::line::{
    CheckpointHead, ErrorPlace, OperationKind, OperationLine, Reason, StreamLine,
};
use crate::wire::request::Subscription;

impl From<EngineError> for SourceError {
    fn from(error: EngineError) -> SourceError {
        SourceError(error.to_string())
    }
}

impl Source for Engine {
    type View = Published;

    fn newest(&self) -> Arc<Published> {
        self.published()
    }

    fn watch(&self) -> watch::Receiver<Arc<Published>> {
        Engine::watch(self)
    }

    async fn write_checkpoint(
        &self,
        user_key: &str,
        requested: Option<u64>,
    ) -> Result<u64, SourceError> {
        Ok(match requested {
            None => Engine::write_checkpoint(self, user_key).await?,
            Some(number) => self.checkpoint_request(user_key, number).await?,
        })
    }
}

impl View for Published {
    type Changes = hw_engine::Changes;
    type Lease = Lease;

    fn number(&self) -> u64 {
        self.number
    }

    fn op_id(&self) -> OpId {
        self.checkpoint.op_id
    }

    fn is_withheld(&self) -> bool {
        self.withheld.is_some()
    }

    fn version(&self) -> Option<Version> {
        let served = self.sync.as_ref().filter(|_| self.withheld.is_none());
        served.map(|sync| Version { epoch: self.epoch, config: sync.version })
    }

    fn stands_still(&self) -> bool {
        self.sync.as_ref().is_some_and(|sync| sync.stands_still())
    }

    fn serves_name(&self, name: &str) -> bool {
        self.sync.as_ref().is_some_and(|sync| sync.serves_name(name))
    }

    fn is_lost(&self, op_id: OpId) -> bool {
        self.runs().is_lost(op_id)
    }

    fn meet_lost(&self) {
        Published::meet_lost(self);
    }

    fn resolve(
        &self,
        asker: &Asker,
        limits: &UserLimits,
        known: &[Known],
    ) -> Result<ResolvedBy<Self>, ResolveError> {
        let view = self.sync_view().ok_or(ResolveError::NoConfig)?;
        let sync = view.config();
        let asked = Asked::of(asker);
        let resolution =
            view.resolve(&asked.request(asker), &bounds(limits)).map_err(unresolved)?;
        let mut found: Vec<(String, ResolvedBucket)> = resolution
            .buckets
            .into_iter()
            .map(|bucket| (sync.bucket_name(bucket.source, &bucket.parameters), bucket))
            .collect();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut known = known.iter().peekable();
        let mut buckets = Vec::with_capacity(found.len());
        let mut keys = Vec::with_capacity(found.len());
        for (name, bucket) in found {
            while known.next_if(|known| *known.name < *name).is_some() {}
            let (source, parameters_at) = (bucket.source, name.len() - bucket.parameters.len());
            let (name, totals) = match known.next_if(|known| *known.name == *name) {
                Some(Known { name, totals }) => (name.clone(), *totals),
                None => {
                    let totals = View::totals(self, index(source), &bucket.parameters)?;
                    (name.into(), totals)
                }
            };
            keys.push(sync.bucket_key(source, &bucket.parameters));
            buckets.push(announced(&bucket, name, parameters_at, totals));
        }
        let head = CheckpointHead {
            op_id: self.checkpoint.op_id,
            write_checkpoint: Published::write_checkpoint(
                self,
                &asker.user_key,
                resolution.streams.iter().map(|stream| stream.definition),
            )
            .map_err(SourceError::from)?,
        };
        let streams = resolution.streams.into_iter().map(stream).collect();
        let lookups = resolution.lookups_used.iter();
        Ok(Resolved {
            announcement: Announcement { head, buckets, streams },
            interest: Interest {
                buckets: keys,
                lookups: lookups.map(|(lookup, key)| sync.lookup_key(*lookup, key)).collect(),
            },
            cost: cost(resolution.cost),
        })
    }

    fn difference(
        &self,
        asker: &Asker,
        limits: &UserLimits,
        before: Before<'_>,
        changes: &hw_engine::Changes,
    ) -> Result<Option<Difference<BucketKey>>, SourceError> {
        let Some(view) = self.sync_view() else { return Ok(None) };
        let sync = view.config();
        let asked = Asked::of(asker);
        let Cost { results, work } = before.cost;
        let taken = hw_expr::sync_config::Cost { results, work };
        let request = asked.request(asker);
        let Some(found) = view.difference(&request, &bounds(limits), taken, changes) else {
            return Ok(None);
        };
        let place = |name: &str| before.buckets.binary_search_by(|known| (*known.name).cmp(name));
        let mut went = Vec::with_capacity(found.went.len());
        for bucket in &found.went {
            match place(&sync.bucket_name(bucket.source, &bucket.parameters)) {
                Ok(at) if before.buckets[at].found_once && bucket.found_once => went.push(at),
                // Something else may lead to it still.
                _ => return Ok(None),
            }
        }
        let mut came = Vec::with_capacity(found.came.len());
        for bucket in &found.came {
            let name = sync.bucket_name(bucket.source, &bucket.parameters);
            let Err(before) = place(&name) else { return Ok(None) };
            let parameters_at = name.len() - bucket.parameters.len();
            let totals = View::totals(self, index(bucket.source), &bucket.parameters)?;
            let key = sync.bucket_key(bucket.source, &bucket.parameters);
            came.push(((before, announced(bucket, name.into(), parameters_at, totals)), key));
        }
        if before.buckets.len() - went.len() + came.len() > limits.max_buckets {
            return Ok(None);
        }
        went.sort_unstable();
        came.sort_by(|((_, a), _), ((_, b), _)| a.name.cmp(&b.name));
        let (came, keys) = came.into_iter().unzip();
        Ok(Some(Difference { went, came, keys, cost: cost(found.cost) }))
    }

    fn totals(&self, source: u32, parameters: &str) -> Result<Totals, SourceError> {
        let Some(view) = self.sync_view() else { return Ok(Totals::default()) };
        let state = view.bucket(source as usize, parameters)?;
        Ok(state.map_or_else(Totals::default, |state| Totals {
            incarnation: state.id.source,
            number: state.id.bucket,
            count: state.count,
            live: state.live,
            checksum: state.checksum,
            last_op: state.last_op,
        }))
    }

    fn write_checkpoint(&self, user_key: &str) -> Result<Option<u64>, SourceError> {
        Ok(Published::write_checkpoint(self, user_key, [])?)
    }

    fn lease(&self) -> Lease {
        Published::lease(self)
    }

    fn operations(
        &self,
        bucket: &Bucket,
        place: Place,
        (rows, bytes): (usize, usize),
        each: &mut dyn FnMut(&OperationLine<'_>),
    ) -> Result<Option<PageEnd>, SourceError> {
        let Totals { incarnation, number, count, live, checksum, last_op } = bucket.totals;
        let id = BucketId { source: incarnation, bucket: number };
        let state = BucketState { id, count, live, checksum, last_op };
        let limit = ReadLimit { rows, bytes };
        let (source, parameters) = (bucket.source as usize, bucket.parameters());
        let Some(view) = self.sync_view() else { return Ok(None) };
        let reading = view.operations(source, parameters, &state, place, limit)?;
        let Reading::Page(page) = reading else { return Ok(None) };
        for operation in &page.operations {
            let texts = operation.texts();
            let texts = texts.as_ref();
            each(&OperationLine {
                op_id: operation.op_id,
                kind: kind(operation.kind),
                checksum: operation.checksum,
                object_type: texts.map_or("", |texts| texts.object_type),
                object_id: texts.map_or("", |texts| texts.object_id),
                subkey: texts.map_or("", |texts| texts.subkey),
                data: texts.and_then(|texts| texts.data).unwrap_or(""),
            });
        }
        Ok(Some(PageEnd { has_more: page.has_more, place: page.place }))
    }

    fn changes_since(&self, number: u64) -> hw_engine::Changes {
        Published::changes_since(self, number)
    }
}

impl Changes for hw_engine::Changes {
    type BucketKey = BucketKey;
    type LookupKey = LookupKey;

    fn everything(&self) -> bool {
        hw_engine::Changes::everything(self)
    }

    fn bucket(&self, key: BucketKey) -> bool {
        self.bucket_changed(key)
    }

    fn lookup(&self, key: LookupKey) -> bool {
        self.lookup_changed(key)
    }

    fn user(&self, user_key: &str) -> bool {
        self.write_checkpoint_changed(user_key)
    }

    fn each_bucket(&self, each: &mut dyn FnMut(BucketKey)) {
        self.buckets().for_each(each);
    }

    fn each_lookup(&self, each: &mut dyn FnMut(LookupKey)) {
        self.lookups().for_each(each);
    }

    fn each_user(&self, each: &mut dyn FnMut(&str)) {
        self.users().for_each(each);
    }
}

/// What a request says, as the configuration reads it.
struct Asked {
    parameters: Value,
    subscriptions: Vec<hw_expr::sync_config::Subscription>,
}

impl Asked {
    fn of(asker: &Asker) -> Asked {
        Asked {
            parameters: Value::Object(asker.parameters.read()),
            subscriptions: asker.subscriptions.iter().map(subscription).collect(),
        }
    }

    fn request<'a>(&'a self, asker: &'a Asker) -> Request<'a> {
        Request {
            jwt: &asker.claims,
            parameters: &self.parameters,
            subscriptions: &self.subscriptions,
            include_defaults: asker.include_defaults,
        }
    }
}

fn bounds(limits: &UserLimits) -> Limits {
    Limits { max_buckets: limits.max_buckets, max_results: limits.max_parameter_results }
}

fn cost(taken: hw_expr::sync_config::Cost) -> Cost {
    Cost { results: taken.results, work: taken.work }
}

/// A bucket of which the client has nothing yet.
fn announced(
    found: &ResolvedBucket,
    name: Arc<str>,
    parameters_at: usize,
    totals: Totals,
) -> Bucket {
    Bucket {
        name,
        parameters_at: index(parameters_at),
        source: index(found.source),
        priority: found.priority,
        reasons: found.reasons.iter().map(reason).collect(),
        found_once: found.found_once,
        totals,
        place: Place::default(),
    }
}

/// Indexes of definitions, buckets and subscriptions are bounded far below 2^32 by the limits on
/// a configuration and a request.
fn index(index: usize) -> u32 {
    u32::try_from(index).expect("invariant: indexes fit 32 bits")
}

fn reason(reason: &ResolvedReason) -> Reason {
    match *reason {
        ResolvedReason::Default(stream) => Reason::Default(index(stream)),
        ResolvedReason::Subscription(subscription) => Reason::Subscription(index(subscription)),
    }
}

fn subscription(asked: &Subscription) -> hw_expr::sync_config::Subscription {
    let Subscription { stream, parameters, override_priority } = asked;
    hw_expr::sync_config::Subscription {
        stream: stream.clone(),
        parameters: parameters.as_ref().map(|parameters| Value::Object(parameters.read())),
        override_priority: *override_priority,
    }
}

fn stream(stream: ResolvedStream) -> StreamLine {
    let errors = stream.errors.into_iter().map(|error| {
        let place = match error.subscription {
            ErrorSubject::Default => ErrorPlace::Default,
            ErrorSubject::Index(index) => ErrorPlace::Subscription(index),
        };
        (place, error.message)
    });
    StreamLine { name: stream.name, is_default: stream.is_default, errors: errors.collect() }
}

fn kind(kind: OpKind) -> OperationKind {
    match kind {
        OpKind::Put => OperationKind::Put,
        OpKind::Remove => OperationKind::Remove,
        OpKind::Move => OperationKind::Move,
        OpKind::Clear => OperationKind::Clear,
    }
}

fn unresolved(error: Unresolved) -> ResolveError {
    let description = error.to_string();
    match error {
        Unresolved::TooManyBuckets { by_definition, .. }
        | Unresolved::TooManyResults { by_definition, .. } => {
            let counts = by_definition.iter().map(|(name, count)| format!("{name}: {count}"));
            ResolveError::TooMuch { description, details: counts.collect::<Vec<_>>().join(", ") }
        }
        Unresolved::Lookup(_) | Unresolved::Evaluation(_) => {
            ResolveError::Failed(SourceError(description))
        }
    }
}
