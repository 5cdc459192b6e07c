//! Many sockets of live queries, each of a user of its own, and what arrives at which of them when.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::Outcome;
use crate::server::Server;

/// Sockets that are opened at a time.
const OPENING: usize = 64;

/// Sockets that come from one address: each has some 28,000 ports.
const PER_ADDRESS: usize = 20_000;

/// How long anything may be on its way before a run is given up.
const PATIENCE: Duration = Duration::from_secs(600);

/// A message as it arrived.
pub struct Heard {
    /// At whose socket.
    pub who: usize,
    /// When its last byte had been read.
    pub at: Instant,
    /// Its text.
    pub text: String,
}

impl Heard {
    /// Whether it answers a request.
    fn is_answer(&self) -> bool {
        self.text.contains("\"requestId\":")
    }
}

/// Open sockets: user 0 at the first, and so on.
pub struct Crowd {
    asking: Vec<UnboundedSender<String>>,
    heard: UnboundedReceiver<Heard>,
    requests: u64,
    // Ends with it.
    _tasks: JoinSet<()>,
}

impl Crowd {
    /// Opens a socket for each of so many users.
    pub async fn open(server: &Server, users: u64) -> Outcome<Crowd> {
        let (report, heard) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let tokens: Vec<String> =
            (0..users).map(|user| server.token(&user.to_string())).collect::<Outcome<_>>()?;
        let address = server.address();
        let opened = tokens.into_iter().enumerate();
        let opened = opened.map(|(who, token)| connect(address, who / PER_ADDRESS, token));
        let mut opened = futures_util::stream::iter(opened).buffered(OPENING);
        let mut asking = Vec::new();
        while let Some(socket) = opened.next().await {
            let (ask, asked) = mpsc::unbounded_channel();
            tasks.spawn(converse(asking.len(), socket?, asked, report.clone()));
            asking.push(ask);
        }
        Ok(Crowd { asking, heard, requests: 0, _tasks: tasks })
    }

    /// Sends a request at the socket of one.
    pub fn ask(&mut self, who: usize, mut request: Value) -> Outcome<()> {
        request["requestId"] = self.requests.into();
        self.requests += 1;
        Ok(self.asking[who].send(request.to_string())?)
    }

    /// The next message that is no answer.
    ///
    /// - Errors: an answer; a socket that was closed; nothing for minutes.
    pub async fn told(&mut self) -> Outcome<Heard> {
        let heard = self.next().await?;
        match heard.is_answer() {
            true => Err(format!("an answer that nobody waits for: {}", heard.text).into()),
            false => Ok(heard),
        }
    }

    /// Waits for so many answers.
    ///
    /// - Returns: their texts.
    /// - Errors: a failure among them; anything else that arrives.
    pub async fn answers(&mut self, count: usize) -> Outcome<Vec<Heard>> {
        let mut answers = Vec::with_capacity(count);
        while answers.len() < count {
            let heard = self.next().await?;
            if !heard.is_answer() || heard.text.contains("\"DataSyncError\"") {
                return Err(format!("not an answer: {}", heard.text).into());
            }
            answers.push(heard);
        }
        Ok(answers)
    }

    /// Everybody subscribes, `watching` runs, everybody ends the subscription.
    ///
    /// - Returns: what `watching` gives.
    pub async fn while_subscribed<T>(
        &mut self,
        request: &Value,
        watching: impl AsyncFnOnce(&mut Crowd) -> Outcome<T>,
    ) -> Outcome<T> {
        for who in 0..self.asking.len() {
            self.ask(who, request.clone())?;
        }
        let answers = self.answers(self.asking.len()).await?;
        let watched = watching(self).await?;
        for answer in &answers {
            let told: Value = serde_json::from_str(&answer.text)?;
            let end = serde_json::json!({
                "tag": "DeleteDataSubscription",
                "subscriptionId": told["subscriptionId"],
            });
            self.ask(answer.who, end)?;
        }
        self.answers(answers.len()).await?;
        Ok(watched)
    }

    /// What has arrived and was not taken: messages that nobody should have been told.
    pub fn unexpected(&mut self) -> usize {
        std::iter::from_fn(|| self.heard.try_recv().ok()).count()
    }

    async fn next(&mut self) -> Outcome<Heard> {
        let heard = tokio::time::timeout(PATIENCE, self.heard.recv()).await;
        let heard = heard.map_err(|_| "nothing arrives at any socket")?;
        let heard = heard.ok_or("all sockets are closed")?;
        match heard.text.is_empty() {
            true => Err(format!("the socket of user {} was closed", heard.who).into()),
            false => Ok(heard),
        }
    }
}

type Socket = WebSocketStream<TcpStream>;

/// - Takes: from the how manieth of this machine's addresses, behind 127.0.0.1.
async fn connect(address: SocketAddr, from: usize, token: String) -> Outcome<Socket> {
    let stream = TcpSocket::new_v4()?;
    let from = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + u32::try_from(from)?);
    stream.bind(SocketAddr::from((from, 0)))?;
    let stream = stream.connect(address).await?;
    stream.set_nodelay(true)?;
    // Its buffers are made when the socket is: thousands need small ones.
    let config = WebSocketConfig::default().read_buffer_size(4 << 10).write_buffer_size(0);
    let url = format!("ws://{address}/DataSyncController?access_token={token}");
    let (socket, _) = client_async_with_config(url, stream, Some(config)).await?;
    Ok(socket)
}

/// Sends what is asked and tells what arrives; an empty text when the socket has ended.
async fn converse(
    who: usize,
    mut socket: Socket,
    mut asked: UnboundedReceiver<String>,
    report: UnboundedSender<Heard>,
) {
    loop {
        let text = tokio::select! {
            request = asked.recv() => {
                let Some(request) = request else { return };
                match socket.send(Message::text(request)).await {
                    Ok(()) => continue,
                    Err(_) => String::new(),
                }
            }
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => text.as_str().to_owned(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                _ => String::new(),
            },
        };
        if text.contains("\"KeepAlive\"") {
            continue;
        }
        let has_ended = text.is_empty();
        if report.send(Heard { who, at: Instant::now(), text }).is_err() || has_ended {
            return;
        }
    }
}
