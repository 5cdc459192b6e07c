//! The replication connection against real servers: log-in, slots, frames, markers.

use bytes::Bytes;
use hw_pg::config::ConnectConfig;
use hw_pg::marker::{self, Forged};
use hw_pg::pgoutput::{Decoder, Message};
use hw_pg::replication::{
    Frame, ReplicationConnection, ReplicationStream, SlotLife, StreamOptions,
};
use hw_testkit::{Auth, Cluster, ClusterOptions};
use hw_types::{EndLsn, LogMessage, Lsn, Xid};
use tokio_postgres::Client;

fn config(url: &str) -> ConnectConfig {
    ConnectConfig::parse(url).unwrap().0
}

async fn on_every_major<Fut: Future<Output = ()>>(case: impl Fn(Cluster) -> Fut) {
    for major in hw_testkit::majors() {
        let options = ClusterOptions { major: Some(major), ..ClusterOptions::default() };
        case(Cluster::start_with(options)).await;
    }
}

/// A stream of a new slot for a publication of table `t`.
async fn streaming(config: &ConnectConfig, sql: &Client) -> ReplicationStream {
    sql.batch_execute(
        "CREATE TABLE t (a int PRIMARY KEY); CREATE PUBLICATION headwater FOR TABLE t",
    )
    .await
    .unwrap();
    let mut connection = ReplicationConnection::connect(config).await.unwrap();
    connection.create_slot("headwater_test", SlotLife::Permanent).await.unwrap();
    connection.close().await;
    let connection = ReplicationConnection::connect(config).await.unwrap();
    let options = StreamOptions::default();
    connection.start_replication("headwater_test", Lsn::ZERO, &options).await.unwrap()
}

async fn position(sql: &Client) -> EndLsn {
    let row = sql.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap();
    EndLsn(row.get::<_, &str>(0).parse().unwrap())
}

/// The transactional messages that have arrived up to a position, with the id in their Begin.
async fn messages(stream: &mut ReplicationStream, end: EndLsn) -> Vec<(Xid, LogMessage)> {
    let mut decoder = Decoder::new();
    let mut current = Xid(0);
    let mut found = Vec::new();
    loop {
        match stream.recv().await.unwrap() {
            Frame::Keepalive { wal_end } if wal_end >= end => return found,
            Frame::Keepalive { .. } => {}
            Frame::Data { payload } => match decoder.decode(&payload).unwrap().message {
                Message::Begin { xid, .. } => current = xid,
                Message::Commit { end_lsn, .. } if end_lsn >= end => return found,
                Message::Logical { transactional: true, lsn, prefix, content } => {
                    let content = Bytes::copy_from_slice(content);
                    found.push((current, LogMessage { lsn, prefix: prefix.into(), content }));
                }
                _ => {}
            },
        }
    }
}

#[tokio::test]
async fn a_marker_comes_back_at_the_position_that_was_answered_on_every_major() {
    on_every_major(|cluster| async move {
        let database = cluster.create_database().await;
        let sql = cluster.client(&database.name).await;
        let mut stream = streaming(&config(&database.url), &sql).await;
        let mut emitted = Vec::new();
        for number in 0..20u8 {
            // Traffic of others between the markers moves them over page boundaries.
            let noise =
                format!("INSERT INTO t SELECT {number} * 100 + n FROM generate_series(1, 50) n");
            sql.batch_execute(&noise).await.unwrap();
            emitted.push(marker::emit(&sql, b"key", &[number]).await.unwrap());
        }
        let arrived = messages(&mut stream, position(&sql).await).await;
        assert_eq!(arrived.len(), emitted.len(), "major {}", cluster.major());
        for (number, (emitted, (xid, message))) in emitted.iter().zip(&arrived).enumerate() {
            assert_eq!((emitted.xid, emitted.lsn), (*xid, message.lsn));
            let marker = marker::verify(message, *xid, b"key").unwrap();
            assert_eq!(marker.contents, [number as u8]);
            // xmin:xmax:list; its own transaction had begun.
            assert_eq!(marker.snapshot.split(':').count(), 3);
        }
    })
    .await;
}

