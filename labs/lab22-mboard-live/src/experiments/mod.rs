use shared::Lesson;
pub const LESSON: Lesson = Lesson { lab: crate::LAB, setting: "", needs: &[], experiments: &[], next: &[] };
