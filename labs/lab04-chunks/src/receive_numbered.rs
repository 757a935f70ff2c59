//! Terminal 1 with `--numbered`: blocks in any order, of any number of senders; doubles are dropped, holes are named.

use std::{
    collections::VecDeque,
    fs::File,
    io::Write,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::Result;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{SockaddrStorage, recvfrom},
};
use shared::{At, Pause, Screen, Stop};

use crate::{
    ReceiveArgs,
    message::{BLOCK_LEN, Fold, shown},
    numbered::{Assembly, Block, HEADER_LEN, parse},
    receive::{SILENCE_MS, bound},
    udp::{source_addr, tell_drops},
};

/// Messages under way at the same time; with one more the oldest is given up.
const UNDER_WAY: usize = 8;
/// Late doubles of this many complete messages are still recognised.
const REMEMBERED: usize = 64;
/// So many missing numbers, or stretches of them, fit a line.
const NAMED: usize = 10;

/// Whose message: its sender and the number the sender gave it.
type Key = (SocketAddr, u32);

/// Receives until the messages are there, or until Ctrl-C.
pub fn run(args: &ReceiveArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let addr = SocketAddr::new(args.bind, args.port);
    let mut out = args.out.as_ref().map(|path| File::create(path).at("open", path.display())).transpose()?;

    let sock = bound(args, addr, &mut pause, &mut screen)?;
    screen.line("Waiting for message ...");

    let mut fold = Fold::default();
    let mut table = Table::default();
    let mut received = 0;
    let mut buffer = [0; BLOCK_LEN];
    while received < args.messages && !stop.requested() {
        if args.pause {
            fold.settle(&mut screen);
        }
        pause.before(&mut screen, format_args!("recvfrom({}, {BLOCK_LEN})", sock.as_raw_fd()));
        let timeout = if fold.is_settled() { PollTimeout::NONE } else { SILENCE_MS.into() };
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            Ok(0) => {
                fold.settle(&mut screen);
                table.tell(&mut screen);
                continue;
            }
            result => result.at("poll", addr)?,
        };
        let (bytes_read, source) = match recvfrom::<SockaddrStorage>(sock.as_raw_fd(), &mut buffer) {
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            result => result.at("recvfrom", addr)?,
        };
        let source = source_addr(source)?;
        let block = match parse(&buffer[..bytes_read]) {
            Ok(block) => block,
            Err(fault) => {
                fold.line(&mut screen, format!("Ignored {bytes_read} bytes from {source}: {}", fault.text()));
                continue;
            }
        };
        fold.line(&mut screen, format!("Received block of {HEADER_LEN}+{} from {source}", block.payload.len()));
        if let Some(whole) = table.take((source, block.message), &block) {
            received += 1;
            fold.settle(&mut screen);
            let message = whole.bytes();
            screen.line(format_args!("Total length {} bytes: [{}]", message.len(), shown(&message)));
            let Assembly { late, doubles, .. } = whole;
            screen.line(format_args!("Of {} blocks {late} came late and {doubles} twice", whole.expected()));
            if let Some(out) = &mut out {
                out.write_all(&message).at("write", "the file of --out")?;
            }
        }
    }
    if !fold.is_settled() || args.pause {
        fold.settle(&mut screen);
        table.tell(&mut screen); // otherwise the silence has said it
    }
    tell_drops(&sock, &mut screen);
    drop(sock); // close(2)
    Ok(())
}

/// The messages under way, oldest first, and the last ones that are complete.
#[derive(Default)]
struct Table {
    under_way: VecDeque<(Key, Assembly)>,
    complete: VecDeque<Key>,
}

impl Table {
    /// Takes a block; the message, if this was its last one.
    fn take(&mut self, key: Key, block: &Block<'_>) -> Option<Assembly> {
        if self.complete.contains(&key) {
            return None; // a late double
        }
        let at = match self.under_way.iter().position(|(known, _)| *known == key) {
            Some(at) => {
                self.under_way[at].1.add(block);
                at
            }
            None => {
                if self.under_way.len() == UNDER_WAY {
                    self.under_way.pop_front();
                }
                self.under_way.push_back((key, Assembly::new(block)));
                self.under_way.len() - 1
            }
        };
        let whole = self.under_way[at].1.is_whole().then(|| self.under_way.remove(at)).flatten();
        if whole.is_some() {
            self.complete.truncate(REMEMBERED - 1);
            self.complete.push_front(key);
        }
        whole.map(|(_, assembly)| assembly)
    }

    /// Says what is missing.
    fn tell(&self, screen: &mut Screen) {
        for ((source, number), assembly) in &self.under_way {
            let missing = assembly.missing();
            screen.line(format_args!(
                "Message {number} of {source}: missing {} of {}",
                missing.len(),
                assembly.expected()
            ));
            screen.line(format_args!("  blocks {}", stretches(&missing)));
        }
    }
}

/// `3 7-9 40`: at most [`NAMED`] numbers or stretches.
pub fn stretches(numbers: &[u32]) -> String {
    let mut stretches: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match stretches.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => stretches.push((*number, *number)),
        }
    }
    let text = |(first, last): &(u32, u32)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    let mut named: Vec<String> = stretches.iter().take(NAMED).map(text).collect();
    named.extend((stretches.len() > NAMED).then(|| "...".into()));
    named.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbered::cut;

    #[test]
    fn stretches_name_the_numbers_in_one_line() {
        assert_eq!(stretches(&[3, 7, 8, 9, 40]), "3 7-9 40");
        assert_eq!(stretches(&(0..100).map(|number| number * 2).collect::<Vec<_>>()), "0 2 4 6 8 10 12 14 16 18 ...");
    }

    #[test]
    fn a_ninth_message_gives_up_the_oldest_and_doubles_of_a_complete_one_start_nothing() {
        let source = "127.0.0.1:9".parse().unwrap();
        let mut table = Table::default();
        for number in 0..9 {
            let datagrams = cut(&[b'x'; 3000], number);
            assert!(table.take((source, number), &parse(&datagrams[0]).unwrap()).is_none());
        }
        assert_eq!(table.under_way.len(), UNDER_WAY);
        let datagrams = cut(b"short", 99);
        let block = parse(&datagrams[0]).unwrap();
        table.under_way.clear();
        assert_eq!(table.take((source, 99), &block).unwrap().bytes(), b"short");
        assert!(table.take((source, 99), &block).is_none() && table.under_way.is_empty());
    }
}
