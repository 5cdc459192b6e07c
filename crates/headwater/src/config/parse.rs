//! What a setting's text means: sizes, durations, addresses, choices.
//!
//! In: the text of one value, from whichever source. Out: a [`Parsed`] value or one sentence that
//! says what was expected. Invariant: the sentence never repeats the value of a secret.

use std::net::SocketAddr;
use std::time::Duration;

use hw_auth::AddressRange;

use super::secret::Secret;

/// The type of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
    /// A path: in the file relative to the file, elsewhere to the working directory.
    Path,
    /// `host:port` with a numeric host.
    Address,
    /// Letters, digits and `_`, as part of names in the database; at most 20 bytes.
    Name,
    /// `true` or `false`.
    Switch,
    /// A whole number between the two, inclusive.
    Integer(u64, u64),
    /// A number of bytes: `512 MB`, `8 GiB`, `4096`; at least this many.
    Bytes(u64),
    /// A length of time: `30 s`, `30 min`, `24 h`, `7 d`.
    Duration,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of texts; in the environment separated by commas.
    List,
    /// A list of ranges of network addresses.
    AddressRanges,
    /// A JSON Web Key Set as a mapping.
    Jwks,
    /// Upload rules by output table.
    UploadTables,
    /// A mapping of texts to texts.
    Texts,
    /// A mapping of texts to one of these words.
    Choices(&'static [&'static str]),
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// Of [`Kind::Text`], [`Kind::Path`], [`Kind::Name`] and [`Kind::Choice`].
    Text(String),
    /// Of [`Kind::Secret`] and [`Kind::Jwks`] (its JSON text).
    Secret(Secret),
    /// Of [`Kind::Address`].
    Address(SocketAddr),
    /// Of [`Kind::Switch`].
    Switch(bool),
    /// Of [`Kind::Integer`] and [`Kind::Bytes`].
    Number(u64),
    /// Of [`Kind::Duration`].
    Duration(Duration),
    /// Of [`Kind::List`].
    List(Vec<String>),
    /// Of [`Kind::AddressRanges`].
    AddressRanges(Vec<AddressRange>),
    /// Of [`Kind::UploadTables`], [`Kind::Texts`] and [`Kind::Choices`].
    Json(serde_json::Value),
}

impl Kind {
    /// Reads the text of one value.
    ///
    /// - Errors: what was expected, as the end of "… is not valid: expected …".
    pub fn parse(self, text: &str) -> Result<Parsed, String> {
        let text = text.trim();
        match self {
            Kind::Text | Kind::Path if text.is_empty() => Err("some text".to_owned()),
            // A number or a word of YAML is a slip, and would make a directory of that name.
            Kind::Path if text.parse::<f64>().is_ok() || matches!(text, "true" | "false") => {
                Err("a path (one that looks like a number is written ./5)".to_owned())
            }
            Kind::Text | Kind::Path => Ok(Parsed::Text(text.to_owned())),
            Kind::Secret if text.is_empty() => Err("some text".to_owned()),
            Kind::Secret => Ok(Parsed::Secret(Secret::new(text))),
            Kind::Address => text
                .parse()
                .map(Parsed::Address)
                .map_err(|_| "an address with a port, such as 127.0.0.1:8080".to_owned()),
            Kind::Name => {
                let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                if !text.is_empty() && text.len() <= 20 && text.chars().all(good) {
                    Ok(Parsed::Text(text.to_owned()))
                } else {
                    Err("at most 20 small letters, digits and underscores".to_owned())
                }
            }
            Kind::Switch => {
                text.parse().map(Parsed::Switch).map_err(|_| "true or false".to_owned())
            }
            Kind::Integer(least, most) => match text.replace('_', "").parse::<u64>() {
                Ok(number) if (least..=most).contains(&number) => Ok(Parsed::Number(number)),
                _ => Err(format!("a whole number from {least} to {most}")),
            },
            Kind::Bytes(least) => match bytes(text) {
                Some(number) if number >= least => Ok(Parsed::Number(number)),
                Some(_) => Err(format!("at least {}", show_bytes(least))),
                None => Err("a size such as 512 MB or 8 GiB".to_owned()),
            },
            Kind::Duration => duration(text)
                .map(Parsed::Duration)
                .ok_or_else(|| "a length of time such as 30 s, 30 min, 24 h or 7 d".to_owned()),
            Kind::Choice(words) => {
                if words.contains(&text) {
                    Ok(Parsed::Text(text.to_owned()))
                } else {
                    Err(format!("one of {}", words.join(", ")))
                }
            }
            Kind::List => Ok(Parsed::List(items(text).map(str::to_owned).collect())),
            Kind::AddressRanges => {
                let ranges: Result<Vec<AddressRange>, String> =
                    items(text).map(str::parse).collect();
                ranges.map(Parsed::AddressRanges)
            }
            Kind::Jwks => match serde_json::from_str::<serde_json::Value>(text) {
                Ok(set) => Ok(Parsed::Secret(Secret::new(set.to_string()))),
                Err(_) => Err("a mapping".to_owned()),
            },
            Kind::Choices(words) => {
                let refused = || format!("a mapping to one of {}", words.join(", "));
                let value: serde_json::Value = serde_json::from_str(text).map_err(|_| refused())?;
                let is_word = |value: &serde_json::Value| {
                    value.as_str().is_some_and(|value| words.contains(&value))
                };
                match value.as_object().is_some_and(|chosen| chosen.values().all(is_word)) {
                    true => Ok(Parsed::Json(value)),
                    false => Err(refused()),
                }
            }
            Kind::UploadTables | Kind::Texts => {
                serde_json::from_str(text).map(Parsed::Json).map_err(|_| "a mapping".to_owned())
            }
        }
    }

