//! The input: what the source has to tell, as one order of whole transactions, copies and positions.
//!
//! The [`driver`] follows the source: a [`session`] finds out with [`source`] who it is,
//! [`identity`] and [`history`] decide whether the stored position and the source still belong
//! together, [`copying`] reads whole tables at a boundary of the log ([`copy_session`]),
//! [`following`] passes the stream on as [`transactions`] in commit order, [`beside`] it [`watching`]
//! compares the catalog with what was noted. [`markers`] answer whether everything up to now has arrived.
//!
//! What it has to say are signals ([`signal`]), out of which the engine's sequencer makes the order
//! itself, as plain data ([`entry`]). What it needs to know it asks of the [`replica`]. What is
//! durable the engine decides; the driver confirms it to the source.

mod beside;
mod context;
pub mod copy_session;
mod copying;
pub mod driver;
mod ended;
pub mod entry;
pub mod error;
mod following;
pub mod history;
pub mod identity;
mod limit;
pub mod markers;
mod reminders;
pub mod replica;
mod retention;
mod session;
pub mod signal;
pub mod source;
pub mod status;
pub mod transactions;
mod watching;

pub use driver::{Driver, DriverOptions};
pub use error::{InputError, Result};
