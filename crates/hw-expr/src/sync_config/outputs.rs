//! How client tables come from source tables, for those who write back.
//!
//! A client's change arrives under output names. It can be written to the source only where an
//! output is a plain column, under its own name or another; what is computed has no way back.

use super::SyncConfig;
use super::data::{DataQuery, OutputItem, StarRule};
use super::plan::RowName;
use crate::expr::Expr;
use hw_types::TablePattern;

/// What one data query sends from its source table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputTable {
    /// The source tables.
    pub source: TablePattern,
    /// The table's name on clients; `None`: that of the source table.
    pub name: Option<String>,
    /// Which columns go under their own name without being listed, unless `columns` has an
    /// output of that name.
    pub star: OutputStar,
    /// The listed columns that reach clients.
    pub columns: Vec<OutputColumn>,
}

/// What `*` sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStar {
    /// The query has no `*`.
    None,
    /// Columns whose name does not start with `_`.
    WithoutUnderscore,
    /// All columns.
    All,
}

/// One listed column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputColumn {
    /// Its name on clients.
    pub name: String,
    /// Where its value comes from.
    pub origin: OutputOrigin,
}

/// Where an output's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputOrigin {
    /// This column, unchanged.
    Column(String),
    /// An expression, or one of two columns depending on the row.
    Computed,
}

impl SyncConfig {
    /// What every data query sends, without duplicates, in the order of the configuration.
    pub fn outputs(&self) -> Vec<OutputTable> {
        let mut out: Vec<OutputTable> = Vec::new();
        for query in self.sources.iter().flat_map(|source| &source.queries) {
            let output = output(query);
            if !out.contains(&output) {
                out.push(output);
            }
        }
        out
    }
}

fn output(query: &DataQuery) -> OutputTable {
    let mut columns: Vec<OutputColumn> = Vec::new();
    let mut star = OutputStar::None;
    for item in &query.items {
        match (item, query.star) {
            (OutputItem::Star, rule) => {
                star = match rule {
                    StarRule::Classic => OutputStar::WithoutUnderscore,
                    StarRule::Streams => OutputStar::All,
                };
                // A column of the table may stand in for an alias before `*`.
                let renamed = |c: &&mut OutputColumn| !matches!(&c.origin, OutputOrigin::Column(name) if *name == c.name);
                columns.iter_mut().filter(renamed).for_each(|c| c.origin = OutputOrigin::Computed);
            }
            (OutputItem::Named(name, value), _) => {
                let origin = match value {
                    Expr::Ref(RowName::Column(column)) => OutputOrigin::Column(column.clone()),
                    _ => OutputOrigin::Computed,
                };
                columns.retain(|c| c.name != *name);
                columns.push(OutputColumn { name: name.clone(), origin });
            }
        }
    }
    OutputTable { source: query.table.clone(), name: query.output.clone(), star, columns }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_columns_have_a_way_back_and_computed_ones_have_none() {
        let yaml = "config: {edition: 3}\nstreams:\n  s:\n    query: SELECT l.*, owner AS o, \
                    upper(name) AS name FROM lists AS l\n";
        let config = SyncConfig::load(yaml, "sync.yaml", None).config.unwrap();
        let column = |name: &str, origin| OutputColumn { name: name.into(), origin };
        assert_eq!(
            config.outputs(),
            [OutputTable {
                source: config.tables().remove(0),
                name: Some("l".into()),
                star: OutputStar::All,
                columns: vec![
                    column("o", OutputOrigin::Column("owner".into())),
                    column("name", OutputOrigin::Computed),
                ],
            }]
        );
    }
}
