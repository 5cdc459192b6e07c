//! The log: readable on a terminal, JSON otherwise, never with a secret in it.
//!
//! In: events of `tracing` from every crate. Out: lines on standard error. Invariant: no layer
//! below logs secrets; [`Mask`] is the second line of defence and blots out every configured one
//! should it appear all the same.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use hw_types::Diagnostic;
use tracing::Dispatch;
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::screen;
use crate::code;
use crate::config::Log;
use crate::config::secret::Secret;
use crate::report::{Colour, colour_of};

/// Starts logging for the rest of the process. A second call changes nothing.
///
/// - Errors: HW1006 for a filter that is none.
pub fn start(log: &Log, secrets: &[Secret]) -> Result<(), Box<Diagnostic>> {
    let writer = MaskedStderr { mask: Arc::new(Mask::new(secrets)) };
    let form = match is_for_people(&log.format) {
        true => Form::Text(colour_of(&io::stderr())),
        false => Form::Json,
    };
    // An error: somebody else in this process (a test) has started logging already; theirs stays.
    drop(subscriber(&log.level, form, writer)?.try_init());
    Ok(())
}

/// Whether a log of this format (`auto`, `text`, `json`) is written for people.
pub fn is_for_people(format: &str) -> bool {
    match format {
        "json" => false,
        "auto" => io::stderr().is_terminal(),
        _ => true,
    }
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Lines for people.
    Text(Colour),
    /// One object a line.
    Json,
}

fn subscriber<W>(level: &str, form: Form, writer: W) -> Result<Dispatch, Box<Diagnostic>>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(writer);
    Ok(match form {
        Form::Json => builder.json().flatten_event(true).with_current_span(false).into(),
        Form::Text(colour) => builder
            .with_ansi(colour == Colour::Ansi)
            .with_target(false)
            .compact()
            .fmt_fields(debug_fn(text_field))
            .into(),
    })
}

/// One field as people read it: the message, small facts behind it, and on lines of their own what
/// a finding says of its place and its mend.
fn text_field(out: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "message" => write!(out, "{value:?}"),
        "excerpt" => write!(out, "\n{}", unquoted(value).trim_end()),
        "where" => write!(out, "\n  where: {}", unquoted(value)),
        "mend" => write!(out, "\n  mend:  {}", unquoted(value)),
        name => write!(out, " {name}={value:?}"),
    }
}

/// A text, which arrives in its quoted form, as it is.
fn unquoted(value: &dyn fmt::Debug) -> String {
    let quoted = format!("{value:?}");
    serde_json::from_str(&quoted).unwrap_or(quoted)
}

/// Crates of ours, for which a level without a name counts.
const OURS: [&str; 15] = [
    "headwater",
    "hw_auth",
    "hw_datasync",
    "hw_engine",
    "hw_expr",
    "hw_http",
    "hw_input",
    "hw_live",
    "hw_pg",
    "hw_process",
    "hw_rest",
    "hw_store",
    "hw_sync",
    "hw_types",
    "hw_write",
];

/// The crates below the store. What goes wrong in them we say ourselves, once and with what to do;
/// their own lines repeat it with paths of the machine that built this program.
const BELOW_THE_STORE: [&str; 2] = ["fjall", "lsm_tree"];

/// Crates that log values of rows and statements below warnings.
const TELL_VALUES: [&str; 1] = ["tokio_postgres"];

/// A level alone means our crates; the libraries below tell their warnings, those below the store
/// nothing. Parts can be named: `info,hw_pg=debug`.
///
/// `tokio_postgres` logs the parameters of statements at debug: values of rows. It stays at
/// warnings whatever is asked for, for it as a whole or for a part of it.
fn filter(level: &str) -> Result<EnvFilter, Box<Diagnostic>> {
    // What was written there is not repeated: it may have been meant for another variable.
    let refused = || {
        let what = "log.level is not valid: a part of it is no level";
        Box::new(
            Diagnostic::error(code::CONFIG_VALUE, what)
                .mend("write it as info or as info,hw_pg=debug"),
        )
    };
    let mut directives = vec!["warn".to_owned()];
    directives.extend(BELOW_THE_STORE.iter().map(|name| format!("{name}=off")));
    for directive in level.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        if let Some((target, _)) = directive.split_once('=') {
            // A directive for a span would let through what any crate says inside of it.
            if target.contains('[') {
                return Err(refused());
            }
            // A longer target wins over a shorter one, so a cap on the crate alone would not hold.
            if !TELL_VALUES.iter().any(|name| target.trim().starts_with(name)) {
                directives.push(directive.to_owned());
            }
        } else if directive.parse::<LevelFilter>().is_ok() {
            directives.extend(OURS.iter().map(|name| format!("{name}={directive}")));
        } else {
            return Err(refused());
        }
    }
    directives.extend(TELL_VALUES.iter().map(|name| format!("{name}=warn")));
    EnvFilter::try_new(directives.join(",")).map_err(|_| refused())
}

