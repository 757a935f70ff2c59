//! Tests of what is drawn: any sockets at any size, and the pictures of a few.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kernel::{Pair, State};
use nix::libc;
use proptest::prelude::*;
use ratatui::backend::TestBackend;
use ratatui::buffer::{Buffer, Cell};
use ratatui::layout::Rect;
use ratatui::{Terminal, style::Style};

use super::board::{self, Facts};
use super::keys::View;
use super::model::{Entry, Mark, Model};
use super::order::{FILTERS, SORTS, chosen};
use super::sock::{Protocol, Sock, parsed};
use super::style::Look;

/// A message as the kernel writes it: struct inet_diag_msg.
fn message(sock: &Sock, cookie: u64) -> Vec<u8> {
    let octets = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(ip) => [&ip.octets()[..], &[0; 12]].concat(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let family = if sock.pair.local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let (kind, left, tries) =
        sock.timer.map_or((0, 0, 0), |timer| (timer.kind as u8, timer.left.as_millis() as u32, timer.tries));
    [
        &[family as u8, sock.state as u8, kind, tries][..],
        &sock.pair.local.port().to_be_bytes(),
        &sock.pair.peer.port().to_be_bytes(),
        &octets(sock.pair.local),
        &octets(sock.pair.peer),
        &[0; 4],
        &cookie.to_ne_bytes(),
        &left.to_ne_bytes(),
        &sock.recv_queue.to_ne_bytes(),
        &sock.send_queue.to_ne_bytes(),
        &[0; 4],
        &sock.inode.to_ne_bytes(),
    ]
    .concat()
}

fn keyed(sock: &Sock, cookie: u64) -> Entry {
    parsed(sock.protocol, &message(sock, cookie)).unwrap()
}

/// A TCP socket, with the peer `*` if `peer` is 0.
fn tcp(local: u16, peer: u16, state: State, recv_queue: u32, send_queue: u32) -> Entry {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let peer = if peer == 0 { SocketAddr::from(([0, 0, 0, 0], 0)) } else { at(peer) };
    let pair = Pair { local: at(local), peer };
    keyed(&Sock { protocol: Protocol::Tcp, pair, state, recv_queue, send_queue, timer: None, inode: 7 }, 1)
}

fn facts() -> Facts {
    Facts { ports: vec![4444], interval_ms: 250, cost_ms: 1.5, missing: Vec::new() }
}

/// What a window of this size shows.
fn shown(model: &Model, view: &View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let look = Look { emphasis: true };
    terminal.draw(|frame| board::draw(frame.area(), frame.buffer_mut(), model, view, &facts(), look)).unwrap();
    let cells: Vec<&str> = terminal.backend().buffer().content().iter().map(Cell::symbol).collect();
    cells.chunks(width.into()).map(|row| row.concat().trim_end().to_string() + "\n").collect()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_change_is_marked_for_a_second_and_counted_in_the_diagram() {
    let mut model = Model::default();
    let listener = tcp(4444, 0, State::Listen, 0, 5);
    assert_eq!(model.update(seconds(0), vec![listener.clone()]).len(), 1);
    let at_first = shown(&model, &View::default(), 80, 24);
    assert!(at_first.contains("[LISTEN           1]") && at_first.contains("\n LISTEN "), "{at_first}");

    let ends = [tcp(4444, 50000, State::Established, 16, 0), tcp(50000, 4444, State::Established, 0, 0)];
    let all = [&[listener][..], &ends].concat();
    assert_eq!(model.update(seconds(5), all.clone()).len(), 2);
    let picture = shown(&model, &View::default(), 80, 24);
    assert!(picture.contains("[ESTABLISHED     *2]") && picture.contains("\n+ESTABLISHED "), "{picture}");
    model.update(seconds(6), all.clone());
    let picture = shown(&model, &View::default(), 80, 24);
    assert!(picture.contains("[ESTABLISHED      2]") && picture.contains("\n ESTABLISHED "), "{picture}");

    let mut closed = all;
    closed[1] = tcp(4444, 50000, State::CloseWait, 17, 0);
    closed.pop();
    assert_eq!(model.update(seconds(7), closed.clone()).len(), 2);
    let picture = shown(&model, &View::default(), 80, 24);
    for wanted in ["[CLOSE-WAIT      *1]", "[ESTABLISHED     *0]", "\n*CLOSE-WAIT ", "\n-ESTABLISHED "] {
        assert!(picture.contains(wanted), "{wanted}\n{picture}");
    }
    assert!(model.update(seconds(9), closed).is_empty());
    assert!(!shown(&model, &View::default(), 80, 24).contains("-ESTABLISHED"));
}

#[test]
fn a_queue_never_covers_the_mark_of_a_state_and_addresses_can_be_used_again() {
    let mut model = Model::default();
    let mark = |model: &Model| model.entries().next().unwrap().fresh(model.now);
    model.update(seconds(0), vec![tcp(50000, 4444, State::SynSent, 0, 1)]);
    model.update(Duration::from_millis(250), vec![tcp(50000, 4444, State::Established, 0, 0)]);
    assert_eq!(mark(&model), Some(Mark::State));
    model.update(Duration::from_millis(500), vec![tcp(50000, 4444, State::Established, 4, 0)]);
    assert_eq!(mark(&model), Some(Mark::State));
    model.update(seconds(2), vec![tcp(50000, 4444, State::Established, 0, 0)]);
    assert_eq!(mark(&model), Some(Mark::Queue));
    model.update(seconds(3), Vec::new());
    assert_eq!((mark(&model), model.totals()), (Some(Mark::Gone), (0, 0)));
    let changes = model.update(Duration::from_millis(3100), vec![tcp(50000, 4444, State::SynSent, 0, 1)]);
    assert!(changes.len() == 1 && changes[0].before.is_none(), "{changes:?}");
    assert_eq!((mark(&model), model.totals()), (Some(Mark::New), (1, 0)));
}

#[test]
fn a_socket_that_one_look_has_seen_twice_is_one_socket() {
    for known in [true, false] {
        let mut model = Model::default();
        let before: Vec<Entry> = (1..100).map(|port| tcp(port, 4444, State::Established, 0, 0)).collect();
        model.update(seconds(0), if known { before.clone() } else { Vec::new() });
        let after = tcp(7, 4444, State::TimeWait, 0, 0);
        let changes = model.update(seconds(1), before.iter().cloned().chain([after.clone()]).collect());
        let states: Vec<State> =
            changes.iter().filter_map(|change| change.after.as_ref()).map(|sock| sock.state).collect();
        assert!(states.contains(&State::TimeWait), "{changes:?}");
        assert_eq!((model.count(State::Established), model.count(State::TimeWait)), (98, 1));
        assert_eq!((model.totals(), model.entries().count()), ((99, 0), 99));
        // And in the other order, at other places.
        let turned =
            [after].into_iter().chain(before.into_iter().rev().filter(|entry| entry.sock.pair.local.port() != 7));
        assert!(model.update(seconds(2), turned.collect()).is_empty());
    }
}

#[test]
fn by_state_time_wait_stands_last() {
    let mut model = Model::default();
    let waiting = (1000..1300).map(|port| tcp(port, 4444, State::TimeWait, 0, 0));
    let udp = tcp(53, 0, State::Closed, 0, 0);
    let udp = Entry { sock: Sock { protocol: Protocol::Udp, ..udp.sock }, ..udp };
    model.update(seconds(0), waiting.chain([udp, tcp(4444, 9, State::CloseWait, 0, 0)]).collect());
    let picture = shown(&model, &View::default(), 80, 24);
    let at = |text: &str| picture.find(text).unwrap_or_else(|| panic!("no {text:?}: {picture}"));
    assert!(at("\n CLOSE-WAIT") < at("\n UDP bound") && at("\n UDP bound") < at("\n TIME-WAIT"), "{picture}");
    assert!(picture.contains("[TIME-WAIT      300]"), "{picture}");
}

#[test]
fn a_queue_is_a_bar_where_there_is_room_and_a_full_accept_queue_is_a_full_bar() {
    let mut model = Model::default();
    let socks = vec![
        tcp(4444, 0, State::Listen, 6, 5),
        tcp(4444, 50000, State::Established, 84_001, 1),
        tcp(1, 0, State::Listen, 1, 5),
    ];
    model.update(seconds(0), socks);
    let picture = shown(&model, &View::default(), 100, 30);
    for row in [
        " LISTEN        127.0.0.1:4444  *                     6 ########    of 5\n",
        " LISTEN        127.0.0.1:1     *                     1 ##          of 5\n",
        " ESTABLISHED   127.0.0.1:4444  127.0.0.1:50000   84001 ######         1 #\n",
    ] {
        assert!(picture.contains(row), "{row}{picture}");
    }
    assert!(!shown(&model, &View::default(), 80, 24).contains('#'));
}

#[test]
fn a_small_window_is_told_what_the_board_needs() {
    let picture = shown(&Model::default(), &View::default(), 40, 10);
    assert_eq!(picture.lines().next(), Some("This window has 40 x 10."));
    assert!(picture.contains("The board needs 78 x 14."));
}

#[test]
fn the_help_fits_into_80x24_and_an_empty_table_says_what_to_do() {
    let help = View { help: true, ..View::default() };
    let picture = shown(&Model::default(), &help, 80, 24);
    assert!(picture.contains("took 1.5 ms"), "{picture}");
    let cut = |line: &str| line.chars().count() == 80 && !line.ends_with("ms");
    assert!(!picture.lines().any(cut), "{picture}");
    assert!(shown(&Model::default(), &View::default(), 80, 24).contains("no socket has port 4444"));
}

fn any_sock() -> impl Strategy<Value = Entry> {
    let place = || (any::<IpAddr>(), prop_oneof![Just(0u16), any::<u16>()]);
    let timer = (0..6u8, any::<u32>(), any::<u8>());
    let rest = (any::<bool>(), 1..13u8, any::<u32>(), any::<u32>(), any::<u64>());
    (place(), place(), timer, rest).prop_map(|(local, peer, (kind, left, tries), (tcp, state, recv, send, cookie))| {
        let (local, peer) = (SocketAddr::from(local), SocketAddr::from(peer));
        let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
        let state = State::from_number(state).unwrap();
        let pair = Pair { local, peer };
        let sock = Sock { protocol, pair, state, recv_queue: recv, send_queue: send, timer: None, inode: 0 };
        let mut bytes = message(&sock, cookie);
        (bytes[2], bytes[3]) = (kind, tries);
        bytes[52..56].copy_from_slice(&left.to_ne_bytes());
        parsed(protocol, &bytes).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_sockets_are_drawn_within_any_window(
        looks in prop::collection::vec(prop::collection::vec(any_sock(), 0..40), 1..4),
        (width, height) in (20..=200u16, 5..=60u16),
        (sort, filter, top, help) in (0..SORTS.len(), 0..FILTERS.len(), 0..60usize, prop::bool::weighted(0.1)),
    ) {
        let mut model = Model::default();
        for (second, look) in (0..).zip(looks) {
            model.update(Duration::from_millis(700 * second), look);
        }
        let view = View { sort: SORTS[sort], filter: FILTERS[filter], top, help, ..View::default() };
        let (all, area) = (Rect::new(0, 0, 210, 70), Rect::new(3, 2, width, height));
        let mut buffer = Buffer::empty(all);
        buffer.content.fill(Cell::new("~"));
        buffer.set_style(area, Style::new());
        board::draw(area, &mut buffer, &model, &view, &facts(), Look { emphasis: true });
        for (x, y) in all.positions().map(|place| (place.x, place.y)).filter(|place| !area.contains((*place).into())) {
            prop_assert_eq!(buffer[(x, y)].symbol(), "~", "{} {}", x, y);
        }
        shown(&model, &view, width, height);
    }

    #[test]
    fn a_page_is_a_part_of_the_whole_table(
        socks in prop::collection::vec(any_sock(), 0..60), sort in 0..SORTS.len(), top in 0..80usize, rows in 0..20usize,
    ) {
        let mut model = Model::default();
        model.update(seconds(0), socks);
        let page = |top, rows| {
            let (page, total) = chosen(model.entries(), (SORTS[sort], FILTERS[0], ""), top, rows);
            (page.iter().map(|entry| format!("{:?}", entry.sock)).collect::<Vec<_>>(), total)
        };
        let (all, total) = page(0, usize::MAX);
        prop_assert_eq!(all.len(), total);
        let from = top.min(total.saturating_sub(rows));
        prop_assert_eq!(&page(top, rows).0[..], &all[from..(from + rows).min(total)]);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = parsed(Protocol::Tcp, &bytes);
    }
}
