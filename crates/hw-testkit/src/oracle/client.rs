//! A minimal client of the sync protocol, as strict as the official one and then some.
//!
//! Lines in, tables out. Every checkpoint that is completed is verified: the sum of each bucket's
//! checksums, ascending op ids, nothing beyond the checkpoint. Source: `powersync-protocol.md` 4,
//! 6 and 7.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::http::{Request, Response};
use super::world::is_altered;

/// Rows by output table and id, each as the JSON object that was sent.
pub type Rows = BTreeMap<(String, String), Value>;

/// What a definition gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Its fingerprint.
    pub sum: u64,
    /// Fingerprints of its rows without the columns that are altered.
    pub rows: Vec<u64>,
}

/// Of each definition that gives something, what it gives.
pub type Shown = BTreeMap<String, Part>;

/// Why a client cannot go on.
#[derive(Debug)]
pub enum SyncError {
    /// The connection could not be made, was cut, or ended inside a line.
    Cut(io::Error),
    /// The server answered with another status than 200.
    Refused {
        /// The status.
        status: u16,
        /// The body.
        body: String,
    },
    /// The server broke the protocol.
    Protocol(String),
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyncError::Cut(error) => write!(f, "cut: {error}"),
            SyncError::Refused { status, body } => write!(f, "refused with {status}: {body}"),
            SyncError::Protocol(what) => write!(f, "protocol: {what}"),
        }
    }
}

impl From<io::Error> for SyncError {
    fn from(error: io::Error) -> SyncError {
        SyncError::Cut(error)
    }
}

/// What a line was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// `checkpoint` or `checkpoint_diff`.
    Checkpoint,
    /// `data`.
    Data,
    /// `partial_checkpoint_complete`.
    Partial,
    /// `checkpoint_complete`: the tables are those of a new state.
    Complete,
    /// `token_expires_in`, in seconds.
    TokenExpiresIn(i64),
    /// The stream has ended in order.
    End,
}

#[derive(Clone, Debug, Default)]
struct Bucket {
    /// By object type, object id and subkey.
    rows: BTreeMap<(String, String, String), Put>,
    /// The sum of the checksums of everything that is gone.
    add: u32,
    position: u64,
}

/// The newest operation of a row in a bucket.
#[derive(Clone, Debug)]
struct Put {
    op: u64,
    checksum: u32,
    row: Value,
    fingerprint: u64,
    /// Without the columns that are altered.
    core: u64,
}

