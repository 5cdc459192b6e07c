//! As whom statements run in the source.

use std::fmt;
use std::sync::Arc;

/// As whom statements run in the source: the role, and what policies read of the token. Equal ones see the
/// same rows.
///
/// Source: `protocols/datasync.md` 12, "OURS": what policies of IHP, PostgREST and Supabase read.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunAs {
    /// The database role.
    pub role: Arc<str>,
    /// The claim `sub` as text, for `rls.ihp_user_id` and `request.jwt.claim.sub`; empty for somebody who
    /// has no token.
    pub subject: Arc<str>,
    /// The token's payload as it was signed, for `request.jwt.claims`; an empty object without one.
    pub claims_json: Arc<str>,
    /// The claim `role`, whatever it names; without one `request.jwt.claim.role` is the database role.
    pub claimed_role: Option<Arc<str>>,
}

impl RunAs {
    /// Somebody without a token.
    pub fn anonymous(role: &str) -> RunAs {
        RunAs {
            role: role.into(),
            subject: "".into(),
            // Policies read it as JSON, which an empty text is not.
            claims_json: "{}".into(),
            claimed_role: None,
        }
    }

    /// Every setting that policies may read, with its value. The role comes last: from then on the others
    /// are set under it.
    pub fn settings(&self) -> [(&'static str, &str); 5] {
        let claimed = self.claimed_role.as_deref().unwrap_or(&self.role);
        [
            ("rls.ihp_user_id", &self.subject),
            ("request.jwt.claims", &self.claims_json),
            ("request.jwt.claim.sub", &self.subject),
            ("request.jwt.claim.role", claimed),
            ("role", &self.role),
        ]
    }
}

impl fmt::Debug for RunAs {
    /// Prints the role only: claims never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunAs").field("role", &self.role).finish_non_exhaustive()
    }
}
