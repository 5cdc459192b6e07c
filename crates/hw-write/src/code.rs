//! Codes of the way of writes, each described once; `docs/errors.md` is made from them.

/// The role of a write cannot be used: it is missing, stands above row level security, is not ours
/// to take, or lacks a right that the write needs. The finding has the statement that mends it;
/// until then clients keep what they have to write.
pub const ROLE: u16 = 4301;
/// The role of a write owns the table, so that its policies would not hold.
pub const OWNED_TABLE: u16 = 4302;
/// The claim `role` of a token names a database role that `auth.allowed_roles` does not list. List it there and
/// grant it to Headwater's login, or leave the claim out of the tokens.
pub const ROLE_NOT_ALLOWED: u16 = 4303;
/// Clients cannot write a table that they hold, or every one of them may write all of it: rights
/// or policies are missing, or its rows cannot be found by the id that clients know.
pub const NOT_WRITABLE: u16 = 4304;
/// The tables of writes are not there or not ours to use; `headwater setup` mends both.
pub const NOT_SET_UP: u16 = 5301;
/// What a write names is configured, and not there yet: no sync configuration is served, the one
/// that has the table is being built, or the database lacks it or the partition that the row
/// belongs into. Clients keep what they have to write.
pub const NOT_SERVED: u16 = 5302;
/// The schema `headwater`, or a table in it, belongs to a role that `headwater setup` does not
/// trust: it was made by somebody else.
pub const FOREIGN_OWNER: u16 = 5303;
/// An upload ended without a verdict, because the server stops or is at fault. Nothing is known of
/// it; sent again it gets its verdict.
pub const NO_VERDICT: u16 = 5304;
/// A table without row level security cannot be used by live queries and `/api/…`: nothing would say whose
/// its rows are. `ALTER TABLE … ENABLE ROW LEVEL SECURITY;` and policies mend it.
pub const NO_ROW_SECURITY: u16 = 4305;
/// A live query, a write or a request names a table that the database does not have.
pub const NO_TABLE: u16 = 5305;
/// Postgres refused a statement: a policy, a constraint, a value that does not fit. `sqlstate` says which.
pub const STATEMENT: u16 = 5306;
/// A statement can be sent again later: the database or all connections to it are busy, a row is locked, or
/// the statement took too long.
pub const LATER: u16 = 5307;
/// An interactive transaction is over: it failed, was idle or open for too long, or there are as many as
/// there may be.
pub const TRANSACTION: u16 = 5308;
/// The result of a query, or the rows of a write, which are its answer, are larger than
/// `datasync.max_result`. A `limit`, or fewer rows at a time, make it smaller; nothing was written.
pub const RESULT_TOO_LARGE: u16 = 5309;
/// A statement has more values than one may have.
pub const TOO_MANY_VALUES: u16 = 5310;
/// Answers that are not read yet hold as much memory as they may (`limits.answer_memory`): those of the user
/// a quarter of it, or those of all. Nothing was done; the request can be sent again when they are read.
pub const UNREAD: u16 = 5311;
/// A transaction of an upload takes longer than `uploads.transaction_time`: it has too many operations, or what they
/// set off in the database is slow. Its client keeps it and sends it again; a longer time lets it through.
pub const TOO_LONG: u16 = 5312;
