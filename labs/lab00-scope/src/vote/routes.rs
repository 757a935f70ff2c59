//! Which request gets which page, and whose vote counts.

use std::fs::File;
use std::io::Read;
use std::time::Instant;

use anyhow::Result;
use shared::At;

use super::ballot::{Ballot, Refused, Voter, place};
use super::crowd::Crowd;
use super::http::{Answer, Request};
use super::page::{SCRIPT, STYLE, page, update};

/// Nothing from elsewhere, nothing inside another page, forms only to here.
const POLICY: &str = "Content-Security-Policy: default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'\r\n\
    Referrer-Policy: same-origin\r\n";
/// The script's answer, told from a refusal that is only to be said.
const PART: &str = "X-Part: 1\r\n";

/// The class, as far as it is known here.
pub struct Class {
    pub ballot: Ballot,
    pub crowd: Crowd,
    random: File,
}

impl Class {
    /// A class that has seen no question; each will have so many rounds.
    ///
    /// # Errors
    /// /dev/urandom cannot be opened.
    pub fn new(rounds: usize) -> Result<Class> {
        let mut random = File::open("/dev/urandom").at("open", "/dev/urandom")?;
        let mut base = [0; 3];
        random.read_exact(&mut base).at("read", "/dev/urandom")?;
        let base = base.into_iter().fold(0, |base, byte| base << 8 | u32::from(byte));
        Ok(Class { ballot: Ballot::new(rounds, base), crowd: Crowd::default(), random })
    }

    /// Answers one request.
    pub fn answer(&mut self, request: &Request, now: Instant) -> Answer {
        if request.voter.is_some_and(|voter| !self.crowd.admits(voter, now)) {
            return Answer::text(429, "Too many requests from this browser. Wait a moment.");
        }
        let reads = request.method != "POST";
        match request.path.as_str() {
            "/" if reads => self.page(200, request.voter, None),
            "/part" if reads => self.part(200, request.voter, None),
            "/page.css" if reads => Answer { kind: "text/css", ..Answer::text(200, STYLE) },
            "/page.js" if reads => Answer { kind: "text/javascript", ..Answer::text(200, SCRIPT) },
            "/vote" | "/part" if !reads => self.vote(request),
            "/" | "/page.css" | "/page.js" | "/vote" => Answer::refusal(405),
            _ => Answer::text(404, "There is only one page here: /"),
        }
    }

    fn vote(&mut self, request: &Request) -> Answer {
        let Some(voter) = request.voter.filter(|_| request.own) else {
            let hint = "This vote came without the page's cookie, or from another page. Open the page, then vote.";
            return Answer::text(403, hint);
        };
        let number = |name| request.field(name).and_then(|digits| digits.parse().ok());
        let answer = request.field("answer").and_then(place);
        let counted = match (number("question"), number("round"), answer) {
            (Some(question), Some(round), Some(answer)) => {
                self.ballot.vote(voter, question, round as usize, answer).map_err(|why| match why {
                    Refused::TooLate => (409, "Too late: that vote is closed. Your answer was not counted."),
                    Refused::NoSuchVote => (409, "There is no such vote now. Your answer was not counted."),
                    Refused::NoSuchAnswer => (400, "There is no such answer. Nothing was counted."),
                    Refused::Full => (429, "More browsers vote than this page can count."),
                })
            }
            _ => Err((400, "This is no vote. Nothing was counted.")),
        };
        let by_script = request.path == "/part";
        match counted {
            Ok(()) if by_script => self.part(200, Some(voter), None),
            Ok(()) => Answer { headers: "Location: /\r\n".into(), ..Answer::text(303, "Counted.") },
            Err((status, said)) if by_script => self.part(status, Some(voter), Some(said)),
            Err((status, said)) => self.page(status, Some(voter), Some(said)),
        }
    }

