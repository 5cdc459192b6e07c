//! `datasync.md` 12: under which role, and which tables.

use hw_datasync::DataSyncOptions;
use hw_write::StatementOptions;
use serde_json::json;
use std::time::Duration;

use crate::rig::{Rig, create, query, row_id, token_with};

fn read(table: &str) -> serde_json::Value {
    json!({"tag": "DataSyncQuery", "query": query(table, json!({}))})
}

#[tokio::test]
async fn ds_12_tables_without_row_security_views_and_unknown_ones_are_refused() {
    let rig = Rig::start().await;
    let mut amy = rig.connect("amy").await;
    let required = "Row level security is required for accessing this table";
    for table in ["bare", "seen"] {
        for message in [read(table), create(table, json!({"id": 7}))] {
            let answer = amy.ask(message).await;
            assert_eq!(answer["code"], "HW4305", "{answer}");
            assert!(
                answer["errorMessage"].as_str().is_some_and(|it| it.contains(required)),
                "{answer}"
            );
        }
    }
    for table in ["nowhere", "pg_class", "TASKS", "public.tasks", ""] {
        let answer = amy.ask(read(table)).await;
        assert_eq!(
            (&answer["code"], &answer["sqlstate"]),
            (&json!("HW5305"), &json!("42P01")),
            "{answer}"
        );
        assert!(answer["errorMessage"].as_str().is_some_and(|it| it.contains("does not exist")));
    }
}

#[tokio::test]
async fn ds_12_policies_read_the_token_in_every_manner() {
    let rig = Rig::start().await;
    let make = "CREATE TABLE manners (id int4 PRIMARY KEY, ihp text, sub text, claim text, asks text, own text);
        ALTER TABLE manners ENABLE ROW LEVEL SECURITY;
        CREATE POLICY all_of_it ON manners USING (true);
        GRANT ALL ON manners TO headwater_authenticated;
        ALTER TABLE manners
          ALTER ihp SET DEFAULT current_setting('rls.ihp_user_id'),
          ALTER sub SET DEFAULT current_setting('request.jwt.claim.sub'),
          ALTER claim SET DEFAULT current_setting('request.jwt.claims')::jsonb ->> 'team',
          ALTER asks SET DEFAULT current_setting('request.jwt.claim.role'),
          ALTER own SET DEFAULT current_user";
    rig.sql.batch_execute(make).await.expect("made");
    let token = token_with("amy", Duration::from_secs(60), json!({"team": "red"}));
    let mut amy =
        rig.connect_with(&format!("?access_token={token}"), &[]).await.expect("connected");
    let answer = amy.ask(create("manners", json!({"id": 1}))).await;
    let role = "headwater_authenticated";
    let expected =
        json!({"id": 1, "ihp": "amy", "sub": "amy", "claim": "red", "asks": role, "own": role});
    assert_eq!(answer["record"], expected);
}

#[tokio::test]
async fn ds_12_roles_above_the_policies_are_refused_by_name() {
    let of =
        |role: &str| StatementOptions { role: Some(role.into()), ..StatementOptions::default() };
    for (role, make, code) in [
        ("above", "CREATE ROLE above SUPERUSER; GRANT above TO headwater_login", "HW4301"),
        ("above", "CREATE ROLE above BYPASSRLS; GRANT above TO headwater_login", "HW4301"),
        ("foreign", "CREATE ROLE \"foreign\"", "HW4301"),
        ("absent", "SELECT", "HW4301"),
        (
            "owner",
            "CREATE ROLE owner; GRANT owner TO headwater_login; ALTER TABLE tasks OWNER TO owner",
            "HW4302",
        ),
    ] {
        let rig = Rig::start_with(DataSyncOptions::default(), of(role), &[]).await;
        rig.sql.batch_execute(make).await.expect("made");
        let mut amy = rig.connect("amy").await;
        for message in [read("tasks"), create("tasks", json!({"id": row_id(1)}))] {
            let answer = amy.ask(message).await;
            assert_eq!(answer["code"], code, "{answer}");
            assert!(
                answer["errorMessage"].as_str().is_some_and(|it| it.contains(role)),
                "{answer}"
            );
        }
        if code == "HW4302" {
            rig.sql
                .batch_execute("ALTER TABLE tasks FORCE ROW LEVEL SECURITY")
                .await
                .expect("altered");
            assert_eq!(amy.rows(query("tasks", json!({}))).await, json!([]));
        }
    }
}

#[tokio::test]
async fn ds_12_a_token_chooses_a_role_that_is_listed_and_no_other() {
    let rig =
        Rig::start_with(DataSyncOptions::default(), StatementOptions::default(), &["editor"]).await;
    let make = "CREATE ROLE editor; GRANT editor TO headwater_login; GRANT SELECT ON counters TO editor;
                CREATE ROLE other; GRANT other TO headwater_login; GRANT SELECT ON counters TO other";
    rig.sql.batch_execute(make).await.expect("made");
    let connect = async |role: &str| {
        let token = token_with("amy", Duration::from_secs(60), json!({"role": role}));
        rig.connect_with(&format!("?access_token={token}"), &[]).await.expect("connected")
    };
    let mut editor = connect("editor").await;
    assert_eq!(editor.rows(query("counters", json!({}))).await, json!([]));
    assert_eq!(editor.ask(create("counters", json!({"id": 1}))).await["sqlstate"], "42501");
    let mut other = connect("other").await;
    let answer = other.ask(read("counters")).await;
    assert_eq!(answer["code"], "HW4303");
    let message = answer["errorMessage"].as_str().expect("a text");
    assert!(
        message.contains("the claim \"role\" of the token names the database role \"other\""),
        "{message}"
    );
    assert!(message.contains("auth.allowed_roles"), "{message}");
    let mut usual = connect("authenticated").await;
    assert_eq!(
        usual.rows(query("counters", json!({}))).await,
        json!([]),
        "as hosted services write it"
    );
}

#[tokio::test]
async fn ds_12_columns_that_a_role_may_not_read_stay_unread() {
    let rig = Rig::start().await;
    let make = "REVOKE SELECT ON counters FROM headwater_authenticated;
                GRANT SELECT (id) ON counters TO headwater_authenticated; INSERT INTO counters VALUES (1, 7)";
    rig.sql.batch_execute(make).await.expect("made");
    let mut amy = rig.connect("amy").await;
    assert_eq!(amy.ask(read("counters")).await["sqlstate"], "42501");
    let only = query(
        "counters",
        json!({"selectedColumns": {"tag": "SelectSpecific", "contents": ["id"]}}),
    );
    assert_eq!(amy.rows(only).await, json!([{"id": 1}]));
}
