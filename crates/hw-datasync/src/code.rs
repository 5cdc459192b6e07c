//! Stable codes of what live queries and `/api/…` refuse; `docs/errors.md` lists all codes.

/// A message cannot be read, or a request has parameters that cannot.
pub const MESSAGE: u16 = 5401;
/// A query or a record names a field that its table does not have, or has a value where none can be.
pub const FIELD: u16 = 5402;
/// A socket has as many subscriptions as `datasync.subscriptions`.
pub const SUBSCRIPTIONS: u16 = 5403;
/// A socket has as many open transactions as `datasync.transactions`, or one user as many as a quarter of
/// all that there may be.
pub const TRANSACTIONS: u16 = 5404;
/// There is no transaction, or no subscription, with this id on this socket.
pub const NO_SUCH_ID: u16 = 5405;
/// An update found no row: it is not there, or the user may not see or change it.
pub const NO_ROW: u16 = 5406;
/// A write without any record, or with another number of rows than one.
pub const ROWS: u16 = 5407;
/// A message that only the application can answer (`datasync.hooks`), which has no hook for it or did not
/// answer in time.
pub const HOOK: u16 = 5408;
/// A session cookie came from a page that `datasync.origins` does not list.
pub const ORIGIN: u16 = 5409;
/// The path takes WebSockets only.
pub const NO_WEBSOCKET: u16 = 5410;
/// Subscriptions are not served: nothing follows the source here.
pub const NOT_LIVE: u16 = 5411;
/// An aggregate, or a group, that values of this type do not have: the message says which do.
pub const AGGREGATE: u16 = 5412;
/// The result of a subscription has more groups than are kept live.
pub const GROUPS: u16 = 5413;
/// Live results hold as much memory as they may (`limits.live_memory`): those of the user a quarter of it, or those of
/// all, those without a token half of it. A subscription is refused, or ended because its changes could not be told.
/// End others, or ask for less, and subscribe again.
pub const LIVE_MEMORY: u16 = 5414;
/// A table that was not replicated yet is from its first subscription on, and is being copied for longer than a
/// subscription waits (`datasync.table_wait`). Subscribe again: it is copied meanwhile, and `headwater status` says how far.
pub const NOT_ENTERED: u16 = 5415;
/// Changes of a table cannot be followed, so that nothing of it is kept live: a subscription is refused, or ended where
/// that came to be so and stayed for `datasync.table_wait`. The message says why; mostly the table has no replica
/// identity, or is not logged. `headwater doctor` says how to mend it.
pub const NOT_FOLLOWED: u16 = 5416;
