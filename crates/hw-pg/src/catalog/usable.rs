//! Which tables can be replicated exactly, and what mends the others.
//!
//! Invariant E-6: what the log does not carry comes from the replica's row, which needs an
//! identity; a table without one is refused with the statement that mends it (F-25). It must be
//! refused *before* it is added to the publication: a published table without an identity makes
//! Postgres refuse the user's own updates and deletes.

use super::code;
use super::found::is_sent_unlisted;
use crate::types::changes_without_a_write;
use hw_types::facts::{ColumnFacts, Generated, Persistence, TableFacts, TableKind};
use hw_types::pattern::is_system_schema;
use hw_types::relation::quote_ident;
use hw_types::{Diagnostic, ReplicaIdentity, TableName};

/// Whether a table can be replicated as the publication sends it; as a publication of ours would
/// send it, if it does not yet.
///
/// - Returns: nothing when it can, else why not, with the statement that mends it.
pub fn usable(table: &TableFacts) -> Result<(), Diagnostic> {
    check(table).map_err(|finding| finding.at(format!("table {}", table.name)))
}

fn check(table: &TableFacts) -> Result<(), Diagnostic> {
    ordinary(&table.name, table.kind, table.persistence)?;
    if table.kind == TableKind::Ordinary {
        without_heirs(table)?;
    }
    for leaf in &table.leaves {
        if leaf.id != table.id {
            ordinary(&leaf.name, leaf.kind, leaf.persistence)?;
        }
        // The old rows of a partitioned table are logged under the identity of each partition.
        has_identity(
            &leaf.name,
            leaf.replica_identity,
            !leaf.primary_key.is_empty(),
            !leaf.identity_index.is_empty(),
        )?;
    }
    if table.kind == TableKind::Partitioned {
        let (key, index) = (!table.primary_key.is_empty(), !table.identity_index.is_empty());
        has_identity(&table.name, table.replica_identity, key, index)?;
    }
    let numbers: &[i16] = match table.replica_identity {
        ReplicaIdentity::Default => &table.primary_key,
        ReplicaIdentity::Index => &table.identity_index,
        ReplicaIdentity::Full | ReplicaIdentity::Nothing => &table.primary_key,
    };
    let sent = table.published.sent().map(|sent| sent.columns.as_slice());
    let is_sent = |column: &&ColumnFacts| match sent {
        Some(numbers) => numbers.contains(&column.number),
        None => is_sent_unlisted(None, column),
    };
    if let Some(column) = table
        .columns
        .iter()
        .filter(is_sent)
        .find(|column| changes_without_a_write(column.type_oid, &table.types))
    {
        return Err(of_names(table, column));
    }
    for column in numbers.iter().filter_map(|number| table.column_numbered(*number)) {
        if !column.deterministic {
            let what = format!(
                "key column \"{}\" of {} has a nondeterministic collation: equal keys may have \
                 different bytes",
                column.name, table.name
            );
            return Err(Diagnostic::error(code::KEY_COLLATION, what).mend(
                "use a key column with a deterministic collation, or REPLICA IDENTITY USING \
                 INDEX over one",
            ));
        }
        if sent.is_some_and(|numbers| !numbers.contains(&column.number)) {
            let what = format!(
                "the publication leaves out key column \"{}\" of {}",
                column.name, table.name
            );
            return Err(Diagnostic::error(code::KEY_NOT_PUBLISHED, what)
                .mend("name the key's columns in the publication's column list, or no columns"));
        }
    }
    if table.replica_identity == ReplicaIdentity::Full
        && let Some(numbers) = sent
        && let Some(column) = table
            .columns
            .iter()
            .find(|c| c.generated == Generated::No && !numbers.contains(&c.number))
    {
        let what = format!(
            "REPLICA IDENTITY FULL of {} needs every column, and the publication leaves out \"{}\"",
            table.name, column.name
        );
        return Err(Diagnostic::error(code::KEY_NOT_PUBLISHED, what)
            .mend("publish the table without a column list"));
    }
    Ok(())
}

