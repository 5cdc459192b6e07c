//! A database with row level security, a server's login that is no superuser, and a router.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use hw_auth::{AuthConfig, Authenticator, Clock, Secret, token};
use hw_testkit::Cluster;
use hw_types::TableName;
use hw_write::{
    ColumnMap, ColumnTarget, ConflictPolicy, MappedTable, TableTarget, Unknown, UploadConfig,
    UploadMap, Uploads, schema,
};
use serde_json::{Map, Value, json};
use tokio_postgres::Client;
use tower::ServiceExt as _;

/// The login of the server under test.
pub const LOGIN: &str = "headwater_login";

const SECRET: &str = "a secret for tests of uploads, long enough";

/// Lists belong to their owner; every write of a list is counted by a trigger.
const SCHEMA: &str = "
CREATE TABLE lists (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  owner text NOT NULL DEFAULT current_setting('request.jwt.claim.sub', true),
  name text NOT NULL CONSTRAINT name_is_short CHECK (length(name) < 40),
  slug text CONSTRAINT one_slug UNIQUE,
  n int8
);
ALTER TABLE lists ENABLE ROW LEVEL SECURITY;
CREATE POLICY owner ON lists USING (owner = current_setting('request.jwt.claim.sub', true));
GRANT SELECT, INSERT, UPDATE, DELETE ON lists TO headwater_authenticated;

CREATE TABLE runs (at int8 GENERATED ALWAYS AS IDENTITY, op text, list uuid, name text);
CREATE FUNCTION count_run() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    INSERT INTO runs (op, list, name) VALUES (TG_OP, OLD.id, OLD.name);
    RETURN OLD;
  END IF;
  INSERT INTO runs (op, list, name) VALUES (TG_OP, NEW.id, NEW.name);
  RETURN NEW;
END $$;
CREATE TRIGGER count_run AFTER INSERT OR UPDATE OR DELETE ON lists
FOR EACH ROW EXECUTE FUNCTION count_run();
";

pub struct Rig {
    pub cluster: Cluster,
    /// A superuser's session.
    pub sql: Client,
    pub uploads: Uploads,
    pub router: Router,
}

impl Rig {
    /// A database that is set up, with the table `lists`.
    pub async fn start() -> Rig {
        let cluster = Cluster::start();
        let sql = cluster.client("postgres").await;
        sql.batch_execute(&format!("CREATE ROLE {LOGIN} LOGIN")).await.unwrap();
        set_up(&sql).await;
        sql.batch_execute(SCHEMA).await.unwrap();
        let uploads = uploads(&cluster.url_as(LOGIN, None, "postgres"), UploadConfig::default());
        uploads.set_map(map());
        let router = router(uploads.clone(), &[]);
        Rig { cluster, sql, uploads, router }
    }

    /// The same server with another configuration.
    pub fn configure(&mut self, config: UploadConfig, allowed_roles: &[&str]) {
        self.uploads = uploads(&self.cluster.url_as(LOGIN, None, "postgres"), config);
        self.uploads.set_map(map());
        self.router = router(self.uploads.clone(), allowed_roles);
    }

    /// Also writes this table of schema `public`, all columns under their own names.
    pub fn also(&self, table: &str, conflict: ConflictPolicy) {
        let mut map = map();
        map.insert(table, plain(table, conflict));
        self.uploads.set_map(map);
    }

    /// Uploads operations as one transaction whose id is its first `op_id`; returns the verdict.
    pub async fn write(&self, sub: &str, operations: Value) -> Value {
        let id = operations[0]["op_id"].clone();
        let (status, body) = self.upload(sub, json!([{"id": id, "operations": operations}])).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body["transactions"][0].clone()
    }

    /// Uploads transactions of client `c` of this user.
    pub async fn upload(&self, sub: &str, transactions: Value) -> (StatusCode, Value) {
        let body = json!({"client_id": "c", "transactions": transactions});
        send(&self.router, &bearer(sub, Map::new()), body.to_string()).await
    }

    /// The first column of the first row, as text.
    pub async fn ask(&self, query: &str) -> String {
        let rows = self.sql.simple_query(query).await.unwrap();
        rows.iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL")),
                _ => None,
            })
            .unwrap_or("nothing")
            .to_owned()
    }
}

/// Runs what `headwater setup` would run.
pub async fn set_up(sql: &Client) {
    let setup = schema::plan(sql, Some(LOGIN), None).await.unwrap();
    for statement in schema::statements(&setup) {
        sql.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

pub fn uploads(url: &str, config: UploadConfig) -> Uploads {
    Uploads::connect(url, 8, config).unwrap()
}

pub fn router(uploads: Uploads, allowed_roles: &[&str]) -> Router {
    let authenticator = Authenticator::new(AuthConfig {
        secret: Some(Secret::parse(SECRET).unwrap()),
        allowed_roles: allowed_roles.iter().map(|role| (*role).to_owned()).collect(),
        ..AuthConfig::default()
    })
    .unwrap();
    hw_rest::routes(hw_rest::RestState::new(
        hw_http::Edge::new(authenticator, 64 << 20),
        uploads,
        256 * 1024,
    ))
}

pub fn plain(table: &str, conflict: ConflictPolicy) -> TableTarget {
    TableTarget::Table(MappedTable::plain(TableName::new("public", table), conflict))
}

/// `lists` under its own name; `renamed`, which is `lists` with other column names and a computed
/// one; `report`, which is more than a rename.
pub fn map() -> UploadMap {
    let column = |name: &str| ColumnTarget::Column(name.to_owned());
    let listed = [
        ("id".to_owned(), column("id")),
        ("title".to_owned(), column("name")),
        ("tag".to_owned(), column("slug")),
        ("loud".to_owned(), ColumnTarget::Expression),
    ];
    let renamed = MappedTable {
        columns: ColumnMap { same_names: false, listed: listed.into() },
        ..MappedTable::plain(TableName::new("public", "lists"), ConflictPolicy::LastWriteWins)
    };
    let mut map = UploadMap::new(Unknown::Rejected);
    map.insert("lists", plain("lists", ConflictPolicy::LastWriteWins));
    map.insert("renamed", TableTarget::Table(renamed));
    map.insert("report", TableTarget::NotPlain("it joins two tables".into()));
    map
}

/// The value of an Authorization header for this user.
pub fn bearer(sub: &str, claims: Map<String, Value>) -> String {
    let secret = Secret::parse(SECRET).unwrap();
    let hour = Duration::from_secs(3600);
    format!("Bearer {}", token::issue(&secret, sub, hour, &claims, &[], &Clock::system()))
}

pub async fn send(router: &Router, authorization: &str, body: String) -> (StatusCode, Value) {
    let request = Request::post("/api/v1/upload")
        .header("authorization", authorization)
        .header("content-type", "application/json")
        .body(Body::from(body))
        .unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

pub fn put(op_id: i64, id: &str, data: Value) -> Value {
    json!({"op_id": op_id, "op": "PUT", "type": "lists", "id": id, "data": data})
}

pub fn patch(op_id: i64, id: &str, data: Value) -> Value {
    json!({"op_id": op_id, "op": "PATCH", "type": "lists", "id": id, "data": data})
}

pub fn delete(op_id: i64, id: &str) -> Value {
    json!({"op_id": op_id, "op": "DELETE", "type": "lists", "id": id})
}

/// The n-th id of a row.
pub fn row_id(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}
