//! Private clusters: how they start, stop, come back and go away.

use hw_testkit::{Auth, Cluster, ClusterOptions, Stop};

#[tokio::test]
async fn a_cluster_speaks_logical_replication_and_keeps_its_settings() {
    let cluster = Cluster::start_with(ClusterOptions {
        settings: &[("work_mem", "7MB")],
        ..Default::default()
    });
    let client = cluster.client("postgres").await;
    let row = client
        .query_one(
            "SELECT current_setting('wal_level'), current_setting('work_mem'),
                    current_setting('max_replication_slots')",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "logical");
    assert_eq!(row.get::<_, &str>(1), "7MB");
    assert_eq!(row.get::<_, &str>(2), "20");
}

#[tokio::test]
async fn a_stopped_cluster_starts_again_with_its_data_on_the_same_port() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client.batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await.unwrap();
    for mode in [Stop::Fast, Stop::Immediate] {
        cluster.stop(mode);
        assert!(!cluster.is_running());
        cluster.start_again();
        let client = cluster.client(&database.name).await;
        assert_eq!(client.query("SELECT a FROM t", &[]).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn with_scram_a_wrong_password_is_refused_and_the_url_has_the_right_one() {
    let auth = Auth::Scram { password: "it's 100% secret".to_owned() };
    let cluster = Cluster::start_with(ClusterOptions { auth, ..Default::default() });
    cluster.client("postgres").await;
    let wrong = cluster.url_as("postgres", Some("guess"), "postgres");
    let refused = tokio_postgres::connect(&wrong, tokio_postgres::NoTls).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn every_installed_major_starts() {
    for major in hw_testkit::majors() {
        let cluster =
            Cluster::start_with(ClusterOptions { major: Some(major), ..Default::default() });
        let client = cluster.client("postgres").await;
        let row = client.query_one("SHOW server_version_num", &[]).await.unwrap();
        let number: u32 = row.get::<_, &str>(0).parse().unwrap();
        assert_eq!(number / 10_000, major);
    }
}

#[test]
fn a_dropped_cluster_leaves_no_process_and_no_files() {
    let cluster = Cluster::start();
    let data = cluster.data_dir();
    let port = cluster.port();
    drop(cluster);
    assert!(!data.exists());
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}
