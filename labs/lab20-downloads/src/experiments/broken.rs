//! A connection that breaks halfway, and the bytes it costs.

use anyhow::{Context, Result, ensure};
use shared::{Predicts, Stage, Verdict};

use super::{Downloads, server};

const FILES: u16 = 4;
const THREADS: usize = 4;
const SIZE: u64 = 300_000;

pub fn broken_halfway(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Again {
        Rest,
        OneFile,
        Everything,
    }
    let (mut server, addr) = server(stage, &["--seconds", "0.3", "--break", "3"])?;
    stage.server("will break the connection of 3.bin after half of its 300000 bytes");

    let question = stage.ask(
        "Four threads get a file each, and 3.bin breaks. How many bytes must a second run get?",
        [
            ("150000: what is missing of 3.bin", Again::Rest),
            ("300000: 3.bin from its start on", Again::OneFile),
            ("1200000: an error ends all threads", Again::Everything),
        ],
        Predicts { source: None, kit: Again::Rest },
    )?;
    let mut downloads = Downloads::new(addr, FILES, THREADS, false)?;
    downloads.run(THREADS)?;
    let cut = server.line_with(" broken halfway, ")?;
    stage.server(cut.trim_end());
    for job in downloads.manager.jobs.iter() {
        let state = job.state();
        let thread = format!("{:<9}", state.thread);
        let ended = state.failure.unwrap_or_else(|| format!("{} bytes, the checksum holds", state.received));
        ensure!(state.ended.is_some(), "{} has not ended", job.url.name);
        stage.say(&thread, format_args!("{}: {ended}", job.url.name));
    }
    stage.say("folder", downloads.names()?.join(", "));

    downloads.again(addr, FILES, THREADS)?;
    downloads.run(THREADS)?;
    let resumed = server.line_with("GET /3.bin 20")?;
    stage.server(resumed.trim_end());
    let received = downloads.received();
    stage.say("again", format_args!("a second run with --resume got {received} bytes"));
    stage.say("folder", downloads.names()?.join(", "));
    let third = downloads.manager.jobs.get(2).context("no third file")?.state();
    ensure!(third.failure.is_none() && third.checksum, "3.bin is not whole: {third:?}");
    stage.say("again", "3.bin: the checksum of both parts together holds");
    let observed = match received {
        bytes if bytes < SIZE => Again::Rest,
        bytes if bytes < 2 * SIZE => Again::OneFile,
        _ => Again::Everything,
    };
    stage.verdict(question, observed, "each thread has a connection of its own, and Range asks for the rest")
}
