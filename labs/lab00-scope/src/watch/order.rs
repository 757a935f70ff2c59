//! Which sockets are shown, and in which order. UDP always stands below TCP.

use std::cmp::{Ordering, Reverse};
use std::time::Duration;

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

    fn compare(self, one: &Entry, other: &Entry) -> Ordering {
        let (a, b) = (&one.sock, &other.sock);
        let queues = |sock: &Sock| Reverse(sock.recv_queue.max(if sock.is_listening() { 0 } else { sock.send_queue }));
        let timer = |sock: &Sock| sock.timer.map_or(Duration::MAX, |timer| timer.left);
        let changed = |entry: &Entry| Reverse(entry.mark.map(|(_, at)| at));
        match self {
            Sort::State => a.stage().cmp(&b.stage()),
            Sort::Local => a.pair.local.port().cmp(&b.pair.local.port()),
            Sort::Peer => a.pair.peer.port().cmp(&b.pair.peer.port()),
            Sort::Queue => queues(a).cmp(&queues(b)),
            Sort::Timer => timer(a).cmp(&timer(b)),
            Sort::Changed => changed(one).cmp(&changed(other)),
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
    let mut chosen: Vec<&Entry> = entries.filter(|entry| filter.takes(&entry.sock) && has_text(&entry.sock)).collect();
    let order = |one: &&Entry, other: &&Entry| {
        let place =
            |entry: &Entry| (entry.sock.protocol, entry.sock.stage(), entry.sock.pair.local, entry.sock.pair.peer);
        one.sock
            .protocol
            .cmp(&other.sock.protocol)
            .then_with(|| sort.compare(one, other))
            .then_with(|| place(one).cmp(&place(other)).then_with(|| one.key.cmp(&other.key)))
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
    (chosen, total)
}
