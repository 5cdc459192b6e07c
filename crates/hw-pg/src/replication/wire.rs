//! Messages of the frontend/backend protocol on one connection of our own: start-up,
//! authentication, simple queries, and the raw frames of a replication stream.
//!
//! In: a [`Transport`](crate::transport::Transport) behind its TLS handshake. Out: whole messages. A message is never handed
//! out before all of its bytes are there, and a length beyond [`MAX_MESSAGE_BYTES`] ends the
//! connection instead of reserving memory.
//!
//! `postgres-protocol` builds what we send and computes the proofs of authentication. Its parser
//! refuses the tag `W` (CopyBothResponse), so what we receive is told apart here.
//! Source: PostgreSQL manual, "Frontend/Backend Protocol".

use crate::error::{PgError, PgErrorKind, Result, ServerError, code};
use bytes::{Buf, Bytes, BytesMut};
use hw_types::Diagnostic;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;
use std::collections::HashMap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Postgres never sends more: its own buffers end at 1 GiB.
pub(crate) const MAX_MESSAGE_BYTES: usize = (1 << 30) + 16;

/// A byte stream to the server: TCP, TLS or a Unix socket.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// A message by its tag and body, without the header.
#[derive(Debug)]
pub(crate) struct RawMessage {
    pub(crate) tag: u8,
    pub(crate) body: Bytes,
}

/// Who asks, and how to prove it.
pub(crate) struct Login<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: Option<&'a [u8]>,
    /// Start-up parameters: user, database, replication, options…
    pub(crate) parameters: Vec<(&'static str, String)>,
    /// The server certificate's hash, when the connection is encrypted and the hash is known.
    pub(crate) tls_server_end_point: Option<Vec<u8>>,
    /// Whether anything but SCRAM bound to the channel is refused.
    pub(crate) only_bound: bool,
}

/// A connection that speaks the protocol.
pub(crate) struct Wire<S> {
    pub(crate) socket: S,
    pub(crate) incoming: BytesMut,
    outgoing: BytesMut,
    /// What the server reported about itself (`server_version`, `server_encoding`, …).
    pub(crate) parameters: HashMap<String, String>,
    /// Process id of the backend, for `pg_stat_activity` and error texts.
    pub(crate) backend_pid: u32,
}

/// Takes one whole message from the front of `incoming`, if there is one.
///
/// - Errors: an impossible length.
pub(crate) fn take_message(incoming: &mut BytesMut) -> Result<Option<RawMessage>> {
    let Some(header) = incoming.get(..5) else {
        incoming.reserve(5);
        return Ok(None);
    };
    let tag = header[0];
    let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
    if !(4..=MAX_MESSAGE_BYTES).contains(&len) {
        return Err(PgError::new(PgErrorKind::Lost(format!(
            "a message of {len} bytes was announced"
        ))));
    }
    if incoming.len() < len + 1 {
        incoming.reserve(len + 1 - incoming.len());
        return Ok(None);
    }
    let mut body = incoming.split_to(len + 1).freeze();
    body.advance(5);
    Ok(Some(RawMessage { tag, body }))
}

/// Bytes of a stream on their way into messages. Messages of the log (`pg_logical_emit_message`) that
/// are too long to be ours are passed over as they arrive: anybody who may log in can write one of
/// a gigabyte.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// What has arrived and was not taken.
    pub bytes: BytesMut,
    /// Bytes to come of a message that is passed over.
    passing: usize,
}

/// Longer messages of the log are nobody's: a marker holds its contents, its signature, and the text of
/// a snapshot, which may name thousands of open transactions.
const LONGEST_OF_THE_LOG: usize = crate::marker::MAX_CONTENTS + (1 << 20);

impl From<BytesMut> for Incoming {
    fn from(bytes: BytesMut) -> Incoming {
        Incoming { bytes, passing: 0 }
    }
}

impl Incoming {
    /// Takes the next whole message, if there is one.
    ///
    /// - Errors: an impossible length.
    pub fn take(&mut self) -> Result<Option<RawMessage>> {
        /// Length and tag, then of XLogData its tag, three numbers and the plugin's tag.
        const HEAD: usize = 5 + 25 + 1;
        loop {
            let passed = self.passing.min(self.bytes.len());
            self.bytes.advance(passed);
            self.passing -= passed;
            if self.passing > 0 {
                return Ok(None);
            }
            let Some([b'd', length @ ..]) = self.bytes.first_chunk::<5>() else { break };
            let length = u32::from_be_bytes(*length) as usize;
            if !(LONGEST_OF_THE_LOG..=MAX_MESSAGE_BYTES).contains(&length) {
                break;
            }
            let Some(head) = self.bytes.first_chunk::<HEAD>() else {
                self.bytes.reserve(HEAD);
                return Ok(None);
            };
            if head[5] != b'w' || head[HEAD - 1] != b'M' {
                break;
            }
            tracing::debug!(bytes = length, "a message of the log is too long to be ours");
            self.passing = length + 1;
        }
        take_message(&mut self.bytes)
    }
}

