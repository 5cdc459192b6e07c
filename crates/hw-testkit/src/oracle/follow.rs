//! A client that does not give up: connects, follows, connects again, until it has come where it
//! is wanted.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use super::client::{Line, SyncClient, SyncError};
use super::http::{Request, Response};

/// The pause before another try; real clients wait seconds.
const PAUSE: Duration = Duration::from_millis(10);

/// Whether a client would try again. A 4xx is never an answer to a client that did no wrong.
fn retries(error: &SyncError) -> bool {
    match error {
        SyncError::Cut(_) => true,
        SyncError::Refused { status, .. } => *status >= 500,
        SyncError::Protocol(_) => false,
    }
}

impl SyncClient {
    /// Follows until `done` is true of it, whatever happens to the connection.
    ///
    /// - Errors: what no retry mends: a 4xx, a breach of the protocol.
    pub async fn follow_until(
        &mut self,
        address: SocketAddr,
        mut done: impl FnMut(&SyncClient) -> bool,
    ) -> Result<(), SyncError> {
        while !done(self) {
            self.go_on(address).await?;
        }
        Ok(())
    }

    /// Follows until a completed checkpoint carries the write checkpoint that `goal` comes to name.
    ///
    /// - Errors: as [`SyncClient::follow_until`].
    pub async fn follow_to(
        &mut self,
        address: SocketAddr,
        mut goal: watch::Receiver<Option<u64>>,
    ) -> Result<(), SyncError> {
        loop {
            let wanted = *goal.borrow_and_update();
            if wanted.is_some() && self.write_checkpoint >= wanted {
                return Ok(());
            }
            tokio::select! {
                stepped = self.go_on(address) => stepped?,
                changed = goal.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// One connection or one line.
    async fn go_on(&mut self, address: SocketAddr) -> Result<(), SyncError> {
        let went = match self.is_connected() {
            true => self.step().await.map(|line| line == Line::End),
            false => self.connect(address).await.map(|()| false),
        };
        match went {
            Ok(false) => Ok(()),
            Ok(true) => {
                tokio::time::sleep(PAUSE).await;
                Ok(())
            }
            Err(error) if retries(&error) => {
                tokio::time::sleep(PAUSE).await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Asks for a write checkpoint, the protocol's barrier: a state that carries it contains
    /// everything that was committed before the call.
    ///
    /// - Errors: as [`SyncClient::follow_until`]; a server that is down is waited for.
    pub async fn barrier(&self, address: SocketAddr) -> Result<u64, SyncError> {
        loop {
            match self.ask_write_checkpoint(address).await {
                Err(error) if retries(&error) => tokio::time::sleep(PAUSE).await,
                answered => return answered,
            }
        }
    }

    /// Asks for a write checkpoint once.
    pub async fn ask_write_checkpoint(&self, address: SocketAddr) -> Result<u64, SyncError> {
        let path = format!("/write-checkpoint2.json?client_id={}", self.client_id);
        let request =
            Request { method: "GET", path: &path, token: Some(&self.token), ..Request::default() };
        let mut response = Response::ask(address, &request).await?;
        let body = response.text().await?;
        if response.status != 200 {
            return Err(SyncError::Refused { status: response.status, body });
        }
        let answer: Value = serde_json::from_str(&body).unwrap_or_default();
        let number = answer["data"]["write_checkpoint"].as_str().and_then(|text| text.parse().ok());
        number.ok_or_else(|| SyncError::Protocol(format!("no write checkpoint in {body}")))
    }

    /// Catches up with everything that is committed now: the barrier, then a state that has it.
    ///
    /// - Errors: as [`SyncClient::follow_until`].
    pub async fn catch_up(&mut self, address: SocketAddr) -> Result<(), SyncError> {
        let goal = self.barrier(address).await?;
        self.follow_until(address, |client| client.write_checkpoint >= Some(goal)).await
    }
}
