//! An error of the disk at each place where the store is written, one after the other, while two
//! connections never stop committing (FD-1).
//!
//! A place is a call and a kind of file ([`FaultyDisk::places`]). The tables below name all of them: a
//! test fails when one was never reached, and when the server writes at a place that is not named.

use std::collections::{BTreeMap, BTreeSet};

use hw_testkit::disk::FaultyDisk;
use hw_testkit::{poll_until, server::http_get};

use super::store::Load;
use super::{Line, Output, SOON, streams};
use crate::rig::{self, Rig};

/// What makes the calls of a place come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// Commits.
    Commits,
    /// A row that fills the store's memory: it is written to a table, and tables are merged.
    WideRow,
    /// So many of them that the journal begins another file.
    WideRows,
    /// A transaction that is folded and decided on disk.
    LargeTransaction,
    /// A table that is copied again: its rows are loaded into tables of their own, and then dropped.
    CopyAgain,
}

use By::{Commits, CopyAgain, LargeTransaction, WideRow, WideRows};

/// A place: what it is for a person, what makes it come, and its name.
type Place = (&'static str, By, &'static str);

/// Where what was committed goes.
const JOURNAL: &[Place] = &[
    ("the journal is appended to", Commits, "write store/data/#.jnl"),
    ("the journal is synced", Commits, "fdatasync store/data/#.jnl"),
    ("the next file of the journal is looked for", Commits, "open store/data/#.jnl"),
    ("the journal's file is ended", WideRows, "fsync store/data/#.jnl"),
    ("the journal's next file is made", WideRows, "create store/data/#.jnl"),
    ("the journal's next file is given its length", WideRows, "ftruncate store/data/#.jnl"),
    ("the name of the journal's next file is synced", WideRows, "fsync store/data"),
    ("an old file of the journal is removed", WideRows, "unlink store/data/#.jnl"),
];

/// Where it is written in order.
const TABLES: &[Place] = &[
    ("a table is made", WideRow, "create store/data/keyspaces/#/tables/#"),
    ("a table is written", WideRow, "write store/data/keyspaces/#/tables/#"),
    ("a table is synced", WideRow, "fsync store/data/keyspaces/#/tables/#"),
    ("the name of a table is synced", WideRow, "fsync store/data/keyspaces/#/tables"),
    ("a merged table is removed", WideRow, "unlink store/data/keyspaces/#/tables/#"),
    ("a list of tables is made", WideRow, "create store/data/keyspaces/#/v#"),
    ("a list of tables is written", WideRow, "write store/data/keyspaces/#/v#"),
    ("a list of tables is synced", WideRow, "fsync store/data/keyspaces/#/v#"),
    ("the name of a list of tables is synced", WideRow, "fsync store/data/keyspaces/#"),
    ("an old list of tables is removed", WideRow, "unlink store/data/keyspaces/#/v#"),
    ("the name of the newest list is made", WideRow, "create store/data/keyspaces/#/.tmp#"),
    ("the name of the newest list is written", WideRow, "write store/data/keyspaces/#/.tmp#"),
    ("the name of the newest list is synced", WideRow, "fsync store/data/keyspaces/#/.tmp#"),
    ("the name of the newest list takes its place", WideRow, "rename store/data/keyspaces/#/.tmp#"),
    ("the newest list is synced", WideRow, "fsync store/data/keyspaces/#/current"),
];

/// Where tables that are loaded come and go.
const KEYSPACES: &[Place] = &[
    ("a place for a loaded table is made", CopyAgain, "mkdir store/data/keyspaces/#"),
    ("a place for its files is made", CopyAgain, "mkdir store/data/keyspaces/#/tables"),
    (
        "the newest list of a dropped table is removed",
        CopyAgain,
        "unlink store/data/keyspaces/#/current",
    ),
    (
        "the place of a dropped table's files is removed",
        CopyAgain,
        "unlink store/data/keyspaces/#/tables",
    ),
    ("the place of a dropped table is removed", CopyAgain, "unlink store/data/keyspaces/#"),
];