impl Bucket {
    fn checksum(&self) -> u32 {
        self.rows.values().fold(self.add, |sum, put| sum.wrapping_add(put.checksum))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Announced {
    checksum: u32,
    priority: u8,
}

/// A client with its local state, connected or not.
pub struct SyncClient {
    /// The token of its next request.
    pub token: String,
    /// Its id.
    pub client_id: String,
    /// Connection parameters.
    pub parameters: Value,
    /// Explicit subscriptions, as in the request.
    pub subscriptions: Value,
    /// Whether it accepts gzip.
    pub gzip: bool,
    /// Whether it accepts that what it holds is sent anew under other names: by a server whose store
    /// has lost it.
    pub accepts_anew: bool,
    /// Operations received over its whole life.
    pub operations: u64,
    /// The write checkpoint of the last completed state.
    pub write_checkpoint: Option<u64>,
    /// Fingerprints of the states that it has shown, oldest first; the owner takes them away.
    pub history: Vec<u64>,
    /// The same states by definition.
    pub shown: Vec<Shown>,
    /// How many checkpoints it has completed.
    pub completed: u64,
    rows: Rows,
    buckets: BTreeMap<String, Bucket>,
    announced: Option<BTreeMap<String, Announced>>,
    announced_write: Option<u64>,
    last_op: u64,
    stream: Option<Response>,
}

/// A fingerprint of a state: the sum of those of its rows, so that a state is known from its parts.
/// Equal states have equal ones, and an empty one has 0.
pub fn fingerprint(rows: &Rows) -> u64 {
    rows.iter().fold(0, |sum, ((table, id), row)| sum.wrapping_add(row_fingerprint(table, id, row)))
}

fn row_fingerprint(table: &str, id: &str, row: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    (table, id, row.to_string()).hash(&mut hasher);
    hasher.finish()
}

fn core_fingerprint(table: &str, id: &str, row: &Value) -> u64 {
    let mut row = row.clone();
    if let Value::Object(columns) = &mut row {
        columns.retain(|name, _| !is_altered(name));
    }
    row_fingerprint(table, id, &row)
}

impl Part {
    /// What these rows are.
    pub fn of(rows: &Rows) -> Part {
        let core =
            |((table, id), row): (&(String, String), &Value)| core_fingerprint(table, id, row);
        Part { sum: fingerprint(rows), rows: rows.iter().map(core).collect() }
    }
}

/// The definition of a bucket: `3#by_team|0["g1"]` is of `by_team`.
fn definition(bucket: &str) -> &str {
    let name = bucket.split_once('#').map_or(bucket, |(_, name)| name);
    name.split(['|', '[']).next().unwrap_or(name)
}

impl SyncClient {
    /// A client that holds nothing.
    pub fn new(token: &str, client_id: &str) -> SyncClient {
        SyncClient {
            token: token.to_owned(),
            client_id: client_id.to_owned(),
            parameters: json!({}),
            subscriptions: json!([]),
            gzip: false,
            accepts_anew: false,
            operations: 0,
            write_checkpoint: None,
            history: Vec::new(),
            shown: Vec::new(),
            completed: 0,
            rows: Rows::new(),
            buckets: BTreeMap::new(),
            announced: None,
            announced_write: None,
            last_op: 0,
            stream: None,
        }
    }

    /// Forgets what it holds, as a new installation; it keeps who it is.
    pub fn forget(&mut self) {
        let mut fresh = SyncClient::new(&self.token, &self.client_id);
        fresh.parameters = self.parameters.take();
        fresh.subscriptions = self.subscriptions.take();
        fresh.gzip = self.gzip;
        fresh.accepts_anew = self.accepts_anew;
        *self = fresh;
    }

    /// Its tables, as of the last completed checkpoint.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The rows of one output table by id.
    pub fn table(&self, name: &str) -> BTreeMap<String, Value> {
        let of = |((table, id), row): (&(String, String), &Value)| {
            (table == name).then(|| (id.clone(), row.clone()))
        };
        self.rows.iter().filter_map(of).collect()
    }

    /// Names of the buckets that it holds.
    pub fn bucket_names(&self) -> Vec<String> {
        self.buckets.keys().cloned().collect()
    }

    /// The newest op id that it was told of.
    pub fn last_op(&self) -> u64 {
        self.last_op
    }

    /// Pretends to hold every bucket up to `op`, as a client that has synced with a server that
    /// was further.
    pub fn pretend_position(&mut self, op: u64) {
        for bucket in self.buckets.values_mut() {
            bucket.position = op;
        }
    }

    /// Whether a stream is open.
    pub fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Hangs up.
    pub fn disconnect(&mut self) {
        self.stream = None;
    }

    /// Opens the stream with what it holds.
    ///
    /// - Errors: [`SyncError::Refused`] for a status other than 200.
    pub async fn connect(&mut self, address: SocketAddr) -> Result<(), SyncError> {
        self.stream = None;
        self.announced = None;
        let held = self.buckets.iter();
        let buckets: Vec<Value> = held
            .map(|(name, bucket)| json!({"name": name, "after": bucket.position.to_string()}))
            .collect();
        let body = json!({
            "buckets": buckets,
            "include_checksum": true,
            "raw_data": true,
            "client_id": self.client_id,
            "parameters": self.parameters,
            "streams": {"include_defaults": true, "subscriptions": self.subscriptions},
        });
        let request = Request {
            method: "POST",
            path: "/sync/stream",
            token: Some(&self.token),
            body: Some(body.to_string()),
            gzip: self.gzip,
        };
        let mut response = Response::ask(address, &request).await?;
        if response.status != 200 {
            let body = response.text().await.unwrap_or_default();
            return Err(SyncError::Refused { status: response.status, body });
        }
        self.stream = Some(response);
        Ok(())
    }

    /// Reads and applies one line. Safe to cancel.
    ///
    /// - Errors: behind any the stream is closed and the client may connect again.
    pub async fn step(&mut self) -> Result<Line, SyncError> {
        let Some(stream) = &mut self.stream else {
            return Err(SyncError::Cut(io::ErrorKind::NotConnected.into()));
        };
        let line = match stream.line().await {
            Ok(Some(line)) => line,
            Ok(None) => {
                self.stream = None;
                return Ok(Line::End);
            }
            Err(error) => {
                self.stream = None;
                return Err(error.into());
            }
        };
        self.apply(&line).map_err(|what| {
            self.stream = None;
            SyncError::Protocol(format!("{what} in {}", line.chars().take(600).collect::<String>()))
        })
    }

    fn apply(&mut self, line: &str) -> Result<Line, String> {
        let line: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let object = line.as_object().ok_or("not an object")?;
        let mut entries = object.iter();
        let (Some((kind, value)), None) = (entries.next(), entries.next()) else {
            return Err("not exactly one key".into());
        };
        match kind.as_str() {
            "checkpoint" => self.checkpoint(value).map(|()| Line::Checkpoint),
            "checkpoint_diff" => self.diff(value).map(|()| Line::Checkpoint),
            "data" => self.data(value).map(|()| Line::Data),
            "partial_checkpoint_complete" => {
                let priority = value["priority"].as_u64().ok_or("priority")?;
                self.validate(value, priority as u8).map(|()| Line::Partial)
            }
            "checkpoint_complete" => {
                self.validate(value, u8::MAX)?;
                self.publish();
                Ok(Line::Complete)
            }
            "token_expires_in" => {
                Ok(Line::TokenExpiresIn(value.as_i64().ok_or("token_expires_in")?))
            }
            other => Err(format!("unknown line {other}")),
        }
    }

    fn checkpoint(&mut self, value: &Value) -> Result<(), String> {
        self.head(value)?;
        let announced = described(&value["buckets"])?;
        for name in self.buckets.keys() {
            // The same bucket under another incarnation would be a refused resume.
            let tail = |name: &str| name.split_once('#').map(|(_, tail)| tail.to_owned());
            if !self.accepts_anew
                && !announced.contains_key(name)
                && announced.keys().any(|other| tail(other) == tail(name))
            {
                return Err(format!("{name} is not resumed but sent anew"));
            }
        }
        self.buckets.retain(|name, _| announced.contains_key(name));
        for name in announced.keys() {
            self.buckets.entry(name.clone()).or_default();
        }
        self.announced = Some(announced);
        Ok(())
    }

    fn diff(&mut self, value: &Value) -> Result<(), String> {
        self.head(value)?;
        let announced = self.announced.as_mut().ok_or("a diff without a checkpoint")?;
        for name in value["removed_buckets"].as_array().ok_or("removed_buckets")? {
            let name = name.as_str().ok_or("a removed bucket")?;
            announced.remove(name).ok_or("a bucket is removed that was not there")?;
            self.buckets.remove(name);
        }
        for (name, bucket) in described(&value["updated_buckets"])? {
            self.buckets.entry(name.clone()).or_default();
            announced.insert(name, bucket);
        }
        Ok(())
    }

    fn head(&mut self, value: &Value) -> Result<(), String> {
        let last_op = number(&value["last_op_id"])?;
        if last_op < self.last_op {
            return Err(format!("E-3: the checkpoint goes back from {}", self.last_op));
        }
        self.last_op = last_op;
        self.announced_write = match &value["write_checkpoint"] {
            Value::Null => None,
            value => Some(number(value)?),
        };
        Ok(())
    }

    fn data(&mut self, value: &Value) -> Result<(), String> {
        let name = value["bucket"].as_str().ok_or("bucket")?;
        let announced = self.announced.as_ref().ok_or("data without a checkpoint")?;
        if !announced.contains_key(name) {
            return Err("data of a bucket that was not announced".into());
        }
        let bucket = self.buckets.get_mut(name).ok_or("invariant: announced buckets are held")?;
        for operation in value["data"].as_array().ok_or("data")? {
            let op_id = number(&operation["op_id"])?;
            // Behind a CLEAR the bucket is another one.
            let begins = operation["op"] == "CLEAR";
            if (op_id <= bucket.position && !begins) || op_id > self.last_op {
                return Err(format!(
                    "op {op_id} is not in ({}, {}]",
                    bucket.position, self.last_op
                ));
            }
            bucket.position = op_id;
            self.operations += 1;
            let checksum = operation["checksum"].as_u64().and_then(|sum| u32::try_from(sum).ok());
            let checksum = checksum.ok_or("checksum")?;
            let text = |field: &str| operation[field].as_str().map(str::to_owned);
            match operation["op"].as_str() {
                Some(op @ ("PUT" | "REMOVE")) => {
                    let key = (
                        text("object_type").ok_or("object_type")?,
                        text("object_id").ok_or("object_id")?,
                        text("subkey").unwrap_or_else(|| "null".into()),
                    );
                    if let Some(old) = bucket.rows.remove(&key) {
                        bucket.add = bucket.add.wrapping_add(old.checksum);
                    }
                    if op == "PUT" {
                        let data = text("data").ok_or("a PUT without data")?;
                        let row = serde_json::from_str(&data).map_err(|e| format!("data: {e}"))?;
                        let fingerprint = row_fingerprint(&key.0, &key.1, &row);
                        let core = core_fingerprint(&key.0, &key.1, &row);
                        let put = Put { op: op_id, checksum, row, fingerprint, core };
                        bucket.rows.insert(key, put);
                    } else {
                        bucket.add = bucket.add.wrapping_add(checksum);
                    }
                }
                Some("MOVE") => bucket.add = bucket.add.wrapping_add(checksum),
                Some("CLEAR") => {
                    bucket.rows.clear();
                    bucket.add = checksum;
                }
                _ => return Err("op".into()),
            }
        }
        if number(&value["next_after"])? != bucket.position {
            return Err("next_after is not the last op id of the line".into());
        }
        Ok(())
    }

    fn validate(&mut self, value: &Value, priority: u8) -> Result<(), String> {
        if number(&value["last_op_id"])? != self.last_op {
            return Err("another checkpoint is completed than was announced".into());
        }
        let announced = self.announced.as_ref().ok_or("complete without a checkpoint")?;
        for (name, wanted) in announced.iter().filter(|(_, b)| b.priority <= priority) {
            let bucket = self.buckets.get_mut(name).ok_or("a bucket is missing")?;
            if bucket.checksum() != wanted.checksum {
                return Err(format!(
                    "{name}: checksum {} instead of {}",
                    bucket.checksum(),
                    wanted.checksum
                ));
            }
            bucket.position = self.last_op;
        }
        Ok(())
    }

    /// Makes the tables those of the buckets: of each row the newest operation of all buckets.
    fn publish(&mut self) {
        let rows = newest(self.buckets.values()).into_iter();
        self.rows = rows.map(|(key, put)| (key, put.row.clone())).collect();
        self.write_checkpoint = self.announced_write;
        self.completed += 1;
        self.history.push(fingerprint(&self.rows));
        let mut shown = Shown::new();
        for (name, buckets) in self.by_definition() {
            let parts = newest(buckets.iter().copied());
            let sum = parts.values().fold(0_u64, |sum, put| sum.wrapping_add(put.fingerprint));
            let rows = parts.values().map(|put| put.core).collect();
            shown.insert(name.to_owned(), Part { sum, rows });
        }
        self.shown.push(shown);
    }

    /// What it holds, by definition.
    pub fn held(&self) -> BTreeMap<String, Rows> {
        let rows = |buckets: &[&Bucket]| -> Rows {
            newest(buckets.iter().copied())
                .into_iter()
                .map(|(key, put)| (key, put.row.clone()))
                .collect()
        };
        let parts = self.by_definition().into_iter();
        parts.map(|(name, buckets)| (name.to_owned(), rows(&buckets))).collect()
    }

    fn by_definition(&self) -> BTreeMap<&str, Vec<&Bucket>> {
        let mut parts: BTreeMap<&str, Vec<&Bucket>> = BTreeMap::new();
        for (name, bucket) in &self.buckets {
            parts.entry(definition(name)).or_default().push(bucket);
        }
        parts
    }
}

fn newest<'a>(buckets: impl Iterator<Item = &'a Bucket>) -> BTreeMap<(String, String), &'a Put> {
    let mut newest: BTreeMap<(String, String), &Put> = BTreeMap::new();
    for bucket in buckets {
        for ((table, id, _), put) in &bucket.rows {
            let entry = newest.entry((table.clone(), id.clone())).or_insert(put);
            if put.op > entry.op {
                *entry = put;
            }
        }
    }
    newest
}

fn described(buckets: &Value) -> Result<BTreeMap<String, Announced>, String> {
    let mut described = BTreeMap::new();
    for bucket in buckets.as_array().ok_or("buckets")? {
        let name = bucket["bucket"].as_str().ok_or("bucket")?;
        let checksum = bucket["checksum"].as_i64().ok_or("checksum")?;
        if !(-(1 << 31)..1 << 32).contains(&checksum) {
            return Err("a checksum has more than 32 bits".into());
        }
        let priority = bucket["priority"].as_u64().unwrap_or(3) as u8;
        let bucket = Announced { checksum: checksum as u32, priority };
        if described.insert(name.to_owned(), bucket).is_some() {
            return Err(format!("{name} comes twice"));
        }
    }
    Ok(described)
}

fn number(value: &Value) -> Result<u64, String> {
    let text = value.as_str().ok_or("a position is not text")?;
    text.parse().map_err(|_| format!("{text:?} is not a position"))
}
