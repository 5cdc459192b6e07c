//! Connections as libpq makes them: passwords, TLS, sockets, several hosts, the pool. Texts are
//! behaviour, so they are compared whole.

use hw_pg::config::{ConnectConfig, Environment, PINNED_SETTINGS};
use hw_pg::error::{PgError, PgErrorKind, Policy};
use hw_pg::{sql, transport};
use hw_testkit::{Auth, Cluster, ClusterOptions, poll_until};
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::future::ready;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn config(text: &str) -> ConnectConfig {
    ConnectConfig::parse_in(text, &Environment::of(&[("USER", "postgres")])).unwrap().0
}

async fn error(text: &str) -> PgError {
    match sql::connect(&config(text)).await {
        Ok(_) => panic!("connected"),
        Err(error) => error,
    }
}

/// The finding's whole text, ports and paths being different each time.
fn shown(error: &PgError, cluster: &Cluster) -> String {
    error.diagnostic().to_string().replace(&cluster.port().to_string(), "PORT")
}

async fn one(text: &str, query: &str) -> String {
    let (client, _driver) = sql::connect(&config(text)).await.unwrap();
    client.query_one(query, &[]).await.unwrap().get(0)
}

fn scram() -> Cluster {
    let auth = Auth::Scram { password: String::from("pa ss@:/%'\\") };
    Cluster::start_with(ClusterOptions { auth, ..Default::default() })
}

fn keywords(cluster: &Cluster, more: &str) -> String {
    format!("host=127.0.0.1 port={} dbname=postgres user=postgres {more}", cluster.port())
}

#[tokio::test]
async fn scram_passwords_are_proved_and_a_wrong_one_is_named_without_being_shown() {
    let cluster = scram();
    assert_eq!(one(&cluster.url("postgres"), "SELECT current_user::text").await, "postgres");
    let quoted = keywords(&cluster, r"password='pa ss@:/%\'\\'");
    assert_eq!(one(&quoted, "SELECT current_user::text").await, "postgres");

    let wrong = error(&keywords(&cluster, "password=hunter2")).await;
    assert_eq!(
        shown(&wrong, &cluster),
        "error[HW2008]: password authentication failed for user \"postgres\" (SQLSTATE 28P01)\n  \
         where: connect\n  \
         mend:  check user and password of the connection string"
    );
    assert_eq!(wrong.policy(), Policy::Stop);
    assert_eq!(wrong.sqlstate(), Some("28P01"));

    let missing = error(&keywords(&cluster, "")).await;
    assert_eq!(
        shown(&missing, &cluster),
        "error[HW2008]: 127.0.0.1:PORT asks for a password, and none is configured\n  \
         where: connect\n  \
         mend:  write the password into the connection string, PGPASSWORD or the password file"
    );

    let unknown = error(&cluster.url("absent")).await;
    assert_eq!(
        shown(&unknown, &cluster),
        "error[HW2008]: database \"absent\" does not exist (SQLSTATE 3D000)\n  where: connect\n  \
         mend:  create the database, or correct its name in the connection string"
    );
    let trusting = Cluster::start();
    let nobody = error(&keywords(&trusting, "user=nobody_here")).await;
    let mend = nobody.diagnostic().mend.expect("a mend");
    assert!(mend.starts_with("create the role"), "{nobody}: {mend}");
}

#[tokio::test]
async fn the_password_file_gives_the_password() {
    let cluster = scram();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pass");
    let line = format!("127.0.0.1:{}:*:postgres:pa ss@\\:/%'\\\\\n", cluster.port());
    std::fs::write(&file, line).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let named = keywords(&cluster, &format!("passfile={}", file.display()));
    assert_eq!(one(&named, "SELECT 'in'").await, "in");

    std::fs::rename(&file, directory.path().join(".pgpass")).unwrap();
    let home = directory.path().display().to_string();
    let environment = Environment::of(&[("HOME", &home)]);
    let (config, warnings) =
        ConnectConfig::parse_in(&keywords(&cluster, ""), &environment).unwrap();
    assert_eq!(warnings, []);
    sql::connect(&config).await.unwrap();
}

#[tokio::test]
async fn a_unix_socket_is_a_host_that_starts_with_a_slash() {
    let cluster = scram();
    let directory = cluster.socket_dir().display().to_string();
    let text = format!("host={directory} port={} user=postgres sslmode=require", cluster.port());
    assert_eq!(one(&text, "SELECT 'in'").await, "in", "a socket has no TLS, whatever sslmode says");
    let url = format!(
        "postgres://postgres@{}:{}/postgres",
        directory.replace('/', "%2F"),
        cluster.port()
    );
    assert_eq!(one(&url, "SELECT 'in'").await, "in");
}

