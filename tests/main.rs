//! Every promise, against the real program.
fn main() {}
