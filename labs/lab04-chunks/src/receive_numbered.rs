//! Terminal 1 with `--numbered`: takes blocks in any order and from any sender, drops doubles and names missing blocks.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
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
    output::Out,
    receive::{SILENCE_MS, bound},
    udp::{source_addr, tell_drops},
};

/// Messages under way at the same time. When one more starts, the oldest is given up.
const UNDER_WAY: usize = 8;
/// Late doubles are recognised for this many complete messages.
const REMEMBERED: usize = 64;
/// Missing blocks are told after a silence of twice the last gap between two blocks of a message, and of this at the most: a
/// sender with --gap is slow, and what it has not sent yet is not missing.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);
/// So many missing numbers, or stretches of them, fit on a line.
const NAMED: usize = 10;

/// A message's sender and the number that the sender gave the message.
type Key = (SocketAddr, u32);

/// Receives until the messages have come, or until Ctrl-C.
pub fn run(args: &ReceiveArgs) -> Result<()> {
    let addr = args.addr();
    let stop = Stop::on_signals()?;
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    let Some(out) = Out::open(args.out.as_deref(), &stop)? else {
        return Ok(()); // Ctrl-C
    };

    let sock = bound(args, addr, &mut pause, &mut screen)?;
    screen.line("Waiting for message ...");

    let mut fold = Fold::default();
    let mut table = Table::default();
    let mut received = 0;
    let mut buffer = [0; BLOCK_LEN];
    let (mut last_datagram, mut silence) = (Instant::now(), Duration::ZERO);
    let mut told = true; // what is missing
    while received < args.messages && !stop.requested() {
        if args.pause {
            fold.settle(&mut screen);
        }
        pause.before(&mut screen, format_args!("recvfrom({}, {BLOCK_LEN})", sock.as_raw_fd()));
        let rest = silence.saturating_sub(last_datagram.elapsed()) + Duration::from_millis(1); // poll counts milliseconds
        let timeout = match told {
            _ if !fold.is_settled() => SILENCE_MS.into(),
            false => PollTimeout::try_from(rest)?,
            true => PollTimeout::NONE,
        };
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(sock.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            Ok(0) => {
                fold.settle(&mut screen);
                if last_datagram.elapsed() >= silence {
                    table.tell(&mut screen);
                    told = true;
                }
                continue;
            }
            result => result.at("poll", addr)?,
        };
        let (bytes_read, source) = match recvfrom::<SockaddrStorage>(sock.as_raw_fd(), &mut buffer) {
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            result => result.at("recvfrom", addr)?,
        };
        (last_datagram, told) = (Instant::now(), args.pause); // with --pause the end tells it
        let source = source_addr(source)?;
        let block = match parse(&buffer[..bytes_read]) {
            Ok(block) => block,
            Err(fault) => {
                fold.line(&mut screen, format!("Ignored {bytes_read} bytes from {source}: {}", fault.text()));
                continue;
            }
        };
        fold.line(&mut screen, format!("Received block of {HEADER_LEN}+{} from {source}", block.payload.len()));
        let taken = table.take((source, block.message), &block, last_datagram);
        silence = table.silence();
        match taken {
            Taken::Added => {}
            Taken::AnotherLength => {
                fold.line(
                    &mut screen,
                    format!("Ignored it: other blocks of message {} give another length", block.message),
                );
            }
            Taken::Instead((source, number), oldest) => {
                fold.settle(&mut screen);
                let (arrived, expected) = (oldest.arrived(), oldest.expected());
                screen
                    .line(format_args!("Given up: message {number} of {source}, with {arrived} of {expected} blocks"));
            }
            Taken::Last(whole) => {
                received += 1;
                fold.settle(&mut screen);
                let message = whole.bytes();
                screen.line(format_args!("Total length {} bytes: [{}]", message.len(), shown(&message)));
                let Assembly { late, ref again, .. } = whole;
                screen.line(format_args!(
                    "Of {} blocks {late} came late, {} more than once",
                    whole.expected(),
                    again.len()
                ));
                out.write_all(&message, &stop)?;
            }
        }
    }
    fold.settle(&mut screen);
    if !told || args.pause {
        table.tell(&mut screen);
    }
    tell_drops(&sock, &mut screen);
    drop(sock); // close(2)
    Ok(())
}

/// A message of which some blocks have come.
struct UnderWay {
    key: Key,
    assembly: Assembly,
    last_block: Instant,
    /// Between its last two blocks; not known after the first one.
    gap: Option<Duration>,
}

impl UnderWay {
    /// How long it must be silent before its missing blocks are told.
    fn silence(&self) -> Duration {
        self.gap.map_or(SILENCE_LIMIT, |gap| (2 * gap).clamp(Duration::from_millis(SILENCE_MS.into()), SILENCE_LIMIT))
    }
}

/// The messages under way, oldest first, and the last ones that are complete.
#[derive(Default)]
struct Table {
    under_way: Vec<UnderWay>,
    complete: VecDeque<Key>,
}

