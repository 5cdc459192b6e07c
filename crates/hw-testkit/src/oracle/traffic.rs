//! Random transactions: rows that come, go, move between every kind of scope, change their keys;
//! memberships; truncates; sub-transactions that stay or roll back.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::world::{
    Form, GROUPS, KEYS, Kind, Membership, ROLES, TAGS, Table, USERS, World, quoted,
};

/// The statements of one transaction, without BEGIN and COMMIT. One that fails ends it.
pub(super) fn transaction(rng: &mut StdRng, world: &World) -> Vec<String> {
    let mut statements = Vec::new();
    for _ in 0..rng.random_range(1..6) {
        if rng.random_bool(0.12) {
            statements.push("SAVEPOINT s".to_owned());
            for _ in 0..rng.random_range(1..4) {
                statements.push(statement(rng, world));
            }
            let end = if rng.random_bool(0.5) { "ROLLBACK TO s" } else { "RELEASE s" };
            statements.push(end.to_owned());
        } else {
            statements.push(statement(rng, world));
        }
    }
    statements
}

/// Rows to begin with.
pub(super) fn seed_rows(rng: &mut StdRng, world: &World) -> String {
    let mut statements = Vec::new();
    for table in &world.tables {
        for _ in 0..25 {
            statements.push(insert(rng, world, table));
        }
    }
    for membership in &world.memberships {
        for _ in 0..8 {
            statements.push(join(rng, world, membership));
        }
    }
    statements.join(";\n")
}

/// Statements that make a transaction far larger than the memory it may take.
pub(super) fn large(rng: &mut StdRng, world: &World) -> Vec<String> {
    let table = world.tables.choose(rng).expect("there is one");
    let id = match table.key {
        Kind::Text => "'big' || i",
        _ => "10000 + i",
    };
    let name = &table.name;
    let group = world.group.literal("g", rng.random_range(0..GROUPS));
    let big = "alt::text LIKE '00000000-0000-4%'";
    vec![
        format!("DELETE FROM {name} WHERE length(id::text) >= 5 AND {big}"),
        format!(
            "INSERT INTO {name} (id, owner, grp, kind, tag, alt, body) \
             SELECT {id}, {user}, {group}, i % 4, 'red', \
             ('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid, repeat('b', 500) \
             FROM generate_series(1, 2500) i ON CONFLICT DO NOTHING",
            user = user(rng),
        ),
        format!(
            "UPDATE {name} SET kind = kind + 1, owner = {other} WHERE {big} AND kind < 3",
            other = user(rng),
        ),
        format!("DELETE FROM {name} WHERE {big} AND right(alt::text, 1) <> '7'"),
    ]
}

fn statement(rng: &mut StdRng, world: &World) -> String {
    let table = world.tables.choose(rng).expect("there is one");
    let membership = world.memberships.choose(rng).expect("there is one");
    let name = &table.name;
    let id = key(rng, table);
    match rng.random_range(0..41) {
        0..10 => insert(rng, world, table),
        10..14 => format!("DELETE FROM {name} WHERE id = {id}"),
        14..17 => format!("UPDATE {name} SET grp = {} WHERE id = {id}", group(rng, world)),
        17..20 => format!("UPDATE {name} SET owner = {} WHERE id = {id}", user(rng)),
        20..23 => {
            format!("UPDATE {name} SET kind = {}, flag = NOT flag WHERE id = {id}", kind(rng))
        }
        23 => format!("UPDATE {name} SET tag = {} WHERE kind = {}", tag(rng), kind(rng)),
        40 => format!("UPDATE {name} SET num = {} WHERE id = {id}", kind(rng)),
        24 => format!("UPDATE {name} SET meta = {} WHERE id = {id}", meta(rng)),
        25 => format!("UPDATE {name} SET body = {} WHERE id = {id}", body(rng)),
        // The key changes, where the new one is free.
        26..29 => format!(
            "UPDATE {name} SET id = {to} WHERE id = {id} \
             AND NOT EXISTS (SELECT FROM {name} WHERE id = {to})",
            to = key(rng, table)
        ),
        // Two rows change their places, over a third key.
        29 => {
            let (to, free) = (key(rng, table), table.key.literal("k", KEYS + 1));
            format!(
                "UPDATE {name} SET id = {free} WHERE id = {id}; \
                 UPDATE {name} SET id = {id} WHERE id = {to}; \
                 UPDATE {name} SET id = {to} WHERE id = {free}"
            )
        }
        30 => format!("UPDATE {name} SET alt = {} WHERE id = {id}", uuid(rng)),
        // There and gone again.
        31 => format!("{}; DELETE FROM {name} WHERE id = {id}", insert(rng, world, table)),
        32..35 => join(rng, world, membership),
        35..37 => format!(
            "DELETE FROM {} WHERE member = {} AND grp = {}",
            membership.name,
            user(rng),
            group(rng, world)
        ),
        37 => format!(
            "UPDATE {} SET role = {} WHERE member = {}",
            membership.name,
            role(rng),
            user(rng)
        ),
        38 => format!(
            "UPDATE {m} SET member = {to} WHERE member = {from} AND grp = {grp} \
             AND NOT EXISTS (SELECT FROM {m} WHERE member = {to} AND grp = {grp})",
            m = membership.name,
            to = user(rng),
            from = user(rng),
            grp = group(rng, world)
        ),
        _ => truncate(rng, world, table, membership),
    }
}