#[tokio::test]
async fn f30_every_session_runs_under_the_pinned_settings_whatever_the_role_says() {
    let cluster = Cluster::start();
    let client = cluster.client("postgres").await;
    client
        .batch_execute(
            "ALTER ROLE postgres SET DateStyle = 'German';
             ALTER ROLE postgres SET IntervalStyle = 'iso_8601';
             ALTER ROLE postgres SET TimeZone = 'Asia/Tokyo';
             ALTER ROLE postgres SET bytea_output = 'escape';
             ALTER ROLE postgres SET extra_float_digits = 0;
             ALTER ROLE postgres SET client_encoding = 'LATIN1';
             ALTER ROLE postgres SET search_path = mine;",
        )
        .await
        .unwrap();
    let text = keywords(&cluster, "options='-c TimeZone=Europe/Paris -c work_mem=1MB'");
    let (client, _driver) = sql::connect(&config(&text)).await.unwrap();
    let setting = async |name: &str| -> String {
        client.query_one("SELECT current_setting($1)", &[&name]).await.unwrap().get(0)
    };
    for (name, value) in PINNED_SETTINGS {
        assert_eq!(setting(name).await.split(',').next(), Some(value), "{name}");
    }
    assert_eq!(setting("client_encoding").await, "UTF8");
    assert_eq!(setting("application_name").await, "headwater");
    assert_eq!(setting("search_path").await, "mine", "the user's own");
    assert_eq!(setting("work_mem").await, "1MB", "the user's own");
}

#[tokio::test]
async fn nobody_listening_names_the_host_and_is_tried_again_later() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let refused = error(&format!("host=127.0.0.1 port={port} password=hunter2")).await;
    assert_eq!(refused.policy(), Policy::RetryWithBackoff);
    assert_eq!(
        refused.diagnostic().to_string(),
        format!(
            "error[HW2004]: connect to 127.0.0.1:{port}: Connection refused (os error 111)\n  \
             where: connect\n  \
             mend:  check that Postgres runs there and that its port can be reached from here"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_host_that_never_answers_is_given_up_after_the_connect_timeout() {
    // The kernel accepts, nobody answers. The clock is the test's own.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent = error(&format!("host=127.0.0.1 port={port} connect_timeout=7")).await;
    assert_eq!(silent.to_string(), format!("connect: 127.0.0.1:{port} did not answer within 7 s"));
    assert_eq!(silent.policy(), Policy::RetryWithBackoff);
}

#[tokio::test]
async fn hosts_are_tried_in_turn_until_one_is_what_is_asked_for() {
    let cluster = Cluster::start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = listener.local_addr().unwrap().port();
    drop(listener);
    let hosts = format!("host=127.0.0.1,127.0.0.1 port={dead},{} user=postgres", cluster.port());
    assert_eq!(one(&hosts, "SELECT 'in'").await, "in");
    assert_eq!(one(&format!("{hosts} target_session_attrs=read-write"), "SELECT 'in'").await, "in");
    let preferred = format!("{hosts} target_session_attrs=prefer-standby");
    assert_eq!(one(&preferred, "SELECT 'in'").await, "in");
    let standby = error(&format!("{hosts} target_session_attrs=standby")).await;
    assert_eq!(
        shown(&standby, &cluster),
        "error[HW2019]: 127.0.0.1:PORT is not a standby\n  where: connect\n  \
         mend:  list a host that is, or leave target_session_attrs out"
    );
}

#[tokio::test]
async fn the_pool_is_bounded_and_drops_broken_connections() {
    let cluster = Cluster::start();
    let pool = sql::Pool::new(config(&cluster.url("postgres")), 2, Duration::from_millis(1));
    let pid = "SELECT pg_backend_pid()";
    let (first, second) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let first_pid: i32 = first.query_one(pid, &[]).await.unwrap().get(0);
    let busy = pool.get().await.unwrap_err();
    assert!(matches!(busy.kind(), PgErrorKind::PoolBusy { size: 2, .. }));
    assert_eq!(busy.policy(), Policy::RetryWithBackoff);
    drop(second);
    let second = pool.get().await.unwrap();
    let terminated = second
        .query_one("SELECT pg_terminate_backend($1)", &[&first_pid])
        .await
        .unwrap()
        .get::<_, bool>(0);
    assert!(terminated);
    // The connection notices when it is used, and the pool does not hand it out again.
    let failed = PgError::from(first.query_one(pid, &[]).await.unwrap_err());
    assert_eq!(failed.policy(), Policy::RetryWithBackoff);
    poll_until("the broken connection is closed", || ready(first.is_closed().then_some(()))).await;
    drop(first);
    let fresh = pool.get().await.unwrap();
    assert_ne!(fresh.query_one(pid, &[]).await.unwrap().get::<_, i32>(0), first_pid);
    assert_eq!((pool.size(), pool.open_connections()), (2, 2));
}

/// A certificate authority or a self-signed certificate.
struct Made {
    certificate: Certificate,
    key: KeyPair,
    params: CertificateParams,
}

/// Names that a certificate holds.
enum Names<'a> {
    /// As alternative names.
    Alternative(&'a [&'a str]),
    /// As the common name only, as `openssl req -subj /CN=…` makes it.
    Common(&'a str),
}

fn params(names: Names<'_>, authority: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    match names {
        Names::Alternative(names) => {
            let owned: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            params = CertificateParams::new(owned).unwrap();
        }
        Names::Common(name) => params.distinguished_name.push(DnType::CommonName, name),
    }
    if authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params
}

