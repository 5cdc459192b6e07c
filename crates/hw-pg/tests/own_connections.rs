//! The server's own connections: no setting of a role reaches them, and none waits for ever for
//! what no longer comes.

use hw_pg::config::{ConnectConfig, OWN_SETTINGS};
use hw_pg::error::PgErrorKind;
use hw_pg::replication::{ReplicationConnection, SlotLife, StreamOptions};
use hw_pg::sql;
use hw_testkit::{Auth, Cluster, ClusterOptions, FaultProxy, poll_until};
use hw_types::Lsn;
use std::time::Duration;

fn config(text: &str) -> ConnectConfig {
    ConnectConfig::parse(text).unwrap().0
}

/// A role whose settings would end or change everything that the server does.
const HOSTILE: &str = "
CREATE ROLE rep LOGIN REPLICATION SUPERUSER;
ALTER ROLE rep SET statement_timeout = '77ms';
ALTER ROLE rep SET lock_timeout = '77ms';
ALTER ROLE rep SET idle_in_transaction_session_timeout = '77ms';
ALTER ROLE rep SET idle_session_timeout = '77ms';
ALTER ROLE rep SET default_transaction_read_only = on;
ALTER ROLE rep SET jit = on;
";

#[tokio::test]
async fn fd_17_no_setting_of_a_role_reaches_the_servers_own_work_on_every_major() {
    for major in hw_testkit::majors() {
        let cluster =
            Cluster::start_with(ClusterOptions { major: Some(major), ..Default::default() });
        let admin = cluster.client("postgres").await;
        admin.batch_execute(HOSTILE).await.unwrap();
        if major >= 17 {
            admin.batch_execute("ALTER ROLE rep SET transaction_timeout = '77ms'").await.unwrap();
        }
        let config = config(&cluster.url_as("rep", None, "postgres"));
        let mut expected: Vec<(&str, &str)> = OWN_SETTINGS.to_vec();
        if major >= 17 {
            expected.push(("transaction_timeout", "0"));
        }
        let (client, _driver) = sql::connect(&config).await.unwrap();
        let mut replication = ReplicationConnection::connect(&config).await.unwrap();
        let (users, _driver) = sql::connect(&config.for_users()).await.unwrap();
        for (name, value) in expected {
            let show = format!("SHOW {name}");
            let row = client.query_one(&show, &[]).await.unwrap();
            assert_eq!(row.get::<_, &str>(0), value, "{name} of {major}");
            let rows = replication.query(&show).await.unwrap();
            // A new slot waits for older transactions behind locks, for as long as they take.
            let streamed = if name == "lock_timeout" { "0" } else { value };
            assert_eq!(rows[0][0].as_deref(), Some(streamed), "{name} of {major}, replication");
            // One message each, so that no limit of the role ends this session in between.
            let row = users.query_one(&show, &[]).await;
            let theirs = row.map(|row| row.get::<_, String>(0));
            assert!(theirs.is_err() || theirs.unwrap() != value, "{name} of {major}, users");
        }
        client.batch_execute("CREATE PUBLICATION headwater").await.unwrap();
        replication.create_slot("headwater_own", SlotLife::Temporary).await.unwrap();
    }
}

/// A stream through a proxy from which nothing comes any more: what a router that has forgotten a
/// connection leaves behind.
#[tokio::test]
async fn fd_29_a_half_open_stream_ends_and_its_silence_is_told() {
    let cluster = Cluster::start();
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", cluster.port())).await;
    let sql = cluster.client("postgres").await;
    sql.batch_execute("CREATE PUBLICATION headwater").await.unwrap();
    let url = format!("postgres://postgres@{}/postgres", proxy.address());
    let mut connection = ReplicationConnection::connect(&config(&url)).await.unwrap();
    connection.create_slot("headwater_half", SlotLife::Permanent).await.unwrap();
    let limit = Duration::from_millis(600);
    let options = StreamOptions { silence_limit: limit, ..StreamOptions::default() };
    let mut stream =
        connection.start_replication("headwater_half", Lsn::ZERO, &options).await.unwrap();
    let positions = stream.acknowledger();
    proxy.half_open();
    let error = loop {
        match stream.recv().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error.kind(), PgErrorKind::Silent(_)), "{error}");
    assert!(error.to_string().contains("has fallen silent"), "{error}");
    assert!(positions.positions().silent_for >= limit);
}

