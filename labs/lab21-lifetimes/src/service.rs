//! What the two servers answer: a page with ten objects over HTTP, and a line for each line. No socket in it.

use std::time::Duration;

use shared::escaped;

use crate::http::Head;

/// The objects that the page names.
pub const OBJECTS: usize = 10;
/// A longer body of a request is refused.
const BODY_LIMIT: usize = 65_536;
/// A longer line of a session is refused.
pub const LINE_LIMIT: usize = 4096;

/// What a server serves.
pub enum Service {
    /// HTTP: a page, its objects, and a count of guests.
    Page {
        /// Each answer ends its connection.
        close: bool,
        /// Bytes of an object.
        size: usize,
        /// What POST /guests counts.
        guests: u64,
    },
    /// Lines, as in a remote shell.
    Host,
}

/// An answer.
pub struct Answer {
    /// What is sent.
    pub bytes: Vec<u8>,
    /// The connection ends behind it.
    pub last: bool,
    /// Request and answer in a few words.
    pub told: String,
}

impl Service {
    /// Takes one request from the front of `input` and answers it; `None` while some of it is missing. `number` counts
    /// the connection's requests, `open` is how long it is there, `ended`: nothing more will come.
    pub fn answer(&mut self, input: &mut Vec<u8>, number: u64, open: Duration, ended: bool) -> Option<Answer> {
        match self {
            Service::Page { close, size, guests } => http(input, *close, *size, guests),
            Service::Host => line(input, number, open, ended),
        }
    }
}

fn http(input: &mut Vec<u8>, close: bool, size: usize, guests: &mut u64) -> Option<Answer> {
    let refused = |status, why: &str| Some(reply(status, "text/plain", format!("{why}\n").as_bytes(), true, true, why));
    let (head, length) = match Head::parse(input) {
        Ok(parsed) => parsed?,
        Err(why) => return refused("400 Bad Request", why),
    };
    let body_length = head.body_length().ok().flatten().unwrap_or(0); // it was looked at by parse
    if body_length > BODY_LIMIT {
        return refused("413 Content Too Large", "its body is too long");
    }
    if input.len() < length + body_length {
        return None;
    }
    input.drain(..length + body_length);

    let [method, target, version] = head.words.each_ref().map(String::as_str);
    let object = target.strip_prefix("/object/").and_then(|number| number.parse::<usize>().ok());
    let (status, kind, body) = match (method, target) {
        ("GET" | "HEAD", "/") => ("200 OK", "text/html", page().into_bytes()),
        ("GET" | "HEAD", _) if object.is_some_and(|number| (1..=OBJECTS).contains(&number)) => {
            ("200 OK", "application/octet-stream", vec![b'x'; size])
        }
        ("POST", "/guests") => {
            *guests += 1;
            ("200 OK", "text/plain", format!("guest {guests}\n").into_bytes())
        }
        ("GET" | "HEAD" | "POST", _) => ("404 Not Found", "text/plain", b"not found\n".to_vec()),
        _ => ("501 Not Implemented", "text/plain", b"only GET, HEAD and POST\n".to_vec()),
    };
    let last = close || !head.keeps_connection();
    let told = format!("{method} {target}");
    let mut answer = reply(status, kind, &body, method != "HEAD", last, &told);
    if version == "HTTP/1.0" && !last {
        // A client of HTTP/1.0 keeps the connection only if it is told so.
        let at = answer.bytes.windows(2).position(|pair| pair == b"\r\n").unwrap_or(0);
        answer.bytes.splice(at..at, *b"\r\nConnection: keep-alive");
    }
    Some(answer)
}

/// The lines of HTTP/1.1 that this lab is about: how long the body is, and whether the connection stays.
fn reply(status: &str, kind: &str, body: &[u8], with_body: bool, last: bool, told: &str) -> Answer {
    let close = if last { "Connection: close\r\n" } else { "" };
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{close}\r\n", body.len());
    let mut bytes = head.into_bytes();
    if with_body {
        bytes.extend(body);
    }
    Answer { bytes, last, told: format!("{}  {status}", escaped(told.as_bytes())) }
}

