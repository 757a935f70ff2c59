//! Who voted for what: questions, rounds, one vote for each browser. No socket, no clock, no name in it.

use std::collections::HashMap;

/// A browser, by the random number in its cookie.
pub type Voter = u128;

/// Votes of one round that are kept; the class is smaller.
const MOST_VOTERS: usize = 4096;

/// What can be voted on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The experiment's name.
    pub experiment: String,
    /// What is asked.
    pub text: String,
    /// The answers in the order in which they are shown; their letters follow from it.
    pub answers: Vec<String>,
}

/// Where the class is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No question stands.
    Waiting,
    /// A vote is open.
    Open,
    /// It is closed; another one or the verdict follows.
    Closed,
    /// The kernel has decided.
    Decided,
    /// Nothing follows.
    Over,
}

/// Why a vote does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The vote was open once.
    TooLate,
    /// No such vote has been open.
    NoSuchVote,
    /// The question has no such answer.
    NoSuchAnswer,
    /// More browsers than any class has.
    Full,
}

/// The present question with its votes.
pub struct Ballot {
    phase: Phase,
    /// How many rounds a question is meant to have.
    rounds: usize,
    /// Where the numbers of questions begin: a page that was left open in another lecture names none of these.
    base: u32,
    /// The number of the present question.
    number: u32,
    question: Question,
    /// Each browser's answer, by round.
    votes: Vec<HashMap<Voter, usize>>,
    /// No further round follows.
    last: bool,
    /// What the kernel decided: the place of the right answer, if one of them was right, and the verdict's words.
    verdict: Option<(Option<usize>, String)>,
}

impl Ballot {
    /// No question yet; each will have so many rounds, and their numbers follow this one.
    pub fn new(rounds: usize, base: u32) -> Ballot {
        let question = Question::default();
        Ballot {
            phase: Phase::Waiting,
            rounds,
            base,
            number: base,
            question,
            votes: Vec::new(),
            last: false,
            verdict: None,
        }
    }

    /// Puts the next question; its first vote is not open yet.
    pub fn ask(&mut self, question: Question) {
        *self = Ballot { number: self.number + 1, question, ..Ballot::new(self.rounds, self.base) };
        self.phase = Phase::Closed;
    }

    /// Opens the next round.
    pub fn open(&mut self) {
        self.votes.push(HashMap::new());
        self.phase = Phase::Open;
    }

    /// Ends the round.
    pub fn close(&mut self) {
        self.phase = Phase::Closed;
    }

    /// Ends the vote: no further round follows.
    pub fn decides_now(&mut self) {
        self.close();
        self.last = true;
    }

    /// Whether no further round follows.
    pub fn is_last(&self) -> bool {
        self.last || self.round() >= self.rounds
    }

    /// The kernel has decided: which answer, if any of them, and what the verdict says.
    pub fn decide(&mut self, right: Option<usize>, words: String) {
        self.verdict = Some((right.filter(|right| *right < self.question.answers.len()), words));
        self.phase = Phase::Decided;
    }

    /// Between two questions.
    pub fn wait(&mut self) {
        self.phase = Phase::Waiting;
    }

    /// After the last one.
    pub fn end(&mut self) {
        self.phase = Phase::Over;
    }

    /// Counts a vote: the last one of a browser in a round is its vote.
    ///
    /// # Errors
    /// It does not count, and why.
    pub fn vote(&mut self, voter: Voter, number: u32, round: usize, answer: usize) -> Result<(), Refused> {
        let known = (self.base + 1..=self.number).contains(&number) && (1..=MOST_ROUNDS).contains(&round);
        let begun = number < self.number || round <= self.votes.len();
        match (known && begun, self.phase) {
            (false, _) => return Err(Refused::NoSuchVote),
            (true, Phase::Open) if number == self.number && round == self.votes.len() => {}
            (true, _) => return Err(Refused::TooLate),
        }
        let votes = self.votes.last_mut().ok_or(Refused::NoSuchVote)?;
        if answer >= self.question.answers.len() {
            return Err(Refused::NoSuchAnswer);
        }
        if votes.len() >= MOST_VOTERS && !votes.contains_key(&voter) {
            return Err(Refused::Full);
        }
        votes.insert(voter, answer);
        Ok(())
    }

    /// This browser's answer in a round (1 is the first).
    pub fn vote_of(&self, voter: Voter, round: usize) -> Option<usize> {
        self.votes.get(round.checked_sub(1)?)?.get(&voter).copied()
    }

