//! The packets as a capture file for Wireshark, tshark and tcpdump: LINKTYPE_RAW, time stamps in nanoseconds.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use shared::At;

use super::model::{Event, Sink, What};

/// Its byte order tells the reader's; its value says that the time stamps hold nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
/// draft-ietf-opsawg-pcap: the version of the format.
const VERSION: [u16; 2] = [2, 4];
/// The longest packet that may follow; IP has no longer one.
const SNAP_LENGTH: u32 = 65_535;
/// LINKTYPE_RAW: each packet begins with its IP header, of version 4 or 6.
const LINKTYPE_RAW: u32 = 101;

/// A capture file that is written while the run goes on.
pub struct Pcap(BufWriter<File>);

impl Pcap {
    /// # Errors
    /// What open(2) says.
    pub fn create(path: &Path) -> Result<Pcap> {
        let mut file = BufWriter::new(File::create(path).at("open", path.display())?);
        file.write_all(&MAGIC.to_ne_bytes())?;
        VERSION.iter().try_for_each(|half| file.write_all(&half.to_ne_bytes()))?;
        // Twice nothing: time zone and accuracy, which no program sets.
        [0, 0, SNAP_LENGTH, LINKTYPE_RAW].iter().try_for_each(|word: &u32| file.write_all(&word.to_ne_bytes()))?;
        file.flush()?;
        Ok(Pcap(file))
    }
}

impl Sink for Pcap {
    fn event(&mut self, event: &Event) -> Result<()> {
        let What::Segment(segment) = &event.what else { return Ok(()) };
        let since = segment.taken_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let kept = &segment.bytes[..segment.bytes.len().min(SNAP_LENGTH as usize)];
        // In 32 bits, as the format has it: it ends in 2106.
        let words = [since.as_secs() as u32, since.subsec_nanos(), kept.len() as u32, segment.bytes.len() as u32];
        words.iter().try_for_each(|word| self.0.write_all(&word.to_ne_bytes()))?;
        self.0.write_all(kept)?;
        self.0.flush().context("write the capture file") // whoever looks meanwhile finds whole packets
    }
}
