//! What an operator can mend is never a rejection: the client keeps its write until it is mended.

use hw_types::Diagnostic;
use hw_write::{ColumnTarget, ConflictPolicy, MappedTable, TableTarget, Unknown, UploadMap};
use serde_json::{Value, json};

use crate::rig::{Rig, map, patch, plain, put, row_id};

/// The findings of `doctor` about the mapped tables, as text.
async fn findings(rig: &Rig) -> String {
    let findings = rig.uploads.examine().await.unwrap();
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

/// Asserts that the write waits for an operator under this code, and left nothing behind.
async fn waits(rig: &Rig, operations: Value, code: &str) {
    let answer = rig.write("ada", operations.clone()).await;
    assert_eq!(
        (&answer["verdict"], &answer["error"]["code"]),
        (&json!("retry"), &json!(code)),
        "{operations}: {answer}"
    );
    let kept = "SELECT (SELECT count(*) FROM headwater.rejected_writes) \
                     + (SELECT count(*) FROM headwater.uploads WHERE verdict = 'rejected')";
    assert_eq!(rig.ask(kept).await, "0", "{answer}");
}

async fn applied(rig: &Rig, operations: Value) {
    let answer = rig.write("ada", operations.clone()).await;
    assert_eq!(answer["verdict"], "applied", "{operations}: {answer}");
}

fn on(table: &str, op: &str, op_id: i64, data: Value) -> Value {
    json!([{"op_id": op_id, "op": op, "type": table, "id": "1", "data": data}])
}

#[tokio::test]
async fn fd_51_nothing_is_rejected_before_a_configuration_is_served() {
    let rig = Rig::start().await;
    let write = json!([put(1, &row_id(1), json!({"name": "a"}))]);
    rig.uploads.set_map(UploadMap::new(Unknown::Waits));
    waits(&rig, write.clone(), "HW5302").await;
    rig.uploads.set_map(map());
    applied(&rig, write.clone()).await;
    // A verdict stands, whatever is served.
    rig.uploads.set_map(UploadMap::new(Unknown::Waits));
    applied(&rig, write).await;
}

#[tokio::test]
async fn fd_51_what_a_configuration_in_the_making_or_the_database_lacks_waits() {
    let rig = Rig::start().await;
    let listed = |column: &str| ColumnTarget::Column(column.to_owned());
    let mut lists = match plain("lists", ConflictPolicy::LastWriteWins) {
        TableTarget::Table(table) => table,
        other => panic!("{other:?}"),
    };
    lists.columns.same_names = false;
    for name in ["id", "name"] {
        lists.columns.listed.insert(name.into(), listed(name));
    }
    lists.columns.listed.insert("later".into(), listed("later"));
    let mut to_come = lists.columns.clone();
    to_come.listed.insert("n".into(), listed("n"));
    lists.to_come = Some(to_come);
    let served = |lists: &MappedTable| {
        let mut map = UploadMap::new(Unknown::Rejected);
        map.insert("lists", TableTarget::Table(lists.clone()));
        map.insert("coming", TableTarget::Waits);
        map.insert("gone", plain("gone", ConflictPolicy::LastWriteWins));
        map
    };
    rig.uploads.set_map(served(&lists));
    waits(&rig, on("coming", "PUT", 1, json!({})), "HW5302").await;
    waits(&rig, on("gone", "PUT", 1, json!({})), "HW5302").await;
    let whole = json!([
        put(1, &row_id(1), json!({"name": "a"})),
        patch(2, &row_id(1), json!({"n": 5})),
        patch(3, &row_id(1), json!({"later": "x"})),
        {"op_id": 4, "op": "PUT", "type": "gone", "id": "1"},
    ]);
    for operation in [1, 2] {
        let one = json!([whole[operation].clone()]);
        waits(&rig, one, "HW5302").await;
    }
    assert!(findings(&rig).await.contains("the database has no such table"));
    rig.sql
        .batch_execute(
            "CREATE TABLE gone (id text PRIMARY KEY); ALTER TABLE lists ADD COLUMN later text; \
             GRANT ALL ON gone TO headwater_authenticated",
        )
        .await
        .unwrap();
    lists.columns.listed.insert("n".into(), listed("n"));
    lists.to_come = None;
    rig.uploads.set_map(served(&lists));
    applied(&rig, whole).await;
    assert_eq!(rig.ask("SELECT name || n || later FROM lists").await, "a5x");
}

#[tokio::test]
async fn fd_52_a_missing_right_waits_and_the_statements_that_are_told_beforehand_mend_it() {
    let rig = Rig::start().await;
    rig.sql
        .batch_execute(
            "CREATE SCHEMA \"Billing\"; \
             CREATE TABLE \"Billing\".orders (id text PRIMARY KEY, n serial, a text); \
             ALTER TABLE \"Billing\".orders ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY all_of_it ON \"Billing\".orders USING (true)",
        )
        .await
        .unwrap();
    let mut map = UploadMap::new(Unknown::Rejected);
    let source = hw_types::TableName::new("Billing", "orders");
    let table = MappedTable::plain(source, ConflictPolicy::LastWriteWins);
    map.insert("orders", TableTarget::Table(table));
    rig.uploads.set_map(map);
    for op in ["PUT", "PATCH", "DELETE"] {
        waits(&rig, on("orders", op, 1, json!({"a": "x"})), "HW4301").await;
    }
    let role = "\"headwater_authenticated\"";
    let told = findings(&rig).await;
    let mend = told.split("mend:").nth(1).unwrap().trim().to_owned();
    assert_eq!(
        mend,
        format!(
            "GRANT USAGE ON SCHEMA \"Billing\" TO {role}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON \"Billing\".\"orders\" TO {role}; \
             GRANT USAGE ON SEQUENCE \"Billing\".orders_n_seq TO {role};"
        )
    );
    // Each alone is not enough, and each write waits for what it needs itself.
    let mut statements = mend.split_inclusive(';');
    for statement in statements.by_ref().take(2) {
        rig.sql.batch_execute(statement).await.unwrap();
        let before = statement.contains("SCHEMA");
        waits(&rig, on("orders", "PUT", 1, json!({"a": "x"})), "HW4301").await;
        if before {
            waits(&rig, on("orders", "DELETE", 1, json!({})), "HW4301").await;
        }
    }
    for statement in statements {
        rig.sql.batch_execute(statement).await.unwrap();
    }
    applied(&rig, on("orders", "PUT", 1, json!({"a": "x"}))).await;
    applied(&rig, on("orders", "PATCH", 2, json!({"a": "y"}))).await;
    assert_eq!(findings(&rig).await, "");
}

/// A policy runs with the rights of whoever writes, and what it reads is told like the rest.
#[tokio::test]
async fn fd_52_what_the_policies_of_a_table_read_and_call_waits_and_is_told_with_its_statements() {
    let rig = Rig::start().await;
    rig.sql
        .batch_execute(
            "CREATE TABLE notes (id text PRIMARY KEY, a text);
             CREATE TABLE members (sub text, hidden text); CREATE TABLE teams (sub text);
             CREATE SCHEMA rules;
             CREATE FUNCTION rules.open(int, text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
               $$ BEGIN RETURN true; END $$;
             REVOKE EXECUTE ON FUNCTION rules.open FROM PUBLIC;
             ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
             ALTER TABLE members ENABLE ROW LEVEL SECURITY;
             CREATE POLICY mine ON notes USING (EXISTS (SELECT FROM members m WHERE m.sub = 'ada'));
             CREATE POLICY teams ON members USING (rules.open(1, sub) AND sub IN (SELECT sub FROM teams));
             INSERT INTO members VALUES ('ada'); INSERT INTO teams VALUES ('ada');
             GRANT SELECT, INSERT, DELETE ON notes TO headwater_authenticated;
             GRANT UPDATE (a) ON notes TO headwater_authenticated;
             GRANT SELECT (hidden) ON members TO headwater_authenticated",
        )
        .await
        .unwrap();
    let mut map = UploadMap::new(Unknown::Rejected);
    map.insert("notes", plain("notes", ConflictPolicy::LastWriteWins));
    rig.uploads.set_map(map);
    // Columns were chosen, and that is not what is in the way.
    for op in ["PUT", "PATCH", "DELETE"] {
        waits(&rig, on("notes", op, 1, json!({"a": "x"})), "HW4301").await;
    }
    let told = findings(&rig).await;
    let mend = told.split("mend:").nth(1).unwrap().trim().to_owned();
    let role = "\"headwater_authenticated\"";
    assert_eq!(
        mend,
        format!(
            "GRANT EXECUTE ON FUNCTION rules.open(integer, text) TO {role}; \
             GRANT SELECT ON public.members TO {role}; GRANT SELECT ON public.teams TO {role};"
        )
    );
    for statement in mend.split_inclusive(';') {
        waits(&rig, on("notes", "PATCH", 1, json!({"a": "x"})), "HW4301").await;
        rig.sql.batch_execute(statement).await.unwrap();
    }
    applied(&rig, on("notes", "PUT", 1, json!({"a": "x"}))).await;
    applied(&rig, on("notes", "PATCH", 2, json!({"a": "y"}))).await;
    assert_eq!(findings(&rig).await, "");
}

#[tokio::test]
async fn fd_52_a_right_that_a_trigger_lacks_waits_and_a_policy_or_a_choice_of_columns_rejects() {
    let rig = Rig::start().await;
    rig.sql
        .batch_execute(
            "CREATE TABLE notes (id text PRIMARY KEY, a text, b text); CREATE TABLE audit (id text);
             CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NEW; END $$;
             CREATE TRIGGER note_it AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION note_it();
             GRANT SELECT, INSERT ON notes TO headwater_authenticated;
             GRANT UPDATE (a) ON notes TO headwater_authenticated",
        )
        .await
        .unwrap();
    rig.also("notes", ConflictPolicy::LastWriteWins);
    waits(&rig, on("notes", "PUT", 1, json!({})), "HW4301").await;
    rig.sql.batch_execute("GRANT INSERT ON audit TO headwater_authenticated").await.unwrap();
    applied(&rig, on("notes", "PUT", 1, json!({}))).await;
    applied(&rig, on("notes", "PATCH", 2, json!({"a": "x"}))).await;
    // Somebody chose the columns.
    let answer = rig.write("ada", on("notes", "PATCH", 3, json!({"b": "x"}))).await;
    assert_eq!(
        answer["error"]["message"],
        "the role of this user may not write all of these columns"
    );
    let told = findings(&rig).await;
    assert!(told.contains("GRANT DELETE ON \"public\".\"notes\""), "{told}");
    assert!(told.contains("no row level security decides"), "{told}");
    // A policy that the row breaks is the author's affair.
    let foreign = json!([put(4, &row_id(2), json!({"name": "x", "owner": "bob"}))]);
    let answer = rig.write("ada", foreign).await;
    assert_eq!(
        (&answer["verdict"], &answer["error"]["message"]),
        (&json!("rejected"), &json!("a policy of the table does not allow this write"))
    );
}

#[tokio::test]
async fn tables_without_policies_and_tables_that_cannot_be_written_are_told_beforehand() {
    let rig = Rig::start().await;
    rig.sql
        .batch_execute(
            "CREATE TABLE shut (id text PRIMARY KEY); ALTER TABLE shut ENABLE ROW LEVEL SECURITY;
             CREATE POLICY reading ON shut FOR SELECT USING (true);
             GRANT ALL ON shut TO headwater_authenticated;
             CREATE TABLE pairs (id text, b text, PRIMARY KEY (id, b));
             GRANT ALL ON pairs TO headwater_authenticated",
        )
        .await
        .unwrap();
    rig.also("shut", ConflictPolicy::LastWriteWins);
    let told = findings(&rig).await;
    assert!(told.contains("no policy allows INSERT, UPDATE, DELETE"), "{told}");
    assert!(
        told.contains("table \"report\" is read only for clients: it joins two tables"),
        "{told}"
    );
    rig.also("pairs", ConflictPolicy::LastWriteWins);
    let told = findings(&rig).await;
    let why = "table \"pairs\" is read only for clients: its id column \"id\" has no unique index \
               of its own";
    assert!(told.contains(why), "{told}");
}

/// What is printed can be run as it is, and then there is nothing left to say but whose rows they are.
#[tokio::test]
async fn the_statements_about_rights_and_policies_work_as_they_are_printed() {
    let rig = Rig::start().await;
    rig.sql
        .batch_execute(
            "CREATE TABLE mine (id text PRIMARY KEY, owner_id uuid);
             CREATE TABLE plain (id text PRIMARY KEY);
             CREATE TABLE shut (id text PRIMARY KEY, \"userId\" text);
             ALTER TABLE shut ENABLE ROW LEVEL SECURITY",
        )
        .await
        .unwrap();
    let about = async || {
        let found = rig.uploads.examine().await.unwrap();
        let of_ours = |f: &Diagnostic| f.what.starts_with("clients write public.");
        found.into_iter().filter(of_ours).filter_map(|f| f.mend).collect::<Vec<_>>()
    };
    for (table, part) in [
        ("mine", "\"owner_id\"::text = current_setting("),
        ("plain", "USING (false); -- instead of false"),
        ("shut", "\"userId\"::text = current_setting("),
    ] {
        rig.also(table, ConflictPolicy::LastWriteWins);
        let mends = about().await;
        let [mend] = &mends[..] else { panic!("{mends:#?}") };
        assert!(mend.contains(part), "{mend}");
        rig.sql.batch_execute(mend).await.unwrap_or_else(|error| panic!("{mend}: {error:?}"));
        if table != "plain" {
            assert_eq!(about().await, Vec::<String>::new(), "{table}");
            continue;
        }
        // Nobody can write until somebody says whose a row is, and that is said for so long.
        let left = about().await;
        let [left] = &left[..] else { panic!("{left:#?}") };
        let alter = "ALTER POLICY headwater_writes ON \"public\".\"plain\" TO \
                     \"headwater_authenticated\" USING (false); -- instead of false: whose row it is";
        assert!(left.starts_with(alter), "{left}");
        rig.sql.batch_execute(left).await.unwrap_or_else(|error| panic!("{left}: {error:?}"));
        assert_eq!(about().await.len(), 1);
        rig.sql.batch_execute(&left.replace("(false)", "(id = 'x')")).await.unwrap();
        assert_eq!(about().await, Vec::<String>::new(), "somebody said it");
    }
    // The role that replicates goes on seeing every row.
    let hidden = "SELECT count(*) FROM pg_class c WHERE relname IN ('mine', 'plain') AND relrowsecurity
                  AND NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid AND polname = 'headwater_reads')";
    let hidden: i64 = rig.sql.query_one(hidden, &[]).await.unwrap().get(0);
    assert_eq!(hidden, 0);
}
