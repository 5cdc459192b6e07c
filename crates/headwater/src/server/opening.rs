//! The ports while the engine is being opened, which takes as long as a step that was under way at a crash
//! takes to be finished: probes are answered, and everybody else is told to come again.
//!
//! In: bound listeners, the engine's count of work. Out: the listeners again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hw_engine::Beat;
use hw_http::listen::Connections;
use hw_sync::Health;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::pulse::Pulse;

/// Connections to each port at a time.
const PLACES: usize = 64;

/// Ports that are served until the engine is open.
pub struct Opening {
    stop: CancellationToken,
    port: Port,
    admin_port: Option<Port>,
}

type Port = JoinHandle<TcpListener>;

impl Opening {
    /// Serves the ports: that of clients, and that of the administration where there is one.
    pub fn serve(
        (listener, admin_listener): (TcpListener, Option<TcpListener>),
        beat: Beat,
        reader_patience: Duration,
    ) -> Opening {
        let stop = CancellationToken::new();
        let pulse = Arc::<Mutex<Pulse>>::default();
        let health = move || {
            let now = SystemTime::now();
            let touched_at = match beat.get() {
                // The store reads its journal; how long a start may take the startup probe says.
                0 => now,
                beat => pulse.lock().look(beat, now),
            };
            Health { started: false, ready: false, touched_at }
        };
        let port = |listener| {
            let connections = Connections::new(PLACES, reader_patience, stop.clone());
            let serving = connections.serve(listener, hw_sync::early_routes(health.clone()));
            tokio::spawn(hw_process::vital("the port before the engine is open", serving))
        };
        Opening { port: port(listener), admin_port: admin_listener.map(port), stop }
    }

    /// Ends that; who waits in the queue of a listener is answered by who takes it next.
    pub async fn end(self) -> (TcpListener, Option<TcpListener>) {
        const RUNS: &str = "the runtime that runs this runs the port";
        self.stop.cancel();
        let listener = self.port.await.expect(RUNS);
        match self.admin_port {
            Some(port) => (listener, Some(port.await.expect(RUNS))),
            None => (listener, None),
        }
    }
}