/// With the limits as they are, an idle stream is asked for a sign of life and gives it.
#[tokio::test]
async fn fd_29_an_idle_stream_that_is_asked_answers_and_goes_on() {
    let cluster = Cluster::start();
    let sql = cluster.client("postgres").await;
    for statement in [
        "CREATE PUBLICATION headwater",
        "ALTER SYSTEM SET wal_sender_timeout = '1s'",
        "SELECT pg_reload_conf()",
    ] {
        sql.batch_execute(statement).await.unwrap();
    }
    let mut connection =
        ReplicationConnection::connect(&config(&cluster.url("postgres"))).await.unwrap();
    connection.create_slot("headwater_idle", SlotLife::Permanent).await.unwrap();
    let options =
        StreamOptions { silence_limit: Duration::from_millis(900), ..StreamOptions::default() };
    let mut stream =
        connection.start_replication("headwater_idle", Lsn::ZERO, &options).await.unwrap();
    // Each keepalive is an answer: many limits pass in the time of ten.
    for _ in 0..10 {
        stream.recv().await.unwrap();
    }
}

#[tokio::test]
async fn fd_29_a_question_that_is_not_answered_ends_its_connection() {
    let cluster = Cluster::start();
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", cluster.port())).await;
    let url = format!("postgres://postgres@{}/postgres", proxy.address());
    let config = config(&url).with_answer_within(Some(Duration::from_millis(500)));
    let (client, driver) = sql::connect(&config).await.unwrap();
    client.query_one("SELECT 1", &[]).await.unwrap();
    // An answer that goes on for longer than the limit is an answer.
    let slow = "SELECT pg_sleep(0.01)::text, repeat('x', 10000) FROM generate_series(1, 100)";
    assert_eq!(client.query(slow, &[]).await.unwrap().len(), 100);
    proxy.half_open();
    client.query_one("SELECT 1", &[]).await.unwrap_err();
    let ended = driver.await.unwrap().unwrap_err();
    assert!(ended.to_string().contains("does not answer"), "{ended}");
    poll_until("the client knows", || async { client.is_closed().then_some(()) }).await;
}

#[tokio::test]
async fn require_auth_keeps_the_password_from_a_server_that_asks_for_it_in_another_way() {
    let password = String::from("hush");
    let scram = Cluster::start_with(ClusterOptions {
        auth: Auth::Scram { password },
        ..Default::default()
    });
    let trust = Cluster::start();
    let text = |cluster: &Cluster, value: &str| {
        format!(
            "host=127.0.0.1 port={} dbname=postgres user=postgres password=hush require_auth={value}",
            cluster.port()
        )
    };
    for (cluster, value, refused) in [
        (&scram, "scram-sha-256", None),
        (&scram, "!md5,!password", None),
        (&scram, "md5", Some("scram-sha-256")),
        (&scram, "none", Some("scram-sha-256")),
        (&trust, "scram-sha-256", Some("none")),
        (&trust, "none", None),
    ] {
        let config = config(&text(cluster, value));
        let said = [
            sql::connect(&config).await.map(drop),
            ReplicationConnection::connect(&config).await.map(drop),
        ];
        for said in said {
            match (said, refused) {
                (Ok(()), None) => {}
                (Err(error), Some(method)) => {
                    let expected = format!("asks for {method}, which require_auth does not allow");
                    assert!(error.to_string().contains(&expected), "{value}: {error}");
                }
                (said, _) => panic!("{value}: {said:?}"),
            }
        }
    }
}
