//! The lecture's protocol: a code, `:`, the payload. Numbers are decimal text, so that a captured packet can be read.
//!
//! | request | payload | answer |
//! |---|---|---|
//! | `1:` publish | the text | `0:` |
//! | `2:` ids of the last N | N; 0 means all | `0:ID:ID:ID` |
//! | `3:` get | an id | `0:TIME:ADDRESS:PORT:TEXT` |
//! | `4:` get the last N (TCP) | N; 0 means all | `0:COUNT:`, then for each `ID:TIME:ADDRESS:PORT:LENGTH:TEXT` |
//! | `5:` publish once (ours) | a request id, `:`, the text | `0:` |
//!
//! Any request can be answered with `1:` bad format, `2:` not found, `3:` unknown request. An IPv6 address stands in
//! brackets: the lecture's writing without them cannot be told from the fields around it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::memory::Message;

/// What begins an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 0: done; the payload is behind the colon.
    Ok = 0,
    /// 1: the request could not be parsed.
    BadFormat = 1,
    /// 2: no message has this id.
    NotFound = 2,
    /// 3: the request's code means nothing to this server.
    UnknownRequest = 3,
}

impl Code {
    /// The answer that is only this code.
    pub fn reply(self) -> Vec<u8> {
        format!("{}:", self as u8).into()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Code::Ok => "0 OK",
            Code::BadFormat => "1 bad format",
            Code::NotFound => "2 not found",
            Code::UnknownRequest => "3 unknown request",
        })
    }
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// 1: put this text on the board.
    Publish {
        /// Up to the end of the request.
        text: &'a [u8],
    },
    /// 2: the ids of the last messages.
    Last {
        /// How many; 0 means all.
        count: u64,
    },
    /// 3: one message.
    Get {
        /// As an answer to 2 named it.
        id: u64,
    },
    /// 4: the last messages in one answer (over TCP, where an answer may be long).
    GetLast {
        /// How many; 0 means all.
        count: u64,
    },
    /// 5, not in the lecture: as 1, but asked twice it is done once.
    PublishOnce {
        /// Drawn at random by the client, the same when it asks again.
        request_id: u64,
        /// Up to the end of the request.
        text: &'a [u8],
    },
}

impl<'a> Request<'a> {
    /// Reads a request, as the server received it.
    ///
    /// # Errors
    /// The code to answer with: bad format, or unknown request.
    pub fn parse(request: &'a [u8]) -> Result<Request<'a>, Code> {
        let (code, payload) = field(request).ok_or(Code::BadFormat)?;
        let number = |bytes| number(bytes).ok_or(Code::BadFormat);
        match code {
            b"1" => Ok(Request::Publish { text: payload }),
            b"2" => Ok(Request::Last { count: number(payload)? }),
            b"3" => Ok(Request::Get { id: number(payload)? }),
            b"4" => Ok(Request::GetLast { count: number(payload)? }),
            b"5" => {
                let (request_id, text) = field(payload).ok_or(Code::BadFormat)?;
                Ok(Request::PublishOnce { request_id: number(request_id)?, text })
            }
            other if !other.is_empty() && other.iter().all(u8::is_ascii_digit) => Err(Code::UnknownRequest),
            _ => Err(Code::BadFormat),
        }
    }

    /// The bytes of this request.
    pub fn encode(&self) -> Vec<u8> {
        match *self {
            Request::Publish { text } => [b"1:", text].concat(),
            Request::Last { count } => format!("2:{count}").into(),
            Request::Get { id } => format!("3:{id}").into(),
            Request::GetLast { count } => format!("4:{count}").into(),
            Request::PublishOnce { request_id, text } => [format!("5:{request_id}:").as_bytes(), text].concat(),
        }
    }
}

/// Why a client has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The server said so.
    Answered(Code),
    /// The bytes are no answer to this request; which part of it is wrong.
    Malformed(&'static str),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Refusal::Answered(code) => write!(f, "the server answers {code}"),
            Refusal::Malformed(part) => write!(f, "this is no answer of a message board: {part}"),
        }
    }
}

impl std::error::Error for Refusal {}

/// The payload of an answer that begins with `0:`.
///
/// # Errors
/// The server refused, or the bytes begin with no code.
pub fn reply(answer: &[u8]) -> Result<&[u8], Refusal> {
    match field(answer) {
        Some((b"0", payload)) => Ok(payload),
        Some((b"1", _)) => Err(Refusal::Answered(Code::BadFormat)),
        Some((b"2", _)) => Err(Refusal::Answered(Code::NotFound)),
        Some((b"3", _)) => Err(Refusal::Answered(Code::UnknownRequest)),
        _ => Err(Refusal::Malformed("it begins with no code from 0 to 3")),
    }
}