fn page() -> String {
    let objects: String = (1..=OBJECTS).map(|number| format!("<img src=\"/object/{number}\">\n")).collect();
    format!("<!doctype html>\n<title>A page with ten objects</title>\n{objects}")
}

fn line(input: &mut Vec<u8>, number: u64, open: Duration, ended: bool) -> Option<Answer> {
    let end = match input.iter().position(|byte| *byte == b'\n') {
        Some(at) => at + 1,
        None if ended && !input.is_empty() => input.len(),
        None => input.len().min(LINE_LIMIT + 1),
    };
    if end > LINE_LIMIT {
        let told = format!("a line of more than {LINE_LIMIT} bytes");
        return Some(Answer { bytes: format!("refused: {told}\n").into_bytes(), last: true, told });
    }
    if !ended && !input[..end].ends_with(b"\n") || end == 0 {
        return None;
    }
    let line: Vec<u8> = input.drain(..end).collect();
    let text = line.strip_suffix(b"\n").unwrap_or(&line);
    let seconds = open.as_secs_f64();
    let bytes = [format!("{number} after {seconds:.1} s: ").as_bytes(), text, b"\n"].concat();
    Some(Answer { bytes, last: false, told: format!("line {number}: {}", escaped(text)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(service: &mut Service, input: &[u8], ended: bool) -> Option<(String, bool, usize)> {
        let mut input = input.to_vec();
        let answer = service.answer(&mut input, 1, Duration::from_millis(500), ended)?;
        Some((String::from_utf8_lossy(&answer.bytes).into_owned(), answer.last, input.len()))
    }

    #[test]
    fn requests_are_answered_and_what_follows_them_stays() {
        let mut page = Service::Page { close: false, size: 3, guests: 0 };
        let (answer, last, rest) = told(&mut page, b"GET /object/10 HTTP/1.1\r\n\r\nGET", false).unwrap();
        assert!(answer.ends_with("Content-Length: 3\r\n\r\nxxx") && !last && rest == 3, "{answer}");
        for (request, status, closes) in [
            ("GET /object/11 HTTP/1.1\r\n\r\n", "404", false),
            ("GET /object/0 HTTP/1.1\r\nConnection: close\r\n\r\n", "404", true),
            ("PUT / HTTP/1.1\r\n\r\n", "501", false),
            ("GET / HTTP/1.0\r\n\r\n", "200", true),
            ("nonsense\r\n", "400", true),
            ("POST /guests HTTP/1.1\r\nContent-Length: 70000\r\n\r\n", "413", true),
        ] {
            let (answer, last, _) = told(&mut page, request.as_bytes(), false).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && last == closes, "{request}: {answer}");
            assert_eq!(answer.contains("Connection: close\r\n"), closes, "{answer}");
        }
        let (answer, last, _) = told(&mut page, b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n") && !last, "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "no body: {answer}");
        for number in 1..=2 {
            let (answer, ..) = told(&mut page, b"POST /guests HTTP/1.1\r\nContent-Length: 2\r\n\r\nme", false).unwrap();
            assert!(answer.ends_with(&format!("guest {number}\n")), "{answer}");
        }
        assert!(told(&mut page, b"POST /guests HTTP/1.1\r\nContent-Length: 2\r\n\r\nm", false).is_none());
        let mut page = Service::Page { close: true, size: 3, guests: 0 };
        assert!(told(&mut page, b"GET / HTTP/1.1\r\n\r\n", false).unwrap().1);
    }

    #[test]
    fn a_line_is_answered_whole_and_the_last_one_without_its_newline() {
        let host = &mut Service::Host;
        assert_eq!(told(host, b"ls\nps", false).unwrap(), ("1 after 0.5 s: ls\n".into(), false, 2));
        assert_eq!(told(host, b"ls", false), None);
        assert_eq!(told(host, b"ls", true).unwrap().0, "1 after 0.5 s: ls\n");
        assert_eq!(told(host, b"", true), None);
        assert_eq!(told(host, b"\n", false).unwrap().0, "1 after 0.5 s: \n");
        let (answer, last, _) = told(host, &[b'x'; LINE_LIMIT + 1], false).unwrap();
        assert!(answer.starts_with("refused") && last);
        assert!(told(host, &[b'x'; LINE_LIMIT], false).is_none());
    }
}
