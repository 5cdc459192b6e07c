//! PUTs by authors who may do less than read and change what they insert, against a real Postgres.
//!
//! Everything else about uploads is tested through the route, in `hw-rest`.

use hw_testkit::Cluster;
use hw_types::{Code, TableName};
use serde_json::value::RawValue;
use tokio_postgres::Client;

use crate::{
    Author, AuthorRole, ConflictPolicy, MappedTable, OperationKind, RefusalKind, Rejection,
    StatementOptions, Statements, TableTarget, Unknown, UploadConfig, UploadMap, UploadOperation,
    UploadTransaction, Uploads, Verdict, code, schema,
};

const LOGIN: &str = "headwater_login";

/// `events`: only a policy to insert. `audit`: only the grant to insert, and no policies.
/// `rooms`: policies for everything, but a room can be read by its members only, and it is a
/// trigger that makes its author one.
const SCHEMA: &str = "
CREATE FUNCTION me() RETURNS text LANGUAGE sql AS
  $$ SELECT current_setting('request.jwt.claim.sub', true) $$;
CREATE TABLE runs (at int8 GENERATED ALWAYS AS IDENTITY, op text, id text);
CREATE FUNCTION count_run() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
  $$ BEGIN INSERT INTO runs (op, id) VALUES (TG_OP, NEW.id); RETURN NEW; END $$;

CREATE TABLE events (
  id text PRIMARY KEY,
  author text NOT NULL DEFAULT me(),
  kind text NOT NULL CONSTRAINT kind_is_short CHECK (length(kind) < 10),
  slug text CONSTRAINT one_slug UNIQUE
);
ALTER TABLE events ENABLE ROW LEVEL SECURITY;
CREATE POLICY blind ON events FOR INSERT WITH CHECK (author = me());
CREATE TRIGGER count_run AFTER INSERT OR UPDATE ON events FOR EACH ROW EXECUTE FUNCTION count_run();
GRANT SELECT, INSERT, UPDATE, DELETE ON events TO headwater_authenticated;

CREATE TABLE audit (id text PRIMARY KEY, kind text) PARTITION BY HASH (id);
CREATE TABLE audit_0 PARTITION OF audit FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE audit_1 PARTITION OF audit FOR VALUES WITH (MODULUS 2, REMAINDER 1);
GRANT INSERT ON audit TO headwater_authenticated;

CREATE TABLE rooms (id text PRIMARY KEY, name text NOT NULL);
CREATE TABLE members (room text, member text);
CREATE FUNCTION join_room() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
  $$ BEGIN INSERT INTO members VALUES (NEW.id, me()); RETURN NEW; END $$;
CREATE TRIGGER join_room AFTER INSERT ON rooms FOR EACH ROW EXECUTE FUNCTION join_room();
ALTER TABLE rooms ENABLE ROW LEVEL SECURITY;
CREATE POLICY anybody ON rooms FOR INSERT WITH CHECK (true);
CREATE POLICY reading ON rooms FOR SELECT
  USING (EXISTS (SELECT FROM members WHERE room = id AND member = me()));
CREATE POLICY changing ON rooms FOR UPDATE
  USING (EXISTS (SELECT FROM members WHERE room = id AND member = me()));
GRANT SELECT, INSERT, UPDATE, DELETE ON rooms, members TO headwater_authenticated;
";

struct Rig {
    cluster: Cluster,
    /// A superuser's session.
    sql: Client,
    uploads: Uploads,
}

impl Rig {
    async fn start(conflict: ConflictPolicy) -> Rig {
        let cluster = Cluster::start();
        let sql = cluster.client("postgres").await;
        sql.batch_execute(&format!("CREATE ROLE {LOGIN} LOGIN")).await.unwrap();
        let setup = schema::plan(&sql, Some(LOGIN), None).await.unwrap();
        for statement in schema::statements(&setup) {
            sql.batch_execute(&statement).await.unwrap();
        }
        sql.batch_execute(SCHEMA).await.unwrap();
        let url = cluster.url_as(LOGIN, None, "postgres");
        let uploads = Uploads::connect(&url, 2, UploadConfig::default()).unwrap();
        let mut map = UploadMap::new(Unknown::Rejected);
        let ours = ["events", "audit", "rooms", "visits"].map(|table| ("public", table));
        for (schema, table) in ours.into_iter().chain([("headwater", "rejected_writes")]) {
            let source = TableName::new(schema, table);
            map.insert(table, TableTarget::Table(MappedTable::plain(source, conflict)));
        }
        uploads.set_map(map);
        Rig { cluster, sql, uploads }
    }

