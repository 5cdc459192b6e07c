//! As whom: role and claims of the author, row level security, roles that are refused.

use axum::http::StatusCode;
use hw_write::{ConflictPolicy, UploadConfig};
use serde_json::{Map, Value, json};

use crate::rig::{LOGIN, Rig, bearer, patch, put, row_id, send};

/// A table whose rows tell as whom they were written.
const WITNESS: &str = "
CREATE TABLE witness (
  id text PRIMARY KEY,
  role text DEFAULT current_user,
  sub text DEFAULT current_setting('request.jwt.claim.sub', true),
  ihp text DEFAULT current_setting('rls.ihp_user_id', true),
  claimed text DEFAULT current_setting('request.jwt.claim.role', true),
  team text DEFAULT current_setting('request.jwt.claims', true)::jsonb ->> 'team'
);
";

fn claims(pairs: &[(&str, Value)]) -> Map<String, Value> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

async fn write_witness(rig: &Rig, op_id: i64, more: &[(&str, Value)]) -> (StatusCode, Value) {
    let body = json!({"client_id": "c", "transactions": [{"id": op_id, "operations": [
        {"op_id": op_id, "op": "PUT", "type": "witness", "id": op_id.to_string()}
    ]}]});
    send(&rig.router, &bearer("ada", claims(more)), body.to_string()).await
}

const SEEN: &str = "SELECT concat_ws('|', role, sub, ihp, claimed, team) FROM witness";

#[tokio::test]
async fn the_database_sees_role_subject_and_claims_of_the_author() {
    let rig = Rig::start().await;
    rig.sql.batch_execute(WITNESS).await.unwrap();
    rig.sql.batch_execute("GRANT ALL ON witness TO headwater_authenticated").await.unwrap();
    rig.also("witness", ConflictPolicy::LastWriteWins);
    let (status, _) = write_witness(&rig, 1, &[("team", json!("blue"))]).await;
    assert_eq!(status, StatusCode::OK);
    let role = "headwater_authenticated";
    assert_eq!(rig.ask(SEEN).await, format!("{role}|ada|ada|{role}|blue"));
    // Every token of a hosted service says so; it is no choice while nothing is configured.
    write_witness(&rig, 2, &[("role", json!("authenticated"))]).await;
    assert_eq!(
        rig.ask(&format!("{SEEN} WHERE id = '2'")).await,
        format!("{role}|ada|ada|authenticated")
    );
}

#[tokio::test]
async fn a_role_claim_chooses_a_database_role_from_the_allow_list_only() {
    let mut rig = Rig::start().await;
    rig.sql.batch_execute(WITNESS).await.unwrap();
    rig.sql
        .batch_execute(&format!(
            "CREATE ROLE editor; GRANT editor TO {LOGIN}; \
             GRANT ALL ON witness TO editor, headwater_authenticated"
        ))
        .await
        .unwrap();
    rig.configure(UploadConfig::default(), &["editor", "none"]);
    rig.also("witness", ConflictPolicy::LastWriteWins);
    write_witness(&rig, 1, &[("role", json!("editor"))]).await;
    assert_eq!(rig.ask("SELECT role FROM witness WHERE id = '1'").await, "editor");
    write_witness(&rig, 2, &[]).await;
    assert_eq!(rig.ask("SELECT role FROM witness WHERE id = '2'").await, "headwater_authenticated");
    // "none" would reset the role to the server's own login: no role has that name.
    let (status, body) = write_witness(&rig, 3, &[("role", json!("none"))]).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("HW4301"))
    );
    assert_eq!(rig.ask("SELECT count(*) FROM witness").await, "2");
}

