//! Tokens of every kind against every kind of key, and keys behind an address that moves, fails
//! and dawdles.

mod behind_an_address;
mod configured_keys;
mod issuer;
mod jwks_server;
