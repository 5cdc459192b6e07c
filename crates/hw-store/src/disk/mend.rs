//! Damaged files: finding them, and losing no more than the spaces that they hold.
//!
//! A keyspace whose list of tables, or one of whose tables, cannot be opened is set aside as a whole. A
//! table that opens but is not what was written is dropped from its keyspace. Either way the catalogue
//! says first, durably, that the spaces concerned are lost: reads of them fail by name until they are
//! dropped, and nothing is ever taken for an empty space. What the database itself or the catalogue
//! needs cannot be mended.
//!
//! Source: lsm-tree 3.1, `version/persist.rs`: `current` is the number of the newest list of tables
//! (8 bytes), its XXH3-128 and a zero; the list says the same of each table. The database checks the
//! blocks that it reads, but neither of these.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::panic::AssertUnwindSafe;
use std::path::Path;

use fjall::AbstractTree;
use lsm_tree::SequenceNumberCounter;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::catalogue::{self, CATALOGUE};
use super::removal::MARK;
use super::{Disk, StoreOptions, entries, mending_database};
use crate::StoreError;
use crate::home::sync_dir;
use crate::space;

/// The directory of the database's own records of keyspaces.
const OWN_RECORDS: u64 = 0;

/// How far to look.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Lists of tables: a few small files.
    Lists,
    /// Whether all tables open.
    Tables,
    /// Every byte of all tables.
    Bytes,
}

/// Something damaged.
struct Damage {
    /// The keyspace's directory.
    keyspace: u64,
    part: Part,
}

enum Part {
    All,
    /// A table with keys from the first to the second.
    Keys(Vec<u8>, Vec<u8>),
}

/// Refuses a database that has lost what it would silently begin anew with: its journal, or its
/// records of keyspaces.
pub(super) fn check_born(data: &Path) -> Result<(), StoreError> {
    let doing = "look at the database";
    if !data.join("version").try_exists().map_err(StoreError::io(doing))? {
        return Ok(());
    }
    let files = entries::files(data).map_err(StoreError::io(doing))?;
    // Files are retired from the oldest on.
    let gap = files.windows(2).any(|two| two[1].0 != two[0].0 + 1);
    if files.is_empty() || gap {
        return Err(StoreError::damaged("a file of the journal is gone"));
    }
    let records = data.join("keyspaces").join(OWN_RECORDS.to_string()).join("current");
    // Every opening writes to the journal, but only behind the records.
    if !records.try_exists().map_err(StoreError::io(doing))?
        && entries::any(data).map_err(StoreError::io("read the journal"))?
    {
        return Err(StoreError::damaged("the database's records of its parts are gone"));
    }
    Ok(())
}

/// Says what was found, before it is known whether it can be given up: nobody should remove a store
/// that mends itself. One that cannot is refused behind this, with the way out.
pub(super) fn tell(what: String) {
    let finding = StoreError::Damaged { what }.diagnostic();
    finding
        .mend("check the disk; what is damaged is copied or built again if that is possible")
        .log();
}

/// Whether the list of tables of some keyspace is damaged.
pub(super) fn has_damaged_list(data: &Path) -> Result<bool, StoreError> {
    Ok(!look(data, Depth::Lists)?.is_empty())
}

impl Disk {
    /// Finds what is damaged and gives it up. The database is closed; it can be opened behind this.
    ///
    /// - Errors: `Damaged` when what is damaged cannot be given up.
    pub(super) fn mend(&self, depth: Depth) -> Result<(), StoreError> {
        let data = self.home.data();
        let damages = look(&data, depth)?;
        if damages.is_empty() {
            return Ok(());
        }
        if damages.iter().any(|damage| damage.keyspace == OWN_RECORDS) {
            return Err(StoreError::damaged("the database's records of its parts"));
        }
        let aside = self.home.aside();
        let mut whole = damages.iter().filter(|damage| matches!(damage.part, Part::All));
        whole
            .try_for_each(|damage| set_aside(&data, &aside, damage.keyspace))
            .map_err(StoreError::io("set damaged files aside"))?;
        give_up(&data, &self.options, &damages)?;
        // They are of no use to anybody: a store is filled again from Postgres.
        if let Err(error) = fs::remove_dir_all(&aside)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("remove damaged files: {error}");
        }
        Ok(())
    }
}