/// Replaces secrets in text.
pub struct Mask {
    patterns: Vec<String>,
}

/// What stands where a secret stood.
const MASKED: &str = "(secret)";

/// A secret shorter than this would blot out ordinary words.
const SHORTEST: usize = 6;

impl Mask {
    /// Masks `secrets`, and the passwords inside those that are connection strings.
    pub fn new(secrets: &[Secret]) -> Mask {
        let mut patterns = Vec::new();
        for secret in secrets {
            let text = secret.expose();
            let parts = match password_in(text) {
                // A connection string's host and database may be logged, its password may not.
                Some(password) => vec![password.clone(), percent_decoded(&password)],
                None if text.contains("://") || text.contains("host=") => Vec::new(),
                None => vec![text.to_owned(), text.trim_start_matches("base64:").to_owned()],
            };
            for part in parts {
                let escaped = part.replace('\\', "\\\\").replace('"', "\\\"");
                patterns.extend([part, escaped]);
            }
        }
        patterns.retain(|pattern| pattern.len() >= SHORTEST);
        patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.len()));
        patterns.dedup();
        Mask { patterns }
    }

    /// `text` without the secrets.
    pub fn apply(&self, text: &str) -> Option<String> {
        let mut masked: Option<String> = None;
        for pattern in &self.patterns {
            let current = masked.as_deref().unwrap_or(text);
            if current.contains(pattern.as_str()) {
                masked = Some(current.replace(pattern.as_str(), MASKED));
            }
        }
        masked
    }
}

