//! What becomes of operations: applied, rejected with a reason, in order.

use axum::http::StatusCode;
use hw_write::ConflictPolicy;
use serde_json::{Value, json};

use crate::rig::{Rig, delete, patch, put, row_id};

fn verdict(answer: &Value) -> &str {
    answer["verdict"].as_str().unwrap()
}

#[tokio::test]
async fn a_transaction_is_applied_whole_and_in_order() {
    let rig = Rig::start().await;
    let (a, b) = (row_id(1), row_id(2));
    let answer = rig
        .write(
            "ada",
            json!([
                put(1, &a, json!({"name": "one", "n": 1})),
                put(2, &b, json!({"name": "two"})),
                patch(3, &a, json!({"name": "uno"})),
                delete(4, &b),
            ]),
        )
        .await;
    assert_eq!(answer, json!({"id": 1, "verdict": "applied"}));
    assert_eq!(rig.ask("SELECT string_agg(name || n || owner, ',') FROM lists").await, "uno1ada");
    // All of it was one Postgres transaction.
    assert_eq!(rig.ask("SELECT count(DISTINCT xmin::text) FROM runs").await, "1");
}

#[tokio::test]
async fn put_of_a_row_that_is_there_sets_the_given_columns_only() {
    let rig = Rig::start().await;
    let a = row_id(1);
    rig.write("ada", json!([put(1, &a, json!({"name": "one", "slug": "s", "n": 5}))])).await;
    rig.write("ada", json!([put(2, &a, json!({"name": "two", "n": null}))])).await;
    let row = "SELECT name || ' ' || slug || ' ' || coalesce(n::text, 'NULL') FROM lists";
    assert_eq!(rig.ask(row).await, "two s NULL");
    // Without columns nothing is set, and defaults fill a new row.
    assert_eq!(verdict(&rig.write("ada", json!([put(3, &a, json!({}))])).await), "applied");
    assert_eq!(rig.ask(row).await, "two s NULL");
}

#[tokio::test]
async fn patch_of_a_row_that_is_missing_or_not_visible_is_rejected_alike() {
    let rig = Rig::start().await;
    rig.write("ada", json!([put(1, &row_id(1), json!({"name": "hers"}))])).await;
    let theirs = rig.write("bob", json!([patch(1, &row_id(1), json!({"name": "his"}))])).await;
    let nobodys = rig.write("bob", json!([patch(2, &row_id(9), json!({"name": "his"}))])).await;
    assert_eq!(
        theirs,
        json!({"id": 1, "verdict": "rejected", "error": {
            "sqlstate": "02000",
            "message": "the row does not exist, or you may not see or change it",
            "op_id": 1,
            "table": "lists",
        }})
    );
    assert_eq!(theirs["error"]["message"], nobodys["error"]["message"]);
    assert_eq!(rig.ask("SELECT name FROM lists").await, "hers");
}

#[tokio::test]
async fn delete_of_nothing_is_applied_and_of_anothers_row_deletes_nothing() {
    let rig = Rig::start().await;
    rig.write("ada", json!([put(1, &row_id(1), json!({"name": "hers"}))])).await;
    assert_eq!(verdict(&rig.write("bob", json!([delete(1, &row_id(1))])).await), "applied");
    assert_eq!(verdict(&rig.write("bob", json!([delete(2, &row_id(9))])).await), "applied");
    assert_eq!(rig.ask("SELECT count(*) FROM lists").await, "1");
}

