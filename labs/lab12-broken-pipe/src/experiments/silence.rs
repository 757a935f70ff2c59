//! The cable is out, nobody says so, and the kernel tries again.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, ensure};
use kernel::{Counters, Pair, Patience, State, tcp_socket, wait_until};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, send},
};
use shared::{At, Predicts, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, cable, connected_pair, listening, receive};
use crate::cable::{CUT, MENDED, repeats};

/// So often the retransmission timer expires, and doubles, before the cable is plugged in again.
const EXPIRED: u8 = 2;

pub fn cut(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Fate {
        Refused,
        Blocked,
        Lost,
        Late,
    }
    let (client_sock, conn_sock) = connected_pair()?;
    let (client, server) = (Pair::of(&client_sock)?, Pair::of(&conn_sock)?);
    cable(stage, "client", &client_sock, CUT)?;
    cable(stage, "server", &conn_sock, CUT)?;
    stage.say("cable", "is out: each end drops all that arrives: packets have a TTL of 64");

    stage.look(format_args!("ss -tano 'sport = :{0} or dport = :{0}'", server.local.port()));
    let question = stage.ask(
        "Both programs send. What becomes of their bytes?",
        [
            ("send fails at once: the pipe is broken", Fate::Refused),
            ("send blocks until the cable is back", Fate::Blocked),
            ("send takes them, and they are lost", Fate::Lost),
            ("send takes them, and they arrive once the cable is back", Fate::Late),
        ],
        Predicts { source: Some(Fate::Refused), kit: Fate::Late },
    )?;
    let before = Counters::read()?;
    client_sock.set_write_timeout(Some(LIMIT)).at("setsockopt", "")?; // so that a send that blocks is seen
    conn_sock.set_write_timeout(Some(LIMIT)).at("setsockopt", "")?;
    let mut sent = Vec::new();
    for (label, sock, text) in
        [("client", &client_sock, "one "), ("client", &client_sock, "two"), ("server", &conn_sock, "three")]
    {
        let fd = sock.as_raw_fd();
        let taken = send(fd, text.as_bytes(), MsgFlags::empty());
        stage.say(label, format_args!("send({fd}, {text:?}, {}) = {}", text.len(), returned(&taken)));
        sent.push(taken);
    }

    // The kernel sends the first segment again, waits twice as long, sends it again ...
    let first = repeats(&client_sock).at("getsockopt TCP_INFO", "")?;
    stage.say("kernel", format_args!("client retransmission timer {:.1} s", first.timer.as_secs_f64()));
    for expired in 1..=EXPIRED {
        let now = wait_until("the retransmission timer's end", LIMIT, || {
            let now = repeats(&client_sock).at("getsockopt TCP_INFO", "")?;
            Ok((now.expired >= expired).then_some(now))
        })?;
        let seconds = now.timer.as_secs_f64();
        stage.say("kernel", format_args!("client has sent it again; timer {seconds:.1} s, doubled {}x", now.doubled));
        ensure!(now.timer == first.timer * (1 << now.doubled), "from {:?} the timer went to {now:?}", first.timer);
    }
    let states = stage.kernel([("client", client), ("server", server)])?;
    let waiting = |end| Ok::<_, anyhow::Error>(tcp_socket(end)?.map_or(0, |row| row.send_queue));
    stage.say("kernel", format_args!("client Send-Q {}   server Send-Q {}", waiting(client)?, waiting(server)?));
    stage.counted(&before, ["TCPMinTTLDrop", "RetransSegs"])?;

    cable(stage, "client", &client_sock, MENDED)?;
    cable(stage, "server", &conn_sock, MENDED)?;
    let to_server = arrived(stage, "server", &conn_sock, "one two".len())?;
    let to_client = arrived(stage, "client", &client_sock, "three".len())?;
    let observed = match (&sent[..], to_server.as_str(), to_client.as_str()) {
        ([Err(Errno::EAGAIN), ..] | [.., Err(Errno::EAGAIN)], _, _) => Fate::Blocked,
        ([Ok(4), Ok(3), Ok(5)], "one two", "three") if states == [Some(State::Established); 2] => Fate::Late,
        ([Ok(_), Ok(_), Ok(_)], ..) => Fate::Lost,
        _ => Fate::Refused,
    };
    stage.verdict(question, observed, "no report: the kernel keeps the bytes, repeats, and delivers them late")
}

