mod session;
fn main() {}
