//! `datasync.md` 8: writes of single messages.

use serde_json::{Value, json};

use crate::rig::{Rig, create, delete, query, row_id, update};

fn create_all(table: &str, records: Value) -> Value {
    json!({"tag": "CreateRecordsMessage", "table": table, "records": records})
}

#[tokio::test]
async fn ds_8_a_record_is_created_with_defaults_and_answered_whole() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let record = json!({
        "id": row_id(1), "title": "a", "isDone": true, "createdAt": "2024-05-06T07:08:09.123Z", "type_": "t",
        "tags": ["x", "y"], "meta": [1, {"a": null}], "feeling": "ok", "n": 9007199254740993_i64, "price": "1.25",
    });
    let answer = amy.ask(create("tasks", record)).await;
    assert_eq!(answer["tag"], "DidCreateRecord");
    let expected = json!({
        "id": row_id(1), "owner": "amy", "title": "a", "slug": null, "isDone": true,
        "createdAt": "2024-05-06T07:08:09.123+00:00", "type_": "t", "feeling": "ok", "tags": ["x", "y"],
        "meta": [1, {"a": null}], "n": 9007199254740993_i64, "price": 1.25,
    });
    assert_eq!(answer["record"], expected);
    let answer = amy.ask(create("tasks", json!({}))).await;
    assert_eq!(
        (&answer["record"]["title"], &answer["record"]["owner"]),
        (&json!("untitled"), &json!("amy"))
    );
    assert_eq!(rig.ask("SELECT count(*) FROM tasks").await, "2");
}

#[tokio::test]
async fn ds_8_several_records_have_the_union_of_their_fields_in_their_order() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let records = json!([{"title": "a"}, {"n": 2}, {}, {"title": "d", "n": 4}]);
    let answer = amy.ask(create_all("tasks", records)).await;
    assert_eq!(answer["tag"], "DidCreateRecords");
    let made: Vec<(&Value, &Value)> = answer["records"]
        .as_array()
        .expect("records")
        .iter()
        .map(|it| (&it["title"], &it["n"]))
        .collect();
    let untitled = json!("untitled");
    let expected = [
        (&json!("a"), &Value::Null),
        (&untitled, &json!(2)),
        (&untitled, &Value::Null),
        (&json!("d"), &json!(4)),
    ];
    assert_eq!(made, expected);
    let answer = amy.ask(create_all("tasks", json!([{}, {}, {}]))).await;
    assert_eq!(answer["records"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        amy.refused(create_all("tasks", json!([]))).await,
        "At least one record is required"
    );
}

#[tokio::test]
async fn ds_8_more_values_than_one_statement_has_are_one_transaction_all_the_same() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let record = |n: u32| json!({"id": row_id(n), "n": n, "price": n, "type": "a"});
    let mut records: Vec<Value> = (0..8_000).map(record).collect();
    let answer = amy.ask(create_all("tasks", json!(records))).await;
    assert_eq!(
        answer["records"].as_array().map(Vec::len),
        Some(8_000),
        "{}",
        answer["errorMessage"]
    );
    for (record, n) in records.iter_mut().zip(100_000..) {
        record["id"] = row_id(n).into();
    }
    records.last_mut().expect("some")["id"] = row_id(1).into();
    let answer = amy.ask(create_all("tasks", json!(records))).await;
    assert_eq!(answer["sqlstate"], "23505");
    assert_eq!(rig.ask("SELECT count(*) FROM tasks").await, "8000", "nothing of the second");
}

#[tokio::test]
async fn ds_8_records_are_updated_and_deleted_by_their_ids() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    for n in 1..=3 {
        amy.ask(create("tasks", json!({"id": row_id(n), "title": format!("t{n}")}))).await;
    }
    let answer =
        amy.ask(update("tasks", json!(row_id(1)), json!({"title": "new", "isDone": true}))).await;
    assert_eq!(answer["tag"], "DidUpdateRecord");
    assert_eq!(
        (&answer["record"]["title"], &answer["record"]["isDone"]),
        (&json!("new"), &json!(true))
    );
    let answer = amy.ask(update("tasks", json!(row_id(1).to_uppercase()), json!({}))).await;
    assert_eq!(answer["record"]["title"], "new", "an empty patch gives the row as it is");
    let several = json!({"tag": "UpdateRecordsMessage", "table": "tasks",
        "ids": [row_id(1), row_id(2), row_id(9)], "patch": {"n": 7}});
    let answer = amy.ask(several).await;
    assert_eq!(
        (&answer["tag"], answer["records"].as_array().map(Vec::len)),
        (&json!("DidUpdateRecords"), Some(2))
    );
    let none =
        json!({"tag": "UpdateRecordsMessage", "table": "tasks", "ids": [], "patch": {"n": 8}});
    assert_eq!(amy.ask(none).await["records"], json!([]));
    let missing = amy.refused(update("tasks", json!(row_id(9)), json!({"n": 1}))).await;
    assert!(
        missing.starts_with("Could not apply the update to the given record. Are you sure"),
        "{missing}"
    );
    assert_eq!(amy.refused(update("tasks", json!(row_id(9)), json!({}))).await, missing);
    assert_eq!(amy.ask(delete("tasks", json!(row_id(1)))).await["tag"], "DidDeleteRecord");
    assert_eq!(
        amy.ask(delete("tasks", json!(row_id(1)))).await["tag"],
        "DidDeleteRecord",
        "also of nothing"
    );
    let rest =
        json!({"tag": "DeleteRecordsMessage", "table": "tasks", "ids": [row_id(2), row_id(3)]});
    assert_eq!(amy.ask(rest).await["tag"], "DidDeleteRecords");
    let none = json!({"tag": "DeleteRecordsMessage", "table": "tasks", "ids": []});
    assert_eq!(amy.ask(none).await["tag"], "DidDeleteRecords");
    assert_eq!(amy.rows(query("tasks", json!({}))).await, json!([]));
}

