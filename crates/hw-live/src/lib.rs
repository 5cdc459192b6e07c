//! Results that are kept live for whoever asks, under row level security.
//!
//! In: queries, each with as whom it is asked. Out: a first result, and every change of it, of one moment
//! each. Invariants:
//! - nobody is told of a row that Postgres would not show them at that moment, or a later one;
//! - what cannot be known is not visible;
//! - every transaction that the last moment did not see is asked about, wherever it stands in the log.
//!
//! Everything that reads rows for a principal goes through here. Suggested reading order: [`query`],
//! [`live`], `state`, `kept`, `asking`; `result` makes changes of two results, `book` says what a result depends on;
//! `plan` computes who is shown a row, and `index` finds them.

mod asking;
mod book;
pub mod error;
mod index;
mod kept;
pub mod live;
mod lookups;
mod plan;
pub mod query;
mod result;
mod state;
mod subscription;
mod touched;

pub use error::LiveError;
pub use live::{Live, LiveOptions};
pub use query::{Change, Commit, First, Key, LiveQuery, Matcher, News, Record, Sql, Wants};
pub use subscription::Subscription;
