//! The clients the server knows: who is let in, what they said, one line to all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    rc::Rc,
    time::Instant,
};

use nix::{errno::Errno, poll::PollFlags};
use shared::{Pause, Screen};
use socket2::Socket;

use crate::{
    connection::{Connection, Received},
    display::reversed,
    lines::{LINE_LIMIT, Line},
    outbox::{OUTBOX_LIMIT, wire},
};

/// What a client hears that is one too many. Notices start with "! ", so a line of the operator must not.
pub const REFUSAL: &str = "! Server rejected due to too many clients";
/// So many refused and leaving connections are waited for at one time; one more is closed at once.
const MOST_CLOSING: usize = 64;
const PROMPT: &str = "> Enter message to send to all clients : ";

/// All connections, and the screen they are shown on. What happens to one client costs the same however many there are.
pub struct Room<'a> {
    /// By descriptor.
    pub clients: BTreeMap<RawFd, Connection>,
    max_clients: usize,
    /// How many of them are in, and how many of these have sent a line since the operator's last one.
    inside: usize,
    spoken: usize,
    /// The refused and the leaving.
    closing: BTreeSet<RawFd>,
    /// No line for a client that comes or goes.
    quiet: bool,
    pub screen: Screen,
    pub pause: Pause<'a>,
}

impl<'a> Room<'a> {
    pub fn new(max_clients: usize, quiet: bool, screen: Screen, pause: Pause<'a>) -> Self {
        let (clients, closing) = (BTreeMap::new(), BTreeSet::new());
        Room { clients, max_clients, inside: 0, spoken: 0, closing, quiet, screen, pause }
    }

    /// Lets a client in, or tells that client why not.
    pub fn enter(&mut self, conn_sock: Socket, peer_addr: SocketAddr) {
        let (fd, inside) = (conn_sock.as_raw_fd(), self.inside);
        let mut client = Connection::new(conn_sock, peer_addr);
        if inside < self.max_clients {
            self.tell(format_args!("> New connection [{peer_addr}]"));
            self.clients.insert(fd, client);
            self.inside += 1;
            return;
        }
        self.tell(format_args!("> Rejected [{peer_addr}]: {inside} clients are in"));
        if client.refuse(REFUSAL).is_ok() && self.closing.len() < MOST_CLOSING {
            self.clients.insert(fd, client);
            self.closing.insert(fd);
        }
    }

    /// A line about somebody who comes or goes.
    fn tell(&mut self, text: impl Display) {
        if !self.quiet {
            self.screen.line(text);
        }
    }

    /// Shows the handout's prompt, once every client has sent a line.
    pub fn ask_operator(&mut self) {
        if self.inside > 0 && self.spoken == self.inside {
            self.screen.ask(PROMPT);
        } else {
            self.screen.ask_nothing();
        }
        self.screen.settle();
    }

    /// Reads from and sends to the client with this descriptor, as it was found ready.
    pub fn serve(&mut self, fd: RawFd, events: PollFlags, buffer: &mut [u8]) {
        let Room { clients, screen, pause, quiet, .. } = self;
        let Some(client) = clients.get_mut(&fd) else { return };
        let (was_in, had_spoken) = (client.is_in(), client.spoke_this_round);
        if events.intersects(!PollFlags::POLLOUT) {
            pause.before(screen, format_args!("recv({fd}, {LINE_LIMIT})"));
            hear(client, screen, *quiet, buffer);
        }
        if events.contains(PollFlags::POLLOUT) {
            client.flush().unwrap_or_else(|errno| lose(client, screen, *quiet, errno));
        }
        match (was_in, client.is_in()) {
            (true, true) => self.spoken += usize::from(client.spoke_this_round && !had_spoken),
            (true, false) => {
                self.inside -= 1;
                self.spoken -= usize::from(had_spoken);
                self.closing.insert(fd);
            }
            (false, _) => {}
        }
    }

    /// The operator's lines, to all: each client has one send for as many lines as are given here.
    pub fn announce(&mut self, lines: impl IntoIterator<Item = Line>) {
        let mut text = Vec::new();
        for line in lines {
            match line {
                Line::Text(line) if line.starts_with('!') => {
                    self.screen.line("> not sent: a line that starts with ! is a notice of the server itself");
                }
                Line::Text(line) if self.inside > 0 => {
                    if text.is_empty() {
                        text = line.into_bytes(); // the usual case, without a copy
                    } else {
                        text.extend_from_slice(line.as_bytes());
                    }
                    text.push(b'\n');
                }
                Line::Text(_) => self.screen.line("> not sent: no client is connected"),
                faulty => self.screen.line(format_args!("> not sent: {}", fault(&faulty))),
            }
        }
        if !text.is_empty() {
            self.say_to_all(Rc::new(text));
        }
    }

