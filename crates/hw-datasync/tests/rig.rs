//! A database with row level security, a server's login that is no superuser, a listener, and clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use hw_auth::{AuthConfig, Authenticator, Clock, Secret, token};
use hw_datasync::{DataSync, DataSyncOptions, Hooks};
use hw_http::Edge;
use hw_http::listen::Connections;
use hw_http::surface::Bounds;
use hw_testkit::Cluster;
use hw_write::{StatementOptions, Statements};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_postgres::Client;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;

/// The login of the server under test.
pub const LOGIN: &str = "headwater_login";
/// The role of users.
pub const ROLE: &str = "headwater_authenticated";

const SECRET: &str = "a secret for tests of live queries, long enough";

/// Tasks belong to their owner; what everybody may see is in `open`.
const SCHEMA: &str = r#"
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE FUNCTION ihp_user_id() RETURNS text LANGUAGE sql AS
  $$ SELECT NULLIF(current_setting('rls.ihp_user_id'), '') $$;
CREATE TABLE tasks (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  owner text NOT NULL DEFAULT ihp_user_id(),
  title text NOT NULL DEFAULT 'untitled' CONSTRAINT title_is_short CHECK (length(title) < 40),
  slug text CONSTRAINT one_slug UNIQUE,
  is_done bool NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT '2024-01-02T03:04:05.678Z',
  type varchar(5), feeling mood, tags text[], meta jsonb, n int8, price numeric
);
ALTER TABLE tasks ENABLE ROW LEVEL SECURITY;
CREATE POLICY owner ON tasks USING (owner = ihp_user_id());
CREATE TABLE counters (id int4 PRIMARY KEY, n int4);
ALTER TABLE counters ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_of_it ON counters USING (true);
CREATE TABLE lines (tenant text, n int4, words text, PRIMARY KEY (tenant, n));
ALTER TABLE lines ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_of_it ON lines USING (true);
CREATE TABLE bare (id int4 PRIMARY KEY, secret text);
INSERT INTO bare VALUES (1, 'hush');
CREATE TABLE keyless (a int4);
ALTER TABLE keyless ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_of_it ON keyless USING (true);
CREATE VIEW seen AS SELECT * FROM bare;
GRANT SELECT, INSERT, UPDATE, DELETE ON tasks, counters, lines, bare, keyless, seen TO headwater_authenticated;
"#;

