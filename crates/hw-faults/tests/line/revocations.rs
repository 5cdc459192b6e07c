//! Access that goes while something is copied again does not wait for it (E-4, FD-18).

use hw_testkit::oracle::SyncClient;
use hw_testkit::{Direction, Fault, FaultProxy, poll_until};
use tokio_postgres::Client;

use super::{Line, Output, fresh, loud, soon, streams};
use crate::rig::{self, Rig};

const SCHEMA: &str = "
    CREATE TABLE members (id int PRIMARY KEY, usr text, list text, pad text);
    CREATE TABLE docs (id text PRIMARY KEY, list text, v int);
    CREATE TABLE etl (v text);
    INSERT INTO members VALUES (1, 'u1', 'l1'), (2, 'u2', 'l1');
    INSERT INTO docs VALUES ('d1', 'l1', 1);
";

const QUERY: &str =
    "SELECT * FROM docs WHERE list IN (SELECT list FROM members WHERE usr = auth.user_id())";
const OUT: &[Output] =
    &[("docs", "SELECT * FROM docs WHERE list IN (SELECT list FROM members WHERE usr = {user})")];

/// The data table is copied again.
const DATA: &str = "ALTER TABLE docs ALTER v TYPE bigint; INSERT INTO docs VALUES ('d2', 'l1', 2)";
/// The permission table is copied again.
const PERMISSIONS: &str =
    "ALTER TABLE members ADD COLUMN note text; INSERT INTO members VALUES (3, 'u3', 'l1', '', 'x')";

/// So it is here, where the keys are as they were.
const REWRITTEN: &str = "ALTER TABLE members ALTER pad TYPE varchar(99) USING coalesce(pad, 'x')";

/// A line on which something is copied again as soon as a transaction ends that is none of its
/// business.
async fn waiting(line: Line, altered: &str, table: &str) -> (Line, Client) {
    let open = line.rig.cluster.client(&line.rig.database.name).await;
    open.batch_execute("BEGIN; INSERT INTO etl VALUES ('x')").await.expect("open");
    line.execute(altered).await;
    line.names(table).await;
    (line, open)
}

async fn start(altered: &str, table: &str) -> (Line, Client) {
    waiting(Line::start(SCHEMA, &streams(&[QUERY]), &["u1", "u2"], OUT).await, altered, table).await
}

/// Who is connected and who comes anew have lost what they had.
async fn lose(line: &mut Line, users: &[&str], when: &str) {
    for user in users {
        let what = format!("{when}: {user} has lost what he had");
        line.follow(user, &what, |client| client.table("docs").is_empty()).await;
        assert!(fresh(&line.server, user).await.table("docs").is_empty(), "{what}, a fresh client");
    }
}

/// Who is connected and who comes anew have what they had when the copy began to wait.
async fn keep(line: &Line, users: &[&str], when: &str) {
    let had = |client: &SyncClient| client.table("docs").into_keys().collect::<Vec<_>>();
    for user in users {
        assert_eq!(had(&line.clients[user]), ["d1"], "{when}: {user}");
        assert_eq!(had(&fresh(&line.server, user).await), ["d1"], "{when}: {user}, a fresh client");
    }
}

