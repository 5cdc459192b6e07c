//! Which definitions are applied, which are served, which are being built, which stand still.
//!
//! A sync configuration is a list of definitions (bucket definitions, streams), each of which uses
//! bucket sources and lookups. These are applied as *incarnations*: numbered builds of one
//! fingerprint, with spaces of their own. A configuration is served when all its incarnations are
//! complete; one that leaves is still applied, not served, for the retention, so that a rollback
//! costs nothing (`design/engine.md` 8).
//!
//! Invariants: E-7 (a configuration that does not compile changes nothing); a definition that
//! reads a table which cannot be followed stands still with all its incarnations, and with every
//! definition that shares one of them: nobody is shown half of what a transaction did.

use crate::buckets::Spaces;
use crate::error::{EngineError, code};
use crate::overlay::{Overlay, Sink};
use crate::state::{
    BuildState, ConfigRecord, Counters, Demanded, DerivedKind, Dropped, IncarnationRecord, Lacking,
    Progress, Record, Refused, Serving, Waiting, keys,
};
use crate::sync_view::{ActiveSync, LookupSpace, SourceSpaces};
use crate::tables::{Bound, Gate, Gates, Planned, TablePlan, Tables};
use hw_expr::sync_config::{Definition, SyncConfig, TableRead};
use hw_pg::catalog::{absent, unsent};
use hw_store::{Snapshot, Space, Store};
use hw_types::facts::TableFacts;
use hw_types::{Diagnostic, Relation, TableName, TablePattern};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// An incarnation that is applied to every change.
pub(crate) struct Incarnation {
    pub record: IncarnationRecord,
    pub config: Arc<SyncConfig>,
    /// What it reads.
    reads: Vec<TableRead>,
}

impl Incarnation {
    fn new(record: IncarnationRecord, config: Arc<SyncConfig>) -> Incarnation {
        let index = record.index as usize;
        let reads = match record.kind {
            DerivedKind::Source => config.sources()[index].reads(),
            DerivedKind::Lookup => vec![config.lookups()[index].reads()],
        };
        Incarnation { record, config, reads }
    }

    /// How it reads a table, if it does.
    pub fn bind(&self, relation: &Relation) -> Option<Bound> {
        let index = self.record.index as usize;
        match self.record.kind {
            DerivedKind::Source => self.config.sources()[index].bind(relation).map(Bound::Source),
            DerivedKind::Lookup => self.config.lookups()[index].bind(relation).map(Bound::Lookup),
        }
    }
}

/// What the catalog said of the tables.
struct Known {
    by_name: HashMap<TableName, Arc<TableFacts>>,
    /// Those of which something is not sent.
    incomplete: Vec<Arc<TableFacts>>,
}

impl Known {
    fn of(tables: &Tables) -> Known {
        let facts = tables.all().into_iter().filter_map(|table| table.facts.clone());
        let by_name: HashMap<_, _> = facts.map(|facts| (facts.name.clone(), facts)).collect();
        let lacks = |facts: &&Arc<TableFacts>| facts.sent_columns().count() < facts.columns.len();
        let incomplete = by_name.values().filter(lacks).cloned().collect();
        Known { by_name, incomplete }
    }

    /// Which columns of these readings do not come, a finding for each table and reason.
    fn lacking<'a>(&self, reads: impl Iterator<Item = &'a TableRead>) -> Vec<Diagnostic> {
        let (mut required, mut wanted) = (ByTable::new(), ByTable::new());
        for read in reads {
            if let Some(facts) = read.table.exact().and_then(|name| self.by_name.get(&name)) {
                let columns =
                    &mut required.entry(&facts.name).or_insert((facts, BTreeSet::new())).1;
                columns.extend(read.required().cloned());
            }
            for facts in self.incomplete.iter().filter(|facts| read.table.matches(&facts.name)) {
                let columns = &mut wanted.entry(&facts.name).or_insert((facts, BTreeSet::new())).1;
                columns.extend(read.columns.iter().cloned());
            }
        }
        let absent = required.values().filter_map(|(facts, columns)| absent(facts, columns));
        let unsent = wanted.values().filter_map(|(facts, columns)| unsent(facts, columns));
        absent.chain(unsent).collect()
    }
}