/// The error of an ErrorResponse body.
pub(crate) fn server_error(body: &[u8]) -> PgError {
    PgError::server(ServerError::from_body(body))
}

/// An authentication request.
///
/// Source: PostgreSQL manual, "Message Formats", the messages with tag `R`.
pub(super) enum Authentication<'a> {
    Ok,
    Cleartext,
    Md5([u8; 4]),
    Sasl(Vec<&'a str>),
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
    Other,
}

impl<'a> Authentication<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Option<Authentication<'a>> {
        let (code, rest) = body.split_first_chunk::<4>()?;
        Some(match u32::from_be_bytes(*code) {
            0 => Authentication::Ok,
            3 => Authentication::Cleartext,
            5 => Authentication::Md5(*rest.first_chunk()?),
            10 => Authentication::Sasl(
                rest.split(|byte| *byte == 0)
                    .map_while(|name| std::str::from_utf8(name).ok())
                    .take_while(|name| !name.is_empty())
                    .collect(),
            ),
            11 => Authentication::SaslContinue(rest),
            12 => Authentication::SaslFinal(rest),
            _ => Authentication::Other,
        })
    }
}

/// The columns of a DataRow body as text; `None` if it is damaged.
pub(super) fn data_row(mut body: &[u8]) -> Option<Vec<Option<String>>> {
    let (count, rest) = body.split_first_chunk::<2>()?;
    body = rest;
    let mut cells = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (len, rest) = body.split_first_chunk::<4>()?;
        cells.push(match i32::from_be_bytes(*len) {
            -1 => {
                body = rest;
                None
            }
            len => {
                let (cell, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
                body = rest;
                Some(String::from_utf8_lossy(cell).into_owned())
            }
        });
    }
    Some(cells)
}

fn closed() -> PgError {
    PgError::new(PgErrorKind::Lost(String::from("closed by the server")))
}

fn unexpected(during: &str, tag: u8) -> PgError {
    PgError::protocol(format!("message '{}' during {during}", tag.escape_ascii()))
}

impl<S: Socket> Wire<S> {
    /// A session that has been started already.
    pub(crate) fn new(socket: S, parameters: HashMap<String, String>, backend_pid: u32) -> Wire<S> {
        Wire {
            socket,
            incoming: BytesMut::with_capacity(16 * 1024),
            outgoing: BytesMut::new(),
            parameters,
            backend_pid,
        }
    }

    /// Starts a session: start-up message, authentication, and everything up to ReadyForQuery.
    ///
    /// - Errors: the server's refusal; an authentication method that we do not have.
    pub(crate) async fn start(socket: S, login: Login<'_>) -> Result<Wire<S>> {
        let mut wire = Wire::new(socket, HashMap::new(), 0);
        let parameters = login.parameters.iter().map(|(name, value)| (*name, value.as_str()));
        frontend::startup_message(parameters, &mut wire.outgoing)?;
        wire.send().await?;
        wire.authenticate(&login).await?;
        loop {
            let message = wire.checked().await?;
            match message.tag {
                b'K' => {
                    let pid =
                        message.body.first_chunk().ok_or_else(|| unexpected("start", b'K'))?;
                    wire.backend_pid = u32::from_be_bytes(*pid);
                }
                b'Z' => return Ok(wire),
                tag => return Err(unexpected("the start of the session", tag)),
            }
        }
    }

    async fn authentication(&mut self) -> Result<RawMessage> {
        let message = self.checked().await?;
        match message.tag {
            b'R' => Ok(message),
            tag => Err(unexpected("authentication", tag)),
        }
    }