fn ordinary(name: &TableName, kind: TableKind, persistence: Persistence) -> Result<(), Diagnostic> {
    let what = match kind {
        _ if is_system_schema(&name.schema) => "belongs to Postgres itself",
        TableKind::Ordinary | TableKind::Partitioned => match persistence {
            Persistence::Permanent => return Ok(()),
            Persistence::Unlogged => "is an unlogged table",
            Persistence::Temporary => "is a temporary table",
        },
        TableKind::View => "is a view",
        TableKind::MaterializedView => "is a materialized view",
        TableKind::Foreign => "is a foreign table",
        TableKind::Other => "is not a table",
    };
    let what = format!("{name} {what}: its changes are not in the log");
    let finding = Diagnostic::error(code::NO_ORDINARY_TABLE, what);
    Err(match (kind, persistence) {
        (TableKind::Ordinary, Persistence::Unlogged) => {
            finding.mend(format!("ALTER TABLE {} SET LOGGED;", name.quoted()))
        }
        (TableKind::Ordinary | TableKind::Partitioned, _) => finding.mend("name an ordinary table"),
        (TableKind::Foreign, _) => finding.mend("sync it from the database that has its rows"),
        _ => finding.mend("name the tables that it reads"),
    })
}

/// Refuses a table that others inherit from: a query of it shows their rows as well.
fn without_heirs(table: &TableFacts) -> Result<(), Diagnostic> {
    /// More are counted.
    const NAMED: usize = 3;
    let heirs: Vec<String> = table
        .leaves
        .iter()
        .filter(|leaf| leaf.id != table.id)
        .map(|leaf| leaf.name.to_string())
        .collect();
    let (named, others) = heirs.split_at(heirs.len().min(NAMED));
    let named = match (named, others.len()) {
        ([], _) => return Ok(()),
        ([one], _) => one.clone(),
        ([before @ .., last], 0) => format!("{} and {last}", before.join(", ")),
        (named, 1) => format!("{} and one other", named.join(", ")),
        (named, others) => format!("{} and {others} others", named.join(", ")),
    };
    let name = &table.name;
    let what = format!(
        "{name} shows the rows of {named} as its own, which inherit from it: the log tells their changes \
         under their own names"
    );
    let each = if heirs.len() == 1 { "that table" } else { "each of them" };
    Err(Diagnostic::error(code::HAS_HEIRS, what).mend(format!(
        "name {each} in place of {name}, and keep its own rows in one that inherits; or make it a partitioned table"
    )))
}

/// The finding for a column whose values are names of something else.
fn of_names(table: &TableFacts, column: &ColumnFacts) -> Diagnostic {
    let (name, quoted) = (&table.name, quote_ident(&column.name));
    let what = format!(
        "column \"{}\" of {name} prints names of other objects: they change when these are renamed, and the log \
         does not tell it",
        column.name
    );
    Diagnostic::error(code::VALUES_OF_NAMES, what).mend(format!(
        "keep what it says as a text: ALTER TABLE {} ALTER COLUMN {quoted} TYPE text; or leave it out with a column \
         list of the publication",
        name.quoted()
    ))
}

