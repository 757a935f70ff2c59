//! Runs `lab00-scope watch`: its log in a pipe, its board on a terminal, and how it ends.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
    },
    unistd::Pid,
};
use shared::SplitMix64;
use socket2::{Domain, Socket, Type};
use testkit::{
    Pty, RUN_LIMIT, Role, TempDir, Terminal, as_ordinary_account, failed, have, interrupt, run, skip_without,
    wait_until,
};

const LAB: &str = env!("CARGO_BIN_EXE_lab00-scope");
const NOTHING: &str = "no such socket yet; each change comes as a line\n";

/// A listener whose port no other socket has.
fn listening() -> (TcpListener, SocketAddr) {
    let (sock, addr) = bound();
    sock.listen(128).unwrap();
    (sock.into(), addr)
}

/// A socket that only has an address: no table shows it, and nobody else gets its port. No other socket has the port,
/// not even as the peer's or in TIME-WAIT: below the usual ephemeral ports, which the clients of other tests get.
fn bound() -> (Socket, SocketAddr) {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut random = SplitMix64::new(clock.as_nanos() as u64);
    for _ in 0..100 {
        let port = 10_000 + (random.draw() % 20_000) as u16;
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let sock = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if sock.bind(&addr.into()).is_ok()
            && run(&mut watch(&["--plain", "--looks", "1", &port.to_string()])).stdout == NOTHING
        {
            return (sock, addr);
        }
    }
    panic!("no port is free");
}

fn watch(args: &[&str]) -> Command {
    let mut command = Command::new(LAB);
    command.args(["watch", "--interval", "20"]).args(args);
    command
}

/// The log of a port, from its first line on.
fn log_of(addr: SocketAddr, first: &str) -> Role {
    let mut log = Role::spawn(&mut watch(&["--plain", &addr.port().to_string()])).unwrap();
    log.wait_for(first).unwrap();
    log
}

#[test]
fn the_log_has_a_line_for_each_state_and_queue_of_a_connection() {
    let (listener, addr) = listening();
    let mut log = log_of(addr, &format!("+0.00s   {addr} > *  LISTEN  accept queue 0 of "));
    let mut client = TcpStream::connect(addr).unwrap();
    let client_addr = client.local_addr().unwrap();
    let line = |pair: &str, what: &str| format!("  {pair}  {what}");
    let (from_client, from_server) = (format!("{client_addr} > {addr}"), format!("{addr} > {client_addr}"));
    log.wait_for(&line(&format!("{addr} > *"), "LISTEN  accept queue 1 of ")).unwrap();
    let (conn, _) = listener.accept().unwrap();
    log.wait_for(&line(&format!("{addr} > *"), "LISTEN  accept queue 0 of ")).unwrap();
    client.write_all(b"seven b").unwrap();
    log.wait_for(&line(&from_server, "ESTABLISHED  Recv-Q 0 > 7\n")).unwrap();
    drop(client);
    // The FIN may be acknowledged late: FIN-WAIT-1 is seen or not.
    let mut both = |server: &str, client: &str| {
        let has = |printed: &str, pair: &str, end: &str| {
            printed.lines().any(|line| line.contains(&format!("  {pair}  ")) && line.contains(end))
        };
        wait_until(server, RUN_LIMIT, || {
            let printed = log.printed();
            Ok((has(&printed, &from_server, server) && has(&printed, &from_client, client)).then_some(()))
        })
        .unwrap();
    };
    both("ESTABLISHED > CLOSE-WAIT  Recv-Q 7 > 8", " > FIN-WAIT-2");
    drop(conn); // with seven bytes not read: a reset
    both("CLOSE-WAIT > gone", "FIN-WAIT-2 > gone");
    interrupt(&mut log);
    assert!(log.printed().lines().all(|line| line.starts_with('+') && line.len() < 100), "{}", log.printed());
}

