//! Lines as this lab takes them.

pub use lines::Line;

/// The longest line, its newline not counted, in bytes.
pub const LINE_LIMIT: usize = 64 * 1024;

/// Collects bytes until such a line is complete.
pub type LineSplitter = lines::LineSplitter<LINE_LIMIT>;
