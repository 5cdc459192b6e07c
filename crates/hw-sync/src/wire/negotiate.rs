//! Which form the client takes: `Accept` and `Accept-Encoding`.
//!
//! Source: `powersync-protocol.md` 3.1, 3.2. This service writes NDJSON, plain or with gzip. No
//! `Accept` header, or one that admits NDJSON in any way, gives NDJSON.

/// Media type of newline-delimited JSON; the response header is exactly this.
pub const NDJSON: &str = "application/x-ndjson";
/// Media type of the BSON stream, which clients list first but do not insist on.
pub const BSON: &str = "application/vnd.powersync.bson-stream";

/// How the bytes of the response are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContentCoding {
    /// As they are.
    Identity,
    /// One gzip member for the whole response.
    Gzip,
}

/// Whether a client with this `Accept` header can be served NDJSON. Only one that lists BSON and
/// nothing that covers NDJSON cannot: other media types are ignored, as the original does.
pub fn takes_ndjson(accept: Option<&str>) -> bool {
    let Some(accept) = accept else { return true };
    let mut bson = false;
    for (media_type, quality) in weighted(accept) {
        if quality == 0.0 {
            continue;
        }
        match media_type.to_ascii_lowercase().as_str() {
            NDJSON | "application/*" | "*/*" | "*" => return true,
            BSON => bson = true,
            _ => {}
        }
    }
    !bson
}

/// The coding for an `Accept-Encoding` header: gzip when it is named with a weight above 0 that is
/// not below that of an explicitly named `identity`.
pub fn content_coding(accept_encoding: Option<&str>) -> ContentCoding {
    let mut gzip = 0.0;
    let mut identity = 0.0;
    for (coding, quality) in weighted(accept_encoding.unwrap_or("")) {
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            gzip = quality;
        } else if coding.eq_ignore_ascii_case("identity") {
            identity = quality;
        }
    }
    if gzip > 0.0 && gzip >= identity { ContentCoding::Gzip } else { ContentCoding::Identity }
}

/// The elements of a header with their `q`; an unreadable weight counts as 0, so that a damaged
/// element is never preferred.
fn weighted(header: &str) -> impl Iterator<Item = (&str, f32)> {
    header.split(',').filter_map(|element| {
        let mut parts = element.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let quality = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .map_or(1.0, |q| q.trim().parse().unwrap_or(0.0));
        Some((name, quality))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_that_takes_nothing_but_bson_is_refused() {
        let taken = [
            None,
            Some("*/*"),
            Some(""),
            Some("application/x-ndjson"),
            Some("application/vnd.powersync.bson-stream;q=0.9,application/x-ndjson;q=0.8"),
            Some("application/vnd.powersync.bson-stream, */*;q=0.1"),
            Some("text/html"),
        ];
        for accept in taken {
            assert!(takes_ndjson(accept), "{accept:?}");
        }
        for accept in [
            "application/vnd.powersync.bson-stream",
            "application/vnd.powersync.bson-stream, application/x-ndjson;q=0",
        ] {
            assert!(!takes_ndjson(Some(accept)), "{accept}");
        }
    }

    #[test]
    fn gzip_is_used_when_it_is_named() {
        let cases = [
            (None, ContentCoding::Identity),
            (Some("gzip, deflate"), ContentCoding::Gzip),
            (Some("zstd, br;q=1, GZIP;q=0.5"), ContentCoding::Gzip),
            (Some("gzip;q=0"), ContentCoding::Identity),
            (Some("gzip;q=0.5, identity"), ContentCoding::Identity),
            (Some("gzip;q=rubbish"), ContentCoding::Identity),
            (Some("*"), ContentCoding::Identity),
        ];
        for (header, expected) in cases {
            assert_eq!(content_coding(header), expected, "{header:?}");
        }
    }
}
