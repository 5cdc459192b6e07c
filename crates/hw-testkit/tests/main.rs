//! The test kit's own promises.

mod cluster;
mod killed;
mod proxy;
mod sample;
