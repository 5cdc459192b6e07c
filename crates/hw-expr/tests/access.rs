//! Who gets which rows: NULL, several conditions, joins, several sources. Requirement E-4 rests
//! on these: a row goes only to those whom a definition selects it for.

use crate::world::{World, user};
use serde_json::json;

fn stream(query: &str) -> String {
    let query = serde_json::to_string(query).unwrap();
    format!(
        "config: {{edition: 3}}\nstreams:\n  s:\n    auto_subscribe: true\n    query: {query}\n"
    )
}

fn bucket(parameters: &str, data: &str) -> String {
    let [parameters, data] = [parameters, data].map(|t| serde_json::to_string(t).unwrap());
    format!(
        "config: {{edition: 2}}\nbucket_definitions:\n  b:\n    parameters: {parameters}\n    data: [{data}]\n"
    )
}

#[test]
fn a_missing_claim_never_meets_a_null_column() {
    for yaml in [
        stream("SELECT * FROM t WHERE org = auth.parameter('org')"),
        bucket("SELECT request.jwt() ->> 'org' AS org", "SELECT * FROM t WHERE org = bucket.org"),
    ] {
        let world = World::new(&yaml).row("t", json!({"id": "1", "org": null}));
        assert_eq!(world.buckets(), [[""; 0]]);
        let empty: [&str; 0] = [];
        assert_eq!(world.bucket_names(user("amy")), empty);
        let null = json!({"jwt": {"sub": "amy", "org": null}});
        assert_eq!(world.bucket_names(null), empty);
    }
}

/// `sync-rules.md` 17.3: in the reference a NULL element meets a missing claim.
#[test]
fn null_elements_of_an_array_are_in_no_bucket_and_under_no_key() {
    let yaml =
        bucket("SELECT request.jwt() ->> 'me' AS me", "SELECT * FROM t WHERE bucket.me IN viewers");
    let world = World::new(&yaml).row("t", json!({"id": "1", "viewers": [null, "amy", true]}));
    assert_eq!(world.buckets(), [["b[\"amy\"]", "b[1]"]]);
    assert!(world.reads(json!({"jwt": {"sub": "x"}})).is_empty());
    assert_eq!(world.reads(json!({"jwt": {"me": "amy"}})), ["t 1"]);

    let yaml = bucket(
        "SELECT id AS room FROM rooms WHERE request.jwt() ->> 'me' IN members",
        "SELECT * FROM t WHERE room = bucket.room",
    );
    let world = World::new(&yaml)
        .row("rooms", json!({"id": "r", "members": [null, "amy"]}))
        .row("t", json!({"id": "1", "room": "r"}));
    assert!(world.reads(json!({"jwt": {"sub": "x"}})).is_empty());
    assert!(world.reads(json!({"jwt": {"me": null}})).is_empty());
    assert_eq!(world.reads(json!({"jwt": {"me": "amy"}})), ["t 1"]);
}

/// `sync-rules.md` 17.1: the reference puts the row into the bucket of the first column.
#[test]
fn one_parameter_named_twice_must_be_equal_to_both_columns() {
    let yaml = bucket(
        "SELECT request.user_id() AS u",
        "SELECT * FROM t WHERE a = bucket.u AND b = bucket.u",
    );
    let world = World::new(&yaml)
        .row("t", json!({"id": "1", "a": "amy", "b": "bob"}))
        .row("t", json!({"id": "2", "a": "amy", "b": "amy"}));
    assert_eq!(world.buckets(), [vec![], vec!["b[\"amy\"]".to_string()]]);
}

/// `sync-rules.md` 17.2: in the reference the second query never matches.
#[test]
fn parameters_are_found_by_name_whatever_the_order_of_the_query() {
    let yaml = "bucket_definitions:\n  b:\n    parameters:\n      \
                - SELECT request.user_id() AS u, 'x' AS kind\n      \
                - SELECT 'y' AS kind, request.user_id() AS u\n    \
                data: [SELECT * FROM t WHERE owner = bucket.u AND kind = bucket.kind]\n";
    let world = World::new(yaml)
        .row("t", json!({"id": "1", "owner": "amy", "kind": "x"}))
        .row("t", json!({"id": "2", "owner": "amy", "kind": "y"}))
        .row("t", json!({"id": "3", "owner": "amy", "kind": "z"}));
    assert_eq!(world.reads(user("amy")), ["t 1", "t 2"]);
}