fn has_identity(
    name: &TableName,
    identity: ReplicaIdentity,
    has_primary_key: bool,
    has_index: bool,
) -> Result<(), Diagnostic> {
    let (why, mend) = match identity {
        ReplicaIdentity::Full => return Ok(()),
        ReplicaIdentity::Default if has_primary_key => return Ok(()),
        ReplicaIdentity::Index if has_index => return Ok(()),
        ReplicaIdentity::Default => ("has no primary key", "FULL"),
        ReplicaIdentity::Index => ("lost the index of its replica identity", "FULL"),
        ReplicaIdentity::Nothing if has_primary_key => ("has REPLICA IDENTITY NOTHING", "DEFAULT"),
        ReplicaIdentity::Nothing => ("has REPLICA IDENTITY NOTHING", "FULL"),
    };
    let what = format!("{name} {why}: the log does not tell which row was updated or deleted");
    Err(Diagnostic::error(code::NO_ROW_IDENTITY, what)
        .mend(format!("ALTER TABLE {} REPLICA IDENTITY {mend};", name.quoted())))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{sent, table, with_leaf};
    use super::*;
    use hw_types::RelationId;
    use hw_types::facts::{LeafFacts, MadeOf, TypeAttribute, TypeFacts};

    fn refused(table: TableFacts) -> String {
        usable(&with_leaf(table)).unwrap_err().to_string()
    }

    #[test]
    fn a_table_with_an_identity_is_fine() {
        assert_eq!(usable(&with_leaf(table())), Ok(()));
        let mut full = table();
        full.primary_key.clear();
        full.replica_identity = ReplicaIdentity::Full;
        assert_eq!(usable(&with_leaf(full)), Ok(()));
        let mut index = table();
        index.replica_identity = ReplicaIdentity::Index;
        index.identity_index = vec![2];
        assert_eq!(usable(&with_leaf(index)), Ok(()));
    }

    #[test]
    fn f_25_a_table_without_identity_is_refused_with_the_statement_that_mends_it() {
        let mut bare = table();
        bare.primary_key.clear();
        assert_eq!(
            refused(bare.clone()),
            "error[HW2106]: public.t has no primary key: the log does not tell which row was \
             updated or deleted\n  where: table public.t\n  \
             mend:  ALTER TABLE \"public\".\"t\" REPLICA IDENTITY FULL;"
        );
        bare.replica_identity = ReplicaIdentity::Nothing;
        assert!(refused(bare.clone()).ends_with("REPLICA IDENTITY FULL;"));
        bare.replica_identity = ReplicaIdentity::Index;
        assert!(refused(bare).contains("lost the index"));
        let mut nothing = table();
        nothing.replica_identity = ReplicaIdentity::Nothing;
        assert!(refused(nothing).ends_with("REPLICA IDENTITY DEFAULT;"));
    }

    #[test]
    fn what_is_not_in_the_log_is_refused_by_name() {
        use Persistence::{Permanent, Temporary, Unlogged};
        for (kind, persistence, word) in [
            (TableKind::View, Permanent, "is a view"),
            (TableKind::MaterializedView, Permanent, "is a materialized view"),
            (TableKind::Foreign, Permanent, "is a foreign table"),
            (TableKind::Ordinary, Unlogged, "is an unlogged table"),
            (TableKind::Ordinary, Temporary, "is a temporary table"),
        ] {
            let mut wrong = table();
            wrong.kind = kind;
            wrong.persistence = persistence;
            assert!(refused(wrong).contains(&format!("public.t {word}")), "{word}");
        }
    }

    #[test]
    fn a_partition_without_identity_refuses_the_whole_table() {
        let mut parted = with_leaf(table());
        parted.kind = TableKind::Partitioned;
        parted.leaves[0].id = RelationId(2);
        parted.leaves[0].name = TableName::new("public", "t_1");
        parted.leaves[0].kind = TableKind::Ordinary;
        assert_eq!(usable(&parted), Ok(()));
        parted.leaves[0].replica_identity = ReplicaIdentity::Nothing;
        let finding = usable(&parted).unwrap_err();
        assert!(finding.what.starts_with("public.t_1 has REPLICA IDENTITY NOTHING"));
        parted.leaves[0].kind = TableKind::Foreign;
        let finding = usable(&parted).unwrap_err();
        assert!(finding.what.starts_with("public.t_1 is a foreign table"));
    }

    #[test]
    fn a_table_that_others_inherit_from_is_refused_with_their_names() {
        let mut parent = with_leaf(table());
        let heirs = |parent: &mut TableFacts, names: &[&str]| {
            parent.leaves.truncate(1);
            for (name, id) in names.iter().zip(2..) {
                let (id, name) = (RelationId(id), TableName::new("public", *name));
                let leaf = LeafFacts { id, name, ..parent.leaves[0].clone() };
                parent.leaves.push(leaf);
            }
        };
        heirs(&mut parent, &["a"]);
        assert_eq!(
            usable(&parent).unwrap_err().to_string(),
            "error[HW2118]: public.t shows the rows of public.a as its own, which inherit from it: the log tells \
             their changes under their own names\n  where: table public.t\n  mend:  name that table in place of \
             public.t, and keep its own rows in one that inherits; or make it a partitioned table"
        );
        for (names, said) in [
            (&["a", "b"][..], "rows of public.a and public.b as"),
            (&["a", "b", "c", "d"], "rows of public.a, public.b, public.c and one other as"),
            (&["a", "b", "c", "d", "e"], "rows of public.a, public.b, public.c and 2 others as"),
        ] {
            heirs(&mut parent, names);
            let what = usable(&parent).unwrap_err().what;
            assert!(what.contains(said), "{what}");
        }
    }

    #[test]
    fn a_sent_column_that_prints_names_is_refused_whatever_it_is_wrapped_in() {
        const REGCLASS: u32 = 2205;
        let of = |oid: u32, types: Vec<TypeFacts>| {
            let mut odd = with_leaf(table());
            odd.columns[1].type_oid = oid;
            odd.types = types;
            odd
        };
        let made = |oid: u32, made: MadeOf| TypeFacts { oid, made };
        let plain = of(REGCLASS, vec![made(REGCLASS, MadeOf::Base)]);
        assert_eq!(
            usable(&plain).unwrap_err().to_string(),
            "error[HW2119]: column \"b\" of public.t prints names of other objects: they change when these are \
             renamed, and the log does not tell it\n  where: table public.t\n  mend:  keep what it says as a text: \
             ALTER TABLE \"public\".\"t\" ALTER COLUMN \"b\" TYPE text; or leave it out with a column list of \
             the publication"
        );
        let field = TypeAttribute {
            number: 1,
            name: "f".into(),
            type_oid: 70,
            type_modifier: -1,
            version: 1,
        };
        let wrapped = vec![
            made(70, MadeOf::Array(REGCLASS, 44)),
            made(71, MadeOf::Composite(vec![field])),
            made(72, MadeOf::Domain(71, -1)),
            made(REGCLASS, MadeOf::Base),
        ];
        for oid in [70, 71, 72] {
            let refused = usable(&of(oid, wrapped.clone())).unwrap_err();
            assert_eq!(refused.code.0, code::VALUES_OF_NAMES);
        }
        assert_eq!(usable(&sent(plain, &[1])), Ok(()), "it is not sent");
        let other = of(73, vec![made(73, MadeOf::Array(23, 44))]);
        assert_eq!(usable(&other), Ok(()));
    }

    #[test]
    fn nondeterministic_keys_and_unpublished_keys_are_refused() {
        let mut odd = with_leaf(table());
        odd.columns[0].deterministic = false;
        assert_eq!(usable(&odd).unwrap_err().code.0, code::KEY_COLLATION);
        let fine = with_leaf(table());
        assert_eq!(usable(&sent(fine.clone(), &[1])), Ok(()));
        let finding = usable(&sent(fine, &[2])).unwrap_err();
        assert_eq!(finding.code.0, code::KEY_NOT_PUBLISHED);
        let mut full = with_leaf(table());
        full.replica_identity = ReplicaIdentity::Full;
        full.leaves[0].replica_identity = ReplicaIdentity::Full;
        assert_eq!(usable(&full), Ok(()));
        assert!(usable(&sent(full, &[1])).is_err());
    }
}
