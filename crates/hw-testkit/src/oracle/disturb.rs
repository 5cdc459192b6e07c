//! What goes wrong among the traffic, each kind with a switch.

use std::collections::BTreeSet;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::plan::Step;
use super::traffic;
use super::world::{Form, Table, World};

/// A kind of disturbance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disturbance {
    /// `ADD COLUMN`, which is NULL in all rows.
    AddColumn,
    /// `ADD COLUMN` with a constant default: no row is rewritten.
    AddDefault,
    /// `ADD COLUMN` with a volatile default: every row is rewritten.
    AddVolatile,
    /// `DROP COLUMN`.
    DropColumn,
    /// `RENAME COLUMN`.
    RenameColumn,
    /// `ALTER COLUMN TYPE USING`.
    ChangeType,
    /// A table is renamed away and back.
    RenameAway,
    /// Two tables exchange their names.
    SwapNames,
    /// `SET SCHEMA`, and back.
    MoveSchema,
    /// A table is dropped and made again.
    DropTable,
    /// A partition is attached that has rows.
    AttachFilled,
    /// A partition is detached, and attached again with changed rows.
    Detach,
    /// A partition is dropped.
    DropLeaf,
    /// A partition is emptied.
    TruncateLeaf,
    /// Another replica identity.
    Identity,
    /// `REPLICA IDENTITY NOTHING`, and back.
    NoIdentity,
    /// The primary key is dropped, and comes back.
    NoPrimaryKey,
    /// Another primary key under `REPLICA IDENTITY FULL`.
    OtherPrimaryKey,
    /// A label of an enum is renamed.
    RenameLabel,
    /// A composite type gets an attribute.
    AddAttribute,
    /// A table leaves the publication and comes back.
    Unpublish,
    /// The publication leaves out actions for a while.
    Actions,
    /// Leaves are published as themselves for a while.
    ViaRoot,
    /// The publication filters rows of a table for a while.
    RowFilter,
    /// The publication leaves out columns of a table for a while: one that all definitions need, or those
    /// that only `*` gives.
    ColumnList,
    /// The publication is dropped and made again.
    Republish,
    /// A permission table is dropped and made again.
    MembersDropped,
    /// A permission table is renamed away and back.
    MembersRenamed,
    /// A permission table leaves the publication and comes back.
    MembersUnpublished,
    /// Another sync configuration over the same tables, by SIGHUP.
    Reconfigure,
    /// Another sync configuration with new tables, by SIGHUP.
    ReconfigureTables,
    /// Another sync configuration over the same tables, and back.
    Rollback,
    /// Another sync configuration with new tables, and back.
    RollbackTables,
    /// The slot is dropped by hand while the server is down.
    DropSlot,
    /// The server is killed.
    Kill,
    /// Postgres is stopped at once.
    PostgresCrash,
    /// Connections of clients are cut.
    CutClients,
    /// Connections to Postgres are cut.
    CutSource,
    /// Connections to Postgres fall silent.
    HalfOpenSource,
    /// Connections to Postgres are slow.
    SlowSource,
    /// The disk of the store is full for a while.
    FullDisk,
    /// One call that writes to the store fails.
    DiskError,
    /// The disk of the store is slow.
    SlowDisk,
    /// An older copy of the store is put back.
    OldStore,
    /// A second server wants the slot.
    SecondServer,
    /// Postgres is put back to an older image of its disk.
    RestoredImage,
}

use Disturbance::*;

