//! How a server is found without its address.

use std::{
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::Result;
use kernel::Patience;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, SockaddrIn, recvfrom, sendto},
};
use shared::{At, Predicts, Role, Stage, Verdict, returned};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, address_behind, free_group};
use crate::group::{INTERFACE, QUESTION};

/// How long to listen where no further answer is expected.
const SILENCE: Duration = Duration::from_millis(300);

pub fn asked_group(stage: &mut Stage) -> Result<Verdict> {
    let group_addr = free_group()?;
    let start = || -> Result<_> {
        let mut server = Role::start(&["server", "0", "--group", &group_addr.to_string()])?;
        let addr = address_behind(&mut server, "chat://")?;
        Ok((server, addr))
    };
    let servers = [start()?, start()?];
    for (server, addr) in &servers {
        stage.server(format_args!("process {} serves chat://{addr}, and is in {group_addr}", server.pid()));
    }
    let sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", "")?;
    let fd = sock.as_raw_fd();
    stage.client(format_args!("socket(AF_INET, SOCK_DGRAM, 0) = {fd}"));
    let chosen = sock.set_multicast_if_v4(&INTERFACE);
    stage.client(format_args!("setsockopt({fd}, SOL_IP, IP_MULTICAST_IF) = {}  {INTERFACE}", returned(&chosen)));
    chosen.at("setsockopt IP_MULTICAST_IF", INTERFACE)?;

    let question = stage.ask(
        "A client sends its question to the group once. How many answers come?",
        [
            ("1: the group picks one of its members", 1),
            ("2: each member of the group answers", 2),
            ("0: the client has not joined the group", 0),
        ],
        Predicts { source: None, kit: 2 },
    )?;
    let text = QUESTION.escape_ascii();
    let sent = sendto(fd, QUESTION, &SockaddrIn::from(group_addr), MsgFlags::empty());
    stage.client(format_args!("sendto({fd}, \"{text}\", {}, {group_addr}) = {}", QUESTION.len(), returned(&sent)));
    sent.at("sendto", group_addr)?;
    let (mut answers, mut buffer) = (Vec::new(), [0; 128]);
    let mut patience = Patience::new(LIMIT);
    while !patience.is_over() {
        let mut fds = [PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(patience.step())?) {
            Ok(0) | Err(Errno::EINTR) => continue,
            ready => ready.at("poll", "")?,
        };
        let received = recvfrom::<SockaddrIn>(fd, &mut buffer);
        let (bytes_read, _) = received.at("recvfrom", group_addr)?;
        let answer = String::from_utf8_lossy(&buffer[..bytes_read]).into_owned();
        stage.client(format_args!("recvfrom({fd}, {}) = {bytes_read}  {answer}", buffer.len()));
        answers.push(answer);
        if answers.len() == servers.len() {
            patience = Patience::new(SILENCE); // one more would be one too many
        }
    }
    let known = servers.iter().filter(|(_, addr)| answers.contains(&format!("chat://{addr}"))).count();
    stage
        .client(format_args!("{} answers, from {known} different servers; nothing more in {SILENCE:?}", answers.len()));
    let observed = if known == answers.len() { known } else { usize::MAX };
    drop(servers);
    stage.verdict(question, observed, "each member has its copy and answers; the client takes the first")
}
