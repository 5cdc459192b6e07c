//! A raw client of the sync stream: one POST over its own socket, lines as they come.
//!
//! It does what every client must (undo chunks and gzip, find the lines) and nothing else, so that
//! the figures are the server's. Source: `powersync-protocol.md` 3 and 4.

use std::net::SocketAddr;

use memchr::memmem;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Outcome;
use crate::body::{self, Body, Kind};

/// How a client asks.
#[derive(Clone)]
pub struct Asking {
    /// Where.
    pub address: SocketAddr,
    /// The token.
    pub token: String,
    /// Part of the client's id; two clients of one run have different ones.
    pub number: u64,
    /// Whether gzip is accepted.
    pub gzip: bool,
    /// Most bytes of one read. Thousands of clients in one process need small ones.
    pub read_bytes: usize,
    /// Whether everything that arrives is kept.
    pub keep: bool,
    /// Buckets that the client holds, each up to an operation.
    pub held: Vec<(String, u64)>,
}

impl Asking {
    /// Asks for plain lines in large reads.
    pub fn new(address: SocketAddr, token: String) -> Asking {
        Asking {
            address,
            token,
            number: 0,
            gzip: false,
            read_bytes: 256 << 10,
            keep: false,
            held: Vec::new(),
        }
    }
}

/// An open stream.
pub struct SyncClient {
    socket: TcpStream,
    buffer: Vec<u8>,
    body: Body,
    wire_bytes: u64,
    kept: Option<Vec<u8>>,
}

impl SyncClient {
    /// Opens a stream.
    ///
    /// - Errors: the socket's; an answer other than 200, with its text.
    pub async fn open(asking: &Asking) -> Outcome<SyncClient> {
        let mut socket = TcpStream::connect(asking.address).await?;
        socket.set_nodelay(true)?;
        socket.write_all(request(asking).as_bytes()).await?;
        let mut buffer = vec![0; asking.read_bytes];
        let mut head = Vec::new();
        let end = loop {
            let length = socket.read(&mut buffer).await?;
            if length == 0 {
                return Err("the server closed the connection before its answer".into());
            }
            head.extend_from_slice(&buffer[..length]);
            if let Some(at) = memmem::find(&head, b"\r\n\r\n") {
                break at + 4;
            }
        };
        let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
        let status = text.split(' ').nth(1).unwrap_or_default();
        if status != "200" {
            let body = String::from_utf8_lossy(&head[end..]).into_owned();
            return Err(format!("the stream is answered with {status}: {body}").into());
        }
        if !text.contains("transfer-encoding: chunked") {
            return Err("the stream is not chunked".into());
        }
        let gzip = text.contains("content-encoding: gzip");
        if gzip != asking.gzip {
            return Err("the stream has another encoding than was asked for".into());
        }
        let mut body = Body::new(gzip);
        body.push(&head[end..])?;
        let wire_bytes = head.len() as u64;
        let kept = asking.keep.then_some(head);
        Ok(SyncClient { socket, buffer, body, wire_bytes, kept })
    }

    /// Reads what has arrived, at least one byte.
    ///
    /// - Returns: false at the end of the stream.
    pub async fn pull(&mut self) -> Outcome<bool> {
        let length = self.socket.read(&mut self.buffer).await?;
        let bytes = &self.buffer[..length];
        self.wire_bytes += length as u64;
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(bytes);
        }
        self.body.push(bytes)?;
        Ok(length > 0)
    }

    /// Hands over every whole line that has been read, once.
    pub fn lines(&mut self, take: impl FnMut(&[u8])) {
        self.body.lines(take);
    }

    /// Reads up to the first `checkpoint_complete` and counts.
    ///
    /// - Errors: the stream ends before.
    pub async fn first_sync(&mut self) -> Outcome<FirstSync> {
        let finder = body::operation_finder();
        let mut found = FirstSync::default();
        loop {
            self.body.lines(|line| match body::kind(line) {
                Kind::Checkpoint => found.checkpoint = line.to_vec(),
                Kind::Data => found.operations += body::operations(line, &finder),
                Kind::Complete => found.complete = true,
                Kind::Other => {}
            });
            if found.complete {
                found.wire_bytes = self.wire_bytes;
                found.plain_bytes = self.body.plain_bytes();
                return Ok(found);
            }
            if !self.pull().await? {
                return Err("the stream ended before the first checkpoint was complete".into());
            }
        }
    }

    /// Everything that has arrived since the first byte of the head, if it was to be kept.
    pub fn into_kept(self) -> Vec<u8> {
        self.kept.unwrap_or_default()
    }
}

/// What a new client received up to its first complete checkpoint.
#[derive(Default)]
pub struct FirstSync {
    /// The `checkpoint` line.
    pub checkpoint: Vec<u8>,
    /// Operations in the data lines.
    pub operations: u64,
    /// Bytes of the socket, the answer's head included.
    pub wire_bytes: u64,
    /// Bytes of the lines.
    pub plain_bytes: u64,
    complete: bool,
}

impl FirstSync {
    /// The buckets of the checkpoint as (name, operations).
    pub fn buckets(&self) -> Outcome<Vec<(String, u64)>> {
        let line: serde_json::Value = serde_json::from_slice(&self.checkpoint)?;
        let buckets = line["checkpoint"]["buckets"].as_array().ok_or("no buckets")?;
        Ok(buckets
            .iter()
            .map(|bucket| {
                let name = bucket["bucket"].as_str().unwrap_or_default().to_owned();
                (name, bucket["count"].as_u64().unwrap_or(0))
            })
            .collect())
    }
}

fn request(asking: &Asking) -> String {
    let held = asking.held.iter();
    let held: Vec<_> =
        held.map(|(name, after)| json!({"name": name, "after": after.to_string()})).collect();
    let body = json!({
        "buckets": held,
        "include_checksum": true,
        "raw_data": true,
        "binary_data": true,
        "client_id": format!("00000000-0000-4000-8000-{:012x}", asking.number),
        "parameters": {},
        "streams": {"include_defaults": true, "subscriptions": []},
    })
    .to_string();
    format!(
        "POST /sync/stream HTTP/1.1\r\nhost: {}\r\nauthorization: Token {}\r\n\
         content-type: application/json\r\naccept: application/x-ndjson\r\n\
         accept-encoding: {}\r\nx-user-agent: hw-bench\r\ncontent-length: {}\r\n\r\n{body}",
        asking.address,
        asking.token,
        if asking.gzip { "gzip" } else { "identity" },
        body.len(),
    )
}