/// All kinds, each either on or with the finding that it waits for. One that waits is run with
/// `HEADWATER_DISTURB=DropColumn cargo nextest run --workspace -E 'package(hw-faults) and
/// test(every_client_equals_sql)'`.
const SWITCHES: &[(Disturbance, Option<&str>)] = &[
    (AddColumn, None),
    (AddDefault, None),
    (AddVolatile, None),
    (DropColumn, None),
    (RenameColumn, None),
    (ChangeType, None),
    (RenameAway, None),
    (SwapNames, None),
    (MoveSchema, None),
    (DropTable, None),
    (AttachFilled, None),
    (Detach, None),
    (DropLeaf, None),
    (TruncateLeaf, None),
    (Identity, None),
    (NoIdentity, None),
    (NoPrimaryKey, None),
    (OtherPrimaryKey, None),
    (RenameLabel, None),
    (AddAttribute, None),
    (Unpublish, None),
    (Actions, None),
    (ViaRoot, None),
    (RowFilter, None),
    (ColumnList, None),
    (Republish, None),
    (MembersDropped, None),
    (MembersRenamed, None),
    (MembersUnpublished, None),
    (Reconfigure, None),
    (ReconfigureTables, None),
    (Rollback, None),
    (RollbackTables, None),
    (DropSlot, None),
    (Kill, None),
    (PostgresCrash, None),
    (CutClients, None),
    (CutSource, None),
    (HalfOpenSource, None),
    (SlowSource, None),
    (FullDisk, None),
    (DiskError, None),
    (SlowDisk, None),
    (OldStore, None),
    (SecondServer, None),
    (RestoredImage, None),
];

/// Those that are on; `HEADWATER_DISTURB` (names with commas, or `all`) turns on others.
pub(super) fn enabled() -> Vec<Disturbance> {
    let asked = std::env::var("HEADWATER_DISTURB").unwrap_or_default();
    let is_on = |(what, waits): &&(Disturbance, Option<&str>)| match asked.as_str() {
        "" => waits.is_none(),
        "all" => true,
        names => names.split(',').any(|name| name == format!("{what:?}")),
    };
    SWITCHES.iter().filter(is_on).map(|(what, _)| *what).collect()
}

/// Whether a kind needs a Postgres of its own.
pub(super) fn is_wild(what: Disturbance) -> bool {
    matches!(what, PostgresCrash | RestoredImage)
}

/// What is done, and what is done later in the same batch.
pub(super) type Sequence = (Vec<Step>, Vec<Step>);

/// Whether two change the same table and one has an end, which would find another table than it
/// expects.
pub(super) fn meet(one: &Sequence, other: &Sequence) -> bool {
    let tables = |(first, later): &Sequence| -> BTreeSet<String> {
        let of = |step: &Step| match step {
            Step::Ddl { touches, .. } => touches.clone(),
            _ => Vec::new(),
        };
        first.iter().chain(later).flat_map(of).collect()
    };
    let ends = !one.1.is_empty() || !other.1.is_empty();
    ends && !tables(one).is_disjoint(&tables(other))
}

/// What a plan remembers of its disturbances.
#[derive(Default)]
pub(super) struct Memory {
    /// For names that were never used.
    pub count: usize,
    /// Columns that were added.
    columns: Vec<(String, String)>,
    /// The first label of `mood`.
    label: Option<String>,
}

fn ddl(touches: &[&str], text: impl Into<String>) -> Step {
    Step::Ddl { text: text.into(), touches: touches.iter().map(|t| (*t).to_owned()).collect() }
}

fn named(table: &str) -> Step {
    Step::Named { table: format!("public.{table}") }
}

/// Every table that may be published, for statements that name them all; one of them differently.
fn published(world: &World, one: &str, differently: &str) -> String {
    let names = world.tables.iter().map(|table| &table.name);
    let names = names.chain(world.memberships.iter().map(|membership| &membership.name));
    let names = names.map(|name| match name == one {
        true => format!("{name} {differently}"),
        false => name.clone(),
    });
    let all: Vec<String> = names.chain(["flood".to_owned()]).collect();
    all.join(", ")
}