#[tokio::test]
async fn a_copied_or_invented_marker_is_worthless() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let sql = cluster.client(&database.name).await;
    let mut stream = streaming(&config(&database.url), &sql).await;
    marker::emit(&sql, b"key", b"mine").await.unwrap();
    let (_, mine) = messages(&mut stream, position(&sql).await).await.remove(0);
    // Somebody who reads the log writes the same bytes again.
    let emit = "SELECT pg_logical_emit_message(true, 'headwater', $1::bytea)";
    sql.query(emit, &[&mine.content.to_vec()]).await.unwrap();
    sql.query(emit, &[&b"rubbish".to_vec()]).await.unwrap();
    marker::emit(&sql, b"another installation", b"theirs").await.unwrap();
    let forged = messages(&mut stream, position(&sql).await).await;
    assert_eq!(forged.len(), 3);
    for (xid, message) in &forged {
        assert_eq!(marker::verify(message, *xid, b"key"), Err(Forged));
    }
    assert_eq!(forged[0].1.content, mine.content);
}

#[tokio::test]
async fn a_refused_marker_leaves_its_connection_usable() {
    let cluster = Cluster::start();
    let sql = cluster.client("postgres").await;
    // Postgres 17 added a fourth argument.
    let found = "SELECT string_agg(oid::regprocedure::text, ', ') FROM pg_proc \
                 WHERE proname = 'pg_logical_emit_message'";
    let functions: String = sql.query_one(found, &[]).await.unwrap().get(0);
    let function = format!("FUNCTION {functions}");
    sql.batch_execute(&format!("REVOKE ALL ON {function} FROM PUBLIC; CREATE ROLE app LOGIN"))
        .await
        .unwrap();
    let app = config(&cluster.url_as("app", None, "postgres"));
    let (client, _driver) = hw_pg::sql::connect(&app).await.unwrap();
    let error = marker::emit(&client, b"key", b"x").await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("42501"), "{error}");
    sql.batch_execute(&format!("GRANT EXECUTE ON {function} TO app")).await.unwrap();
    marker::emit(&client, b"key", b"x").await.unwrap();
}

#[tokio::test]
async fn the_replication_connection_logs_in_with_scram_and_says_who_the_system_is() {
    let cluster = Cluster::start_with(ClusterOptions {
        auth: Auth::Scram { password: "s3cret".into() },
        ..ClusterOptions::default()
    });
    let url = cluster.url("postgres");
    let mut connection = ReplicationConnection::connect(&config(&url)).await.unwrap();
    let identity = connection.identify_system().await.unwrap();
    let sql = cluster.client("postgres").await;
    let row = sql
        .query_one("SELECT system_identifier::text FROM pg_control_system()", &[])
        .await
        .unwrap();
    assert_eq!(identity.system_id.to_string(), row.get::<_, &str>(0));
    assert_eq!((identity.timeline, identity.database.as_str()), (1, "postgres"));
    assert_eq!(connection.server_version() / 10_000, cluster.major());
    // A failed command leaves the session usable.
    assert_eq!(connection.query("SELEC").await.unwrap_err().sqlstate(), Some("42601"));
    assert_eq!(connection.query("SELECT 1, NULL").await.unwrap(), [[Some("1".into()), None]]);

    let wrong = url.replace("s3cret", "wrong");
    let refused = ReplicationConnection::connect(&config(&wrong)).await.err().unwrap();
    assert_eq!(refused.sqlstate(), Some("28P01"));
    assert!(!refused.to_string().contains("wrong"));
}

