//! What a request asks for and what it gets: the little of HTTP/1.1 that files need, parsed by httparse.

use std::sync::OnceLock;

use shared::escaped;

use crate::{
    content::Content,
    range::{Asked, asked, digest_header},
};

/// Headers of one request; more are refused.
const MOST_HEADERS: usize = 64;
/// A path that is longer is not shown in full.
const SHOWN: usize = 40;

/// A request, or why there is none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    method: String,
    path: String,
    range: Option<String>,
    /// After it, the connection is closed.
    last: bool,
    /// The status that says what is wrong with it.
    refused: Option<u16>,
}

impl Request {
    /// The request at the front of `bytes`, if it is whole, and its length.
    pub fn parse(bytes: &[u8]) -> Option<(Request, usize)> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        let length = match parsed.parse(bytes) {
            Ok(httparse::Status::Partial) => return None,
            Ok(httparse::Status::Complete(length)) => length,
            Err(_) => return Some((Request::refused(400), bytes.len())),
        };
        let header = |name: &str| {
            let mut same = parsed.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
            same.next().map(|header| String::from_utf8_lossy(header.value).trim().to_string())
        };
        let connection = header("Connection").unwrap_or_default().to_ascii_lowercase();
        let has_body =
            header("Content-Length").is_some_and(|length| length != "0") || header("Transfer-Encoding").is_some();
        let mut request = Request {
            method: parsed.method.unwrap_or_default().into(),
            path: parsed.path.unwrap_or_default().into(),
            range: header("Range"),
            // HTTP/1.0 closes unless told to keep; we always close there.
            last: parsed.version == Some(0) || connection.split(',').any(|word| word.trim() == "close"),
            refused: None,
        };
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            request.refused = Some(405);
        }
        request.last |= has_body; // it is not read, so nobody knows where the next request begins
        Some((request, length))
    }

    /// One that cannot be understood: the connection ends with its answer.
    pub fn refused(status: u16) -> Request {
        Request { last: true, refused: Some(status), ..Request::default() }
    }

    pub fn is_last(&self) -> bool {
        self.last
    }

    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// Method and path, as a terminal can show them.
    pub fn told(&self) -> String {
        let told = escaped(format!("{} {}", self.method, self.path).as_bytes());
        let more = if told.chars().nth(SHOWN).is_some() { "..." } else { "" };
        told.chars().take(SHOWN).collect::<String>() + more
    }
}

/// What a request gets.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The file, from one byte up to another (not included).
    pub content: Option<Content>,
    pub from: u64,
    pub to: u64,
    /// Or a text.
    pub text: String,
    headers: String,
}

/// Finds the file, or says what is wrong.
pub fn answer(request: &Request, files: &[(Content, OnceLock<[u8; 32]>)]) -> Answer {
    let text = |status: u16, text: &str| {
        let text = if request.is_head() { String::new() } else { text.into() };
        Answer { status, content: None, from: 0, to: text.len() as u64, headers: String::new(), text }
    };
    match request.refused {
        Some(405) => return text(405, "GET and HEAD only\n"),
        Some(status) => return text(status, "this is no request\n"),
        None if request.path == "/" => {
            return text(200, &files.iter().map(|(file, _)| format!("{}.bin\n", file.number)).collect::<String>());
        }
        None => {}
    }
    let number = request.path.strip_prefix('/').and_then(|path| path.strip_suffix(".bin")?.parse::<usize>().ok());
    let Some((content, digest)) = number.and_then(|number| files.get(number.checked_sub(1)?)) else {
        return text(404, "no such file\n");
    };
    let size = content.size;
    let digest = digest_header(digest.get_or_init(|| content.digest()));
    let mut headers = format!("Accept-Ranges: bytes\r\nRepr-Digest: {digest}\r\n");
    let (status, from, to) = match request.range.as_deref().map_or(Asked::Whole, |range| asked(range, size)) {
        Asked::Whole => (200, 0, size),
        Asked::Part(from, to) => {
            headers += &format!("Content-Range: bytes {from}-{}/{size}\r\n", to - 1);
            (206, from, to)
        }
        Asked::Nothing => {
            headers += &format!("Content-Range: bytes */{size}\r\n");
            (416, 0, 0)
        }
    };
    Answer { status, content: Some(*content), from, to, text: String::new(), headers }
}

