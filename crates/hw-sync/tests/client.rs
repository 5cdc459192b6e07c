//! A small HTTP/1.1 client that reads a stream line by line, as slowly as a test wants.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use hw_http::listen::Connections;
use hw_sync::source::Source;
use hw_sync::{SyncOptions, SyncState, routes};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::twin::{Twin, serve, token};

/// A running surface, on the twin or on the engine itself.
pub struct Server<S: Source = Twin> {
    pub twin: S,
    pub state: SyncState<S>,
    pub stop: CancellationToken,
    pub address: SocketAddr,
    pub connections: Connections,
}

impl Server {
    pub async fn start() -> Server {
        Server::start_with(SyncOptions::default()).await
    }

    pub async fn start_with(options: SyncOptions) -> Server {
        Server::on(Twin::new(), options).await
    }
}

impl<S: Source> Server<S> {
    pub async fn on(twin: S, options: SyncOptions) -> Server<S> {
        let (state, stop) = serve(twin.clone(), options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let patience = Duration::from_secs(60);
        let connections = Connections::new(1000, patience, CancellationToken::new());
        tokio::spawn(connections.clone().serve(listener, routes(state.clone())));
        Server { twin, state, stop, address, connections }
    }

    /// What is used of a bound.
    pub fn used(&self, bound: &str) -> usize {
        let all = self.state.bounds();
        all.iter().find(|known| known.name == bound).expect("a bound").used as usize
    }

    /// Opens a stream for a user, as current clients do.
    pub async fn stream(&self, user: &str) -> Stream {
        let held = BTreeMap::new();
        self.resume(user, &held).await
    }

    /// The same, with what the client holds.
    pub async fn resume(&self, user: &str, held: &BTreeMap<String, String>) -> Stream {
        let buckets: Vec<Value> =
            held.iter().map(|(name, after)| json!({"name": name, "after": after})).collect();
        let body = json!({"buckets": buckets, "raw_data": true, "client_id": "c1"});
        let token = token(user, Duration::from_secs(3600));
        let headers = [("authorization", format!("Token {token}"))];
        let stream = self.send("POST", "/sync/stream", &headers, &body.to_string()).await;
        assert_eq!(stream.status, 200);
        stream
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, String)],
        body: &str,
    ) -> Stream {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(body);
        socket.write_all(request.as_bytes()).await.unwrap();
        Stream::open(socket).await
    }
}

/// A response that is read piece by piece.
pub struct Stream {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    socket: TcpStream,
    raw: Vec<u8>,
    body: Vec<u8>,
    decoder: Option<Member>,
    ended: bool,
}

impl Stream {
    async fn open(socket: TcpStream) -> Stream {
        let mut stream = Stream {
            status: 0,
            headers: BTreeMap::new(),
            socket,
            raw: Vec::new(),
            body: Vec::new(),
            decoder: None,
            ended: false,
        };
        let end = loop {
            if let Some(at) = stream.raw.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            assert!(stream.fill().await, "the connection ended in the head");
        };
        let head = String::from_utf8(stream.raw.drain(..end + 4).collect()).unwrap();
        let mut lines = head.lines();
        stream.status = lines.next().unwrap()[9..12].parse().unwrap();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            stream.headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        if stream.headers.get("content-encoding").is_some_and(|coding| coding == "gzip") {
            stream.decoder = Some(Member::new());
        }
        stream
    }