/// The transaction ends, the table enters, and everybody has what SQL answers.
async fn end(mut line: Line, open: &Client, when: &str) {
    open.batch_execute("COMMIT").await.expect("ended");
    line.agree(&format!("{when}: the table has entered")).await;
    line.execute("INSERT INTO members VALUES (11, 'u1', 'l1')").await;
    line.agree(&format!("{when}: access comes again")).await;
    line.is_well().await;
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e_4_access_that_goes_while_the_data_table_is_copied_again_goes_at_once() {
    for revoked in [
        "DELETE FROM members WHERE id = 1",
        "UPDATE members SET list = 'l9' WHERE id = 1",
        "UPDATE members SET id = 9, usr = 'u9' WHERE id = 1",
    ] {
        let (mut line, open) = start(DATA, "public.docs").await;
        line.execute(revoked).await;
        lose(&mut line, &["u1"], revoked).await;
        keep(&line, &["u2"], revoked).await;
        // What comes again is given when the table has entered: nobody is shown later rows before.
        line.execute("INSERT INTO members VALUES (21, 'u1', 'l1')").await;
        end(line, &open, revoked).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e_4_access_that_goes_while_the_permission_table_is_copied_again_goes_at_once() {
    for (altered, revoked) in [
        (PERMISSIONS, "DELETE FROM members WHERE id = 1"),
        (PERMISSIONS, "UPDATE members SET list = 'l9' WHERE id = 1"),
        (PERMISSIONS, "UPDATE members SET id = 9, usr = 'u9' WHERE id = 1"),
        (REWRITTEN, "DELETE FROM members WHERE id = 1"),
    ] {
        let (mut line, open) = start(altered, "public.members").await;
        // What still gives the same takes nothing away, whatever its columns are.
        line.execute("UPDATE members SET pad = 'y' WHERE id = 2").await;
        line.execute(revoked).await;
        lose(&mut line, &["u1"], revoked).await;
        keep(&line, &["u2"], revoked).await;
        end(line, &open, revoked).await;
    }
}

/// A large value that the log leaves out says nothing of access, where no lookup reads it.
#[tokio::test(flavor = "multi_thread")]
async fn e_4_a_change_that_leaves_out_a_large_value_takes_away_what_its_row_no_longer_gives() {
    let large = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) i)";
    let schema = format!("{SCHEMA} UPDATE members SET pad = {large}");
    let line = Line::start(&schema, &streams(&[QUERY]), &["u1", "u2"], OUT).await;
    let altered = "ALTER TABLE members ADD COLUMN note text; INSERT INTO members VALUES (3, 'u3')";
    let (mut line, open) = waiting(line, altered, "public.members").await;
    line.execute("UPDATE members SET note = 'x' WHERE id = 2").await;
    line.execute("UPDATE members SET list = 'l9' WHERE id = 1").await;
    lose(&mut line, &["u1"], "a large value").await;
    keep(&line, &["u2"], "a large value").await;
    end(line, &open, "a large value").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e_4_a_truncate_takes_all_access_whatever_is_copied_again() {
    for (altered, table) in [(DATA, "public.docs"), (PERMISSIONS, "public.members")] {
        let (mut line, open) = start(altered, table).await;
        line.execute("TRUNCATE members").await;
        line.execute("INSERT INTO members VALUES (2, 'u2', 'l1')").await;
        lose(&mut line, &["u1", "u2"], altered).await;
        end(line, &open, altered).await;
    }
}

/// A table takes the permission table's name, with the same rows under keys of this expression.
fn rotated(keys: &str, more: &str) -> String {
    format!(
        "BEGIN; CREATE TABLE members_new (LIKE members INCLUDING ALL);
         INSERT INTO members_new SELECT {keys}, usr, list, pad FROM members;
         ALTER TABLE members RENAME TO members_old; ALTER TABLE members_new RENAME TO members;
         {more}; COMMIT"
    )
}

const WHOLE_ROWS: &str = "ALTER TABLE members REPLICA IDENTITY FULL";

/// A line on which another table has the permission table's name, and its changes come.
async fn rotation(before: Option<&str>, rotated: &str) -> (Line, Client) {
    let line = Line::start(SCHEMA, &streams(&[QUERY]), &["u1", "u2"], OUT).await;
    let table = if before.is_some() { "public.docs" } else { "public.members" };
    let (line, open) = waiting(line, before.unwrap_or(rotated), table).await;
    if before.is_some() {
        line.logs("HW2123").await;
        line.execute(rotated).await;
    }
    poll_until("the new table is published", || async {
        let sql = "SELECT 1 FROM pg_publication_rel WHERE prrelid = 'members'::regclass";
        line.rig.ask(sql).await
    })
    .await;
    (line, open)
}

/// A table that took the name of the permission table is read in its place, also while the copy of
/// another table waits. Its keys may have been made anew, so that only its whole rows tell whose access
/// goes.
#[tokio::test(flavor = "multi_thread")]
async fn e_4_access_that_goes_in_a_table_that_took_the_permission_tables_name_goes_at_once() {
    for before in [None, Some(DATA)] {
        let (mut line, open) = rotation(before, &rotated("id", WHOLE_ROWS)).await;
        line.execute("UPDATE members SET pad = 'y' WHERE id = 2").await;
        line.execute("UPDATE members SET pad = 'z' WHERE id = 2").await;
        line.execute("DELETE FROM members WHERE id = 1").await;
        lose(&mut line, &["u1"], "whole rows").await;
        keep(&line, &["u2"], "whole rows").await;
        end(line, &open, "whole rows").await;
    }
}

/// What has the same key is another row, where keys were made anew.
#[tokio::test(flavor = "multi_thread")]
async fn e_4_where_keys_were_made_anew_whoever_loses_access_loses_it_at_once() {
    for (keys, more, revoked) in [
        ("3 - id", "", "DELETE FROM members WHERE usr = 'u1'"),
        ("3 - id", WHOLE_ROWS, "DELETE FROM members WHERE usr = 'u1'"),
        ("3 - id", "", "UPDATE members SET list = 'l9' WHERE usr = 'u1'"),
        ("id + 7", WHOLE_ROWS, "DELETE FROM members WHERE usr = 'u1'"),
    ] {
        let (mut line, open) = rotation(None, &rotated(keys, more)).await;
        line.execute("INSERT INTO members VALUES (5, 'u5', 'l1')").await;
        keep(&line, &["u1", "u2"], "a row that comes takes nothing away").await;
        line.execute(revoked).await;
        lose(&mut line, &["u1", "u2"], revoked).await;
        line.names("nobody has access by: public.members").await;
        end(line, &open, revoked).await;
    }
}

/// A table whose keys were written anew looks in the log as it did before. The catalog shows it.
#[tokio::test(flavor = "multi_thread")]
async fn e_4_where_the_keys_of_a_table_were_written_anew_nobody_has_access_by_it() {
    for altered in [
        "ALTER TABLE members ALTER id TYPE int USING 3 - id",
        // The log describes other columns, but of the key the same.
        "ALTER TABLE members ALTER id TYPE int USING 3 - id, ADD note text;
         INSERT INTO members VALUES (5, 'u5', 'l1')",
    ] {
        let (mut line, open) = start(altered, "public.members").await;
        lose(&mut line, &["u1", "u2"], altered).await;
        line.names("nobody has access by: public.members").await;
        end(line, &open, altered).await;
    }
}

/// The log may show what another table does under the name before anybody has looked at the catalog.
#[tokio::test(flavor = "multi_thread")]
async fn e_4_a_table_that_takes_the_permission_tables_name_in_the_log_takes_away_at_once() {
    let schema = format!("{SCHEMA} CREATE PUBLICATION headwater FOR ALL TABLES");
    let rig = Rig::new(&schema, &streams(&[QUERY])).await;
    let options = rig.options();
    let mut line = Line::of(rig, options, &["u1", "u2"], OUT).await;
    let open = line.rig.cluster.client(&line.rig.database.name).await;
    open.batch_execute("BEGIN; INSERT INTO etl VALUES ('x')").await.expect("open");
    line.execute(
        "BEGIN; CREATE TABLE members_new (LIKE members INCLUDING ALL);
         INSERT INTO members_new SELECT * FROM members; ALTER TABLE members RENAME TO members_old;
         ALTER TABLE members_new RENAME TO members; DELETE FROM members WHERE id = 1; COMMIT",
    )
    .await;
    lose(&mut line, &["u1", "u2"], "rotated").await;
    end(line, &open, "rotated").await;
}

/// With keys of another type nobody can tell whose access went, so everybody's has.
#[tokio::test(flavor = "multi_thread")]
async fn e_4_where_it_cannot_be_told_whose_access_went_nobody_has_it() {
    let altered = "ALTER TABLE members ALTER id TYPE bigint";
    let (mut line, open) = start(altered, "public.members").await;
    line.execute("INSERT INTO members VALUES (5, 'u5', 'l1')").await;
    keep(&line, &["u1", "u2"], "a row that comes takes nothing away").await;
    line.execute("DELETE FROM members WHERE id = 1").await;
    lose(&mut line, &["u1", "u2"], altered).await;
    line.names("nobody has access by: public.members").await;
    line.server.kill();
    line.server.spawn_again();
    lose(&mut line, &["u1", "u2"], "behind a crash").await;
    line.names("nobody has access by: public.members").await;
    end(line, &open, altered).await;
}

/// Permissions in partitions, and something that is none of their business.
const PARTED: &str = "
    CREATE TABLE members (id int PRIMARY KEY, usr text, list text) PARTITION BY RANGE (id);
    CREATE TABLE members_1 PARTITION OF members FOR VALUES FROM (1) TO (2);
    CREATE TABLE members_2 PARTITION OF members FOR VALUES FROM (2) TO (30);
    CREATE TABLE filled (id int PRIMARY KEY, usr text, list text);
    CREATE TABLE docs (id text PRIMARY KEY, list text, v int);
    CREATE TABLE news (id int PRIMARY KEY, v text);
    CREATE TABLE etl (v text);
    INSERT INTO members VALUES (1, 'u1', 'l1'), (2, 'u2', 'l1');
    INSERT INTO filled VALUES (31, 'u3', 'l1');
    INSERT INTO docs VALUES ('d1', 'l1', 1);
";

async fn parted(altered: &str) -> (Line, Client) {
    let config = streams(&[QUERY, "SELECT * FROM news"]);
    let outputs = [OUT[0], ("news", "SELECT * FROM news")];
    let line = Line::start(PARTED, &config, &["u1", "u2"], &outputs).await;
    waiting(line, altered, "public.members").await
}

/// What is none of the permissions' business goes on.
async fn news_come(line: &mut Line, when: &str) {
    line.execute("INSERT INTO news VALUES (1, 'new')").await;
    for user in ["u1", "u2"] {
        let what = format!("{when}: {user} has the news");
        line.follow(user, &what, |client| client.table("news").contains_key("1")).await;
    }
}

/// The log does not tell which rows went with a partition, or out of one that was emptied by itself.
#[tokio::test(flavor = "multi_thread")]
async fn e_4_access_that_goes_with_a_partition_does_not_wait_for_the_copy() {
    for altered in [
        "ALTER TABLE members DETACH PARTITION members_1",
        "DROP TABLE members_1",
        "TRUNCATE members_1",
    ] {
        let (mut line, open) = parted(altered).await;
        lose(&mut line, &["u1", "u2"], altered).await;
        line.names("nobody has access by: public.members").await;
        news_come(&mut line, altered).await;
        end(line, &open, altered).await;
    }
    let attached = "ALTER TABLE members ATTACH PARTITION filled FOR VALUES FROM (30) TO (60)";
    let (line, open) = parted(attached).await;
    keep(&line, &["u1", "u2"], "what comes takes nothing away").await;
    end(line, &open, attached).await;
}

/// What goes without a trace behind the snapshot of a copy does not come back with it.
#[tokio::test(flavor = "multi_thread")]
async fn e_4_access_that_goes_with_a_partition_in_a_copy_does_not_come_back_with_it() {
    let schema = format!(
        "{PARTED} CREATE TABLE z_big (id int PRIMARY KEY, v text);
         INSERT INTO z_big SELECT i, repeat('x', 100) FROM generate_series(1, 30000) i; ANALYZE"
    );
    let config = streams(&[QUERY, "SELECT * FROM news", "SELECT id FROM z_big WHERE id = 3"]);
    let outputs =
        [OUT[0], ("news", "SELECT * FROM news"), ("z_big", "SELECT id FROM z_big WHERE id = 3")];
    let rig = Rig::new(&schema, &config).await;
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", rig.cluster.port())).await;
    let url = rig.database.url.replace(&rig.cluster.port().to_string(), &proxy.port().to_string());
    let options = rig::with(rig.options(), "DATABASE_URL", &url);
    let mut line = Line::of(rig, loud(options), &["u1", "u2"], &outputs).await;
    let slow = Fault { bytes_per_second: Some(1 << 20), ..Fault::default() };
    proxy.set(Direction::ToClient, slow);
    line.execute(
        "BEGIN; ALTER TABLE members ADD note text DEFAULT random()::text;
         ALTER TABLE z_big ADD note text DEFAULT random()::text; COMMIT",
    )
    .await;
    soon("both are copied", line.report(), || async {
        let status = rig::status(&line.server).await?;
        let copies = status["copies"].as_array()?;
        let big = copies.iter().find(|copy| copy["table"] == "public.z_big")?;
        let members = copies.iter().find(|copy| copy["table"] == "public.members");
        let is_there = members.is_none_or(|copy| copy["read"] == true);
        (is_there && big["read"] == false && big["rows"].as_u64()? > 0).then_some(())
    })
    .await;
    line.execute("ALTER TABLE members DETACH PARTITION members_1").await;
    line.names("nobody has access by: public.members").await;
    proxy.heal();
    soon("all has entered", line.report(), || async {
        let status = rig::status(&line.server).await?;
        (status["copies"].as_array()?.is_empty() && status["trouble"].is_null()).then_some(())
    })
    .await;
    let log = line.server.log();
    assert!(log.contains("went without a trace while it was copied"), "{log}");
    line.agree("entered").await;
    line.stop().await;
}

/// Nor what becomes of rows while the publication does not send the table, or not all of it.
#[tokio::test(flavor = "multi_thread")]
async fn e_4_access_that_goes_while_a_table_is_not_sent_does_not_wait_for_the_copy() {
    for altered in [
        "ALTER PUBLICATION headwater DROP TABLE members; DELETE FROM members WHERE id = 1;
         ALTER PUBLICATION headwater ADD TABLE members",
        "ALTER PUBLICATION headwater DROP TABLE members; DELETE FROM members WHERE id = 1",
        "ALTER PUBLICATION headwater SET TABLE members WHERE (id <> 1), docs, news;
         DELETE FROM members WHERE id = 1",
    ] {
        let (mut line, open) = parted(altered).await;
        lose(&mut line, &["u1", "u2"], altered).await;
        line.names("nobody has access by: public.members").await;
        news_come(&mut line, altered).await;
        end(line, &open, altered).await;
    }
    // Of every table.
    let altered = "
        ALTER PUBLICATION headwater SET (publish = 'insert'); DELETE FROM members WHERE id = 1;
        ALTER PUBLICATION headwater SET (publish = 'insert, update, delete, truncate')";
    let (mut line, open) = parted(altered).await;
    lose(&mut line, &["u1", "u2"], altered).await;
    end(line, &open, altered).await;
}

/// Permissions that are read through two tables.
#[tokio::test(flavor = "multi_thread")]
async fn e_4_access_through_two_tables_goes_at_once_whichever_row_goes() {
    let schema = format!(
        "{SCHEMA} CREATE TABLE grants (id int PRIMARY KEY, grp text, list text);
         INSERT INTO grants VALUES (1, 'l1', 'l1'), (2, 'g2', 'l1');
         UPDATE members SET list = 'g2' WHERE id = 2"
    );
    let query = "SELECT * FROM docs WHERE list IN (SELECT list FROM grants WHERE grp IN \
                 (SELECT list FROM members WHERE usr = auth.user_id()))";
    let outputs: &[Output] = &[(
        "docs",
        "SELECT * FROM docs WHERE list IN (SELECT list FROM grants WHERE grp IN
         (SELECT list FROM members WHERE usr = {user}))",
    )];
    let stale_grants =
        "ALTER TABLE grants ADD COLUMN note text; INSERT INTO grants VALUES (3, 'x', 'x', 'x')";
    for (altered, table) in
        [(DATA, "docs"), (PERMISSIONS, "public.members"), (stale_grants, "public.grants")]
    {
        for revoked in ["DELETE FROM members WHERE id = 1", "DELETE FROM grants WHERE id = 1"] {
            let line = Line::start(&schema, &streams(&[query]), &["u1", "u2"], outputs).await;
            let (mut line, open) = waiting(line, altered, table).await;
            line.execute(revoked).await;
            lose(&mut line, &["u1"], &format!("{altered}, {revoked}")).await;
            keep(&line, &["u2"], &format!("{altered}, {revoked}")).await;
            end(line, &open, altered).await;
        }
    }
}

/// In a transaction that does not fit in memory, and for good: a crash gives nothing back.
#[tokio::test(flavor = "multi_thread")]
async fn e_4_access_that_goes_with_many_others_is_gone_behind_a_crash() {
    let schema = format!(
        "{SCHEMA} INSERT INTO members
         SELECT i, 'u' || i, 'l1', repeat('x', 300) FROM generate_series(100, 12000) i;"
    );
    for (altered, table) in [(DATA, "public.docs"), (PERMISSIONS, "public.members")] {
        let rig = Rig::new(&schema, &streams(&[QUERY])).await;
        let options = rig.options_with("limits:\n  transaction_memory: 1 MB\n");
        let line = Line::of(rig, options, &["u1", "u2"], OUT).await;
        let (mut line, open) = waiting(line, altered, table).await;
        line.execute("UPDATE members SET usr = usr || 'x' WHERE id <> 2").await;
        lose(&mut line, &["u1"], altered).await;
        line.server.kill();
        line.server.spawn_again();
        lose(&mut line, &["u1"], "behind a crash").await;
        keep(&line, &["u2"], "behind a crash").await;
        end(line, &open, altered).await;
    }
}

/// Whoever waits for a copy learns whom to ask, and for how long that one has been at it.
#[tokio::test(flavor = "multi_thread")]
async fn f_18_the_status_names_who_keeps_a_copy_from_beginning_and_since_when() {
    let (line, open) = start(DATA, "public.docs").await;
    let pid: i32 = open.query_one("SELECT pg_backend_pid()", &[]).await.expect("asked").get(0);
    let pid = format!("pid {pid} ");
    let age = || async {
        let trouble = crate::rig::status(&line.server).await?["trouble"].as_str()?.to_owned();
        let (before, rest) = trouble.split_once(&pid)?;
        assert!(before.contains("table public.docs is copied again"), "{trouble}");
        Some(rest.split_once("open for ")?.1.split_once(" s")?.0.to_owned())
    };
    let first = poll_until("the status names the process", age).await;
    poll_until("its age grows", || async { age().await.filter(|now| *now != first) }).await;
    assert_eq!(line.server.log().matches("HW2123").count(), 1, "{}", line.server.log());
    end(line, &open, "named").await;
}

/// What keeps a table out of the publication is said, and not tried with each look: whoever uses the table
/// waits behind every attempt.
#[tokio::test(flavor = "multi_thread")]
async fn f_18_a_table_that_cannot_be_published_beside_a_copy_is_named() {
    let (line, open) = start(DATA, "public.docs").await;
    line.logs("HW2123").await;
    line.execute("CREATE TABLE members_new (LIKE members INCLUDING ALL)").await;
    let locker = line.rig.cluster.client(&line.rig.database.name).await;
    let rename = "BEGIN; LOCK TABLE members_new IN SHARE UPDATE EXCLUSIVE MODE;
        ALTER TABLE members RENAME TO members_old; ALTER TABLE members_new RENAME TO members; COMMIT;
        BEGIN; LOCK TABLE members IN SHARE UPDATE EXCLUSIVE MODE";
    locker.batch_execute(rename).await.expect("renamed and locked");
    line.logs("public.members cannot be added to publication").await;
    locker.batch_execute("COMMIT").await.expect("unlocked");
    end(line, &open, "unlocked").await;
}
