//! The trimwick command line.
fn main() {}
