//! A connected byte stream to Postgres: TCP, Unix socket or TLS, before the startup packet.
//!
//! In: [`ConnectConfig`]. Out: [`Transport`], which SQL connections and the replication connection
//! both start on. The rules about several hosts, fallback from TLS, timeouts and
//! `target_session_attrs` are in [`open`], once.
//!
//! Source: PostgreSQL manual, "SSL Session Encryption" of the protocol; libpq `fe-connect.c`.

use crate::config::{
    Address, AuthGate, ConnectConfig, Host, Keepalive, SessionTarget, SslMode, SslNegotiation,
};
use crate::error::{PgError, PgErrorKind, Result};
use crate::tls;
use rustls_pki_types::ServerName;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep};
use tokio_rustls::client::TlsStream;

/// SSLRequest: length 8, then the code 80877103.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// SQLSTATE `invalid_authorization_specification`: no line of pg_hba.conf fits.
const NO_HBA_LINE: &str = "28000";
/// SQLSTATE `cannot_connect_now`.
const CANNOT_CONNECT_NOW: &str = "57P03";

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connected stream, encrypted as the configuration asks, on which no startup packet was sent.
pub struct Transport {
    stream: Stream,
    host: Host,
    password: Option<String>,
    channel_binding: Option<Vec<u8>>,
    gate: Option<AuthGate>,
    answer: AnswerClock,
}

/// Watches that what was asked is answered.
#[derive(Debug, Default)]
struct AnswerClock {
    limit: Option<Duration>,
    /// When an answer must have begun, or gone on. `None`: nothing was asked, or all is answered.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl AnswerClock {
    /// Something was sent: an answer has to come.
    fn asked(&mut self, cx: &mut Context<'_>) {
        if let (Some(limit), None) = (self.limit, &self.alarm) {
            let mut alarm = Box::pin(tokio::time::sleep(limit));
            // The task must wake up for it although it may have looked for an answer before.
            let _ = alarm.as_mut().poll(cx);
            self.alarm = Some(alarm);
        }
    }

    /// Something came. A server that is done says so at the end (ReadyForQuery).
    fn heard(&mut self, bytes: &[u8]) {
        let Some(limit) = self.limit else { return };
        let done = bytes.len() >= 6 && bytes[bytes.len() - 6..].starts_with(b"Z\0\0\0\x05");
        match (&mut self.alarm, done) {
            (_, true) => self.alarm = None,
            (Some(alarm), false) => alarm.as_mut().reset(Instant::now() + limit),
            (None, false) => {}
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.alarm {
            Some(alarm) => alarm.as_mut().poll(cx).map(|()| {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer"))
            }),
            None => Poll::Pending,
        }
    }
}

impl Transport {
    /// The host it leads to.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The password for this host, if one is configured.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The bytes of `tls-server-end-point` for SCRAM; `None` without TLS or where RFC 5929 does
    /// not define them for the certificate.
    pub fn channel_binding(&self) -> Option<&[u8]> {
        self.channel_binding.as_deref()
    }

    /// The same, on which every question must be answered: see
    /// [`ConnectConfig::with_answer_within`].
    pub(crate) fn answered_within(mut self, limit: Option<Duration>) -> Transport {
        self.answer.limit = limit;
        self
    }

    /// Whether the stream is encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transport({}, encrypted: {})", self.host, self.is_encrypted())
    }
}

/// What a startup made of a [`Transport`], with what the server said of itself.
pub struct Started<T> {
    /// The session.
    pub session: T,
    /// ParameterStatus `in_hot_standby`.
    pub in_hot_standby: Option<bool>,
    /// ParameterStatus `default_transaction_read_only`.
    pub read_only: Option<bool>,
}

/// Connects to the first host that answers, without a session: the caller sends the startup
/// packet. Where the whole rules of libpq are wanted, use [`open`].
pub async fn connect(config: &ConnectConfig) -> Result<Transport> {
    open(config, |transport| {
        std::future::ready(Ok(Started {
            session: transport,
            in_hot_standby: None,
            read_only: None,
        }))
    })
    .await
}

