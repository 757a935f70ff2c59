//! The datagrams of a session, as characters that tcpdump shows; only the bytes of a block are the message's own.
//!
//! ```text
//! O:TOKEN:WINDOW            client   give me a session; I send, and take, so many blocks unconfirmed
//! S:TOKEN:SESSION           server   here it is, for the address that asked
//! B:SESSION:NUMBER:BYTES    both     a block of the message, counted from 1
//! L:SESSION:NUMBER:BYTES    both     its last block
//! C:SESSION:NUMBER:NEXT     both     block NUMBER has come, and all before NEXT
//! E:SESSION                 both     the client has its answer, and the server has forgotten the session
//! X:ID:WHY                  server   no: unknown, address, full or long; ID is the session or the token
//! ```

use std::fmt;

/// Why a server refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such session, or not any more.
    Unknown,
    /// The session belongs to another address.
    Address,
    /// No room for one more session, or for more of its message.
    Full,
    /// The message is longer than the server takes.
    Long,
}

impl Refusal {
    const ALL: [(&'static str, Refusal); 4] = [
        ("unknown", Refusal::Unknown),
        ("address", Refusal::Address),
        ("full", Refusal::Full),
        ("long", Refusal::Long),
    ];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, refusal)| *refusal == self).map_or("", |(word, _)| word)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Unknown => "the server does not know this session (any more)",
            Refusal::Address => "the session belongs to another address",
            Refusal::Full => "the server has no room for it",
            Refusal::Long => "the message is longer than the server takes",
        })
    }
}

/// One datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram<'a> {
    Open { token: u32, window: u32 },
    Session { token: u32, session: u32 },
    Block { session: u32, number: u32, last: bool, bytes: &'a [u8] },
    Confirm { session: u32, number: u32, next: u32 },
    End { session: u32 },
    Refused { id: u32, why: Refusal },
}

impl<'a> Datagram<'a> {
    /// Reads a datagram; `None`: it is none of this protocol, and is ignored.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let mut fields = datagram.splitn(4, |byte| *byte == b':');
        let kind = fields.next()?;
        let mut number = || number(fields.next()?);
        let parsed = match kind {
            b"O" => Datagram::Open { token: number()?, window: number().filter(|window| *window > 0)? },
            b"S" => Datagram::Session { token: number()?, session: number()? },
            b"B" | b"L" => {
                let (session, number) = (number()?, number().filter(|number| *number > 0)?);
                Datagram::Block { session, number, last: kind == b"L", bytes: fields.next()? }
            }
            b"C" => Datagram::Confirm { session: number()?, number: number()?, next: number()? },
            b"E" => Datagram::End { session: number()? },
            b"X" => {
                let id = number()?;
                let word = fields.next()?;
                let (_, why) = Refusal::ALL.into_iter().find(|(name, _)| name.as_bytes() == word)?;
                Datagram::Refused { id, why }
            }
            _ => return None,
        };
        fields.next().is_none().then_some(parsed)
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Datagram::Open { token, window } => format!("O:{token}:{window}").into(),
            Datagram::Session { token, session } => format!("S:{token}:{session}").into(),
            Datagram::Block { session, number, last, bytes } => {
                let kind = if *last { 'L' } else { 'B' };
                [format!("{kind}:{session}:{number}:").as_bytes(), bytes].concat()
            }
            Datagram::Confirm { session, number, next } => format!("C:{session}:{number}:{next}").into(),
            Datagram::End { session } => format!("E:{session}").into(),
            Datagram::Refused { id, why } => format!("X:{id}:{}", why.word()).into(),
        }
    }
}

/// Digits and nothing else.
fn number(field: &[u8]) -> Option<u32> {
    let digits = !field.is_empty() && field.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(field).ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use shared::SplitMix64;

    #[test]
    fn a_datagram_reads_as_it_is_documented() {
        for (text, datagram) in [
            ("O:17:1", Datagram::Open { token: 17, window: 1 }),
            ("S:17:4711", Datagram::Session { token: 17, session: 4711 }),
            (
                "B:4711:1:1:Hello: world",
                Datagram::Block { session: 4711, number: 1, last: false, bytes: b"1:Hello: world" },
            ),
            ("L:4711:2:", Datagram::Block { session: 4711, number: 2, last: true, bytes: b"" }),
            ("C:4711:2:3", Datagram::Confirm { session: 4711, number: 2, next: 3 }),
            ("E:4711", Datagram::End { session: 4711 }),
            ("X:4711:address", Datagram::Refused { id: 4711, why: Refusal::Address }),
        ] {
            assert_eq!(Datagram::parse(text.as_bytes()), Some(datagram));
            assert_eq!(datagram.bytes(), text.as_bytes());
        }
    }

    #[test]
    fn anything_else_is_none_of_this_protocol() {
        for text in [
            "", "O", "O:", "O:1", "O:1:0", "O:1:2:3", "O:-1:1", "O:+1:1", "O: 1:1", "O:4294967296:1", "S:1", "B:1:2",
            "B:1:0:x", "b:1:1:x", "C:1:2", "C:1:2:3:4", "E:", "E:1:", "X:1:", "X:1:no", "XX:1:full", "Hello world!",
            ":::", "1:Hello",
        ] {
            assert_eq!(Datagram::parse(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_datagram_survives_the_wire(
            kind in 0..6, one in any::<u32>(), two in 1..u32::MAX, three in any::<u32>(),
            last in any::<bool>(), bytes in vec(any::<u8>(), 0..2000),
        ) {
            let why = Refusal::ALL[one as usize % 4].1;
            let datagram = match kind {
                0 => Datagram::Open { token: one, window: two },
                1 => Datagram::Session { token: one, session: two },
                2 => Datagram::Block { session: one, number: two, last, bytes: &bytes },
                3 => Datagram::Confirm { session: one, number: two, next: three },
                4 => Datagram::End { session: one },
                _ => Datagram::Refused { id: one, why },
            };
            let bytes = datagram.bytes();
            prop_assert_eq!(Datagram::parse(&bytes), Some(datagram));
        }
    }

    #[test]
    fn a_million_random_datagrams_never_panic_and_what_is_read_is_what_was_written() {
        let mut random = SplitMix64::new(7);
        let alphabet = b"OSBLCEX::::0123456789::unknowadrefilg\xff";
        let mut read = 0;
        for _ in 0..1_000_000 {
            let mut bytes = [0; 16];
            let length = random.draw() as usize % 16;
            for byte in &mut bytes[..length] {
                *byte = alphabet[random.draw() as usize % alphabet.len()];
            }
            if random.draw().is_multiple_of(2) {
                bytes[..2].copy_from_slice(&[b"OSBLCEX"[random.draw() as usize % 7], b':']);
            }
            let bytes = &bytes[..length];
            if let Some(datagram) = Datagram::parse(bytes) {
                read += 1;
                assert_eq!(Datagram::parse(&datagram.bytes()), Some(datagram), "{}", bytes.escape_ascii());
            }
        }
        assert!(read > 1000, "only {read} of a million were datagrams");
    }
}
