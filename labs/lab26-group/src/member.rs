//! Terminals 1, 2, 3: a member of the group. The protocol is in `group`; here are its sockets, in `seat` its keyboard and its clock.

use std::{io::stdin, os::fd::AsFd};

use anyhow::Result;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use shared::{At, Pause, Screen, Stop};

use crate::{
    MemberArgs,
    group::Datagram,
    lines::LineSplitter,
    seat::Seat,
    udp::{self, BUFFER_SIZE},
};

/// So many datagrams are read before the next look at the keyboard and the clock.
const AT_ONCE: usize = 100;

/// Joins, talks and leaves.
pub fn run(args: &MemberArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let group_sock = udp::join(&mut screen, &mut pause, args.group)?;
    let own_sock = udp::own(&mut screen, &mut pause)?;
    pause.before(&mut screen, "sendto, a heartbeat: no more pauses from here on");

    let mut seat = Seat::new(args, own_sock, screen);
    seat.screen.line(format_args!("Joined {} on {} as {}", args.group, udp::LO, args.name));
    let (mut typed, mut buffer) = (LineSplitter::default(), vec![0; BUFFER_SIZE]);
    loop {
        seat.tick()?;
        if seat.is_over() {
            break;
        }
        seat.screen.settle();
        let input = stdin();
        let mut watched = vec![stop.as_fd(), group_sock.as_fd(), seat.own_sock.as_fd()];
        if seat.wants_lines() {
            watched.push(input.as_fd());
        }
        let mut fds: Vec<PollFd> = watched.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, PollTimeout::try_from(seat.settings.tick())?) {
            Err(Errno::EINTR) => continue,
            result => result.at("poll", "")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
        if ready[0] {
            stop.take();
            seat.leave(true);
        }
        if ready.get(3) == Some(&true) {
            seat.input(&mut typed, &mut buffer);
            seat.say_what_waits()?;
        }
        if ready[1] {
            for _ in 0..AT_ONCE {
                let Some((bytes_read, peer_addr)) = udp::receive(&group_sock, &mut buffer)? else { break };
                seat.hear(&buffer[..bytes_read], peer_addr)?;
            }
        }
        if ready[2] {
            for _ in 0..AT_ONCE {
                let Some((bytes_read, peer_addr)) = udp::receive(&seat.own_sock, &mut buffer)? else { break };
                seat.serve(&buffer[..bytes_read], peer_addr)?;
            }
        }
    }
    udp::send(&seat.own_sock, &Datagram::Leave { from: seat.member.id() }.bytes(), args.group)?;
    seat.screen.ask_nothing();
    seat.screen.line("* goodbye");
    drop(group_sock); // close(2): the kernel leaves the group
    drop(seat.own_sock);
    Ok(())
}
