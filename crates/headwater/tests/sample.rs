//! The sample at a large scale.

use headwater::config::{Sources, load};
use headwater::sample;
use hw_testkit::Cluster;

#[tokio::test]
async fn at_any_scale_a_client_has_room_for_what_everybody_may_see() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client.batch_execute(sample::SCHEMA).await.expect("made");
    let wanted = [None, Some("lists")];
    for statement in sample::statements(1000).iter().filter(|one| wanted.contains(&one.table)) {
        client.batch_execute(&statement.sql).await.expect("filled");
    }
    let count = async |of: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM lists WHERE {of}");
        client.query_one(&sql, &[]).await.expect("asked").get(0)
    };
    let sources = Sources { file: None, flags: Default::default(), environment: &|_| None };
    let limits = load(&sources).expect("the defaults are valid").limits;
    assert_eq!(count("true").await, 24_000);
    // A bucket for each public list, and some for what is the client's own.
    let room = limits.buckets_per_client.min(limits.parameter_results);
    assert_eq!(count("is_public").await, 300);
    assert!(300 < room / 2, "{room}");
}
