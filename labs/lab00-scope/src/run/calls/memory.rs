//! The memory of a thread that is stopped, read with process_vm_readv(2).

use std::io::IoSliceMut;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

/// The memory of one thread.
pub struct Memory {
    /// Its number.
    pub thread: i32,
}

impl Memory {
    /// As many of `length` bytes at `address` as can be read.
    pub fn up_to(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let remote = [RemoteIoVec { base: address as usize, len: length }];
        let read = process_vm_readv(Pid::from_raw(self.thread), &mut [IoSliceMut::new(&mut bytes)], &remote);
        bytes.truncate(read.unwrap_or(0));
        bytes
    }

    /// All `length` bytes at `address`; `None` where they cannot be read.
    pub fn bytes(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        if address == 0 || length > 1 << 20 {
            return None;
        }
        Some(self.up_to(address, length)).filter(|bytes| bytes.len() == length)
    }

    /// A number of 1, 2, 4 or 8 bytes at `address`.
    pub fn number(&self, address: u64, length: usize) -> Option<u64> {
        self.bytes(address, length).map(|bytes| number(&bytes))
    }
}

/// A number in this machine's byte order.
pub fn number(bytes: &[u8]) -> u64 {
    let mut whole = [0; 8];
    let length = bytes.len().min(8);
    if cfg!(target_endian = "big") {
        whole[8 - length..].copy_from_slice(&bytes[..length]);
    } else {
        whole[..length].copy_from_slice(&bytes[..length]);
    }
    u64::from_ne_bytes(whole)
}

/// Bytes as strace writes them, at most 32 of them: `"GET / HTTP/1.1\r\n"...`.
pub fn quoted(bytes: &[u8], length: usize) -> String {
    const MOST: usize = 32;
    let shown = &bytes[..bytes.len().min(MOST)];
    let mut text = String::from("\"");
    for (at, byte) in shown.iter().enumerate() {
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            0x0b => text.push_str("\\v"),
            0x0c => text.push_str("\\f"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => {
                let digit_follows = shown.get(at + 1).is_some_and(|next| next.is_ascii_digit());
                text.push_str(&if digit_follows { format!("\\{byte:03o}") } else { format!("\\{byte:o}") });
            }
        }
    }
    text.push('"');
    if length > shown.len() {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_strace_does() {
        assert_eq!(quoted(b"GET / \"x\"\r\n\0", 12), r#""GET / \"x\"\r\n\0""#);
        assert_eq!(quoted(b"\x001\xff\x1b[", 5), r#""\0001\377\33[""#);
        assert_eq!(quoted(&[b'a'; 40], 40), format!("\"{}\"...", "a".repeat(32)));
    }

    #[test]
    fn own_memory_is_read_and_a_wild_pointer_is_not() {
        let word = 0x1234_5678_u32;
        let memory = Memory { thread: std::process::id().cast_signed() };
        assert_eq!(memory.number(&raw const word as u64, 4), Some(0x1234_5678));
        assert_eq!((memory.bytes(1, 4), memory.bytes(0, 4)), (None, None));
    }
}
