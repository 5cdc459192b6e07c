//! One connection's socket.

use tokio_util::sync::CancellationToken;

/// Cuts the connection that a request came over. The server inserts one into the request's
/// extensions; a body alone cannot end a connection whose socket takes nothing.
#[derive(Clone, Debug)]
pub struct ConnectionCut(pub CancellationToken);
