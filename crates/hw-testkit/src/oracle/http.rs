//! HTTP/1.1 as a streaming client speaks it: one request, then lines for as long as they come.
//!
//! Written for tests alone and from the protocol page alone, so that a mistake shared by server and
//! client libraries of this repository would show. Chunked bodies and gzip are decoded; reading is
//! safe to cancel, because bytes are kept in the response.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;

use flate2::write::GzDecoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// `GET` or `POST`.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Bearer of the request.
    pub token: Option<&'a str>,
    /// A JSON body.
    pub body: Option<String>,
    /// Whether `gzip` is accepted.
    pub gzip: bool,
}

/// An answer whose body is still coming.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header names in lower case.
    pub headers: BTreeMap<String, String>,
    socket: TcpStream,
    raw: Vec<u8>,
    body: Vec<u8>,
    left: Left,
    gzip: Option<GzDecoder<Vec<u8>>>,
}

/// How much of the body is still to come.
#[derive(Clone, Copy, Debug)]
enum Left {
    /// Bytes of the body.
    Length(usize),
    /// Chunked: bytes of the current chunk; its closing line end counts as two.
    Chunk(usize),
    /// Until the connection ends.
    Open,
    /// Nothing.
    Nothing,
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl Response {
    /// Sends a request and reads the head of the answer.
    ///
    /// - Errors: the socket's, `UnexpectedEof`, and `InvalidData` for what is not HTTP.
    pub async fn ask(address: SocketAddr, request: &Request<'_>) -> io::Result<Response> {
        let mut socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let mut text = format!(
            "{} {} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n",
            request.method, request.path
        );
        if let Some(token) = request.token {
            text.push_str(&format!("authorization: Token {token}\r\n"));
        }
        if request.gzip {
            text.push_str("accept-encoding: gzip\r\n");
        }
        let body = request.body.as_deref().unwrap_or_default();
        if request.body.is_some() {
            text.push_str("content-type: application/json\r\n");
        }
        text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        socket.write_all(text.as_bytes()).await?;
        let mut response = Response {
            status: 0,
            headers: BTreeMap::new(),
            socket,
            raw: Vec::new(),
            body: Vec::new(),
            left: Left::Open,
            gzip: None,
        };
        response.read_head().await?;
        Ok(response)
    }

    async fn read_head(&mut self) -> io::Result<()> {
        let end = loop {
            if let Some(at) = self.raw.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head: Vec<u8> = self.raw.drain(..end + 4).collect();
        let head = String::from_utf8(head).map_err(|_| broken("the head is not text"))?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        self.status = status.ok_or_else(|| broken("no status line"))?;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            self.headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
        let header = |name: &str| self.headers.get(name).map(String::as_str);
        self.left = match (header("transfer-encoding"), header("content-length")) {
            (Some("chunked"), _) => Left::Chunk(0),
            (_, Some(length)) => {
                Left::Length(length.parse().map_err(|_| broken("content-length"))?)
            }
            _ => Left::Open,
        };
        if header("content-encoding") == Some("gzip") {
            self.gzip = Some(GzDecoder::new(Vec::new()));
        }
        self.decode()
    }

    /// The next line without its end; `None` when the body has ended in order.
    ///
    /// - Errors: the socket's; `UnexpectedEof` when the connection ended inside the body or a line.
    pub async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(at) = self.body.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.body.drain(..=at).collect();
                line.pop();
                return String::from_utf8(line).map(Some).map_err(|_| broken("not UTF-8"));
            }
            if self.is_over() {
                return match self.body.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            self.more().await?;
        }
    }

    /// The rest of the body.
    pub async fn text(&mut self) -> io::Result<String> {
        while !self.is_over() {
            self.more().await?;
        }
        String::from_utf8(std::mem::take(&mut self.body)).map_err(|_| broken("not UTF-8"))
    }

    fn is_over(&self) -> bool {
        matches!(self.left, Left::Nothing | Left::Length(0))
    }

    async fn more(&mut self) -> io::Result<()> {
        if !self.fill().await? {
            if !matches!(self.left, Left::Open) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.left = Left::Nothing;
        }
        self.decode()
    }

    /// Reads what there is; `false` at the end of the connection.
    async fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let count = self.socket.read(&mut buffer).await?;
        self.raw.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }

    /// Moves raw bytes into the body.
    fn decode(&mut self) -> io::Result<()> {
        loop {
            match self.left {
                Left::Nothing => return Ok(()),
                Left::Open => {
                    let bytes = std::mem::take(&mut self.raw);
                    return self.take(&bytes);
                }
                Left::Length(left) => {
                    let bytes: Vec<u8> = self.raw.drain(..left.min(self.raw.len())).collect();
                    self.left = Left::Length(left - bytes.len());
                    return self.take(&bytes);
                }
                Left::Chunk(0) => {
                    let Some(at) = self.raw.windows(2).position(|window| window == b"\r\n") else {
                        return Ok(());
                    };
                    let size = std::str::from_utf8(&self.raw[..at])
                        .ok()
                        .and_then(|text| usize::from_str_radix(text.trim(), 16).ok())
                        .ok_or_else(|| broken("not a chunk"))?;
                    self.raw.drain(..at + 2);
                    self.left = if size == 0 { Left::Nothing } else { Left::Chunk(size + 2) };
                }
                Left::Chunk(left) => {
                    if self.raw.is_empty() {
                        return Ok(());
                    }
                    let count = left.min(self.raw.len());
                    let bytes: Vec<u8> = self.raw.drain(..count).collect();
                    self.left = Left::Chunk(left - count);
                    // The last two bytes end the chunk's line and are no data.
                    let data = bytes.len().min(left.saturating_sub(2));
                    self.take(&bytes[..data])?;
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.gzip {
            None => self.body.extend_from_slice(bytes),
            Some(decoder) => {
                decoder.write_all(bytes)?;
                decoder.flush()?;
                self.body.append(decoder.get_mut());
            }
        }
        Ok(())
    }
}
