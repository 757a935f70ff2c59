//! What finding the end of a message costs: a length ahead of it, or a terminator behind it, as in lab08-stream.
//!
//! `cargo bench -p lab14-length-header` sends the same messages both ways through one connection over lo, in turns, and
//! prints messages per second and their ratio. About 20 s. No test asserts these numbers: they are this machine's, at
//! this moment.

#[path = "../src/frames.rs"]
#[allow(dead_code, unused_imports, reason = "the bench neither prints faults nor runs the tests in there")]
mod frames;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use frames::{Frames, header};
use shared::Screen;

const SIZES: [usize; 6] = [1, 16, 256, 4096, 65_536, 1_000_000];
/// As much as that is sent for each measurement; of short messages, fewer bytes.
const BYTES: usize = 64 << 20;
const MOST_MESSAGES: usize = 400_000;
/// In turns: what else the machine does disturbs both. An odd number has a middle.
const ROUNDS: usize = 5;
/// One read and one write.
const CHUNK: usize = 65_536;
const TERMINATOR: u8 = b'\n';

fn main() -> Result<()> {
    let mut screen = Screen::new();
    screen.line(format_args!("messages per second over lo, one connection, the middle of {ROUNDS} rounds"));
    screen.line("  message bytes    length header       terminator    ratio");
    for size in SIZES {
        let count = (BYTES / size).clamp(16, MOST_MESSAGES);
        let (mut by_length, mut by_terminator) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            by_length.push(rate(size, count, true)?);
            by_terminator.push(rate(size, count, false)?);
        }
        let (length, terminator) = (middle(&mut by_length), middle(&mut by_terminator));
        let ratio = length / terminator;
        screen.line(format_args!("{size:>15} {length:>16.0} {terminator:>16.0} {ratio:>8.2}"));
    }
    Ok(())
}

/// Sends `count` messages of `size` bytes and counts them as they are found: messages per second.
fn rate(size: usize, count: usize, by_length: bool) -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut conn, _) = listener.accept()?;
    let sender = thread::spawn(move || -> std::io::Result<()> {
        let body = vec![b'x'; size];
        let one = if by_length { [&header(size)[..], &body].concat() } else { [&body[..], &[TERMINATOR]].concat() };
        let batch = one.repeat((CHUNK / one.len()).max(1));
        let in_batch = batch.len() / one.len();
        for _ in 0..count / in_batch {
            client.write_all(&batch)?;
        }
        client.write_all(&one.repeat(count % in_batch))
    });
    let start = Instant::now();
    let found = if by_length { lengths(&mut conn)? } else { terminators(&mut conn)? };
    let seconds = start.elapsed().as_secs_f64();
    sender.join().ok().context("the sender panicked")??;
    ensure!(found == (count, count * size), "{found:?} instead of {count} messages of {size} bytes");
    Ok(count as f64 / seconds)
}

/// The messages behind a length header, and their bytes.
fn lengths(conn: &mut TcpStream) -> Result<(usize, usize)> {
    let mut frames = Frames::new(usize::MAX >> 1);
    let mut buffer = vec![0; CHUNK];
    let (mut messages, mut bytes) = (0, 0);
    loop {
        match conn.read(&mut buffer)? {
            0 => return Ok((messages, bytes)),
            bytes_read => frames.push(&buffer[..bytes_read]),
        }
        while let Some(message) = frames.next_message().map_err(|fault| anyhow::anyhow!("{fault}"))? {
            (messages, bytes) = (messages + 1, bytes + message.len());
        }
    }
}

/// The messages before a terminator, and their bytes; each is checked for UTF-8, as the others are.
fn terminators(conn: &mut TcpStream) -> Result<(usize, usize)> {
    let mut collected: Vec<u8> = Vec::new();
    let mut buffer = vec![0; CHUNK];
    let (mut messages, mut bytes) = (0, 0);
    loop {
        let bytes_read = conn.read(&mut buffer)?;
        if bytes_read == 0 {
            return Ok((messages, bytes));
        }
        for piece in buffer[..bytes_read].split_inclusive(|byte| *byte == TERMINATOR) {
            collected.extend(piece);
            if piece.ends_with(&[TERMINATOR]) {
                collected.pop();
                let message = std::str::from_utf8(&collected)?.to_string();
                (messages, bytes) = (messages + 1, bytes + message.len());
                collected.clear();
            }
        }
    }
}

fn middle(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