#[test]
fn the_log_shows_datagram_sockets_and_ipv6() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = udp.local_addr().unwrap();
    let mut log = log_of(addr, &format!("  {addr} > *  UDP bound\n"));
    udp.send_to(&[0; 100], addr).unwrap();
    log.wait_for(&format!("  {addr} > *  UDP bound  Recv-Q 0 > ")).unwrap();
    drop(udp);
    log.wait_for(&format!("  {addr} > *  UDP bound > gone\n")).unwrap();
    interrupt(&mut log);

    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        assert!(skip_without(true, "IPv6 on lo", "sysctl net.ipv6.conf.lo.disable_ipv6=0"));
        return;
    };
    let addr = listener.local_addr().unwrap();
    let mut log = log_of(addr, &format!("  {addr} > [::]:*  LISTEN"));
    let _client = TcpStream::connect(addr).unwrap();
    log.wait_for("  new > ESTABLISHED\n").unwrap();
    interrupt(&mut log);
}

#[test]
fn one_look_agrees_with_ss() {
    if skip_without(!have("ss"), "ss", "apt-get install iproute2") {
        return;
    }
    let (_listener, addr) = listening();
    let mut clients: Vec<_> = (0..3).map(|_| TcpStream::connect(addr).unwrap()).collect();
    clients[1].write_all(&[0; 1000]).unwrap();
    let port = addr.port().to_string();
    let filter = format!("sport = :{port} or dport = :{port}");
    let of_ss = run(Command::new("ss").args(["-tanH", &filter])).stdout;
    let look = run(&mut watch(&["--plain", "--looks", "1", &port]));
    assert_eq!(look.code(), 0, "{look:?}");
    // An older connection in TIME-WAIT may have the port, too.
    let clients: Vec<String> = clients.iter().map(|client| client.local_addr().unwrap().to_string()).collect();
    let ours = |row: &&str| row.contains("LISTEN") || clients.iter().any(|client| row.contains(client));
    assert_eq!(of_ss.lines().filter(ours).count(), 7, "{of_ss}");
    assert_eq!(look.stdout.lines().filter(ours).count(), 7, "{}", look.stdout);
    for row in of_ss.lines().filter(ours) {
        let field: Vec<&str> = row.split_whitespace().collect();
        let (peer, queue) = match field[0] {
            "LISTEN" => ("*", format!("  accept queue {} of {}", field[1], field[2])),
            _ if field[1] != "0" => (field[4], format!("  Recv-Q 0 > {}", field[1])),
            _ => (field[4], String::new()),
        };
        let state = field[0].replace("ESTAB", "ESTABLISHED");
        let wanted = format!("{} > {peer}  {state}{queue}\n", field[3]);
        assert!(look.stdout.contains(&wanted), "{wanted}\n{}\n{of_ss}", look.stdout);
    }
}

#[test]
fn the_log_ends_at_sigterm_and_with_its_reader() {
    let (_listener, addr) = listening();
    let mut log = log_of(addr, "LISTEN");
    testkit::signal(&log, Signal::SIGTERM);
    testkit::ends_well(&mut log);

    let mut child = watch(&["--plain", &addr.port().to_string()]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0; 10]).unwrap();
    drop(output); // and nothing changes any more: it must look at the pipe itself
    let status = wait_until("its end", RUN_LIMIT, || Ok(child.try_wait()?)).unwrap();
    assert_eq!(status.code(), Some(141));
}

#[test]
fn an_ordinary_account_sees_other_peoples_sockets() {
    let (_listener, addr) = listening();
    let folder = TempDir::new();
    let mut command = as_ordinary_account(LAB, &folder);
    let look = run(command.args(["watch", "--plain", "--looks", "1", &addr.port().to_string()]));
    assert!(look.code() == 0 && look.stdout.contains(&format!("{addr} > *  LISTEN")), "{look:?}");
}