/// Opens a session as libpq would: hosts in turn, each with all of its addresses and within
/// `connect_timeout`; with `sslmode=prefer` once more without TLS if the handshake fails or
/// `pg_hba.conf` refuses TLS; on to the next host if the server is not what
/// `target_session_attrs` asks for or is starting up.
///
/// - Takes: `startup`, which turns a transport into a session; it may run several times.
/// - Errors: the last host's. A refused password ends the search, as with libpq.
pub async fn open<T, F, Fut>(config: &ConnectConfig, startup: F) -> Result<T>
where
    F: Fn(Transport) -> Fut,
    Fut: Future<Output = Result<Started<T>>>,
{
    let mut hosts: Vec<&Host> = config.hosts().iter().collect();
    if config.shuffle_hosts() {
        let hash = |host: &Host| {
            use std::hash::BuildHasher;
            std::hash::RandomState::new().hash_one(host.to_string())
        };
        hosts.sort_by_cached_key(|host| hash(host));
    }
    let targets: &[SessionTarget] = match config.session_target() {
        SessionTarget::PreferStandby => &[SessionTarget::Standby, SessionTarget::Any],
        _ => &[config.session_target()],
    };
    let mut last = None;
    for target in targets {
        for host in &hosts {
            let attempt = open_host(config, host, &startup);
            let opened = match config.connect_timeout() {
                None => attempt.await,
                Some(limit) => match tokio::time::timeout(limit, attempt).await {
                    Ok(opened) => opened,
                    Err(_) => Err(PgError::new(PgErrorKind::Timeout {
                        host: host.to_string(),
                        after: limit,
                    })),
                },
            };
            match opened.and_then(|started| fits(host, *target, started)) {
                Ok(session) => return Ok(session),
                Err(error) => {
                    let next_may_do = match error.kind() {
                        PgErrorKind::Server(server) => server.sqlstate == CANNOT_CONNECT_NOW,
                        PgErrorKind::Configuration(_) => false,
                        _ => true,
                    };
                    if !next_may_do {
                        return Err(error);
                    }
                    tracing::debug!(host = %host, %error, "host passed over");
                    last = Some(error);
                }
            }
        }
    }
    Err(last.expect("a configuration has at least one host"))
}

fn fits<T>(host: &Host, target: SessionTarget, started: Started<T>) -> Result<T> {
    let standby = started.in_hot_standby.unwrap_or(false);
    let read_only = standby || started.read_only.unwrap_or(false);
    let (fits, wanted) = match target {
        SessionTarget::Any | SessionTarget::PreferStandby => (true, ""),
        SessionTarget::ReadWrite => (!read_only, "a server that takes writes"),
        SessionTarget::ReadOnly => (read_only, "a read-only server"),
        SessionTarget::Primary => (!standby, "a primary"),
        SessionTarget::Standby => (standby, "a standby"),
    };
    match fits {
        true => Ok(started.session),
        false => {
            Err(PgError::new(PgErrorKind::SessionAttributes { host: host.to_string(), wanted }))
        }
    }
}

async fn open_host<T, F, Fut>(
    config: &ConnectConfig,
    host: &Host,
    startup: &F,
) -> Result<Started<T>>
where
    F: Fn(Transport) -> Fut,
    Fut: Future<Output = Result<Started<T>>>,
{
    let mode = config.tls().mode;
    let first = match connect_host(config, host, mode).await {
        Ok(transport) => {
            let encrypted = transport.is_encrypted();
            let started = startup(transport).await;
            match started {
                Err(error) if encrypted && error.sqlstate() == Some(NO_HBA_LINE) => Err(error),
                other => return other,
            }
        }
        Err(error) => Err(error),
    };
    match first {
        Err(error)
            if mode == SslMode::Prefer
                && matches!(error.kind(), PgErrorKind::Tls { .. } | PgErrorKind::Server(_)) =>
        {
            let plain = connect_host(config, host, SslMode::Disable).await?;
            startup(plain).await
        }
        other => other,
    }
}

