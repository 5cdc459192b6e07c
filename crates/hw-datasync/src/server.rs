//! What all sockets and requests of this surface share.

use std::sync::Arc;

use hw_auth::Clock;
use hw_http::places::Places;
use hw_http::{Bound, Edge};
use hw_live::Live;
use hw_write::Statements;
use tokio_util::sync::CancellationToken;

use crate::hooks::Hooks;
use crate::options::DataSyncOptions;
use crate::resume::Lobby;
use crate::work::Worker;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct DataSync {
    pub(crate) edge: Edge,
    pub(crate) worker: Worker,
    pub(crate) options: Arc<DataSyncOptions>,
    pub(crate) sockets: Arc<Places>,
    pub(crate) hooks: Option<Hooks>,
    pub(crate) lobby: Lobby,
    pub(crate) clock: Clock,
    /// Ends all sockets.
    pub(crate) stop: CancellationToken,
}

impl DataSync {
    /// - Takes: who verifies tokens, who runs statements, who keeps results live (`None`: nobody), who
    ///   answers messages of the application (`None`: nobody), what operators chose, what ends the sockets.
    pub fn new(
        edge: Edge,
        statements: Statements,
        live: Option<Live>,
        hooks: Option<Hooks>,
        options: DataSyncOptions,
        clock: Clock,
        stop: CancellationToken,
    ) -> DataSync {
        let (all, of_user) = options.sockets;
        let options = Arc::new(options);
        DataSync {
            worker: Worker::new(statements, live, options.clone()),
            sockets: Places::new(all, of_user),
            lobby: Lobby::new(options.resume, options.subscriptions, options.answer_bytes),
            edge,
            hooks,
            options,
            clock,
            stop,
        }
    }

    /// What is used of its bounds.
    pub(crate) fn bounds(&self) -> Vec<Bound> {
        let of = |name, places: &Places| Bound::new(name, places.taken(), places.limit());
        let (told, most_told) = self.lobby.memory();
        vec![
            of("sockets", &self.sockets),
            of("statements", &self.worker.connections),
            of("transactions", &self.worker.transactions),
            Bound::new(
                "answer_memory_bytes",
                self.worker.answers.held(),
                self.worker.answers.limit(),
            ),
            Bound::new(
                "live_memory_bytes",
                self.worker.results.held(),
                self.worker.results.limit(),
            ),
            Bound::new("resume_memory_bytes", told, most_told),
        ]
    }
}
