//! The sync configuration language as cases.

mod access;
mod cost;
mod examples;
mod expressions;
mod findings;
mod fingerprints;
mod robustness;
mod serves_nothing;
mod world;
