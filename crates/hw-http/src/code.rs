//! Stable codes of what the edge finds and refuses; `docs/errors.md` lists all codes.

/// The address to listen on is in use.
pub const ADDRESS_IN_USE: u16 = 1020;
/// The address to listen on cannot be used.
pub const ADDRESS: u16 = 1021;
/// The path does not exist on this server.
pub const NO_SUCH_PATH: u16 = 5001;
/// The path does not take this method.
pub const METHOD: u16 = 5002;
/// The server has as many connections as `limits.max_clients`, or as the limit of open files leaves
/// room for.
pub const TOO_MANY_CLIENTS: u16 = 5003;
/// The body is larger than the path takes (`uploads.max_body`), or has more transactions than one
/// request may have. Send fewer at a time.
pub const TOO_LARGE: u16 = 5004;
/// The body is not what the route's page describes.
pub const BODY: u16 = 5005;
/// The body is not JSON by its content type.
pub const MEDIA_TYPE: u16 = 5006;
/// The body did not arrive in time.
pub const TOO_SLOW: u16 = 5007;
/// A request of HTTP/1.1 names no host, or more than one.
pub const HOST: u16 = 5008;
/// The bodies that are being received hold as much memory as `limits.body_memory` allows. The
/// request may be sent again.
pub const BODIES_FULL: u16 = 5009;
/// One user has as much in flight as one user may. The request may be sent again when an earlier
/// one has ended.
pub const USER_BUSY: u16 = 5010;
/// The process has no open file left for another connection, which is refused (a warning).
pub const NO_FILES: u16 = 5011;
