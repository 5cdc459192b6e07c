//! The protocol of one stream as a pure state machine: events in, effects out, no I/O, no clock.
//!
//! [`session::Session`] decides which line comes next; [`bucket`] is what it has announced;
//! [`timers`] knows when the token's clock must be told. The driver performs the effects and
//! reports back. Time is a [`Moment`]: the span since the stream began.

pub mod bucket;
pub mod session;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod table;
pub mod timers;

/// Time since the stream began, on a monotonic clock.
pub type Moment = std::time::Duration;
