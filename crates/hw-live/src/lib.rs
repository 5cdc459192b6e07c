//! Results that are kept live for whoever asks, under row level security.
//!
//! In: queries, each with as whom it is asked. Out: a first result, and every change of it, of one moment
//! each. Invariants:
//! - nobody is told of a row that Postgres would not show them at that moment, or a later one;
//! - what cannot be known is not visible;
//! - every transaction that the last moment did not see is asked about, wherever it stands in the log.
//!
//! Everything that reads rows for a principal goes through here. Suggested reading order: [`query`],
//! [`live`], `state`, `kept`; `group`: in which order it is told; `rounds`, `lanes`, `asking`, `unseen`: who is asked, and of which moment; `book` says
//! what a result depends on, `ground` whether that is still so, `plan` computes who is shown a row, and `index` finds them; `result` makes changes
//! of two results, and `net` one of several changes; `room` counts what all of it holds; `aggregate` and `tally`: groups of rows; `window` and `row_order`: the first rows in an order; `audit` compares what
//! plans tell with what Postgres shows, and `found` is what came of that; `figures` says how results are, by what `hindrances` has of failures.

mod aggregate;
mod asking;
mod audit;
mod book;
pub mod error;
pub mod figures;
mod found;
mod ground;
mod group;
mod hindrances;
mod index;
mod kept;
mod lanes;
pub mod live;
mod lookups;
mod net;
mod plan;
pub mod query;
mod rendering;
mod result;
mod room;
mod rounds;
mod row_order;
mod state;
mod subscription;
mod tally;
mod unseen;
mod window;

pub use aggregate::{Aggregate, Function, GroupedBy, Groups};
pub use error::LiveError;
pub use figures::Figures;
pub use found::{Audits, Disagreement, code};
pub use group::{Group, News};
pub use live::{Live, LiveOptions};
pub use query::{Change, Commit, First, FirstRows, Key, LiveQuery, Matcher, Record, Wants};
pub use room::Room;
pub use subscription::Subscription;
