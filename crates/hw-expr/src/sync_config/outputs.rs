//! How client tables come from source tables, for those who write back.
//!
//! A client's change arrives under output names. It can be written to the source only where an
//! output is a plain column, under its own name or another; what is computed has no way back.

use super::SyncConfig;
use super::data::{DataQuery, OutputItem, StarRule};
use super::plan::RowName;
use crate::expr::Expr;
use crate::value::SqlValue;
use hw_types::TablePattern;
use std::collections::BTreeSet;

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
    /// Whether `*` stands behind it, so that a column of this name in the table, if it has one,
    /// is sent instead.
    pub yields: bool,
}

/// Where an output's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputOrigin {
    /// This column, unchanged.
    Column(String),
    /// Columns with texts before, between and behind them: `'u-' || tenant || '/' || n`. Two columns
    /// always have a text between them, so that a value can be taken apart again.
    Joined(Vec<OutputPart>),
    /// An expression.
    Computed,
}

/// A part of a joined output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputPart {
    /// The text of this column's value.
    Column(String),
    /// This text, which is not empty.
    Text(String),
}

impl SyncConfig {
    /// What every data query sends, without duplicates, in the order of the configuration.
    pub fn outputs(&self) -> Vec<OutputTable> {
        self.outputs_of(|_| true)
    }

    /// What the data queries of these definitions (by their place) send, without duplicates, in the order of the
    /// configuration.
    pub fn outputs_of(&self, is_meant: impl Fn(usize) -> bool) -> Vec<OutputTable> {
        let meant = self.queriers.iter().filter(|querier| is_meant(querier.definition));
        let sources: BTreeSet<usize> = meant.map(|querier| querier.source).collect();
        let mut out: Vec<OutputTable> = Vec::new();
        for query in sources.into_iter().flat_map(|source| &self.sources[source].queries) {
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
                columns.iter_mut().for_each(|column| column.yields = true);
            }
            (OutputItem::Named(name, value), _) => {
                let origin = match value {
                    Expr::Ref(RowName::Column(column)) => OutputOrigin::Column(column.clone()),
                    value => joined(value).map_or(OutputOrigin::Computed, OutputOrigin::Joined),
                };
                columns.retain(|c| c.name != *name);
                columns.push(OutputColumn { name: name.clone(), origin, yields: false });
            }
        }
    }
    OutputTable { source: query.table.clone(), name: query.output.clone(), star, columns }
}

/// The parts of an expression that only joins columns and texts; `None` for any other, and for one
/// whose values cannot be taken apart again.
fn joined(value: &Expr<RowName>) -> Option<Vec<OutputPart>> {
    let mut parts = Vec::new();
    collect(value, &mut parts)?;
    let apart = parts
        .windows(2)
        .all(|pair| !matches!(pair, [OutputPart::Column(_), OutputPart::Column(_)]));
    let any = parts.iter().any(|part| matches!(part, OutputPart::Column(_)));
    (apart && any).then_some(parts)
}

fn collect(value: &Expr<RowName>, parts: &mut Vec<OutputPart>) -> Option<()> {
    match value {
        Expr::Call(routine, operands) if routine.key == "||" => {
            operands.iter().try_for_each(|operand| collect(operand, parts))?;
        }
        // A column has the same text with and without it.
        Expr::Call(routine, operands) if routine.key == "cast text" => {
            operands.iter().try_for_each(|operand| collect(operand, parts))?;
        }
        Expr::Ref(RowName::Column(column)) => parts.push(OutputPart::Column(column.clone())),
        Expr::Literal(SqlValue::Text(text)) if text.is_empty() => {}
        Expr::Literal(SqlValue::Text(text)) => match parts.last_mut() {
            Some(OutputPart::Text(before)) => before.push_str(text),
            _ => parts.push(OutputPart::Text(text.to_string())),
        },
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_with_texts_between_them_can_be_taken_apart_again_and_others_cannot() {
        let origin = |expression: &str| {
            let yaml = format!(
                "config: {{edition: 3}}\nstreams:\n  s:\n    query: \"SELECT {expression} AS id FROM t\"\n"
            );
            let loaded = SyncConfig::load(&yaml, "sync.yaml", None);
            let config = loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics));
            config.outputs().remove(0).columns.remove(0).origin
        };
        let column = |name: &str| OutputPart::Column(name.into());
        let text = |text: &str| OutputPart::Text(text.into());
        for (expression, parts) in [
            ("a || '/' || b", vec![column("a"), text("/"), column("b")]),
            ("'u-' || CAST(a AS TEXT)", vec![text("u-"), column("a")]),
            (
                "a || (':' || '' || ':') || b || ';'",
                vec![column("a"), text("::"), column("b"), text(";")],
            ),
        ] {
            assert_eq!(origin(expression), OutputOrigin::Joined(parts), "{expression}");
        }
        for expression in ["a || b", "a || '' || b", "upper(a) || '/' || b", "a || 1"] {
            assert_eq!(origin(expression), OutputOrigin::Computed, "{expression}");
        }
    }

    #[test]
    fn what_stands_before_a_star_yields_to_a_column_of_its_name() {
        let yaml =
            "config: {edition: 3}\nstreams:\n  s:\n    query: SELECT uid AS id, *, a AS b FROM t\n";
        let config = SyncConfig::load(yaml, "sync.yaml", None).config.unwrap();
        let columns = config.outputs().remove(0).columns;
        let yields: Vec<_> = columns.iter().map(|c| (c.name.as_str(), c.yields)).collect();
        assert_eq!(yields, [("id", true), ("b", false)]);
    }

    #[test]
    fn plain_columns_have_a_way_back_and_computed_ones_have_none() {
        let yaml = "config: {edition: 3}\nstreams:\n  s:\n    query: SELECT l.*, owner AS o, \
                    upper(name) AS name FROM lists AS l\n";
        let config = SyncConfig::load(yaml, "sync.yaml", None).config.unwrap();
        let column = |name: &str, origin| OutputColumn { name: name.into(), origin, yields: false };
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
