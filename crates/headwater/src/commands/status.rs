//! `headwater status`: asks a running server and prints what it is doing.
//!
//! In: the server's `/admin/api/status`. Out: a table for people, or the JSON. Exit code 1 when
//! the server is there but not streaming.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use hw_types::{Code, Diagnostic};

use crate::cli::Status;
use crate::code;
use crate::config::Config;
use crate::config::parse::show_bytes;
use crate::report::{self, Exit};
use crate::server::status::{CopyReport, HeldReport, StatusReport};

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks and prints.
pub async fn run(config: &Config, arguments: &Status) -> Exit {
    let base = match &arguments.url {
        Some(url) => with_scheme(url),
        None => format!("http://{}", reachable(config.admin_listen.unwrap_or(config.listen))),
    };
    let text = match ask(config, base.trim_end_matches('/')).await {
        Ok(text) => text,
        Err(finding) => return super::refuse(*finding),
    };
    let report: StatusReport = match serde_json::from_str(&text) {
        Ok(report) => report,
        Err(_) => {
            let finding =
                Diagnostic::error(code::NOT_HEADWATER, "what answers there is not Headwater")
                    .at(base)
                    .mend("name the server with --url");
            return super::refuse(finding);
        }
    };
    if arguments.json {
        report::answer(&format!("{}\n", text.trim_end()));
    } else {
        report::answer(&table(&report));
    }
    if report.state == "streaming" { Exit::Done } else { Exit::Negative }
}

/// An address as people write it.
fn with_scheme(url: &str) -> String {
    if url.contains("://") { url.to_owned() } else { format!("http://{url}") }
}

/// An address that listens on all interfaces is asked on this machine's own.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

async fn ask(config: &Config, base: &str) -> Result<String, Box<Diagnostic>> {
    let failed = |error: reqwest::Error| {
        Box::new(
            Diagnostic::error(code::NO_ANSWER, format!("no answer: {}", error.without_url()))
                .at(base)
                .mend("is it running? Name another server with --url"),
        )
    };
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().map_err(failed)?;
    let mut request = client.get(format!("{base}/admin/api/status"));
    if let Some(token) = &config.api_token {
        request = request.bearer_auth(token.expose());
    }
    let response = request.send().await.map_err(failed)?;
    let status = response.status();
    if !status.is_success() {
        let body = response.text().await.map_err(failed)?;
        return Err(Box::new(refused(status, &body).at(base)));
    }
    response.text().await.map_err(failed)
}

/// The finding for a refusal, in the server's own words where it is a Headwater that speaks.
fn refused(status: reqwest::StatusCode, body: &str) -> Diagnostic {
    let error = serde_json::from_str::<serde_json::Value>(body).unwrap_or_default();
    let said = |name: &str| error["error"][name].as_str();
    let (Some(refusal), Some(why)) = (said("code"), said("description")) else {
        let what = format!("the server refused: {status}");
        return Diagnostic::error(code::STATUS_REFUSED, what)
            .mend("name the server with --url, and what is between here and there");
    };
    let finding =
        Diagnostic::error(code::STATUS_REFUSED, format!("the server refused: {why} ({refusal})"));
    finding.mend(if refusal == Code(code::API_TOKEN).to_string() {
        "give the server's api_token with --api-token or HEADWATER_API_TOKEN"
    } else if refusal == Code(code::SAME_MACHINE).to_string() {
        "set api_token for the server (HEADWATER_API_TOKEN) and give it here; or set admin_listen \
         for the server (HEADWATER_ADMIN_LISTEN=127.0.0.1:9090) and ask that port on the same \
         machine: --url http://127.0.0.1:9090"
    } else {
        "name the server with --url"
    })
}

/// The report as people read it.
pub fn table(report: &StatusReport) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<14} {value}");
    };
    let trouble = report.trouble.as_ref().map_or(String::new(), |why| format!(": {why}"));
    line("state", format!("{}{trouble}", report.state));
    line("version", report.version.clone());
    line("up", show_seconds(report.uptime_seconds as f64));
    line("database", report.source.database.clone());
    line("lag", show_lag(report));
    let limit = show_bytes(report.source.retained_limit_bytes);
    line(
        "retained log",
        match report.source.retained_bytes {
            Some(bytes) => {
                format!("{} of {limit}", show_bytes(bytes))
            }
            None => "not known".to_owned(),
        },
    );
    line("checkpoint", format!("{} at {}", report.checkpoint.op_id, report.checkpoint.lsn));
    line(
        "sync config",
        match report.checkpoint.sync_version {
            0 => "none in force".to_owned(),
            version => format!("version {version}"),
        },
    );
    let clients = &report.clients;
    line(
        "clients",
        format!(
            "{} streams, {} of {} connections",
            clients.streams, clients.connections, clients.limit
        ),
    );
    for bound in &report.bounds {
        let show = |count: u64| match bound.name.ends_with("_bytes") {
            true => show_bytes(count),
            false => count.to_string(),
        };
        let name = bound.name.trim_end_matches("_bytes").replace('_', " ");
        let used = format!("{} of {} ({name})", show(bound.used), show(bound.limit));
        line(&bound.surface, used);
    }
    let store = &report.store;
    line(
        "store",
        format!(
            "{}, unflushed {} (written out above {}), queue {} of {}, spools {} of {}",
            show_bytes(store.bytes),
            show_bytes(store.memtable_bytes),
            show_bytes(store.memtable_limit_bytes),
            show_bytes(store.queue_bytes),
            show_bytes(store.queue_limit_bytes),
            show_bytes(store.spool_bytes),
            show_bytes(store.spool_limit_bytes)
        ),
    );
    let applied = &report.applied;
    line(
        "applied",
        format!(
            "{} transactions, {} changes of rows, {} rows copied, {} operations",
            applied.transactions, applied.rows, applied.copied_rows, applied.operations
        ),
    );
    for copy in &report.copies {
        line("copying", show_copy(copy));
    }
    let sync = &report.sync;
    for (name, all) in [
        ("lost", &sync.lost),
        ("copied again", &sync.stale_tables),
        ("stands still", &sync.held.iter().map(show_held).collect()),
        ("not served", &sync.withheld),
        ("refused", &sync.refused),
        ("asked instead", &report.live.disagreements),
        ("polled", &report.live.polled),
    ] {
        all.iter().for_each(|one| line(name, one.clone()));
    }
    out
}

