//! Errors as the labs print them: call, address, errno by name and number, its text, and one command that helps.

use std::{error::Error, fmt, io};

use nix::errno::Errno;

/// A system call that failed: which one, on what address, and why.
#[derive(Debug)]
pub struct CallError {
    /// The call's name as in its manual page, section 2 or 3.
    pub call: &'static str,
    /// What it was called on: an address, a file, or nothing.
    pub address: String,
    /// The error number; `None` where the C library had words instead (name resolution).
    pub errno: Option<Errno>,
    text: String,
}

/// Names the call and the address of a failure: `sock.bind(&addr.into()).at("bind", addr)?`.
pub trait At<T> {
    /// Turns the call's error into a [`CallError`].
    ///
    /// # Errors
    /// The error of the call, if it failed.
    fn at(self, call: &'static str, address: impl fmt::Display) -> Result<T, CallError>;
}

impl<T, E: Error + 'static> At<T> for Result<T, E> {
    fn at(self, call: &'static str, address: impl fmt::Display) -> Result<T, CallError> {
        self.map_err(|error| {
            let (address, text) = (address.to_string(), error.to_string());
            CallError { call, address, errno: errno(&error), text }
        })
    }
}

impl Error for CallError {}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gap = if self.address.is_empty() { "" } else { " " };
        write!(f, "{}{gap}{}: ", self.call, self.address)?;
        match self.errno {
            Some(errno) => write!(f, "{errno:?} ({}) {}", errno as i32, text(errno)),
            None => f.write_str(&self.text),
        }
    }
}

impl CallError {
    /// One command that shows the cause or mends it.
    pub fn hint(&self) -> Option<String> {
        use Errno::*;
        let (host, port) = self.address.rsplit_once(':').unwrap_or((&self.address, ""));
        let host = host.trim_matches(['[', ']']);
        Some(match (self.call, self.errno) {
            (_, Some(EADDRINUSE)) => format!("see what has the port, TIME-WAIT too: scripts/states.sh {port}"),
            ("bind", Some(EACCES)) => "see the limit: cat /proc/sys/net/ipv4/ip_unprivileged_port_start".into(),
            (_, Some(EADDRNOTAVAIL | EAFNOSUPPORT)) if host.contains(':') || host.starts_with("AF_INET6") => {
                "see whether this machine has IPv6, and which addresses: ip -6 addr".into()
            }
            ("connect", Some(EADDRNOTAVAIL)) => format!("see what uses the ports up: ss -tan dport = :{port}"),
            (_, Some(EADDRNOTAVAIL | ENODEV)) => "see the addresses of this machine: ip addr".into(),
            ("connect", Some(ECONNREFUSED)) => format!("start the server; see who listens: scripts/states.sh {port}"),
            ("connect", Some(ETIMEDOUT | EHOSTUNREACH | ENETUNREACH)) => format!("see the way: ip route get {host}"),
            (_, Some(EMFILE)) => "allow more descriptors: ulimit -n 4096".into(),
            ("getaddrinfo", None) => format!("see what the resolver says: getent hosts {host}"),
            _ => return None,
        })
    }
}

/// Its errno, if the kernel gave one.
fn errno(error: &(dyn Error + 'static)) -> Option<Errno> {
    let number = || error.downcast_ref::<io::Error>()?.raw_os_error();
    error.downcast_ref().copied().or_else(|| number().map(Errno::from_raw))
}

/// A result as strace prints it: `0`, `12`, or `-1 EPIPE (Broken pipe)`.
pub fn returned<T: fmt::Debug, E: Error + 'static>(result: &Result<T, E>) -> String {
    match result {
        Ok(value) => format!("{value:?}").replace("()", "0"),
        Err(error) => match errno(error) {
            Some(errno) => format!("-1 {errno:?} ({})", text(errno)),
            None => format!("-1 {error}"),
        },
    }
}

/// The C library's words for it, as strace and perror have them; nix has its own for some.
fn text(errno: Errno) -> String {
    io::Error::from(errno).to_string().split(" (os error").next().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ipv6_the_hint_is_about_ipv6_and_not_about_ports() {
        let hint = |call, errno: Errno, addr| Err::<(), _>(errno).at(call, addr).unwrap_err().hint().unwrap();
        for (call, errno, addr) in [
            ("connect", Errno::EADDRNOTAVAIL, "[::1]:7777"),
            ("bind", Errno::EADDRNOTAVAIL, "[::1]:7777"),
            ("socket", Errno::EAFNOSUPPORT, "[::1]:7777"),
            ("socket", Errno::EAFNOSUPPORT, "AF_INET6 SOCK_DGRAM"),
        ] {
            assert!(hint(call, errno, addr).ends_with("ip -6 addr"), "{call} {addr}");
        }
        assert!(hint("connect", Errno::EADDRNOTAVAIL, "127.0.0.1:7777").contains("ports"));
        assert!(hint("bind", Errno::EADDRNOTAVAIL, "192.0.2.1:7777").contains("ip addr"));
    }
}
