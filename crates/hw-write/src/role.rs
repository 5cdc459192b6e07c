//! What is wrong with the database role of writes, with the statement that mends it.

use hw_types::relation::quote_ident;
use hw_types::{Diagnostic, TableName};

use crate::catalog::RoleStanding;
use crate::code;

/// There is none.
pub(crate) fn no_role() -> Diagnostic {
    Diagnostic::error(code::ROLE, "there is no database role for writes")
        .mend("run: headwater setup")
}

/// Why a role may not write for principals.
pub(crate) fn role_finding(role: &str, standing: &RoleStanding) -> Option<Diagnostic> {
    let quoted = quote_ident(role);
    let refused =
        |what: String| Diagnostic::error(code::ROLE, format!("database role \"{role}\" {what}"));
    Some(match standing {
        RoleStanding::Usable => return None,
        RoleStanding::Missing => refused("does not exist".to_owned()).mend("run: headwater setup"),
        RoleStanding::AboveThePolicies => refused(
            "is a superuser or has BYPASSRLS, so row level security would not hold".to_owned(),
        )
        .mend(format!("ALTER ROLE {quoted} NOSUPERUSER NOBYPASSRLS;")),
        RoleStanding::NotOurs(login) => refused(format!("cannot be taken by \"{login}\""))
            .mend(format!("GRANT {quoted} TO {};", quote_ident(login))),
    })
}

/// It is above the policies of a table.
pub(crate) fn owned(role: &str, table: &TableName) -> Diagnostic {
    Diagnostic::error(
        code::OWNED_TABLE,
        format!(
            "database role \"{role}\" has the rights of the owner of {table}, so its row level \
             security would not hold"
        ),
    )
    .mend(format!("ALTER TABLE {} FORCE ROW LEVEL SECURITY;", table.quoted()))
}
