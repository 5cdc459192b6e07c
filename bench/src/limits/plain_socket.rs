//! Bytes through a plain socket, without a server that thinks: what the loopback and the raw
//! client allow at best.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;

use crate::Outcome;

/// Bytes of one write, about those of a data line.
const PIECE: usize = 256 << 10;

/// The head of a streamed answer.
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\
                      transfer-encoding: chunked\r\n\r\n";

/// Answers as many clients as there are recordings, each with one of them, byte by byte what it
/// was. Ends when all clients have left.
pub fn replay(recordings: Vec<Vec<u8>>) -> Outcome<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let thread = std::thread::spawn(move || {
        std::thread::scope(|scope| {
            for recording in &recordings {
                let Ok((socket, _)) = listener.accept() else { return };
                scope.spawn(move || play(socket, recording));
            }
        });
    });
    Ok((address, thread))
}

/// A client that leaves early is no failure: it has read all that it wanted.
fn play(mut socket: TcpStream, recording: &[u8]) {
    let mut request = [0; 4096];
    if socket.set_nodelay(true).is_err() || socket.read(&mut request).is_err() {
        return;
    }
    for piece in recording.chunks(PIECE) {
        if socket.write_all(piece).is_err() {
            return;
        }
    }
    while matches!(socket.read(&mut request), Ok(length) if length > 0) {}
}

/// Sends every line to all of its clients, one after the other.
pub struct FanOut {
    sockets: Vec<TcpStream>,
}

impl FanOut {
    /// Where clients connect, and the thread that takes `clients` of them and greets each with
    /// an empty first checkpoint.
    pub fn start(clients: usize) -> Outcome<(SocketAddr, JoinHandle<Outcome<FanOut>>)> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let thread = std::thread::spawn(move || {
            let mut sockets = Vec::with_capacity(clients);
            for _ in 0..clients {
                let (mut socket, _) = listener.accept()?;
                socket.set_nodelay(true)?;
                let mut request = [0; 4096];
                let _ = socket.read(&mut request)?;
                socket.write_all(HEAD)?;
                socket.write_all(&chunk("{\"checkpoint\":{}}\n{\"checkpoint_complete\":{}}\n"))?;
                sockets.push(socket);
            }
            Ok(FanOut { sockets })
        });
        Ok((address, thread))
    }

    /// Sends a line to everybody.
    pub fn send(&mut self, line: &str) -> Outcome<()> {
        let bytes = chunk(line);
        for socket in &mut self.sockets {
            socket.write_all(&bytes)?;
        }
        Ok(())
    }
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}
