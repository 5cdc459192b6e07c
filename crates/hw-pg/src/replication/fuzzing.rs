//! The door for the fuzz targets: whatever a server, or somebody in its place, can send.

use super::stream::parse_copy_data;
use super::wire::{Authentication, Incoming, data_row, server_error};
use bytes::BytesMut;

/// Reads `bytes` as they would arrive: messages, each read in every way that its kind is read.
pub fn messages(bytes: &[u8]) {
    let mut incoming = Incoming::from(BytesMut::from(bytes));
    // What is announced and never sent must not be made room for beyond the bound.
    while let Ok(Some(message)) = incoming.take() {
        match message.tag {
            b'R' => drop(Authentication::parse(&message.body)),
            b'D' => drop(data_row(&message.body)),
            b'E' | b'N' => drop(server_error(&message.body).to_string()),
            _ => drop(parse_copy_data(message.body)),
        }
    }
}