/// Columns that are read of tables.
type ByTable<'k> = BTreeMap<&'k TableName, (&'k Arc<TableFacts>, BTreeSet<String>)>;

/// A compiled configuration with the incarnations that hold its parts.
pub(crate) struct Configured {
    pub record: ConfigRecord,
    pub config: Arc<SyncConfig>,
    /// Numbers by index in the configuration.
    pub sources: Vec<u32>,
    pub lookups: Vec<u32>,
}

impl Configured {
    /// Everything that it uses.
    fn numbers(&self) -> impl Iterator<Item = u32> {
        self.sources.iter().chain(&self.lookups).copied()
    }

    /// What one of its definitions uses.
    pub fn numbers_of(&self, definition: usize) -> impl Iterator<Item = u32> {
        let (sources, lookups) = self.config.parts(definition);
        let sources = sources.into_iter().map(|index| self.sources[index]);
        let lookups = lookups.into_iter().map(|index| self.lookups[index]);
        sources.chain(lookups).collect::<Vec<_>>().into_iter()
    }
}

/// Everything that is applied.
#[derive(Default)]
pub(crate) struct Definitions {
    pub active: Option<Configured>,
    pub building: Option<Configured>,
    pub derived: BTreeMap<u32, Incarnation>,
    /// Tables that exist and cannot be replicated.
    pub refused: BTreeSet<TableName>,
    /// Tables that are replicated whatever definitions read.
    pub demanded: BTreeSet<TableName>,
    /// Incarnations that hold what was evaluated without a column that they read.
    pub lacking: BTreeSet<u32>,
    /// Definitions of the active configuration that are not served, by their place in it
    /// ([`crate::waiting`]). Then the same one is under construction.
    pub waiting: BTreeSet<u32>,
    /// The stored configuration that is to be served, where this program computes it in another way than the one
    /// that built it: nothing is under construction for it yet.
    pub unbuilt: Option<ConfigRecord>,
}

/// Compiles a configuration, or says everything that is wrong with it.
pub(crate) fn compile(file: &str, text: &str) -> Result<Arc<SyncConfig>, Vec<Diagnostic>> {
    let loaded = SyncConfig::load(text, file, None);
    match loaded.config {
        Some(config) if !loaded.diagnostics.iter().any(Diagnostic::is_error) => {
            Ok(Arc::new(config))
        }
        _ => Err(loaded.diagnostics),
    }
}

/// Tells that a configuration that compiled once does not with this program.
pub(crate) fn no_longer_compiles(which: &str, findings: &[Diagnostic]) {
    let first = findings.first().map(ToString::to_string).unwrap_or_default();
    let what = format!("{which} does not compile with this version, and is not served: {first}");
    Diagnostic::error(code::NO_LONGER_COMPILES, what)
        .mend("mend the sync configuration that is configured, and check it with `headwater check`")
        .log();
}

/// The parts of a configuration: kind, index, fingerprint.
fn parts(config: &SyncConfig) -> impl Iterator<Item = (DerivedKind, usize, [u8; 32])> {
    let sources = config.sources().iter().enumerate();
    let lookups = config.lookups().iter().enumerate();
    sources
        .map(|(index, source)| (DerivedKind::Source, index, source.fingerprint))
        .chain(lookups.map(|(index, lookup)| (DerivedKind::Lookup, index, lookup.fingerprint)))
}

impl Definitions {
    /// Loads what the store holds. Incarnations whose fingerprint this program does not compute
    /// are dropped with their records; a configuration that needs them is built again.
    pub fn load(
        snapshot: &Snapshot,
        overlay: &mut Overlay,
        state: &Space,
        spaces: &mut Spaces,
    ) -> Result<Definitions, EngineError> {
        let store = overlay.store().clone();
        let refused = Refused::load(snapshot, state, keys::REFUSED)?.unwrap_or_default().0;
        let lacking = Lacking::load(snapshot, state, keys::LACKING)?.unwrap_or_default().0;
        let demanded = Demanded::load(snapshot, state, keys::DEMANDED)?.unwrap_or_default().0;
        let waiting = Waiting::load(snapshot, state, keys::WAITING)?.unwrap_or_default().0;
        let mut definitions =
            Definitions { refused, demanded, lacking, waiting, ..Definitions::default() };
        let serving = Serving::load(snapshot, state, keys::SERVING)?.unwrap_or_default();
        let mut configs = BTreeMap::new();
        for record in ConfigRecord::load_all(snapshot, state, keys::CONFIG)? {
            match compile(&record.file, &record.text) {
                Ok(config) => {
                    configs.insert(record.version, (record, config));
                }
                Err(findings) => {
                    no_longer_compiles(
                        &format!("the stored sync configuration {}", record.version),
                        &findings,
                    );
                }
            }
        }
        for record in IncarnationRecord::load_all(snapshot, state, keys::DERIVED)? {
            let config = configs.get(&record.config).map(|(_, config)| config.clone());
            let index = record.index as usize;
            let found = config.filter(|config| {
                let fingerprint = match record.kind {
                    DerivedKind::Source => config.sources().get(index).map(|s| s.fingerprint),
                    DerivedKind::Lookup => config.lookups().get(index).map(|l| l.fingerprint),
                };
                fingerprint == Some(record.fingerprint)
            });
            match found {
                Some(config) => {
                    spaces.open(&store, record.kind, record.number)?;
                    definitions.derived.insert(record.number, Incarnation::new(record, config));
                }
                None => remove(&record, overlay, state)?,
            }
        }
        let configured = |version: u64| {
            let (record, config) = configs.get(&version)?;
            definitions.resolve(record.clone(), config.clone())
        };
        let active = configured(serving.active);
        let building = configured(serving.building);
        let newest = if serving.building > 0 { serving.building } else { serving.active };
        let is_there =
            |of: &Option<Configured>| of.as_ref().is_some_and(|of| of.record.version == newest);
        if !is_there(&active) && !is_there(&building) {
            definitions.unbuilt = configs.get(&newest).map(|(record, _)| record.clone());
        }
        definitions.active = active;
        definitions.building = building;
        if definitions.active.is_none() {
            definitions.wait(BTreeSet::new(), overlay, state)?;
        }
        Ok(definitions)
    }

    /// The newest incarnation of each fingerprint.
    fn by_fingerprint(&self) -> HashMap<(DerivedKind, [u8; 32]), u32> {
        let records = self.derived.values().map(|incarnation| &incarnation.record);
        records.map(|record| ((record.kind, record.fingerprint), record.number)).collect()
    }

    /// The configuration with the numbers of its incarnations, when all exist.
    pub fn resolve(&self, record: ConfigRecord, config: Arc<SyncConfig>) -> Option<Configured> {
        let (mut sources, mut lookups) = (Vec::new(), Vec::new());
        let known = self.by_fingerprint();
        for (kind, _, fingerprint) in parts(&config) {
            let numbers = match kind {
                DerivedKind::Source => &mut sources,
                DerivedKind::Lookup => &mut lookups,
            };
            numbers.push(*known.get(&(kind, fingerprint))?);
        }
        Some(Configured { record, config, sources, lookups })
    }

    /// Begins to build a configuration beside the active one, in place of one that is being
    /// built. Parts whose fingerprint is applied already are taken over as they are.
    ///
    /// Returns whether anything is to be done (the newest text again is nothing).
    #[allow(clippy::too_many_arguments)]
    pub fn begin(
        &mut self,
        file: &str,
        text: &str,
        config: Arc<SyncConfig>,
        counters: &mut Counters,
        spaces: &mut Spaces,
        overlay: &mut Overlay,
        state: &Space,
    ) -> Result<bool, EngineError> {
        let is_same = |c: &Configured| c.record.text == text;
        if self.building.as_ref().or(self.active.as_ref()).is_some_and(is_same) {
            return Ok(false);
        }
        let given_up = self.building.take();
        let served = self.active.as_ref().filter(|active| is_same(active));
        if let Some(served) = served {
            // Back to what is served: there is nothing to build, but for what waits.
            let again = || self.resolve(served.record.clone(), served.config.clone());
            self.building = if self.waiting.is_empty() { None } else { again() };
        } else {
            let store = overlay.store().clone();
            let version = counters.config;
            counters.config += 1;
            let record = ConfigRecord { version, file: file.into(), text: text.into() };
            overlay.put(state, keys::numbered(keys::CONFIG, version), record.encode())?;
            let mut known = self.by_fingerprint();
            for (kind, index, fingerprint) in parts(&config) {
                if known.contains_key(&(kind, fingerprint)) {
                    continue;
                }
                known.insert((kind, fingerprint), counters.derived);
                let number = counters.derived;
                counters.derived += 1;
                spaces.open(&store, kind, number)?;
                let record = IncarnationRecord {
                    number,
                    kind,
                    fingerprint,
                    counter: next_counter(overlay, state, &fingerprint)?,
                    state: BuildState::Building { table: 0, key: Vec::new() },
                    retired_at: 0,
                    config: version,
                    index: index as u32,
                };
                overlay.put(state, keys::numbered(keys::DERIVED, number), record.encode())?;
                self.derived.insert(number, Incarnation::new(record, config.clone()));
            }
            self.building = self.resolve(record, config);
            overlay.put(state, keys::COUNTERS.to_vec(), counters.encode())?;
        }
        if given_up.is_some() {
            // What only the given-up one used is of no use to a rollback.
            self.retire_unused(1, overlay, state)?;
        }
        self.save_serving(overlay, state)?;
        Ok(true)
    }

    /// Serves the built configuration, without the definitions that wait. Parts that only the old one used
    /// are retired.
    pub fn switch(
        &mut self,
        now: u64,
        waiting: BTreeSet<u32>,
        overlay: &mut Overlay,
        state: &Space,
    ) -> Result<(), EngineError> {
        self.serve(waiting, overlay, state)?;
        self.retire_unused(now, overlay, state)?;
        self.save_serving(overlay, state)
    }

    /// What no configuration uses is retired as of `now`; what one uses is not (any more).
    fn retire_unused(
        &mut self,
        now: u64,
        overlay: &mut Overlay,
        state: &Space,
    ) -> Result<(), EngineError> {
        let used = self.used();
        for incarnation in self.derived.values_mut() {
            let record = &mut incarnation.record;
            let retired_at = match used.contains(&record.number) {
                true => 0,
                false if record.retired_at == 0 => now,
                false => record.retired_at,
            };
            if record.retired_at != retired_at {
                record.retired_at = retired_at;
                overlay.put(
                    state,
                    keys::numbered(keys::DERIVED, record.number),
                    record.encode(),
                )?;
            }
        }
        Ok(())
    }

    /// The incarnations of the configuration that is served and of the one that is built.
    fn used(&self) -> BTreeSet<u32> {
        let configs = [&self.active, &self.building];
        configs.into_iter().flatten().flat_map(Configured::numbers).collect()
    }

    fn save_serving(&self, overlay: &mut Overlay, state: &Space) -> Result<(), EngineError> {
        let version = |c: &Option<Configured>| c.as_ref().map_or(0, |c| c.record.version);
        let serving = Serving { active: version(&self.active), building: version(&self.building) };
        overlay.put(state, keys::SERVING.to_vec(), serving.encode())
    }

    /// Incarnations that retired at or before `before` and that no configuration uses (again).
    fn over(&self, before: u64) -> Vec<u32> {
        let mut over: Vec<u32> = self
            .derived
            .values()
            .map(|incarnation| &incarnation.record)
            .filter(|record| record.retired_at != 0 && record.retired_at <= before)
            .map(|record| record.number)
            .collect();
        if !over.is_empty() {
            let used = self.used();
            over.retain(|number| !used.contains(number));
        }
        over
    }

    /// Whether [`Definitions::drop_retired`] would remove something.
    pub fn has_retired(&self, before: u64) -> bool {
        !self.over(before).is_empty()
    }

    /// Gives up incarnations of which something is lost. Those that a configuration uses are built
    /// again under new numbers, and nothing is served until they are; the others are gone.
    ///
    /// The caller makes the overlay durable before it drops the spaces of what is returned.
    pub fn renew(
        &mut self,
        lost: &BTreeSet<u32>,
        counters: &mut Counters,
        spaces: &mut Spaces,
        overlay: &mut Overlay,
        state: &Space,
    ) -> Result<Vec<IncarnationRecord>, EngineError> {
        let store = overlay.store().clone();
        let used = self.used();
        let mut given_up = Vec::new();
        for number in lost {
            let Some(Incarnation { record, config, .. }) = self.derived.remove(number) else {
                continue;
            };
            remove(&record, overlay, state)?;
            if used.contains(number) {
                let number = counters.derived;
                counters.derived += 1;
                spaces.open(&store, record.kind, number)?;
                let record = IncarnationRecord {
                    number,
                    counter: next_counter(overlay, state, &record.fingerprint)?,
                    state: BuildState::Building { table: 0, key: Vec::new() },
                    ..record.clone()
                };
                overlay.put(state, keys::numbered(keys::DERIVED, number), record.encode())?;
                self.derived.insert(number, Incarnation::new(record, config));
            }
            given_up.push(record);
        }
        self.forget_texts(&given_up, overlay, state)?;
        let is_hit = |c: &Configured| c.numbers().any(|number| lost.contains(&number));
        let (active, building) = (self.active.take(), self.building.take());
        let (active, hit) = match active {
            Some(active) if is_hit(&active) => (None, Some(active)),
            active => (active, None),
        };
        self.active = active;
        self.building = building
            .or(hit)
            .and_then(|Configured { record, config, .. }| self.resolve(record, config));
        if self.active.is_none() {
            self.wait(BTreeSet::new(), overlay, state)?;
        }
        self.retire_unused(1, overlay, state)?;
        overlay.put(state, keys::COUNTERS.to_vec(), counters.encode())?;
        self.save_serving(overlay, state)?;
        Ok(given_up)
    }

    /// Names of the definitions under construction that use one of these incarnations.
    pub fn names_of(&self, numbers: impl Fn(u32) -> bool) -> BTreeSet<String> {
        let Some(building) = &self.building else { return BTreeSet::new() };
        let definitions = building.config.definitions().iter().enumerate();
        definitions
            .filter(|(index, _)| building.numbers_of(*index).any(&numbers))
            .map(|(_, definition)| definition.name.to_string())
            .collect()
    }

    /// Removes incarnations that retired at or before `before`, and the texts of configurations
    /// that nothing is defined by any more. The caller makes the overlay durable before it drops
    /// their spaces, so that no crash leaves a record without its spaces.
    pub fn drop_retired(
        &mut self,
        before: u64,
        overlay: &mut Overlay,
        state: &Space,
    ) -> Result<Vec<IncarnationRecord>, EngineError> {
        let mut dropped = Vec::new();
        for number in self.over(before) {
            let Some(incarnation) = self.derived.remove(&number) else { continue };
            remove(&incarnation.record, overlay, state)?;
            dropped.push(incarnation.record);
        }
        self.forget_texts(&dropped, overlay, state)?;
        Ok(dropped)
    }

    /// Removes the texts of configurations that defined these, and that nothing is defined by any
    /// more.
    fn forget_texts(
        &self,
        dropped: &[IncarnationRecord],
        overlay: &mut Overlay,
        state: &Space,
    ) -> Result<(), EngineError> {
        let configs = [&self.active, &self.building].into_iter().flatten();
        let mut named: BTreeSet<u64> = configs.map(|c| c.record.version).collect();
        named.extend(self.derived.values().map(|i| i.record.config));
        for record in dropped {
            if !named.contains(&record.config) {
                overlay.delete(state, keys::numbered(keys::CONFIG, record.config))?;
            }
        }
        Ok(())
    }

    /// Every table pattern that an applied or building definition reads, and what is demanded.
    pub fn table_patterns(&self) -> Vec<TablePattern> {
        let all: BTreeSet<TablePattern> =
            self.read().chain(self.demanded.iter().map(TablePattern::exactly)).collect();
        all.into_iter().collect()
    }

    /// What is demanded, without the tables that an applied or building definition names.
    pub fn demanded_only(&self) -> BTreeSet<TableName> {
        let named: BTreeSet<TableName> = self.read().filter_map(|p| p.exact()).collect();
        &self.demanded - &named
    }

    fn read(&self) -> impl Iterator<Item = TablePattern> {
        let configs = [&self.active, &self.building];
        configs.into_iter().flatten().flat_map(|c| c.config.tables())
    }

    /// What is evaluated for each row of a table.
    pub fn plan(&self, relation: &Relation) -> TablePlan {
        let planned = self.derived.iter().filter_map(|(number, incarnation)| {
            let bound = Arc::new(incarnation.bind(relation)?);
            Some(Planned { number: *number, bound })
        });
        TablePlan(planned.collect())
    }

    /// Gates of everything that does not follow every change.
    pub fn gates(&self) -> Gates {
        let gate = |(number, incarnation): (&u32, &Incarnation)| match &incarnation.record.state {
            BuildState::Live => None,
            BuildState::Frozen { .. } => Some((*number, Gate::Frozen)),
            BuildState::Building { table, key } => {
                Some((*number, Gate::Building { table: *table, key: key.clone() }))
            }
        };
        Gates(self.derived.iter().filter_map(gate).collect())
    }

    /// Puts incarnations into a state.
    pub fn set_state(
        &mut self,
        numbers: &BTreeSet<u32>,
        to: &BuildState,
        sink: &mut impl Sink,
        state: &Space,
    ) -> Result<(), EngineError> {
        for number in numbers {
            if let Some(incarnation) = self.derived.get_mut(number) {
                incarnation.record.state = to.clone();
                let value = incarnation.record.encode();
                sink.put(state, keys::numbered(keys::DERIVED, *number), value)?;
            }
        }
        Ok(())
    }

    /// What becomes of an incarnation.
    pub fn state_of(&self, number: u32) -> Option<&BuildState> {
        Some(&self.derived.get(&number)?.record.state)
    }

    /// The served incarnations that cannot follow while these tables cannot: those of every
    /// definition that reads one of them, and of every definition that shares one of those.
    pub fn held_up_by(&self, tables: &[&TableName]) -> BTreeSet<u32> {
        let mut held = BTreeSet::new();
        let (Some(active), false) = (&self.active, tables.is_empty()) else { return held };
        // What waits is not served, and lets nothing stand still.
        let is_served = |definition: &usize| !self.waiting.contains(&(*definition as u32));
        let definitions = 0..active.config.definitions().len();
        let mut free: Vec<usize> = definitions.filter(is_served).collect();
        let reads = |definition: usize| {
            tables.iter().any(|table| active.config.definitions()[definition].reads_table(table))
        };
        loop {
            let before = free.len();
            free.retain(|definition| {
                let shares = active.numbers_of(*definition).any(|number| held.contains(&number));
                let is_free = !shares && !reads(*definition);
                if !is_free {
                    held.extend(active.numbers_of(*definition));
                }
                is_free
            });
            if free.len() == before {
                return held;
            }
        }
    }

    /// The incarnations that hold what was evaluated without a column that they read: those that read one
    /// now that is not there or not sent, and of those that stand still the ones that did.
    pub fn lacking_now(&self, tables: &Tables) -> BTreeSet<u32> {
        let known = Known::of(tables);
        let lacks = |(number, incarnation): &(&u32, &Incarnation)| {
            let stands_still = matches!(incarnation.record.state, BuildState::Frozen { .. });
            (stands_still && self.lacking.contains(*number))
                || !known.lacking(incarnation.reads.iter()).is_empty()
        };
        self.derived.iter().filter(lacks).map(|(number, _)| *number).collect()
    }

    /// The columns that what is served reads and that are not there or not sent.
    fn unsent(&self, active: &Configured, tables: &Tables) -> Vec<Diagnostic> {
        let used = active.numbers().filter_map(|number| self.derived.get(&number));
        Known::of(tables).lacking(used.flat_map(|used| &used.reads))
    }

    /// What surfaces read: the active configuration with its spaces.
    pub fn active_sync(
        &self,
        store: &Store,
        progress: &Progress,
        tables: &Tables,
    ) -> Result<Option<Arc<ActiveSync>>, EngineError> {
        let Some(active) = &self.active else { return Ok(None) };
        let mut sources = Vec::new();
        for number in &active.sources {
            let record = &self.derived[number].record;
            sources.push(SourceSpaces {
                number: *number,
                prefix: prefix(record, progress.epoch),
                ops: store.space(&format!("ops.{number}"))?,
                buckets: store.space(&format!("buckets.{number}"))?,
            });
        }
        let mut lookups = Vec::new();
        for number in &active.lookups {
            let is_shut = self.derived[number].record.state.is_shut();
            let space = store.space(&format!("lookups.{number}"))?;
            lookups.push(LookupSpace { number: *number, space: (!is_shut).then_some(space) });
        }
        let withheld = |(index, definition): (usize, &Definition)| {
            let mut exact = definition.reads.iter().filter_map(|read| read.table.exact());
            self.waiting.contains(&(index as u32))
                || exact.any(|table| self.refused.contains(&table))
                || active.numbers_of(index).any(|number| self.lacking.contains(&number))
        };
        let withheld = active.config.definitions().iter().enumerate().map(withheld).collect();
        let unsent = self.unsent(active, tables);
        let since = |number: u32| match self.derived[&number].record.state {
            BuildState::Frozen { since, .. } => Some(since),
            _ => None,
        };
        let frozen = |definition: usize| {
            let is_served = !self.waiting.contains(&(definition as u32));
            active.numbers_of(definition).filter_map(since).min().filter(|_| is_served)
        };
        let frozen = (0..active.config.definitions().len()).map(frozen).collect();
        let (config, version) = (active.config.clone(), active.record.version);
        let text = active.record.text.clone();
        let waiting = self.waiting.clone();
        Ok(Some(Arc::new(ActiveSync {
            config,
            text,
            version,
            sources,
            lookups,
            frozen,
            withheld,
            waiting,
            unsent,
        })))
    }
}

/// Removes an incarnation's record, and remembers its counter.
fn remove(
    record: &IncarnationRecord,
    overlay: &mut Overlay,
    state: &Space,
) -> Result<(), EngineError> {
    overlay.delete(state, keys::numbered(keys::DERIVED, record.number))?;
    let key = [keys::DROPPED, &record.fingerprint[..]].concat();
    overlay.put(state, key, Dropped(record.counter).encode())
}

/// How often the log of this fingerprint was dropped before.
fn next_counter(
    overlay: &Overlay,
    state: &Space,
    fingerprint: &[u8; 32],
) -> Result<u32, EngineError> {
    let key = [keys::DROPPED, &fingerprint[..]].concat();
    let dropped = overlay.get(state, &key)?.map(|value| Dropped::decode(&value)).transpose()?;
    Ok(dropped.map_or(0, |Dropped(counter)| counter + 1))
}

/// `<incarnation>.<counter>#`: eight hexadecimal digits of a hash of what the source computes and
/// of the epoch, and how often its log was built again.
fn prefix(record: &IncarnationRecord, epoch: u64) -> String {
    let mut hasher = Sha256::new();
    hasher.update(record.fingerprint);
    hasher.update(epoch.to_be_bytes());
    let hash = hasher.finalize();
    let incarnation: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{incarnation}.{}#", record.counter)
}