/// The password of a connection string, as it is spelt there.
fn password_in(text: &str) -> Option<String> {
    if let Some((_, rest)) = text.split_once("://") {
        let authority = rest.split(['/', '?']).next()?;
        let (login, _) = authority.rsplit_once('@')?;
        return login.split_once(':').map(|(_, password)| password.to_owned());
    }
    let (_, rest) = text.split_once("password=")?;
    match rest.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next().map(str::to_owned),
        None => rest.split_whitespace().next().map(str::to_owned),
    }
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(code)) => {
                out.push(code);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[derive(Clone)]
struct MaskedStderr {
    mask: Arc<Mask>,
}

impl<'a> MakeWriter<'a> for MaskedStderr {
    type Writer = MaskedStderr;

    fn make_writer(&'a self) -> MaskedStderr {
        self.clone()
    }
}

impl Write for MaskedStderr {
    /// The formatter hands over one event in one piece.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let masked = self.mask.apply(&text);
        screen::above_the_bars(|| {
            // Nobody reading the log is no reason to stop.
            let _ = io::stderr().lock().write_all(masked.as_deref().unwrap_or(&text).as_bytes());
        });
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(secrets: &[&str]) -> Mask {
        Mask::new(&secrets.iter().map(|text| Secret::new(*text)).collect::<Vec<_>>())
    }

    #[test]
    fn a_level_counts_for_our_crates_and_values_of_rows_stay_out_in_any_case() {
        let shown = filter("debug,hyper=trace,tokio_postgres=trace").expect("valid").to_string();
        let directives: Vec<&str> = shown.split(',').collect();
        for expected in ["warn", "hw_pg=debug", "headwater=debug", "hyper=trace"] {
            assert!(directives.contains(&expected), "{expected} in {shown}");
        }
        assert!(directives.contains(&"tokio_postgres=warn"), "{shown}");
        assert!(!directives.contains(&"tokio_postgres=trace"), "{shown}");
    }

    #[test]
    fn fd_48_no_part_of_a_crate_that_logs_values_gets_past_the_cap() {
        for level in [
            "tokio_postgres=trace",
            "tokio_postgres::query=trace",
            "info,tokio_postgres::=debug, tokio_postgres::prepare=trace",
            "tokio=trace",
            "trace",
        ] {
            let said = written(level, Form::Json, || {
                tracing::debug!(target: "tokio_postgres::query", "a value");
                tracing::trace!(target: "tokio_postgres::prepare", "a value");
                tracing::warn!(target: "tokio_postgres::connection", "a warning");
            });
            assert!(!said.contains("a value"), "{level}: {said}");
            assert!(said.contains("a warning"), "{level}: {said}");
        }
    }

    #[test]
    fn fd_46_a_filter_that_is_none_is_refused_without_being_repeated() {
        for level in ["hush", "info,hush", "hw_pg=hush", "[span]=trace", "hw_pg[span]=trace"] {
            let finding = filter(level).expect_err(level);
            assert_eq!(
                finding.to_string(),
                "error[HW1006]: log.level is not valid: a part of it is no level\n  \
                 mend:  write it as info or as info,hw_pg=debug"
            );
        }
    }

    #[test]
    fn a_level_counts_for_every_crate_of_ours() {
        let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let entries = std::fs::read_dir(crates).expect("readable");
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        // These stand above the server: no server has them.
        const TESTS: [&str; 3] = ["hw-faults", "hw-fuzz", "hw-testkit"];
        let server = names.filter(|name| name.starts_with("hw-") && !TESTS.contains(&&**name));
        for name in server {
            assert!(OURS.contains(&&*name.replace('-', "_")), "{name} is not in OURS");
        }
    }

    #[test]
    fn a_finding_is_one_event_with_its_code_its_place_and_its_mend_as_fields() {
        let told = |form| {
            written("info", form, || {
                Diagnostic::error(2104, "publication \"p\" does not publish deletes")
                    .at("database \"shop\"")
                    .mend("ALTER PUBLICATION p SET (publish = 'delete');")
                    .log();
                Diagnostic::warning(1016, "short").log();
            })
        };
        let lines: Vec<serde_json::Value> = told(Form::Json)
            .lines()
            .map(|line| serde_json::from_str(line).expect("one object a line"))
            .collect();
        let field = |line: usize, name: &str| lines[line].get(name).and_then(|v| v.as_str());
        assert_eq!(lines.len(), 2);
        assert_eq!(field(0, "level"), Some("ERROR"));
        assert_eq!(field(0, "message"), Some("publication \"p\" does not publish deletes"));
        assert_eq!(field(0, "code"), Some("HW2104"));
        assert_eq!(field(0, "where"), Some("database \"shop\""));
        assert_eq!(field(0, "mend"), Some("ALTER PUBLICATION p SET (publish = 'delete');"));
        assert_eq!((field(1, "level"), field(1, "code")), (Some("WARN"), Some("HW1016")));
        assert_eq!((field(1, "where"), field(1, "mend")), (None, None));

        let text = told(Form::Text(Colour::None));
        assert!(
            text.contains(
                "publication \"p\" does not publish deletes code=HW2104\n  \
                 where: database \"shop\"\n  \
                 mend:  ALTER PUBLICATION p SET (publish = 'delete');\n"
            ),
            "{text}"
        );
    }

    /// What a run with this level writes in this form.
    fn written(level: &str, form: Form, events: impl FnOnce()) -> String {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let subscriber = subscriber(level, form, std::sync::Mutex::new(writer)).expect("valid");
        tracing::dispatcher::with_default(&subscriber, events);
        drop(subscriber);
        io::read_to_string(&mut reader).expect("what was written")
    }

    #[test]
    fn a_failure_below_the_store_is_said_by_the_store_alone_in_either_form() {
        for form in [Form::Text(Colour::None), Form::Json] {
            for level in ["info", "trace", "info,hw_store=debug"] {
                let text = written(level, form, || {
                    tracing::error!(target: "fjall::poison_dart", "build/path/worker.rs: No space");
                    tracing::error!(target: "lsm_tree::table", "build/path/table.rs: No space");
                    tracing::error!(target: "hw_store::disk", "the disk is full");
                });
                assert!(text.contains("the disk is full"), "{level}: {text}");
                assert_eq!(text.lines().count(), 1, "{level}: {text}");
            }
            let asked = written("info,fjall=debug", form, || {
                tracing::debug!(target: "fjall::poison_dart", "asked for by name");
            });
            assert!(asked.contains("asked for by name"), "{asked}");
        }
    }

    #[test]
    fn every_form_of_a_secret_is_masked_and_nothing_else() {
        let mask = mask(&[
            "postgres://shop:p%40ssw0rd@db.example/shop",
            "host=db password='quoted pw' dbname=x",
            "base64:c2VjcmV0",
            "a\"b\\cdef",
            "ab",
        ]);
        let masked = |text: &str| mask.apply(text).unwrap_or_else(|| text.to_owned());
        assert_eq!(masked("user shop at db.example"), "user shop at db.example");
        assert_eq!(masked("p%40ssw0rd p@ssw0rd"), "(secret) (secret)");
        assert_eq!(masked("quoted pw, c2VjcmV0"), "(secret), (secret)");
        assert_eq!(masked(r#"{"x":"a\"b\\cdef"}"#), r#"{"x":"(secret)"}"#);
        assert_eq!(masked("absolutely"), "absolutely");
    }
}
