//! Stable codes of this crate's findings. 2001 to 2049 are connections and values; the stream,
//! the publication, the slot and the catalog have 2100 and above.

/// The connection string, a `PG*` variable or the password file cannot be read as written.
pub const CONNECTION_STRING: u16 = 2001;
/// A key of the connection string is not known and was ignored.
pub const UNKNOWN_KEY: u16 = 2002;
/// The password file was ignored because others may read it or it is not a plain file.
pub const PASSWORD_FILE: u16 = 2003;
/// No connection: the name does not resolve, nothing listens, the network is not reachable.
pub const UNREACHABLE: u16 = 2004;
/// The server did not answer in time.
pub const TIMEOUT: u16 = 2005;
/// `sslmode` demands TLS, and the server does not offer it.
pub const NO_TLS: u16 = 2006;
/// The TLS handshake failed; mostly a certificate that is not trusted or for another name.
pub const TLS: u16 = 2007;
/// The server refused user, password or database.
pub const REFUSED: u16 = 2008;
/// The server takes no connections now: it starts, stops, or has none left.
pub const NOT_ACCEPTING: u16 = 2009;
/// The role lacks a privilege.
pub const PRIVILEGE: u16 = 2010;
/// The server answered a statement with an error.
pub const STATEMENT: u16 = 2011;
/// The connection broke.
pub const LOST: u16 = 2012;
/// The server sent bytes that the protocol does not allow here.
pub const PROTOCOL: u16 = 2013;
/// No connection of the pool became free in time.
pub const POOL: u16 = 2014;
/// A value could not be read.
pub const VALUE: u16 = 2015;
/// A certificate or key file cannot be used.
pub const CERTIFICATE_FILE: u16 = 2016;
/// A pooler in front of Postgres refused a startup option.
pub const POOLER: u16 = 2017;
/// A feature of libpq that Headwater does not have was asked for.
pub const NOT_SUPPORTED: u16 = 2018;
/// No host of the list is what `target_session_attrs` asks for.
pub const SESSION_ATTRIBUTES: u16 = 2019;
