//! Groups of a query's rows as SQL.
//!
//! In: a [`Query`], an [`Aggregation`] and the [`Shape`] of their table. Out: [`Sql`] whose rows are groups, and what
//! it takes to keep them live. Postgres computes what it is asked for; what it could not compute is refused here, with
//! what to write instead.

use crate::statement::{Column, Kind, Output, Shape, Unknown, Writer};
use crate::wire::{Aggregate, Aggregation, Query};
use hw_live::{Function, GroupedBy, Groups};
use hw_types::Sql;

/// The groups of a query's rows, each as one JSON object.
pub fn groups(query: &Query, groups: &Aggregation, shape: &Shape) -> Result<Sql, Unknown> {
    let mut writer = Writer::new(shape);
    Grouped::of(groups, shape)?.write(query, &mut writer, false)?;
    Ok(writer.statement)
}

/// The same as it is kept live: the statement gives key, record and state ([`hw_live::LiveQuery::rows`]).
pub fn live_groups(
    query: &Query,
    groups: &Aggregation,
    shape: &Shape,
) -> Result<(Sql, Groups), Unknown> {
    let mut writer = Writer::new(shape);
    let grouped = Grouped::of(groups, shape)?;
    grouped.write(query, &mut writer, true)?;
    Ok((writer.statement, grouped.live(shape)))
}

/// How many rows a query has, as it is kept live: the same without groups, of one aggregate.
pub fn live_count(query: &Query, shape: &Shape) -> Result<(Sql, Groups), Unknown> {
    let count = Aggregate { function: Function::Count, field: None };
    let aggregates = [(COUNT.to_owned(), count)].into();
    live_groups(query, &Aggregation { group_by: Vec::new(), aggregates }, shape)
}

/// The name of the aggregate that counts are.
pub(crate) const COUNT: &str = "count";

/// Groups with the places of their columns.
struct Grouped<'a> {
    by: Vec<usize>,
    computed: Vec<Computed<'a>>,
}

struct Computed<'a> {
    name: &'a str,
    function: Function,
    column: Option<usize>,
    as_text: bool,
}

impl<'a> Grouped<'a> {
    fn of(groups: &'a Aggregation, shape: &Shape) -> Result<Grouped<'a>, Unknown> {
        let column = |field: &str| {
            shape.fields.column(field).ok_or_else(|| Unknown::Field {
                table: shape.name.1.clone(),
                field: field.to_owned(),
            })
        };
        let by: Vec<usize> =
            groups.group_by.iter().map(|field| column(field)).collect::<Result<_, _>>()?;
        for (number, place) in by.iter().enumerate() {
            let field = shape.fields.field(*place);
            check_grouped(field, &shape.columns[*place])?;
            // One column has several names, and a record one member of a name.
            if by[..number].contains(place) || groups.aggregates.contains_key(field) {
                return Err(Unknown::Aggregate(format!(
                    "\"{field}\" stands twice in a group: as a field of groupBy, and as another one or an aggregate"
                )));
            }
            if groups.group_by[number] != field {
                // Records have it under its own name, by which whoever asks tells groups apart.
                return Err(Unknown::Aggregate(format!(
                    "groupBy has \"{}\", whose name is \"{field}\"",
                    groups.group_by[number]
                )));
            }
        }
        let mut computed = Vec::with_capacity(groups.aggregates.len());
        for (name, Aggregate { function, field }) in &groups.aggregates {
            let column = field.as_deref().map(column).transpose()?;
            if let Some(column) = column {
                check_computed(*function, shape.fields.field(column), &shape.columns[column])?;
            }
            // What is computed of values that go out as texts does as well; JavaScript has what is counted.
            let is_text = |column: usize| shape.columns[column].as_text;
            let as_text = *function != Function::Count && column.is_some_and(is_text);
            computed.push(Computed { name, function: *function, column, as_text });
        }
        Ok(Grouped { by, computed })
    }

    /// - Takes: whether it is kept live.
    fn write(&self, query: &Query, writer: &mut Writer<'_>, is_live: bool) -> Result<(), Unknown> {
        let shape = writer.shape;
        writer.sql("SELECT ");
        if is_live {
            let key = self.by.iter().map(|column| value(*column, shape.columns[*column].as_text));
            writer.sql(&format!(
                "pg_catalog.jsonb_build_array({})::text, ",
                key.collect::<Vec<_>>().join(", ")
            ));
        }
        writer.sql("pg_catalog.jsonb_build_object(");
        let by = self.by.iter().map(|column| {
            let as_text = shape.columns[*column].as_text;
            (shape.fields.field(*column), value(*column, as_text))
        });
        let computed = self.computed.iter().map(|it| (it.name, it.sql()));
        for (number, (name, sql)) in by.chain(computed).enumerate() {
            writer.sql(if number > 0 { ", " } else { "" });
            writer.parameter(name.to_owned());
            writer.sql(&format!(", {sql}"));
        }
        writer.sql(")::text");
        if is_live {
            writer.sql(", pg_catalog.jsonb_build_array(pg_catalog.count(*)");
            for Computed { function, column, .. } in &self.computed {
                let of =
                    column.map(|column| (&*shape.columns[column].type_name, value(column, false)));
                writer.sql(", ");
                writer.sql(&function.state(of.as_ref().map(|(ty, sql)| (*ty, &**sql))));
            }
            writer.sql(")::text");
        }
        let mut columns: Vec<usize> = self.computed.iter().filter_map(|it| it.column).collect();
        columns.extend(&self.by);
        columns.sort_unstable();
        columns.dedup();
        writer.sql(" FROM (");
        writer.select(query, Output::Columns(&columns))?;
        writer.sql(") AS q");
        for (number, column) in self.by.iter().enumerate() {
            writer.sql(if number > 0 { ", " } else { " GROUP BY " });
            writer.sql(&value(*column, false));
        }
        Ok(())
    }

    fn live(&self, shape: &Shape) -> Groups {
        let name = |column: usize| shape.columns[column].name.clone();
        let by = self.by.iter().map(|column| GroupedBy {
            field: shape.fields.field(*column).to_owned(),
            column: name(*column),
            as_text: shape.columns[*column].as_text,
        });
        let aggregates = self.computed.iter().map(|it| hw_live::Aggregate {
            field: it.name.to_owned(),
            function: it.function,
            column: it.column.map(name),
            as_text: it.as_text,
        });
        Groups { by: by.collect(), aggregates: aggregates.collect() }
    }
}

impl Computed<'_> {
    fn sql(&self) -> String {
        let of = self.column.map_or_else(|| "*".to_owned(), |column| value(column, false));
        let text = if self.as_text { "::text" } else { "" };
        format!("pg_catalog.{}({of}){text}", self.function.name())
    }
}

