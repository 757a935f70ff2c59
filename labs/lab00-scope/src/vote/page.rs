//! The page of a student: one text for each moment, the same with and without JavaScript.
//!
//! It holds what the class sees at the front and nothing else. Which answer is right is not even known here before the
//! kernel has decided.

use std::fmt::Write;

use super::ballot::{Ballot, Phase, Voter, letter};

/// How it looks.
pub const STYLE: &str = include_str!("page.css");
/// What spares the reloading.
pub const SCRIPT: &str = include_str!("page.js");

/// The whole page; `said` stands in the place of what would be said now.
pub fn page(ballot: &Ballot, voter: Option<Voter>, said: Option<&str>) -> String {
    // Without JavaScript, the page asks again by itself, but not while somebody reads the question and chooses.
    let voted = voter.is_some_and(|voter| ballot.vote_of(voter, ballot.round()).is_some());
    let reload = match ballot.phase() {
        Phase::Open if voted => "<noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>",
        Phase::Open | Phase::Over => "",
        _ => "<noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>",
    };
    let heading = said.map_or_else(|| status(ballot, voter), String::from);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Vote: what will happen?</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<link rel=\"stylesheet\" href=\"/page.css\">\n{reload}\n</head>\n<body>\n<main>\n\
         <h1>What will happen?</h1>\n<p id=\"said\" role=\"status\" aria-live=\"polite\">{}</p>\n\
         <div id=\"part\">\n{}</div>\n\
         <noscript><p><a href=\"/\">Look again</a></p></noscript>\n\
         <p class=\"small\">Only the number of votes for each answer is kept: no name, no address.</p>\n\
         </main>\n<script src=\"/page.js\"></script>\n</body>\n</html>\n",
        escaped(&heading),
        part(ballot, voter)
    )
}

/// What the script puts into the page: a line to be said, an empty line, what is below it.
pub fn update(ballot: &Ballot, voter: Option<Voter>, said: Option<&str>) -> String {
    format!("{}\n\n{}", said.map_or_else(|| status(ballot, voter), String::from), part(ballot, voter))
}

/// One sentence or two: what is now, and what to do.
fn status(ballot: &Ballot, voter: Option<Voter>) -> String {
    let (round, rounds) = (ballot.round(), ballot.rounds().max(ballot.round()));
    let name = if rounds > 1 { format!("Vote {round} of {rounds}") } else { "The vote".into() };
    let own = voter.and_then(|voter| ballot.vote_of(voter, round)).map(letter);
    match (ballot.phase(), own) {
        (Phase::Waiting, _) => "No question stands now. The next one comes by itself.".into(),
        (Phase::Over, _) => "That was the last question. You can close this page.".into(),
        (Phase::Open, None) => format!("{name} is open. Tap your answer."),
        (Phase::Open, Some(own)) => format!("{name}: your answer {own} is counted. You can still change it."),
        (Phase::Closed, _) if round == 0 => "Read the question. The vote opens soon.".into(),
        (Phase::Closed, _) if !ballot.is_last() => {
            format!("{name} is closed. Convince your neighbour, then vote again.")
        }
        (Phase::Closed, _) => format!("{name} is closed. Now the kernel decides: look at the front."),
        (Phase::Decided, _) => match ballot.right() {
            Some(right) => format!("The kernel has decided: {}.", letter(right)),
            None => "The kernel has decided for none of the answers: look at the front.".into(),
        },
    }
}