fn self_signed(names: Names<'_>) -> Made {
    let (params, key) = (params(names, true), KeyPair::generate().unwrap());
    Made { certificate: params.self_signed(&key).unwrap(), key, params }
}

fn signed_by(authority: &Made, names: Names<'_>) -> Made {
    let (params, key) = (params(names, false), KeyPair::generate().unwrap());
    let issuer = Issuer::from_params(&authority.params, &authority.key);
    Made { certificate: params.signed_by(&key, &issuer).unwrap(), key, params }
}

/// A server that has TLS with this certificate.
fn with_tls(cluster: Cluster, server: &Made) -> Cluster {
    cluster.serve_tls(&server.certificate.pem(), &server.key.serialize_pem());
    cluster
}

fn root_file(directory: &Path, root: &Made) -> PathBuf {
    let path = directory.join("root.crt");
    std::fs::write(&path, root.certificate.pem()).unwrap();
    path
}

const IS_TLS: &str = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

#[tokio::test]
async fn require_without_tls_on_the_server_is_refused_and_prefer_goes_on() {
    let cluster = Cluster::start();
    let refused = error(&keywords(&cluster, "sslmode=require")).await;
    assert_eq!(
        shown(&refused, &cluster),
        "error[HW2006]: 127.0.0.1:PORT does not offer TLS, and sslmode=require demands it\n  \
         where: connect\n  \
         mend:  set ssl = on in postgresql.conf, or use sslmode=prefer if the network is trusted"
    );
    assert_eq!(refused.policy(), Policy::Stop);
    assert_eq!(one(&keywords(&cluster, "sslmode=prefer"), IS_TLS).await, "false");
}

#[tokio::test]
async fn each_sslmode_checks_what_libpq_checks() {
    let authority = self_signed(Names::Common("Test Root"));
    let names = Names::Alternative(&["localhost", "db.example.com"]);
    let cluster = with_tls(Cluster::start(), &signed_by(&authority, names));
    let directory = tempfile::tempdir().unwrap();
    let root = root_file(directory.path(), &authority).display().to_string();
    let by_name = |more: &str| {
        keywords(&cluster, "").replace("host=127.0.0.1", "host=localhost hostaddr=127.0.0.1") + more
    };

    assert_eq!(one(&keywords(&cluster, "sslmode=disable"), IS_TLS).await, "false");
    assert_eq!(one(&keywords(&cluster, ""), IS_TLS).await, "true", "prefer is the default");
    assert_eq!(one(&keywords(&cluster, "sslmode=require"), IS_TLS).await, "true");
    let verify = |mode: &str| format!("sslmode={mode} sslrootcert={root}");
    assert_eq!(one(&keywords(&cluster, &verify("verify-ca")), IS_TLS).await, "true");
    assert_eq!(one(&by_name(&verify("verify-full")), IS_TLS).await, "true");
    assert_eq!(
        one(&by_name(&(verify("verify-full") + " ssl_min_protocol_version=TLSv1.3")), IS_TLS).await,
        "true"
    );

    let other_name = error(&keywords(&cluster, &verify("verify-full"))).await;
    assert_eq!(
        shown(&other_name, &cluster),
        "error[HW2007]: TLS with 127.0.0.1:PORT: the server's certificate is for \
         localhost, db.example.com\n  where: connect\n  \
         mend:  connect by a name of the certificate, or use sslmode=verify-ca"
    );
    assert_eq!(other_name.policy(), Policy::Stop);

    let stranger = self_signed(Names::Common("Another Root"));
    let strange = root_file(directory.path(), &stranger).display().to_string();
    for mode in ["require", "verify-ca", "verify-full"] {
        let refused = error(&by_name(&format!("sslmode={mode} sslrootcert={strange}"))).await;
        assert_eq!(
            shown(&refused, &cluster),
            "error[HW2007]: TLS with localhost:PORT: no trusted root signed the server's \
             certificate\n  where: connect\n  \
             mend:  name the root certificate file with sslrootcert=…, or use sslrootcert=system",
            "{mode}"
        );
    }
    let fell_back = format!("sslmode=prefer sslrootcert={strange}");
    assert_eq!(one(&keywords(&cluster, &fell_back), IS_TLS).await, "false", "as libpq");

    let renewed = self_signed(Names::Common("Test Root"));
    let old = root_file(directory.path(), &renewed).display().to_string();
    let refused = error(&by_name(&format!("sslmode=verify-ca sslrootcert={old}"))).await;
    assert_eq!(
        shown(&refused, &cluster),
        "error[HW2007]: TLS with localhost:PORT: the key of the trusted root did not sign the \
         server's certificate\n  where: connect\n  \
         mend:  renew the root certificate file: its name fits, its key does not"
    );

    let without = error(&keywords(&cluster, "sslmode=verify-full")).await;
    assert_eq!(
        shown(&without, &cluster),
        "error[HW2016]: sslmode=verify-full needs root certificates\n  where: connect\n  \
         mend:  name a file with sslrootcert=…, or use sslrootcert=system"
    );
}

