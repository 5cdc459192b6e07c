//! Bodies and headers of clients.

use hw_sync::wire::{negotiate, request};

/// Bodies of the sync routes, and the headers that choose an encoding.
pub(crate) fn sync_request(data: &[u8]) {
    drop(request::stream_request(data, None, 100));
    drop(request::checkpoint_request(data, Some("client")));
    if let Ok(text) = std::str::from_utf8(data) {
        negotiate::takes_ndjson(Some(text));
        negotiate::content_coding(Some(text));
    }
}

/// Bodies of uploads.
pub(crate) fn upload(data: &[u8]) {
    hw_rest::fuzz_upload(data);
}
