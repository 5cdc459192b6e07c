//! The process: allocator, arguments, exit code.

fn main() {}
