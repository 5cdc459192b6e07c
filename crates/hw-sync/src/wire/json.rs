//! JSON text straight into a byte buffer: strings, integers and op ids, without value trees.
//!
//! Invariant: what [`string`] appends is one valid JSON string whose value is exactly its input.

/// For each byte: 0 when it stands for itself inside a JSON string, `u` when it needs the
/// `\u00XX` form, else the letter behind the backslash (RFC 8259, section 7).
static ESCAPE: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut i = 0;
    while i < 0x20 {
        table[i] = b'u';
        i += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0a] = b'n';
    table[0x0c] = b'f';
    table[0x0d] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` as a JSON string with its quotes.
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escaped(out, text.as_bytes());
    out.push(b'"');
}

/// Appends the inside of a JSON string.
///
/// Row data is itself JSON, so a quote comes every few bytes: runs are found with a table and
/// copied whole, and the space for the common case is reserved once.
fn escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() + bytes.len() / 8 + 2);
    let mut run = 0;
    for (i, &byte) in bytes.iter().enumerate() {
        let letter = ESCAPE[usize::from(byte)];
        if letter == 0 {
            continue;
        }
        out.extend_from_slice(&bytes[run..i]);
        run = i + 1;
        if letter == b'u' {
            let high = HEX[usize::from(byte >> 4)];
            let low = HEX[usize::from(byte & 15)];
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        } else {
            out.extend_from_slice(&[b'\\', letter]);
        }
    }
    out.extend_from_slice(&bytes[run..]);
}

/// Appends a decimal integer.
pub fn integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends a decimal integer as a string: the form of op ids and write checkpoints, where a
/// bare integer is fatal to the client (`powersync-protocol.md` 4).
pub fn integer_string(out: &mut Vec<u8>, value: u64) {
    out.push(b'"');
    integer(out, value);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> String {
        let mut out = Vec::new();
        string(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_character_comes_back_as_it_was() {
        let all: String = (0..0x300).filter_map(char::from_u32).chain("☕𐍈".chars()).collect();
        assert_eq!(serde_json::from_str::<String>(&encoded(&all)).unwrap(), all);
        assert_eq!(encoded(""), "\"\"");
        assert_eq!(encoded("{\"a\":\"\\\n\u{1}\"}"), r#""{\"a\":\"\\\n\u0001\"}""#);
    }

    #[test]
    fn op_ids_are_strings() {
        let mut out = Vec::new();
        integer_string(&mut out, u64::MAX);
        integer(&mut out, -501931104i32);
        assert_eq!(out, b"\"18446744073709551615\"-501931104");
    }
}
