//! The program dot-proxy.
fn main() {}