#[test]
fn a_wrong_port_or_interval_is_refused_and_no_socket_is_no_error() {
    for wrong in [&["0"][..], &["65536"], &["x"], &["--interval", "1"], &["--looks", "0"]] {
        let (code, stderr) = failed(Command::new(LAB).arg("watch").args(wrong));
        assert!(code == 2 && stderr.contains("error: "), "{wrong:?}: {code} {stderr}");
    }
    let (_held, addr) = bound();
    let look = run(&mut watch(&["--plain", "--looks", "2", &addr.port().to_string()]));
    assert_eq!((look.code(), look.stdout.as_str()), (0, NOTHING));
}

#[test]
fn a_dumb_terminal_gets_the_log() {
    let (_listener, addr) = listening();
    let port = addr.port().to_string();
    let mut command = Command::new("env");
    let mut terminal = Terminal::start(command.args(["TERM=dumb", LAB, "watch", "--looks", "1", &port]), 80, 24);
    terminal.wait_for(&format!("{addr} > *  LISTEN"));
    assert!(terminal.end().success());
}

/// The board on a terminal, with what its window shows.
struct Board {
    child: Child,
    pty: Pty,
    /// All it wrote, escape sequences and all.
    written: String,
    /// How much of that was asked for already.
    taken: usize,
}

impl Board {
    fn start(args: &[&str], columns: u16, rows: u16) -> Board {
        Board::of(&mut watch(args), columns, rows)
    }