/// Where what does not fit into memory is sorted and decided.
const SPOOLS: &[Place] = &[
    ("a sorted run is made", LargeTransaction, "create store/spool/sort-#-#.tmp"),
    ("a sorted run is written", LargeTransaction, "write store/spool/sort-#-#.tmp"),
    ("a sorted run is removed", LargeTransaction, "unlink store/spool/sort-#-#.tmp"),
    ("decided writes are begun", LargeTransaction, "create store/spool/decided-#-#.tmp"),
    ("decided writes are written", LargeTransaction, "write store/spool/decided-#-#.tmp"),
    ("decided writes are synced", LargeTransaction, "fsync store/spool/decided-#-#.tmp"),
    ("decided writes are named", LargeTransaction, "rename store/spool/decided.keep"),
    ("the name of decided writes is synced", LargeTransaction, "fsync store/spool"),
    ("applied writes lose their name", LargeTransaction, "rename store/spool/discarded-#-#.tmp"),
    ("applied writes are removed", LargeTransaction, "unlink store/spool/discarded-#-#.tmp"),
];

/// Where a store is made that was not there.
const BIRTH: &[Place] = &[
    ("the data directory is made", Commits, "mkdir "),
    ("the store's directory is made", Commits, "mkdir store"),
    ("the lock is made", Commits, "create store/LOCK"),
    ("what a start has left of the format is removed", Commits, "unlink store/FORMAT.new"),
    ("the format is begun", Commits, "create store/FORMAT.new"),
    ("the format is written", Commits, "write store/FORMAT.new"),
    ("the format is synced", Commits, "fsync store/FORMAT.new"),
    ("the format is named", Commits, "rename store/FORMAT"),
    ("the name of the format is synced", Commits, "fsync store"),
    ("the database's directory is made", Commits, "mkdir store/data"),
    ("the directory of keyspaces is made", Commits, "mkdir store/data/keyspaces"),
    ("the directory of keyspaces is synced", Commits, "fsync store/data/keyspaces"),
    ("the database's lock is made", Commits, "create store/data/lock"),
    ("the database's mark is made", Commits, "create store/data/version"),
    ("the database's mark is written", Commits, "write store/data/version"),
    ("the database's mark is synced", Commits, "fsync store/data/version"),
    ("the directory of spools is made", Commits, "mkdir store/spool"),
];

/// Where a store is taken by a process that starts.
const START: &[Place] = &[
    ("the lock is emptied", Commits, "ftruncate store/LOCK"),
    ("the lock is given its owner", Commits, "write store/LOCK"),
    ("the database's lock is opened", Commits, "open store/data/lock"),
    ("the mark of a store that was closed well is removed", Commits, "unlink store/CLOSED"),
];

/// Not tried: what a process writes that ends in order, to which it does not always come, and without which the next
/// start is that behind a crash; and the spools of what arrives, which take transactions above 8 MB.
const NOT_TRIED: &[&str] = &[
    "unlink store/CLOSED.new",
    "create store/CLOSED.new",
    "write store/CLOSED.new",
    "fsync store/CLOSED.new",
    "rename store/CLOSED",
    "create store/spool/transaction-#-#.tmp",
    "write store/spool/transaction-#-#.tmp",
    "ftruncate store/spool/transaction-#-#.tmp",
    "unlink store/spool/transaction-#-#.tmp",
];

/// What happens only where something else has failed.
const BEHIND_FAILURES: &[&str] = &[
    "unlink store/data/keyspaces/#/.tmp#",
    "unlink store/spool/decided-#-#.tmp",
    // A store that was not finished is removed.
    "unlink store/data",
    "unlink store/data/keyspaces",
    "unlink store/data/lock",
    "unlink store/data/version",
];

