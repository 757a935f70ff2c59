//! Messages of HTTP/1.1 (RFC 9112), as far as this lab needs them; no socket in it.
//!
//! A message is a first line, fields, an empty line, and a body of as many bytes as its Content-Length says.

/// A longer head is refused.
pub const HEAD_LIMIT: usize = 8192;

/// The first line and the fields of a request or an answer.
#[derive(Debug, PartialEq)]
pub struct Head {
    /// The first line's words: `GET / HTTP/1.1`, or `HTTP/1.1 200 OK`.
    pub words: [String; 3],
    fields: Vec<(String, String)>,
}

impl Head {
    /// The head at the front of `bytes`, and its length; `None` while some of it is missing.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, &'static str> {
        let (mut first, mut fields, mut at) = (None, Vec::new(), 0);
        loop {
            let Some(length) = bytes[at..].iter().position(|byte| *byte == b'\n') else {
                return if bytes.len() > HEAD_LIMIT { Err("its head is too long") } else { Ok(None) };
            };
            let line = &bytes[at..at + length];
            at += length + 1;
            if at > HEAD_LIMIT {
                return Err("its head is too long");
            }
            let line = line.strip_suffix(b"\r").unwrap_or(line); // RFC 9112 2.2: a lone LF will do
            if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
                return Err("a control character stands in its head");
            }
            let line = String::from_utf8_lossy(line);
            match (&first, line.is_empty()) {
                (None, _) => first = Some(words(&line)?),
                (Some(_), false) => fields.push(field(&line)?),
                (Some(_), true) => break,
            }
        }
        let head = Head { words: first.ok_or("it has no first line")?, fields };
        head.body_length()?;
        Ok(Some((head, at)))
    }

    /// The value of a field; names are the same in capitals and in small letters.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// How many bytes of body follow the head; `None` where it does not say.
    ///
    /// # Errors
    /// It is no number, there are two of them, or the body comes in chunks, which this lab does not read.
    pub fn body_length(&self) -> Result<Option<usize>, &'static str> {
        if self.field("Transfer-Encoding").is_some() {
            return Err("its body comes in chunks; this lab reads Content-Length only");
        }
        let lengths: Vec<_> =
            self.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("Content-Length")).collect();
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match &lengths[..] {
            [] => Ok(None),
            [(_, length)] if digits(length) => length.parse().map(Some).map_err(|_| "its Content-Length is too large"),
            _ => Err("its Content-Length is not one number"),
        }
    }

    /// Whether the connection stays after this message: in HTTP/1.1 unless it says close, in HTTP/1.0 only if it says
    /// keep-alive (RFC 9112 9.3).
    pub fn keeps_connection(&self) -> bool {
        let says = |word: &str| {
            let all = self.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("Connection"));
            all.flat_map(|(_, value)| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case(word))
        };
        let version = if self.words[0].starts_with("HTTP/") { &self.words[0] } else { &self.words[2] };
        !says("close") && (version != "HTTP/1.0" || says("keep-alive"))
    }
}

/// `GET / HTTP/1.1`, or `HTTP/1.1 200 OK`, in which the last word may be several, or none.
fn words(line: &str) -> Result<[String; 3], &'static str> {
    let mut words = line.splitn(3, ' ');
    let [first, second, third] = [words.next(), words.next(), words.next()].map(Option::unwrap_or_default);
    let answer = is_version(first) && second.len() == 3 && second.bytes().all(|byte| byte.is_ascii_digit());
    let request = !first.is_empty() && !first.contains('/') && !second.is_empty() && is_version(third);
    if answer || request {
        Ok([first, second, third].map(String::from))
    } else {
        Err("its first line is not one of HTTP/1.1")
    }
}

fn is_version(word: &str) -> bool {
    matches!(word, "HTTP/1.0" | "HTTP/1.1")
}

fn field(line: &str) -> Result<(String, String), &'static str> {
    match line.split_once(':') {
        Some((name, value)) if !name.is_empty() && !name.contains([' ', '\t']) => {
            Ok((name.into(), value.trim().into()))
        }
        _ => Err("a line of its head is no field"),
    }
}

/// The files that a page names: each `src="..."` on the same server, in order.
pub fn objects(page: &str) -> Vec<String> {
    let sources = page.split("src=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let here = |target: &&str| target.starts_with('/') && !target.starts_with("//");
    let plain = |target: &&str| target.bytes().all(|byte| byte.is_ascii_graphic());
    sources.filter(here).filter(plain).map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Head {
        let (head, length) = Head::parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(length, text.len());
        head
    }

    #[test]
    fn a_head_has_words_fields_and_an_end() {
        let head = parsed("GET /object/1 HTTP/1.1\r\nHost: localhost:8080\r\ncontent-length:  12 \r\n\r\n");
        assert_eq!(head.words, ["GET", "/object/1", "HTTP/1.1"]);
        assert_eq!((head.field("HOST"), head.body_length()), (Some("localhost:8080"), Ok(Some(12))));
        assert_eq!(parsed("HTTP/1.1 404 Not Found\n\n").words, ["HTTP/1.1", "404", "Not Found"]); // typed by hand
        assert_eq!(parsed("HTTP/1.1 200\r\n\r\n").words[1], "200");
    }

    #[test]
    fn a_connection_stays_as_the_version_and_the_field_say() {
        for (version, field, stays) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "connection: Upgrade, CLOSE\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: keep-alive\r\n", true),
        ] {
            assert_eq!(parsed(&format!("GET / HTTP/{version}\r\n{field}\r\n")).keeps_connection(), stays, "{field}");
            assert_eq!(parsed(&format!("HTTP/{version} 200 OK\r\n{field}\r\n")).keeps_connection(), stays, "{field}");
        }
    }

    #[test]
    fn what_is_no_head_is_refused_in_words() {
        for text in [
            "hello\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
            "GET  HTTP/1.1\r\n\r\n",
            "\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "GET / HTTP/1.1\r\nno field\r\n\r\n",
            "GET / HTTP/1.1\r\nname : value\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /\u{1} HTTP/1.1\r\n\r\n",
        ] {
            assert!(Head::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(Head::parse(&[b'x'; HEAD_LIMIT + 1]).is_err());
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEAD_LIMIT));
        assert!(Head::parse(many.as_bytes()).is_err());
    }

    #[test]
    fn a_page_names_its_objects() {
        let page = "<img src=\"/object/1\"><img src=\"http://elsewhere/2\"><img src=\"//x/3\"><img src=\"/a b\"><img src=\"/4\">";
        assert_eq!(objects(page), ["/object/1", "/4"]);
        assert!(objects("no src=").is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_head_a_part_of_one_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((_, length))) = Head::parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
            objects(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn a_head_that_comes_in_parts_is_not_whole_before_its_last_byte(
            target in "/[a-z0-9]{0,20}",
            names in prop::collection::vec("[A-Za-z-]{1,10}", 0..5),
            body in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let fields: String = names.iter().map(|name| format!("x{name}: value\r\n")).collect();
            let head = format!("GET {target} HTTP/1.1\r\n{fields}\r\n");
            let whole = [head.as_bytes(), &body].concat();
            for length in 0..head.len() {
                prop_assert_eq!(Head::parse(&whole[..length]), Ok(None));
            }
            let (parsed, length) = Head::parse(&whole).unwrap().unwrap();
            prop_assert_eq!((length, &parsed.words[1]), (head.len(), &target));
        }
    }
}