    /// Applies one transaction of this author; its id is the `op_id` of its first operation.
    async fn write(&self, sub: &str, operations: &[UploadOperation]) -> Verdict {
        self.write_as(&format!("t{}:{sub}", sub.len()), sub, operations).await
    }

    /// The same of one of several users of a subject.
    async fn write_as(&self, user: &str, sub: &str, operations: &[UploadOperation]) -> Verdict {
        let author = author(user, sub);
        let transaction = UploadTransaction {
            id: operations[0].op_id,
            operations: operations.to_vec(),
            entries: raw("[]"),
        };
        let verdicts = self.uploads.apply(&author, "c", &[transaction]).await.unwrap();
        verdicts.into_iter().next().unwrap()
    }

    async fn ask(&self, query: &str) -> String {
        let row = self.sql.query_one(query, &[]).await.unwrap();
        row.get::<_, Option<String>>(0).unwrap_or_default()
    }

    async fn events(&self) -> String {
        self.ask(
            "SELECT string_agg(concat_ws(' ', id, author, kind), ', ' ORDER BY id) FROM events",
        )
        .await
    }
}

fn author(user: &str, sub: &str) -> Author {
    Author {
        user: user.to_owned(),
        subject: sub.to_owned(),
        role: AuthorRole::Configured,
        claims_json: format!("{{\"sub\":\"{sub}\"}}").into(),
    }
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

/// A PUT with these columns, all of them text.
fn put(op_id: i64, table: &str, id: &str, data: &[(&str, &str)]) -> UploadOperation {
    let data = data.iter().map(|(name, text)| ((*name).to_owned(), raw(&format!("\"{text}\""))));
    UploadOperation {
        op_id,
        kind: OperationKind::Put,
        table: table.into(),
        id: id.to_owned(),
        data: data.collect(),
        old: None,
        metadata: None,
    }
}

fn rejected(verdict: Verdict) -> Rejection {
    match verdict {
        Verdict::Rejected(rejection) => rejection,
        other => panic!("not rejected: {other:?}"),
    }
}

/// The rejections of the PUTs of these tests all name the operation and its table.
fn rejection(op_id: i64, table: &str, sqlstate: &str, message: &str) -> Rejection {
    Rejection {
        op_id: Some(op_id),
        table: Some(table.to_owned()),
        ..Rejection::ours(sqlstate, message)
    }
}

const BOTH: [ConflictPolicy; 2] = [ConflictPolicy::LastWriteWins, ConflictPolicy::RejectIfChanged];

/// The number 7 and the text "7" are two users, whose transactions may have the same numbers.
#[tokio::test]
async fn users_of_one_subject_have_records_of_their_own() {
    let rig = Rig::start(ConflictPolicy::default()).await;
    for user in ["t1:7", "n1:7"] {
        for _ in 0..2 {
            let write = put(1, "events", user, &[("kind", user)]);
            assert_eq!(rig.write_as(user, "7", &[write]).await, Verdict::Applied, "{user}");
        }
    }
    let other = put(1, "events", "x", &[("nothing", "x")]);
    let both = "SELECT string_agg(user_key, ' ' ORDER BY user_key) FROM headwater.uploads";
    assert_eq!(rig.ask(both).await, "n1:7 t1:7");
    for user in ["t1:7", "n1:7"] {
        rejected(rig.write_as(user, "7", std::slice::from_ref(&other)).await);
    }
    let kept = "SELECT count(*)::text FROM headwater.rejected_writes WHERE sub = '7'";
    assert_eq!(rig.ask(kept).await, "2", "each has lost the same write");
}

/// P-4: what takes a write off a device's queue is on disk; a setting that asks for more stays.
#[tokio::test]
async fn what_is_applied_is_durable_where_the_database_does_not_wait_for_its_disk() {
    for (setting, expected) in [("off", "local"), ("on", "on"), ("remote_apply", "remote_apply")] {
        let rig = Rig::start(ConflictPolicy::default()).await;
        let sql = format!(
            "ALTER TABLE runs ADD COLUMN commits text DEFAULT current_setting('synchronous_commit');
             ALTER DATABASE postgres SET synchronous_commit = {setting}"
        );
        rig.sql.batch_execute(&sql).await.unwrap();
        let write = put(1, "events", "e1", &[("kind", "opened")]);
        assert_eq!(rig.write("ann", &[write]).await, Verdict::Applied);
        assert_eq!(rig.ask("SELECT commits FROM runs").await, expected);
    }
}

/// P5: who dismisses a rejection on the device holds up nothing that comes behind it.
#[tokio::test]
async fn a_write_to_a_table_of_ours_is_rejected_and_not_tried_again() {
    let rig = Rig::start(ConflictPolicy::default()).await;
    let dismissed = put(1, "rejected_writes", "1", &[("message", "seen")]);
    let message = "table \"rejected_writes\" cannot be written: it is Headwater's own, and clients only read it";
    let expected = rejection(1, "rejected_writes", "42501", message);
    assert_eq!(rejected(rig.write("ann", &[dismissed]).await), expected);
}

#[tokio::test]
async fn who_may_only_insert_can_put_new_rows() {
    for conflict in BOTH {
        let rig = Rig::start(conflict).await;
        let first = put(1, "events", "e1", &[("kind", "opened")]);
        assert_eq!(rig.write("ann", &[first]).await, Verdict::Applied);
        // Several in one transaction, to tables with and without policies.
        let more = [
            put(2, "events", "e2", &[("kind", "read")]),
            put(3, "audit", "a1", &[("kind", "read")]),
            put(4, "audit", "a2", &[]),
            put(5, "rooms", "r1", &[("name", "Kitchen")]),
            put(6, "events", "e3", &[("kind", "closed")]),
        ];
        assert_eq!(rig.write("ann", &more).await, Verdict::Applied);
        assert_eq!(rig.events().await, "e1 ann opened, e2 ann read, e3 ann closed");
        assert_eq!(rig.ask("SELECT string_agg(id, ' ' ORDER BY id) FROM audit").await, "a1 a2");
        assert_eq!(rig.ask("SELECT string_agg(room || member, ' ') FROM members").await, "r1ann");
        // What Postgres refused in between left nothing behind.
        assert_eq!(
            rig.ask("SELECT string_agg(op || id, ' ' ORDER BY at) FROM runs").await,
            "INSERTe1 INSERTe2 INSERTe3"
        );
    }
}

#[tokio::test]
async fn a_put_on_a_row_that_may_not_be_changed_is_rejected_saying_so() {
    let rig = Rig::start(ConflictPolicy::LastWriteWins).await;
    for (op_id, table) in [(1, "events"), (3, "audit"), (5, "rooms")] {
        let data = match table {
            "rooms" => ("name", "a"),
            _ => ("kind", "a"),
        };
        assert_eq!(rig.write("ann", &[put(op_id, table, "1", &[data])]).await, Verdict::Applied);
        let again = rig.write("bob", &[put(op_id, table, "1", &[(data.0, "b")])]).await;
        assert_eq!(
            rejected(again),
            rejection(
                op_id,
                table,
                "42501",
                "a row with this id exists already, and you may not change it this way",
            )
        );
    }
    // Ann may change the room that she was made a member of, by a part of its columns too.
    assert_eq!(
        rig.write("ann", &[put(6, "rooms", "1", &[("name", "c")]), put(7, "rooms", "1", &[])])
            .await,
        Verdict::Applied
    );
    assert_eq!(rig.events().await, "1 ann a");
    assert_eq!(rig.ask("SELECT name FROM rooms").await, "c");
}

#[tokio::test]
async fn under_reject_a_put_on_a_taken_id_tells_a_changed_row_from_a_hidden_one() {
    let rig = Rig::start(ConflictPolicy::RejectIfChanged).await;
    let hidden = "a row with this id exists already, and you may not see it";
    for (op_id, table) in [(1, "events"), (3, "audit"), (5, "rooms")] {
        let data = match table {
            "rooms" => ("name", "a"),
            _ => ("kind", "a"),
        };
        let operation = |op_id| [put(op_id, table, "1", &[data])];
        assert_eq!(rig.write("ann", &operation(op_id)).await, Verdict::Applied);
        let other = rig.write("bob", &operation(op_id)).await;
        assert_eq!(rejected(other), rejection(op_id, table, "23505", hidden));
    }
    let seen = rig.write("ann", &[put(6, "rooms", "1", &[("name", "b")])]).await;
    let changed = "somebody else changed the row since this client read it";
    assert_eq!(rejected(seen), rejection(6, "rooms", "40001", changed));
}

/// Whoever keeps what he makes of a table's shape does not make it of one that is gone.
#[tokio::test]
async fn the_shape_of_a_table_is_that_of_now_however_lately_it_was_read() {
    let rig = Rig::start(ConflictPolicy::LastWriteWins).await;
    let url = rig.cluster.url_as(LOGIN, None, "postgres");
    let statements = Statements::connect(&url, (2, 1), StatementOptions::default()).unwrap();
    let events = TableName::new("public", "events");
    let ann = author("t3:ann", "ann");
    let has_more = async || {
        let (_, shape) = statements.table(&ann, &events).await.unwrap();
        shape.columns.iter().any(|column| column.name == "more")
    };
    assert!(!has_more().await);
    rig.sql.batch_execute("ALTER TABLE events ADD COLUMN more text").await.unwrap();
    assert!(has_more().await);
    rig.sql.batch_execute("ALTER TABLE events DISABLE ROW LEVEL SECURITY").await.unwrap();
    let refused = statements.table(&ann, &events).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Forbidden);
}