/// Every tenth row of the load is sent to clients, so that these keep up on a busy machine.
const SCHEMA: &str = "
    CREATE TABLE t (id int8 PRIMARY KEY, tenth int, v text);
    CREATE TABLE o (id int8 PRIMARY KEY, v text); INSERT INTO o VALUES (0, 'o');
    CREATE PROCEDURE load(first int8) LANGUAGE plpgsql AS $$ BEGIN
      FOR i IN 0..99 LOOP
        INSERT INTO t VALUES (first + i, i % 10, md5(random()::text));
        COMMIT;
        PERFORM pg_sleep(0.01);
      END LOOP;
    END $$;
    CREATE TABLE b (id int PRIMARY KEY, v text); ALTER TABLE b ALTER v SET STORAGE EXTERNAL;
    CREATE FUNCTION wide() RETURNS text LANGUAGE sql AS $$
      SELECT string_agg(md5(i || random()::text), '') FROM generate_series(1, 25000) i $$;
    INSERT INTO b VALUES (0, wide());
    CREATE PROCEDURE widen(rows int) LANGUAGE plpgsql AS $$ BEGIN
      FOR i IN 1..rows LOOP
        INSERT INTO b SELECT max(id) + 1, (SELECT v FROM b WHERE id = 0) FROM b;
        COMMIT;
        DELETE FROM b WHERE id < (SELECT max(id) - 5 FROM b) AND id > 0;
        COMMIT;
      END LOOP;
    END $$;
    CREATE TABLE w (id int PRIMARY KEY, n int, v text);
    INSERT INTO w SELECT i, 0, repeat(md5(i::text), 30) FROM generate_series(1, 2500) i;
    CREATE TABLE c (id int PRIMARY KEY, n int, v text);
    INSERT INTO c SELECT i, 0, repeat(md5(i::text), 10) FROM generate_series(1, 500) i";

const OUTPUTS: &[Output] = &[
    ("t", "SELECT id FROM t WHERE tenth = 0"),
    ("o", "SELECT * FROM o"),
    ("b", "SELECT id FROM b"),
    ("w", "SELECT id, n FROM w WHERE id < 30"),
    ("c", "SELECT id, n FROM c WHERE id < 30"),
];

/// The last definition comes and goes.
const DEFINITIONS: &[&str] = &[
    "SELECT id FROM t WHERE tenth = 0",
    "SELECT * FROM o",
    "SELECT id FROM b",
    "SELECT id, n FROM w WHERE id < 30",
    "SELECT id, n FROM c WHERE id < 30",
    "SELECT id, v FROM c WHERE id = 1000",
];

/// Little memory, so that everything is written early; what is dropped goes at once.
const LIMITS: &str = "store:\n  memtable: 1 MB\n\
                      limits:\n  transaction_memory: 1 MB\n  sort_memory: 1 MB\n  definition_retention: 1 s\n";

/// A server whose disk fails, and what was tried.
struct Trial {
    line: Line,
    disk: FaultyDisk,
    load: Load,
    tried: BTreeSet<&'static str>,
    /// What somebody should have been told, or what never came.
    complaints: Vec<String>,
}

impl Trial {
    async fn start() -> Trial {
        let cluster = rig::cluster_with(&[("logical_decoding_work_mem", "64kB")]);
        let rig = Rig::on(cluster, SCHEMA, &streams(DEFINITIONS)).await;
        let data = rig.directory.path().join("data");
        let disk = FaultyDisk::new(&data);
        let mut options = rig.options_with(LIMITS);
        options.arguments.push("--take-over".into());
        options.environment.extend(disk.environment());
        let mut line = Line::of(rig, options, &["u1"], OUTPUTS).await;
        line.clients.get_mut("u1").expect("it is there").accepts_anew = true;
        let load = Load::start(&line.rig).await;
        Trial { line, disk, load, tried: BTreeSet::new(), complaints: Vec::new() }
    }

