//! `headwater policies` as a process, and that its page names all that is decided.

use super::setup::{headwater, text};
use hw_testkit::Cluster;

#[tokio::test]
async fn policies_says_of_each_table_what_a_role_sees_and_what_is_decided_here() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    let none = headwater(&["policies", "--role", "reader"], Some(&database.url));
    assert_eq!(none.status.code(), Some(2), "{}", text(&none.stderr));
    assert!(text(&none.stderr).contains("HW1017"), "{}", text(&none.stderr));
    client
        .batch_execute(
            "CREATE ROLE reader;
             CREATE TABLE tasks (id int, owner text); CREATE TABLE docs (id int, team int);
             CREATE TABLE members (team int, who text); CREATE TABLE notes (id int, email text);
             CREATE TABLE open (id int); CREATE TABLE shut (id int); CREATE TABLE hidden (id int);
             CREATE TABLE part (id int, hidden text); GRANT SELECT (id) ON part TO reader;
             GRANT SELECT ON tasks, docs, members, notes, open, shut TO reader;
             ALTER TABLE tasks ENABLE ROW LEVEL SECURITY; ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
             ALTER TABLE notes ENABLE ROW LEVEL SECURITY; ALTER TABLE shut ENABLE ROW LEVEL SECURITY;
             CREATE FUNCTION me() RETURNS text STABLE LANGUAGE sql AS $$ SELECT current_setting('rls.ihp_user_id') $$;
             CREATE POLICY mine ON tasks USING (owner = me());
             CREATE POLICY ours ON docs USING (team IN (SELECT team FROM members WHERE who = me()));
             CREATE POLICY lowered ON notes TO reader USING (lower(email) = me())",
        )
        .await
        .expect("made");
    let output = headwater(&["policies", "--role", "reader"], Some(&database.url));
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for line in [
        "public.tasks: decided from the row and the token",
        "  policy mine admits for public: (owner = public.me())",
        "public.docs: decided from the row, the token and rows of public.members",
        "public.notes: Postgres must be asked",
        "  because of: lower(email)",
        "  instead: something of what docs/policies.md lists in place of lower(email), or a column of public.notes that \
         holds what it gives and is kept by a trigger",
        "  instead: GRANT SELECT ON \"public\".\"part\" TO \"reader\", and partitions in place of tables that inherit \
         from it",
        "  policy lowered admits for reader: (lower(email) = public.me())",
        "public.open: every row: row security is not enabled",
        "public.shut: no row: no policy admits reader",
        "public.hidden: no row, because the role reader may not read public.hidden",
    ] {
        assert!(said.lines().any(|said| said == line), "{line} in\n{said}");
    }
    let one = headwater(&["policies", "--role", "reader", "--table", "tasks"], Some(&database.url));
    assert_eq!(one.status.code(), Some(0), "{}", text(&one.stdout));
    assert!(!text(&one.stdout).contains("public.docs:"), "{}", text(&one.stdout));
}

/// Without a word it is the role as whom the server would run statements, also in a database of IHP.
#[tokio::test]
async fn policies_of_a_database_of_ihp_are_those_of_its_role() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client
        .batch_execute(
            "CREATE ROLE ihp_authenticated; CREATE TABLE tasks (id int PRIMARY KEY, owner text);
             GRANT SELECT ON tasks TO ihp_authenticated; ALTER TABLE tasks ENABLE ROW LEVEL SECURITY;
             CREATE POLICY mine ON tasks TO ihp_authenticated USING (owner = current_setting('rls.ihp_user_id'))",
        )
        .await
        .expect("made");
    let output = headwater(&["policies"], Some(&database.url));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("public.tasks: decided from the row and the token"), "{said}");
}

#[test]
fn the_page_of_policies_names_every_operator_and_function_that_is_decided() {
    let page = include_str!("../../../docs/policies.md");
    for (name, arguments, result) in hw_expr::postgres::operators() {
        assert!(page.contains(&format!("`{name}`")), "{name} of {arguments:?} gives {result}");
    }
}