    fn page(&mut self, status: u16, voter: Option<Voter>, said: Option<&str>) -> Answer {
        let mut headers = String::from(POLICY);
        if voter.is_none() {
            let mut bytes = [0; 16];
            if self.random.read_exact(&mut bytes).is_ok() {
                let voter = Voter::from_ne_bytes(bytes);
                headers +=
                    &format!("Set-Cookie: voter={voter:032x}; HttpOnly; SameSite=Strict; Path=/; Max-Age=86400\r\n");
            }
        }
        Answer { status, kind: "text/html", headers, body: page(&self.ballot, voter, said) }
    }

    fn part(&self, status: u16, voter: Option<Voter>, said: Option<&str>) -> Answer {
        Answer { status, kind: "text/plain", headers: PART.into(), body: update(&self.ballot, voter, said) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ballot::Question;
    use super::*;

    fn class() -> Class {
        let mut class = Class::new(2).unwrap();
        class.ballot = Ballot::new(2, 0);
        class.ballot.ask(Question { answers: vec!["no".into(), "yes".into()], ..Question::default() });
        class.ballot.open();
        class
    }

    fn voted(class: &mut Class, path: &str, own: bool, form: &str) -> (u16, String) {
        let form = form.split('&').filter_map(|pair| pair.split_once('='));
        let form = form.map(|(name, value)| (name.into(), value.into())).collect();
        let request = Request { method: "POST".into(), path: path.into(), voter: Some(1), own, form, keep: true };
        let answer = class.answer(&request, Instant::now());
        (answer.status, answer.body)
    }

    #[test]
    fn only_a_vote_of_the_present_round_from_this_page_counts() {
        let mut class = class();
        for (path, own, form, status) in [
            ("/vote", true, "question=1&round=1&answer=b", 303),
            ("/part", true, "question=1&round=1&answer=a", 200),
            ("/part", false, "question=1&round=1&answer=b", 403),
            ("/part", true, "question=1&round=1&answer=c", 400),
            ("/part", true, "question=1&round=1&answer=", 400),
            ("/part", true, "question=1&round=-1&answer=b", 400),
            ("/part", true, "question=99999999999&round=1&answer=b", 400),
            ("/part", true, "question=2&round=1&answer=b", 409),
            ("/part", true, "question=1&round=2&answer=b", 409),
            ("/part", true, "answer=b", 400),
            ("/part", true, "", 400),
            ("/other", true, "question=1&round=1&answer=b", 404),
            ("/", true, "question=1&round=1&answer=b", 405),
        ] {
            assert_eq!(voted(&mut class, path, own, form).0, status, "{path} {own} {form}");
        }
        assert_eq!(class.ballot.counts(1), [1, 0], "the one that changed its mind");
        class.ballot.close();
        let (status, said) = voted(&mut class, "/vote", true, "question=1&round=1&answer=b");
        assert!(status == 409 && said.contains(">Too late: that vote is closed."), "{status} {said}");
        assert_eq!(class.ballot.counts(1), [1, 0]);
    }

    #[test]
    fn a_browser_gets_one_cookie_that_scripts_and_other_pages_cannot_use() {
        let mut class = class();
        let mut cookie = |voter| {
            let request = Request { method: "GET".into(), path: "/".into(), voter, ..Request::default() };
            let headers = class.answer(&request, Instant::now()).headers;
            headers.lines().find(|line| line.starts_with("Set-Cookie: ")).map(String::from)
        };
        let (one, two) = (cookie(None).unwrap(), cookie(None).unwrap());
        assert!(one != two && one.contains("; HttpOnly; SameSite=Strict; "), "{one} {two}");
        assert_eq!(cookie(Some(1)), None);
    }

    #[test]
    fn a_flood_from_one_browser_is_refused() {
        let mut class = class();
        let answers: Vec<u16> =
            (0..100).map(|_| voted(&mut class, "/part", true, "question=1&round=1&answer=a").0).collect();
        assert!(answers[..20].iter().all(|status| *status == 200) && answers[30..].iter().all(|status| *status == 429));
    }
}