/// F-49: a constraint error in the queue's head gets a typed rejection, and later writes pass.
#[tokio::test]
async fn f49_a_poison_write_is_rejected_with_its_constraint_and_the_queue_goes_on() {
    let rig = Rig::start().await;
    rig.write("ada", json!([put(1, &row_id(1), json!({"name": "a", "slug": "taken"}))])).await;
    let transaction = |id: i64, operations: Value| json!({"id": id, "operations": operations});
    let (status, body) = rig
        .upload(
            "bob",
            json!([
                transaction(
                    1,
                    json!([
                        put(1, &row_id(2), json!({"name": "fine"})),
                        put(2, &row_id(3), json!({"name": "clash", "slug": "taken"})),
                    ])
                ),
                transaction(2, json!([put(3, &row_id(4), json!({"name": "x".repeat(50)}))])),
                transaction(3, json!([put(4, &row_id(5), json!({"name": null}))])),
                transaction(4, json!([put(5, "no uuid", json!({"name": "b"}))])),
                transaction(5, json!([put(6, &row_id(6), json!({"name": "later"}))])),
            ]),
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    let error = |place: usize| &body["transactions"][place]["error"];
    assert_eq!(
        *error(0),
        json!({
            "sqlstate": "23505",
            "message": "a row with the same value exists already (constraint \"one_slug\")",
            "op_id": 2,
            "table": "lists",
            "constraint": "one_slug",
        })
    );
    assert_eq!(error(1)["constraint"], "name_is_short");
    assert_eq!((&error(2)["sqlstate"], &error(2)["column"]), (&json!("23502"), &json!("name")));
    assert_eq!(
        (&error(3)["message"], &error(3)["column"]),
        (&json!("a value does not fit its column's type (column \"id\")"), &json!("id"))
    );
    assert_eq!(body["transactions"][4], json!({"id": 5, "verdict": "applied"}));
    // Nothing of the rejected transactions is there, and nobody else's value was told.
    assert_eq!(rig.ask("SELECT string_agg(name, ',' ORDER BY name) FROM lists").await, "a,later");
    assert!(!body.to_string().contains("taken\""), "{body}");
}

#[tokio::test]
async fn a_rejected_write_is_kept_for_its_author_and_nobody_else() {
    let rig = Rig::start().await;
    let operations = json!([{
        "op_id": 7, "op": "PATCH", "type": "lists", "id": row_id(1), "data": {"n": 9007199254740993u64},
        "metadata": "from the kitchen"
    }]);
    rig.write("ada", operations).await;
    assert_eq!(
        rig.ask(
            "SELECT concat_ws('|', sub, client_id, tx_id, op_id, sqlstate, table_name, \
             entries->0->>'metadata', entries->0->'data'->>'n') FROM headwater.rejected_writes"
        )
        .await,
        "ada|c|7|7|02000|lists|from the kitchen|9007199254740993"
    );
    for (reader, expected) in [("ada", "1"), ("bob", "0")] {
        let rows = rig
            .sql
            .simple_query(&format!(
                "BEGIN; SET LOCAL request.jwt.claim.sub = '{reader}'; \
                 SET LOCAL ROLE headwater_authenticated; \
                 SELECT count(*) FROM headwater.rejected_writes; ROLLBACK"
            ))
            .await
            .unwrap();
        let count = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        assert_eq!(count, Some(expected), "{reader}");
    }
}

#[tokio::test]
async fn renamed_columns_are_mapped_back_and_what_is_no_rename_is_rejected_by_name() {
    let rig = Rig::start().await;
    let on = |table: &str, op_id: i64, data: Value| json!([{"op_id": op_id, "op": "PUT", "type": table, "id": row_id(1), "data": data}]);
    let answer = rig.write("ada", on("renamed", 1, json!({"title": "t", "tag": "s"}))).await;
    assert_eq!(verdict(&answer), "applied");
    assert_eq!(rig.ask("SELECT name || slug FROM lists").await, "ts");
    // A violated rule comes back under the client's name of the column.
    let answer = rig.write("ada", on("renamed", 2, json!({"title": null}))).await;
    assert_eq!(answer["error"]["column"], "title");

    let cases = [
        ("renamed", json!({"loud": "T"}), "column \"loud\" is computed by the sync configuration"),
        ("renamed", json!({"name": "t"}), "there is no column \"name\" to write"),
        ("renamed", json!({"id": row_id(2)}), "the id of a row cannot be changed"),
        ("lists", json!({"nope": 1}), "there is no column \"nope\" to write"),
        ("report", json!({}), "it joins two tables"),
        (
            "pg_authid",
            json!({}),
            "it is neither in the sync configuration nor under uploads.tables",
        ),
        (
            "lists\"; DROP TABLE lists; --",
            json!({}),
            "it is neither in the sync configuration nor \
                                                      under uploads.tables",
        ),
    ];
    for (place, (table, data, reason)) in cases.into_iter().enumerate() {
        let answer = rig.write("ada", on(table, 10 + place as i64, data)).await;
        assert_eq!(
            answer["error"]["message"],
            format!("table \"{table}\" cannot be written: {reason}")
        );
        assert_eq!(answer["error"]["table"], table);
    }
}

#[tokio::test]
async fn a_table_without_a_unique_id_and_a_view_are_rejected_by_name() {
    let rig = Rig::start().await;
    rig.sql
        .batch_execute(
            "CREATE TABLE bag (id text, a int); CREATE VIEW seen AS SELECT * FROM lists; \
             GRANT ALL ON bag, seen TO headwater_authenticated",
        )
        .await
        .unwrap();
    for (table, reason) in [
        ("bag", "its id column \"id\" has no unique index of its own"),
        ("seen", "only tables can be written, and this is none"),
    ] {
        rig.also(table, ConflictPolicy::LastWriteWins);
        let answer =
            rig.write("ada", json!([{"op_id": 1, "op": "DELETE", "type": table, "id": "1"}])).await;
        assert_eq!(answer["verdict"], "rejected");
        let message = answer["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(message, format!("table \"{table}\" cannot be written: {reason}"));
        rig.sql
            .batch_execute("DELETE FROM headwater.uploads; DELETE FROM headwater.upload_high_water")
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_table_that_changed_is_described_anew_at_once() {
    let rig = Rig::start().await;
    rig.write("ada", json!([put(1, &row_id(1), json!({"name": "a"}))])).await;
    rig.sql.batch_execute("ALTER TABLE lists ADD COLUMN extra int4").await.unwrap();
    let answer = rig.write("ada", json!([patch(2, &row_id(1), json!({"extra": 4}))])).await;
    assert_eq!(verdict(&answer), "applied", "{answer}");
    rig.sql.batch_execute("ALTER TABLE lists ALTER COLUMN extra TYPE text").await.unwrap();
    let answer = rig.write("ada", json!([patch(3, &row_id(1), json!({"extra": "five"}))])).await;
    assert_eq!(verdict(&answer), "applied", "{answer}");
    rig.sql.batch_execute("ALTER TABLE lists DROP COLUMN extra").await.unwrap();
    let answer = rig.write("ada", json!([patch(4, &row_id(1), json!({"extra": "six"}))])).await;
    assert_eq!(answer["error"]["sqlstate"], "42703");
}

#[tokio::test]
async fn a_deferred_constraint_rejects_at_commit() {
    let rig = Rig::start().await;
    rig.sql
        .batch_execute(
            "CREATE TABLE kids (id text PRIMARY KEY, list uuid CONSTRAINT known_list \
               REFERENCES lists DEFERRABLE INITIALLY DEFERRED); \
             GRANT ALL ON kids TO headwater_authenticated",
        )
        .await
        .unwrap();
    rig.also("kids", ConflictPolicy::LastWriteWins);
    let kid = |op_id: i64, list: u32| {
        json!({"op_id": op_id, "op": "PUT", "type": "kids", "id": "k",
               "data": {"list": row_id(list)}})
    };
    let answer = rig.write("ada", json!([kid(1, 1)])).await;
    assert_eq!(answer["error"]["constraint"], "known_list");
    // The parent may come later in the same transaction.
    let answer =
        rig.write("ada", json!([kid(2, 1), put(3, &row_id(1), json!({"name": "p"}))])).await;
    assert_eq!(verdict(&answer), "applied");
}

#[tokio::test]
async fn reject_if_changed_compares_the_previous_values_that_the_client_tracked() {
    let rig = Rig::start().await;
    rig.sql
        .batch_execute(
            "CREATE TABLE docs (id text PRIMARY KEY, a text, b jsonb, f float8, at timestamptz); \
             GRANT ALL ON docs TO headwater_authenticated; \
             INSERT INTO docs VALUES ('1', 'x', '{\"k\": [1]}', 0.1, '2024-01-02 03:04:05.6Z')",
        )
        .await
        .unwrap();
    rig.also("docs", ConflictPolicy::RejectIfChanged);
    let operation = |op_id: i64, op: &str, id: &str, data: Value, old: Value| json!([{"op_id": op_id, "op": op, "type": "docs", "id": id, "data": data, "old": old}]);
    let old = json!({"a": "x", "b": "{\"k\":[1]}", "f": 0.1, "at": "2024-01-02 03:04:05.6Z"});
    let answer = rig.write("ada", operation(1, "PATCH", "1", json!({"a": "y"}), old.clone())).await;
    assert_eq!(verdict(&answer), "applied", "{answer}");
    let answer = rig.write("bob", operation(1, "PATCH", "1", json!({"a": "z"}), old.clone())).await;
    assert_eq!(
        answer["error"]["message"],
        "somebody else changed the row since this client read it"
    );
    // NULL is a value that can be unchanged, too.
    rig.sql.batch_execute("UPDATE docs SET a = NULL").await.unwrap();
    let answer =
        rig.write("ada", operation(2, "PATCH", "1", json!({"a": "n"}), json!({"a": null}))).await;
    assert_eq!(verdict(&answer), "applied", "{answer}");
    // A delete of a changed row is rejected; of one that is gone already, applied.
    let answer =
        rig.write("bob", operation(2, "DELETE", "1", json!(null), json!({"a": "x"}))).await;
    assert_eq!(answer["error"]["sqlstate"], "40001");
    let answer =
        rig.write("bob", operation(3, "DELETE", "9", json!(null), json!({"a": "x"}))).await;
    assert_eq!(verdict(&answer), "applied");
    let answer = rig.write("bob", operation(4, "PATCH", "9", json!({"a": "q"}), json!({}))).await;
    assert_eq!(answer["error"]["sqlstate"], "02000");
    // Without previous values nobody can tell.
    let answer = rig.write("bob", operation(5, "PATCH", "1", json!({"a": "q"}), json!(null))).await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("trackPrevious"));
    // An insert of a key that somebody else took.
    let answer = rig.write("bob", operation(6, "PUT", "1", json!({"a": "q"}), json!(null))).await;
    assert_eq!(answer["error"]["sqlstate"], "40001");
    let answer = rig.write("bob", operation(7, "PUT", "2", json!({"a": "q"}), json!(null))).await;
    assert_eq!(verdict(&answer), "applied");
    let answer =
        rig.write("bob", operation(8, "DELETE", "1", json!(null), json!({"a": "n"}))).await;
    assert_eq!(verdict(&answer), "applied");
    assert_eq!(rig.ask("SELECT string_agg(id || a, ',') FROM docs").await, "2q");
}

/// FD-53: what clients are never sent is never compared.
#[tokio::test]
async fn fd_53_columns_that_clients_are_not_sent_do_not_conflict() {
    let mut rig = Rig::start().await;
    rig.configure(
        hw_write::UploadConfig { publication: Some("sent".into()), ..Default::default() },
        &[],
    );
    rig.sql
        .batch_execute(
            "CREATE TABLE goods (id text PRIMARY KEY, name text, secret text DEFAULT 'hush',
               name_upper text GENERATED ALWAYS AS (upper(name)) STORED);
             GRANT ALL ON goods TO headwater_authenticated;
             INSERT INTO goods (id, name) VALUES ('1', 'Product 5')",
        )
        .await
        .unwrap();
    rig.also("goods", ConflictPolicy::RejectIfChanged);
    let patch = |op_id: i64, old: Value| json!([{"op_id": op_id, "op": "PATCH", "type": "goods", "id": "1", "data": {"name": "x"}, "old": old}]);
    let old = json!({"name": "Product 5", "name_upper": null});
    let answer = rig.write("ada", patch(1, old)).await;
    assert_eq!(verdict(&answer), "applied", "{answer}");
    // Lists of columns exist since Postgres 15.
    let major: u32 = rig
        .ask("SELECT current_setting('server_version_num')::int4 / 10000")
        .await
        .parse()
        .unwrap();
    if major >= 15 {
        let publish = "CREATE PUBLICATION sent FOR TABLE goods (id, name)";
        rig.sql.batch_execute(publish).await.unwrap();
        rig.configure(
            hw_write::UploadConfig { publication: Some("sent".into()), ..Default::default() },
            &[],
        );
        rig.also("goods", ConflictPolicy::RejectIfChanged);
        let answer = rig.write("ada", patch(2, json!({"name": "x", "secret": null}))).await;
        assert_eq!(verdict(&answer), "applied", "{answer}");
    }
    let answer = rig.write("ada", patch(3, json!({"name": "y"}))).await;
    assert_eq!(answer["error"]["sqlstate"], "40001");
}
