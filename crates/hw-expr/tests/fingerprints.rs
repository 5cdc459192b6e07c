//! Which changes of a configuration build buckets again (`engine.md` 8).

use hw_expr::sync_config::SyncConfig;

fn load(yaml: &str) -> SyncConfig {
    let loaded = SyncConfig::load(yaml, "sync.yaml", None);
    loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics))
}

fn fingerprint(yaml: &str) -> [u8; 32] {
    load(yaml).sources()[0].fingerprint
}

const BASE: &str = "bucket_definitions:\n  b:\n    \
    parameters: SELECT org FROM m WHERE who = request.user_id()\n    \
    data: [SELECT * FROM t WHERE org = bucket.org AND NOT hidden]\n";

#[test]
fn who_gets_a_bucket_and_when_does_not_change_the_bucket() {
    let base = fingerprint(BASE);
    assert_eq!(base, fingerprint(&BASE.replace("FROM m", "FROM members")));
    assert_eq!(base, fingerprint(&BASE.replace("    data:", "    priority: 1\n    data:")));
    assert_eq!(base, fingerprint(&BASE.replace("SELECT * FROM t", "select   *\n      from t")));
}

#[test]
fn what_is_in_a_bucket_does_change_it() {
    let base = fingerprint(BASE);
    for (old, new) in [
        ("SELECT *", "SELECT id"),
        ("NOT hidden", "hidden"),
        ("FROM t ", "FROM u "),
        ("  b:", "  c:"),
        ("bucket_definitions", "config: {timestamps_iso8601: true}\nbucket_definitions"),
    ] {
        assert_ne!(base, fingerprint(&BASE.replacen(old, new, 1)), "{new}");
    }
}

#[test]
fn an_index_is_known_by_what_it_holds() {
    let lookup = |yaml: &str| load(yaml).lookups()[0].fingerprint;
    let base = lookup(BASE);
    assert_eq!(base, lookup(&BASE.replace("NOT hidden", "hidden")));
    assert_ne!(base, lookup(&BASE.replace("SELECT org FROM m", "SELECT id AS org FROM m")));
    assert_ne!(base, lookup(&BASE.replace("who = request", "boss = request")));
}

#[test]
fn equal_indexes_are_shared_by_all_definitions() {
    let yaml = "config: {edition: 3}\nstreams:\n  a:\n    query: SELECT * FROM t WHERE org IN \
        (SELECT org FROM m WHERE who = auth.user_id())\n  b:\n    query: SELECT u.* FROM u JOIN m \
        ON u.org = m.org WHERE m.who = auth.user_id()\n";
    let config = load(yaml);
    assert_eq!(config.lookups().len(), 1);
    let tables: Vec<String> = config.tables().iter().map(ToString::to_string).collect();
    assert_eq!(tables, ["public.m", "public.t", "public.u"]);
    let of = |i: usize| config.definitions()[i].reads.iter().map(|read| read.table.to_string());
    assert_eq!(of(1).collect::<Vec<_>>(), ["public.m", "public.u"]);
}

/// What gives no more is taken from clients before it is built anew (`sync.from: policies`); what gives more is not.
#[test]
fn a_definition_gives_all_of_what_it_was_before_a_query_came_also_into_the_same_buckets() {
    let of = |queries: &[&str]| {
        let queries: Vec<String> =
            queries.iter().map(|query| format!("      - {query}\n")).collect();
        let queries = queries.concat();
        load(&format!("config: {{edition: 3}}\nstreams:\n  s:\n    queries:\n{queries}"))
    };
    let own = "SELECT * FROM t WHERE owner = auth.user_id()";
    for more in [
        "SELECT * FROM t WHERE author = auth.user_id()",
        "SELECT * FROM t WHERE owner = auth.user_id() AND open",
        "SELECT * FROM t WHERE org = auth.parameter('org')",
        "SELECT * FROM t WHERE open",
        "SELECT * FROM u WHERE owner = auth.user_id()",
    ] {
        let (few, many) = (of(&[own]), of(&[own, more]));
        assert!(many.gives_all_of(&few, "s"), "{more}");
        assert!(!few.gives_all_of(&many, "s"), "{more}");
        assert!(many.gives_all_of(&of(&[more, own]), "s"), "{more}");
    }
    let base = of(&[own]);
    for other in [
        "SELECT id FROM t WHERE owner = auth.user_id()",
        "SELECT * FROM t WHERE owner = auth.user_id() AND open",
        "SELECT * FROM t WHERE owner = auth.parameter('owner')",
        "SELECT * FROM t WHERE owner = auth.user_id() AND auth.parameter('admin')",
    ] {
        assert!(!of(&[other]).gives_all_of(&base, "s"), "{other}");
        assert!(!base.gives_all_of(&of(&[other]), "s"), "{other}");
    }
    let iso = load(
        "config: {edition: 2, timestamps_iso8601: false}\nbucket_definitions:\n  s:\n    data: [SELECT * FROM t]\n",
    );
    let plain =
        load("config: {edition: 2}\nbucket_definitions:\n  s:\n    data: [SELECT * FROM t]\n");
    assert!(!iso.gives_all_of(&plain, "s") && plain.gives_all_of(&plain, "s"));
}
