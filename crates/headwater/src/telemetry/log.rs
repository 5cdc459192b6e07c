//! The log: readable on a terminal, JSON otherwise, never with a secret in it.
//!
//! In: events of `tracing` from every crate. Out: lines on standard error. Invariant: no layer
//! below logs secrets; [`Mask`] is the second line of defence and blots out every configured one
//! should it appear all the same.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use tracing::Dispatch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::screen;
use crate::config::Log;
use crate::config::secret::Secret;
use crate::report::{Colour, colour_of};

/// Starts logging for the rest of the process. A second call changes nothing.
///
/// - Errors: what is wrong with the filter.
pub fn start(log: &Log, secrets: &[Secret]) -> Result<(), String> {
    let writer = MaskedStderr { mask: Arc::new(Mask::new(secrets)) };
    let form = match log.format.as_str() {
        "json" => Form::Json,
        "auto" if !io::stderr().is_terminal() => Form::Json,
        _ => Form::Text(colour_of(&io::stderr())),
    };
    // An error: somebody else in this process (a test) has started logging already; theirs stays.
    drop(subscriber(&log.level, form, writer)?.try_init());
    Ok(())
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Lines for people.
    Text(Colour),
    /// One object a line.
    Json,
}

fn subscriber<W>(level: &str, form: Form, writer: W) -> Result<Dispatch, String>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(writer);
    Ok(match form {
        Form::Json => builder.json().flatten_event(true).with_current_span(false).into(),
        Form::Text(colour) => {
            builder.with_ansi(colour == Colour::Ansi).with_target(false).compact().into()
        }
    })
}

/// Crates of ours, for which a level without a name counts.
const OURS: [&str; 10] = [
    "headwater",
    "hw_auth",
    "hw_engine",
    "hw_expr",
    "hw_input",
    "hw_pg",
    "hw_rest",
    "hw_store",
    "hw_sync",
    "hw_types",
];

/// The crates below the store. What goes wrong in them we say ourselves, once and with what to do;
/// their own lines repeat it with paths of the machine that built this program.
const BELOW_THE_STORE: [&str; 2] = ["fjall", "lsm_tree"];

/// How a filter is written.
const FORM: &str = "write it as info or as info,hw_pg=debug";

/// A level alone means our crates; the libraries below tell their warnings, those below the store
/// nothing. Parts can be named: `info,hw_pg=debug`.
///
/// `tokio_postgres` logs the parameters of statements at debug: values of rows. It stays at
/// warnings whatever is asked for.
fn filter(level: &str) -> Result<EnvFilter, String> {
    let mut directives = vec!["warn".to_owned()];
    directives.extend(BELOW_THE_STORE.iter().map(|name| format!("{name}=off")));
    for directive in level.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        if directive.contains('=') {
            directives.push(directive.to_owned());
        } else if directive.parse::<LevelFilter>().is_ok() {
            directives.extend(OURS.iter().map(|name| format!("{name}={directive}")));
        } else {
            return Err(format!("log.level is not valid: {directive:?} is no level; {FORM}"));
        }
    }
    directives.push("tokio_postgres=warn".to_owned());
    EnvFilter::try_new(directives.join(","))
        .map_err(|error| format!("log.level is not valid: {error}; {FORM}"))
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
        assert!(filter("loud").is_err());
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