#[test]
fn conditions_joined_by_or_are_families_of_their_own() {
    let yaml = stream(
        "SELECT * FROM t WHERE owner = auth.user_id() OR reviewer = auth.user_id() OR public OR \
         org IN (SELECT org FROM m WHERE who = auth.user_id() AND NOT banned)",
    );
    let world = World::new(&yaml)
        .row("m", json!({"id": "1", "who": "amy", "org": "acme", "banned": false}))
        .row("m", json!({"id": "2", "who": "amy", "org": "zed", "banned": true}))
        .row("t", json!({"id": "own", "owner": "amy"}))
        .row("t", json!({"id": "review", "owner": "bob", "reviewer": "amy"}))
        .row("t", json!({"id": "public", "owner": "bob", "public": 1}))
        .row("t", json!({"id": "org", "owner": "bob", "org": "acme"}))
        .row("t", json!({"id": "banned", "owner": "bob", "org": "zed"}))
        .row("t", json!({"id": "other", "owner": "bob"}));
    assert_eq!(world.reads(user("amy")), ["t org", "t own", "t public", "t review"]);
    // Owner and reviewer have equal queriers and share one bucket (10.5).
    assert_eq!(world.bucket_names(user("amy")), ["s|0[\"amy\"]", "s|2[\"acme\"]", "s|3[]"]);
}

/// `sync-rules.md` 10.4: values that come from one row stay together.
#[test]
fn columns_of_one_joined_row_are_never_mixed_with_those_of_another() {
    let yaml = stream(
        "SELECT comments.* FROM comments JOIN issues i ON comments.issue = i.id AND comments.region = i.region \
         WHERE i.owner = auth.user_id()",
    );
    let world = World::new(&yaml)
        .row("issues", json!({"id": "1", "region": "eu", "owner": "amy"}))
        .row("issues", json!({"id": "2", "region": "us", "owner": "amy"}))
        .row("comments", json!({"id": "a", "issue": "1", "region": "eu"}))
        .row("comments", json!({"id": "b", "issue": "1", "region": "us"}))
        .row("comments", json!({"id": "c", "issue": "2", "region": "us"}));
    assert_eq!(world.reads(user("amy")), ["comments a", "comments c"]);
    assert_eq!(world.bucket_names(user("amy")).len(), 2);
}

#[test]
fn chains_of_joins_stay_together_too() {
    let yaml = stream(
        "SELECT docs.* FROM docs, projects p, members m WHERE docs.project = p.id AND docs.level = m.level \
         AND p.team = m.team AND m.who = auth.user_id()",
    );
    let world = World::new(&yaml)
        .row("members", json!({"id": "m1", "who": "amy", "team": "red", "level": 1}))
        .row("members", json!({"id": "m2", "who": "amy", "team": "blue", "level": 2}))
        .row("projects", json!({"id": "p1", "team": "red"}))
        .row("projects", json!({"id": "p2", "team": "blue"}))
        .row("docs", json!({"id": "a", "project": "p1", "level": 1}))
        .row("docs", json!({"id": "b", "project": "p1", "level": 2}))
        .row("docs", json!({"id": "c", "project": "p2", "level": 2}));
    assert_eq!(world.reads(user("amy")), ["docs a", "docs c"]);
}

#[test]
fn two_conditions_on_one_column_are_an_intersection() {
    let yaml = stream(
        "SELECT * FROM t WHERE org IN auth.parameter('orgs') AND org IN (SELECT org FROM m WHERE \
         who = auth.user_id())",
    );
    let world = World::new(&yaml)
        .row("m", json!({"id": "1", "who": "amy", "org": "a"}))
        .row("m", json!({"id": "2", "who": "amy", "org": "b"}))
        .row("t", json!({"id": "1", "org": "a"}))
        .row("t", json!({"id": "2", "org": "b"}));
    let request = json!({"jwt": {"sub": "amy", "orgs": ["b", "c"]}});
    assert_eq!(world.bucket_names(request), ["s|0[\"b\"]"]);
}

