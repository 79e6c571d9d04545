//! hull
fn main() {}
