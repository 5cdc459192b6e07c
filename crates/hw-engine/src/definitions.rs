//! Which definitions are applied, which are served, which are being built.
//!
//! A sync configuration is a list of bucket sources and lookups. Each is applied as an
//! *incarnation*: a numbered build of one fingerprint, with spaces of its own. A configuration
//! is served when all its incarnations are complete; one that leaves is still applied, not
//! served, for the retention, so that a rollback costs nothing (`design/engine.md` 8).
//!
//! Invariant E-7: a configuration that does not compile changes nothing.

use crate::buckets::Spaces;
use crate::error::EngineError;
use crate::overlay::{Overlay, Sink};
use crate::read::{ActiveSync, LookupSpace, SourceSpaces};
use crate::state::{
    BuildState, ConfigRecord, Counters, IncarnationRecord, Progress, Record, Serving, keys,
};
use crate::tables::{Gate, Gates, Planned, Table, TablePlan};
use hw_expr::sync_config::SyncConfig;
use hw_store::{Snapshot, Space, Store};
use hw_types::{Diagnostic, TablePattern};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An incarnation that is applied to every change.
pub(crate) struct Incarnation {
    pub record: IncarnationRecord,
    pub config: Arc<SyncConfig>,
}

/// A compiled configuration with the incarnations that hold its parts.
pub(crate) struct Configured {
    pub record: ConfigRecord,
    pub config: Arc<SyncConfig>,
    /// Numbers by index in the configuration.
    pub sources: Vec<u32>,
    pub lookups: Vec<u32>,
}

/// Everything that is applied.
#[derive(Default)]
pub(crate) struct Definitions {
    pub active: Option<Configured>,
    pub building: Option<Configured>,
    pub sources: BTreeMap<u32, Incarnation>,
    pub lookups: BTreeMap<u32, Incarnation>,
}

/// Numbers of incarnations that were removed.
#[derive(Default)]
pub(crate) struct Dropped {
    pub sources: Vec<u32>,
    pub lookups: Vec<u32>,
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

impl Definitions {
    /// Loads what the store holds. Incarnations whose fingerprint this program no longer
    /// computes are dropped; a configuration that needs them is built again.
    pub fn load(
        store: &Store,
        snapshot: &Snapshot,
        state: &Space,
        spaces: &mut Spaces,
    ) -> Result<Definitions, EngineError> {
        let mut definitions = Definitions::default();
        let serving = Serving::load(snapshot, state, keys::SERVING)?.unwrap_or_default();
        let mut configs = BTreeMap::new();
        for record in ConfigRecord::load_all(snapshot, state, keys::CONFIG)? {
            match compile(&record.file, &record.text) {
                Ok(config) => {
                    configs.insert(record.version, (record, config));
                }
                Err(findings) => {
                    let first = findings.first().map(ToString::to_string).unwrap_or_default();
                    tracing::error!(version = record.version, error = %first, "a stored sync configuration no longer compiles and is not served");
                }
            }
        }
        for record in IncarnationRecord::load_all(snapshot, state, keys::SOURCE)? {
            let config = configs.get(&record.config).map(|(_, config)| config.clone());
            let found = config.filter(|c| {
                c.sources()
                    .get(record.index as usize)
                    .is_some_and(|s| s.fingerprint == record.fingerprint)
            });
            if let Some(config) = found {
                spaces.open_source(store, record.number)?;
                definitions.sources.insert(record.number, Incarnation { record, config });
            }
        }
        for record in IncarnationRecord::load_all(snapshot, state, keys::LOOKUP)? {
            let config = configs.get(&record.config).map(|(_, config)| config.clone());
            let found = config.filter(|c| {
                c.lookups()
                    .get(record.index as usize)
                    .is_some_and(|l| l.fingerprint == record.fingerprint)
            });
            if let Some(config) = found {
                spaces.open_lookup(store, record.number)?;
                definitions.lookups.insert(record.number, Incarnation { record, config });
            }
        }
        let configured = |version: u64| {
            let (record, config) = configs.get(&version)?;
            definitions.resolve(record.clone(), config.clone())
        };
        let active = configured(serving.active);
        let building = configured(serving.building);
        definitions.active = active;
        definitions.building = building;
        Ok(definitions)
    }

    /// The configuration with the numbers of its incarnations, when all exist.
    fn resolve(&self, record: ConfigRecord, config: Arc<SyncConfig>) -> Option<Configured> {
        let numbers = |applied: &BTreeMap<u32, Incarnation>, fingerprint: &[u8; 32]| {
            let mut of = applied.values().filter(|i| i.record.fingerprint == *fingerprint);
            of.next_back().map(|i| i.record.number)
        };
        let sources = config.sources().iter().map(|s| numbers(&self.sources, &s.fingerprint));
        let sources = sources.collect::<Option<Vec<_>>>()?;
        let lookups = config.lookups().iter().map(|l| numbers(&self.lookups, &l.fingerprint));
        let lookups = lookups.collect::<Option<Vec<_>>>()?;
        Some(Configured { record, config, sources, lookups })
    }