#[test]
fn a_membership_that_concerns_no_row_is_a_condition_on_the_request() {
    let yaml = stream(
        "SELECT * FROM t WHERE auth.user_id() IN (SELECT id FROM users WHERE admin) AND \
         auth.parameter('role') = 'ops'",
    );
    let world = World::new(&yaml)
        .row("users", json!({"id": "amy", "admin": true}))
        .row("users", json!({"id": "bob", "admin": false}))
        .row("t", json!({"id": "1"}));
    let ops = |sub: &str| json!({"jwt": {"sub": sub, "role": "ops"}});
    assert_eq!(world.bucket_names(ops("amy")), ["s|0[]"]);
    assert!(world.bucket_names(ops("bob")).is_empty());
    assert!(world.bucket_names(user("amy")).is_empty());
}

#[test]
fn a_row_with_an_array_is_in_the_bucket_of_each_element_once() {
    let yaml = stream("SELECT * FROM t WHERE auth.user_id() IN viewers");
    let world = World::new(&yaml).row("t", json!({"id": "1", "viewers": ["a", "b", "a", null]}));
    assert_eq!(world.buckets(), [["s|0[\"a\"]", "s|0[\"b\"]"]]);
    let yaml = stream(
        "SELECT * FROM t WHERE project IN (SELECT value FROM p, json_each(p.projects) WHERE p.who \
         = auth.user_id())",
    )
    .replace("SELECT value", "SELECT json_each.value");
    let world = World::new(&yaml)
        .row("p", json!({"id": "1", "who": "amy", "projects": [1, 2]}))
        .row("t", json!({"id": "1", "project": 2}))
        .row("t", json!({"id": "2", "project": 3}));
    assert_eq!(world.reads(user("amy")), ["t 1"]);
}

#[test]
fn wildcard_tables_and_schemas_match_by_prefix_and_tell_what_they_matched() {
    let yaml = "config: {edition: 3}\nstreams:\n  s:\n    auto_subscribe: true\n    queries:\n      \
                - SELECT id, t.table_suffix() AS part FROM \"log_%\" AS t\n      \
                - SELECT id, a.schema() AS tenant FROM \"tenant_%\".assets a\n";
    let world = World::new(yaml)
        .row("log_2030", json!({"id": "1"}))
        .row("log_", json!({"id": "2"}))
        .row("logs", json!({"id": "3"}))
        .row("tenant_x.assets", json!({"id": "4"}))
        .row("public.assets", json!({"id": "5"}));
    assert_eq!(
        world.payloads(),
        [
            "{\"id\":\"1\",\"part\":\"2030\"}",
            "{\"id\":\"2\",\"part\":\"\"}",
            "{\"id\":\"4\",\"tenant\":\"tenant_x\"}"
        ]
    );
}

#[test]
fn equal_data_of_two_streams_shares_a_bucket_with_the_smaller_priority() {
    let yaml = "config: {edition: 3}\nstreams:\n  a:\n    auto_subscribe: true\n    \
                query: SELECT * FROM t WHERE owner = auth.user_id()\n  b:\n    priority: 1\n    \
                query: SELECT * FROM t WHERE owner = subscription.parameter('o') AND \
                subscription.parameter('o') = auth.parameter('boss')\n    \
                accept_potentially_dangerous_queries: true\n";
    let world = World::new(yaml).row("t", json!({"id": "1", "owner": "amy"}));
    let request = json!({"jwt": {"sub": "amy", "boss": "amy"},
        "subscriptions": [{"stream": "b", "parameters": {"o": "amy"}}]});
    let answer = world.request(request);
    assert_eq!(
        answer["buckets"],
        json!([{"bucket": "a|0[\"amy\"]", "priority": 1, "definition": "a",
            "reasons": ["default", {"subscription": 0}]}])
    );
}

#[test]
fn an_error_in_a_stream_is_the_streams_and_in_a_definition_the_requests() {
    let world = World::new(&stream("SELECT * FROM t WHERE id IN auth.parameter('ids')"));
    let answer = world.request(json!({"jwt": {"sub": "amy", "ids": "nope"}}));
    assert_eq!(answer["errors"], json!(["Error evaluating bucket ids: Expected JSON string"]));
    assert_eq!(answer["buckets"], json!([]));

    let yaml = bucket(
        "SELECT value AS id FROM json_each(request.jwt() ->> 'ids')",
        "SELECT * FROM t WHERE id = bucket.id",
    );
    let answer = World::new(&yaml).request(json!({"jwt": {"sub": "amy", "ids": "nope"}}));
    assert_eq!(answer["errors"], json!(["Error evaluating bucket ids: Expected JSON string"]));
}

