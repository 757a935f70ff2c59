//! A captured segment, taken apart: RFC 9293 3.1.

use kernel::{Packet, capture::sum};

/// Before the options.
pub const FIXED_PART: usize = 20;

/// A segment between the client and the server.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Whether the client sent it.
    pub from_client: bool,
    /// The sequence number: the number of the first byte.
    pub number: u32,
    /// The acknowledgement number: that of the next byte that is wanted.
    pub acknowledged: u32,
    /// The eight flags in one byte.
    pub flags: u8,
    /// The header, options included.
    pub header: Vec<u8>,
    /// What follows the header.
    pub payload: Vec<u8>,
    /// The sum over addresses, protocol and length, which goes into the checksum.
    pub pseudo_header_sum: u16,
}

impl Segment {
    /// Takes a packet apart; `None` if it is no whole TCP segment.
    pub fn of(packet: &Packet) -> Option<Segment> {
        let (ip_header, segment) = packet.split().filter(|(ip_header, _)| ip_header[9] == 6)?;
        let header_length = usize::from(segment.get(12)? >> 4) * 4;
        let (header, payload) =
            segment.split_at_checked(header_length).filter(|(header, _)| header.len() >= FIXED_PART)?;
        let number = |at: usize| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let length = (segment.len() as u16).to_be_bytes();
        Some(Segment {
            from_client: packet.from_local,
            number: number(4)?,
            acknowledged: number(8)?,
            flags: header[13],
            header: header.to_vec(),
            payload: payload.to_vec(),
            pseudo_header_sum: sum(&[&ip_header[12..20], &[0, ip_header[9]], &length]),
        })
    }

    /// A field of two bytes of the header.
    pub fn field(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.header[at], self.header[at + 1]])
    }

    /// Whether this flag is set, by its name.
    pub fn has(&self, flag: &str) -> bool {
        flags(self.flags).split(' ').any(|name| name == flag)
    }
}

/// The flags that are set, of the eight in the byte.
pub fn flags(byte: u8) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set = names.iter().enumerate().filter(|(bit, _)| byte >> bit & 1 == 1);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}

/// The options by name; the kinds are IANA's. `None` where their lengths do not add up.
pub fn options(mut bytes: &[u8]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    while let Some(kind) = bytes.first() {
        let length = match kind {
            0 => break, // the end of the list
            1 => 1,
            _ => usize::from(*bytes.get(1)?),
        };
        let (option, rest) = bytes.split_at_checked(length).filter(|_| length > 0)?;
        names.push(match option {
            [1] => "no-op".into(),
            [2, _, high, low] => format!("largest segment {}", u16::from_be_bytes([*high, *low])),
            [3, _, shift] => format!("window scale {shift}"),
            [4, _] => "selective ack permitted".into(),
            [8, ..] => "timestamps".into(),
            _ => format!("kind {kind}"),
        });
        bytes = rest;
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_a_syn_have_names() {
        let syn = [2, 4, 0xff, 0xd7, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 10];
        let names = ["largest segment 65495", "selective ack permitted", "timestamps", "no-op", "window scale 10"];
        assert_eq!(options(&syn).unwrap_or_default(), names);
        assert!(options(&[2]).is_none() && options(&[2, 0]).is_none() && options(&[2, 9, 1]).is_none());
    }

    #[test]
    fn flags_are_named_from_the_lowest_bit() {
        assert_eq!(flags(0x18), "PSH ACK");
        assert_eq!(flags(0xc2), "SYN ECE CWR");
    }

    #[test]
    fn a_packet_that_is_cut_or_not_tcp_is_no_segment() {
        let ip_header = [&[0x45; 1][..], &[0; 8], &[6], &[0; 10]].concat();
        let packet = |bytes: Vec<u8>| Packet { from_local: true, bytes };
        let whole = [&ip_header[..], &[0; 12], &[5 << 4, 0x10], &[0; 6], b"hi"].concat();
        assert_eq!(Segment::of(&packet(whole.clone())).unwrap().payload, b"hi");
        assert!(Segment::of(&packet(whole[..39].to_vec())).is_none());
        let mut udp = whole;
        udp[9] = 17;
        assert!(Segment::of(&packet(udp)).is_none());
    }
}
