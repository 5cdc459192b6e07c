//! Nothing ships from here: this crate holds the tests that drive the `headwater` binary as a
//! process through the fault scenarios of `promises.md` 3, and the oracle property test.
//!
//! # How to run
//!
//! They run the binary that was built beside them (or the one in `HEADWATER_BIN`) and build nothing:
//!
//! ```text
//! cargo build -p headwater
//! cargo nextest run -p hw-faults                              # everything that must hold
//! cargo nextest run -p hw-faults -E 'test(fd_8)'              # by name
//! ```
//!
//! A test below `tests/line` that waits for a mend of the server is marked
//! `#[ignore = "waits: …"]` in the line above its name, and nothing else switches it off: the runner
//! counts it as skipped, and `cargo xtask promises` refuses to rest a promise on it. The list of all,
//! and a run of one or of all of them:
//!
//! ```text
//! cargo nextest list -p hw-faults --run-ignored ignored-only
//! cargo nextest run -p hw-faults --run-ignored all -E 'test(fd_8)'
//! cargo nextest run -p hw-faults --run-ignored ignored-only --no-fail-fast
//! ```
//!
//! Turning one on is taking its line away.