/// `sync-rules.md` 14.
#[test]
fn more_than_a_thousand_buckets_or_results_are_refused_with_their_number() {
    let world = World::new(&stream("SELECT * FROM t WHERE id IN auth.parameter('ids')"));
    let ids = |n: i32| json!({"jwt": {"sub": "amy", "ids": (0..n).collect::<Vec<_>>()}});
    assert_eq!(world.bucket_names(ids(1000)).len(), 1000);
    assert_eq!(
        world.request(ids(1001))["errors"],
        json!(["Too many parameter query results (limit of 1000)"])
    );
    let world = World::new(&stream(
        "SELECT * FROM t WHERE a IN auth.parameter('ids') AND b IN auth.parameter('ids')",
    ));
    assert_eq!(world.request(ids(40))["errors"], json!(["Too many buckets: 1001 (limit of 1000)"]));
}

#[test]
fn default_subscriptions_have_no_parameters_and_can_be_left_out() {
    let yaml = "config: {edition: 3}\nstreams:\n  s:\n    auto_subscribe: true\n    \
                accept_potentially_dangerous_queries: true\n    \
                query: SELECT * FROM t WHERE subscription.parameters() IS NULL OR id = \
                subscription.parameter('id')\n";
    let world = World::new(yaml).row("t", json!({"id": "1"})).row("t", json!({"id": "2"}));
    assert_eq!(world.reads(user("amy")), ["t 1", "t 2"]);
    let only = json!({"jwt": {"sub": "amy"}, "include_defaults": false,
        "subscriptions": [{"stream": "s", "parameters": {"id": "2"}}, {"stream": "gone"}]});
    assert_eq!(world.reads(only), ["t 2"]);
    let null = json!({"jwt": {"sub": "amy"}, "include_defaults": false,
        "subscriptions": [{"stream": "s", "parameters": null}]});
    assert!(world.reads(null).is_empty(), "null parameters are an empty object, not NULL");
}

#[test]
fn alpha_streams_are_streams_with_the_expressions_of_bucket_definitions() {
    let yaml = "config: {edition: 2}\nstreams:\n  s:\n    auto_subscribe: true\n    \
                query: SELECT * FROM t WHERE status != 'old' AND org IN (SELECT org FROM m WHERE \
                who = auth.user_id())\n";
    let world = World::new(yaml)
        .row("m", json!({"id": "1", "who": "amy", "org": "acme"}))
        .row("t", json!({"id": "1", "org": "acme", "status": "new", "_x": 1}))
        .row("t", json!({"id": "2", "org": "acme", "status": null}))
        .row("t", json!({"id": "3", "org": "acme", "status": "old"}));
    assert_eq!(world.reads(user("amy")), ["t 1"]);
    assert_eq!(world.payloads(), ["{\"id\":\"1\",\"org\":\"acme\",\"status\":\"new\"}"]);
}

