//! What the class sees at the front: the address and its code, the histograms, the table at the end.

use shared::Screen;

use super::ballot::{Ballot, letter};
use super::room::{Code, Room};

/// The label in front of each line, as in a demo.
const LABEL: usize = 10;
/// The longest bar, in columns.
const LONGEST_BAR: usize = 30;

/// Before the first question: where to go.
pub fn gathering(room: &Room, (columns, rows): (usize, usize)) -> Vec<String> {
    let mut lines = vec![String::new()];
    match room.urls.as_slice() {
        [] => lines.push("This machine has no address that others can reach: see ip addr".into()),
        [first, others @ ..] => {
            lines.push(format!("{:<LABEL$}{first}", "go to"));
            lines.extend(others.iter().map(|url| format!("{:<LABEL$}{url}", "or")));
        }
    }
    if room.urls.iter().any(|url| url.contains("//127.") || url.contains("//[::1]")) {
        lines.push(format!("{:LABEL$}Only this machine reaches it. For the room: --listen 0.0.0.0:8007", ""));
    }
    lines.push(String::new());
    let fits = |code: &&Code| code.lines.len() + lines.len() + 1 < rows && code.width + LABEL < columns;
    if let Some(code) = room.code.as_ref().filter(fits) {
        lines.extend(code.lines.iter().map(|line| format!("{:LABEL$}{line}", "")));
        lines.push(String::new());
    }
    lines
}

/// While a vote is open: the address again, and its code where so many rows are enough.
pub fn voting(room: &Room, (columns, rows): (usize, usize)) -> Vec<String> {
    let mut lines = vec![String::new()];
    lines.extend(room.urls.first().map(|url| format!("{:<LABEL$}{url}", "vote at")));
    let fits = |code: &&Code| code.lines.len() + lines.len() + 1 < rows && code.width + LABEL < columns;
    if let Some(code) = room.code.as_ref().filter(fits) {
        lines.extend(code.lines.iter().map(|line| format!("{:LABEL$}{line}", "")));
    }
    lines
}

/// The votes of all rounds side by side; the right answer is marked once it is known.
pub fn histogram(ballot: &Ballot, columns: usize) -> Vec<String> {
    let rounds = ballot.round();
    let cell = (columns.clamp(60, 120) - LABEL - 4) / rounds.max(1);
    let bar = cell.saturating_sub(15).clamp(5, LONGEST_BAR);
    let cell = bar + 15;
    let head = |round: usize| {
        let voted: usize = ballot.counts(round).iter().sum();
        let name = if rounds > 1 { format!("vote {round}: ") } else { String::new() };
        format!("{:<cell$}", format!("{name}{voted} voted"))
    };
    let mut lines = vec![format!("{:<LABEL$}   {}", "votes", (1..=rounds).map(head).collect::<String>())];
    for at in 0..ballot.question().answers.len() {
        let label = if ballot.right() == Some(at) { "right" } else { "" };
        let cells = (1..=rounds).map(|round| {
            let counts = ballot.counts(round);
            let (votes, all) = (counts[at], counts.iter().sum::<usize>().max(1));
            let marks = "#".repeat((votes * bar).div_ceil(all));
            format!("{marks:<bar$} {votes:>4} {:>3} %    ", (200 * votes + all) / (2 * all))
        });
        lines.push(format!("{label:<LABEL$}{}  {}", letter(at), cells.collect::<String>()));
    }
    lines.iter().map(|line| line.trim_end().into()).collect()
}

/// The count of the votes, without what was voted: in the place of the histogram.
pub fn hidden(ballot: &Ballot) -> Vec<String> {
    vec![format!("{:<LABEL$}   {} voted   (h shows how many for each answer)", "votes", ballot.voted())]
}

/// One question in the table at the end: its name and text, and each answer behind its votes by round.
pub fn result(ballot: &Ballot, screen: &Screen) -> String {
    let question = ballot.question();
    let mut text = screen.hang(&format!("{}  ", question.experiment), &question.text);
    for (at, answer) in question.answers.iter().enumerate() {
        let right = if ballot.right() == Some(at) { "right" } else { "" };
        let counts: String = (1..=ballot.round()).map(|round| format!("{:>5}", ballot.counts(round)[at])).collect();
        text += "\n";
        text += &screen.hang(&format!("{right:<LABEL$}{counts}   {}) ", letter(at)), answer);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::ballot::Question;
    use super::*;

    fn voted() -> Ballot {
        let mut ballot = Ballot::new(2, 0);
        let answers = ["one", "two"].map(String::from).into();
        ballot.ask(Question { experiment: "e".into(), text: "Which?".into(), answers });
        ballot.open();
        (0..4).for_each(|voter| ballot.vote(voter, 1, 1, usize::from(voter == 0)).unwrap());
        ballot
    }

    #[test]
    fn both_histograms_stand_side_by_side_and_the_right_answer_is_marked() {
        let mut ballot = voted();
        assert_eq!(hidden(&ballot), ["votes        4 voted   (h shows how many for each answer)"]);
        let one = histogram(&ballot, 80);
        assert_eq!(one[0], "votes        4 voted");
        assert_eq!(one[1], format!("          a  {:<30}    3  75 %", "#".repeat(23)));
        ballot.open();
        ballot.vote(1, 1, 2, 1).unwrap();
        ballot.decide(Some(1), String::new());
        let two = histogram(&ballot, 80);
        assert!(two[0].contains("vote 1: 4 voted") && two[0].contains("vote 2: 1 voted"), "{two:?}");
        assert!(two[2].starts_with("right     b  ") && two[2].ends_with("    1 100 %"), "{two:?}");
        for columns in [60, 80, 100, 200] {
            assert!(histogram(&ballot, columns).iter().all(|line| line.len() < columns), "{columns}");
        }
    }

    #[test]
    fn the_code_is_drawn_only_where_there_is_room() {
        let room = Room::new("192.168.178.123:8007".parse().unwrap(), true);
        let lines = |rows| voting(&room, (80, rows)).len();
        assert!(lines(10) == 2 && lines(40) > 15, "{} {}", lines(10), lines(40));
        assert!((2..40).all(|rows| lines(rows) == 2 || lines(rows) < rows));
        let small = gathering(&room, (80, 12));
        assert!(small.len() < 12 && small[1].ends_with(&room.urls[0]), "{small:?}");
    }
}
