//! How a service keeps its name: it registers, registers again before the time is over, and unregisters at its end.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Error, Result, ensure};
use dxr::Value;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shared::{Screen, Stop};

use crate::{
    proxy::{Failure, Proxy},
    service::{integer, text},
};

/// How long the name server may take for an answer.
const LIMIT: Duration = Duration::from_secs(2);

/// Registers, or says why not.
pub fn first(names: SocketAddr, name: &str, addr: SocketAddr) -> Result<()> {
    ensure!(!addr.ip().is_unspecified(), "nobody can be told to call {}: listen on one address with --name", addr.ip());
    let lease = register(names, name, addr).with_context(|| format!("register {name} at the name server {names}"))?;
    Screen::new().line(format_args!("Registered as {name} at {names}, for {} s", lease.as_secs()));
    Ok(())
}

/// Registers again and again until Ctrl-C.
pub fn renew(names: SocketAddr, name: &str, addr: SocketAddr, stop: &Stop) {
    let (mut lease, mut told) = (Duration::from_secs(1), false);
    loop {
        let next = PollTimeout::try_from(lease / 3).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(stop.as_fd(), PollFlags::POLLIN)], next); // EINTR: only earlier
        if stop.requested() {
            break;
        }
        match register(names, name, addr) {
            Ok(next) => {
                lease = next.max(Duration::from_millis(300));
                if std::mem::take(&mut told) {
                    Screen::new().line(format_args!("Registered as {name} again"));
                }
            }
            Err(error) if !told => {
                Screen::new().line(format_args!("not registered, trying again: {error:#}"));
                told = true;
            }
            Err(_) => {}
        }
    }
    let _ = Proxy::new(names, Some(LIMIT)).call("unregister", service(name, addr)); // else the name server forgets us
}

/// Where the service with this name is.
pub fn lookup(names: &Proxy, name: &str) -> Result<SocketAddr, Failure> {
    let place = names.call("lookup", vec![Value::String(name.into())])?;
    let Value::Array(place) = place else { return Err(Failure::Malformed(Error::msg("no address"))) };
    let addr = text(&place, 0).ok().and_then(|ip| ip.parse::<IpAddr>().ok());
    let port = integer(&place, 1).ok().and_then(|port| u16::try_from(port).ok());
    addr.zip(port).map(SocketAddr::from).ok_or_else(|| Failure::Malformed(Error::msg("no address")))
}

fn register(names: SocketAddr, name: &str, addr: SocketAddr) -> Result<Duration> {
    let lease = Proxy::new(names, Some(LIMIT)).call("register", service(name, addr)).map_err(Failure::into_error)?;
    let seconds = integer(&[lease], 0).ok().and_then(|seconds| u64::try_from(seconds).ok());
    seconds.map(Duration::from_secs).context("the name server's answer is no number of seconds")
}

fn service(name: &str, addr: SocketAddr) -> Vec<Value> {
    vec![Value::String(name.into()), Value::String(addr.ip().to_string()), Value::Integer(addr.port().into())]
}