    /// Lets a call of each place fail, one behind the other.
    async fn fail_at(&mut self, places: &[Place]) {
        for (number, (what, by, place)) in places.iter().enumerate() {
            let definitions = &DEFINITIONS[..DEFINITIONS.len() - number % 2];
            self.line.configure(&streams(definitions));
            let (logged, restarts) = (self.line.server.log().len(), self.restarts().await);
            // Not only the first call of each.
            let n = if number % 3 == 2 && *by != CopyAgain { 2 } else { 1 };
            self.disk.fail_place(place, n, ERRORS[number % ERRORS.len()]);
            if !self.until_failed(*by).await {
                self.complaints.push(format!("it never comes that {what}"));
                continue;
            }
            self.nothing_is_lost(what).await;
            let log = &self.line.server.log()[logged..];
            let is_said = log.contains("os error") || log.contains("HW3");
            if !is_said && !is_garbage(place) && self.restarts().await == restarts {
                self.complaints.push(format!("nobody is told: {what}\n{log}"));
            }
            self.tried.insert(place);
        }
    }

    /// Makes the call come; false when it does not.
    async fn until_failed(&self, by: By) -> bool {
        let until = tokio::time::Instant::now() + SOON;
        while self.disk.is_armed() {
            if tokio::time::Instant::now() > until {
                return false;
            }
            let sql = match by {
                Commits => "",
                WideRow => "CALL widen(2)",
                WideRows => "CALL widen(20)",
                LargeTransaction => "UPDATE w SET n = n + 1",
                CopyAgain => "ALTER TABLE c ALTER n TYPE int USING n + 1",
            };
            self.line.execute(sql).await;
            let came =
                poll_until("the call comes", || async { (!self.disk.is_armed()).then_some(()) });
            let _ = tokio::time::timeout(std::time::Duration::from_secs(3), came).await;
        }
        true
    }

    /// The call has come, and failed.
    fn has_failed(&mut self, what: &str, place: &'static str) {
        match self.disk.is_armed() {
            true => self.complaints.push(format!("it never comes that {what}")),
            false => drop(self.tried.insert(place)),
        }
    }

    /// What comes behind the failure comes to the client, and nothing in front of it is missing.
    async fn nothing_is_lost(&mut self, what: &str) {
        let line = &mut self.line;
        line.execute(&format!("INSERT INTO o SELECT max(id) + 1, $${what}$$ FROM o")).await;
        let last = line.rig.ask("SELECT max(id)::text FROM o").await.expect("there is one");
        let row = ("o".to_owned(), last);
        line.follow("u1", what, |client| client.rows().contains_key(&row)).await;
        let mut writers: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for (table, id) in line.clients["u1"].rows().keys() {
            if table == "t" {
                let id: i64 = id.parse().expect("a number");
                writers.entry(id / 1_000_000_000).or_default().push(id % 1_000_000_000);
            }
        }
        for (writer, mut ids) in writers {
            ids.sort_unstable();
            let newest = *ids.last().expect("there is one");
            assert_eq!(ids.len() as i64, newest / 10 + 1, "writer {writer} has lost rows: {what}");
        }
        line.is_well().await;
    }

    async fn restarts(&self) -> u64 {
        let status = rig::status(&self.line.server).await.unwrap_or_default();
        status["store"]["restarts"].as_u64().unwrap_or_default()
    }

    /// The process is started; if it ends with a message it is started again, as a supervisor does.
    async fn spawn(&mut self, what: &str) {
        let logged = self.line.server.log().len();
        self.line.server.spawn_again();
        let address = self.line.server.address();
        let mut has_ended = false;
        poll_until("it is ready or has ended", || {
            has_ended = self.line.server.has_ended();
            async move {
                let answer = http_get(address, "/probes/readiness", &[]).await;
                (has_ended || answer.is_ok_and(|answer| answer.status == 200)).then_some(())
            }
        })
        .await;
        if has_ended {
            assert_eq!(self.line.server.wait_exit().await.code(), Some(2), "{what}");
            let log = &self.line.server.log()[logged..];
            let is_told = log.lines().any(|line| line.contains("HW3") && line.contains("os error"));
            assert!(is_told, "it ends without a message: {what}\n{log}");
            self.line.server.spawn_again();
            self.line.server.until_ready().await;
        }
    }

