//! The white-board on a terminal: keys and mouse paint, and the screen shows what the server has numbered.
//!
//! The terminal sends each key at once and shows nothing by itself while this runs. Whatever ends it, Ctrl-C, an error,
//! a panic or the end of the server, drops `Full`, and the terminal is as it was.

use std::{
    io::{self, Stdout, Write, stdin, stdout},
    net::SocketAddr,
    os::fd::AsFd,
    process::ExitCode,
};

use anyhow::{Result, bail, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::read,
};
use shared::{At, Pause, Screen, Stop, escaped};
use termion::{
    clear, cursor,
    raw::{IntoRawMode, RawTerminal},
    screen::{ToAlternateScreen, ToMainScreen},
    terminal_size,
};
use vte::Parser;

use crate::{
    ClientArgs,
    canvas::{Canvas, HEIGHT, WIDTH},
    client::addresses,
    hand::Hand,
    lines::Line,
    link::Link,
    room::fault,
    wire::NOTICE,
};

/// The picture, its frame, and a line below.
const LEAST: (u16, u16) = (WIDTH as u16 + 2, HEIGHT as u16 + 3);
/// xterm's sequences: tell of the mouse's buttons and of moves with one held, in decimal numbers.
const MOUSE_ON: &str = "\x1b[?1002h\x1b[?1006h";
const MOUSE_OFF: &str = "\x1b[?1006l\x1b[?1002l";

/// The terminal in our hands: a screen of its own, keys as they are pressed, the mouse. It is given back when dropped.
struct Full {
    terminal: RawTerminal<Stdout>,
    /// Columns and rows when the picture was last shown.
    size: (u16, u16),
}

impl Full {
    fn take() -> io::Result<Full> {
        let mut full = Full { terminal: stdout().into_raw_mode()?, size: (0, 0) };
        full.write(&format!("{ToAlternateScreen}{MOUSE_ON}"))?;
        Ok(full)
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.terminal.write_all(text.as_bytes())?;
        self.terminal.flush()
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = self.write(&format!("{MOUSE_OFF}{}{ToMainScreen}", cursor::Show)); // EIO: the terminal is gone
    }
}

/// Draws until Ctrl-C, Ctrl-D, end of input, or the end of the server's stream.
pub fn run(args: &ClientArgs, default: SocketAddr) -> Result<ExitCode> {
    let addresses = addresses(args, default)?;
    let stop = Stop::on_signals()?;
    let resized: SigSet = [Signal::SIGWINCH].into_iter().collect();
    resized.thread_block().at("sigprocmask", "")?;
    let resized = SignalFd::with_flags(&resized, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).at("signalfd", "")?;
    let mut screen = Screen::new();
    let mut pause = Pause::new(args.pause, &stop);
    let Some(mut link) = Link::connect(&addresses, &stop, &mut pause, &mut screen)? else {
        return Ok(ExitCode::SUCCESS); // Ctrl-C
    };
    link.say(&args.name)?;
    link.flush()?;

    let mut full = Full::take().at("tcsetattr", "the terminal")?;
    let ended = paint(&args.name, &mut link, &stop, &resized, &mut full);
    drop(full);
    drop(link); // close(2)
    screen.line(format_args!("> {}", ended?));
    Ok(ExitCode::SUCCESS)
}

