//! What the machine allows at best for a part of the way, measured in the same run as the whole.

pub mod plain_socket;
pub mod raw_copy;
pub mod raw_slot;
pub mod store_alone;