    /// All is there, and every place has been tried that was seen.
    async fn end(self, places: &[&[Place]]) {
        let Trial { mut line, disk, load, tried, complaints } = self;
        disk.heal();
        let rows = load.end().await;
        assert!(rows > 0, "it was under load");
        line.agree("behind the load").await;
        line.is_well().await;
        line.stop().await;
        assert!(complaints.is_empty(), "{complaints:#?}\n{:#?}", disk.places());
        let all: BTreeSet<&str> =
            places.iter().flat_map(|places| places.iter()).map(|p| p.2).collect();
        assert_eq!(tried, all, "each place was tried");
        let named = [JOURNAL, TABLES, KEYSPACES, SPOOLS, BIRTH, START];
        let named: BTreeSet<&str> =
            named.iter().flat_map(|places| places.iter()).map(|p| p.2).collect();
        let is_known = |seen: &str| {
            named.contains(seen) || NOT_TRIED.contains(&seen) || BEHIND_FAILURES.contains(&seen)
        };
        let other: Vec<String> = disk.places().into_iter().filter(|seen| !is_known(seen)).collect();
        assert!(
            other.is_empty(),
            "the store is written at places that nothing here tries: {other:#?}"
        );
    }
}

const ERRORS: [i32; 3] = [libc::EIO, libc::ENOSPC, libc::EMFILE];

/// A file that nobody needs any more stays until the next opening.
fn is_garbage(place: &str) -> bool {
    place.starts_with("unlink ")
}

/// One process lives through an error at each of these places.
async fn survives(places: &[Place]) {
    let mut trial = Trial::start().await;
    let pid = trial.line.server.pid();
    trial.fail_at(places).await;
    assert_eq!(trial.line.server.pid(), pid, "the same process");
    trial.end(&[places]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_1_an_error_at_each_place_of_the_journal_under_load_loses_nothing() {
    survives(JOURNAL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_1_an_error_at_each_place_of_tables_under_load_loses_nothing() {
    survives(TABLES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_1_an_error_at_each_place_of_loaded_tables_under_load_loses_nothing() {
    survives(KEYSPACES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fd_1_an_error_at_each_place_of_spools_under_load_loses_nothing() {
    survives(SPOOLS).await;
}

/// A store that is made and taken under load. Where it cannot be, the process ends with a message
/// and its supervisor starts it again, on what the failure has left.
#[tokio::test(flavor = "multi_thread")]
async fn fd_1_an_error_at_each_place_of_a_start_under_load_loses_nothing() {
    let mut trial = Trial::start().await;
    let data = trial.line.rig.directory.path().join("data");
    // Everything is copied each time.
    trial
        .line
        .execute("DELETE FROM w WHERE id > 30; DELETE FROM c WHERE id > 30; DELETE FROM b")
        .await;
    for (what, _, place) in BIRTH {
        trial.line.server.stop().await;
        std::fs::remove_dir_all(&data).expect("removed");
        // What becomes of who knows a store that is gone is told elsewhere (FD-28).
        trial.line.clients.get_mut("u1").expect("it is there").forget();
        trial.disk.fail_place(place, 1, libc::EIO);
        trial.spawn(what).await;
        trial.has_failed(what, place);
        trial.nothing_is_lost(what).await;
    }
    for (what, _, place) in START {
        trial.line.server.stop().await;
        trial.disk.fail_place(place, 1, libc::EIO);
        trial.spawn(what).await;
        trial.has_failed(what, place);
        trial.nothing_is_lost(what).await;
    }
    trial.end(&[BIRTH, START]).await;
}
