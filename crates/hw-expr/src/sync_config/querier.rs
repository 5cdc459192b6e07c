//! Queriers: from a request to the parameters of its buckets.
//!
//! A querier joins small relations. Each *component* is a chain of steps (expand an array of the
//! request, look rows up, filter) that gives values for some of the bucket's parameters; values
//! of one component stay together, so that columns of one joined row are never mixed with those
//! of another. Components are then joined on the parameters that they share, which is the
//! intersection where two conditions name one parameter and the cross product elsewhere.
//! Source: `sync-rules.md` 10.4.

use super::lookup::read_outputs;
use super::plan::{EachPart, elements_of, is_key};
use super::request::{RequestName, SubscriptionValues};
use super::resolve::{LookupReader, Meter, ResolveError};
use crate::error::EvalError;
use crate::expr::{Expr, Scope};
use crate::value::SqlValue;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// A reference inside a querier.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum QueryName {
    /// A value of the request.
    Request(RequestName),
    /// A value that an earlier step of the component gave.
    Slot(usize),
}

impl fmt::Display for QueryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueryName::Request(name) => write!(f, "{name}"),
            QueryName::Slot(slot) => write!(f, "slot({slot})"),
        }
    }
}

/// How a request finds the buckets of one source.
#[derive(Clone, Debug)]
pub struct Querier {
    /// The definition, by index.
    pub definition: usize,
    /// The bucket source, by index.
    pub source: usize,
    /// Priority when a query sets its own (`_priority`).
    pub priority: Option<u8>,
    /// All must hold, or the querier gives nothing.
    pub filters: Vec<Expr<QueryName>>,
    /// What is joined.
    pub components: Vec<Component>,
    /// Number of bucket parameters.
    pub parameters: usize,
}

/// Steps whose values belong together.
#[derive(Clone, Debug, Default)]
pub struct Component {
    /// In order.
    pub steps: Vec<Step>,
    /// The bucket parameters that it gives, each with an expression over slots and request.
    pub gives: Vec<(usize, Expr<QueryName>)>,
}

/// One step: each row of slots becomes any number of longer rows.
#[derive(Clone, Debug)]
pub enum Step {
    /// Appends two slots, key and value, for every element of a JSON array.
    Each(Expr<QueryName>),
    /// Appends one slot per output for every entry of an index under a key.
    Lookup {
        /// The index.
        lookup: usize,
        /// Its key.
        key: Vec<Expr<QueryName>>,
        /// Number of outputs.
        outputs: usize,
    },
    /// Keeps the rows for which it holds.
    Filter(Expr<QueryName>),
}

impl Querier {
    /// Whether it reads an index.
    pub fn is_dynamic(&self) -> bool {
        self.components
            .iter()
            .flat_map(|c| &c.steps)
            .any(|step| matches!(step, Step::Lookup { .. }))
    }

    /// The indexes that it reads, perhaps more than once.
    pub fn lookups(&self) -> impl Iterator<Item = usize> {
        self.components.iter().flat_map(|c| &c.steps).filter_map(|step| match step {
            Step::Lookup { lookup, .. } => Some(*lookup),
            _ => None,
        })
    }

    /// Whether each entry of an index leads to buckets by itself, whatever others there are.
    pub(super) fn is_linear(&self) -> bool {
        let is_lookup = |step: &&Step| matches!(step, Step::Lookup { .. });
        match self.components.as_slice() {
            [component] => component.steps.iter().filter(is_lookup).count() == 1,
            _ => false,
        }
    }

    /// Appends an unambiguous text of how buckets are found; equal texts find equal buckets.
    pub fn write_canonical(&self, out: &mut String) {
        self.write_canonical_by(out, |lookup| lookup.to_string());
    }

    /// The same with other names of indexes.
    pub fn write_canonical_by(&self, out: &mut String, name: impl Fn(usize) -> String) {
        let mut filters: Vec<String> = self.filters.iter().map(Expr::canonical).collect();
        filters.sort();
        filters.dedup();
        out.push_str(&format!("priority {:?} filters {}\n", self.priority, filters.join(" ")));
        let mut components: Vec<String> =
            self.components.iter().map(|component| component.canonical_by(&name)).collect();
        components.sort();
        components.iter().for_each(|c| out.push_str(c));
    }

