//! Which losses and swaps does a receiver notice: by a newline, by a length, by numbers? And which can it repair?

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use shared::{At, Predicts, Stage, Verdict};
use socket2::Socket;

use super::{receiver, recv_block, relay_role, send_block, send_blocks, sender};
use crate::{
    message::{BLOCK_LEN, TERMINATOR, lecture_message},
    numbered::{Assembly, PAYLOAD_LEN, cut, parse},
    receive_numbered::stretches,
};

/// For the relay of `mended`: with this seed each fate comes in the first copy, and no block is lost in both copies.
const SEED: u64 = 4;
const RATES: [&str; 6] = ["--drop", "6", "--duplicate", "6", "--reorder", "6"];

/// How one receiver ended with one fault.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Whole,
    Wrong,
    Waits,
}

/// The blocks that are sent, by their index.
const FAULTS: [(&str, &[usize]); 6] = [
    ("no fault", &[0, 1, 2, 3, 4]),
    ("first lost", &[1, 2, 3, 4]),
    ("middle lost", &[0, 1, 3, 4]),
    ("last lost", &[0, 1, 2, 3]),
    ("two swapped", &[0, 2, 1, 3, 4]),
    ("one doubled", &[0, 1, 1, 2, 3, 4]),
];

/// A way to know the end: how to cut the message, and how to put blocks together once they seem to be the message.
type Way = (fn(&[u8]) -> Vec<Vec<u8>>, fn(&[Vec<u8>]) -> Option<Vec<u8>>);

const WAYS: [Way; 3] = [
    (|message| message.chunks(BLOCK_LEN).map(<[u8]>::to_vec).collect(), until_newline),
    (|message| [LENGTH_HEAD, message].concat().chunks(BLOCK_LEN).map(<[u8]>::to_vec).collect(), until_length),
    (|message| cut(message, 1), until_numbers),
];
/// The total length as eight digits: 400 times "Hello world!" and a newline.
const LENGTH_HEAD: &[u8] = b"00004801";

fn until_newline(blocks: &[Vec<u8>]) -> Option<Vec<u8>> {
    blocks.last().is_some_and(|block| block.ends_with(&[TERMINATOR])).then(|| blocks.concat())
}

fn until_length(blocks: &[Vec<u8>]) -> Option<Vec<u8>> {
    let bytes = blocks.concat();
    let (digits, message) = bytes.split_at_checked(LENGTH_HEAD.len())?;
    let total_len: usize = str::from_utf8(digits).ok()?.parse().ok()?; // no number: the receiver can only wait
    (message.len() >= total_len).then(|| message[..total_len].to_vec())
}

fn until_numbers(blocks: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut blocks = blocks.iter().filter_map(|block| parse(block).ok());
    let mut assembly = Assembly::new(&blocks.next()?);
    blocks.for_each(|block| _ = assembly.add(&block));
    assembly.is_whole().then(|| assembly.bytes())
}

pub fn three_ways(stage: &mut Stage) -> Result<Verdict> {
    let message = [b"Hello world!".repeat(400), vec![TERMINATOR]].concat();
    stage.say("message", "4801 bytes in 5 blocks, for three receivers:");
    stage.say("newline", "the receiver waits for a newline at the end of a block");
    stage.say("length", "the receiver waits for as many bytes as the first block says");
    stage.say("numbers", "each block holds its number and the total length");
    let question = stage.ask(
        "Five faults: the first, a middle or the last block is lost, two blocks change places, one comes twice. Which \
         receivers never take a wrong message for complete?",
        [
            ("newline, length and numbers", [true, true, true]),
            ("length and numbers", [false, true, true]),
            ("newline and numbers", [true, false, true]),
            ("numbers", [false, false, true]),
        ],
        Predicts { source: None, kit: [false, false, true] },
    )?;
    let mut never_wrong = [true; 3];
    let mut length_wrong = Vec::new();
    stage.say("", format_args!("{:<13}newline   length    numbers", "fault"));
    for (fault, order) in FAULTS {
        let mut ends = [End::Waits; 3];
        for (end, (cut, put_together)) in ends.iter_mut().zip(WAYS) {
            let (recv_sock, recv_addr) = receiver()?;
            let send_sock = sender()?;
            let blocks = cut(&message);
            for at in order {
                send_block(&send_sock, recv_addr, &blocks[*at])?;
            }
            let received = read_until(&recv_sock, order.len(), put_together)?;
            *end = match received {
                None => End::Waits,
                Some(received) if received == message => End::Whole,
                Some(_) => End::Wrong,
            };
        }
        for (never_wrong, end) in never_wrong.iter_mut().zip(ends) {
            *never_wrong &= end != End::Wrong;
        }
        length_wrong.extend((ends[1] == End::Wrong).then_some(fault));
        let [newline, length, numbers] = ends.map(|end| format!("{end:?}").to_lowercase());
        stage.say("", format_args!("{fault:<13}{newline:<10}{length:<10}{numbers}"));
        ensure!(fault != FAULTS[0].0 || ends == [End::Whole; 3], "without a fault: {ends:?}");
    }
    let lesson = format!("numbers show every fault; a length does not show: {}", length_wrong.join(", "));
    stage.verdict(question, never_wrong, &lesson)
}

/// Reads block by block until the receiver takes what it has for the message; `None`: it goes on waiting.
fn read_until(sock: &Socket, sent: usize, put_together: fn(&[Vec<u8>]) -> Option<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    let mut blocks = Vec::new();
    let mut buffer = [0; BLOCK_LEN];
    for _ in 0..sent {
        let (bytes_read, _) = recv_block(sock, &mut buffer).at("recvfrom", "")?;
        blocks.push(buffer[..bytes_read].to_vec());
        if let Some(message) = put_together(&blocks) {
            return Ok(Some(message));
        }
    }
    Ok(None)
}

