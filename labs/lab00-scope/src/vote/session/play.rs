//! What the demo shows, and what it means for the vote.

use anyhow::Result;
use shared::Screen;

use super::super::ballot::Question;
use super::super::picture::{histogram, result};
use super::super::reader::Seen;
use super::{Session, Step};

impl Session {
    /// Reads what the demo wrote, and sees whether it has ended.
    ///
    /// # Errors
    /// The votes cannot be kept.
    pub fn follow(&mut self) -> Result<()> {
        let Some(demo) = self.demo.as_mut().filter(|_| self.ended.is_none()) else { return Ok(()) };
        // First whether it has ended, then what it wrote: so its last words are read. Not until end of file: a program
        // that the demo left behind may hold the terminal open.
        let ended = demo.ended()?;
        match (demo.read(), ended) {
            (Some(bytes), _) if !bytes.is_empty() => self.demo_wrote(&bytes),
            (_, Some(status)) => {
                self.ended = Some(status);
                self.close()?;
                self.wait_for(Step::Over);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Nothing follows: the table of all votes, and the page says that it is over.
    ///
    /// # Errors
    /// The votes cannot be kept.
    pub fn close(&mut self) -> Result<()> {
        let rest = self.reader.end();
        self.console.lines(&rest);
        self.keep()?;
        self.class.ballot.end();
        if !self.results.is_empty() {
            let rounds: String = (1..=self.class.ballot.rounds()).map(|round| format!("{round:>5}")).collect();
            let text = self.results.join("\n");
            self.console.lines(&format!("\nby round  {rounds}\n{text}\n"));
        }
        Ok(())
    }

    /// What the demo wrote.
    ///
    /// # Errors
    /// The votes cannot be kept.
    fn demo_wrote(&mut self, bytes: &[u8]) -> Result<()> {
        for seen in self.reader.read(bytes) {
            match seen {
                Seen::Lines(lines) => self.console.lines(&lines),
                Seen::Cleared => {
                    self.console.clear();
                    self.keep()?; // of a question that was left without a verdict
                    self.class.ballot.wait();
                }
                Seen::Asks { question, prompt } => self.asked(question, prompt)?,
                Seen::Decided { verdict, prompt } => {
                    if self.pending {
                        self.decided.insert(self.class.ballot.question().experiment.clone());
                        self.class.ballot.decide(verdict.right, verdict.words);
                        let lines = histogram(&self.class.ballot, self.console.size().0).join("\n");
                        self.console.lines(&format!("{lines}\n"));
                        self.keep()?;
                    }
                    self.wait_for(Step::Prompt(prompt));
                }
                Seen::Waits { prompt } => self.wait_for(Step::Prompt(prompt)),
            }
        }
        Ok(())
    }

    /// A question stands: the class votes, unless it has seen the answer already.
    fn asked(&mut self, question: Question, prompt: String) -> Result<()> {
        if self.decided.contains(&question.experiment) {
            self.wait_for(Step::Prompt(prompt));
            return Ok(());
        }
        self.keep()?; // an experiment may ask twice
        self.class.ballot.ask(question);
        self.class.ballot.open();
        self.pending = true;
        self.wait_for(Step::Vote);
        Ok(())
    }

    /// Keeps the votes of a question, once.
    fn keep(&mut self) -> Result<()> {
        if std::mem::take(&mut self.pending) && (1..=self.class.ballot.round()).any(|round| self.has_votes(round)) {
            self.results.push(result(&self.class.ballot, &Screen::new()));
            let lab = self.show.program.file_name().unwrap_or_default().to_string_lossy();
            self.save.question(&lab, &self.class.ballot)?;
        }
        Ok(())
    }

    fn has_votes(&self, round: usize) -> bool {
        self.class.ballot.counts(round).iter().any(|votes| *votes > 0)
    }
}
