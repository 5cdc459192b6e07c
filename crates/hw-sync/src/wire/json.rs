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
    /// Text that is escaped at once: room is made for the worst case of so much, not of a row of 50 MB.
    const PIECE: usize = 16 * 1024;
    out.push(b'"');
    if text.len() > PIECE {
        let escapes = text.bytes().filter(|byte| ESCAPE[usize::from(*byte)] != 0).count();
        out.reserve_exact(text.len() + escapes + 2 * PIECE);
    }
    for piece in text.as_bytes().chunks(PIECE) {
        escaped(out, piece);
    }
    out.push(b'"');
}

/// Appends the inside of a JSON string.
///
/// Row data is itself JSON, so a quote comes every few bytes, and copying short runs one by one costs
/// more than their bytes. Eight bytes are copied at a time, and the place moves on only to the
/// first of them that needs an escape.
fn escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    const WORD: usize = 8;
    let mut at = out.len();
    // Room for an escape of two bytes each, and for copying a word past the last one.
    out.resize(at + 2 * bytes.len() + WORD, 0);
    let mut rest = bytes;
    loop {
        let plain = match rest.first_chunk::<WORD>() {
            Some(word) => {
                out[at..at + WORD].copy_from_slice(word);
                plain_bytes(*word)
            }
            None => {
                let plain = rest.iter().take_while(|b| ESCAPE[usize::from(**b)] == 0).count();
                out[at..at + plain].copy_from_slice(&rest[..plain]);
                if plain == rest.len() {
                    return out.truncate(at + plain);
                }
                plain
            }
        };
        at += plain;
        rest = &rest[plain..];
        if plain == WORD {
            continue;
        }
        let byte = rest[0];
        rest = &rest[1..];
        let letter = ESCAPE[usize::from(byte)];
        out[at..at + 2].copy_from_slice(&[b'\\', letter]);
        at += 2;
        if letter == b'u' {
            let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
            // Four bytes more than there was room for.
            out.resize(out.len() + 4, 0);
            out[at..at + 4].copy_from_slice(&[b'0', b'0', high, low]);
            at += 4;
        }
    }
}

/// How many bytes at the start of `word` stand for themselves inside a JSON string.
fn plain_bytes(word: [u8; 8]) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let word = u64::from_le_bytes(word);
    // The high bit of the lowest byte that is less than `limit` (at most 128), and of no byte below
    // it; bits above it may be wrong.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGH;
    let quote = below(word ^ (ONES * u64::from(b'"')), 1);
    let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
    ((below(word, 0x20) | quote | backslash).trailing_zeros() / 8) as usize
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
    fn every_pair_of_bytes_at_every_distance_comes_back_as_it_was() {
        let ascii: Vec<char> = (0..0x80u8).map(char::from).chain("é☕𐍈".chars()).collect();
        for &one in &ascii {
            for &two in &ascii {
                let text = format!("{one}{two}ab{one}cdefgh{two}ijklmnopq{one}{two}");
                assert_eq!(serde_json::from_str::<String>(&encoded(&text)).unwrap(), text);
            }
        }
    }

    #[test]
    fn op_ids_are_strings() {
        let mut out = Vec::new();
        integer_string(&mut out, u64::MAX);
        integer(&mut out, -501931104i32);
        assert_eq!(out, b"\"18446744073709551615\"-501931104");
    }
}
