//! Definitions of a configuration that wait for tables, and hold nobody back.
//!
//! A configuration takes the place of the one before when each of its definitions can be served: its
//! tables are there and all that it uses is complete, or it is what is served already, as it is. One that
//! clients were not served before keeps none of the others waiting: the configuration is served without it,
//! and with it as soon as it can be. One that clients have is not taken from them: while it waits, the
//! configuration before is served, whole.
//!
//! Invariant: what waits is as good as not there. It answers nobody, and lets nothing stand still.

use crate::definitions::{Configured, Definitions};
use crate::error::EngineError;
use crate::overlay::{Overlay, Sink};
use crate::state::{BuildState, Record, Waiting, keys};
use hw_expr::sync_config::Definition;
use hw_store::Space;
use hw_types::{TableName, TablePattern};
use std::collections::BTreeSet;

/// A definition of the configuration under construction that cannot be served yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unready {
    /// Its place in the configuration.
    pub index: u32,
    pub name: String,
    /// Whether nothing of it is to be built: it only shares something with what stands still.
    pub is_built: bool,
}

/// A definition of the configuration under construction that is not served as it is, for the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnderConstruction {
    pub name: String,
    /// What it reads.
    pub reads: Vec<TablePattern>,
    /// Whether it shares something with what stands still.
    pub stands_still: bool,
}

impl Definitions {
    /// The definitions of the configuration under construction that are not served as they are.
    pub fn under_construction(&self) -> Vec<UnderConstruction> {
        let Some(building) = &self.building else { return Vec::new() };
        let served = self.served_parts();
        let stands_still =
            |number: u32| matches!(self.state_of(number), Some(BuildState::Frozen { .. }));
        let described = |(index, definition): (usize, &Definition)| {
            let numbers: BTreeSet<u32> = building.numbers_of(index).collect();
            let is_served = served.contains(&numbers);
            (!is_served).then(|| UnderConstruction {
                name: definition.name.clone(),
                reads: definition.reads.iter().map(|read| read.table.clone()).collect(),
                stands_still: numbers.into_iter().any(stands_still),
            })
        };
        building.config.definitions().iter().enumerate().filter_map(described).collect()
    }

    /// The definitions of the configuration under construction that cannot be served yet, while these
    /// tables have not entered as they are at the source.
    pub fn unready(&self, missing: &BTreeSet<TableName>) -> Vec<Unready> {
        let Some(building) = &self.building else { return Vec::new() };
        let is_live = |number: u32| self.state_of(number) == Some(&BuildState::Live);
        let served = self.served_parts();
        let is_building =
            |number: u32| matches!(self.state_of(number), Some(BuildState::Building { .. }));
        let unready = |(index, definition): (usize, &Definition)| {
            let numbers: BTreeSet<u32> = building.numbers_of(index).collect();
            let has_tables = !missing.iter().any(|table| definition.reads_table(table));
            let is_ready = has_tables && numbers.iter().all(|number| is_live(*number));
            let is_served = served.contains(&numbers);
            let is_built = has_tables && !numbers.iter().any(|number| is_building(*number));
            let name = definition.name.clone();
            (!is_ready && !is_served).then_some(Unready { index: index as u32, name, is_built })
        };
        building.config.definitions().iter().enumerate().filter_map(unready).collect()
    }

    /// Whether the configuration under construction can be served without these definitions, and is not.
    pub fn can_serve_without(&self, unready: &[Unready]) -> bool {
        let (Some(active), Some(building)) = (&self.active, &self.building) else { return false };
        let are_new = unready.iter().all(|unready| !self.serves(&unready.name));
        let is_news =
            active.record.version != building.record.version || unready.len() < self.waiting.len();
        // What would leave clients with nothing is waited for; but what shares something with definitions
        // that leave goes on as soon as these have.
        let some_left = unready.len() < building.config.definitions().len()
            || unready.iter().all(|unready| unready.is_built);
        are_new && is_news && some_left
    }

    /// Whether every definition of the configuration under construction is served already, as it is.
    pub fn is_served(&self) -> bool {
        let (Some(_), Some(building)) = (&self.active, &self.building) else { return false };
        let served = self.served_parts();
        let mut definitions = 0..building.config.definitions().len();
        definitions.all(|index| served.contains(&building.numbers_of(index).collect()))
    }

    /// Whether clients are served a definition of this name.
    pub fn serves(&self, name: &str) -> bool {
        let Some(active) = &self.active else { return false };
        let mut definitions = active.config.definitions().iter().zip(0..);
        definitions.any(|(served, index)| served.name == name && !self.waiting.contains(&index))
    }

    /// The parts of what is under construction whose tables are not all there: only definitions that wait
    /// for them use these.
    pub fn not_to_build(&self, missing: &BTreeSet<TableName>) -> BTreeSet<u32> {
        let Some(building) = &self.building else { return BTreeSet::new() };
        let definitions = building.config.definitions().iter().enumerate();
        let (wait, go): (Vec<_>, Vec<_>) = definitions
            .partition(|(_, definition)| missing.iter().any(|table| definition.reads_table(table)));
        let numbers = |definitions: Vec<(usize, &Definition)>| -> BTreeSet<u32> {
            definitions.into_iter().flat_map(|(index, _)| building.numbers_of(index)).collect()
        };
        &numbers(wait) - &numbers(go)
    }

    /// Serves the configuration under construction. What waits stays under construction.
    pub fn serve(
        &mut self,
        waiting: BTreeSet<u32>,
        overlay: &mut Overlay,
        state: &Space,
    ) -> Result<(), EngineError> {
        if let Some(built) = self.building.take() {
            if !waiting.is_empty() {
                self.building = self.resolve(built.record.clone(), built.config.clone());
            }
            self.active = Some(built);
        }
        self.wait(waiting, overlay, state)
    }

    /// Notes which definitions of what is served wait.
    pub fn wait(
        &mut self,
        waiting: BTreeSet<u32>,
        overlay: &mut Overlay,
        state: &Space,
    ) -> Result<(), EngineError> {
        if waiting != self.waiting {
            let record = Waiting(waiting.clone());
            overlay.put(state, keys::WAITING.to_vec(), record.encode())?;
            self.waiting = waiting;
        }
        Ok(())
    }

    /// Names of what waits.
    pub fn waiting_names(&self) -> Vec<&str> {
        let definitions = self.active.iter().flat_map(|active| active.config.definitions());
        let waits = |index: &u32| self.waiting.contains(index);
        definitions.zip(0..).filter(|(_, index)| waits(index)).map(|(d, _)| &*d.name).collect()
    }

    /// What each definition that is served uses.
    fn served_parts(&self) -> Vec<BTreeSet<u32>> {
        let parts = |active: &Configured| {
            let definitions = 0..active.config.definitions().len();
            let served = definitions.filter(|index| !self.waiting.contains(&(*index as u32)));
            served.map(|index| active.numbers_of(index).collect()).collect()
        };
        self.active.as_ref().map(parts).unwrap_or_default()
    }
}
