//! One claim: the calls that lead to it, the question, the deciding call, the verdict.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::Result;
use nix::sys::socket::{MsgFlags, recv, send};
use shared::{At, Predicts, Stage, Verdict};
use socket2::{Domain, Socket, Type};

/// How long a datagram may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(5);
const FIRST: &str = "one";
const SECOND: &str = "three";

pub fn two_waiting(stage: &mut Stage) -> Result<Verdict> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let receive_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", any_port)?;
    receive_sock.bind(&any_port.into()).at("bind", any_port)?;
    receive_sock.set_read_timeout(Some(LIMIT)).at("setsockopt", any_port)?;
    let receive_addr = receive_sock.local_addr().at("getsockname", any_port)?;
    let send_sock = Socket::new(Domain::IPV4, Type::DGRAM, None).at("socket", any_port)?;
    send_sock.connect(&receive_addr).at("connect", any_port)?;

    let (send_fd, receive_fd) = (send_sock.as_raw_fd(), receive_sock.as_raw_fd());
    for text in [FIRST, SECOND] {
        let bytes_sent = send(send_fd, text.as_bytes(), MsgFlags::empty()).at("send", any_port)?;
        stage.client(format_args!("send({send_fd}, {text:?}, {}) = {bytes_sent}", text.len()));
    }

    let question = stage.ask(
        "Both datagrams have arrived. What does recv(1024) return?",
        [("3, the first one", 3), ("5, the last one", 5), ("8, both of them", 8)],
        Predicts { source: Some(8), kit: 3 },
    )?;
    let mut buffer = [0; 1024];
    let bytes_read = recv(receive_fd, &mut buffer, MsgFlags::empty()).at("recv", any_port)?;
    stage.server(format_args!("recv({receive_fd}, 1024) = {bytes_read}"));
    let rest = recv(receive_fd, &mut buffer, MsgFlags::empty()).at("recv", any_port)?;
    stage.server(format_args!("recv({receive_fd}, 1024) = {rest}"));
    drop(receive_sock); // close(2)
    stage.server(format_args!("close({receive_fd}) = 0"));
    stage.verdict(question, bytes_read, "one recv, one datagram; the next recv gets the other")
}