fn truncate(rng: &mut StdRng, world: &World, table: &Table, membership: &Membership) -> String {
    match rng.random_range(0..6) {
        0 => format!("TRUNCATE {}", membership.name),
        1 => format!("TRUNCATE {}, {}", table.name, membership.name),
        2 => format!("TRUNCATE {}; {}", table.name, insert(rng, world, table)),
        3 => format!("TRUNCATE {}", table.name),
        _ => format!("DELETE FROM {} WHERE kind = {}", table.name, kind(rng)),
    }
}

pub(super) fn insert(rng: &mut StdRng, world: &World, table: &Table) -> String {
    let (org, org_value) = match table.form {
        Form::Composite => (", org", format!(", {}", rng.random_range(0..2))),
        _ => ("", String::new()),
    };
    let mood = format!("(enum_range(NULL::mood))[{}]", rng.random_range(1..3));
    format!(
        "INSERT INTO {} (id{org}, owner, grp, kind, tag, flag, amount, meta, alt, body, mood) \
         VALUES ({}{org_value}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}) \
         ON CONFLICT ({}) DO UPDATE SET \
         owner = excluded.owner, grp = excluded.grp, kind = excluded.kind, tag = excluded.tag",
        table.name,
        key(rng, table),
        maybe(rng, user),
        match rng.random_bool(0.1) {
            true => "NULL".to_owned(),
            false => group(rng, world),
        },
        maybe(rng, kind),
        maybe(rng, tag),
        maybe(rng, |rng| rng.random_bool(0.5).to_string()),
        maybe(rng, |rng| format!("{}.{:02}", rng.random_range(-99..99), rng.random_range(0..99))),
        maybe(rng, meta),
        uuid(rng),
        maybe(rng, body),
        maybe(rng, |_| mood.clone()),
        table.unique(),
    )
}

pub(super) fn join(rng: &mut StdRng, world: &World, membership: &Membership) -> String {
    let (m, member, grp) = (&membership.name, user(rng), group(rng, world));
    format!(
        "INSERT INTO {m} (member, grp, role) SELECT {member}, {grp}, {} \
         WHERE NOT EXISTS (SELECT FROM {m} WHERE member = {member} AND grp = {grp})",
        role(rng)
    )
}

fn maybe(rng: &mut StdRng, value: impl Fn(&mut StdRng) -> String) -> String {
    if rng.random_bool(0.12) { "NULL".into() } else { value(rng) }
}

fn key(rng: &mut StdRng, table: &Table) -> String {
    table.key.literal("k", rng.random_range(0..KEYS))
}

fn group(rng: &mut StdRng, world: &World) -> String {
    world.group.literal("g", rng.random_range(0..GROUPS))
}

fn user(rng: &mut StdRng) -> String {
    quoted(USERS.choose(rng).expect("not empty"))
}

fn tag(rng: &mut StdRng) -> String {
    quoted(TAGS.choose(rng).expect("not empty"))
}

fn role(rng: &mut StdRng) -> String {
    quoted(ROLES.choose(rng).expect("not empty"))
}

fn kind(rng: &mut StdRng) -> String {
    rng.random_range(0..4).to_string()
}

fn meta(rng: &mut StdRng) -> String {
    format!("'{{\"k\": \"v{}\", \"n\": [1, null]}}'", rng.random_range(0..3))
}

/// Short or long enough to be stored out of line.
fn body(rng: &mut StdRng) -> String {
    match rng.random_bool(0.25) {
        true => format!("repeat('long {} ', 800)", rng.random_range(0..9)),
        false => format!("'text {} ☕'", rng.random_range(0..1000)),
    }
}

fn uuid(rng: &mut StdRng) -> String {
    let number: u128 = rng.random();
    let hex = format!("{number:032x}");
    format!("'{}-{}-{}-{}-{}'", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
