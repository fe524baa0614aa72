//! The `rawrz` program.
#![forbid(unsafe_code)]
fn main() {}