#[tokio::test]
async fn fd_45_a_role_claim_that_is_not_allowed_refuses_the_write() {
    let mut rig = Rig::start().await;
    rig.sql.batch_execute(WITNESS).await.unwrap();
    rig.sql
        .batch_execute("GRANT ALL ON witness TO headwater_authenticated; CREATE ROLE anon")
        .await
        .unwrap();
    rig.also("witness", ConflictPolicy::LastWriteWins);
    let refused = json!({"error": {"code": "HW4303", "status": 503,
        "description": "The token's role may not write here"}});
    let own = "headwater_authenticated";
    // Once with nothing configured, once with a role and a list of others.
    for configured in [None, Some(own)] {
        if configured.is_some() {
            rig.configure(
                UploadConfig { role: Some(own.to_owned()), ..Default::default() },
                &["editor"],
            );
            rig.also("witness", ConflictPolicy::LastWriteWins);
        }
        for role in [json!("anon"), json!("postgres"), json!(""), json!(["anon"]), json!(7)] {
            let answer = write_witness(&rig, 1, &[("role", role.clone())]).await;
            assert_eq!(answer, (StatusCode::SERVICE_UNAVAILABLE, refused.clone()), "{role}");
        }
        // With a role configured, the word of hosted services is a claim as any other.
        let answer = write_witness(&rig, 1, &[("role", json!("authenticated"))]).await.0;
        let expected = match configured {
            None => StatusCode::OK,
            Some(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        assert_eq!(answer, expected);
        rig.sql.batch_execute("DELETE FROM witness; DELETE FROM headwater.uploads").await.unwrap();
    }
    // The role that would write anyway, and no claim at all.
    for (op_id, role) in [(2, json!(own)), (3, Value::Null)] {
        assert_eq!(write_witness(&rig, op_id, &[("role", role)]).await.0, StatusCode::OK);
    }
    assert_eq!(rig.ask("SELECT string_agg(role, ',') FROM witness").await, format!("{own},{own}"));
}

#[tokio::test]
async fn roles_above_the_policies_are_refused_and_nothing_is_written() {
    let mut rig = Rig::start().await;
    rig.sql
        .batch_execute(&format!(
            "CREATE ROLE above BYPASSRLS; CREATE ROLE super SUPERUSER; CREATE ROLE strange; \
             GRANT above, super TO {LOGIN}; GRANT ALL ON lists TO above, super, strange"
        ))
        .await
        .unwrap();
    for role in ["above", "super", "strange", "missing"] {
        rig.configure(UploadConfig { role: Some(role.to_owned()), ..Default::default() }, &[]);
        let transactions =
            json!([{"id": 1, "operations": [put(1, &row_id(1), json!({"name": "a"}))]}]);
        let (status, body) = rig.upload("ada", transactions).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{role}");
        assert_eq!(
            body,
            json!({"error": {"code": "HW4301", "status": 503,
                "description": "Writes are not possible now; the server's log says why"}}),
        );
    }
    assert_eq!(rig.ask("SELECT count(*) FROM lists").await, "0");
    assert_eq!(rig.ask("SELECT count(*) FROM headwater.uploads").await, "0");
}

#[tokio::test]
async fn a_table_of_the_role_is_refused_until_policies_are_forced() {
    let rig = Rig::start().await;
    // The owner's rights may also come by membership.
    rig.sql
        .batch_execute(
            "CREATE ROLE owners; GRANT owners TO headwater_authenticated; \
             ALTER TABLE lists OWNER TO owners",
        )
        .await
        .unwrap();
    let write = json!([{"id": 1, "operations": [put(1, &row_id(1), json!({"name": "a"}))]}]);
    let (status, body) = rig.upload("ada", write.clone()).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("HW4302"))
    );
    let mut rig = rig;
    rig.sql.batch_execute("ALTER TABLE lists FORCE ROW LEVEL SECURITY").await.unwrap();
    rig.configure(UploadConfig::default(), &[]);
    let (_, body) = rig.upload("ada", write).await;
    assert_eq!(body["transactions"][0]["verdict"], "applied", "{body}");
}

#[tokio::test]
async fn row_level_security_decides_every_kind_of_write() {
    let rig = Rig::start().await;
    rig.write("ada", json!([put(1, &row_id(1), json!({"name": "hers"}))])).await;
    let policy = "a policy of the table does not allow this write";
    // For another owner, over another's row, and giving a row away.
    let foreign =
        rig.write("bob", json!([put(1, &row_id(2), json!({"name": "x", "owner": "ada"}))])).await;
    assert_eq!(foreign["error"]["sqlstate"], "42501");
    assert_eq!(foreign["error"]["message"], policy);
    let over = rig.write("bob", json!([put(2, &row_id(1), json!({"name": "mine now"}))])).await;
    assert_eq!(over["error"]["sqlstate"], "42501");
    rig.write("bob", json!([put(3, &row_id(3), json!({"name": "his"}))])).await;
    let given = rig.write("bob", json!([patch(4, &row_id(3), json!({"owner": "ada"}))])).await;
    assert_eq!(given["error"]["message"], policy);
    let rows = "SELECT string_agg(owner || ':' || name, ',' ORDER BY id) FROM lists";
    assert_eq!(rig.ask(rows).await, "ada:hers,bob:his");
}

#[tokio::test]
async fn the_tables_of_uploads_are_closed_to_principals() {
    let rig = Rig::start().await;
    for table in ["uploads", "upload_high_water"] {
        let readable = rig
            .ask(&format!(
                "SELECT has_table_privilege('headwater_authenticated', 'headwater.{table}', \
                 'SELECT, INSERT, UPDATE, DELETE')"
            ))
            .await;
        assert_eq!(readable, "f", "{table}");
    }
    let writable = "SELECT has_table_privilege('headwater_authenticated', \
                    'headwater.rejected_writes', 'INSERT, UPDATE, DELETE')";
    assert_eq!(rig.ask(writable).await, "f");
}
