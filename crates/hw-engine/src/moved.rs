//! Entries of lookups that came and went, as a publication keeps them: whoever has resolved a key before
//! learns the difference without reading all that is under it ([`crate::sync_difference`]).
//!
//! Who has access depends on it, so each stands with its whole key, and where it is not certain, or
//! too much to be kept, that is all that is known.

/// Entries that are kept of one name in one publication, and that one look takes of all of them: each
/// may be a bucket to be read.
const MOST: usize = 64;
const MOST_IN_ALL: usize = 256;

/// An entry's key and value up to this length are kept.
const LONGEST: usize = 512;

/// Bytes that an entry takes besides its key and value.
const OVERHEAD: usize = 64;

/// An entry that comes or goes.
#[derive(Clone, Copy)]
pub(crate) struct Movement<'a> {
    /// Number of the lookup's incarnation.
    pub lookup: u32,
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub comes: bool,
    /// Whether it is certain that it was not there before, or was.
    pub is_certain: bool,
}

/// What came and went under a name, which two keys may share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moved {
    /// In order.
    entries: Vec<Entry>,
    /// The lookups of which something moved that is not kept.
    unknown: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Entry {
    lookup: u32,
    key: Box<[u8]>,
    value: Box<[u8]>,
    comes: bool,
}

/// What remains of everything that came and went, as often as it did.
#[derive(Default)]
pub(crate) struct Net<'a> {
    pub came: Vec<&'a [u8]>,
    pub went: Vec<&'a [u8]>,
}

impl Moved {
    /// Notes an entry.
    ///
    /// - Takes: bytes that may still be kept.
    /// - Returns: how many this one took.
    pub fn note(&mut self, movement: Movement<'_>, room: usize) -> usize {
        let Movement { lookup, key, value, comes, is_certain } = movement;
        let bytes = key.len() + value.len();
        let is_kept =
            is_certain && self.entries.len() < MOST && bytes <= LONGEST && bytes + OVERHEAD <= room;
        if !is_kept {
            if !self.unknown.contains(&lookup) {
                self.unknown.push(lookup);
            }
            return 0;
        }
        self.entries.push(Entry { lookup, key: key.into(), value: value.into(), comes });
        bytes + OVERHEAD
    }

    /// Adds what moved behind it.
    pub fn append(&mut self, later: Moved) {
        let is_kept = self.entries.len() + later.entries.len() <= MOST;
        let lookups = later.entries.iter().map(|entry| entry.lookup).filter(|_| !is_kept);
        for lookup in later.unknown.into_iter().chain(lookups) {
            if !self.unknown.contains(&lookup) {
                self.unknown.push(lookup);
            }
        }
        if is_kept {
            self.entries.extend(later.entries);
        }
    }

    /// Whether something of a lookup moved.
    pub fn is_of(&self, lookup: u32) -> bool {
        self.unknown.contains(&lookup) || self.entries.iter().any(|entry| entry.lookup == lookup)
    }

    /// Adds what moved under a key to what did before; `None` when not all of it is known.
    pub fn add_to<'a>(&'a self, net: &mut Net<'a>, lookup: u32, key: &[u8]) -> Option<()> {
        if self.unknown.contains(&lookup) {
            return None;
        }
        for entry in self.entries.iter().filter(|e| e.lookup == lookup && *e.key == *key) {
            let (here, there) = match entry.comes {
                true => (&mut net.came, &mut net.went),
                false => (&mut net.went, &mut net.came),
            };
            // What goes and comes back has not moved.
            match there.iter().position(|other| **other == *entry.value) {
                Some(at) => drop(there.swap_remove(at)),
                None => here.push(&entry.value),
            }
            if net.came.len() + net.went.len() > MOST_IN_ALL {
                return None;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(lookup: u32, key: &'a [u8], value: &'a [u8], comes: bool) -> Movement<'a> {
        Movement { lookup, key, value, comes, is_certain: true }
    }

    /// What came, and what went.
    type Both = (Vec<Vec<u8>>, Vec<Vec<u8>>);

    fn net(all: &[Moved], lookup: u32, key: &[u8]) -> Option<Both> {
        let mut net = Net::default();
        for moved in all {
            moved.add_to(&mut net, lookup, key)?;
        }
        let owned = |side: Vec<&[u8]>| side.into_iter().map(<[u8]>::to_vec).collect();
        Some((owned(net.came), owned(net.went)))
    }

    #[test]
    fn what_goes_and_comes_back_has_not_moved_and_others_under_the_same_name_are_nobodys_business()
    {
        let (mut first, mut second) = (Moved::default(), Moved::default());
        for (lookup, key, value, comes) in [
            (1, b"amy", b"a", true),
            (1, b"bob", b"b", true),
            (2, b"amy", b"c", true),
            (1, b"amy", b"d", false),
            (1, b"amy", b"e", true),
        ] {
            assert!(first.note(entry(lookup, key, value, comes), 1 << 20) > 0);
        }
        for (value, comes) in [(b"a", false), (b"d", true), (b"f", false)] {
            second.note(entry(1, b"amy", value, comes), 1 << 20);
        }
        let all = [first, second];
        assert_eq!(net(&all, 1, b"amy"), Some((vec![b"e".to_vec()], vec![b"f".to_vec()])));
        assert_eq!(net(&all, 1, b"bob"), Some((vec![b"b".to_vec()], vec![])));
        assert_eq!(net(&all, 3, b"amy"), Some((vec![], vec![])));
        assert!(all[0].is_of(2) && !all[1].is_of(2));
    }

    #[test]
    fn what_is_not_kept_or_not_certain_is_not_known() {
        let long = vec![7; LONGEST + 1];
        let uncertain = Movement { is_certain: false, ..entry(1, b"k", b"v", false) };
        for (movement, room) in [
            (entry(1, b"k", &long, true), 1 << 20),
            (entry(1, b"k", b"v", true), 1),
            (uncertain, 1 << 20),
        ] {
            let mut moved = Moved::default();
            assert_eq!(moved.note(movement, room), 0);
            assert!(moved.is_of(1));
            let all = [moved];
            assert_eq!(net(&all, 1, b"k"), None);
            assert_eq!(net(&all, 2, b"k"), Some((vec![], vec![])));
        }
        let mut many = Moved::default();
        for n in 0..=MOST as u8 {
            many.note(entry(1, b"k", &[n], true), 1 << 20);
        }
        assert_eq!(net(&[many], 1, b"k"), None);
    }
}