    /// The votes for each answer in a round (1 is the first).
    pub fn counts(&self, round: usize) -> Vec<usize> {
        let mut counts = vec![0; self.question.answers.len()];
        let votes = round.checked_sub(1).and_then(|at| self.votes.get(at));
        votes.into_iter().flat_map(HashMap::values).for_each(|answer| counts[*answer] += 1);
        counts
    }

    /// How many have voted in the present round.
    pub fn voted(&self) -> usize {
        self.votes.last().map_or(0, HashMap::len)
    }

    /// Where the class is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The present round: 1 is the first, 0 if none has been opened.
    pub fn round(&self) -> usize {
        self.votes.len()
    }

    /// How many rounds a question is meant to have.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    /// The number of the present question.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The present question.
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// The place of the right answer, once the kernel has decided for one.
    pub fn right(&self) -> Option<usize> {
        self.verdict.as_ref().and_then(|(right, _)| *right)
    }

    /// The words of the verdict, once there is one.
    pub fn verdict(&self) -> Option<&str> {
        self.verdict.as_ref().map(|(_, words)| words.as_str())
    }
}

/// More rounds than two teach nothing new, and the histograms must stand side by side.
pub const MOST_ROUNDS: usize = 3;

/// The letter of an answer.
pub fn letter(at: usize) -> char {
    (b'a'..=b'z').nth(at).map_or('?', char::from)
}

/// The place of an answer by its letter.
pub fn place(letter: &str) -> Option<usize> {
    let [byte @ b'a'..=b'z'] = letter.as_bytes() else { return None };
    Some(usize::from(byte - b'a'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Ballot {
        let mut ballot = Ballot::new(2, 0);
        let answers = ["0", "ECONNRESET", "EPIPE"].map(String::from).into();
        ballot.ask(Question { experiment: "half-close".into(), text: "What?".into(), answers });
        ballot
    }

    #[test]
    fn each_browser_has_one_vote_in_each_round_and_the_last_one_counts() {
        let mut ballot = asked();
        assert_eq!(ballot.vote(7, 1, 1, 0), Err(Refused::NoSuchVote), "not open yet");
        ballot.open();
        assert_eq!([(7, 0), (8, 0), (7, 2)].map(|(voter, answer)| ballot.vote(voter, 1, 1, answer)), [Ok(()); 3]);
        assert_eq!((ballot.counts(1), ballot.voted()), (vec![1, 0, 1], 2));
        ballot.close();
        ballot.open();
        assert_eq!((ballot.vote(7, 1, 2, 1), ballot.vote(8, 1, 1, 1)), (Ok(()), Err(Refused::TooLate)));
        assert_eq!([ballot.counts(1), ballot.counts(2)], [vec![1, 0, 1], vec![0, 1, 0]]);
        assert_eq!((ballot.vote_of(7, 1), ballot.vote_of(7, 2), ballot.vote_of(8, 2)), (Some(2), Some(1), None));
    }

    #[test]
    fn what_is_not_open_is_refused_and_too_late_is_told_from_never() {
        let mut ballot = asked();
        ballot.open();
        ballot.close();
        assert_eq!(ballot.vote(7, 1, 1, 0), Err(Refused::TooLate));
        for (number, round) in [(2, 1), (0, 1), (1, 0), (1, 2), (u32::MAX, 1), (1, usize::MAX)] {
            assert_eq!(ballot.vote(7, number, round, 0), Err(Refused::NoSuchVote), "{number} {round}");
        }
        ballot.open();
        assert_eq!(ballot.vote(7, 1, 2, 3), Err(Refused::NoSuchAnswer));
        ballot.ask(Question { answers: vec!["yes".into(), "no".into()], ..Question::default() });
        ballot.open();
        assert_eq!((ballot.vote(7, 1, 2, 0), ballot.vote(7, 2, 1, 1)), (Err(Refused::TooLate), Ok(())));
        ballot.decide(Some(9), "none of them".into());
        assert_eq!((ballot.right(), ballot.phase()), (None, Phase::Decided));
    }

    #[test]
    fn a_stranger_with_many_cookies_cannot_fill_the_memory() {
        let mut ballot = asked();
        ballot.open();
        let refused = (0..10_000).filter(|voter| ballot.vote(*voter, 1, 1, 0) == Err(Refused::Full)).count();
        assert_eq!((refused, ballot.voted()), (10_000 - MOST_VOTERS, MOST_VOTERS));
        assert_eq!(ballot.vote(0, 1, 1, 1), Ok(()), "whoever is in may still change");
    }

    #[test]
    fn letters_name_places() {
        assert!((0..26).all(|at| place(&letter(at).to_string()) == Some(at)));
        assert!(["", "A", "ab", "1", "\u{e4}"].iter().all(|text| place(text).is_none()));
    }
}