pub struct Rig {
    _cluster: Cluster,
    /// A superuser's session.
    pub sql: Client,
    pub address: SocketAddr,
    /// What is used of the server's bounds.
    bounds: Bounds,
    /// By how many seconds the server's clock is ahead.
    ahead: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Rig {
    pub async fn start() -> Rig {
        Rig::start_with(DataSyncOptions::default(), StatementOptions::default(), &[]).await
    }

    pub async fn start_with(
        options: DataSyncOptions,
        statements: StatementOptions,
        allowed_roles: &[&str],
    ) -> Rig {
        Rig::start_hooked(options, statements, allowed_roles, None).await
    }

    pub async fn start_hooked(
        options: DataSyncOptions,
        statements: StatementOptions,
        allowed_roles: &[&str],
        hooks: Option<Hooks>,
    ) -> Rig {
        Rig::start_whole(options, statements, allowed_roles, hooks, 8).await
    }

    /// - Takes: how many connections statements have.
    pub async fn start_whole(
        options: DataSyncOptions,
        statements: StatementOptions,
        allowed_roles: &[&str],
        hooks: Option<Hooks>,
        connections: usize,
    ) -> Rig {
        let cluster = Cluster::start();
        let sql = cluster.client("postgres").await;
        let roles = format!(
            "CREATE ROLE {LOGIN} LOGIN; CREATE ROLE {ROLE} NOLOGIN; GRANT {ROLE} TO {LOGIN}; {SCHEMA}"
        );
        sql.batch_execute(&roles).await.expect("made");
        let url = cluster.url_as(LOGIN, None, "postgres");
        let transactions = options.all_transactions;
        let statements = Statements::connect(&url, (connections, transactions), statements)
            .expect("a connection string");
        let ahead = Arc::<AtomicU64>::default();
        let (system, seconds) = (Clock::system(), ahead.clone());
        let ahead_by = move || Duration::from_secs(seconds.load(Ordering::Relaxed));
        let clock = Clock::new(move || system.now() + ahead_by());
        let authenticator = Authenticator::new(AuthConfig {
            clock: clock.clone(),
            secret: Some(Secret::parse(SECRET).expect("usable")),
            allowed_roles: allowed_roles.iter().map(|role| (*role).to_owned()).collect(),
            ..AuthConfig::default()
        })
        .expect("usable");
        let edge = Edge::new(authenticator, 64 << 20);
        let stop = CancellationToken::new();
        let server = DataSync::new(edge, statements, None, hooks, options, clock, stop.clone());
        let surface = hw_datasync::surface(server);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let connections = Connections::new(100, Duration::from_secs(60), stop.clone());
        tokio::spawn(connections.serve(listener, surface.routes));
        Rig { _cluster: cluster, sql, address, bounds: surface.bounds, ahead, stop }
    }

    /// Lets the server's clock run ahead.
    pub fn advance(&self, seconds: u64) {
        self.ahead.fetch_add(seconds, Ordering::Relaxed);
    }

    /// How much is used of a bound.
    pub fn used(&self, name: &str) -> u64 {
        let bounds = (self.bounds)();
        bounds.iter().find(|bound| bound.name == name).expect("a bound").used
    }

    /// A socket that takes as little as there can be, before somebody reads from it.
    ///
    /// - Takes: the user; `None` for a stranger.
    pub async fn connect_small(&self, sub: Option<&str>) -> Socket {
        self.connect_small_with(sub.map(token_of).as_deref()).await
    }

    /// The same by a token.
    pub async fn connect_small_with(&self, token: Option<&str>) -> Socket {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("set");
        let stream = socket.connect(self.address).await.expect("connected");
        let token = token.map(|token| format!("?access_token={token}")).unwrap_or_default();
        let url = format!("ws://{}/DataSyncController{token}", self.address);
        let stream = MaybeTlsStream::Plain(stream);
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("upgraded");
        Socket { socket, next: 0 }
    }

    /// A user's socket.
    pub async fn connect(&self, sub: &str) -> Socket {
        self.connect_with(&format!("?access_token={}", token_of(sub)), &[])
            .await
            .expect("connected")
    }

    /// A socket with this query and these headers; the status when it is refused.
    pub async fn connect_with(
        &self,
        query: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Socket, u16> {
        let url = format!("ws://{}/DataSyncController{query}", self.address);
        let mut request = url.into_client_request().expect("a request");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a value"));
        }
        match connect_async(request).await {
            Ok((socket, _)) => Ok(Socket { socket, next: 0 }),
            Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// The first column of the first row, as text.
    pub async fn ask(&self, query: &str) -> String {
        let rows =
            self.sql.simple_query(query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
        rows.iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL")),
                _ => None,
            })
            .unwrap_or("nothing")
            .to_owned()
    }
}

/// An hour's token of a user.
pub fn token_of(sub: &str) -> String {
    token_with(sub, Duration::from_secs(3600), json!({}))
}

pub fn token_with(sub: &str, lifetime: Duration, claims: Value) -> String {
    let secret = Secret::parse(SECRET).expect("usable");
    let claims: Map<String, Value> = serde_json::from_value(claims).expect("an object");
    token::issue(&secret, sub, lifetime, &claims, &[], &Clock::system())
}

/// A client's end.
pub struct Socket {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next: i64,
}

impl Socket {
    /// Sends a message under the next number, which it returns.
    pub async fn send(&mut self, mut message: Value) -> i64 {
        let number = self.next;
        self.next += 1;
        message["requestId"] = number.into();
        self.send_text(&message.to_string()).await;
        number
    }

    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("sent");
    }

    pub async fn send_frame(&mut self, frame: Message) {
        let _ = self.socket.send(frame).await;
    }

    /// Sends the head of a frame of text, and the first bytes of what it announces.
    ///
    /// - Takes: how many bytes it announces, and how many of them come: spaces.
    pub async fn send_part(&mut self, announced: u64, first: usize) {
        // The last frame, of text; masked by zeros, its length in eight bytes (RFC 6455 section 5.2).
        let mut bytes = vec![0x81, 0xff];
        bytes.extend(announced.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(std::iter::repeat_n(b' ', first));
        self.send_bytes(&bytes).await;
    }

    /// Sends bytes as they are, in the middle of a frame.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.socket.get_mut().write_all(bytes).await.expect("sent");
    }

    /// The next message, keep-alives left out.
    pub async fn receive(&mut self) -> Value {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).expect("JSON");
                    if message["tag"] != "KeepAlive" {
                        return message;
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("no message but {other:?}"),
            }
        }
    }

    /// The next text as it was sent.
    pub async fn receive_text(&mut self) -> String {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(_)) => {}
                other => panic!("no message but {other:?}"),
            }
        }
    }

    /// The code with which the server closes the socket.
    pub async fn closed(&mut self) -> u16 {
        self.closed_with().await.0
    }

    /// The same, and the reason.
    pub async fn closed_with(&mut self) -> (u16, String) {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Close(Some(frame)))) => {
                    return (frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(_)) => {}
                other => panic!("not closed with a code: {other:?}"),
            }
        }
    }

    /// Waits until everything that was sent has been looked at, whatever became of it.
    pub async fn looked_at(&mut self) {
        let number =
            self.send(json!({"tag": "DeleteDataSubscription", "subscriptionId": "x"})).await;
        while self.receive().await["requestId"] != number {}
    }

    /// Whether the server has ended the socket without a word.
    pub async fn is_cut(&mut self) -> bool {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Close(_))) => return false,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return true,
            }
        }
    }

    /// Sends and receives the answer, which has the number of the request.
    pub async fn ask(&mut self, message: Value) -> Value {
        let number = self.send(message).await;
        let answer = self.receive().await;
        assert_eq!(answer["requestId"], number, "{answer}");
        answer
    }

    /// The same for what must fail; the answer's sentence.
    pub async fn refused(&mut self, message: Value) -> String {
        let answer = self.ask(message).await;
        assert_eq!(answer["tag"], "DataSyncError", "{answer}");
        assert!(answer["code"].as_str().is_some_and(|code| code.starts_with("HW")), "{answer}");
        answer["errorMessage"].as_str().expect("a sentence").to_owned()
    }

    /// The rows of a query.
    pub async fn rows(&mut self, query: Value) -> Value {
        let answer = self.ask(json!({"tag": "DataSyncQuery", "query": query})).await;
        assert_eq!(answer["tag"], "DataSyncResult", "{answer}");
        answer["result"].clone()
    }
}

