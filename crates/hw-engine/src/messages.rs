//! Messages in the log: markers, which complete write checkpoints and copies, and the news that
//! tables were altered.

use crate::error::EngineError;
use crate::overlay::Sink;
use crate::state::{Record, WriteCheckpoint};
use crate::writer::Writer;
use hw_input::markers::MarkerContents;
use hw_input::transactions::Transaction;
use hw_types::{LogMessage, Lsn};

impl Writer {
    /// A transactional message: a marker, or the news that tables were altered. Others are not ours.
    pub(crate) fn marker(
        &mut self,
        message: &LogMessage,
        transaction: &Transaction,
    ) -> Result<(), EngineError> {
        match &*message.prefix {
            hw_pg::marker::PREFIX => {}
            hw_pg::marker::DDL_PREFIX => {
                self.news.altered += 1;
                return Ok(());
            }
            _ => return Ok(()),
        }
        match hw_pg::marker::verify(message, transaction.xid, &self.secret) {
            Ok(marker) => {
                let contents = MarkerContents::decode(&marker.contents);
                for request in contents.write_checkpoints {
                    let own = self.progress.write_base + message.lsn.0;
                    let number = request.requested.unwrap_or(own);
                    self.write_checkpoint(&request.user_key, number, message.lsn)?;
                }
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
        if stored.is_some_and(|stored| stored.number >= number) {
            return Ok(());
        }
        let value = WriteCheckpoint { number, at }.encode();
        self.overlay.put(&self.write_checkpoints, user.as_bytes().to_vec(), value)?;
        self.touched.users.insert(user.to_owned());
        Ok(())
    }
}
