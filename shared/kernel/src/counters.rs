//! The kernel's own counters, read before and after: what it did that no call returns.
//!
//! They count for a whole network namespace. On an ordinary machine other programs count too.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};

/// See netstat(8) `-s`; nstat(8) shows the same with these names.
const FILES: [&str; 2] = ["/proc/net/netstat", "/proc/net/snmp"];

/// All counters at one moment, such as `ListenOverflows`, `TCPSynRetrans`, or `OutRsts`; UDP's carry their protocol in
/// front, as nstat writes them: `UdpRcvbufErrors`.
#[derive(Clone, Debug)]
pub struct Counters(HashMap<String, i64>);

impl Counters {
    /// Reads them all.
    ///
    /// # Errors
    /// /proc is not there.
    pub fn read() -> Result<Counters> {
        let mut counters = HashMap::new();
        for file in FILES {
            let table = fs::read_to_string(file).with_context(|| format!("open {file}"))?;
            let mut lines = table.lines();
            while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
                let protocol = names.split(':').next().unwrap_or_default();
                for (name, value) in names.split_whitespace().zip(values.split_whitespace()).skip(1) {
                    let prefix = if ["TcpExt", "Tcp"].contains(&protocol) { "" } else { protocol };
                    counters.insert(format!("{prefix}{name}"), value.parse().unwrap_or_default());
                }
            }
        }
        Ok(Counters(counters))
    }

    /// By how much this counter has risen since.
    ///
    /// # Errors
    /// No counter has this name; /proc is not there.
    pub fn risen(&self, name: &str) -> Result<i64> {
        let value = |counters: &Counters| counters.0.get(name).copied().with_context(|| format!("no counter {name}"));
        Ok(value(&Counters::read()?)? - value(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_nobody_wants_is_counted() {
        let before = Counters::read().unwrap();
        let sock = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let gone = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        sock.send_to(b"x", gone).unwrap();
        assert!(before.risen("UdpNoPorts").unwrap() >= 1);
        assert!(before.risen("ListenOverflows").unwrap() >= 0);
        assert!(before.risen("NoSuchCounter").is_err());
    }
}