/// The payload of an answer to request 2. A list that was cut inside its last id cannot be told from a whole one.
///
/// # Errors
/// Something in it is no number.
pub fn ids(payload: &[u8]) -> Result<Vec<u64>, Refusal> {
    if payload.is_empty() {
        return Ok(Vec::new());
    }
    let ids = payload.split(|byte| *byte == b':').map(number);
    ids.collect::<Option<_>>().ok_or(Refusal::Malformed("an id is no number"))
}

/// The payload of an answer to request 3 for this id: what follows the fourth colon is the text, colons included.
///
/// # Errors
/// The time, the address or the port is missing or none.
pub fn message(id: u64, payload: &[u8]) -> Result<Message, Refusal> {
    let (time, author, text) = head(payload)?;
    Ok(Message { id, time, author, text: text.into() })
}

/// The payload of an answer to request 4. Any cut is noticed: the count and the lengths say what must come.
///
/// # Errors
/// A field is missing or none, the bytes end too early, or some are left over.
pub fn messages(payload: &[u8]) -> Result<Vec<Message>, Refusal> {
    let numeric = |bytes| {
        let (digits, rest) = field(bytes)?;
        Some((number(digits)?, rest))
    };
    let (count, mut rest) = numeric(payload).ok_or(Refusal::Malformed("the count is no number"))?;
    let mut messages = Vec::new();
    for _ in 0..count {
        let (id, after) = numeric(rest).ok_or(Refusal::Malformed("an id is no number"))?;
        let (time, author, after) = head(after)?;
        let (length, after) = numeric(after).ok_or(Refusal::Malformed("a length is no number"))?;
        let text = usize::try_from(length).ok().and_then(|length| after.split_at_checked(length));
        let (text, after) = text.ok_or(Refusal::Malformed("it ends before its last message does"))?;
        messages.push(Message { id, time, author, text: text.into() });
        rest = after;
    }
    if rest.is_empty() { Ok(messages) } else { Err(Refusal::Malformed("bytes are left over behind its last message")) }
}

pub(crate) fn reply_to_last(messages: &[Message]) -> Vec<u8> {
    let ids: Vec<String> = messages.iter().map(|message| message.id.to_string()).collect();
    format!("0:{}", ids.join(":")).into()
}

/// The answer to request 3: 37 bytes and the text, for 127.0.0.1 and a port of five digits.
pub fn reply_to_get(message: &Message) -> Vec<u8> {
    [b"0:", head_of(message).as_bytes(), &message.text].concat()
}

pub(crate) fn reply_to_get_last(messages: &[Message]) -> Vec<u8> {
    let mut reply = format!("0:{}:", messages.len()).into_bytes();
    for message in messages {
        reply.extend(format!("{}:{}{}:", message.id, head_of(message), message.text.len()).as_bytes());
        reply.extend(&message.text);
    }
    reply
}

/// `TIME:ADDRESS:PORT:`
fn head_of(Message { time, author, .. }: &Message) -> String {
    let address = match author.ip() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    format!("{}.{:07}:{address}:{}:", time.as_secs(), time.subsec_nanos() / 100, author.port())
}

/// Reads `TIME:ADDRESS:PORT:`; also returns what follows.
fn head(payload: &[u8]) -> Result<(Duration, SocketAddr, &[u8]), Refusal> {
    let (time, rest) = field(payload).and_then(|(time, rest)| Some((seconds(time)?, rest))).ok_or(BAD_TIME)?;
    let (address, rest) = match rest.strip_prefix(b"[") {
        Some(bracketed) => {
            let end = bracketed.iter().position(|byte| *byte == b']').ok_or(BAD_ADDRESS)?;
            (&bracketed[..end], bracketed[end + 1..].strip_prefix(b":").ok_or(BAD_ADDRESS)?)
        }
        None => field(rest).ok_or(BAD_ADDRESS)?,
    };
    let address = str::from_utf8(address).ok().and_then(|address| address.parse().ok()).ok_or(BAD_ADDRESS)?;
    let (port, text) = field(rest).ok_or(BAD_PORT)?;
    let port = number(port).and_then(|port| u16::try_from(port).ok()).ok_or(BAD_PORT)?;
    Ok((time, SocketAddr::new(address, port), text))
}

