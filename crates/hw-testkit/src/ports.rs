//! Ports of the loopback address for servers under test.

use std::net::TcpListener;
use std::ops::Range;

/// Below the range that the kernel hands to outgoing connections, so that the port of a stopped
/// server is still free when it starts again.
const PORTS: Range<u16> = 20_000..32_000;

/// A port that nobody listens on now. It is probed, not held: another process may win it.
pub(crate) fn free() -> u16 {
    loop {
        let port = rand::random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