    /// Begins to build a configuration beside the active one. Parts whose fingerprint is applied
    /// already are taken over as they are; a build under way is replaced.
    ///
    /// Returns whether anything is to be done (the same text again is nothing).
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
        let newest = self.building.as_ref().or(self.active.as_ref());
        if newest.is_some_and(|c| c.record.text == text) {
            return Ok(false);
        }
        let store = overlay.store().clone();
        let version = counters.config;
        counters.config += 1;
        let record = ConfigRecord { version, file: file.into(), text: text.into() };
        let key = keys::numbered(keys::CONFIG, version);
        overlay.put(state, key, record.encode())?;
        for (index, source) in config.sources().iter().enumerate() {
            let known = self.sources.values().any(|i| i.record.fingerprint == source.fingerprint);
            if !known {
                let number = counters.source;
                counters.source += 1;
                spaces.open_source(&store, number)?;
                let mut record = fresh(number, source.fingerprint, version, index);
                record.counter = next_counter(overlay, state, &source.fingerprint)?;
                let key = keys::numbered(keys::SOURCE, number);
                overlay.put(state, key, record.encode())?;
                self.sources.insert(number, Incarnation { record, config: config.clone() });
            }
        }
        for (index, lookup) in config.lookups().iter().enumerate() {
            let known = self.lookups.values().any(|i| i.record.fingerprint == lookup.fingerprint);
            if !known {
                let number = counters.lookup;
                counters.lookup += 1;
                spaces.open_lookup(&store, number)?;
                let record = fresh(number, lookup.fingerprint, version, index);
                let key = keys::numbered(keys::LOOKUP, number);
                overlay.put(state, key, record.encode())?;
                self.lookups.insert(number, Incarnation { record, config: config.clone() });
            }
        }
        self.building = self.resolve(record, config);
        overlay.put(state, keys::COUNTERS.to_vec(), counters.encode())?;
        self.save_serving(overlay, state)?;
        Ok(true)
    }

    /// Serves the built configuration. Parts that only the old one used are retired.
    pub fn switch(
        &mut self,
        now: u64,
        overlay: &mut Overlay,
        state: &Space,
    ) -> Result<(), EngineError> {
        if let Some(built) = self.building.take() {
            self.active = Some(built);
        }
        let Some(active) = &self.active else { return Ok(()) };
        let used = (&active.sources, &active.lookups);
        for (applied, used, prefix) in
            [(&mut self.sources, used.0, keys::SOURCE), (&mut self.lookups, used.1, keys::LOOKUP)]
        {
            for incarnation in applied.values_mut() {
                let record = &mut incarnation.record;
                let retired_at = match used.contains(&record.number) {
                    true => 0,
                    false if record.retired_at == 0 => now,
                    false => record.retired_at,
                };
                if record.retired_at != retired_at {
                    record.retired_at = retired_at;
                    overlay.put(state, keys::numbered(prefix, record.number), record.encode())?;
                }
            }
        }
        self.save_serving(overlay, state)
    }

    fn save_serving(&self, overlay: &mut Overlay, state: &Space) -> Result<(), EngineError> {
        let version = |c: &Option<Configured>| c.as_ref().map_or(0, |c| c.record.version);
        let serving = Serving { active: version(&self.active), building: version(&self.building) };
        overlay.put(state, keys::SERVING.to_vec(), serving.encode())
    }

    /// Whether [`Definitions::drop_retired`] would remove something.
    pub fn has_retired(&self, before: u64) -> bool {
        let over = |i: &Incarnation| i.record.retired_at != 0 && i.record.retired_at <= before;
        self.sources.iter().any(|(n, i)| over(i) && !self.is_wanted(|c| &c.sources, *n))
            || self.lookups.iter().any(|(n, i)| over(i) && !self.is_wanted(|c| &c.lookups, *n))
    }

    /// Whether the configuration that is served, or the one that is built, uses an incarnation.
    fn is_wanted(&self, numbers: fn(&Configured) -> &Vec<u32>, number: u32) -> bool {
        [&self.active, &self.building].into_iter().flatten().any(|c| numbers(c).contains(&number))
    }

