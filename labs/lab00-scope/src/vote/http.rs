//! The little of HTTP/1.1 that the page needs: requests parsed by httparse, and answers.
//!
//! Not tiny_http: it loses connections in a burst of kept ones, and a class is such a burst.

use std::net::IpAddr;

use super::ballot::Voter;

/// The head of a request; phones send about 1 KiB.
const HEAD_LIMIT: usize = 8 * 1024;
/// A vote has 40 bytes.
const BODY_LIMIT: usize = 1024;
const MOST_HEADERS: usize = 64;

/// A request that was understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// GET, HEAD or POST.
    pub method: String,
    /// Without what follows a `?`.
    pub path: String,
    /// The cookie, if it is one of ours.
    pub voter: Option<Voter>,
    /// It comes from this very page, as far as the browser says.
    pub own: bool,
    /// What a form says, by name.
    pub form: Vec<(String, String)>,
    /// The connection shall be kept.
    pub keep: bool,
}

/// What the bytes at the front are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Not all of it is here.
    Part,
    /// A request, and its length.
    Whole(Request, usize),
    /// Nothing that can be answered but with this status; the connection ends.
    Refused(u16),
}

impl Request {
    /// A field of the form.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.form.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// The request at the front of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_LIMIT => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_LIMIT => return Parsed::Part,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Parsed::Refused(431),
        Err(_) => return Parsed::Refused(400),
    };
    let all = |name: &'static str| {
        let same = head.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        same.map(|header| std::str::from_utf8(header.value).unwrap_or("\u{fffd}").trim())
    };
    // Two of one kind could mean one thing here and another in a proxy: RFC 9112, 3.2 and 6.3.
    if ["host", "content-length", "origin"].iter().any(|name| all(name).count() > 1) {
        return Parsed::Refused(400);
    }
    if all("transfer-encoding").next().is_some() {
        return Parsed::Refused(411);
    }
    let body_length = match all("content-length").next() {
        None => 0,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse::<usize>().unwrap_or(usize::MAX)
        }
        Some(_) => return Parsed::Refused(400),
    };
    if body_length > BODY_LIMIT {
        return Parsed::Refused(413);
    }
    let method = head.method.unwrap_or_default();
    if !matches!(method, "GET" | "HEAD" | "POST") {
        return Parsed::Refused(405);
    }
    let host = all("host").next().unwrap_or_default();
    if !is_ours(host) {
        return Parsed::Refused(if host.is_empty() { 400 } else { 421 });
    }
    let Some(body) = bytes.get(length..length + body_length) else { return Parsed::Part };
    let said = |name, expected: &str| all(name).next().is_none_or(|value| value.eq_ignore_ascii_case(expected));
    let fetched = all("sec-fetch-site").next().is_none_or(|site| matches!(site, "same-origin" | "none"));
    let connection = all("connection").flat_map(|value| value.split(',')).map(str::trim);
    let close = head.version == Some(0) || connection.into_iter().any(|word| word.eq_ignore_ascii_case("close"));
    let path = head.path.unwrap_or_default();
    let request = Request {
        method: method.into(),
        path: path.split('?').next().unwrap_or_default().into(),
        voter: all("cookie").flat_map(|cookies| cookies.split(';')).find_map(voter),
        own: said("origin", &format!("http://{host}")) && fetched,
        form: form(body),
        keep: !close,
    };
    Parsed::Whole(request, length + body_length)
}

/// A page of another name could be made to lead here (DNS rebinding); an address cannot. So only addresses, and localhost.
fn is_ours(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !port.is_empty() => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

/// The number in `voter=0123456789abcdef0123456789abcdef`.
fn voter(cookie: &str) -> Option<Voter> {
    let digits = cookie.trim().strip_prefix("voter=")?;
    let whole = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    Voter::from_str_radix(digits, 16).ok().filter(|_| whole)
}

/// `question=1&round=1&answer=b`; nothing else needs to be understood.
fn form(body: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(body);
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

/// What a request gets.
pub struct Answer {
    pub status: u16,
    pub kind: &'static str,
    /// Further headers, each with its end of line.
    pub headers: String,
    pub body: String,
}

impl Answer {
    /// A text for people.
    pub fn text(status: u16, text: &str) -> Answer {
        Answer { status, kind: "text/plain", headers: String::new(), body: format!("{text}\n") }
    }

    /// For a request that was refused unread.
    pub fn refusal(status: u16) -> Answer {
        let text = match status {
            405 => "GET and POST only",
            408 => "the request took too long",
            411 => "say the length of the request with Content-Length",
            413 => "a vote is shorter than 1 KiB",
            421 => "use the address as it is shown at the front: digits, no name",
            431 => "the head of this request is too long",
            _ => "this is no request",
        };
        let mut answer = Answer::text(status, text);
        if status == 405 {
            answer.headers = "Allow: GET, HEAD, POST\r\n".into();
        }
        answer
    }

    /// The bytes to be sent; without the body where only the head was asked for.
    pub fn bytes(&self, keep: bool, head_only: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            303 => "See Other",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            409 => "Conflict",
            411 => "Length Required",
            413 => "Content Too Large",
            421 => "Misdirected Request",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            _ => "Refused",
        };
        let connection = if keep { "" } else { "Connection: close\r\n" };
        let mut bytes = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\n{connection}{}\r\n",
            self.status,
            self.kind,
            self.body.len(),
            self.headers
        );
        if !head_only {
            bytes += &self.body;
        }
        bytes.into_bytes()
    }
}