/// The steps of one disturbance; `None` where this world has nothing for it.
pub(super) fn sequence(
    what: Disturbance,
    rng: &mut StdRng,
    world: &World,
    memory: &mut Memory,
) -> Option<Sequence> {
    memory.count += 1;
    let count = memory.count;
    let of = |rng: &mut StdRng, forms: &[Form]| -> Option<Table> {
        let fit: Vec<&Table> = world.tables.iter().filter(|t| forms.contains(&t.form)).collect();
        fit.choose(rng).map(|table| (*table).clone())
    };
    let any = world.tables.choose(rng).expect("there is one").clone();
    let membership = world.memberships.choose(rng).expect("there is one").clone();
    let all: Vec<&str> = world
        .tables
        .iter()
        .map(|table| table.name.as_str())
        .chain(world.memberships.iter().map(|membership| membership.name.as_str()))
        .chain(["flood"])
        .collect();
    let name = any.name.as_str();
    let alter = |rng: &mut StdRng, change: String| -> Sequence {
        let text = match rng.random_range(0..3) {
            // With rows of the same transaction before and behind it.
            0 => format!(
                "BEGIN; UPDATE {name} SET kind = kind + 1 WHERE kind < 2; ALTER TABLE {name} {change}; \
                 UPDATE {name} SET kind = kind - 1 WHERE kind > 2; COMMIT"
            ),
            _ => format!("ALTER TABLE {name} {change}"),
        };
        (vec![ddl(&[name], text)], Vec::new())
    };
    let sequence = match what {
        AddColumn | AddDefault | AddVolatile => {
            let column = format!("x{count}");
            memory.columns.push((any.name.clone(), column.clone()));
            let kind = match what {
                AddColumn => "text",
                AddDefault => "text DEFAULT 'constant'",
                _ => "int4 DEFAULT (random() * 1000)::int4",
            };
            alter(rng, format!("ADD COLUMN {column} {kind}"))
        }
        DropColumn | RenameColumn => {
            let at = memory.columns.iter().position(|(table, _)| table == name);
            let column = match at {
                Some(at) => memory.columns.remove(at).1,
                None => "num".to_owned(),
            };
            match what {
                DropColumn => alter(rng, format!("DROP COLUMN {column}")),
                _ => {
                    memory.columns.push((any.name.clone(), format!("x{count}")));
                    alter(rng, format!("RENAME COLUMN {column} TO x{count}"))
                }
            }
        }
        ChangeType => match rng.random_bool(0.5) {
            true => alter(rng, "ALTER COLUMN num TYPE int8 USING num * 100".into()),
            false => alter(rng, "ALTER COLUMN num TYPE int4 USING num % 1000 + 1".into()),
        },
        RenameAway => away(
            name,
            format!("ALTER TABLE {name} RENAME TO {name}_away"),
            format!("ALTER TABLE {name}_away RENAME TO {name}"),
        ),
        MoveSchema => away(
            name,
            format!("ALTER TABLE {name} SET SCHEMA far"),
            format!("ALTER TABLE far.{name} SET SCHEMA public"),
        ),
        SwapNames => {
            let like = |other: &&Table| {
                other.name != any.name && other.form == any.form && other.key == any.key
            };
            let other = world.tables.iter().find(like)?.name.as_str();
            let text = format!(
                "BEGIN; ALTER TABLE {name} RENAME TO {name}_tmp; ALTER TABLE {other} RENAME TO {name}; \
                 ALTER TABLE {name}_tmp RENAME TO {other}; COMMIT"
            );
            (vec![ddl(&[name, other], text)], Vec::new())
        }
        DropTable => {
            let rows: Vec<String> = (0..5).map(|_| traffic::insert(rng, world, &any)).collect();
            let again = format!("{} {}", any.create.replace('\n', " "), rows.join("; "));
            remade(rng, name, again)
        }
        AttachFilled => {
            let table = of(rng, &[Form::Partitioned])?;
            let (name, leaf, bounds) = (&table.name, &table.leaves()[1], table.bounds(1));
            let text = format!(
                "BEGIN; CREATE TABLE {name}_new (LIKE {leaf} INCLUDING ALL); \
                 INSERT INTO {name}_new SELECT * FROM {leaf}; \
                 UPDATE {name}_new SET tag = 'attached', kind = 1; DROP TABLE {leaf}; \
                 ALTER TABLE {name}_new RENAME TO {leaf}; \
                 ALTER TABLE {name} ATTACH PARTITION {leaf} {bounds}; COMMIT"
            );
            (vec![ddl(&[name], text)], Vec::new())
        }
        Detach => {
            let table = of(rng, &[Form::Partitioned])?;
            let (name, leaf, bounds) = (&table.name, &table.leaves()[0], table.bounds(0));
            let away = ddl(&[name], format!("ALTER TABLE {name} DETACH PARTITION {leaf}"));
            let change = ddl(&[name], format!("UPDATE {leaf} SET tag = 'detached'"));
            let back = ddl(&[name], format!("ALTER TABLE {name} ATTACH PARTITION {leaf} {bounds}"));
            (vec![away, change], vec![back])
        }
        DropLeaf => {
            let table = of(rng, &[Form::Partitioned])?;
            let (name, leaf, bounds) = (&table.name, &table.leaves()[2], table.bounds(2));
            let text =
                format!("DROP TABLE {leaf}; CREATE TABLE {leaf} PARTITION OF {name} {bounds}");
            (vec![ddl(&[name], text)], Vec::new())
        }
        TruncateLeaf => {
            let table = of(rng, &[Form::Partitioned])?;
            let text = format!("TRUNCATE {}", table.leaves().choose(rng).expect("three"));
            (vec![ddl(&[&table.name], text)], Vec::new())
        }
        Identity => {
            let table = of(rng, &[Form::Plain, Form::Composite])?;
            let name = &table.name;
            let to = match rng.random_range(0..3) {
                0 => "FULL".to_owned(),
                1 => "DEFAULT".to_owned(),
                _ => format!("USING INDEX {name}_alt"),
            };
            (vec![ddl(&[name], format!("ALTER TABLE {name} REPLICA IDENTITY {to}"))], Vec::new())
        }
        NoIdentity => {
            let table = of(rng, &[Form::Plain, Form::Composite])?;
            let name = &table.name;
            away(
                name,
                format!("ALTER TABLE {name} REPLICA IDENTITY NOTHING"),
                format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT"),
            )
        }
        NoPrimaryKey => {
            let table = of(rng, &[Form::Plain])?;
            let name = &table.name;
            away(
                name,
                format!(
                    "ALTER TABLE {name} REPLICA IDENTITY DEFAULT; \
                     ALTER TABLE {name} DROP CONSTRAINT {name}_pkey"
                ),
                format!("ALTER TABLE {name} ADD CONSTRAINT {name}_pkey PRIMARY KEY (id)"),
            )
        }
        OtherPrimaryKey => {
            let table = of(rng, &[Form::Plain])?;
            let name = &table.name;
            let text = format!(
                "ALTER TABLE {name} REPLICA IDENTITY FULL; \
                 CREATE UNIQUE INDEX IF NOT EXISTS {name}_id ON {name} (id); \
                 ALTER TABLE {name} DROP CONSTRAINT {name}_pkey, \
                   ADD CONSTRAINT {name}_pkey PRIMARY KEY (id, alt)"
            );
            (vec![ddl(&[name], text)], Vec::new())
        }
        RenameLabel => {
            let label = memory.label.take().unwrap_or_else(|| "calm".into());
            let text = format!("ALTER TYPE mood RENAME VALUE '{label}' TO 'calm{count}'");
            memory.label = Some(format!("calm{count}"));
            (vec![ddl(&all, text)], Vec::new())
        }
        AddAttribute => {
            let table = of(rng, &[Form::Composite])?;
            let text = format!("ALTER TYPE addr_{} ADD ATTRIBUTE a{count} text", table.name);
            (vec![ddl(&[&table.name], text)], Vec::new())
        }
        Unpublish => unpublished(name),
        Actions => {
            let few = *["insert", "insert, update", "update, delete", "insert, update, delete"]
                .choose(rng)
                .expect("not empty");
            publication(
                &all,
                format!("SET (publish = '{few}')"),
                "SET (publish = 'insert, update, delete, truncate')".into(),
            )
        }
        ViaRoot => publication(
            &all,
            "SET (publish_via_partition_root = false)".into(),
            "SET (publish_via_partition_root = true)".into(),
        ),
        RowFilter => publication(
            &all,
            format!("SET TABLE {}", published(world, name, "WHERE (length(id::text) > 2)")),
            format!("SET TABLE {}", published(world, "", "")),
        ),
        ColumnList => {
            let key = if any.form == Form::Composite { "id, org" } else { "id" };
            // Every definition of the table reads `alt`; what is altered in others is seen through `*` alone.
            let is_needed = rng.random_bool(0.6);
            let columns = match is_needed {
                true => format!("({key})"),
                false => {
                    format!("({key}, owner, grp, kind, tag, flag, amount, meta, alt, body)")
                }
            };
            let (mut first, later) = publication(
                &all,
                format!("SET TABLE {}", published(world, name, &columns)),
                format!("SET TABLE {}", published(world, "", "")),
            );
            first.extend(is_needed.then(|| named(name)));
            (first, later)
        }
        Republish => {
            let again = format!(
                "CREATE PUBLICATION headwater FOR TABLE {} WITH (publish_via_partition_root = true)",
                published(world, "", "")
            );
            (vec![ddl(&all, "DROP PUBLICATION headwater")], vec![ddl(&all, again)])
        }
        MembersDropped => {
            let rows: Vec<String> =
                (0..3).map(|_| traffic::join(rng, world, &membership)).collect();
            let again = format!("{} {}", membership.create.replace('\n', " "), rows.join("; "));
            remade(rng, &membership.name, again)
        }
        MembersRenamed => {
            let name = &membership.name;
            away(
                name,
                format!("ALTER TABLE {name} RENAME TO {name}_away"),
                format!(
                    "DELETE FROM {name}_away WHERE member = 'amy'; \
                     ALTER TABLE {name}_away RENAME TO {name}"
                ),
            )
        }
        MembersUnpublished => unpublished(&membership.name),
        Reconfigure => (vec![Step::Configure { to: 1 }], Vec::new()),
        ReconfigureTables => (vec![Step::Configure { to: 2 }], Vec::new()),
        Rollback => (vec![Step::Configure { to: 1 }], vec![Step::Configure { to: 0 }]),
        RollbackTables => (vec![Step::Configure { to: 2 }], vec![Step::Configure { to: 0 }]),
        DropSlot => (vec![Step::DropSlot], Vec::new()),
        Kill => (vec![Step::Kill], Vec::new()),
        PostgresCrash => (vec![Step::PostgresCrash], Vec::new()),
        CutClients => {
            let after = rng.random_bool(0.5).then(|| rng.random_range(1..4000));
            (vec![Step::CutClients { after, reset: rng.random_bool(0.5) }], Vec::new())
        }
        CutSource => {
            let after = rng.random_bool(0.5).then(|| rng.random_range(1..4000));
            (vec![Step::CutSource { after, reset: rng.random_bool(0.5) }], Vec::new())
        }
        HalfOpenSource => (vec![Step::HalfOpenSource], vec![Step::HealSource]),
        SlowSource => (vec![Step::SlowSource { kilobytes: 64 }], vec![Step::HealSource]),
        FullDisk => (vec![Step::FillDisk], vec![Step::FreeDisk]),
        DiskError => {
            let errno = *[libc::EIO, libc::ENOSPC, libc::EMFILE].choose(rng).expect("not empty");
            (vec![Step::DiskError { call: rng.random_range(1..40), errno }], Vec::new())
        }
        SlowDisk => {
            (vec![Step::SlowDisk { milliseconds: 100 }], vec![Step::SlowDisk { milliseconds: 0 }])
        }
        OldStore => {
            (vec![Step::SaveStore], vec![Step::OldStore { confirmed: rng.random_bool(0.7) }])
        }
        SecondServer => (vec![Step::SecondServer], Vec::new()),
        RestoredImage => (vec![Step::SaveImage], vec![Step::OldImage]),
    };
    Some(sequence)
}

/// A table that cannot be followed for a while, which the status names.
fn away(table: &str, gone: String, back: String) -> Sequence {
    (vec![ddl(&[table], gone), named(table)], vec![ddl(&[table], back)])
}

/// A table that is dropped and made again, at once or with a while between.
fn remade(rng: &mut StdRng, table: &str, again: String) -> Sequence {
    match rng.random_bool(0.5) {
        true => (vec![ddl(&[table], format!("DROP TABLE {table}; {again}"))], Vec::new()),
        false => away(table, format!("DROP TABLE {table}"), again),
    }
}

/// Our publication is ours to mend, so nobody need be told; whoever is first adds it again.
fn unpublished(table: &str) -> Sequence {
    (
        vec![ddl(&[table], format!("ALTER PUBLICATION headwater DROP TABLE {table}"))],
        vec![ddl(&[table], format!("ALTER PUBLICATION headwater ADD TABLE {table}"))],
    )
}

fn publication(touches: &[&str], change: String, back: String) -> Sequence {
    let alter = |what: String| ddl(touches, format!("ALTER PUBLICATION headwater {what}"));
    (vec![alter(change)], vec![alter(back)])
}