/// Reads so many bytes, or until recv says something else. They come when the sender's timer expires.
fn arrived(stage: &mut Stage, label: &str, sock: &Socket, length: usize) -> Result<String> {
    let mut text = String::new();
    let sender = Pair::of(sock)?.other_end();
    while text.len() < length && repeated(stage, sock, PollFlags::POLLIN, sender)? {
        let mut buffer = [0; 1024];
        let received = receive(sock, &mut buffer, MsgFlags::empty());
        let bytes = String::from_utf8_lossy(&buffer[..received.unwrap_or(0)]).into_owned();
        let fd = sock.as_raw_fd();
        stage.say(label, format_args!("recv({fd}, 1024) = {}  {bytes:?}", returned(&received)));
        if bytes.is_empty() {
            break;
        }
        text += &bytes;
    }
    Ok(text)
}

/// Waits for `events` on `sock` until the timer of `sender` has expired; false if they do not come.
/// If the program was stopped while the cable was out, the kernel has doubled that timer meanwhile.
fn repeated(stage: &mut Stage, sock: &Socket, events: PollFlags, sender: Pair) -> Result<bool> {
    let timer = tcp_socket(sender)?.and_then(|row| row.timer).unwrap_or_default();
    let mut shown = Patience::new(LIMIT);
    let mut patience = Patience::new(timer + LIMIT);
    loop {
        let mut fds = [PollFd::new(sock.as_fd(), events)];
        let step = u16::try_from(patience.step().as_millis())?.max(1);
        match poll(&mut fds, PollTimeout::from(step)) {
            Ok(1..) => return Ok(true),
            Ok(_) | Err(Errno::EINTR) if patience.is_over() => return Ok(false),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Ok(Err(errno).at("poll", "")?),
        }
        if shown.is_over() {
            stage.say("wait", format_args!("for the timer, which expires in {:.0} s", timer.as_secs_f64()));
            shown = Patience::new(LIMIT);
        }
    }
}

pub fn new_connect(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Returns {
        AtOnce,
        After1s,
        OncePlugged,
        Never,
    }
    let (listen_sock, server_addr) = listening()?;
    cable(stage, "server", &listen_sock, CUT)?;
    let client_sock = Socket::new(Domain::IPV4, Type::STREAM, None).at("socket", server_addr)?;
    let fd = client_sock.as_raw_fd();
    client_sock.set_nonblocking(true).at("fcntl", server_addr)?; // so that this one process can look meanwhile

    stage.look(format_args!("ss -tano dport = :{}", server_addr.port()));
    let question = stage.ask(
        "A client calls connect while the cable is out. After a second somebody plugs it in. How does the connect end?",
        [
            ("it fails at once: ENETUNREACH", Returns::AtOnce),
            ("it fails after 1 s: ETIMEDOUT", Returns::After1s),
            ("it works, a moment after the plug is in", Returns::OncePlugged),
            ("it waits for ever: its SYN was lost", Returns::Never),
        ],
        Predicts { source: None, kit: Returns::OncePlugged },
    )?;
    let called = client_sock.connect(&server_addr.into());
    stage.client(format_args!("connect({fd}, {server_addr}) = {}", returned(&called)));
    let at_once = called.as_ref().is_err_and(|error| error.raw_os_error() != Some(Errno::EINPROGRESS as i32));
    // The kernel has chosen the port already; the peer is known to getpeername only once the connection stands.
    let local_addr =
        client_sock.local_addr().at("getsockname", server_addr)?.as_socket().context("not an IP socket")?;
    let client = Pair { local: local_addr, peer: server_addr };
    let mut error = None;
    if !at_once {
        let sent_again = wait_until("the SYN sent again", LIMIT, || {
            error = client_sock.take_error().at("getsockopt SO_ERROR", "")?;
            let sent_again = repeats(&client_sock).at("getsockopt TCP_INFO", "")?.sent_again;
            Ok((error.is_some() || sent_again > 0).then_some(sent_again))
        })?;
        let row = tcp_socket(client)?.context("no row")?;
        let timer = row.timer.map_or(0.0, |timer| timer.as_secs_f64());
        stage.say("kernel", format_args!("client {}, SYN sent again {sent_again}x, next in {timer:.1} s", row.state));
    }
    cable(stage, "server", &listen_sock, MENDED)?;
    let connected = repeated(stage, &client_sock, PollFlags::POLLOUT, client)? && client_sock.peer_addr().is_ok();
    if connected {
        stage.client(format_args!("is connected to {server_addr}"));
        stage.kernel([("client", client), ("server", client.other_end())])?;
    }
    let observed = match (at_once, error, connected) {
        (true, ..) => Returns::AtOnce,
        (_, Some(_), _) => Returns::After1s,
        (_, None, true) => Returns::OncePlugged,
        (_, None, false) => Returns::Never,
    };
    stage.verdict(question, observed, "the kernel repeats the SYN for two minutes; the next one gets through")
}
