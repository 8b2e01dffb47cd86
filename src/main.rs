//! Arguments → configuration → logging → run → exit code. Nothing else.
fn main() {}
