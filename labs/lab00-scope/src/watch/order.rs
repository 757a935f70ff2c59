//! Which sockets are shown, and in which order. UDP stands below TCP.

use std::net::SocketAddr;

use kernel::State;

use super::model::Entry;
use super::sock::{Protocol, Sock};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    State,
    Local,
    Peer,
    Queue,
    Timer,
    Changed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    #[default]
    All,
    Listening,
    Open,
    Closing,
    Queued,
    Timed,
    Udp,
}

pub const SORTS: [Sort; 6] = [Sort::State, Sort::Local, Sort::Peer, Sort::Queue, Sort::Timer, Sort::Changed];
pub const FILTERS: [Filter; 7] =
    [Filter::All, Filter::Listening, Filter::Open, Filter::Closing, Filter::Queued, Filter::Timed, Filter::Udp];

impl Sort {
    pub fn name(self) -> &'static str {
        match self {
            Sort::State => "state",
            Sort::Local => "local port",
            Sort::Peer => "peer port",
            Sort::Queue => "longest queue",
            Sort::Timer => "next timer",
            Sort::Changed => "last change",
        }
    }

    /// A number that is smaller for what stands higher.
    fn rank(self, entry: &Entry) -> u64 {
        let sock = &entry.sock;
        let queue = sock.recv_queue.max(if sock.is_listening() { 0 } else { sock.send_queue });
        match self {
            // A busy machine has thousands in TIME-WAIT.
            Sort::State => u64::from(sock.is_waiting()),
            Sort::Local => sock.pair.local.port().into(),
            Sort::Peer => sock.pair.peer.port().into(),
            Sort::Queue => u64::MAX - u64::from(queue),
            Sort::Timer => sock.timer.map_or(u64::MAX, |timer| timer.left.as_nanos() as u64),
            Sort::Changed => entry.mark.map_or(u64::MAX, |(_, at)| u64::MAX - 1 - at.as_nanos() as u64),
        }
    }
}

impl Filter {
    pub fn name(self) -> &'static str {
        match self {
            Filter::All => "all",
            Filter::Listening => "listening",
            Filter::Open => "opening and open",
            Filter::Closing => "closing",
            Filter::Queued => "with a queue",
            Filter::Timed => "with a timer",
            Filter::Udp => "UDP",
        }
    }

    fn takes(self, sock: &Sock) -> bool {
        let tcp = sock.protocol == Protocol::Tcp;
        let open = matches!(sock.state, State::SynSent | State::SynReceived | State::Established);
        match self {
            Filter::All => true,
            Filter::Listening => sock.is_listening(),
            Filter::Open => tcp && open,
            Filter::Closing => tcp && !open && !sock.is_listening(),
            Filter::Queued => sock.recv_queue > 0 || sock.send_queue > 0 && !sock.is_listening(),
            Filter::Timed => sock.timer.is_some(),
            Filter::Udp => !tcp,
        }
    }
}

/// The `rows` sockets from `top` on, and how many there are in all. Only those that are shown are sorted fully.
pub fn chosen<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    (sort, filter, text): (Sort, Filter, &str),
    top: usize,
    rows: usize,
) -> (Vec<&'a Entry>, usize) {
    let has_text = |sock: &Sock| {
        text.is_empty()
            || format!("{} {} {}", sock.state_name(), sock.pair.local, sock.pair.peer).to_lowercase().contains(text)
    };
    let taken = entries.filter(|entry| filter.takes(&entry.sock) && has_text(&entry.sock));
    let mut chosen: Vec<(u128, &Entry)> = taken.map(|entry| (rank(sort, entry), entry)).collect();
    let order = |(rank, one): &(u128, &Entry), (other_rank, other): &(u128, &Entry)| {
        let place = |entry: &Entry| (entry.sock.pair.local, entry.sock.pair.peer);
        rank.cmp(other_rank).then_with(|| place(one).cmp(&place(other))).then_with(|| one.key.cmp(&other.key))
    };
    let total = chosen.len();
    let top = top.min(total.saturating_sub(rows));
    let end = top.saturating_add(rows).min(total);
    if end < total {
        chosen.select_nth_unstable_by(end, order);
        chosen.truncate(end);
    }
    if (1..end).contains(&top) {
        chosen.select_nth_unstable_by(top, order);
    }
    chosen.drain(..top);
    chosen.sort_unstable_by(order);
    (chosen.into_iter().map(|(_, entry)| entry).collect(), total)
}

/// Most of the order in one number: to follow two references for each comparison would take longer. By state TIME-WAIT
/// stands last, below UDP; otherwise UDP does; then the order that was asked for, the states, IPv4, the local address.
fn rank(sort: Sort, entry: &Entry) -> u128 {
    let sock = &entry.sock;
    let (six, address) = match sock.pair.local {
        SocketAddr::V4(local) => (0, u64::from(u32::from(*local.ip())) << 16 | u64::from(local.port())),
        SocketAddr::V6(local) => (1, (u128::from(*local.ip()) >> 80) as u64),
    };
    let udp = u128::from(sock.protocol == Protocol::Udp);
    let (first, second) = match sort {
        Sort::State => (sort.rank(entry).into(), udp << 63),
        _ => (udp, sort.rank(entry).into()),
    };
    first << 127 | second << 63 | u128::from((sock.stage() as u64) << 49 | six << 48 | address)
}