/// The loop; what to say at its end.
fn paint(name: &str, link: &mut Link, stop: &Stop, resized: &SignalFd, full: &mut Full) -> Result<&'static str> {
    let mut canvas = Canvas::default();
    let mut hand = Hand::at(WIDTH / 2, HEIGHT / 2);
    let mut parser: Parser = Parser::new(); // it keeps a sequence whose end has not come
    let (mut joined, mut said) = (false, String::new());
    let mut buffer = [0; 1024];
    loop {
        show(full, name, &canvas, &hand, &said).at("write", "the terminal")?;
        let input = stdin();
        let mut fds = vec![
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            link.poll_fd(),
            PollFd::new(resized.as_fd(), PollFlags::POLLIN),
        ];
        if link.close_by.is_none() {
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
                return Ok("Closing client...");
            }
            link.leave(false)?;
        }
        if events[1].intersects(!PollFlags::POLLOUT) {
            let Some(lines) = link.receive()? else {
                let left = link.close_by.is_some();
                ensure!(joined || left, "the server has closed the connection at once");
                return Ok(if left { "Closing client..." } else { "The server has closed the connection" });
            };
            for line in lines {
                said = hear(&mut canvas, line, &mut joined)?;
            }
        }
        if events[1].contains(PollFlags::POLLOUT) {
            link.flush()?;
        }
        if !events[2].is_empty() {
            let _ = resized.read_signal(); // the picture is painted again with each turn of the loop
        }
        if events.get(3).is_some_and(|events| !events.is_empty()) && link.close_by.is_none() {
            match read(&input, &mut buffer) {
                Err(Errno::EINTR | Errno::EAGAIN) => continue,
                Ok(0) | Err(_) => hand.leaves = true, // the terminal is gone
                Ok(bytes_read) => parser.advance(&mut hand, &buffer[..bytes_read]),
            }
            // Ctrl-C is a key here, so keys are read even while the server takes no strokes.
            let takes_lines = link.takes_lines();
            for stroke in hand.strokes.drain(..) {
                if takes_lines {
                    link.say(&stroke.to_string())?;
                } else {
                    said = "the server does not read: your stroke is lost".into();
                }
            }
            if hand.leaves { link.leave(false)? } else { link.flush()? }
        }
        if link.is_over(true) {
            return Ok("Closing client..."); // the server keeps its end open
        }
    }
}

/// Takes in a line of the server; what to show below the picture.
fn hear(canvas: &mut Canvas, line: Line, joined: &mut bool) -> Result<String> {
    let text = match line {
        Line::Text(text) => text,
        faulty => bail!("this is no server of this lab: its line is {}", fault(&faulty)),
    };
    if let Some(why) = text.strip_prefix(NOTICE) {
        if !*joined {
            bail!("the server does not let us in: {}", escaped(why.as_bytes()));
        }
        return Ok(escaped(why.as_bytes()));
    }
    match canvas.hear(&text) {
        Ok(event) => {
            *joined = true;
            let shown = event.map_or_else(|| "you are in".into(), |event| event.to_string());
            Ok(escaped(format!("{} {shown}", canvas.number).as_bytes()))
        }
        Err(why) => bail!("this is no server of this lab: {why}"),
    }
}

/// Writes the whole picture: the terminal may have got another size.
fn show(full: &mut Full, name: &str, canvas: &Canvas, hand: &Hand, said: &str) -> io::Result<()> {
    let size = terminal_size()?;
    let mut text = cursor::Hide.to_string();
    if size != full.size {
        full.size = size;
        text += clear::All.as_ref(); // what the terminal made of the old picture
    }
    if size.0 < LEAST.0 || size.1 < LEAST.1 {
        let (columns, rows) = LEAST;
        text += &format!("{}the white-board needs {columns} x {rows}", cursor::Goto(1, 1));
        text += &format!("{}make this larger, or Ctrl-C", cursor::Goto(1, 2));
    } else {
        let edge = format!("+{}+", "-".repeat(WIDTH));
        let rows = canvas.rows().map(|row| format!("|{row}|"));
        let lines = std::iter::once(edge.clone()).chain(rows).chain([edge]);
        for (line, row) in lines.zip(1..) {
            text += &format!("{}{line}", cursor::Goto(1, row));
        }
        let below = format!("{name} {} at {},{}  Ctrl-C leaves  {said}", hand.pen, hand.x, hand.y);
        let below: String = below.chars().take(usize::from(size.0) - 1).collect();
        text += &format!("{}{below}{}", cursor::Goto(1, LEAST.1), clear::UntilNewline);
        text += &format!("{}{}", cursor::Goto(hand.x as u16 + 2, hand.y as u16 + 2), cursor::Show);
    }
    full.write(&text)
}