fn show_held(held: &HeldReport) -> String {
    match held.write_checkpoints {
        0 => held.definition.clone(),
        count => {
            format!("{}: {count} write checkpoints wait, since {}", held.definition, held.since)
        }
    }
}

fn show_copy(copy: &CopyReport) -> String {
    let estimate = copy.estimated_rows.filter(|estimate| *estimate > 0);
    // A few tables are read at a time, the others wait with the same snapshot.
    if copy.rows == 0 && !copy.read {
        let expected = estimate.map_or(String::new(), |rows| format!(", about {rows} rows"));
        return format!("{}: waits for its turn{expected}", copy.table);
    }
    let of = estimate.map_or(String::new(), |estimate| {
        format!(" of about {estimate} ({} %)", (copy.rows * 100 / estimate).min(100))
    });
    let read = if copy.read { "read, " } else { "" };
    let (rows, bytes) = (copy.rows, show_bytes(copy.bytes));
    let range = copy.range.map(|range| format!(", key range {range}")).unwrap_or_default();
    let time = show_seconds(copy.seconds);
    format!("{}: {read}{rows} rows{of}, {bytes}{range}, for {time}", copy.table)
}

/// How far behind the source, in bytes and time.
pub fn show_lag(report: &StatusReport) -> String {
    match (report.source.lag_bytes, report.source.lag_seconds) {
        (Some(bytes), Some(seconds)) => format!("{}, {}", show_bytes(bytes), show_seconds(seconds)),
        (Some(bytes), None) => show_bytes(bytes),
        _ => "not known".to_owned(),
    }
}

fn show_seconds(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_given_without_its_scheme() {
        assert_eq!(with_scheme("localhost:8080"), "http://localhost:8080");
        assert_eq!(with_scheme("https://sync.example"), "https://sync.example");
    }

    #[test]
    fn the_table_shows_copies_with_their_estimate() {
        let mut report = StatusReport { state: "copying".into(), ..StatusReport::default() };
        report.source.retained_bytes = Some(3 << 20);
        report.source.retained_limit_bytes = 10 << 30;
        report.source.lag_bytes = Some(2048);
        report.source.lag_seconds = Some(0.25);
        report.store.memtable_bytes = 40 << 20;
        report.store.memtable_limit_bytes = 32 << 20;
        report.copies.push(CopyReport {
            table: "public.todos".into(),
            rows: 250,
            bytes: 1 << 20,
            estimated_rows: Some(1000),
            range: Some(3),
            seconds: 130.0,
            ..CopyReport::default()
        });
        report.copies.push(CopyReport {
            table: "public.lists".into(),
            estimated_rows: Some(40),
            ..CopyReport::default()
        });
        report.copies.push(CopyReport {
            table: "public.photos".into(),
            rows: 12,
            read: true,
            ..CopyReport::default()
        });
        report.sync.refused.push("public.photos has no primary key".into());
        report.sync.withheld.push("gallery".into());
        report.live.disagreements.push("public.tasks for app: …".into());
        report.live.polled.push("public.drafts: …".into());
        let table = table(&report);
        for expected in [
            "state          copying\n",
            "lag            2 kB, 250 ms\n",
            "retained log   3 MB of 10 GB\n",
            "sync config    none in force\n",
            "store          0 B, unflushed 40 MB (written out above 32 MB), queue 0 B of 0 B, spools",
            "copying        public.todos: 250 rows of about 1000 (25 %), 1 MB, key range 3, for 2 min\n",
            "copying        public.lists: waits for its turn, about 40 rows\n",
            "not served     gallery\n",
            "refused        public.photos has no primary key\n",
            "asked instead  public.tasks for app: …\n",
            "polled         public.drafts: …\n",
            "copying        public.photos: read, 12 rows, 0 B, for 0 ms\n",
        ] {
            assert!(table.contains(expected), "{expected} in:\n{table}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_do_in_the_words_of_whoever_refused() {
        let body = r#"{"error":{"code":"HW4021","status":403,"description":"Not on this port"}}"#;
        let told = refused(reqwest::StatusCode::FORBIDDEN, body).to_string();
        assert!(told.contains("error[HW1041]: the server refused: Not on this port (HW4021)"));
        assert!(told.contains("set api_token") && told.contains("admin_listen"), "{told}");
        let token = refused(reqwest::StatusCode::UNAUTHORIZED, &body.replace("4021", "4020"));
        assert!(token.mend.is_some_and(|mend| mend.contains("--api-token")));
        let proxy = refused(reqwest::StatusCode::BAD_GATEWAY, "<html>");
        assert_eq!(proxy.what, "the server refused: 502 Bad Gateway");
    }

    #[test]
    fn a_server_on_all_interfaces_is_asked_on_the_loopback() {
        assert_eq!(reachable("0.0.0.0:1".parse().expect("address")).to_string(), "127.0.0.1:1");
        assert_eq!(reachable("[::]:1".parse().expect("address")).to_string(), "[::1]:1");
        assert_eq!(reachable("10.0.0.1:1".parse().expect("address")).to_string(), "10.0.0.1:1");
    }
}