    async fn authenticate(&mut self, login: &Login<'_>) -> Result<()> {
        let password = || {
            login.password.ok_or_else(|| {
                PgError::from(
                    Diagnostic::error(code::REFUSED, "the server asks for a password")
                        .mend("give one in the connection string, PGPASSWORD or .pgpass"),
                )
            })
        };
        let mut bound = false;
        loop {
            let message = self.authentication().await?;
            match Authentication::parse(&message.body) {
                Some(Authentication::Ok) if bound || !login.only_bound => return Ok(()),
                Some(Authentication::Sasl(mechanisms)) => {
                    let end_point = login.tls_server_end_point.clone();
                    bound = self.scram(password()?, &mechanisms, end_point).await?;
                }
                _ if login.only_bound => {
                    return Err(PgError::protocol(
                        "the server does not bind authentication to the TLS channel, and \
                         channel_binding=require demands it",
                    ));
                }
                Some(Authentication::Cleartext) => {
                    frontend::password_message(password()?, &mut self.outgoing)?;
                    self.send().await?;
                }
                Some(Authentication::Md5(salt)) => {
                    let hash = md5_hash(login.user.as_bytes(), password()?, salt);
                    frontend::password_message(hash.as_bytes(), &mut self.outgoing)?;
                    self.send().await?;
                }
                _ => {
                    return Err(PgError::protocol(
                        "an authentication method other than password, md5 and scram-sha-256",
                    ));
                }
            }
        }
    }