/// What became of a block.
#[derive(Debug)]
enum Taken {
    /// It has its place, or had it already.
    Added,
    /// It gives its message another total length than the blocks before it: not taken.
    AnotherLength,
    /// It starts a message, and for want of room the oldest one was given up.
    Instead(Key, Assembly),
    /// It was the last one of this message.
    Last(Assembly),
}

impl Table {
    fn take(&mut self, key: Key, block: &Block<'_>, now: Instant) -> Taken {
        if self.complete.contains(&key) {
            return Taken::Added; // a late double
        }
        let message = match self.under_way.iter().position(|message| message.key == key) {
            None => UnderWay { key, assembly: Assembly::new(block), last_block: now, gap: None },
            Some(at) => {
                let message = &mut self.under_way[at];
                if !message.assembly.add(block) {
                    return Taken::AnotherLength;
                }
                message.gap = Some(now - message.last_block);
                message.last_block = now;
                if !message.assembly.is_whole() {
                    return Taken::Added;
                }
                self.under_way.remove(at)
            }
        };
        if message.assembly.is_whole() {
            self.complete.truncate(REMEMBERED - 1);
            self.complete.push_front(key);
            return Taken::Last(message.assembly);
        }
        self.under_way.push(message);
        if self.under_way.len() <= UNDER_WAY {
            return Taken::Added;
        }
        let oldest = self.under_way.remove(0);
        Taken::Instead(oldest.key, oldest.assembly)
    }

    /// How long it must be silent before missing blocks are told: as long as the slowest sender needs.
    fn silence(&self) -> Duration {
        self.under_way.iter().map(UnderWay::silence).max().unwrap_or_default()
    }

    /// Says which blocks are missing.
    fn tell(&self, screen: &mut Screen) {
        for UnderWay { key: (source, number), assembly, .. } in &self.under_way {
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
    fn what_a_slow_sender_will_send_in_time_is_not_missing() {
        let (slow, fast) = ("127.0.0.1:9".parse().unwrap(), "127.0.0.1:10".parse().unwrap());
        let (blocks, begin, mut table) = (cut(&[b'x'; 9000], 1), Instant::now(), Table::default());
        let mut silence_ms = |source, at: usize, ms| {
            table.take((source, 1), &parse(&blocks[at]).unwrap(), begin + Duration::from_millis(ms));
            table.silence().as_millis()
        };
        assert_eq!(silence_ms(slow, 0, 0), 3000, "the first block tells no gap");
        assert_eq!(silence_ms(slow, 1, 1000), 2000);
        assert_eq!(silence_ms(fast, 0, 1001), 3000);
        assert_eq!(silence_ms(fast, 1, 1002), 2000, "the slow one's");
        assert_eq!(silence_ms(slow, 2, 1003), 200);
        assert_eq!(silence_ms(slow, 3, 60_000), 3000);
    }

    #[test]
    fn stretches_name_the_numbers_in_one_line() {
        assert_eq!(stretches(&[3, 7, 8, 9, 40]), "3 7-9 40");
        assert_eq!(stretches(&(0..100).map(|number| number * 2).collect::<Vec<_>>()), "0 2 4 6 8 10 12 14 16 18 ...");
    }

    #[test]
    fn a_ninth_message_gives_up_the_oldest_and_doubles_of_a_complete_one_start_nothing() {
        let source = "127.0.0.1:9".parse().unwrap();
        let mut table = Table::default();
        let first_of = |number| cut(&[b'x'; 3000], number).swap_remove(0);
        for number in 0..8 {
            let taken = table.take((source, number), &parse(&first_of(number)).unwrap(), Instant::now());
            assert!(matches!(taken, Taken::Added), "{taken:?}");
        }
        let ninth = table.take((source, 8), &parse(&first_of(8)).unwrap(), Instant::now());
        assert!(matches!(&ninth, Taken::Instead((_, 0), oldest) if oldest.arrived() == 1), "{ninth:?}");
        assert_eq!(table.under_way.len(), UNDER_WAY);
        let datagrams = cut(b"short", 99);
        let block = parse(&datagrams[0]).unwrap();
        table.under_way.clear();
        let last = table.take((source, 99), &block, Instant::now());
        assert!(matches!(&last, Taken::Last(whole) if whole.bytes() == b"short"), "{last:?}");
        assert!(matches!(table.take((source, 99), &block, Instant::now()), Taken::Added) && table.under_way.is_empty());
    }

    #[test]
    fn a_block_of_another_total_length_is_told_from_one_that_is_taken() {
        let source = "127.0.0.1:9".parse().unwrap();
        let mut table = Table::default();
        let (datagrams, longer) = (cut(&[b'x'; 3000], 1), cut(&[b'x'; 3001], 1));
        table.take((source, 1), &parse(&datagrams[0]).unwrap(), Instant::now());
        let taken = table.take((source, 1), &parse(&longer[1]).unwrap(), Instant::now());
        assert!(matches!(taken, Taken::AnotherLength), "{taken:?}");
        assert_eq!(table.under_way[0].assembly.missing(), [2, 3]);
    }
}