fn value(column: usize, as_text: bool) -> String {
    format!("q.c{column}{}", if as_text { "::text" } else { "" })
}

/// Types whose values Postgres does not compare, not even with themselves.
const NOT_COMPARED: [&str; 9] =
    ["json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle"];

/// Those that it compares, and of which no version, or not every one, has a least and a greatest value.
const NOT_ORDERED: [&str; 6] = ["boolean", "jsonb", "uuid", "bytea", "tsvector", "tsquery"];

const SUMMED: [&str; 8] =
    ["smallint", "integer", "bigint", "numeric", "real", "double precision", "money", "interval"];

fn check_grouped(field: &str, column: &Column) -> Result<(), Unknown> {
    let Column { type_name, kind, .. } = column;
    if *kind == Kind::Array {
        return Err(Unknown::Aggregate(format!(
            "rows cannot be grouped by \"{field}\": arrays that are not equal may be the same in JSON. Group by a column \
             that has of it what you need"
        )));
    }
    if NOT_COMPARED.contains(&&**type_name) {
        return Err(Unknown::Aggregate(format!(
            "rows cannot be grouped by \"{field}\": the database does not compare values of the type {type_name}. \
             Group by a column that has of it what you need"
        )));
    }
    Ok(())
}

fn check_computed(function: Function, field: &str, column: &Column) -> Result<(), Unknown> {
    let Column { type_name, .. } = column;
    let name = type_name.as_str();
    let (takes, instead) = match function {
        Function::Count => return Ok(()),
        Function::Sum | Function::Avg => {
            if SUMMED.contains(&name) && !(function == Function::Avg && name == "money") {
                return Ok(());
            }
            ("takes numbers and intervals", "Count its values, or group by it")
        }
        Function::Min | Function::Max => {
            if !NOT_COMPARED.contains(&name) && !NOT_ORDERED.contains(&name) {
                return Ok(());
            }
            ("takes values that have an order", "Count its values")
        }
    };
    Err(Unknown::Aggregate(format!(
        "{} {takes}, and \"{field}\" has the type {type_name}. {instead}",
        function.name()
    )))
}
