//! The `portray` command.

fn main() {}
