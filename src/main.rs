//! Picks daemon or ctl.
fn main() {}