    fn of(command: &mut Command, columns: u16, rows: u16) -> Board {
        let pty = Pty::open(columns, rows);
        // A process group of its own: one whose stop somebody can see, as a shell would.
        let child = pty.spawn(command.process_group(0));
        Board { child, pty, written: String::new(), taken: 0 }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn press(&mut self, keys: &str) {
        self.pty.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn read(&mut self) {
        // All it writes is ASCII: no character is cut in two.
        self.written += &self.pty.output.try_iter().map(|chunk| String::from_utf8(chunk).unwrap()).collect::<String>();
    }

    /// Waits until this was written behind what was waited for the last time.
    fn wait_for_written(&mut self, text: &str) {
        let found = wait_until(text, RUN_LIMIT, || {
            self.read();
            Ok(self.written[self.taken..].find(text))
        });
        self.taken += found.unwrap_or_else(|error| panic!("{error:#}: {:?}", self.written)) + text.len();
    }

    /// Waits until the window shows this.
    fn wait_for(&mut self, text: &str) {
        let seen = wait_until(text, RUN_LIMIT, || {
            self.read();
            Ok(self.window().contains(text).then_some(()))
        });
        seen.unwrap_or_else(|error| panic!("{error:#}:\n{}", self.window()));
    }

    /// What the window shows, by what a terminal does with the few sequences that the board writes.
    fn window(&self) -> String {
        let mut lines = vec![vec![' '; 200]; 60];
        let (mut row, mut column) = (0, 0);
        let mut parts = self.written.split("\x1b[");
        parts.next();
        for part in parts {
            // The last sequence may not be whole yet.
            let Some(end) = part.find(|letter: char| letter.is_ascii_alphabetic()) else { break };
            let mut numbers = part[..end].split(';').map(|number| number.parse::<usize>().unwrap_or(1));
            match &part[end..=end] {
                "H" => (row, column) = (numbers.next().unwrap() - 1, numbers.next().unwrap_or(1) - 1),
                "J" => lines.iter_mut().for_each(|line| line.fill(' ')),
                _ => {} // emphasis, the cursor
            }
            for letter in part[end + 1..].chars() {
                lines[row][column] = letter;
                column += 1;
            }
        }
        lines.iter().map(|line| line.iter().collect::<String>().trim_end().to_string() + "\n").collect()
    }

    fn is_as_usual(&self) -> bool {
        tcgetattr(&self.pty.side)
            .unwrap()
            .local_flags
            .contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    fn ends_well(&mut self) {
        let status = wait_until("its end", RUN_LIMIT, || Ok(self.child.try_wait()?)).unwrap();
        assert!(status.success(), "{status}: {}", self.written);
        self.wait_for_written(LEAVES);
        assert!(self.is_as_usual());
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = self.child.kill(); // ESRCH: it has ended
        let _ = self.child.wait();
    }
}

/// Onto a screen of its own, and back from it.
const ENTERS: &str = "\x1b[?1049h";
const LEAVES: &str = "\x1b[?1049l";

#[test]
fn the_terminal_is_as_before_after_every_end() {
    let (_listener, addr) = listening();
    let port = addr.port().to_string();
    let mut board = Board::start(&[&port], 80, 24);
    board.wait_for_written(ENTERS);
    board.wait_for(&format!(" LISTEN        {addr}"));
    assert!(!board.is_as_usual());
    board.press("q");
    board.ends_well();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut board = Board::start(&[&port], 80, 24);
        board.wait_for("[LISTEN           1]");
        board.signal(signal);
        board.ends_well();
    }
    let mut board = Board::start(&[&port, "--looks", "3"], 80, 24);
    board.ends_well();
    assert!(board.window().contains("[LISTEN           1]"));
}

#[test]
fn a_stopped_board_gives_the_terminal_back_and_takes_it_again() {
    let (_listener, addr) = listening();
    let mut board = Board::start(&[&addr.port().to_string()], 80, 24);
    board.wait_for("[LISTEN           1]");
    let state = format!("/proc/{}/stat", board.child.id());
    for _ in 0..3 {
        board.signal(Signal::SIGTSTP);
        wait_until("the stop", RUN_LIMIT, || Ok(fs::read_to_string(&state)?.contains(") T ").then_some(()))).unwrap();
        board.wait_for_written(LEAVES);
        assert!(board.is_as_usual());
        board.signal(Signal::SIGCONT);
        board.wait_for_written(ENTERS);
        board.wait_for_written("LISTEN"); // drawn anew
        assert!(!board.is_as_usual());
    }
    board.press("q");
    board.ends_well();
}

#[test]
fn the_board_follows_the_size_of_its_window() {
    let (_listener, addr) = listening();
    let mut board = Board::start(&[&addr.port().to_string()], 100, 30);
    board.wait_for("after 60 s: CLOSED"); // the tall diagram
    for (columns, rows, text) in
        [(80, 24, "60 s: gone"), (60, 24, "The board needs 78 x 14."), (120, 36, "latest changes: local > peer, state")]
    {
        board.pty.resize(columns, rows);
        board.signal(Signal::SIGWINCH);
        board.wait_for(text);
    }
    board.press("q");
    board.ends_well();
}

#[test]
fn keys_freeze_sort_filter_and_find() {
    let (_listener, addr) = listening();
    let mut board = Board::start(&[&addr.port().to_string()], 100, 30);
    for (keys, text) in [
        ("?", "Not seen here"),
        ("x", "[LISTEN           1]"),
        ("s", "1-1 of 1, all, by local port"),
        ("ff", "0-0 of 0, opening and open, by local port"),
        ("\x1b", "1-1 of 1, all, by "),
        ("/zz", "show rows with: zz_"),
        ("\n", "no socket is like that; Esc shows all"),
        (" ", "FROZEN at +"),
    ] {
        board.press(keys);
        board.wait_for(text);
    }
    let client = TcpStream::connect(addr).unwrap();
    board.press("\x1b");
    board.wait_for("1-1 of 1, all, by ");
    assert!(!board.window().contains("ESTABLISHED   127"), "{}", board.window());
    board.press(" ");
    board.wait_for(&format!("+ESTABLISHED   {}", client.local_addr().unwrap()));
    board.press("q");
    board.ends_well();
}

#[test]
fn with_no_color_nothing_is_emphasized() {
    let (_listener, addr) = listening();
    for (value, emphasized) in [("", true), ("1", false)] {
        let mut command = watch(&[&addr.port().to_string(), "--looks", "1"]);
        let mut board = Board::of(command.env("NO_COLOR", value), 80, 24);
        board.ends_well();
        let seen = board.written.contains("\x1b[1m") || board.written.contains("\x1b[7m");
        assert_eq!(seen, emphasized, "{:?}", board.written);
    }
}
