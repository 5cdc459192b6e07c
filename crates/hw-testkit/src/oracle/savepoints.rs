//! Which tables are emptied under a number that the log does not tell.
//!
//! `TRUNCATE` gives the leaves of a partitioned table other files under the number of the
//! sub-transaction, which is another than the transaction's behind a savepoint. The log tells the
//! transaction's alone, and nothing that can be asked tells which numbers belong together. So such a
//! table may be taken for one that was rewritten: it is copied again for nothing, and what reads it
//! stands still meanwhile. No row is wrong.

use super::plan::{CONNECTIONS, Step};
use super::world::{Form, World};

/// Which connections are behind a savepoint.
#[derive(Default)]
pub(super) struct Savepoints([bool; CONNECTIONS]);

impl Savepoints {
    /// Follows a statement. Returns the partitioned tables that it empties behind a savepoint.
    pub(super) fn follow(&mut self, on: usize, text: &str, world: &World) -> Vec<String> {
        let is_behind = &mut self.0[on];
        match text.split(' ').next() {
            Some("SAVEPOINT") => *is_behind = true,
            // Behind ROLLBACK TO the savepoint is still there.
            Some("BEGIN" | "RELEASE" | "COMMIT") => *is_behind = false,
            _ if text == "ROLLBACK" => *is_behind = false,
            Some("TRUNCATE") if *is_behind => {
                let emptied = text.split(';').next().unwrap_or_default();
                let is_emptied = |name: &str| emptied.split([' ', ',']).any(|word| word == name);
                let partitioned = world.tables.iter().filter(|t| t.form == Form::Partitioned);
                let emptied = partitioned.filter(|table| is_emptied(&table.name));
                return emptied.map(|table| table.name.clone()).collect();
            }
            _ => {}
        }
        Vec::new()
    }

    /// Whether any of these steps does so.
    pub(super) fn any(steps: &[Step], world: &World) -> bool {
        let mut savepoints = Savepoints::default();
        steps.iter().any(|step| match step {
            Step::Sql { on, text } => !savepoints.follow(*on, text, world).is_empty(),
            _ => false,
        })
    }
}
