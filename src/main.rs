//! The `pillion` program.

fn main() {}