    async fn fill(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        match self.socket.read(&mut buffer).await {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.raw.extend_from_slice(&buffer[..n]);
                true
            }
        }
    }

    /// Takes one chunk of the body; false at its clean end. Panics when it is broken off.
    async fn chunk(&mut self) -> bool {
        loop {
            if let Some(at) = self.raw.windows(2).position(|window| window == b"\r\n") {
                let length = std::str::from_utf8(&self.raw[..at]).unwrap();
                let length = usize::from_str_radix(length, 16).unwrap();
                if self.raw.len() >= at + 4 + length {
                    let data: Vec<u8> = self.raw.drain(..at + 4 + length).collect();
                    self.decode(&data[at + 2..at + 2 + length]);
                    if length == 0
                        && let Some(member) = &self.decoder
                    {
                        member.check_end();
                    }
                    return length > 0;
                }
            }
            assert!(self.fill().await, "the response was broken off");
        }
    }

    fn decode(&mut self, data: &[u8]) {
        let Some(decoder) = &mut self.decoder else {
            self.body.extend_from_slice(data);
            return;
        };
        decoder.decode(data, &mut self.body);
    }

    /// The next line; `None` at the clean end of the response.
    pub async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.body.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.body.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            if self.ended {
                return None;
            }
            self.ended = !self.chunk().await;
        }
    }

    /// The next line, which must be of this kind; returns its contents.
    pub async fn expect(&mut self, kind: &str) -> Value {
        let mut line = self.line().await.expect("the stream goes on");
        assert!(line.get(kind).is_some(), "{kind}: {line}");
        line[kind].take()
    }

    /// Lines up to and including the next `checkpoint_complete`.
    pub async fn until_complete(&mut self) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await.expect("the stream goes on");
            let complete = line.get("checkpoint_complete").is_some();
            lines.push(line);
            if complete {
                return lines;
            }
        }
    }

    /// Whether the connection was broken off rather than ended.
    pub async fn broken_off(mut self) -> bool {
        loop {
            if self.raw.ends_with(b"0\r\n\r\n") {
                return false;
            }
            if !self.fill().await {
                return true;
            }
        }
    }

    /// The whole body of a short answer.
    pub async fn json(mut self) -> Value {
        let length: usize = self.headers["content-length"].parse().unwrap();
        while self.raw.len() < length {
            assert!(self.fill().await);
        }
        serde_json::from_slice(&self.raw[..length]).unwrap()
    }
}

/// One gzip member, decoded as it comes.
struct Member {
    inflate: flate2::Decompress,
    crc: crc32fast::Hasher,
    /// Header bytes still to come.
    head: usize,
    /// Checksum and length behind the last block.
    trailer: Option<Vec<u8>>,
}

impl Member {
    fn new() -> Member {
        Member {
            inflate: flate2::Decompress::new(false),
            crc: crc32fast::Hasher::new(),
            head: 10,
            trailer: None,
        }
    }

    fn decode(&mut self, mut data: &[u8], body: &mut Vec<u8>) {
        let head = self.head.min(data.len());
        self.head -= head;
        data = &data[head..];
        while self.trailer.is_none() {
            let before = self.inflate.total_in();
            let mut out = Vec::with_capacity(256 * 1024);
            let sync = flate2::FlushDecompress::Sync;
            let status = self.inflate.decompress_vec(data, &mut out, sync).unwrap();
            data = &data[(self.inflate.total_in() - before) as usize..];
            self.crc.update(&out);
            body.extend_from_slice(&out);
            if status == flate2::Status::StreamEnd {
                self.trailer = Some(Vec::new());
            } else if out.is_empty() {
                return;
            }
        }
        self.trailer.as_mut().unwrap().extend_from_slice(data);
    }

    fn check_end(&self) {
        let trailer = self.trailer.as_ref().expect("the member was ended");
        assert_eq!(trailer[..4], self.crc.clone().finalize().to_le_bytes());
        assert_eq!(trailer[4..], (self.inflate.total_out() as u32).to_le_bytes());
    }
}

/// Row ids of the operations of `data` lines, with their kinds.
pub fn operations(lines: &[Value]) -> Vec<String> {
    let data = lines.iter().filter_map(|line| line.get("data"));
    data.flat_map(|data| data["data"].as_array().unwrap())
        .map(|op| format!("{} {}", op["op"].as_str().unwrap(), op["object_id"].as_str().unwrap()))
        .collect()
}
