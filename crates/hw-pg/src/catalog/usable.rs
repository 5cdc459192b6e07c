//! Which tables can be replicated exactly, and what mends the others.
//!
//! Invariant E-6: what the log does not carry comes from the replica's row, which needs an
//! identity; a table without one is refused with the statement that mends it (F-25). It must be
//! refused *before* it is added to the publication: a published table without an identity makes
//! Postgres refuse the user's own updates and deletes.

use super::code;
use hw_types::facts::{Generated, Persistence, TableFacts, TableKind};
use hw_types::pattern::is_system_schema;
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
