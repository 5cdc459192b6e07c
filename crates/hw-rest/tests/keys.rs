//! Ids that are made of several columns, and tables whose key has more than one.

use hw_types::TableName;
use hw_write::{ConflictPolicy, IdPart, MappedTable, TableTarget, Unknown, UploadMap};
use serde_json::{Value, json};

use crate::rig::Rig;

const TABLES: &str = "
CREATE TABLE lines (
  tenant text, n int4, a text, b bool NOT NULL DEFAULT false,
  PRIMARY KEY (tenant, n)
) PARTITION BY LIST (tenant);
CREATE TABLE lines_x PARTITION OF lines FOR VALUES IN ('x', 'x/1');
CREATE TABLE lines_y PARTITION OF lines DEFAULT;
CREATE TABLE tags (note text, tag text, UNIQUE (tag, note));
GRANT ALL ON lines, tags TO headwater_authenticated";

async fn rig(conflict: ConflictPolicy) -> Rig {
    let rig = Rig::start().await;
    rig.sql.batch_execute(TABLES).await.unwrap();
    let column = |name: &str| IdPart::Column(name.into());
    let text = |text: &str| IdPart::Text(text.into());
    let mut map = UploadMap::new(Unknown::Rejected);
    for (table, id) in [
        ("lines", vec![column("tenant"), text("/"), column("n")]),
        ("tags", vec![text("tag:"), column("note"), text("--"), column("tag"), text(";")]),
    ] {
        let plain = MappedTable::plain(TableName::new("public", table), conflict);
        map.insert(table, TableTarget::Table(MappedTable { id, ..plain }));
    }
    rig.uploads.set_map(map);
    rig
}

fn on(table: &str, op: &str, op_id: i64, id: &str, data: Value) -> Value {
    json!({"op_id": op_id, "op": op, "type": table, "id": id, "data": data})
}

async fn check(rig: &Rig, operation: Value, expected: &str) {
    let answer = rig.write("ada", json!([operation.clone()])).await;
    let got = match answer["verdict"].as_str() {
        Some("rejected") => answer["error"]["message"].as_str().unwrap_or_default(),
        other => other.unwrap_or_default(),
    };
    assert_eq!(got, expected, "{operation}: {answer}");
}

#[tokio::test]
async fn composite_keys_and_partitioned_tables_are_written_by_the_id_that_joins_them() {
    let rig = rig(ConflictPolicy::LastWriteWins).await;
    // Clients hold the key's columns too, and repeat them.
    let new = json!({"id": "x/1", "tenant": "x", "n": 1, "a": "new"});
    check(&rig, on("lines", "PUT", 1, "x/1", new), "applied").await;
    check(&rig, on("lines", "PUT", 2, "x/1", json!({"a": "again"})), "applied").await;
    check(&rig, on("lines", "PUT", 3, "z/2", json!({})), "applied").await;
    check(&rig, on("lines", "PATCH", 4, "z/2", json!({"b": 1})), "applied").await;
    // The number's place tells which slash is which.
    check(&rig, on("lines", "PUT", 5, "x/1/7", json!({"a": "seven"})), "applied").await;
    let rows =
        "SELECT string_agg(concat_ws(' ', tenant, n, a, b), ', ' ORDER BY tenant, n) FROM lines";
    assert_eq!(rig.ask(rows).await, "x 1 again f, x/1 7 seven f, z 2 t");
    check(&rig, on("lines", "DELETE", 6, "x/1/7", json!(null)), "applied").await;
    assert_eq!(rig.ask(rows).await, "x 1 again f, z 2 t");

    check(&rig, on("tags", "PUT", 7, "tag:n1--red;", json!({})), "applied").await;
    assert_eq!(rig.ask("SELECT note || ' ' || tag FROM tags").await, "n1 red");
    check(&rig, on("tags", "DELETE", 8, "tag:n1--red;", json!(null)), "applied").await;
    assert_eq!(rig.ask("SELECT count(*) FROM tags").await, "0");
}

#[tokio::test]
async fn an_id_before_a_star_is_a_column_id_if_the_table_has_one() {
    let rig = Rig::start().await;
    rig.sql
        .batch_execute(
            "CREATE TABLE renamed_key (uid text PRIMARY KEY, a text); \
             CREATE TABLE own_id (id text PRIMARY KEY, uid text UNIQUE, a text); \
             GRANT ALL ON renamed_key, own_id TO headwater_authenticated",
        )
        .await
        .unwrap();
    let mut map = UploadMap::new(Unknown::Rejected);
    for table in ["renamed_key", "own_id"] {
        let source = TableName::new("public", table);
        let plain = MappedTable::plain(source, ConflictPolicy::LastWriteWins);
        let id = vec![IdPart::Column("uid".into())];
        map.insert(table, TableTarget::Table(MappedTable { id, id_yields: true, ..plain }));
        rig.uploads.set_map(map.clone());
    }
    for (op_id, table) in [(1, "renamed_key"), (2, "own_id")] {
        check(&rig, on(table, "PUT", op_id, "one", json!({"a": "x"})), "applied").await;
    }
    assert_eq!(rig.ask("SELECT uid || a FROM renamed_key").await, "onex");
    assert_eq!(rig.ask("SELECT concat_ws('|', id, uid, a) FROM own_id").await, "one|x");
}

#[tokio::test]
async fn an_id_that_does_not_say_which_row_it_means_writes_none() {
    let rig = rig(ConflictPolicy::LastWriteWins).await;
    let refused = |why: &str| format!("table \"tags\" cannot be written: {why}");
    let twice = refused("the id can be split into the columns of its key in more than one way");
    check(&rig, on("tags", "PUT", 1, "tag:a--b--c;", json!({})), &twice).await;
    let odd = refused("the id is not made as the configuration says");
    for (op_id, id) in [(2, "tag:a-b;"), (3, "a--b;"), (4, "tag:a--b"), (5, "")] {
        check(&rig, on("tags", "PUT", op_id, id, json!({})), &odd).await;
    }
    let odd = "table \"lines\" cannot be written: the id is not made as the configuration says";
    check(&rig, on("lines", "PUT", 6, "x/one", json!({})), odd).await;
    let changed = "table \"lines\" cannot be written: the id of a row cannot be changed";
    check(&rig, on("lines", "PUT", 7, "x/1", json!({"n": 2})), changed).await;
    check(&rig, on("lines", "PUT", 8, "x/1", json!({"id": "x/2"})), changed).await;
    assert_eq!(
        rig.ask("SELECT (SELECT count(*) FROM lines) + (SELECT count(*) FROM tags)").await,
        "0"
    );
}

#[tokio::test]
async fn conflicts_of_composite_keys_are_found_by_all_of_their_columns() {
    let rig = rig(ConflictPolicy::RejectIfChanged).await;
    check(&rig, on("lines", "PUT", 1, "x/1", json!({"a": "one"})), "applied").await;
    check(&rig, on("lines", "PUT", 2, "x/2", json!({"a": "two"})), "applied").await;
    let changed = "somebody else changed the row since this client read it";
    check(&rig, on("lines", "PUT", 3, "x/1", json!({"a": "three"})), changed).await;
    let old = |op_id: i64, a: &str| {
        let mut operation = on("lines", "PATCH", op_id, "x/1", json!({"a": "four"}));
        operation["old"] = json!({"id": "x/1", "a": a});
        operation
    };
    check(&rig, old(4, "other"), changed).await;
    check(&rig, old(5, "one"), "applied").await;
    assert_eq!(rig.ask("SELECT string_agg(a, ',' ORDER BY n) FROM lines").await, "four,two");
}
