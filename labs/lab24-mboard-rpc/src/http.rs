//! The transport's envelope: the little of HTTP that a call needs, parsed by httparse.

/// Headers of one request; more are refused.
const MOST_HEADERS: usize = 64;
/// The header of a request may be so long, in bytes.
pub const HEADER_LIMIT: usize = 16_384;
/// Calls are posted to this path and to no other.
pub const PATH: &str = "/RPC2";

/// The header of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the header itself.
    pub length: usize,
    /// Bytes of the body behind it.
    pub body: usize,
    /// The client wants to go on with this connection.
    pub keeps: bool,
    /// The status that says what is wrong with it.
    pub refused: Option<u16>,
}

impl Head {
    /// The header at the front of `bytes`, once it is whole.
    pub fn parse(bytes: &[u8], body_limit: usize) -> Option<Head> {
        let refused = |status| Some(Head { length: bytes.len(), body: 0, keeps: false, refused: Some(status) });
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        let length = match parsed.parse(bytes) {
            Ok(httparse::Status::Partial) if bytes.len() > HEADER_LIMIT => return refused(431),
            Ok(httparse::Status::Partial) => return None,
            Ok(httparse::Status::Complete(length)) => length,
            Err(httparse::Error::TooManyHeaders) => return refused(431),
            Err(_) => return refused(400),
        };
        let header = |name: &str| {
            let mut same = parsed.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
            same.next().map(|header| String::from_utf8_lossy(header.value).trim().to_ascii_lowercase())
        };
        if parsed.method != Some("POST") {
            return refused(405);
        }
        if parsed.path != Some(PATH) {
            return refused(404);
        }
        let body = match header("Content-Length").map(|length| length.parse::<usize>()) {
            None => return refused(411), // also where the body comes in chunks
            Some(Err(_)) => return refused(400),
            Some(Ok(body)) if body > body_limit => return refused(413),
            Some(Ok(body)) => body,
        };
        let connection = header("Connection").unwrap_or_default();
        let says = |what| connection.split(',').any(|word| word.trim() == what);
        let keeps = if parsed.version == Some(1) { !says("close") } else { says("keep-alive") };
        Some(Head { length, body, keeps, refused: None })
    }
}

/// The header and the body of an answer; `keeps` says that the connection goes on.
pub fn answer(status: u16, xml: &str, keeps: bool) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        411 => "Length Required",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        _ => "Bad Request",
    };
    let (version, end) = if keeps { ("1.1", "") } else { ("1.0", "Connection: close\r\n") };
    let allow = if status == 405 { "Allow: POST\r\n" } else { "" };
    let length = xml.len();
    format!(
        "HTTP/{version} {status} {reason}\r\nContent-Type: text/xml\r\nContent-Length: {length}\r\n{allow}{end}\r\n{xml}"
    )
    .into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CALL: &str = "POST /RPC2 HTTP/1.1\r\nHost: here\r\ncontent-length: 5\r\n\r\n";

    fn refused(text: &str) -> Option<u16> {
        Head::parse(text.as_bytes(), 100).unwrap().refused
    }

    #[test]
    fn a_header_is_understood_once_it_is_whole() {
        for length in 0..CALL.len() {
            assert_eq!(Head::parse(&CALL.as_bytes()[..length], 100), None, "{length}");
        }
        let whole = Head::parse(format!("{CALL}hello").as_bytes(), 100);
        assert_eq!(whole, Some(Head { length: CALL.len(), body: 5, keeps: true, refused: None }));
    }

    #[test]
    fn version_and_header_say_whether_the_connection_goes_on() {
        let keeps = |text: &str| Head::parse(text.as_bytes(), 100).unwrap().keeps;
        assert!(keeps(CALL));
        assert!(!keeps(&CALL.replace("HTTP/1.1", "HTTP/1.0")));
        assert!(keeps(&CALL.replace("HTTP/1.1", "HTTP/1.0").replace("Host: here", "Connection: Keep-Alive")));
        assert!(!keeps(&CALL.replace("Host: here", "Connection: TE, Close")));
    }

    #[test]
    fn what_is_no_call_gets_its_status() {
        for (text, status) in [
            (CALL.replace("POST", "GET"), 405),
            (CALL.replace("RPC2", "rpc"), 404),
            (CALL.replace("content-length: 5", "Transfer-Encoding: chunked"), 411),
            (CALL.replace(": 5", ": 101"), 413),
            (CALL.replace(": 5", ": 99999999999999999999"), 400),
            (CALL.replace(": 5", ": -5"), 400),
            ("1:Hello world!\r\n\r\n".into(), 400),
            (CALL.replace("Host: here", "a: b\r\n".repeat(70).trim_end()), 431),
            ("POST /".to_string() + &"x".repeat(HEADER_LIMIT), 431),
        ] {
            assert_eq!(refused(&text), Some(status), "{text:.60}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), path in ".{0,50}") {
            for bytes in [bytes, CALL.replace("RPC2", &path).into_bytes()] {
                if let Some(head) = Head::parse(&bytes, 100) {
                    prop_assert!(head.length <= bytes.len() && head.body <= 100);
                }
            }
        }
    }
}