#[tokio::test]
async fn md5_and_cleartext_passwords_are_given_when_the_server_asks_for_them() {
    for (method, stored) in [("md5", "md5"), ("password", "scram-sha-256")] {
        let cluster = Cluster::start();
        let sql = cluster.client("postgres").await;
        sql.batch_execute(&format!(
            "SET password_encryption = '{stored}';
             CREATE ROLE app REPLICATION LOGIN PASSWORD 'p'"
        ))
        .await
        .unwrap();
        let rules =
            format!("host all app 127.0.0.1/32 {method}\nhost all all 127.0.0.1/32 trust\n");
        std::fs::write(cluster.data_dir().join("pg_hba.conf"), rules).unwrap();
        cluster.configure(&[]);
        hw_testkit::poll_until("the rule is in force", || async {
            let sql = "SELECT FROM pg_hba_file_rules WHERE user_name = '{app}'";
            let listed = cluster.client("postgres").await.query(sql, &[]).await.unwrap();
            let asked =
                ReplicationConnection::connect(&config(&cluster.url_as("app", None, "postgres")))
                    .await;
            (!listed.is_empty() && asked.is_err()).then_some(())
        })
        .await;
        let url = cluster.url_as("app", Some("p"), "postgres");
        ReplicationConnection::connect(&config(&url)).await.unwrap();
        let none = cluster.url_as("app", None, "postgres");
        let finding = ReplicationConnection::connect(&config(&none)).await.err().unwrap();
        assert_eq!(
            finding.diagnostic().to_string(),
            "error[HW2008]: the server asks for a password\n  \
             where: open a replication connection\n  \
             mend:  give one in the connection string, PGPASSWORD or .pgpass",
            "{method}"
        );
    }
}

#[tokio::test]
async fn a_slots_snapshot_can_be_imported_and_a_temporary_slot_goes_with_its_session_on_every_major()
 {
    on_every_major(|cluster| async move {
        let config = config(&cluster.url("postgres"));
        let mut connection = ReplicationConnection::connect(&config).await.unwrap();
        let created = connection.create_slot("headwater_t", SlotLife::Temporary).await.unwrap();
        assert!(created.consistent_point > Lsn::ZERO);
        let sql = cluster.client("postgres").await;
        sql.batch_execute(&format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{}'; COMMIT",
            created.snapshot
        ))
        .await
        .unwrap();
        let failover = "SELECT coalesce((to_jsonb(s)->>'failover')::bool, false), temporary
                        FROM pg_replication_slots s";
        let row = sql.query_one(failover, &[]).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), (false, true));
        connection.close().await;
        hw_testkit::poll_until("the temporary slot is gone", || async {
            sql.query(failover, &[]).await.unwrap().is_empty().then_some(())
        })
        .await;

        let mut connection = ReplicationConnection::connect(&config).await.unwrap();
        connection.create_slot("headwater_p", SlotLife::Permanent).await.unwrap();
        let row = sql.query_one(failover, &[]).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), (cluster.major() >= 17, false));
        let taken = connection.create_slot("headwater_p", SlotLife::Permanent).await.unwrap_err();
        assert_eq!(taken.sqlstate(), Some("42710"));
    })
    .await;
}

#[tokio::test]
async fn a_role_without_replication_is_told_which_statement_helps() {
    let cluster = Cluster::start();
    let sql = cluster.client("postgres").await;
    sql.batch_execute("CREATE ROLE app LOGIN").await.unwrap();
    let url = cluster.url_as("app", None, "postgres");
    let refused = ReplicationConnection::connect(&config(&url)).await.err().unwrap();
    let finding = hw_pg::slot::diagnose(&refused);
    assert_eq!(finding.code.0, hw_pg::catalog::code::NO_REPLICATION, "{finding}");
    assert_eq!(finding.mend.as_deref(), Some("ALTER ROLE \"app\" REPLICATION;"));
    let (client, _driver) = hw_pg::sql::connect(&config(&url)).await.unwrap();
    let server = hw_pg::catalog::ServerInfo::read(&client).await.unwrap();
    let mends: Vec<String> = server.findings().into_iter().filter_map(|f| f.mend).collect();
    assert!(mends.contains(&"ALTER ROLE \"app\" REPLICATION;".to_owned()), "{mends:?}");
}