    /// Removes incarnations that retired at or before `before` and that no configuration uses
    /// (again). The caller makes the overlay durable before it drops their spaces, so that no
    /// crash leaves a record without its spaces.
    pub fn drop_retired(
        &mut self,
        before: u64,
        overlay: &mut Overlay,
        state: &Space,
    ) -> Result<Dropped, EngineError> {
        let goes = |incarnation: &Incarnation| {
            let at = incarnation.record.retired_at;
            at != 0 && at <= before
        };
        let sources =
            self.sources.iter().filter(|(n, i)| goes(i) && !self.is_wanted(|c| &c.sources, **n));
        let lookups =
            self.lookups.iter().filter(|(n, i)| goes(i) && !self.is_wanted(|c| &c.lookups, **n));
        let dropped = Dropped {
            sources: sources.map(|(number, _)| *number).collect(),
            lookups: lookups.map(|(number, _)| *number).collect(),
        };
        for (applied, numbers, prefix) in [
            (&mut self.sources, &dropped.sources, keys::SOURCE),
            (&mut self.lookups, &dropped.lookups, keys::LOOKUP),
        ] {
            for number in numbers {
                let Some(incarnation) = applied.remove(number) else { continue };
                let IncarnationRecord { fingerprint, counter, .. } = incarnation.record;
                overlay.delete(state, keys::numbered(prefix, *number))?;
                let key = [keys::DROPPED, &fingerprint[..]].concat();
                overlay.put(state, key, counter.to_be_bytes().to_vec())?;
            }
        }
        Ok(dropped)
    }

    /// Every table pattern that an applied or building definition reads.
    pub fn table_patterns(&self) -> Vec<TablePattern> {
        let configs = [&self.active, &self.building];
        let mut patterns: Vec<TablePattern> = Vec::new();
        for pattern in configs.into_iter().flatten().flat_map(|c| c.config.tables()) {
            if !patterns.contains(&pattern) {
                patterns.push(pattern);
            }
        }
        patterns
    }

    /// What is evaluated for each row of a table.
    pub fn plan(&self, table: &Table) -> TablePlan {
        let relation = &table.record.relation;
        let mut plan = TablePlan::default();
        for (number, incarnation) in &self.sources {
            let source = &incarnation.config.sources()[incarnation.record.index as usize];
            if let Some(bound) = source.bind(relation) {
                plan.sources.push(Planned { number: *number, bound: Arc::new(bound) });
            }
        }
        for (number, incarnation) in &self.lookups {
            let lookup = &incarnation.config.lookups()[incarnation.record.index as usize];
            if let Some(bound) = lookup.bind(relation) {
                plan.lookups.push(Planned { number: *number, bound: Arc::new(bound) });
            }
        }
        plan
    }

    /// Gates of everything that is not complete.
    pub fn gates(&self) -> Gates {
        let of = |applied: &BTreeMap<u32, Incarnation>| {
            let gate = |(number, incarnation): (&u32, &Incarnation)| match &incarnation.record.state
            {
                BuildState::Live => None,
                BuildState::Building { table, key } => {
                    Some((*number, Gate { table: *table, key: key.clone() }))
                }
            };
            applied.iter().filter_map(gate).collect()
        };
        Gates { sources: of(&self.sources), lookups: of(&self.lookups) }
    }

    /// What surfaces read: the active configuration with its spaces.
    pub fn active_sync(
        &self,
        store: &Store,
        progress: &Progress,
    ) -> Result<Option<Arc<ActiveSync>>, EngineError> {
        let Some(active) = &self.active else { return Ok(None) };
        let mut sources = Vec::new();
        for number in &active.sources {
            let record = &self.sources[number].record;
            sources.push(SourceSpaces {
                number: *number,
                prefix: prefix(record, progress.epoch),
                ops: store.space(&format!("ops.{number}"))?,
                buckets: store.space(&format!("buckets.{number}"))?,
            });
        }
        let mut lookups = Vec::new();
        for number in &active.lookups {
            let space = store.space(&format!("lookups.{number}"))?;
            lookups.push(LookupSpace { number: *number, space });
        }
        let config = active.config.clone();
        Ok(Some(Arc::new(ActiveSync { config, version: active.record.version, sources, lookups })))
    }
}

/// How often the log of this fingerprint was dropped before.
fn next_counter(
    overlay: &Overlay,
    state: &Space,
    fingerprint: &[u8; 32],
) -> Result<u32, EngineError> {
    let key = [keys::DROPPED, &fingerprint[..]].concat();
    let Some(value) = overlay.get(state, &key)? else { return Ok(0) };
    let bytes = (*value).try_into().map_err(|_| EngineError::damaged("state", "counter"))?;
    Ok(u32::from_be_bytes(bytes) + 1)
}

fn fresh(number: u32, fingerprint: [u8; 32], config: u64, index: usize) -> IncarnationRecord {
    IncarnationRecord {
        number,
        fingerprint,
        counter: 0,
        state: BuildState::Building { table: 0, key: Vec::new() },
        retired_at: 0,
        config,
        index: index as u32,
    }
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
