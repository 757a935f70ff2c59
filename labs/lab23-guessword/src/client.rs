//! Terminals 2, 3 ...: a client that shows lines and sends lines, whichever comes first. What is half typed stays with
//! the terminal driver, so lines that arrive do not touch it.

use std::{
    io::stdin,
    net::{SocketAddr, ToSocketAddrs},
    os::fd::AsFd,
    process::ExitCode,
};

use anyhow::{Result, bail, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    unistd::read,
};
use shared::{At, Pause, Screen, Stop, escaped};

use crate::{
    ClientArgs,
    lines::{LINE_LIMIT, Line, LineSplitter},
    link::{CHUNK, Link},
    room::fault,
    usage,
    wire::NOTICE,
};

/// The client's own copy of the shared state.
pub trait Copy {
    /// Takes in a line of the server; what to show of it.
    ///
    /// # Errors
    /// The line is none of this protocol.
    fn hear(&mut self, line: &str) -> Result<String, String>;

    /// What to ask for next.
    fn prompt(&self) -> &'static str;

    /// What to show at the end.
    fn end(&self) -> Vec<String>;
}

/// The addresses that the arguments name.
pub fn addresses(args: &ClientArgs, default: SocketAddr) -> Result<Vec<SocketAddr>> {
    let place = args.address.clone().unwrap_or_default();
    if place.port == Some(0) {
        usage("nobody is at port 0: a port from 1 to 65535".into())
    }
    let (host, port) = (place.host.unwrap_or(default.ip().to_string()), place.port.unwrap_or(default.port()));
    Ok((host.as_str(), port).to_socket_addrs().at("getaddrinfo", &host)?.collect())
}

/// Talks to the server until end of input, Ctrl-C, or the end of the server's stream.
pub fn run(args: &ClientArgs, default: SocketAddr, mut copy: impl Copy) -> Result<ExitCode> {
    let addresses = addresses(args, default)?; // before signals become a descriptor: Ctrl-C ends a lookup that takes long
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let Some(mut link) = Link::connect(&addresses, &stop, &mut pause, &mut screen)? else {
        return Ok(ExitCode::SUCCESS); // Ctrl-C
    };
    pause.before(&mut screen, format_args!("send({}, {} bytes)", link.fd(), args.name.len() + 1));
    link.say(&args.name)?;
    link.flush()?;

    let mut typed = LineSplitter::default();
    let mut buffer = vec![0; LINE_LIMIT];
    let mut joined = false;
    'talk: loop {
        screen.settle();
        let input = stdin();
        let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN), link.poll_fd()];
        if joined && link.takes_lines() {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, link.timeout()?) {
            Err(Errno::EINTR) => continue,
            result => result.at("poll", "")?,
        };
        let events: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        if !events[0].is_empty() {
            stop.take();
            if link.close_by.is_some() {
                break; // a second Ctrl-C
            }
            pause.before(&mut screen, format_args!("shutdown({}, SHUT_WR)", link.fd()));
            screen.ask_nothing();
            link.leave(false)?;
        }
        if events[1].intersects(!PollFlags::POLLOUT) {
            pause.before(&mut screen, format_args!("recv({}, {CHUNK})", link.fd()));
            let Some(lines) = link.receive()? else {
                ensure!(joined || link.close_by.is_some(), "the server has closed the connection at once");
                if link.close_by.is_none() {
                    screen.line("> The server has closed the connection");
                }
                break 'talk;
            };
            for line in lines {
                show(&mut screen, &mut copy, line, &mut joined)?;
            }
            if joined && link.close_by.is_none() {
                screen.ask(copy.prompt());
            }
        }
        if events[1].contains(PollFlags::POLLOUT) {
            link.flush()?;
        }
        if events.get(2).is_some_and(|events| !events.is_empty()) && link.takes_lines() {
            let (lines, ended) = match read(&input, &mut buffer) {
                Err(Errno::EINTR | Errno::EAGAIN) => continue,
                Ok(0) | Err(_) => (typed.rest().into_iter().collect(), true),
                Ok(bytes_read) => (typed.push(&buffer[..bytes_read]), false),
            };
            if !ended {
                screen.typed(); // Ctrl-D leaves the cursor where it is
            }
            for line in lines {
                match line {
                    Line::Text(text) => {
                        pause.before(&mut screen, format_args!("send({}, {} bytes)", link.fd(), text.len() + 1));
                        link.say(&text)?;
                    }
                    faulty => screen.line(format_args!("> not sent: {}", fault(&faulty))),
                }
            }
            if ended {
                pause.before(&mut screen, format_args!("shutdown({}, SHUT_WR)", link.fd()));
                screen.ask_nothing();
                link.leave(true)?;
            } else {
                link.flush()?;
            }
        }
        if link.is_over(events.iter().all(|events| events.is_empty())) {
            break; // the server keeps its end open
        }
    }
    drop(link); // close(2)
    copy.end().into_iter().for_each(|line| screen.line(line));
    screen.line("> Closing client...");
    Ok(ExitCode::SUCCESS)
}

/// Shows a line of the server; the first one must let us in.
fn show(screen: &mut Screen, copy: &mut impl Copy, line: Line, joined: &mut bool) -> Result<()> {
    let text = match line {
        Line::Text(text) => text,
        faulty => bail!("this is no server of this lab: its line is {}", fault(&faulty)),
    };
    if let Some(why) = text.strip_prefix(NOTICE) {
        if !*joined {
            bail!("the server does not let us in: {}", escaped(why.as_bytes()));
        }
        screen.line(format_args!("> {}", escaped(why.as_bytes())));
        return Ok(());
    }
    match copy.hear(&text) {
        Ok(shown) => screen.line(format_args!("> {shown}")),
        Err(why) => bail!("this is no server of this lab: {why}"),
    }
    *joined = true;
    Ok(())
}
