//! What a request may cost.

use hw_expr::sync_config::{
    Entries, Limits, LookupError, LookupReader, Reason, Request, Resolution, ResolveError,
    Subscription, SyncConfig,
};
use serde_json::{Value, json};

/// Indexes of which nothing is read.
struct Nothing;

impl LookupReader for Nothing {
    fn lookup(&self, _: usize, _: &[u8], _: &mut Entries) -> Result<(), LookupError> {
        Ok(())
    }
}

fn resolve(query: &str, count: usize, parameters: Value) -> Result<Resolution, ResolveError> {
    let query = serde_json::to_string(query).unwrap();
    let yaml = format!("config: {{edition: 3}}\nstreams:\n  s:\n    query: {query}\n");
    let config = SyncConfig::load(&yaml, "sync.yaml", None).config.expect("valid");
    let one = Subscription { stream: "s".into(), ..Subscription::default() };
    let request = Request {
        jwt: &json!({"sub": "amy"}),
        parameters: &parameters,
        subscriptions: &vec![one; count],
        include_defaults: true,
    };
    config.resolve(&request, &Nothing, &Limits::default())
}

/// FD-37: the cost is that of the subscriptions, however many lead to one bucket, and each is one
/// reason for it.
#[test]
fn fd_37_many_subscriptions_to_one_bucket_are_as_many_reasons() {
    let count = 40_000;
    let resolved = resolve("SELECT * FROM t WHERE a = auth.user_id()", count, json!({})).unwrap();
    assert_eq!((resolved.streams.len(), resolved.buckets.len()), (1, 1));
    let expected: Vec<Reason> = (0..count).map(Reason::Subscription).collect();
    assert_eq!(resolved.buckets[0].reasons, expected);
}

/// FD-37: each of many subscriptions may be within the bounds and all together far beyond them.
#[test]
fn fd_37_what_all_subscriptions_cost_together_is_bounded() {
    let query = "SELECT * FROM t WHERE a IN connection.parameter('xs')";
    let some = json!({"xs": (0..50).collect::<Vec<_>>()});
    let resolved = resolve(query, 100, some).unwrap();
    assert_eq!(resolved.buckets.len(), 50);
    assert_eq!(resolved.buckets[0].reasons.len(), 100);
    // One bucket that is found a thousand times is one.
    let same = json!({"xs": vec![1; 1000]});
    let resolved = resolve(query, 40, same).unwrap();
    assert_eq!((resolved.buckets.len(), resolved.buckets[0].reasons.len()), (1, 40));
    let many = json!({"xs": (0..1000).collect::<Vec<_>>()});
    let refused = resolve(query, 1000, many).unwrap_err();
    assert_eq!(refused.to_string(), "Too many parameter query results (limit of 1000)");
}
