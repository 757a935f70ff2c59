//! What a long connection adds to the board's protocol. Requests 1 to 5 and codes 0 to 3 are those of the crate `board`.
//!
//! | who | body | |
//! |---|---|---|
//! | client | `6:MARK:NAME` | tell me what I do not have; I have all up to the message MARK (0: ask your own mark) |
//! | server | `0:COUNT` | the answer: so many messages are new to you, and follow |
//! | server | `6:ID:TIME:ADDRESS:PORT:TEXT` | unasked: somebody else has published this |
//! | client | `7:ID` | I have shown all up to this one; no answer |
//! | server | `8:` | unasked: a newer connection has your name |
//!
//! All other answers come in the order of their requests.

use board::{Code, Message, Refusal, message, reply_to_get};

use crate::frames::number;

/// The longest name, in bytes.
pub const NAME_LIMIT: usize = 32;

/// A request that only this lab has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live<'a> {
    /// 6: tell me what others publish.
    Tell { mark: u64, name: &'a str },
    /// 7: I have shown all up to this one.
    Have { id: u64 },
}

impl<'a> Live<'a> {
    /// Reads a request; `None` if it is one of the board's own.
    pub fn parse(request: &'a [u8]) -> Option<Result<Live<'a>, Code>> {
        let live = match request.split_at_checked(2)? {
            (b"6:", payload) => field(payload).and_then(|(mark, name)| {
                let name = str::from_utf8(name).ok().filter(|name| is_name(name))?;
                Some(Live::Tell { mark: number(mark)?, name })
            }),
            (b"7:", id) => number(id).map(|id| Live::Have { id }),
            _ => return None,
        };
        Some(live.ok_or(Code::BadFormat))
    }

    /// The bytes of this request.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Live::Tell { mark, name } => format!("6:{mark}:{name}").into(),
            Live::Have { id } => format!("7:{id}").into(),
        }
    }
}

/// Whether a client may have this name: 1 to 32 bytes, without control characters.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_LIMIT).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// The answer to the oldest request that has none yet.
    Answer(Vec<u8>),
    /// Somebody has published this.
    Told(Message),
    /// A newer connection has this client's name.
    Replaced,
}

/// Reads what a server said.
///
/// # Errors
/// The bytes are nothing that a server of this lab says.
pub fn heard(body: &[u8]) -> Result<Heard, Refusal> {
    match body.split_at_checked(2) {
        Some((b"6:", told)) => {
            let (id, payload) = field(told).and_then(|(id, payload)| Some((number(id)?, payload))).ok_or(BAD_ID)?;
            message(id, payload).map(Heard::Told)
        }
        Some((b"8:", b"")) => Ok(Heard::Replaced),
        _ => Ok(Heard::Answer(body.into())),
    }
}

/// What tells of this message.
pub fn told(message: &Message) -> Vec<u8> {
    let answer = reply_to_get(message);
    [format!("6:{}:", message.id).as_bytes(), &answer[2..]].concat() // without "0:"
}

/// A newer connection has this client's name.
pub const REPLACED: &[u8] = b"8:";
const BAD_ID: Refusal = Refusal::Malformed("an id is no number");

fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == b':')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn the_new_requests_are_read_and_all_others_left_to_the_board() {
        assert_eq!(Live::parse(b"6:0:ann"), Some(Ok(Live::Tell { mark: 0, name: "ann" })));
        assert_eq!(Live::parse("6:7:\u{f5}:b".as_bytes()), Some(Ok(Live::Tell { mark: 7, name: "\u{f5}:b" })));
        assert_eq!(Live::parse(b"7:12"), Some(Ok(Live::Have { id: 12 })));
        for bad in ["6:", "6:0", "6:0:", "6:x:ann", "6:-1:ann", "6:0:a\nb", "7:", "7:x", "7:1:2"] {
            let read = Live::parse(bad.as_bytes());
            assert_eq!(read, Some(Err(Code::BadFormat)), "{bad}");
        }
        assert_eq!(Live::parse(format!("6:0:{}", "x".repeat(33)).as_bytes()), Some(Err(Code::BadFormat)));
        for other in ["", "1:text", "4:0", "66:0:ann", "8:", "hello"] {
            assert_eq!(Live::parse(other.as_bytes()), None, "{other}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_told_is_heard(id in any::<u64>(), seconds in any::<u32>(), port in any::<u16>(), text in vec(any::<u8>(), 0..64)) {
            let time = std::time::Duration::from_secs(seconds.into());
            let message = Message { id, time, author: ([127, 0, 0, 1], port).into(), text };
            prop_assert_eq!(heard(&told(&message)), Ok(Heard::Told(message)));
        }

        #[test]
        fn any_name_and_mark_survive(mark in any::<u64>(), name in "[^\\p{Cc}]{1,8}") {
            prop_assume!(is_name(&name));
            let tell = Live::Tell { mark, name: &name };
            let bytes = tell.encode();
            prop_assert_eq!(Live::parse(&bytes), Some(Ok(tell)));
        }

        #[test]
        fn garbage_is_read_or_refused(garbage in vec(prop::sample::select(b"0123456789:::.[]a\n\xff".to_vec()), 0..40)) {
            let _ = Live::parse(&garbage);
            let _ = heard(&garbage);
        }
    }
}
