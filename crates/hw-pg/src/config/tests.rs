use super::*;

fn parse(text: &str) -> (ConnectConfig, Vec<Diagnostic>) {
    ConnectConfig::parse_in(text, &Environment::of(&[("USER", "me")])).unwrap()
}

fn error(text: &str) -> String {
    ConnectConfig::parse_in(text, &Environment::of(&[("USER", "me")])).unwrap_err().to_string()
}

/// Hosts, user, database, password of the first host.
fn check(text: &str, hosts: &str, user: &str, database: &str, password: Option<&str>) {
    let (config, warnings) = parse(text);
    let shown: Vec<String> = config.hosts().iter().map(Host::to_string).collect();
    assert_eq!(shown.join(" "), hosts, "{text}");
    assert_eq!((config.user(), config.database()), (user, database), "{text}");
    assert_eq!(config.password(&config.hosts()[0]), password, "{text}");
    assert_eq!(warnings, [], "{text}");
}

#[test]
fn urls_are_read_as_libpq_reads_them() {
    check("postgres://u:p@h:1/d", "h:1", "u", "d", Some("p"));
    check("postgresql://h/d", "h:5432", "me", "d", None);
    check("postgres://u@h", "h:5432", "u", "u", None);
    check("postgres://u:p%40%2F%3a@h/d%20b", "h:5432", "u", "d b", Some("p@/:"));
    check("postgres://u:p:q@h/d", "h:5432", "u", "d", Some("p:q"));
    check("postgres://h1:1,h2,[::1]:3/d", "h1:1 h2:5432 [::1]:3", "me", "d", None);
    check("postgres://u@%2Frun%2Fpg:7/d", "/run/pg/.s.PGSQL.7", "u", "d", None);
    check("postgres:///d?host=/run/pg&user=u", "/run/pg/.s.PGSQL.5432", "u", "d", None);
    check("postgres://u:a#b?c@h/d", "h:5432", "u", "d", Some("a#b?c"));
    check("postgres://h/d?hostaddr=10.0.0.1", "h:5432", "me", "d", None);
    check(" postgres://u@h/d \n", "h:5432", "u", "d", None);
}

#[test]
fn keywords_are_read_as_libpq_reads_them() {
    check("host=h port=1 user=u dbname=d password=p", "h:1", "u", "d", Some("p"));
    check("host = h  password = 'a b\\'c\\\\'", "h:5432", "me", "me", Some("a b'c\\"));
    check("host=h password=a\\ b", "h:5432", "me", "me", Some("a b"));
    check("host=a,b port=1,2", "a:1 b:2", "me", "me", None);
    check("host=a,b port=7", "a:7 b:7", "me", "me", None);
    check("host=h user='' password=''", "h:5432", "me", "me", None);
    check("host=/run/pg", "/run/pg/.s.PGSQL.5432", "me", "me", None);
    check("hostaddr=::1 port=9", "[::1]:9", "me", "me", None);
}

