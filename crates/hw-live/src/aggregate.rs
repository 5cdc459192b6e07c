//! Aggregates over groups of rows: what is wanted, and what Postgres is asked for beside it so that it can be kept.
//!
//! A result of groups is told as rows are: its keys are the values by which it is grouped, its records the groups
//! with their aggregates. How many rows a query has is an aggregate without groups.

/// What is wanted of a query instead of its rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Groups {
    /// By what rows are grouped: of rows that are equal in all of these there is one group. Without any there is
    /// one group, also of no row.
    pub by: Vec<GroupedBy>,
    /// What is computed of each group.
    pub aggregates: Vec<Aggregate>,
}

/// A column by which rows are grouped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupedBy {
    /// Its name in records.
    pub field: String,
    /// The column.
    pub column: String,
    /// Whether its values are told as texts.
    pub as_text: bool,
}

/// One aggregate of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Aggregate {
    /// Its name in records.
    pub field: String,
    /// What is computed.
    pub function: Function,
    /// Of the values of which column; `None`: of rows, which can only be counted.
    pub column: Option<String>,
    /// Whether it is told as a text.
    pub as_text: bool,
}

/// What can be computed of a group. NULL counts for nothing in any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// How many there are.
    Count,
    /// Their sum; NULL of none.
    Sum,
    /// Their mean; NULL of none.
    Avg,
    /// The least; NULL of none.
    Min,
    /// The greatest; NULL of none.
    Max,
}

impl Groups {
    /// How many rows there are, under this name.
    pub fn count(field: &str) -> Groups {
        let field = field.to_owned();
        let count = Aggregate { field, function: Function::Count, column: None, as_text: false };
        Groups { by: Vec::new(), aggregates: vec![count] }
    }
}

impl Function {
    /// As Postgres calls it.
    pub fn name(self) -> &'static str {
        match self {
            Function::Count => "count",
            Function::Sum => "sum",
            Function::Avg => "avg",
            Function::Min => "min",
            Function::Max => "max",
        }
    }

    /// The SQL of what has to be known of a group to keep this aggregate of it ([`crate::LiveQuery::rows`]).
    ///
    /// - Takes: the type of the values as SQL names it, and their SQL; `None`: it is of rows.
    pub fn state(self, of: Option<(&str, &str)>) -> String {
        let Some((ty, values)) = of else { return "pg_catalog.count(*)".to_owned() };
        let aggregate = |name: &str| format!("pg_catalog.{name}({values})");
        match (self, ty) {
            (Function::Count, _) => aggregate("count"),
            (Function::Sum | Function::Avg, "smallint" | "integer" | "bigint") => {
                format!(
                    "pg_catalog.jsonb_build_array({}, {})",
                    aggregate("count"),
                    aggregate("sum")
                )
            }
            // Sums have as many digits behind the point as the value that has most.
            (Function::Sum | Function::Avg, "numeric") => {
                let scale = format!("pg_catalog.scale({values})");
                format!(
                    "pg_catalog.jsonb_build_array({}, {}, pg_catalog.min({scale}), pg_catalog.max({scale}))",
                    aggregate("count"),
                    aggregate("sum")
                )
            }
            // Of other numbers a sum depends on the order in which they are added.
            (Function::Sum | Function::Avg, _) => "NULL".to_owned(),
            (Function::Min | Function::Max, _) => {
                format!("pg_catalog.to_jsonb({}::text)", aggregate(self.name()))
            }
        }
    }
}