    fn say_to_all(&mut self, lines: Rc<Vec<u8>>) {
        for (fd, client) in self.clients.iter_mut().filter(|(_, client)| client.is_in()) {
            self.pause.before(&mut self.screen, format_args!("send({fd}, {} bytes)", lines.len()));
            let peer_addr = client.peer_addr;
            match client.say(lines.clone()) {
                Ok(true) => client.spoke_this_round = false,
                Ok(false) => {
                    let limit = OUTBOX_LIMIT / 1024;
                    self.screen
                        .line(format_args!("> Dropped client [{peer_addr}]: it does not read; {limit} KiB wait"));
                    client.give_up();
                }
                Err(errno) => lose(client, &mut self.screen, self.quiet, errno),
            }
        }
        self.count();
    }

    /// Ctrl-C: FIN to all clients. What they still send is read until they close, too, or until the deadline.
    pub fn say_goodbye(&mut self) {
        for client in self.clients.values_mut().filter(|client| client.is_in()) {
            if !self.quiet {
                self.screen.line(format_args!("> Closing connection for client [{}]...", client.peer_addr));
            }
            client.leave().unwrap_or_else(|_| client.give_up());
        }
        self.count();
    }

    /// Counts anew, after something that concerned all clients.
    fn count(&mut self) {
        let inside = || self.clients.values().filter(|client| client.is_in());
        (self.inside, self.spoken) = (inside().count(), inside().filter(|client| client.spoke_this_round).count());
        self.closing = self.clients.iter().filter(|(_, client)| !client.is_in()).map(|(fd, _)| *fd).collect();
    }

    /// When the loop has to wake up at the latest, because the deadline of a connection has passed.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.closing.iter().filter_map(|fd| self.clients.get(fd)?.close_by()).min()
    }

    /// Closes and forgets the connections that are over.
    pub fn close_those_over(&mut self) {
        let Room { clients, closing, .. } = self;
        closing.retain(|fd| {
            let over = clients.get(fd).is_none_or(Connection::is_over);
            if over {
                clients.remove(fd); // close(2)
            }
            !over
        });
    }
}

/// Reads from one client and shows what came.
fn hear(client: &mut Connection, screen: &mut Screen, quiet: bool, buffer: &mut [u8]) {
    match client.receive(buffer) {
        Ok(Received::Lines(lines)) => lines.into_iter().for_each(|line| show(client, screen, line, "")),
        Ok(Received::End(cut)) => {
            cut.into_iter().for_each(|line| show(client, screen, line, " (cut by the disconnect)"));
            if client.is_in() {
                if !quiet {
                    screen.line(format_args!("> Closing connection for client [{}]...", client.peer_addr));
                }
                client.leave().unwrap_or_else(|_| client.give_up());
            }
        }
        Err(errno) => lose(client, screen, quiet, errno),
    }
}

fn show(client: &mut Connection, screen: &mut Screen, line: Line, remark: &str) {
    let peer_addr = client.peer_addr;
    match line {
        Line::Text(text) => {
            client.spoke_this_round = true;
            screen.line(format_args!("> [{peer_addr}] Client message{remark} = {}", reversed(&text)));
        }
        faulty => {
            let fault = fault(&faulty);
            screen.line(format_args!("> [{peer_addr}] Client message{remark} thrown away: {fault}"));
            // If the client does not read, or is gone, the operator's next line finds out.
            let _ = client.say(wire(&format!("! your line was thrown away: {fault}")));
        }
    }
}

fn lose(client: &mut Connection, screen: &mut Screen, quiet: bool, errno: Errno) {
    if client.is_in() && !quiet {
        let (peer_addr, number, text) = (client.peer_addr, errno as i32, errno.desc());
        screen.line(format_args!("> Lost client [{peer_addr}]: {errno:?} ({number}) {text}"));
    }
    client.give_up();
}

/// What is wrong with a line that is no text.
pub fn fault(line: &Line) -> String {
    match line {
        Line::NotUtf8(at) => format!("not UTF-8 from byte {at} on"),
        Line::TooLong | Line::Text(_) => format!("longer than {LINE_LIMIT} bytes"),
    }
}