    /// The parameters of every bucket that the request may read, as JSON array text; one that is
    /// found in two ways perhaps twice.
    pub(super) fn run(
        &self,
        request: SubscriptionValues<'_>,
        reader: &dyn LookupReader,
        meter: &mut Meter<'_>,
    ) -> Result<Vec<String>, ResolveError> {
        for filter in &self.filters {
            if !filter.holds(&QueryScope { request, slots: &[] })? {
                return Ok(Vec::new());
            }
        }
        let mut given = Given::new(self.parameters);
        if let [component] = self.components.as_slice() {
            let rows = component.run(request, reader, meter)?;
            let mut found = Vec::with_capacity(rows.count);
            for row in rows.iter() {
                if component.give(request, row, &mut given)? {
                    found.push(given.text());
                }
            }
            if meter.check_buckets(found.len()).is_err() {
                let mut seen: HashSet<&str, foldhash::fast::RandomState> = HashSet::default();
                seen.extend(found.iter().map(String::as_str));
                meter.check_buckets(seen.len())?;
            }
            return Ok(found);
        }
        let mut tuples: Vec<Tuple> = vec![vec![None; self.parameters]];
        for (index, component) in self.components.iter().enumerate() {
            let rows = component.run(request, reader, meter)?;
            let mut partial: Vec<Tuple> = Vec::with_capacity(rows.count);
            for row in rows.iter() {
                if component.give(request, row, &mut given)? {
                    partial.push(given.tuple());
                }
            }
            let mut seen: Seen<'_> = HashSet::default();
            seen.reserve(partial.len());
            let first: Vec<bool> = partial.iter().map(|tuple| seen.insert(tuple)).collect();
            let mut first = first.into_iter();
            partial.retain(|_| first.next().unwrap_or(false));
            // The first component is joined with nothing.
            if index == 0 {
                meter.check_buckets(partial.len())?;
                tuples = partial;
            } else {
                tuples = join(&tuples, &partial, meter)?;
            }
            if tuples.is_empty() {
                break;
            }
        }
        Ok(tuples.iter().map(|tuple| array(tuple.iter().map(Option::as_deref))).collect())
    }
}

/// The JSON array of parameters, each as its JSON text; what is not given is null.
fn array<'a>(values: impl Iterator<Item = Option<&'a str>> + Clone) -> String {
    let texts = values.map(|value| value.unwrap_or("null"));
    let mut text =
        String::with_capacity(texts.clone().map(|text| text.len() + 1).sum::<usize>() + 2);
    text.push('[');
    for (index, value) in texts.enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(value);
    }
    text.push(']');
    text
}

/// Bucket parameters as their JSON texts, which are equal exactly for equal values.
type Tuple = Vec<Option<String>>;

/// Tuples of which a user may have thousands: hashed quickly, with a seed of the process.
type Seen<'a> = HashSet<&'a Tuple, foldhash::fast::RandomState>;

/// Natural join: rows that agree on the parameters that both have.
fn join(left: &[Tuple], right: &[Tuple], meter: &Meter<'_>) -> Result<Vec<Tuple>, ResolveError> {
    let (Some(first), Some(other)) = (left.first(), right.first()) else { return Ok(Vec::new()) };
    let shared: Vec<usize> =
        (0..first.len()).filter(|&i| first[i].is_some() && other[i].is_some()).collect();
    let key = |tuple: &Tuple| -> Vec<String> {
        shared.iter().filter_map(|&i| tuple[i].clone()).collect()
    };
    let mut index: HashMap<Vec<String>, Vec<&Tuple>> = HashMap::new();
    for tuple in right {
        index.entry(key(tuple)).or_default().push(tuple);
    }
    let mut out = Vec::new();
    for tuple in left {
        for found in index.get(&key(tuple)).into_iter().flatten() {
            let joined: Tuple =
                tuple.iter().zip(found.iter()).map(|(a, b)| a.clone().or(b.clone())).collect();
            out.push(joined);
            meter.check_buckets(out.len())?;
        }
    }
    Ok(out)
}

impl Component {
    /// An unambiguous text of the steps and what they give.
    pub fn canonical(&self) -> String {
        self.canonical_by(&|lookup| lookup.to_string())
    }

    fn canonical_by(&self, name: &impl Fn(usize) -> String) -> String {
        let mut out = String::from("component\n");
        for step in &self.steps {
            match step {
                Step::Each(input) => {
                    out.push_str("each ");
                    input.write_canonical(&mut out);
                }
                Step::Lookup { lookup, key, outputs } => {
                    out.push_str(&format!("lookup {} {outputs}", name(*lookup)));
                    for e in key {
                        out.push(' ');
                        e.write_canonical(&mut out);
                    }
                }
                Step::Filter(e) => {
                    out.push_str("filter ");
                    e.write_canonical(&mut out);
                }
            }
            out.push('\n');
        }
        for (parameter, e) in &self.gives {
            out.push_str(&format!("gives {parameter} "));
            e.write_canonical(&mut out);
            out.push('\n');
        }
        out
    }