#[tokio::test]
async fn verify_full_takes_the_self_signed_certificate_that_the_manual_tells_people_to_make() {
    let server = self_signed(Names::Common("localhost"));
    let cluster = with_tls(Cluster::start(), &server);
    let directory = tempfile::tempdir().unwrap();
    let root = root_file(directory.path(), &server).display().to_string();
    let full = format!("sslmode=verify-full sslrootcert={root}");
    let by_name =
        keywords(&cluster, &full).replace("host=127.0.0.1", "host=LOCALHOST hostaddr=127.0.0.1");
    assert_eq!(one(&by_name, IS_TLS).await, "true");
    let refused = error(&keywords(&cluster, &full)).await;
    assert_eq!(
        shown(&refused, &cluster),
        "error[HW2007]: TLS with 127.0.0.1:PORT: the server's certificate is for localhost\n  \
         where: connect\n  mend:  connect by a name of the certificate, or use sslmode=verify-ca"
    );
    let not_trusted = root_file(directory.path(), &self_signed(Names::Common("localhost")));
    let refused =
        error(&by_name.replace(&root, &not_trusted.display().to_string())).await.to_string();
    assert!(refused.contains("certificate"), "{refused}");
}

#[tokio::test]
async fn scram_is_bound_to_the_tls_channel_when_asked() {
    let cluster = with_tls(scram(), &self_signed(Names::Common("localhost")));
    let password = r"password='pa ss@:/%\'\\'";
    let bound = format!("{password} sslmode=require channel_binding=require");
    assert_eq!(one(&keywords(&cluster, &bound), IS_TLS).await, "true");
    let plain = format!("{password} sslmode=disable channel_binding=require");
    let refused = error(&keywords(&cluster, &plain)).await;
    assert_eq!(refused.policy(), Policy::Stop);
    assert!(!refused.to_string().contains("pa ss"), "{refused}");
}

#[tokio::test]
async fn prefer_goes_back_to_plain_when_pg_hba_refuses_tls() {
    let cluster = with_tls(Cluster::start(), &self_signed(Names::Common("localhost")));
    std::fs::write(
        cluster.data_dir().join("pg_hba.conf"),
        "local all all trust\nhostnossl all all 127.0.0.1/32 trust\n",
    )
    .unwrap();
    let client = cluster.client("postgres").await;
    client.query_one("SELECT pg_reload_conf()", &[]).await.unwrap();
    let no_tls = keywords(&cluster, "sslmode=require");
    poll_until("the new rules hold", || async {
        sql::connect(&config(&no_tls)).await.is_err().then_some(())
    })
    .await;
    assert_eq!(one(&keywords(&cluster, "sslmode=prefer"), IS_TLS).await, "false");
    let refused = error(&no_tls).await;
    assert_eq!(refused.sqlstate(), Some("28000"));
    assert_eq!(
        refused.diagnostic().mend.as_deref(),
        Some("allow this user, database and address in pg_hba.conf")
    );
}

#[tokio::test]
async fn a_transport_knows_its_host_password_and_channel() {
    let cluster = with_tls(Cluster::start(), &self_signed(Names::Common("localhost")));
    let text = keywords(&cluster, "password=p sslmode=require");
    let transport = transport::connect(&config(&text)).await.unwrap();
    assert!(transport.is_encrypted());
    assert_eq!(transport.password(), Some("p"));
    assert_eq!(transport.host().port, cluster.port());
    assert_eq!(transport.channel_binding().map(<[u8]>::len), Some(32));
}
