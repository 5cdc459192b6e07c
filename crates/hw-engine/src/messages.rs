//! Messages in the log: markers, which complete write checkpoints and copies, and the news that
//! tables were altered.

use crate::crowds::KEEP_OF_USER;
use crate::error::EngineError;
use crate::overlay::Sink;
use crate::state::{Day, Record, WriteCheckpoint, keys};
use crate::writer::{Writer, kept_write_checkpoints};
use hw_input::markers::MarkerContents;
use hw_input::transactions::Transaction;
use hw_types::user_key::owner;
use hw_types::{LogMessage, Lsn};
use std::collections::BTreeSet;

/// Write checkpoints that nobody has asked for in so many days are forgotten (FD-43), so that there are
/// no more than the clients of a month have.
const KEEP_DAYS: u64 = 30;

impl Writer {
    /// A transactional message under a prefix of ours: a marker, or the news that tables were altered.
    pub(crate) fn marker(
        &mut self,
        message: &LogMessage,
        transaction: &Transaction,
    ) -> Result<(), EngineError> {
        if message.prefix == hw_pg::marker::DDL_PREFIX {
            self.news.altered += 1;
            self.news.rights += 1;
            return Ok(());
        }
        match hw_pg::marker::verify(message, transaction.xid.short(), &self.secret) {
            Ok(marker) => {
                let contents = MarkerContents::decode(&marker.contents);
                for request in contents.write_checkpoints {
                    let own = self.progress.write_base + message.lsn.0;
                    let number = request.requested.unwrap_or(own);
                    self.write_checkpoint(&request.user_key, number, message.lsn)?;
                }
                self.arrived.markers.push(contents.nonce);
                self.copy_marker(contents.nonce)?;
            }
            Err(_) => metrics::counter!("headwater_foreign_markers_total").increment(1),
        }
        Ok(())
    }

    /// A user's writes up to this marker have arrived: recorded, unless a greater number is.
    fn write_checkpoint(&mut self, user: &str, number: u64, at: Lsn) -> Result<(), EngineError> {
        let stored = self.overlay.get(&self.write_checkpoints, user.as_bytes())?;
        let stored = stored.map(|value| WriteCheckpoint::decode(&value)).transpose()?;
        let Day(day) = self.day;
        let record = match stored.filter(|stored| stored.number >= number) {
            Some(stored) => WriteCheckpoint { day, ..stored },
            None => {
                self.touched.users.insert(user.to_owned());
                if stored.is_none() {
                    self.crowds.note(owner(user));
                }
                self.kept_back.came(stored.map(|stored| stored.at), at);
                WriteCheckpoint { number, at, day }
            }
        };
        if stored.is_none() {
            kept_write_checkpoints().increment(1.0);
        }
        if stored != Some(record) {
            let key = user.as_bytes().to_vec();
            self.overlay.put(&self.write_checkpoints, key, record.encode())?;
        }
        Ok(())
    }

    /// A day has begun: write checkpoints that nobody has asked for lately are forgotten.
    pub(crate) fn new_day(&mut self, day: Day) -> Result<(), EngineError> {
        if day <= self.day {
            return Ok(());
        }
        self.day = day;
        self.overlay.put(&self.state, keys::DAY.to_vec(), day.encode())?;
        // A scan of the store sees committed writes only.
        self.commit()?;
        let (mut last, mut kept) = (String::new(), 0);
        for entry in self.store.snapshot().all(&self.write_checkpoints) {
            let (key, record) = entry?;
            let record = WriteCheckpoint::decode(&record)?;
            if record.day + KEEP_DAYS < day.0 {
                self.overlay.delete(&self.write_checkpoints, key.to_vec())?;
                self.kept_back.forgotten(record.at);
                kept_write_checkpoints().decrement(1.0);
            } else {
                let key = String::from_utf8_lossy(&key);
                let user = owner(&key);
                if user != last {
                    (last, kept) = (user.to_owned(), 0);
                }
                kept += 1;
                if kept > KEEP_OF_USER {
                    self.crowds.insert(user);
                }
            }
            if self.is_full() {
                self.commit()?;
            }
        }
        self.crowds.begin();
        Ok(())
    }

    /// Users of whom there may be more write checkpoints than are kept; each told once.
    pub(crate) fn crowded(&mut self) -> BTreeSet<String> {
        self.crowds.take()
    }

    /// Of this user's write checkpoints the newest are kept.
    pub(crate) fn keep_newest(&mut self, user: &str) -> Result<(), EngineError> {
        self.commit()?;
        let floor = self.progress.write_floor;
        let mut all = Vec::new();
        for entry in self.store.snapshot().prefix(&self.write_checkpoints, user.as_bytes()) {
            let (key, record) = entry?;
            // The user "u1" is a beginning of "u10", too.
            if owner(&String::from_utf8_lossy(&key)) == user {
                let WriteCheckpoint { number, at, .. } = WriteCheckpoint::decode(&record)?;
                // What everybody is told anyway goes first: in another history positions were greater.
                all.push((number > floor, at, key.to_vec()));
            }
        }
        let surplus = all.len().saturating_sub(KEEP_OF_USER);
        all.sort_unstable();
        for (_, at, key) in all.drain(..surplus) {
            self.kept_back.forgotten(at);
            self.overlay.delete(&self.write_checkpoints, key)?;
        }
        kept_write_checkpoints().decrement(surplus as f64);
        self.crowds.counted(user, all.len());
        Ok(())
    }
}