pub fn mended(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    struct Mended {
        /// After the first copy the blocks are in order, without doubles.
        order: bool,
        /// The receiver names the blocks that the relay lost.
        names_the_lost: bool,
        /// The message is whole after the first copy.
        whole_at_once: bool,
    }
    let (recv_sock, recv_addr) = receiver()?;
    let send_sock = sender()?;
    let seed = SEED.to_string();
    let (mut relay, relay_addr) = relay_role(recv_addr, &[&["--seed", &seed][..], &RATES].concat())?;
    let message = lecture_message();
    let datagrams = cut(&message, 1);
    let blocks: Vec<&[u8]> = datagrams.iter().map(Vec::as_slice).collect();
    stage.say("relay", format_args!("--seed {seed} {}", RATES.join(" ")));

    let question = stage.ask(
        "The relay loses, doubles and swaps some of 84 numbered blocks. What does the receiver do with one copy of the \
         message?",
        [
            (
                "It restores the order and the lost blocks.",
                Mended { order: true, names_the_lost: false, whole_at_once: true },
            ),
            (
                "It restores the order and does not notice a loss.",
                Mended { order: true, names_the_lost: false, whole_at_once: false },
            ),
            (
                "It restores the order and names the lost blocks.",
                Mended { order: true, names_the_lost: true, whole_at_once: false },
            ),
            (
                "It names the lost blocks, and late ones as lost.",
                Mended { order: false, names_the_lost: true, whole_at_once: false },
            ),
        ],
        Predicts {
            source: Some(Mended { order: true, names_the_lost: true, whole_at_once: false }),
            kit: Mended { order: true, names_the_lost: true, whole_at_once: false },
        },
    )?;
    let mut assembly: Option<Assembly> = None;
    let mut after_first = (false, false, false);
    let mut lost: Vec<u32> = Vec::new();
    let (mut came, mut sent_on) = (0, 0);
    for copy in ["first copy", "second copy"] {
        send_blocks(stage, "sender", &send_sock, relay_addr, &blocks)?;
        came += blocks.len();
        let log = relay.wait_for(&format!("So far {came} datagrams came and "))?;
        let total: usize = relay.wait_for(" were sent on\n")?.parse().context("no number")?;
        if copy == "first copy" {
            let losses = log.lines().filter_map(|line| line.strip_prefix("Datagram ")?.strip_suffix(": lost"));
            lost = losses.map(|number| Ok(number.parse()?)).collect::<Result<_>>()?;
        }
        let fates = ["lost", "twice", "held back"].map(|fate| log.matches(fate).count());
        let [dropped, doubled, held] = fates;
        stage.say("relay", format_args!("{dropped} lost, {doubled} sent on twice, {held} held back"));

        let mut buffer = [0; BLOCK_LEN];
        let mut bytes = 0;
        for _ in sent_on..total {
            let (bytes_read, _) = recv_block(&recv_sock, &mut buffer).at("recvfrom", recv_addr)?;
            bytes += bytes_read;
            let block = parse(&buffer[..bytes_read]).map_err(|fault| anyhow::anyhow!(fault.text()))?;
            match &mut assembly {
                Some(assembly) => ensure!(assembly.add(&block), "a block of another message"),
                None => assembly = Some(Assembly::new(&block)),
            }
        }
        let call = format!("recvfrom({}, {BLOCK_LEN})", recv_sock.as_raw_fd());
        stage.say("receiver", format_args!("{call} x{} = {bytes} bytes", total - sent_on));
        sent_on = total;
        let assembly = assembly.as_ref().context("nothing came")?;
        let missing = assembly.missing();
        stage.say("receiver", format_args!("{copy}: late {}, doubles {}", assembly.late, assembly.again.len()));
        stage.say("receiver", format_args!("{copy}: missing {} blocks {}", missing.len(), stretches(&missing)));
        if copy == "first copy" {
            let payloads = message.chunks(PAYLOAD_LEN).zip(1..);
            let arrived = payloads.filter(|(_, number)| !missing.contains(number)).map(|(payload, _)| payload);
            let expected = arrived.collect::<Vec<_>>().concat();
            ensure!(held > 0 && doubled > 0 && dropped > 0, "this seed makes {fates:?}");
            after_first = (assembly.bytes() == expected, missing == lost, assembly.is_whole());
        }
    }
    let assembly = assembly.context("nothing came")?;
    ensure!(assembly.is_whole() && assembly.bytes() == message, "two copies did not fill the holes");
    let (order, names_the_lost, whole_at_once) = after_first;
    stage.say("receiver", format_args!("whole: {} bytes, as sent", assembly.bytes().len()));
    let observed = Mended { order, names_the_lost, whole_at_once };
    stage.verdict(question, observed, "the receiver repairs order and doubles; lost blocks must be sent again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fate::{Fate, Fates, Rates};

    #[test]
    fn the_seed_of_mended_has_each_fate_in_the_first_copy_and_loses_no_block_in_both() {
        assert_eq!(RATES, ["--drop", "6", "--duplicate", "6", "--reorder", "6"]);
        let mut fates = Fates::new(SEED, Rates { drop: 6, duplicate: 6, reorder: 6, delay: 0 }, &[]);
        let copies: [Vec<Fate>; 2] = [(); 2].map(|()| (0..84).map(|_| fates.draw()).collect());
        for fate in [Fate::Drop, Fate::Duplicate, Fate::HoldBack] {
            assert!(copies[0].contains(&fate), "no {fate:?}");
        }
        let lost_twice = (0..84).filter(|at| copies.iter().all(|copy| copy[*at] == Fate::Drop)).count();
        assert_eq!(lost_twice, 0);
    }
}