/// Says in the catalogue what is lost, then drops the tables concerned.
fn give_up(data: &Path, options: &StoreOptions, damages: &[Damage]) -> Result<(), StoreError> {
    let database = mending_database(data, options)?;
    let (catalogue, content) = catalogue::open(&database)?;
    for damage in damages {
        let Part::Keys(first, last) = &damage.part else { continue };
        if catalogue.id() == damage.keyspace {
            return Err(StoreError::damaged("the catalogue of spaces"));
        }
        for name in database.list_keyspace_names() {
            let keyspace = database.keyspace(&name, super::keyspace_options)?;
            if keyspace.id() != damage.keyspace || &*name == CATALOGUE {
                continue;
            }
            let numbers = number(first)?..=number(last)?;
            for (space, entry) in &content.entries {
                if entry.keyspace == *name && numbers.contains(&entry.number) {
                    let (key, value) = catalogue::lost(space, entry.number);
                    catalogue.insert(key, value.unwrap_or_default())?;
                }
            }
            database.persist(fjall::PersistMode::SyncAll)?;
            keyspace.tree.drop_range(&first[..]..=&last[..]).map_err(fjall::Error::from)?;
            keyspace.insert(MARK, [])?;
        }
    }
    Ok(database.persist(fjall::PersistMode::SyncAll)?)
}

fn number(key: &[u8]) -> Result<u32, StoreError> {
    space::number(key).ok_or_else(|| StoreError::damaged("a key without the number of its space"))
}

fn set_aside(data: &Path, aside: &Path, keyspace: u64) -> io::Result<()> {
    let keyspaces = data.join("keyspaces");
    let name = keyspace.to_string();
    fs::create_dir_all(aside)?;
    if let Err(error) = fs::remove_dir_all(aside.join(&name))
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    fs::rename(keyspaces.join(&name), aside.join(&name))?;
    sync_dir(&keyspaces)
}

fn look(data: &Path, depth: Depth) -> Result<Vec<Damage>, StoreError> {
    let mut damages = Vec::new();
    let entries = match fs::read_dir(data.join("keyspaces")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(damages),
        Err(error) => return Err(StoreError::io("list the database")(error)),
    };
    for entry in entries {
        let dir = entry.map_err(StoreError::io("list the database"))?.path();
        let name = dir.file_name().and_then(|name| name.to_str());
        let Some(keyspace) = name.and_then(|name| name.parse().ok()) else { continue };
        match look_into(&dir, depth)? {
            None => {}
            Some(parts) => {
                tell(format!("files in {}", dir.display()));
                damages.extend(parts.into_iter().map(|part| Damage { keyspace, part }));
            }
        }
    }
    Ok(damages)
}

/// What is damaged of one keyspace.
fn look_into(dir: &Path, depth: Depth) -> Result<Option<Vec<Part>>, StoreError> {
    let all = Ok(Some(vec![Part::All]));
    match list_is_whole(dir) {
        Ok(true) => {}
        Ok(false) => return all,
        Err(error) => return Err(StoreError::io("read the list of tables")(error)),
    }
    // One whose creation was cut off has no list, and the database removes it.
    if depth == Depth::Lists || !dir.join("current").exists() {
        return Ok(None);
    }
    let counter = SequenceNumberCounter::default;
    let opened = std::panic::catch_unwind(AssertUnwindSafe(|| {
        lsm_tree::Config::new(dir, counter(), counter()).open()
    }));
    let tree = match opened.map(|opened| opened.map_err(fjall::Error::from)) {
        Ok(Ok(tree)) => tree,
        Ok(Err(error)) => match StoreError::from(error) {
            StoreError::Damaged { .. } => return all,
            other => return Err(other),
        },
        Err(_) => return all,
    };
    if depth == Depth::Tables {
        return Ok(None);
    }
    let mut parts = Vec::new();
    for table in tree.current_version().iter_tables() {
        let found = checksum(&table.path).map_err(StoreError::io("read table"))?;
        if found != table.checksum().into_u128() {
            let keys = &table.metadata.key_range;
            parts.push(Part::Keys(keys.min().to_vec(), keys.max().to_vec()));
        }
    }
    Ok((!parts.is_empty()).then_some(parts))
}

/// Whether the newest list of tables is the one that was written; one that is not there is.
fn list_is_whole(dir: &Path) -> io::Result<bool> {
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let current = match fs::read(dir.join("current")) {
        Err(error) if missing(&error) => return Ok(true),
        current => current?,
    };
    let Some((number, rest)) = current.split_first_chunk::<8>() else { return Ok(false) };
    let Some((expected, [0])) = rest.split_first_chunk::<16>() else { return Ok(false) };
    match fs::read(dir.join(format!("v{}", u64::from_le_bytes(*number)))) {
        Err(error) if missing(&error) => Ok(false),
        list => Ok(xxh3_128(&list?) == u128::from_le_bytes(*expected)),
    }
}

fn checksum(path: &Path) -> io::Result<u128> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let (mut hasher, mut buffer) = (Xxh3::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.digest128()),
            read => hasher.update(&buffer[..read]),
        }
    }
}