async fn connect_host(config: &ConnectConfig, host: &Host, mode: SslMode) -> Result<Transport> {
    let (name, address) = match &host.address {
        Address::Unix(_) => {
            let path = host.socket_path().expect("a Unix address has a socket path");
            let stream = UnixStream::connect(path).await.map_err(|e| unreachable(host, e))?;
            return Ok(transport(config, host, Stream::Unix(stream), None));
        }
        Address::Tcp { name, address } => (name, address),
    };
    let tcp = match address {
        Some(address) => TcpStream::connect((*address, host.port)).await,
        None => TcpStream::connect((name.as_str(), host.port)).await,
    };
    let mut tcp = tcp.map_err(|error| unreachable(host, error))?;
    // Both are hints to the system: a connection without them still works.
    let _ = tcp.set_nodelay(true);
    let _ = set_keepalive(&tcp, config.keepalive());

    if mode == SslMode::Disable || !offers_tls(config, &mut tcp).await? {
        return match mode {
            SslMode::Disable | SslMode::Prefer => {
                Ok(transport(config, host, Stream::Tcp(tcp), None))
            }
            mode => Err(PgError::new(PgErrorKind::NoTls {
                host: host.to_string(),
                sslmode: mode.name(),
            })),
        };
    }
    let settings = config.tls();
    let checked_name = match address {
        Some(address) if name.is_empty() && mode != SslMode::VerifyFull => address.to_string(),
        _ => name.clone(),
    };
    let server_name: ServerName<'static> = tls::server_name(settings, &checked_name)?;
    let connector = tokio_rustls::TlsConnector::from(tls::client_config(settings)?);
    let stream = connector.connect(server_name, tcp).await.map_err(|error| {
        let rustls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match rustls {
            Some(rustls) => tls::handshake_error(host.to_string(), rustls),
            None => PgError::new(PgErrorKind::Tls {
                host: host.to_string(),
                reason: format!("the handshake broke off: {error}"),
                mend: None,
            }),
        }
    })?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let binding = certificate.and_then(|certificate| tls::end_point_hash(certificate));
    Ok(transport(config, host, Stream::Tls(Box::new(stream)), binding))
}

fn transport(
    config: &ConnectConfig,
    host: &Host,
    stream: Stream,
    channel_binding: Option<Vec<u8>>,
) -> Transport {
    let password = config.password(host).map(str::to_owned);
    let gate = config.require_auth().map(AuthGate::new);
    let answer = AnswerClock::default();
    Transport { stream, host: host.clone(), password, channel_binding, gate, answer }
}

fn unreachable(host: &Host, source: io::Error) -> PgError {
    PgError::new(PgErrorKind::Unreachable { host: host.to_string(), source })
}

/// Asks for TLS; one byte answers.
async fn offers_tls(config: &ConnectConfig, tcp: &mut TcpStream) -> Result<bool> {
    if config.tls().negotiation == SslNegotiation::Direct {
        return Ok(true);
    }
    tcp.write_all(&SSL_REQUEST).await?;
    // Nothing may follow the answer before the handshake: reading exactly one byte leaves
    // anything that an attacker slipped in to the handshake, which refuses it (CVE-2021-23222).
    match tcp.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        b'E' => Err(PgError::protocol("an error in answer to the request for TLS")),
        _ => Err(PgError::protocol("no Postgres server answers on this port")),
    }
}

fn set_keepalive(tcp: &TcpStream, keepalive: Keepalive) -> io::Result<()> {
    let socket = socket2::SockRef::from(tcp);
    if keepalive.enabled {
        let mut settings = socket2::TcpKeepalive::new();
        if let Some(idle) = keepalive.idle {
            settings = settings.with_time(idle);
        }
        if let Some(interval) = keepalive.interval {
            settings = settings.with_interval(interval);
        }
        if let Some(count) = keepalive.count {
            settings = settings.with_retries(count);
        }
        socket.set_keepalive(true)?;
        socket.set_tcp_keepalive(&settings)?;
    }
    #[cfg(target_os = "linux")]
    if keepalive.user_timeout.is_some() {
        socket.set_tcp_user_timeout(keepalive.user_timeout)?;
    }
    Ok(())
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if read.is_pending() {
            return this.answer.poll(cx);
        }
        let bytes = &buf.filled()[before..];
        this.answer.heard(bytes);
        if let Some(gate) = &mut this.gate
            && gate.look(bytes)?
        {
            this.gate = None;
        }
        read
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.answer.asked(cx);
        match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