#[test]
fn an_error_says_what_and_where_and_never_the_password() {
    for (text, expected) in [
        (
            "postgres://u:hunter/2@h/d",
            "error[HW2001]: the port is not a number\n  \
             where: character 14 of the connection string\n  \
             mend:  write %2F for a / and %40 for an @ in the user or the password",
        ),
        (
            "postgres://u:hun@ter@h/d",
            "error[HW2001]: a second \"@\" before the host\n  \
             where: character 21 of the connection string\n  \
             mend:  write %40 for an @ in the user or the password",
        ),
        (
            "postgres://u:hunter%2@h/d",
            "error[HW2001]: a \"%\" without two hexadecimal digits\n  \
             where: character 20 of the connection string\n  \
             mend:  write %25 for a % sign",
        ),
        (
            "host=h password=hun ter",
            "error[HW2001]: a key without \"=\" and value\n  \
             where: character 21 of the connection string\n  \
             mend:  write key=value; put a value with spaces in single quotes",
        ),
        (
            "host=h password='hunter",
            "error[HW2001]: a quoted value has no closing quote\n  \
             where: character 17 of the connection string\n  \
             mend:  write \\' for a quote inside of quotes",
        ),
        (
            "host=h sslmode=required",
            "error[HW2001]: sslmode has a value that it cannot have\n  \
             where: character 16 of the connection string\n  \
             mend:  use one of disable, allow, prefer, require, verify-ca, verify-full",
        ),
        (
            "host=h port=70000",
            "error[HW2001]: a port is not a number from 1 to 65535\n  \
             where: character 13 of the connection string",
        ),
        (
            "host=a,b,c port=1,2",
            "error[HW2001]: 2 ports do not fit 3 hosts\n  \
             where: character 17 of the connection string",
        ),
        (
            "service=prod",
            "error[HW2018]: service is not supported\n  \
             where: character 9 of the connection string\n  \
             mend:  write the service's settings as a connection string",
        ),
        (
            "host=h sslrootcert=system sslmode=require",
            "error[HW2001]: sslmode=require may not be used with sslrootcert=system\n  \
             where: character 35 of the connection string\n  \
             mend:  use sslmode=verify-full",
        ),
        (
            "mysql://u@h/d",
            "error[HW2001]: the connection string's scheme is not that of Postgres\n  \
             where: character 1 of the connection string\n  \
             mend:  write postgres://user@host:port/database",
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
        assert!(!error(text).contains("hun"), "{text}");
    }
}

#[test]
fn an_unknown_key_is_a_warning_with_the_nearest_known_key() {
    let warning = |text| {
        let (_, warnings) = parse(text);
        assert_eq!(warnings.len(), 1, "{text}");
        warnings[0].to_string()
    };
    assert_eq!(
        warning("postgres://u@h/d?sslmod=require"),
        "warning[HW2002]: unknown key \"sslmod\" is ignored\n  \
         where: character 25 of the connection string\n  \
         mend:  did you mean \"sslmode\"?"
    );
    assert_eq!(
        warning("postgres://u@h/d?pgbouncer=true"),
        "warning[HW2002]: unknown key \"pgbouncer\" is ignored\n  \
         where: character 28 of the connection string"
    );
    assert!(!warning("host=h password=my secret=word").contains("secret"));
    assert!(warning("host=h database=d").ends_with("did you mean \"dbname\"?"));
}

#[test]
fn the_environment_completes_what_the_string_leaves_out() {
    let environment = Environment::of(&[
        ("USER", "me"),
        ("PGHOST", "envhost"),
        ("PGPORT", "6000"),
        ("PGUSER", "envuser"),
        ("PGPASSWORD", "envpassword"),
        ("PGSSLMODE", "require"),
        ("PGAPPNAME", "mine"),
    ]);
    let (config, _) = ConnectConfig::parse_in("dbname=d", &environment).unwrap();
    assert_eq!(config.redacted(), "postgres://envuser@envhost:6000/d?sslmode=require");
    assert_eq!(config.password(&config.hosts()[0]), Some("envpassword"));
    assert_eq!(config.application_name(), "mine");
    let (config, _) =
        ConnectConfig::parse_in("postgres://u@h:1/d?sslmode=disable", &environment).unwrap();
    assert_eq!(config.redacted(), "postgres://u@h:1/d?sslmode=disable");
    let environment = Environment::of(&[("USER", "me"), ("PGSSLMODE", "on")]);
    let finding = ConnectConfig::parse_in("host=h", &environment).unwrap_err();
    assert_eq!(finding.context.as_deref(), Some("environment variable PGSSLMODE"));
}

#[test]
fn the_password_file_is_asked_per_host_and_database() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pass");
    std::fs::write(&path, "a:1:*:u:first\nlocalhost:*:d:u:local\n*:*:other:u:third\n").unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let text = format!("host=a,b,/tmp port=1 user=u dbname=d passfile={}", path.display());
    let (config, warnings) = parse(&text);
    assert_eq!(warnings, []);
    let passwords = |config: &ConnectConfig| -> Vec<Option<String>> {
        config.hosts().iter().map(|host| config.password(host).map(str::to_owned)).collect()
    };
    assert_eq!(passwords(&config), [Some("first".into()), None, Some("local".into())]);
    let other = config.with_database("other");
    assert_eq!(
        passwords(&other),
        [Some("first".into()), Some("third".into()), Some("third".into())]
    );
}

