//! Stable codes of what the edge finds and refuses; `docs/errors.md` lists all codes.

/// The address to listen on is in use.
pub const ADDRESS_IN_USE: u16 = 1020;
/// The address to listen on cannot be used.
pub const ADDRESS: u16 = 1021;
/// The server has as many connections as `limits.max_clients` allows.
pub const TOO_MANY_CLIENTS: u16 = 5003;
