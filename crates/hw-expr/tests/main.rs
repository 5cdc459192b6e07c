//! The sync configuration language as cases.

mod examples;
