//! What the oracle asks of a client, whichever surface it is of.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;

use tokio::sync::watch;

use super::client::{Rows, Shown, SyncClient};
use super::world::User;

/// A client that does not give up: it connects, follows, connects again.
pub trait Follower: Sized + Send + 'static {
    /// A client of a user that holds nothing.
    fn new(user: &User, token: &str, number: usize) -> Self;

    /// From now on it accepts that what it holds is sent anew under other names: by a server whose store
    /// was put back to an earlier state.
    fn accept_anew(&mut self);

    /// A position that contains everything committed before the call, in the terms of the surface.
    ///
    /// - Errors: what no retry mends. A server that is down is waited for.
    fn barrier(&self, server: SocketAddr) -> impl Future<Output = Result<u64, String>> + Send;

    /// Follows to the position that `goal` comes to name.
    ///
    /// - Errors: what no retry mends: a refusal, a breach of the protocol.
    fn follow_to(
        &mut self,
        server: SocketAddr,
        goal: watch::Receiver<Option<u64>>,
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// Follows until it holds exactly this.
    fn follow_until_it_holds(
        &mut self,
        server: SocketAddr,
        wanted: &BTreeMap<String, Rows>,
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// The states that it has shown since this was last called, oldest first.
    fn shown(&mut self) -> Vec<Shown>;

    /// What it shows now, by definition; without those that give nothing.
    fn held(&self) -> BTreeMap<String, Rows>;

    /// Loses everything, as a new installation; it keeps who it is.
    fn forget(&mut self);
}

impl Follower for SyncClient {
    fn new(user: &User, token: &str, number: usize) -> SyncClient {
        let mut client = SyncClient::new(token, &format!("client-{number}"));
        client.parameters = user.parameters.clone();
        client.subscriptions = user.subscriptions.clone();
        client.gzip = number % 2 == 1;
        client
    }

    fn accept_anew(&mut self) {
        self.accepts_anew = true;
    }

    async fn barrier(&self, server: SocketAddr) -> Result<u64, String> {
        SyncClient::barrier(self, server).await.map_err(|error| error.to_string())
    }

    async fn follow_to(
        &mut self,
        server: SocketAddr,
        goal: watch::Receiver<Option<u64>>,
    ) -> Result<(), String> {
        SyncClient::follow_to(self, server, goal).await.map_err(|error| error.to_string())
    }

    async fn follow_until_it_holds(
        &mut self,
        server: SocketAddr,
        wanted: &BTreeMap<String, Rows>,
    ) -> Result<(), String> {
        let followed = self.follow_until(server, |client| Follower::held(client) == *wanted);
        followed.await.map_err(|error| error.to_string())
    }

    fn shown(&mut self) -> Vec<Shown> {
        self.history.clear();
        std::mem::take(&mut self.shown)
    }

    fn held(&self) -> BTreeMap<String, Rows> {
        let mut held = SyncClient::held(self);
        held.retain(|_, rows| !rows.is_empty());
        held
    }

    fn forget(&mut self) {
        SyncClient::forget(self);
    }
}