#[test]
fn stars_and_aliases_overwrite_as_their_edition_says() {
    let columns = |yaml: &str| {
        let row = json!({"_id": "u", "id": "i", "name": "n"});
        World::new(yaml).row("t", row).payloads().remove(0)
    };
    let classic = |q: &str| format!("bucket_definitions:\n  b:\n    data:\n      - {q}\n");
    // The columns of a JSON object in a test are sorted: _id, id, name.
    assert_eq!(columns(&classic("SELECT _id AS id, * FROM t")), r#"{"id":"u","name":"n"}"#);
    assert_eq!(columns(&classic("SELECT *, _id AS id FROM t")), r#"{"id":"u","name":"n"}"#);
    assert_eq!(columns(&classic("SELECT gone AS id, * FROM t")), r#"{"id":"i","name":"n"}"#);
    assert_eq!(
        columns(&stream("SELECT _id AS id, * FROM t")),
        r#"{"id":"i","_id":"u","name":"n"}"#
    );
}

#[test]
fn table_expressions_and_subqueries_in_from_are_inlined() {
    let yaml = "config: {edition: 3}\nwith:\n  mine: SELECT org, level FROM m WHERE who = \
                auth.user_id()\nstreams:\n  s:\n    auto_subscribe: true\n    with:\n      \
                open: SELECT id FROM orgs WHERE NOT closed\n    queries:\n      \
                - SELECT t.* FROM t JOIN mine AS x ON t.org = x.org AND t.level = x.level WHERE t.org IN open\n      \
                - SELECT u.* FROM u, (SELECT org AS o FROM m WHERE who = auth.user_id()) AS y (z) WHERE u.org = y.z\n";
    let world = World::new(yaml)
        .row("m", json!({"id": "1", "who": "amy", "org": "a", "level": 1}))
        .row("m", json!({"id": "2", "who": "amy", "org": "b", "level": 2}))
        .row("orgs", json!({"id": "a", "closed": false}))
        .row("orgs", json!({"id": "b", "closed": true}))
        .row("t", json!({"id": "1", "org": "a", "level": 1}))
        .row("t", json!({"id": "2", "org": "a", "level": 2}))
        .row("t", json!({"id": "3", "org": "b", "level": 2}))
        .row("u", json!({"id": "4", "org": "b"}))
        .row("u", json!({"id": "5", "org": "c"}));
    assert_eq!(world.reads(user("amy")), ["t 1", "u 4"]);
}

#[test]
fn arrays_of_the_request_can_be_joined_filtered_and_compared() {
    let yaml = stream(
        "SELECT t.* FROM t, json_each(auth.parameter('grants')) AS g WHERE t.org = g.value ->> 'org' \
         AND t.role = g.value ->> 'role' AND g.key < 2",
    );
    let world = World::new(&yaml)
        .row("t", json!({"id": "1", "org": "a", "role": "x"}))
        .row("t", json!({"id": "2", "org": "a", "role": "y"}))
        .row("t", json!({"id": "3", "org": "c", "role": "z"}));
    let grants = json!([{"org": "a", "role": "x"}, {"org": "b", "role": "y"},
        {"org": "c", "role": "z"}]);
    assert_eq!(world.reads(json!({"jwt": {"sub": "amy", "grants": grants}})), ["t 1"]);

    let yaml = stream(
        "SELECT * FROM t WHERE tags && auth.parameter('tags') AND 'ops' IN auth.parameter('roles')",
    );
    let world = World::new(&yaml).row("t", json!({"id": "1", "tags": ["x", "y"]}));
    let asks = |roles| json!({"jwt": {"sub": "amy", "tags": ["y", "z"], "roles": roles}});
    assert_eq!(world.reads(asks(json!(["ops"]))), ["t 1"]);
    assert!(world.reads(asks(json!(["dev"]))).is_empty());
    assert!(world.reads(asks(json!(null))).is_empty());
}

/// `sync-rules.md` 12: what a request's values look like to expressions.
#[test]
fn values_of_the_request_are_what_the_reference_makes_of_them() {
    let yaml = "bucket_definitions:\n  b:\n    parameters: |\n      SELECT \
                typeof(request.jwt() ->> 'n') AS a, 'org-' || (request.jwt() ->> 'n') AS b,\n        \
                request.jwt() ->> 'list' AS c, token_parameters.n AS d, token_parameters.user_id AS e,\n        \
                user_parameters.flag AS f, request.parameter('deep.er') AS g, request.jwt() ->> 'big' AS h\n    \
                accept_potentially_dangerous_queries: true\n    data: []\n";
    let request = json!({
        "jwt": {"sub": 7, "n": 5, "big": 9007199254740993i64, "list": [1, "a"],
            "parameters": {"n": 4, "user_id": "x"}},
        "parameters": {"flag": true, "deep.er": 1.5}
    });
    assert_eq!(
        World::new(yaml).bucket_names(request),
        [r#"b["real","org-5","[1.0,\"a\"]",4,7,1,1.5,9007199254740993]"#]
    );
}

#[test]
fn one_client_parameter_that_is_not_an_object_counts_as_none() {
    let yaml = "config: {edition: 3}\nstreams:\n  s:\n    auto_subscribe: true\n    \
                accept_potentially_dangerous_queries: true\n    \
                query: SELECT * FROM t WHERE a = connection.parameter('a')\n";
    let world = World::new(yaml).row("t", json!({"id": "1", "a": "x"}));
    let asks = |p| json!({"jwt": {"sub": "amy"}, "parameters": p});
    assert_eq!(world.reads(asks(json!({"a": "x"}))), ["t 1"]);
    for nothing in [json!(null), json!([]), json!("x"), json!({"a": null}), json!({})] {
        assert!(world.reads(asks(nothing)).is_empty());
    }
}
