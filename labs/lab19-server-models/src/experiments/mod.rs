//! What chapter 4 says of its servers, decided by the kernel.
use kernel::need::{BACKLOGS, DESCRIPTORS, LOOPBACK, PORTS};
use shared::Lesson;
pub const LESSON: Lesson = Lesson { lab: crate::LAB, setting: "", needs: &[LOOPBACK, PORTS, DESCRIPTORS, BACKLOGS], experiments: &[], next: &[] };