const BAD_TIME: Refusal = Refusal::Malformed("the time is no number of seconds");
const BAD_ADDRESS: Refusal = Refusal::Malformed("the author's address is none");
const BAD_PORT: Refusal = Refusal::Malformed("the author's port is none");

/// What stands before the first colon, and what behind it.
fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == b':')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// Decimal digits and nothing else: no sign, no space.
fn number(bytes: &[u8]) -> Option<u64> {
    let digits = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    str::from_utf8(bytes).ok().filter(|_| digits)?.parse().ok()
}

/// Seconds with up to nine decimals.
fn seconds(bytes: &[u8]) -> Option<Duration> {
    let point = bytes.iter().position(|byte| *byte == b'.');
    let (whole, decimals) = point.map_or((bytes, b"0".as_slice()), |at| (&bytes[..at], &bytes[at + 1..]));
    let places = u32::try_from(decimals.len()).ok().filter(|places| *places <= 9)?;
    let nanoseconds = number(decimals)? * 10_u64.pow(9 - places);
    Some(Duration::new(number(whole)?, u32::try_from(nanoseconds).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Board;

    fn hello() -> Message {
        let time = Duration::new(12_343_241, 324_100_000);
        Message { id: 1, time, author: "127.0.0.1:34234".parse().unwrap(), text: b"Hello world!".into() }
    }

    #[test]
    fn the_lectures_examples_are_read() {
        assert_eq!(Request::parse(b"1:Hello world!"), Ok(Request::Publish { text: b"Hello world!" }));
        assert_eq!(Request::parse(b"2:10"), Ok(Request::Last { count: 10 }));
        assert_eq!(Request::parse(b"3:4325204352"), Ok(Request::Get { id: 4_325_204_352 }));
        assert_eq!(
            ids(reply(b"0:235432:242435243:3452425423").unwrap()),
            Ok(vec![235_432, 242_435_243, 3_452_425_423])
        );
        let answer = reply(b"0:12343241.3241:127.0.0.1:34234:Hello world!").unwrap();
        assert_eq!(message(1, answer), Ok(hello()));
    }

    #[test]
    fn the_text_keeps_its_colons_and_an_ipv6_author_stands_in_brackets() {
        let author = "[::1]:7777".parse().unwrap();
        let colons = Message { author, text: b"a:b::c:".into(), ..hello() };
        let answer = reply_to_get(&colons);
        assert_eq!(answer, b"0:12343241.3241000:[::1]:7777:a:b::c:");
        assert_eq!(message(1, reply(&answer).unwrap()), Ok(colons));
        assert_eq!(message(1, b"1.5:::1:7777:a"), Err(BAD_ADDRESS));
    }

    #[test]
    fn what_is_no_request_gets_the_code_that_says_so() {
        for bad in ["", "1", ":", "x:", "-1:", "2:", "2:ten", "2:-1", "2:+1", "3: 4", "5:text", "5:x:text", "4:1:"] {
            assert_eq!(Request::parse(bad.as_bytes()), Err(Code::BadFormat), "{bad:?}");
        }
        assert_eq!(Request::parse(b"2:18446744073709551616"), Err(Code::BadFormat));
        for unknown in ["0:", "6:", "9:what", "11:text", "01:text"] {
            assert_eq!(Request::parse(unknown.as_bytes()), Err(Code::UnknownRequest), "{unknown:?}");
        }
    }

    #[test]
    fn the_board_answers_as_the_lecture_says() {
        let (mut board, Message { author, time, .. }) = (Board::default(), hello());
        let mut answer = |request: &str| {
            let answer = board.answer(request.as_bytes(), author, time).unwrap();
            String::from_utf8(answer).unwrap()
        };
        assert_eq!(answer("2:0"), "0:");
        assert_eq!(answer("4:0"), "0:0:");
        assert_eq!(answer("1:Hello world!"), "0:");
        assert_eq!(answer("5:9973:once"), "0:");
        assert_eq!(answer("5:9973:once"), "0:");
        assert_eq!(answer("2:10"), "0:4325204352:4325204353");
        assert_eq!(answer("3:4325204352"), "0:12343241.3241000:127.0.0.1:34234:Hello world!");
        assert_eq!(answer("4:1"), "0:1:4325204353:12343241.3241000:127.0.0.1:34234:4:once");
        assert_eq!(answer("3:1"), "2:");
        assert_eq!(answer("9:"), "3:");
        assert_eq!(answer("hello"), "1:");
    }

    #[test]
    fn a_million_random_inputs_are_read_or_refused() {
        const LETTERS: &[u8; 16] = b"0123456789::.[]a";
        const SAMPLES: [&[u8]; 3] = [b"0:1:7:1.5:127.0.0.1:80:3:a:b", b"0:1.5:[::1]:80:text", b"5:9973:text"];
        let (mut board, mut state, mut read) = (Board::default(), 9973_u64, 0);
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % below
        };
        let mut bytes = [0; 32];
        for sample in SAMPLES.iter().cycle().take(1_000_000) {
            let input = &mut bytes[..sample.len()];
            input.copy_from_slice(sample);
            for _ in 0..random(5) {
                input[random(sample.len())] = LETTERS[random(LETTERS.len())];
            }
            let input = &input[..sample.len() - random(4)];
            if !matches!(Request::parse(input), Ok(Request::Publish { .. } | Request::PublishOnce { .. })) {
                let answer = board.answer(input, hello().author, hello().time).unwrap();
                assert!(matches!(answer.as_slice(), [b'0'..=b'3', b':', ..]));
            }
            let payload = reply(input).unwrap_or(input);
            read += usize::from(message(1, payload).is_ok()) + usize::from(messages(payload).is_ok());
            let _ = ids(payload);
        }
        assert!(read > 10_000, "too few of the inputs are ever read: {read}");
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let address = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
        let time = (any::<u64>(), 0..10_000_000_u32).prop_map(|(s, step)| Duration::new(s, step * 100));
        (any::<u64>(), time, address, any::<u16>(), any_text()).prop_map(|(id, time, address, port, text)| Message {
            id,
            time,
            author: SocketAddr::new(address, port),
            text,
        })
    }

    /// Any bytes, and often those with which a message is written.
    fn any_text() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![3 => any::<u8>(), 2 => prop::sample::select(b"0123456789:.[]".to_vec())];
        prop::collection::vec(byte, 0..64)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_message_is_read_as_it_was_written(one in any_message(), more in prop::collection::vec(any_message(), 0..4)) {
            let answer = reply_to_get(&one);
            prop_assert_eq!(message(one.id, reply(&answer).unwrap()), Ok(one));
            let answer = reply_to_get_last(&more);
            prop_assert_eq!(messages(reply(&answer).unwrap()), Ok(more.clone()));
            let answer = reply_to_last(&more);
            prop_assert_eq!(ids(reply(&answer).unwrap()), Ok(more.iter().map(|message| message.id).collect()));
        }

        #[test]
        fn any_request_is_read_as_it_was_written(text in any_text(), number in any::<u64>()) {
            for request in [
                Request::Publish { text: &text },
                Request::Last { count: number },
                Request::Get { id: number },
                Request::GetLast { count: number },
                Request::PublishOnce { request_id: number, text: &text },
            ] {
                let bytes = request.encode();
                prop_assert_eq!(Request::parse(&bytes), Ok(request));
            }
        }

        #[test]
        fn a_cut_answer_to_get_is_a_shorter_text_or_an_error(one in any_message(), cut in any::<prop::sample::Index>()) {
            let answer = reply_to_get(&one);
            if let Ok(read) = reply(&answer[..cut.index(answer.len())]).and_then(|payload| message(one.id, payload)) {
                prop_assert_eq!((read.time, read.author), (one.time, one.author));
                prop_assert!(one.text.starts_with(&read.text));
            }
        }

        #[test]
        fn a_cut_answer_to_get_last_is_always_an_error(
            all in prop::collection::vec(any_message(), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let answer = reply_to_get_last(&all);
            prop_assert!(reply(&answer[..cut.index(answer.len())]).and_then(messages).is_err());
        }

        #[test]
        fn garbage_is_answered_with_a_code_and_read_as_an_error(garbage in any_text(), id in any::<u64>()) {
            let mut board = Board::default();
            let answer = board.answer(&garbage, hello().author, hello().time).unwrap();
            prop_assert!(matches!(answer.as_slice(), [b'0'..=b'3', b':', ..]));
            // Whatever a stranger answers: a result or a refusal, no panic and no memory beyond the bytes there are.
            let _ = reply(&garbage);
            let _ = ids(&garbage);
            let _ = messages(&garbage);
            if let Ok(read) = message(id, &garbage) {
                prop_assert!(garbage.ends_with(&read.text));
            }
        }
    }
}