    /// SCRAM-SHA-256, with channel binding where both sides have it. The server proves that it
    /// knows the password, too; `finish` checks that. Tells whether the channel was bound.
    async fn scram(
        &mut self,
        password: &[u8],
        mechanisms: &[&str],
        end_point: Option<Vec<u8>>,
    ) -> Result<bool> {
        let offered = |name: &str| mechanisms.contains(&name);
        let (mechanism, binding) = match end_point {
            Some(hash) if offered(sasl::SCRAM_SHA_256_PLUS) => {
                (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash))
            }
            Some(_) if offered(sasl::SCRAM_SHA_256) => {
                (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested())
            }
            None if offered(sasl::SCRAM_SHA_256) => {
                (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported())
            }
            _ => {
                return Err(PgError::protocol(format!(
                    "the server offers only these SASL mechanisms: {}",
                    mechanisms.join(", ")
                )));
            }
        };
        let mut scram = sasl::ScramSha256::new(password, binding);
        frontend::sasl_initial_response(mechanism, scram.message(), &mut self.outgoing)?;
        self.send().await?;
        match Authentication::parse(&self.authentication().await?.body) {
            Some(Authentication::SaslContinue(data)) => scram.update(data)?,
            _ => return Err(unexpected("SCRAM", b'R')),
        }
        frontend::sasl_response(scram.message(), &mut self.outgoing)?;
        self.send().await?;
        match Authentication::parse(&self.authentication().await?.body) {
            Some(Authentication::SaslFinal(data)) => scram.finish(data)?,
            _ => return Err(unexpected("SCRAM", b'R')),
        }
        Ok(mechanism == sasl::SCRAM_SHA_256_PLUS)
    }

    /// Sends what `outgoing` holds.
    async fn send(&mut self) -> Result<()> {
        self.socket.write_all(&self.outgoing).await?;
        self.socket.flush().await?;
        self.outgoing.clear();
        Ok(())
    }

    /// Sends a simple query without waiting for the answer.
    pub(crate) async fn send_query(&mut self, sql: &str) -> Result<()> {
        frontend::query(sql, &mut self.outgoing)?;
        self.send().await
    }

    /// The next message, raw.
    pub(crate) async fn raw(&mut self) -> Result<RawMessage> {
        loop {
            if let Some(message) = take_message(&mut self.incoming)? {
                return Ok(message);
            }
            if self.socket.read_buf(&mut self.incoming).await? == 0 {
                return Err(closed());
            }
        }
    }

    /// The next message: the server's errors are `Err`, notices are passed over, parameters noted.
    async fn checked(&mut self) -> Result<RawMessage> {
        loop {
            let message = self.raw().await?;
            match message.tag {
                b'E' => return Err(server_error(&message.body)),
                b'N' => {}
                b'S' => {
                    let mut texts = message.body.split(|byte| *byte == 0);
                    if let (Some(name), Some(value)) = (texts.next(), texts.next()) {
                        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                        self.parameters.insert(text(name), text(value));
                    }
                }
                _ => return Ok(message),
            }
        }
    }

    /// Runs one command and returns its rows as text.
    ///
    /// - Errors: the server's error, after which the session can be used again.
    pub(crate) async fn simple_query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.send_query(sql).await?;
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            match self.checked().await {
                Ok(RawMessage { tag: b'D', body }) => {
                    let cells = data_row(&body).ok_or_else(|| unexpected("a query", b'D'))?;
                    rows.push(cells);
                }
                Ok(RawMessage { tag: b'Z', .. }) => return failed.map_or(Ok(rows), Err),
                // RowDescription, CommandComplete, EmptyQueryResponse.
                Ok(RawMessage { tag: b'T' | b'C' | b'I', .. }) => {}
                Ok(RawMessage { tag, .. }) => return Err(unexpected("a query", tag)),
                Err(error) if error.as_server().is_some() => {
                    failed.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for CopyBothResponse behind START_REPLICATION.
    pub(crate) async fn copy_both(&mut self) -> Result<()> {
        match self.checked().await?.tag {
            b'W' => Ok(()),
            tag => Err(unexpected("the start of replication", tag)),
        }
    }

    /// Ends a copy in both directions and the session, and waits until the server has closed the
    /// connection: only then the slot is free. Errors do not matter any more.
    pub(crate) async fn end_copy(&mut self) {
        frontend::copy_done(&mut self.outgoing);
        self.terminate().await;
    }

    /// Says goodbye and waits until the server has closed the connection.
    pub(crate) async fn terminate(&mut self) {
        frontend::terminate(&mut self.outgoing);
        if self.send().await.is_err() {
            return;
        }
        self.incoming.clear();
        while let Ok(1..) = self.socket.read_buf(&mut self.incoming).await {
            self.incoming.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_only_when_it_is_whole() {
        let mut incoming = BytesMut::from(&b"d\0\0\0\x07abcd"[..]);
        let cut = incoming.split_off(6);
        assert!(take_message(&mut incoming).unwrap().is_none());
        incoming.unsplit(cut);
        let message = take_message(&mut incoming).unwrap().unwrap();
        assert_eq!((message.tag, &message.body[..]), (b'd', &b"abc"[..]));
        assert_eq!(&incoming[..], b"d");
    }

    /// A row of the same length is gathered; its beginning says which it is.
    #[test]
    fn a_message_of_the_log_that_is_too_long_to_be_ours_is_passed_over_as_it_arrives() {
        const LENGTH: usize = 64 << 20;
        let copy_data = |first: u8, length: usize| {
            let mut bytes = vec![b'd'];
            bytes.extend_from_slice(&u32::try_from(length + 29).unwrap().to_be_bytes());
            bytes.extend_from_slice(b"w");
            bytes.extend_from_slice(&[0; 24]);
            bytes.push(first);
            bytes.resize(5 + 25 + length, first);
            bytes
        };
        for cut in [1, 5, 29, 30, 31, 1000] {
            let mut incoming = Incoming::default();
            let mut stream = copy_data(b'M', LENGTH);
            stream.extend(copy_data(b'I', 10));
            stream.extend(copy_data(b'M', 10));
            let (mut most, mut taken) = (0, Vec::new());
            let (front, rest) = stream.split_at(cut);
            for chunk in std::iter::once(front).chain(rest.chunks(100_000)) {
                incoming.bytes.extend_from_slice(chunk);
                while let Some(message) = incoming.take().unwrap() {
                    taken.push((message.body.len(), message.body[25]));
                }
                most = most.max(incoming.bytes.capacity());
            }
            assert_eq!(taken, [(35, b'I'), (35, b'M')], "cut at {cut}");
            assert!(most < 1 << 20, "{most} bytes are held");
        }
        let mut incoming = Incoming::default();
        let stream = copy_data(b'I', LENGTH);
        incoming.bytes.extend_from_slice(&stream[..40]);
        assert!(incoming.take().unwrap().is_none());
        incoming.bytes.extend_from_slice(&stream[40..]);
        assert_eq!(incoming.take().unwrap().unwrap().body.len(), LENGTH + 25);
    }

    #[test]
    fn damaged_rows_and_requests_are_refused() {
        assert_eq!(
            data_row(b"\0\x02\xff\xff\xff\xff\0\0\0\x02hi"),
            Some(vec![None, Some("hi".into())])
        );
        for bad in [&b""[..], b"\0\x01", b"\0\x01\0\0\0\x05hi", b"\0\x01\xff\xff\xff\xfe"] {
            assert_eq!(data_row(bad), None);
        }
        assert!(Authentication::parse(b"\0\0\0").is_none());
        assert!(Authentication::parse(b"\0\0\0\x05ab").is_none());
    }

    #[test]
    fn an_impossible_length_ends_the_connection() {
        for len in [0u32, 3, u32::MAX, (1 << 30) + 17] {
            let mut incoming = BytesMut::from(&b"d"[..]);
            incoming.extend_from_slice(&len.to_be_bytes());
            assert!(take_message(&mut incoming).is_err(), "{len}");
        }
    }
}
