//! Tables with row level security, and how users ask for them.

use serde_json::{Value, json};

use crate::Outcome;
use crate::report::Report;
use crate::source::Source;

/// The role of users.
pub const ROLE: &str = "bench_user";

/// Rows that a user owns, and rows of a team.
pub const ROWS: u64 = 10;

/// `notes`: whoever owns a row sees it, which the row says (tier 1). `papers`: whoever is in its team, which
/// another table says (tier 2). `notices`: everybody. `posts` and `circulars`: everybody, as the row says (tier 1) and
/// as another table says (tier 2). `books`: everybody, with titles whose order Postgres alone knows. The user is a
/// number as text.
const SCHEMA: &str = "
CREATE ROLE bench_user NOLOGIN;
CREATE FUNCTION user_id() RETURNS text STABLE LANGUAGE sql AS
  $$ SELECT current_setting('rls.ihp_user_id', true) $$;
CREATE TABLE notes (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner text NOT NULL, title text NOT NULL);
CREATE TABLE members (team int NOT NULL, usr text NOT NULL, PRIMARY KEY (team, usr));
CREATE TABLE papers (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), team int NOT NULL, title text NOT NULL);
CREATE TABLE notices (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text NOT NULL);
CREATE TABLE posts (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner text NOT NULL, title text NOT NULL);
CREATE TABLE clubs (club int NOT NULL, usr text NOT NULL, PRIMARY KEY (club, usr));
CREATE TABLE circulars (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), club int NOT NULL, title text NOT NULL);
CREATE TABLE books (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), shelf int NOT NULL,
                    title text COLLATE \"en-x-icu\" NOT NULL);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
ALTER TABLE papers ENABLE ROW LEVEL SECURITY;
ALTER TABLE notices ENABLE ROW LEVEL SECURITY;
ALTER TABLE posts ENABLE ROW LEVEL SECURITY;
ALTER TABLE clubs ENABLE ROW LEVEL SECURITY;
ALTER TABLE circulars ENABLE ROW LEVEL SECURITY;
ALTER TABLE books ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON notes USING (owner = user_id());
CREATE POLICY own ON members USING (usr = user_id());
CREATE POLICY team ON papers USING (team IN (SELECT team FROM members WHERE usr = user_id()));
CREATE POLICY everybody ON notices USING (true);
CREATE POLICY own_or_all ON posts USING (owner = user_id() OR owner = 'all');
CREATE POLICY own ON clubs USING (usr = user_id());
CREATE POLICY club ON circulars USING (club IN (SELECT club FROM clubs WHERE usr = user_id()));
CREATE POLICY everybody ON books USING (true);
CREATE INDEX ON notes (owner);
CREATE INDEX ON members (usr);
CREATE INDEX ON papers (team);
CREATE INDEX ON posts (owner);
CREATE INDEX ON clubs (usr);
CREATE INDEX ON circulars (club);
CREATE INDEX ON books (shelf, title);
GRANT SELECT, INSERT, UPDATE, DELETE ON notes, members, papers, notices, posts, clubs, circulars, books TO bench_user;
";

/// Starts a source with rows for so many users, each in a team of their own.
pub async fn start(users: u64, report: &mut Report) -> Outcome<Source> {
    let source = Source::start(1, 1, report).await?;
    source.sql.batch_execute(SCHEMA).await?;
    let fill = format!(
        "INSERT INTO notes (owner, title) SELECT u::text, 'note ' || n
           FROM generate_series(0, {users} - 1) u, generate_series(1, {ROWS}) n;
         INSERT INTO members SELECT u, u::text FROM generate_series(0, {users} - 1) u;
         INSERT INTO papers (team, title) SELECT u, 'paper ' || n
           FROM generate_series(0, {users} - 1) u, generate_series(1, {ROWS}) n;
         INSERT INTO posts (owner, title) SELECT 'all', 'post ' || n FROM generate_series(1, {ROWS}) n;
         INSERT INTO clubs SELECT 1, u::text FROM generate_series(0, {users} - 1) u;
         INSERT INTO circulars (club, title) SELECT 1, 'circular ' || n FROM generate_series(1, {ROWS}) n;
         INSERT INTO notices (title) SELECT 'notice ' || n FROM generate_series(1, {ROWS}) n;
         ANALYZE;"
    );
    source.sql.batch_execute(&fill).await?;
    Ok(source)
}

/// All rows of a table, as a subscription.
pub fn subscription(table: &str) -> Value {
    json!({"tag": "CreateDataSubscription", "query": query(table)})
}

/// A query for all rows of a table.
pub fn query(table: &str) -> Value {
    json!({
        "table": table,
        "selectedColumns": {"tag": "SelectAll"},
        "whereCondition": null,
        "orderByClause": [],
    })
}

/// `column = value` for a query.
pub fn equals(column: &str, value: Value) -> Value {
    json!({
        "tag": "InfixOperatorExpression",
        "left": {"tag": "ColumnExpression", "field": column},
        "op": "OpEqual",
        "right": {"tag": "LiteralExpression", "value": value},
    })
}
