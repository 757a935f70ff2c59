//! Segments that are made up, and what is said of them.

use etherparse::{PacketBuilder, TcpHeader};

use super::*;

/// A client and a server that send each other segments; raw numbers begin near the end, so that they wrap.
struct Talk(Segments);

const CLIENT: u32 = u32::MAX - 2;
const SERVER: u32 = 5000;

impl Talk {
    /// `up`: from the client; relative numbers.
    fn says(&mut self, up: bool, flags: &str, seq: u32, ack: u32, window: u16, payload: &[u8]) -> Segment {
        let (own, other) = if up { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
        let (from, to) = if up { (40000, 4444) } else { (4444, 40000) };
        let mut header = TcpHeader::new(from, to, own.wrapping_add(seq), window);
        header.syn = flags.contains('S');
        header.fin = flags.contains('F');
        header.rst = flags.contains('R');
        header.ack = flags.contains('A');
        header.acknowledgment_number = if header.ack { other.wrapping_add(ack) } else { 0 };
        if header.syn {
            header.set_options(&[TcpOptionElement::WindowScale(7)]).unwrap();
        }
        let builder = PacketBuilder::ipv4([127, 0, 0, 1], [127, 0, 0, 1], 64).tcp_header(header);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).unwrap();
        self.0.read(Packet { bytes, taken_at: SystemTime::now(), arrived: true }).unwrap()
    }

    fn connected() -> Talk {
        let mut talk = Talk(Segments::default());
        assert_eq!(talk.says(true, "S", 0, 0, 65495, b"").marks, []);
        assert_eq!(talk.says(false, "SA", 0, 1, 65483, b"").marks, []);
        assert_eq!(talk.says(true, "A", 1, 1, 512, b"").marks, []);
        talk
    }
}

fn numbers(segment: &Segment) -> (u32, u32, u32) {
    let Protocol::Tcp(tcp) = &segment.protocol else { panic!("{segment:?}") };
    (tcp.seq, tcp.ack, tcp.window)
}

#[test]
fn numbers_are_relative_over_the_wrap_and_windows_are_scaled_behind_the_syns() {
    let mut talk = Talk(Segments::default());
    assert_eq!(numbers(&talk.says(true, "S", 0, 0, 65495, b"")), (0, 0, 65495));
    assert_eq!(numbers(&talk.says(false, "SA", 0, 1, 65483, b"")), (0, 1, 65483));
    assert_eq!(numbers(&talk.says(true, "A", 1, 1, 512, b"hello")), (1, 1, 65536));
    assert!(talk.0.in_flight());
    assert_eq!(numbers(&talk.says(false, "A", 1, 6, 511, b"")), (1, 6, 65408));
    assert!(!talk.0.in_flight());
}

#[test]
fn what_was_sent_before_is_a_retransmission() {
    let mut talk = Talk::connected();
    assert_eq!(talk.says(true, "A", 1, 1, 512, b"hello").marks, []);
    assert_eq!(talk.says(true, "A", 1, 1, 512, b"hello").marks, [Mark::Retransmission]);
    assert_eq!(talk.says(true, "A", 1, 1, 512, b"hello and more").marks, [Mark::Retransmission]);
    assert_eq!(talk.says(true, "FA", 15, 1, 512, b"").marks, []);
    assert_eq!(talk.says(true, "FA", 15, 1, 512, b"").marks, [Mark::Retransmission]);
    let mut talk = Talk(Segments::default());
    talk.says(true, "S", 0, 0, 65495, b"");
    assert_eq!(talk.says(true, "S", 0, 0, 65495, b"").marks, [Mark::Retransmission]);
}

#[test]
fn a_probe_of_a_full_window_is_told_from_a_keepalive() {
    let mut talk = Talk::connected();
    assert_eq!(talk.says(true, "A", 0, 1, 512, b"").marks, [Mark::KeepAlive]);
    talk.says(true, "A", 1, 1, 512, b"fill");
    assert_eq!(talk.says(false, "A", 1, 5, 0, b"").marks, [Mark::ZeroWindow]);
    assert_eq!(talk.says(true, "A", 4, 1, 512, b"").marks, [Mark::WindowProbe]);
    assert_eq!(talk.says(false, "A", 1, 5, 400, b"").marks, [Mark::WindowUpdate]);
}

#[test]
fn the_same_acknowledgement_while_data_are_missing_is_a_duplicate() {
    let mut talk = Talk::connected();
    talk.says(true, "A", 1, 1, 512, b"first");
    assert_eq!(talk.says(false, "A", 1, 6, 512, b"").marks, []);
    talk.says(true, "A", 11, 1, 512, b"third"); // the second is lost
    assert_eq!(talk.says(false, "A", 1, 6, 512, b"").marks, [Mark::DuplicateAck]);
}

#[test]
fn a_reset_is_marked_and_a_new_syn_begins_anew() {
    let mut talk = Talk(Segments::default());
    talk.says(true, "S", 0, 0, 65495, b"");
    let refused = talk.says(false, "RA", 0, 1, 0, b"");
    assert_eq!((refused.marks.as_slice(), numbers(&refused)), (&[Mark::Reset][..], (1, 1, 0)));
    assert!(!talk.0.in_flight());
    assert_eq!(talk.says(true, "S", 77777, 0, 65495, b"").marks, []);
    assert_eq!(numbers(&talk.says(true, "A", 77778, 0, 512, b"")).0, 1);
}
