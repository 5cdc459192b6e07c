//! Reading the journal's files, to find out how far they are whole.
//!
//! fjall takes the first bytes that are no entry for the end of a journal, whatever was there. That is
//! right behind a crash, when nothing else is known. Two things are known better here: what a sync has
//! covered when a later one failed, and what the journal was when the store was closed.
//!
//! Source: fjall 3.1, `journal/entry.rs`: entries of a kind byte each, little-endian numbers; a batch
//! is a start, its items, an end.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;

/// The last bytes of each batch.
const MAGIC: [u8; 4] = *b"FJL\x03";

/// The journal's files, oldest first, with their numbers.
pub(super) fn files(data: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(data)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(".jnl")?.parse().ok());
        files.extend(number.map(|number| (number, path)));
    }
    files.sort_unstable();
    Ok(files)
}

/// Where the last whole batch ends whose sequence number is at most `newest`.
pub(super) fn whole_until(path: &Path, newest: u64) -> io::Result<u64> {
    let mut reader = Reader { file: BufReader::with_capacity(256 << 10, File::open(path)?), at: 0 };
    let mut whole = 0;
    loop {
        match reader.batch() {
            Ok(Some(sequence)) if sequence <= newest => whole = reader.at,
            Ok(_) => return Ok(whole),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(whole),
            Err(error) => return Err(error),
        }
    }
}

/// Cuts the newest file behind the last batch whose sequence number is at most `newest`.
///
/// A failed sync may have left bytes in memory that the kernel takes for written and never writes
/// again: only what an earlier sync covered counts, and the rest must not come back.
pub(super) fn cut(data: &Path, newest: u64) -> io::Result<()> {
    let Some((_, path)) = files(data)?.pop() else { return Ok(()) };
    let whole = whole_until(&path, newest)?;
    let file = File::options().write(true).open(&path)?;
    file.set_len(whole)?;
    file.sync_all()
}

/// What the journal is, to be found again at the next opening: a line for each file, with its number,
/// how many of its bytes are entries, and their CRC-32.
pub(super) fn describe(data: &Path) -> io::Result<String> {
    let mut text = String::new();
    for (number, path) in files(data)? {
        let whole = whole_until(&path, u64::MAX)?;
        let sum = checksum(&path, whole)?.unwrap_or_default();
        text.push_str(&format!("{number} {whole} {sum:08x}\n"));
    }
    Ok(text)
}

/// Whether the journal still is what was described.
pub(super) fn is_as_described(data: &Path, text: &str) -> io::Result<bool> {
    let files = files(data)?;
    if files.len() != text.lines().count() {
        return Ok(false);
    }
    for ((number, path), line) in files.iter().zip(text.lines()) {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let known = word().parse() == Ok(*number);
        let (whole, sum) = (word().parse(), u32::from_str_radix(word(), 16));
        let (Ok(whole), Ok(sum), true) = (whole, sum, known) else { return Ok(false) };
        if checksum(path, whole)? != Some(sum) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the journal holds an entry.
pub(super) fn any(data: &Path) -> io::Result<bool> {
    for (_, path) in files(data)? {
        if whole_until(&path, u64::MAX)? > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The CRC-32 of the first `bytes` of a file; `None` when it has fewer.
fn checksum(path: &Path, bytes: u64) -> io::Result<Option<u32>> {
    let mut file = File::open(path)?.take(bytes);
    let (mut hasher, mut buffer) = (crc32fast::Hasher::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((file.limit() == 0).then(|| hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

struct Reader {
    file: BufReader<File>,
    at: u64,
}

impl Reader {
    /// Moves behind the next batch and returns its sequence number; `None` when there is none.
    fn batch(&mut self) -> io::Result<Option<u64>> {
        if self.u8()? != START {
            return Ok(None);
        }
        let items = u32::from_le_bytes(self.bytes()?);
        let sequence = u64::from_le_bytes(self.bytes()?);
        for _ in 0..items {
            match self.u8()? {
                ITEM => self.item()?,
                CLEAR => self.skip(8)?,
                _ => return Ok(None),
            }
        }
        if self.u8()? != END {
            return Ok(None);
        }
        self.skip(8)?;
        Ok((self.bytes()? == MAGIC).then_some(sequence))
    }

    fn item(&mut self) -> io::Result<()> {
        // Kind of value, compression, number of the keyspace.
        self.skip(10)?;
        let key = u16::from_le_bytes(self.bytes()?);
        let _whole_value: [u8; 4] = self.bytes()?;
        let value = u32::from_le_bytes(self.bytes()?);
        self.skip(u64::from(key) + u64::from(value))
    }

    fn u8(&mut self) -> io::Result<u8> {
        Ok(self.bytes::<1>()?[0])
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.file.by_ref().take(bytes), &mut io::sink())?;
        if skipped < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += bytes;
        Ok(())
    }
}