/// Issue 5, group 9: what an operator can mend is not rejected.
#[tokio::test]
async fn a_row_without_a_partition_waits_until_there_is_one() {
    let rig = Rig::start(ConflictPolicy::LastWriteWins).await;
    rig.sql
        .batch_execute(
            "CREATE TABLE visits (id text PRIMARY KEY) PARTITION BY LIST (id);
             CREATE TABLE visits_a PARTITION OF visits FOR VALUES IN ('a');
             GRANT SELECT, INSERT, UPDATE, DELETE ON visits TO headwater_authenticated",
        )
        .await
        .unwrap();
    let operation = [put(1, "visits", "b", &[])];
    let Verdict::Retry(delay) = rig.write("ann", &operation).await else { panic!("it waits") };
    assert_eq!(delay.code, Some(Code(code::NOT_SERVED)));
    assert_eq!(delay.reason, "table public.visits has no partition for a row yet");
    let sql = "CREATE TABLE visits_b PARTITION OF visits DEFAULT";
    rig.sql.batch_execute(sql).await.unwrap();
    assert_eq!(rig.write("ann", &operation).await, Verdict::Applied);
}

#[tokio::test]
async fn another_violated_constraint_is_rejected_by_its_name_and_rolls_everything_back() {
    for conflict in BOTH {
        let rig = Rig::start(conflict).await;
        let first = put(1, "events", "e1", &[("kind", "a"), ("slug", "s")]);
        assert_eq!(rig.write("ann", &[first]).await, Verdict::Applied);
        let clash = [
            put(2, "events", "e2", &[("kind", "a")]),
            put(3, "events", "e3", &[("kind", "a"), ("slug", "s")]),
        ];
        assert_eq!(
            rejected(rig.write("ann", &clash).await),
            Rejection {
                constraint: Some("one_slug".into()),
                ..rejection(
                    3,
                    "events",
                    "23505",
                    "a row with the same value exists already (constraint \"one_slug\")",
                )
            }
        );
        let long = [put(4, "events", "e4", &[("kind", "a very long kind")])];
        let long = rejected(rig.write("ann", &long).await);
        assert_eq!(
            (long.sqlstate.as_str(), long.constraint.as_deref()),
            ("23514", Some("kind_is_short"))
        );
        // The policy for insertion holds as ever.
        let foreign = [put(5, "events", "e5", &[("kind", "a"), ("author", "bob")])];
        assert_eq!(
            rejected(rig.write("ann", &foreign).await),
            rejection(5, "events", "42501", "a policy of the table does not allow this write",)
        );
        assert_eq!(rig.events().await, "e1 ann a");
        assert_eq!(
            rig.ask(
                "SELECT string_agg(op_id::text, ' ' ORDER BY op_id) FROM headwater.rejected_writes"
            )
            .await,
            "3 4 5"
        );
    }
}

/// P5: the record of a transaction does not depend on how often its statements were tried.
#[tokio::test]
async fn a_repeated_transaction_of_insertions_is_applied_once() {
    for conflict in BOTH {
        let rig = Rig::start(conflict).await;
        let operations =
            [put(1, "events", "e1", &[("kind", "a")]), put(2, "events", "e2", &[("kind", "b")])];
        for _ in 0..3 {
            assert_eq!(rig.write("ann", &operations).await, Verdict::Applied);
        }
        // Not even when the rows are gone again.
        rig.sql.batch_execute("DELETE FROM events").await.unwrap();
        assert_eq!(rig.write("ann", &operations).await, Verdict::Applied);
        assert_eq!(rig.ask("SELECT count(*)::text FROM runs").await, "2");
        assert_eq!(rig.ask("SELECT count(*)::text FROM headwater.uploads").await, "1");
    }
}
