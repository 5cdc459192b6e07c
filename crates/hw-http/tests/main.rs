//! The listener over real sockets: what clients may do to it.

mod sockets;
