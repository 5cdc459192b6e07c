//! SQL connections and a bounded pool of them.
//!
//! In: [`ConnectConfig`]. Out: `tokio_postgres` clients whose sessions run under
//! [`PINNED_SETTINGS`](crate::config::PINNED_SETTINGS). The stream below comes from
//! [`crate::transport`], so `tokio_postgres` never decides about TLS or hosts.

use crate::config::{ChannelBinding, ConnectConfig, TRANSACTION_TIMEOUT_SINCE};
use crate::error::{PgError, PgErrorKind, Result};
use crate::transport::{self, Started, Transport};
use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::config as pg;
use tokio_postgres::tls::{ChannelBinding as Binding, TlsConnect, TlsStream};
use tokio_postgres::{CancelToken, Client};

/// The task that moves a connection's bytes. It ends when the client is dropped, or with an error
/// when the connection breaks; dropping the handle leaves it running.
pub type Driver = JoinHandle<Result<()>>;

/// Opens a session.
///
/// - Returns: the client, and the task that drives it.
/// - Errors: [`PgError`] with its policy; texts name the host, never the password.
pub async fn connect(config: &ConnectConfig) -> Result<(Client, Driver)> {
    transport::open(config, |transport| start(config, transport))
        .await
        .map_err(|error| error.doing("connect"))
}

async fn start(config: &ConnectConfig, transport: Transport) -> Result<Started<(Client, Driver)>> {
    let mut settings = tokio_postgres::Config::new();
    settings
        .user(config.user())
        .dbname(config.database())
        .options(config.options())
        .application_name(config.application_name())
        // The transport has negotiated TLS already. "Direct" makes `tokio_postgres` call
        // `Negotiated` at once, which only hands the stream on with its channel binding.
        .ssl_mode(pg::SslMode::Require)
        .ssl_negotiation(pg::SslNegotiation::Direct)
        .channel_binding(match config.channel_binding() {
            ChannelBinding::Disable => pg::ChannelBinding::Disable,
            ChannelBinding::Prefer => pg::ChannelBinding::Prefer,
            ChannelBinding::Require => pg::ChannelBinding::Require,
        });
    let transport = transport.answered_within(config.answer_within());
    let host = transport.host().to_string();
    let has_password = transport.password().is_some();
    if let Some(password) = transport.password() {
        settings.password(password);
    }
    let started = settings.connect_raw(transport, Negotiated).await;
    let (client, connection) = started.map_err(|error| match is_password_missing(&error) {
        true if !has_password => PgError::new(PgErrorKind::NoPassword { host }),
        _ => PgError::from(error),
    })?;
    let flag = |value: &str| value == "on";
    let in_hot_standby = connection.parameter("in_hot_standby").map(flag);
    let read_only = connection.parameter("default_transaction_read_only").map(flag);
    let newer = connection.parameter("server_version").is_some_and(has_transaction_timeout);
    let driver = tokio::spawn(async move { connection.await.map_err(PgError::from) });
    if config.is_own() && newer {
        // Not a startup option: older servers would refuse it.
        client.batch_execute("SET transaction_timeout = 0").await?;
    }
    Ok(Started { session: (client, driver), in_hot_standby, read_only })
}

/// Whether a version in words (`17.2`, `18beta1 (Debian …)`) has the setting.
fn has_transaction_timeout(version: &str) -> bool {
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    let major: u32 = version[..digits].parse().unwrap_or(0);
    major * 10_000 >= TRANSACTION_TIMEOUT_SINCE
}

/// `tokio_postgres` has no kind for this, only the text.
fn is_password_missing(error: &tokio_postgres::Error) -> bool {
    let source = std::error::Error::source(error);
    source.is_some_and(|source| source.to_string() == "password missing")
}

/// Hands a transport on as it is.
struct Negotiated;

impl TlsConnect<Transport> for Negotiated {
    type Stream = Transport;
    type Error = Infallible;
    type Future = Ready<Result<Transport, Infallible>>;

