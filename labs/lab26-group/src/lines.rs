//! Lines as this lab takes them.

use crate::group::wire::TEXT_LIMIT;

pub use lines::Line;

/// The longest line, its newline not counted, in bytes.
const LINE_LIMIT: usize = TEXT_LIMIT;

/// Collects bytes until such a line is complete.
pub type LineSplitter = lines::LineSplitter<LINE_LIMIT>;
