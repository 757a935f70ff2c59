//! What holds for the demos of all labs together: their questions, and the run that README.md quotes.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use testkit::{Demo, built, labs};

/// A question as it was shown, and which of its answers was right.
struct Question {
    title: String,
    answers: Vec<String>,
    right: usize,
}

/// The questions in the output of a demo that were decided.
fn questions(output: &str) -> Vec<Question> {
    output.split("\n\n").filter_map(question).collect()
}

fn question(block: &str) -> Option<Question> {
    let mut lines = block.trim_start().lines();
    let title = lines.next().filter(|title| title.starts_with(|first: char| first.is_ascii_digit()))?.into();
    let shown = lines.clone().skip_while(|line| !line.starts_with("ask  ")).skip(1);
    let verdict = lines.find_map(|line| line.strip_prefix("verdict   "))?;
    let right = verdict.split_whitespace().nth(1)?.strip_suffix(')')?.bytes().next()? - b'a';

    let mut answers: Vec<String> = Vec::new();
    for line in shown.map_while(|line| line.strip_prefix("          ")) {
        for part in line.split("   ") {
            let letter = format!("{}) ", char::from(b'a' + u8::try_from(answers.len()).unwrap()));
            match (part.strip_prefix(&letter), answers.last_mut()) {
                (Some(answer), _) => answers.push(answer.into()),
                (None, Some(answer)) => *answer += &format!(" {}", part.trim()),
                (None, None) => {} // the question itself goes on
            }
        }
    }
    Some(Question { title, answers, right: right.into() }).filter(|question| question.right < question.answers.len())
}

/// How a class could answer without reading: takes an answer's place, or its length.
type Habit = (&'static str, fn(&Question) -> Option<usize>);

const HABITS: [Habit; 7] = [
    ("a)", |question| at(question, 0)),
    ("b)", |question| at(question, 1)),
    ("c)", |question| at(question, 2)),
    ("d)", |question| at(question, 3)),
    ("the last", |question| Some(question.answers.len() - 1)),
    ("the longest", |question| (0..question.answers.len()).max_by_key(|at| question.answers[*at].len())),
    ("the shortest", |question| (0..question.answers.len()).min_by_key(|at| question.answers[*at].len())),
];

fn at(question: &Question, place: usize) -> Option<usize> {
    (place < question.answers.len()).then_some(place)
}

/// Of a hundred questions, a habit may win or lose so many beyond guessing.
const TOLERANCE: f64 = 10.0;

#[test]
fn no_habit_of_answering_beats_guessing() {
    let programs = built();
    let output = |lab: String| Demo::last_output(programs.join(lab).to_str().unwrap());
    let questions: Vec<Question> = labs().into_iter().flat_map(|lab| questions(&output(lab))).collect();
    assert!(questions.len() >= 5 * labs().len(), "only {} questions", questions.len());
    let mut found = Vec::new();
    for (name, habit) in HABITS {
        let (mut right, mut guessed) = (0, 0.0);
        for question in &questions {
            if let Some(answer) = habit(question) {
                right += usize::from(answer == question.right);
                guessed += 1.0 / question.answers.len() as f64;
            }
        }
        println!("{name:<12} is right in {right} of {} questions, by guessing in {guessed:.1}", questions.len());
        if (right as f64 - guessed).abs() > TOLERANCE / 100.0 * questions.len() as f64 {
            found.push(format!("{name}: {right} instead of {guessed:.1}"));
        }
    }
    assert!(
        found.is_empty(),
        "of {} questions, always to take {found:?}. For a place: choose another first number in `deal`, \
         shared/src/stage.rs, then UPDATE_SHEET=1 cargo test. For a length: reword answers.",
        questions.len()
    );
}

#[test]
fn the_readme_quotes_a_real_run() {
    testkit::assert_readme_quotes_a_run(built().join("lab07-multiclient").to_str().unwrap());
}

#[test]
fn questions_are_read_as_they_are_shown() {
    let output = "head\n\n1 * one\nclaim     c\nask       What, and\n          why?\n          a) this   b) that\n\
                  server    recv(3, 8) = 0\nverdict   CONFIRMED  b) so\n\n2   two\nask       What?\n          a) this\n          \
                  or this\n          b) that\nverdict   SKIPPED    needs luck\n\n3   three\nask       What?\n          a) this\n\
                  \u{20}         or this\n          b) that\nyou       foresaw it\nverdict   ANSWERED   a) so\n";
    let read = questions(output);
    let shown = |question: &Question| (question.title.clone(), question.answers.join("/"), question.right);
    assert_eq!(shown(&read[0]), ("1 * one".into(), "this/that".into(), 1));
    assert_eq!(shown(&read[1]), ("3   three".into(), "this or this/that".into(), 0));
    assert_eq!(read.len(), 2);
}
