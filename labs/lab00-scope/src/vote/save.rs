//! What the class believed, as a table: experiment, question, votes for each answer by round, what was right.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use shared::At;

use super::ballot::{Ballot, letter};

/// The first line of a file.
const HEAD: &str = "lab,experiment,question,letter,answer,round,votes,right\n";

/// The file for `--save`; nothing is kept without one.
pub struct Save {
    path: Option<PathBuf>,
}

impl Save {
    /// Opens the file, so that what is wrong with it is told before the class votes; a new one gets its head.
    ///
    /// # Errors
    /// As open(2) and write(2).
    pub fn new(path: Option<&Path>) -> Result<Save> {
        if let Some(path) = path {
            let mut file = append_to(path)?;
            if file.metadata().at("fstat", path.display())?.len() == 0 {
                file.write_all(HEAD.as_bytes()).at("write", path.display())?;
            }
        }
        Ok(Save { path: path.map(Path::to_path_buf) })
    }

    /// Appends the votes on one question; nothing if nobody voted.
    ///
    /// # Errors
    /// As open(2) and write(2).
    pub fn question(&self, lab: &str, ballot: &Ballot) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        Ok(append_to(path)?.write_all(rows(lab, ballot).as_bytes()).at("write", path.display())?)
    }
}

fn append_to(path: &Path) -> Result<File> {
    Ok(File::options().create(true).append(true).open(path).at("open", path.display())?)
}

/// A line for each answer in each round; `right` is empty where the kernel decided for none of them, or not at all.
fn rows(lab: &str, ballot: &Ballot) -> String {
    let question = ballot.question();
    let mut rows = String::new();
    for round in 1..=ballot.round() {
        let counts = ballot.counts(round);
        if counts.iter().sum::<usize>() == 0 {
            continue;
        }
        for (at, (answer, votes)) in question.answers.iter().zip(counts).enumerate() {
            let right = ballot.right().map_or("", |right| if right == at { "yes" } else { "no" });
            let texts = [lab, &question.experiment, &question.text].map(quoted).join(",");
            rows += &format!("{texts},{},{},{round},{votes},{right}\n", letter(at), quoted(answer));
        }
    }
    rows
}

/// A field of RFC 4180.
fn quoted(text: &str) -> String {
    let plain = !text.contains([',', '"', '\n', '\r']);
    if plain { text.into() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::super::ballot::Question;
    use super::*;

    #[test]
    fn each_answer_has_a_line_for_each_round_that_was_voted_in() {
        let mut ballot = Ballot::new(2, 0);
        let answers = ["0", "\"Bye\", then 0"].map(String::from).into();
        ballot.ask(Question { experiment: "e".into(), text: "What, now?".into(), answers });
        ballot.open();
        assert_eq!(rows("lab09-shutdown", &ballot), "");
        ballot.vote(1, 1, 1, 1).unwrap();
        let expected = "lab09-shutdown,e,\"What, now?\",a,0,1,0,\nlab09-shutdown,e,\"What, now?\",b,\"\"\"Bye\"\", then 0\",1,1,\n";
        assert_eq!(rows("lab09-shutdown", &ballot), expected);
        ballot.decide(Some(1), String::new());
        assert!(rows("lab09-shutdown", &ballot).ends_with(",1,1,yes\n"));
    }
}