/// A query of all of a table, with changes.
pub fn query(table: &str, more: Value) -> Value {
    let mut query = json!({
        "table": table, "selectedColumns": {"tag": "SelectAll"}, "whereCondition": null, "orderByClause": [],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        query[key] = value.clone();
    }
    query
}

pub fn select(fields: &[&str]) -> Value {
    json!({"tag": "SelectSpecific", "contents": fields})
}

pub fn equal(field: &str, value: Value) -> Value {
    json!({
        "tag": "InfixOperatorExpression", "op": "OpEqual",
        "left": {"tag": "ColumnExpression", "field": field},
        "right": {"tag": "LiteralExpression", "value": value},
    })
}

pub fn create(table: &str, record: Value) -> Value {
    json!({"tag": "CreateRecordMessage", "table": table, "record": record})
}

pub fn update(table: &str, id: Value, patch: Value) -> Value {
    json!({"tag": "UpdateRecordMessage", "table": table, "id": id, "patch": patch})
}

pub fn delete(table: &str, id: Value) -> Value {
    json!({"tag": "DeleteRecordMessage", "table": table, "id": id})
}

/// The same message in a transaction.
pub fn within(transaction: &Value, mut message: Value) -> Value {
    message["transactionId"] = transaction.clone();
    message
}

/// The n-th id of a row.
pub fn row_id(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}
