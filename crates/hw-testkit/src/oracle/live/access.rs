//! Random policies over a world, and statements that change who may see what.

use std::fmt::Write as _;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::queries::WORDS;
use crate::oracle::world::{Form, World};

/// Whom users are.
pub(super) const ROLE: &str = "headwater_authenticated";

const ME: &str = "nullif(current_setting('request.jwt.claim.sub', true), '')";

fn me(body: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION me() RETURNS text LANGUAGE sql STABLE AS $$ SELECT {body} $$"
    )
}

/// A helper that nothing can be known of but by asking.
fn is_mine(world: &World, body: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION is_mine(wanted {}) RETURNS boolean LANGUAGE plpgsql STABLE \
         SECURITY DEFINER AS $$ BEGIN RETURN {body}; END $$",
        world.group.sql()
    )
}

fn is_member(world: &World) -> String {
    let m = &world.memberships[world.memberships.len() - 1].name;
    is_mine(world, &format!("EXISTS (SELECT FROM {m} m WHERE m.grp = wanted AND m.member = me())"))
}

/// Everything that decides who sees what to begin with.
///
/// - Returns: the statements, and the tables that have a column of words.
pub(super) fn setup(rng: &mut StdRng, world: &World) -> (String, Vec<String>) {
    let mut sql = format!("{};\n{};\n", me(ME), is_member(world));
    let mut words = Vec::new();
    for table in &world.tables {
        let name = &table.name;
        if table.form == Form::Plain && rng.random_bool(0.4) {
            words.push(name.clone());
            let _ = writeln!(
                sql,
                "ALTER TABLE {name} ADD COLUMN {WORDS} tsvector GENERATED ALWAYS AS \
                 (to_tsvector('english', coalesce(tag, '') || ' ' || coalesce(left(body, 40), ''))) STORED;"
            );
        }
        let _ = writeln!(
            sql,
            "ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;
             GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {ROLE};
             CREATE POLICY written ON {name} FOR INSERT WITH CHECK (true);
             CREATE POLICY changed ON {name} FOR UPDATE USING (true);
             CREATE POLICY removed ON {name} FOR DELETE USING (true);
             CREATE POLICY seen ON {name} FOR SELECT USING ({});",
            condition(rng, world, name)
        );
        if rng.random_bool(0.6) {
            let _ = writeln!(
                sql,
                "CREATE POLICY also ON {name} FOR SELECT USING ({});",
                condition(rng, world, name)
            );
        }
        if rng.random_bool(0.3) {
            let _ = writeln!(sql, "{};", restriction(rng, name));
        }
    }
    for membership in &world.memberships {
        let name = &membership.name;
        let _ = writeln!(
            sql,
            "ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;
             GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {ROLE};
             CREATE POLICY seen ON {name} FOR SELECT USING ({});",
            of_members(rng)
        );
    }
    (sql, words)
}

fn of_members(rng: &mut StdRng) -> &'static str {
    ["member = me()", "member = me()", "true", "role = 'editor'"].choose(rng).expect("not empty")
}

fn restriction(rng: &mut StdRng, table: &str) -> String {
    let condition = ["kind IS DISTINCT FROM 2", "coalesce(flag, true)", "tag <> 'blue'"];
    format!(
        "CREATE POLICY limited ON {table} AS RESTRICTIVE FOR SELECT USING ({})",
        condition.choose(rng).expect("not empty")
    )
}

/// Who sees a row: by its owner, by a membership, by claims, by its values, by a helper.
fn condition(rng: &mut StdRng, world: &World, table: &str) -> String {
    let m = &world.memberships.choose(rng).expect("there is one").name;
    match rng.random_range(0..12) {
        0..3 => "owner = me()".into(),
        3 | 4 => format!("grp IN (SELECT grp FROM {m} WHERE member = me())"),
        5 => format!(
            "EXISTS (SELECT FROM {m} WHERE {m}.grp = {table}.grp AND {m}.member = me() AND {m}.role = 'editor')"
        ),
        6 => "grp::text = current_setting('request.jwt.claims', true)::json ->> 'team'".into(),
        7 => "is_mine(grp)".into(),
        8 => "flag AND kind > 0".into(),
        9 => format!("NOT EXISTS (SELECT FROM {m} WHERE {m}.grp = {table}.grp)"),
        10 => "tag = ANY (ARRAY['red', 'blue']) OR owner = me()".into(),
        _ => "true".into(),
    }
}

/// Statements that change who may see what; some take back what others did.
pub(super) fn change(rng: &mut StdRng, world: &World) -> String {
    let table = &world.tables.choose(rng).expect("there is one").name;
    let m = &world.memberships.choose(rng).expect("there is one").name;
    match rng.random_range(0..20) {
        0..5 => format!("ALTER POLICY seen ON {table} USING ({})", condition(rng, world, table)),
        5..7 => format!(
            "DROP POLICY IF EXISTS also ON {table}; CREATE POLICY also ON {table} FOR SELECT USING ({})",
            condition(rng, world, table)
        ),
        7 => format!("DROP POLICY IF EXISTS also ON {table}"),
        8 => format!("DROP POLICY IF EXISTS limited ON {table}; {}", restriction(rng, table)),
        9 => format!("DROP POLICY IF EXISTS limited ON {table}"),
        10 => format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"),
        11..13 => format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"),
        13 => format!("REVOKE SELECT ON {table} FROM {ROLE}"),
        14 | 15 => format!("GRANT SELECT ON {table}, {m} TO {ROLE}"),
        16 => match rng.random_bool(0.5) {
            true => format!("REVOKE SELECT ON {m} FROM {ROLE}"),
            false => format!("ALTER TABLE {m} DISABLE ROW LEVEL SECURITY"),
        },
        17 => format!("ALTER POLICY seen ON {m} USING ({})", of_members(rng)),
        18 => match rng.random_bool(0.3) {
            true => me("'amy'::text"),
            false => me(ME),
        },
        _ => match rng.random_bool(0.3) {
            true => is_mine(world, "false"),
            false => is_member(world),
        },
    }
}

/// Everybody may ask for everything again.
pub(super) fn open(world: &World) -> String {
    let names = world.tables.iter().map(|table| &table.name);
    let names = names.chain(world.memberships.iter().map(|membership| &membership.name));
    let open = names.map(|name| {
        format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY; GRANT SELECT ON {name} TO {ROLE}")
    });
    open.collect::<Vec<String>>().join("; ")
}