    /// The rows of slots that the steps give.
    fn run(
        &self,
        request: SubscriptionValues<'_>,
        reader: &dyn LookupReader,
        meter: &mut Meter<'_>,
    ) -> Result<Rows, ResolveError> {
        let mut rows = Rows { width: 0, count: 1, slots: Vec::new() };
        for step in &self.steps {
            let width = rows.width + step.outputs();
            let mut next = Rows { width, count: 0, slots: Vec::new() };
            for row in rows.iter() {
                let scope = QueryScope { request, slots: row };
                match step {
                    Step::Filter(filter) => {
                        if filter.holds(&scope)? {
                            next.push(row, |_| {});
                        }
                    }
                    Step::Each(input) => {
                        let elements = elements_of(&input.evaluate(&scope)?)?;
                        meter.check_elements(next.count, elements.len())?;
                        for element in elements {
                            next.push(row, |slots| slots.extend([element.key, element.value]));
                        }
                    }
                    Step::Lookup { lookup, key, .. } => {
                        let mut bytes = Vec::new();
                        let mut usable = true;
                        for e in key {
                            usable &= e.evaluate(&scope)?.write_key(&mut bytes);
                        }
                        if !usable {
                            continue;
                        }
                        let entries = meter.lookup(*lookup, bytes, reader)?;
                        next.slots.reserve(entries.len() * width);
                        for value in entries.iter() {
                            let read = next.push(row, |slots| read_outputs(value, slots));
                            read.filter(|()| next.is_whole()).ok_or(ResolveError::Evaluation(
                                EvalError("a stored lookup is damaged"),
                            ))?;
                        }
                    }
                }
            }
            rows = next;
        }
        Ok(rows)
    }

    /// Evaluates the parameters that a row of slots gives. `false` when one is NULL or a BLOB, or when
    /// two expressions for one parameter differ.
    fn give(
        &self,
        request: SubscriptionValues<'_>,
        slots: &[SqlValue<'static>],
        given: &mut Given,
    ) -> Result<bool, EvalError> {
        given.is_given.fill(false);
        for (parameter, e) in &self.gives {
            let value = e.evaluate(&QueryScope { request, slots })?;
            given.value.clear();
            if !is_key(&value) || !value.write_parameter(&mut given.value) {
                return Ok(false);
            }
            let text = &mut given.texts[*parameter];
            match std::mem::replace(&mut given.is_given[*parameter], true) {
                true if *text != given.value => return Ok(false),
                true => {}
                false => std::mem::swap(text, &mut given.value),
            }
        }
        Ok(true)
    }
}

impl Step {
    /// How many slots it appends.
    fn outputs(&self) -> usize {
        match self {
            Step::Each(_) => 2,
            Step::Lookup { outputs, .. } => *outputs,
            Step::Filter(_) => 0,
        }
    }
}

/// Rows of slots, one behind the other: a user may have thousands.
struct Rows {
    /// Slots of a row, perhaps none.
    width: usize,
    count: usize,
    slots: Vec<SqlValue<'static>>,
}

impl Rows {
    fn iter(&self) -> impl Iterator<Item = &[SqlValue<'static>]> {
        (0..self.count).map(|row| &self.slots[row * self.width..(row + 1) * self.width])
    }

    /// Appends a row that begins as `row`.
    fn push<T>(
        &mut self,
        row: &[SqlValue<'static>],
        rest: impl FnOnce(&mut Vec<SqlValue<'static>>) -> T,
    ) -> T {
        self.slots.extend_from_slice(row);
        self.count += 1;
        rest(&mut self.slots)
    }

    /// Whether every row has its slots.
    fn is_whole(&self) -> bool {
        self.slots.len() == self.count * self.width
    }
}

/// The bucket parameters of a row as JSON texts. Made once, and used for all rows.
struct Given {
    texts: Vec<String>,
    is_given: Vec<bool>,
    value: String,
}

impl Given {
    fn new(parameters: usize) -> Given {
        let texts = vec![String::new(); parameters];
        Given { texts, is_given: vec![false; parameters], value: String::new() }
    }

    fn iter(&self) -> impl Iterator<Item = Option<&str>> + Clone {
        let texts = self.texts.iter().zip(&self.is_given);
        texts.map(|(text, is_given)| is_given.then_some(text.as_str()))
    }

    fn tuple(&self) -> Tuple {
        self.iter().map(|text| text.map(str::to_owned)).collect()
    }

    fn text(&self) -> String {
        array(self.iter())
    }
}

/// The slots of a row and the request.
struct QueryScope<'a> {
    request: SubscriptionValues<'a>,
    slots: &'a [SqlValue<'static>],
}

impl<'v> Scope<'v, QueryName> for QueryScope<'_> {
    fn value(&self, name: &QueryName) -> Result<SqlValue<'v>, EvalError> {
        match name {
            QueryName::Request(name) => self.request.value(name),
            QueryName::Slot(slot) => {
                self.slots.get(*slot).cloned().ok_or(EvalError("a step was used before it ran"))
            }
        }
    }
}

/// The slots that a `json_each` step appends, relative to its first.
pub fn each_slot(first: usize, part: EachPart) -> usize {
    match part {
        EachPart::Key => first,
        EachPart::Value => first + 1,
    }
}