#[tokio::test]
async fn ds_21_keys_may_have_any_type_and_several_columns() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    amy.ask(create_all("counters", json!([{"id": 1}, {"id": 2}]))).await;
    assert_eq!(
        amy.ask(update("counters", json!("1"), json!({"n": 5}))).await["record"],
        json!({"id": 1, "n": 5})
    );
    assert_eq!(
        amy.ask(update("counters", json!(2), json!({"n": 6}))).await["record"],
        json!({"id": 2, "n": 6})
    );
    let both = json!({"tag": "UpdateRecordsMessage", "table": "counters", "ids": [1, "2"], "patch": {"n": 7}});
    assert_eq!(amy.ask(both).await["records"].as_array().map(Vec::len), Some(2));
    amy.ask(create_all(
        "lines",
        json!([{"tenant": "a", "n": 1}, {"tenant": "a", "n": 2}, {"tenant": "b", "n": 1}]),
    ))
    .await;
    let answer = amy.ask(update("lines", json!(["a", 2]), json!({"words": "w"}))).await;
    assert_eq!(answer["record"], json!({"tenant": "a", "n": 2, "words": "w"}));
    let two = json!({"tag": "DeleteRecordsMessage", "table": "lines", "ids": [["a", 1], ["b", 1]]});
    assert_eq!(amy.ask(two).await["tag"], "DidDeleteRecords");
    assert_eq!(
        amy.rows(query("lines", json!({}))).await,
        json!([{"tenant": "a", "n": 2, "words": "w"}])
    );
    let refused = amy.refused(delete("lines", json!("a"))).await;
    assert!(refused.contains("an array with a value for each column"), "{refused}");
    let refused = amy.refused(delete("keyless", json!("a"))).await;
    assert!(refused.contains("has no primary key"), "{refused}");
}

#[tokio::test]
async fn ds_8_what_policies_and_constraints_forbid_is_told_without_values() {
    let rig = Rig::start().await;
    let (mut amy, mut bob) = (rig.connect("amy").await, rig.connect("bob").await);
    amy.ask(create("tasks", json!({"id": row_id(1), "slug": "hush"}))).await;
    let cases = [
        (create("tasks", json!({"slug": "hush"})), "23505", "(constraint \"one_slug\")"),
        (
            create("tasks", json!({"title": "hush".repeat(20)})),
            "23514",
            "(constraint \"title_is_short\")",
        ),
        (
            create("tasks", json!({"owner": "hush"})),
            "42501",
            "new row violates row-level security policy",
        ),
        (create("tasks", json!({"title": null})), "23502", "(column \"title\")"),
        (create("tasks", json!({"type": "hush hush"})), "22001", "too long"),
        (create("tasks", json!({"feeling": "hush"})), "22P02", "does not fit"),
        (create("tasks", json!({"n": 1e30})), "22003", "out of range"),
        (create("tasks", json!({"createdAt": "hush"})), "22007", "not valid"),
        (create("tasks", json!({"title": "hush\u{0}"})), "22021", "cannot store"),
        (update("tasks", json!("hush"), json!({"n": 1})), "22P02", "does not fit"),
    ];
    for (message, sqlstate, words) in cases {
        let answer = bob.ask(message.clone()).await;
        assert_eq!(answer["sqlstate"], sqlstate, "{message} {answer}");
        let text = answer["errorMessage"].as_str().expect("a sentence");
        assert!(text.contains(words) && !text.contains("hush"), "{text}");
    }
    // Another's row is as if it were not there.
    let refused = bob.refused(update("tasks", json!(row_id(1)), json!({"title": "x"}))).await;
    assert!(refused.starts_with("Could not apply the update"), "{refused}");
    assert_eq!(bob.ask(delete("tasks", json!(row_id(1)))).await["tag"], "DidDeleteRecord");
    assert_eq!(rig.ask("SELECT title FROM tasks").await, "untitled");
}

#[tokio::test]
async fn ds_8_what_a_trigger_raises_is_refused_without_its_text() {
    let rig = Rig::start().await;
    let make = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                  $$ BEGIN RAISE EXCEPTION 'hush' USING ERRCODE = '42703', COLUMN = 'hush', CONSTRAINT = 'hush'; END $$;
                CREATE TRIGGER refuse BEFORE INSERT ON counters FOR EACH ROW EXECUTE FUNCTION refuse()";
    rig.sql.batch_execute(make).await.expect("made");
    let mut amy = rig.connect("amy").await;
    let answer = amy.ask(create("counters", json!({"id": 1}))).await;
    assert!(!answer.to_string().contains("hush"), "{answer}");
    assert_eq!(answer["errorMessage"], "a function of the database refused the statement");
}
