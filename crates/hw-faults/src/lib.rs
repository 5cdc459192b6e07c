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
