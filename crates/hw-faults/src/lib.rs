//! Nothing ships from here: this crate holds the tests that drive the `headwater` binary as a
//! process through the fault scenarios of `promises.md` 3, and the oracle property test.