/// Question and answers: to be tapped while the vote is open, to be read else.
fn part(ballot: &Ballot, voter: Option<Voter>) -> String {
    if matches!(ballot.phase(), Phase::Waiting | Phase::Over) {
        return String::new();
    }
    let vote = |round| voter.and_then(|voter| ballot.vote_of(voter, round));
    let (open, question) = (ballot.phase() == Phase::Open, ballot.question());
    let mut html = String::new();
    if open {
        let _ = write!(
            html,
            "<form method=\"post\" action=\"/vote\">\n<input type=\"hidden\" name=\"question\" value=\"{}\">\n\
             <input type=\"hidden\" name=\"round\" value=\"{}\">\n<fieldset>\n<legend>{}</legend>\n",
            ballot.number(),
            ballot.round(),
            escaped(&question.text)
        );
    } else {
        let _ = write!(html, "<h2>{}</h2>\n<ul>\n", escaped(&question.text));
    }
    for (at, answer) in question.answers.iter().enumerate() {
        let (letter, answer) = (letter(at), escaped(answer));
        if open {
            let pressed = vote(ballot.round()) == Some(at);
            let _ = writeln!(
                html,
                "<button name=\"answer\" value=\"{letter}\" aria-pressed=\"{pressed}\"><b>{letter})</b> \
                 <span>{answer}</span></button>"
            );
            continue;
        }
        let own: Vec<usize> = (1..=ballot.round()).filter(|round| vote(*round) == Some(at)).collect();
        let mut notes: Vec<String> = own.iter().map(|round| format!("your vote {round}")).collect();
        let right = ballot.right() == Some(at);
        if right {
            notes.insert(0, "this is right".into());
        }
        let class = if right { " class=\"right\"" } else { "" };
        let notes = if notes.is_empty() { String::new() } else { format!(" <i>{}</i>", notes.join(", ")) };
        let _ = writeln!(html, "<li{class}><b>{letter})</b> <span>{answer}{notes}</span></li>");
    }
    html += if open { "</fieldset>\n</form>\n" } else { "</ul>\n" };
    if let Some(words) = ballot.verdict() {
        let _ = writeln!(html, "<p>{}</p>", escaped(words));
    }
    html
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::ballot::Question;
    use super::*;

    fn asked() -> Ballot {
        let mut ballot = Ballot::new(2, 0);
        let answers = ["<0 bytes>", "ECONNRESET"].map(String::from).into();
        ballot.ask(Question { experiment: "x".into(), text: "What & why?".into(), answers });
        ballot
    }

    /// The page with the answers' texts taken out: what is left must not tell one answer from another.
    fn of_each_answer(page: &str) -> Vec<String> {
        let lines = page
            .lines()
            .filter(|line| line.starts_with("<button") || line.starts_with("<li>") || line.starts_with("<li "));
        let plain = |(at, line): (usize, &str)| {
            let line = line.replace(&format!("<b>{})", letter(at)), "").replace(&format!("\"{}\"", letter(at)), "");
            let span = line.find("<span>").unwrap()..line.find("</span>").unwrap();
            line.replace(&line[span], "")
        };
        lines.enumerate().map(plain).collect()
    }

    #[test]
    fn nothing_in_the_page_tells_the_right_answer_before_the_verdict() {
        let mut ballot = asked();
        let check = |ballot: &Ballot| {
            let page = page(ballot, Some(1), None);
            let answers = of_each_answer(&page);
            assert!(answers.len() == 2 && answers[0] == answers[1], "{answers:?}");
            assert!(!page.contains("right") && !page.contains("CONFIRMED"), "{page}");
        };
        check(&ballot);
        for _ in 0..2 {
            ballot.open();
            check(&ballot);
            ballot.close();
            check(&ballot);
        }
        ballot.decide(Some(1), "CONFIRMED b) so".into());
        let page = page(&ballot, Some(1), None);
        assert!(page.contains("<li class=\"right\"><b>b)</b>") && page.contains("decided: b.</p>"), "{page}");
    }

    #[test]
    fn strange_texts_stay_texts_and_ones_own_vote_is_shown() {
        let mut ballot = asked();
        ballot.open();
        ballot.vote(1, 1, 1, 0).unwrap();
        let page = page(&ballot, Some(1), None);
        assert!(page.contains("<legend>What &amp; why?</legend>") && page.contains("&lt;0 bytes&gt;"), "{page}");
        assert!(
            page.contains("value=\"a\" aria-pressed=\"true\"") && page.contains("your answer a is counted"),
            "{page}"
        );
        assert!(!super::page(&ballot, Some(2), None).contains("http-equiv"), "no reload under a finger");
        ballot.close();
        let update = update(&ballot, Some(1), None);
        assert!(update.starts_with("Vote 1 of 2 is closed. ") && update.contains("<i>your vote 1</i>"), "{update}");
    }

    #[test]
    fn nothing_is_taken_from_elsewhere() {
        let all = [STYLE, SCRIPT, &page(&asked(), None, None)].concat();
        assert!(!all.contains("http:") && !all.contains("https:") && !all.contains("url("), "{all}");
    }
}