    /// The words with which the reference describes it.
    pub fn describe(self) -> String {
        match self {
            Kind::Text => "text".to_owned(),
            Kind::Secret => "text, never shown".to_owned(),
            Kind::Path => "path".to_owned(),
            Kind::Address => "address and port".to_owned(),
            Kind::Name => "at most 20 small letters, digits and underscores".to_owned(),
            Kind::Switch => "true or false".to_owned(),
            Kind::Integer(least, most) => format!("whole number, {least} to {most}"),
            Kind::Bytes(least) => format!("size, at least {}", show_bytes(least)),
            Kind::Duration => "length of time".to_owned(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
            Kind::List => "list of texts".to_owned(),
            Kind::AddressRanges => "list of `local` and ranges of addresses".to_owned(),
            Kind::Jwks => "JSON Web Key Set".to_owned(),
            Kind::UploadTables => "mapping of output tables".to_owned(),
            Kind::Texts => "mapping of texts".to_owned(),
            Kind::Choices(words) => format!("mapping to one of {}", words.join(", ")),
        }
    }
}

/// What stands between the commas.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// `512 MB` and `512 MiB` both count by 1024, as Postgres reads its own settings.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Reads a length of time: a whole number and `ms`, `s`, `min`, `h` or `d`.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let number = text[..digits].replace('_', "").parse().ok()?;
    Some((number, text[digits..].trim()))
}

/// A size as a person reads it: `12.3 MB`.
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut whole = bytes;
    let mut rest = 0;
    while whole >= 1024 && unit + 1 < UNITS.len() {
        rest = (whole % 1024) * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    if rest == 0 || whole >= 100 {
        format!("{whole} {}", UNITS[unit])
    } else {
        format!("{whole}.{rest} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_postgres_reads_them_and_shown_back() {
        assert_eq!(Kind::Bytes(1).parse("512 MB"), Ok(Parsed::Number(512 << 20)));
        assert_eq!(Kind::Bytes(1).parse("8GiB"), Ok(Parsed::Number(8 << 30)));
        assert_eq!(Kind::Bytes(1).parse("4_096"), Ok(Parsed::Number(4096)));
        assert_eq!(Kind::Bytes(4096).parse("1 kB"), Err("at least 4 kB".to_owned()));
        assert!(Kind::Bytes(1).parse("many").is_err());
        assert!(Kind::Bytes(1).parse("99999999999 TB").is_err(), "overflow is refused");
        assert_eq!(show_bytes(1536 * 1024), "1.5 MB");
    }

    #[test]
    fn section_11_a_number_is_no_directory_unless_it_is_written_as_a_path() {
        let refused = Err("a path (one that looks like a number is written ./5)".to_owned());
        assert_eq!(Kind::Path.parse("5"), refused);
        assert_eq!(Kind::Path.parse("true"), refused);
        assert_eq!(Kind::Path.parse("./5"), Ok(Parsed::Text("./5".to_owned())));
        assert_eq!(Kind::Text.parse("5"), Ok(Parsed::Text("5".to_owned())));
    }

    #[test]
    fn lengths_of_time_need_a_unit() {
        assert_eq!(duration("30 min"), Some(Duration::from_secs(1800)));
        assert_eq!(duration("24h"), Some(Duration::from_secs(86_400)));
        assert_eq!(duration("30"), None);
        assert_eq!(duration("-1 s"), None);
    }

    #[test]
    fn what_was_expected_never_repeats_a_secret() {
        assert_eq!(Kind::Secret.parse("  "), Err("some text".to_owned()));
    }

    #[test]
    fn lists_are_separated_by_commas() {
        assert_eq!(
            Kind::List.parse("a, b,,c "),
            Ok(Parsed::List(vec!["a".into(), "b".into(), "c".into()]))
        );
    }
}