#[test]
fn pinned_settings_come_behind_the_users_options() {
    let text = "host=h options='-c search_path=app -c TimeZone=Asia/Tokyo'";
    let (config, _) = parse(text);
    let pinned = "-c search_path=app -c TimeZone=Asia/Tokyo -c DateStyle=ISO \
                  -c IntervalStyle=postgres -c TimeZone=UTC -c bytea_output=hex \
                  -c extra_float_digits=1";
    let own = "-c statement_timeout=0 -c lock_timeout=10s \
               -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0";
    assert_eq!(
        config.options(),
        format!("{pinned} {own} -c default_transaction_read_only=off -c jit=off")
    );
    assert_eq!(config.for_users().options(), pinned);
    // By this one of several hosts is chosen.
    let (chosen, _) = parse(&format!("{text} target_session_attrs=read-write"));
    assert_eq!(chosen.options(), format!("{pinned} {own} -c jit=off"));
    assert_eq!(config.application_name(), "headwater");
}

#[test]
fn tls_settings_follow_libpq() {
    let tls = |text| parse(text).0.tls().clone();
    assert_eq!(tls("host=h").mode, SslMode::Prefer);
    assert_eq!(tls("host=h sslmode=allow").mode, SslMode::Prefer);
    assert_eq!(tls("postgres://h/d?ssl=true").mode, SslMode::Require);
    assert_eq!(tls("host=h sslrootcert=system").mode, SslMode::VerifyFull);
    assert_eq!(tls("host=h sslrootcert=system").roots, RootCertificates::System);
    assert_eq!(tls("host=h sslrootcert=/r").roots, RootCertificates::File("/r".into()));
    assert!(tls("host=h ssl_min_protocol_version=TLSv1.3").only_tls13);
    assert!(!tls("host=h sslsni=0").send_name);
}

#[test]
fn the_password_appears_in_no_debug_text() {
    let (config, _) = parse("postgres://u:hunter2@h/d");
    assert_eq!(format!("{config:?}"), "ConnectConfig(postgres://u@h:5432/d?sslmode=prefer)");
    let (config, _) = parse("postgres://u:hunter2@%2Frun%2Fpg/d");
    assert_eq!(config.redacted(), "postgres://u@%2Frun%2Fpg:5432/d");
}

#[test]
fn timeouts_are_bounded_unless_asked_otherwise() {
    let timeout = |text| parse(text).0.connect_timeout();
    assert_eq!(timeout("host=h"), Some(ConnectConfig::DEFAULT_CONNECT_TIMEOUT));
    assert_eq!(timeout("host=h connect_timeout=1"), Some(Duration::from_secs(2)));
    assert_eq!(timeout("host=h connect_timeout=0"), None);
    // A connection whose other end is gone is noticed within half a minute.
    let keepalive = parse("host=h").0.keepalive();
    let (idle, interval) = (keepalive.idle.expect("set"), keepalive.interval.expect("set"));
    let noticed = idle + interval * keepalive.count.expect("set");
    assert!(keepalive.enabled && noticed <= Duration::from_secs(30), "{keepalive:?}");
    assert!(keepalive.user_timeout.is_some_and(|limit| limit <= Duration::from_secs(30)));
    let asked = parse("host=h keepalives=0 keepalives_idle=99 tcp_user_timeout=0").0.keepalive();
    assert_eq!((asked.enabled, asked.idle), (false, Some(Duration::from_secs(99))));
    assert_eq!(asked.user_timeout, None);
}