    fn connect(self, stream: Transport) -> Self::Future {
        ready(Ok(stream))
    }
}

impl TlsStream for Transport {
    fn channel_binding(&self) -> Binding {
        match Transport::channel_binding(self) {
            Some(bytes) => Binding::tls_server_end_point(bytes.to_vec()),
            None => Binding::none(),
        }
    }
}

/// How long a connection may take to become as new. One whose last statement still runs, because
/// nobody waited for its end, is closed instead.
const AS_NEW_WITHIN: Duration = Duration::from_secs(1);

/// A bounded set of connections that are kept open, each as new when it is handed out: what the
/// last user's statements and triggers left in the session (settings, temporary tables, advisory
/// locks, prepared statements) is gone. Clones share it.
///
/// Whoever uses one must not keep prepared statements; `query_typed` has none.
#[derive(Clone)]
pub struct Pool {
    connections: managed::Pool<Manager>,
    wait: Duration,
}

/// A connection of the pool; goes back when dropped. Derefs to [`Client`].
pub type PooledClient = managed::Object<Manager>;

impl Pool {
    /// An empty pool; the first [`Pool::get`] connects.
    ///
    /// - Takes: `max_size`, connections open at most (at least 1); `wait`, how long
    ///   [`Pool::get`] may wait for one of them.
    pub fn new(config: ConnectConfig, max_size: usize, wait: Duration) -> Pool {
        let connections = managed::Pool::builder(Manager { config })
            .max_size(max_size.max(1))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .expect("a pool with a runtime and without timeouts of its own can be built");
        Pool { connections, wait }
    }

    /// A connection that was idle, or a new one.
    ///
    /// - Errors: as [`connect`]; [`PgErrorKind::PoolBusy`] if none became free in time.
    pub async fn get(&self) -> Result<PooledClient> {
        let mut timeouts = managed::Timeouts::new();
        timeouts.wait = Some(self.wait);
        timeouts.recycle = Some(AS_NEW_WITHIN);
        self.connections.timeout_get(&timeouts).await.map_err(|error| match error {
            managed::PoolError::Backend(error) => error,
            managed::PoolError::Timeout(_) => {
                PgError::new(PgErrorKind::PoolBusy { size: self.size(), after: self.wait })
            }
            other => PgError::new(PgErrorKind::Lost(other.to_string())),
        })
    }

    /// Asks the server to end the statement that runs on a connection of the pool. The connection must not go
    /// back to the pool behind it: what is asked may arrive late, and end the statement of whoever has it next.
    ///
    /// - Errors: the server cannot be reached. Whether something was ended is not told. Of several hosts the
    ///   first that answers is asked.
    pub async fn cancel(&self, running: &CancelToken) -> Result<()> {
        let transport = transport::connect(&self.connections.manager().config).await?;
        let asked = running.cancel_query_raw(transport, Negotiated).await;
        asked.map_err(|error| PgError::from(error).doing("cancel a statement"))
    }

    /// Connections at most.
    #[expect(clippy::misnamed_getters, reason = "the status calls the open ones `size`")]
    pub fn size(&self) -> usize {
        self.connections.status().max_size
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.connections.status().size
    }

    /// Closes idle connections and refuses further [`Pool::get`]s.
    pub fn close(&self) {
        self.connections.close();
    }
}

/// Makes and checks the pool's connections.
#[derive(Debug)]
pub struct Manager {
    config: ConnectConfig,
}

impl managed::Manager for Manager {
    type Type = Client;
    type Error = PgError;

    async fn create(&self) -> Result<Client> {
        // The driver ends by itself when the client is dropped.
        connect(&self.config).await.map(|(client, _driver)| client)
    }

    async fn recycle(&self, client: &mut Client, _: &Metrics) -> RecycleResult<PgError> {
        if client.is_closed() {
            return Err(RecycleError::message("closed"));
        }
        let reset = client.batch_execute("DISCARD ALL").await.map_err(PgError::from);
        reset.map_err(RecycleError::Backend)
    }
}
