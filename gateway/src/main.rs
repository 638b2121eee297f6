//! Spillway command line.
fn main() {}
