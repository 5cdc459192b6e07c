//! The database role of an author, and what is wrong with one, with the statement that mends it.

use hw_pg::error::PgError;
use hw_types::relation::quote_ident;
use hw_types::{Diagnostic, TableName};
use tokio_postgres::Client;

use crate::catalog::{Catalog, RoleStanding};
use crate::code;
use crate::transaction::{Author, AuthorRole};

/// The claim `role` of every signed-in user of services such as Supabase.
const SIGNED_IN: &str = "authenticated";

/// Letters of a claim that are shown: no name of a role is longer.
const LONGEST_ROLE: usize = 63;

/// Why an author cannot write.
pub(crate) enum Trouble {
    /// An error outside of the author's own statements.
    Postgres(PgError),
    /// A person must act.
    Stop(Box<Diagnostic>),
}

impl From<PgError> for Trouble {
    fn from(error: PgError) -> Trouble {
        Trouble::Postgres(error)
    }
}

/// The role as which an author's statements run: the one that his token chose, else the configured one, else
/// the first of the usual ones that exists.
pub(crate) async fn role_of(
    catalog: &Catalog,
    client: &Client,
    configured: Option<&str>,
    author: &Author,
) -> Result<String, Trouble> {
    let role = match (&author.role, configured) {
        (AuthorRole::Chosen(role), _) => role.clone(),
        (_, Some(role)) => role.to_owned(),
        (_, None) => {
            let usual = catalog.usual_role(client).await?;
            usual.ok_or_else(|| Trouble::Stop(Box::new(no_role())))?
        }
    };
    if let AuthorRole::NotAllowed(claim) = &author.role {
        // What hosted services write into the token of every user who is signed in.
        let usual = configured.is_none() && claim == SIGNED_IN;
        if *claim != role && !usual {
            return Err(Trouble::Stop(Box::new(
                Diagnostic::error(
                    code::ROLE_NOT_ALLOWED,
                    format!(
                        "the claim \"role\" of the token names the database role \"{}\", which tokens may \
                         not choose here",
                        claim.chars().take(LONGEST_ROLE).collect::<String>()
                    ),
                )
                .mend(
                    "add the role to auth.allowed_roles and grant it to Headwater's login, or \
                     leave the claim \"role\" out of the tokens",
                ),
            )));
        }
    }
    match role_finding(&role, &catalog.role(client, &role).await?) {
        None => Ok(role),
        Some(finding) => Err(Trouble::Stop(Box::new(finding))),
    }
}

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
