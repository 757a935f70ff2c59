//! The clients the server knows: who is let in, what they said, one line to all of them.

use std::{net::SocketAddr, time::Instant};

use nix::{errno::Errno, poll::PollFlags};
use shared::{Pause, Screen};
use socket2::Socket;

use crate::{
    connection::{Connection, Received},
    display::reversed,
    lines::{LINE_LIMIT, Line},
    outbox::OUTBOX_LIMIT,
};

/// What a client hears that is one too many. Notices start with "! ", so a line of the operator must not.
pub const REFUSAL: &str = "! Server rejected due to too many clients";
/// So many refused and leaving connections are waited for at one time; one more is closed at once.
const MOST_CLOSING: usize = 64;
const PROMPT: &str = "> Enter message to send to all clients : ";

/// All connections, and the screen they are shown on.
pub struct Room<'a> {
    pub clients: Vec<Connection>,
    pub max_clients: usize,
    pub screen: Screen,
    pub pause: Pause<'a>,
}

impl Room<'_> {
    /// Lets a client in, or tells that client why not.
    pub fn enter(&mut self, conn_sock: Socket, peer_addr: SocketAddr) {
        let inside = self.clients.iter().filter(|client| client.is_in()).count();
        let mut client = Connection::new(conn_sock, peer_addr);
        if inside < self.max_clients {
            self.screen.line(format_args!("> New connection [{peer_addr}]"));
            self.clients.push(client);
            return;
        }
        self.screen.line(format_args!("> Rejected [{peer_addr}]: {inside} clients are in"));
        if client.refuse(REFUSAL).is_ok() && self.clients.len() - inside < MOST_CLOSING {
            self.clients.push(client);
        }
    }

    /// Shows the handout's prompt, once every client has sent a line.
    pub fn ask_operator(&mut self) {
        let mut inside = self.clients.iter().filter(|client| client.is_in()).peekable();
        if inside.peek().is_some() && inside.all(|client| client.spoke_this_round) {
            self.screen.ask(PROMPT);
        } else {
            self.screen.ask_nothing();
        }
        self.screen.settle();
    }

    /// Reads from and sends to the client at this place, as poll found it ready.
    pub fn serve(&mut self, at: usize, events: PollFlags, buffer: &mut [u8]) {
        let Room { clients, screen, pause, .. } = self;
        let client = &mut clients[at];
        if events.intersects(!PollFlags::POLLOUT) {
            pause.before(screen, format_args!("recv({}, {LINE_LIMIT})", client.fd()));
            hear(client, screen, buffer);
        }
        if events.contains(PollFlags::POLLOUT) {
            client.flush().unwrap_or_else(|errno| lose(client, screen, errno));
        }
    }

    /// The operator's line, to all.
    pub fn announce(&mut self, line: Line) {
        let text = match line {
            Line::Text(text) if text.starts_with('!') => {
                return self.screen.line("> not sent: a line that starts with ! is a notice of the server itself");
            }
            Line::Text(text) if self.clients.iter().any(Connection::is_in) => text,
            Line::Text(_) => return self.screen.line("> not sent: no client is connected"),
            faulty => return self.screen.line(format_args!("> not sent: {}", fault(&faulty))),
        };
        for client in self.clients.iter_mut().filter(|client| client.is_in()) {
            self.pause.before(&mut self.screen, format_args!("send({}, {} bytes)", client.fd(), text.len() + 1));
            let peer_addr = client.peer_addr;
            match client.say(&text) {
                Ok(true) => client.spoke_this_round = false,
                Ok(false) => {
                    let limit = OUTBOX_LIMIT / 1024;
                    self.screen
                        .line(format_args!("> Dropped client [{peer_addr}]: it does not read; {limit} KiB wait"));
                    client.give_up();
                }
                Err(errno) => lose(client, &mut self.screen, errno),
            }
        }
    }

    /// Ctrl-C: FIN to all clients. What they still send is read until they close, too, or until the deadline.
    pub fn say_goodbye(&mut self) {
        for client in self.clients.iter_mut().filter(|client| client.is_in()) {
            self.screen.line(format_args!("> Closing connection for client [{}]...", client.peer_addr));
            client.leave().unwrap_or_else(|_| client.give_up());
        }
    }

    /// When poll has to wake up at the latest, because the deadline of a connection has passed.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.clients.iter().filter_map(Connection::close_by).min()
    }

    /// Closes and forgets the connections that are over.
    pub fn close_those_over(&mut self) {
        self.clients.retain(|client| !client.is_over()); // close(2)
    }
}

/// Reads from one client and shows what came.
fn hear(client: &mut Connection, screen: &mut Screen, buffer: &mut [u8]) {
    match client.receive(buffer) {
        Ok(Received::Lines(lines)) => lines.into_iter().for_each(|line| show(client, screen, line, "")),
        Ok(Received::End(cut)) => {
            cut.into_iter().for_each(|line| show(client, screen, line, " (cut by the disconnect)"));
            if client.is_in() {
                screen.line(format_args!("> Closing connection for client [{}]...", client.peer_addr));
                client.leave().unwrap_or_else(|_| client.give_up());
            }
        }
        Err(errno) => lose(client, screen, errno),
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
            let _ = client.say(&format!("! your line was thrown away: {fault}"));
        }
    }
}

fn lose(client: &mut Connection, screen: &mut Screen, errno: Errno) {
    if client.is_in() {
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
