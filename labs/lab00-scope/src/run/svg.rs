//! The ladder as a page for slides: one SVG file, readable from the last row, dark where the viewer's desktop is dark.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use shared::At;

use super::ladder::{Ladder, Shown};
use super::model::{Event, Sink};
use super::slide::Page;

/// Collects the rows; the page is written at the end.
pub struct Svg {
    ladder: Ladder,
    page: Page,
    title: String,
    file: File,
}

impl Svg {
    /// # Errors
    /// What open(2) says.
    pub fn create(path: &Path, title: &str, shown: Shown) -> Result<Svg> {
        let file = File::create(path).at("open", path.display())?;
        Ok(Svg { ladder: Ladder::new(shown), page: Page::default(), title: title.into(), file })
    }
}

impl Sink for Svg {
    fn event(&mut self, event: &Event) -> Result<()> {
        for row in self.ladder.event(event) {
            self.page.draw(&row);
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let rows = self.ladder.step();
        rows.iter().for_each(|row| self.page.draw(row));
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        for row in self.ladder.end() {
            self.page.draw(&row);
        }
        self.file.write_all(self.page.finished(&self.title).as_bytes()).context("write the SVG file")
    }
}