impl Answer {
    /// The status line and the headers.
    pub fn head(&self, last: bool) -> String {
        let reason = match self.status {
            200 => "OK",
            206 => "Partial Content",
            404 => "Not Found",
            405 => "Method Not Allowed",
            416 => "Range Not Satisfiable",
            431 => "Request Header Fields Too Large",
            _ => "Bad Request",
        };
        let kind = if self.content.is_some() { "application/octet-stream" } else { "text/plain" };
        let allow = if self.status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
        let close = if last { "Connection: close\r\n" } else { "" };
        format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}{close}{}\r\n",
            self.status,
            self.to - self.from,
            self.headers
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Request {
        Request::parse(text.as_bytes()).unwrap().0
    }

    fn answered(text: &str) -> Answer {
        let files: Vec<_> = (1..=2).map(|number| (Content { number, size: 10 }, OnceLock::new())).collect();
        answer(&parsed(text), &files)
    }

    #[test]
    fn a_request_is_understood_once_it_is_whole() {
        let text = "GET /1.bin HTTP/1.1\r\nHost: here\r\nrange: bytes=5-\r\n\r\n";
        for length in 0..text.len() {
            assert_eq!(Request::parse(&text.as_bytes()[..length]), None, "{length}");
        }
        let (request, length) = Request::parse(format!("{text}GET /2").as_bytes()).unwrap();
        assert_eq!((length, request.range.as_deref(), request.last), (text.len(), Some("bytes=5-"), false));
    }

    #[test]
    fn who_closes_is_said_by_version_header_and_body() {
        assert!(!parsed("GET / HTTP/1.1\r\n\r\n").last);
        assert!(parsed("GET / HTTP/1.0\r\n\r\n").last);
        assert!(parsed("GET / HTTP/1.1\r\nConnection: TE, Close\r\n\r\n").last);
        assert!(parsed("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello").last);
        assert!(parsed("Hello world!\r\n\r\n").last);
    }

    #[test]
    fn each_request_gets_its_status_and_its_part() {
        for (request, status, from, to) in [
            ("GET /1.bin", 200, 0, 10),
            ("HEAD /2.bin", 200, 0, 10),
            ("GET /0.bin", 404, 0, 13),
            ("GET /3.bin", 404, 0, 13),
            ("GET /1", 404, 0, 13),
            ("GET /", 200, 0, 12),
            ("DELETE /1.bin", 405, 0, 18),
        ] {
            let answer = answered(&format!("{request} HTTP/1.1\r\n\r\n"));
            assert_eq!((answer.status, answer.from, answer.to), (status, from, to), "{request}");
        }
        let part = answered("GET /1.bin HTTP/1.1\r\nRange: bytes=5-7\r\n\r\n");
        assert_eq!((part.status, part.from, part.to), (206, 5, 8));
        assert!(part.head(false).contains("Content-Length: 3\r\n") && part.head(false).contains(" bytes 5-7/10\r\n"));
        let nothing = answered("GET /1.bin HTTP/1.1\r\nRange: bytes=10-\r\n\r\n").head(true);
        assert!(nothing.starts_with("HTTP/1.1 416 ") && nothing.contains(" bytes */10\r\n"), "{nothing}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), path in ".{0,50}") {
            for bytes in [bytes, format!("GET {path} HTTP/1.1\r\n\r\n").into_bytes()] {
                if let Some((request, length)) = Request::parse(&bytes) {
                    prop_assert!(length <= bytes.len());
                    prop_assert!(request.told().chars().all(|scalar| !scalar.is_control()));
                    answer(&request, &[]);
                }
            }
        }
    }
}
